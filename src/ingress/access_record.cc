#include "access_record.h"

#include <algorithm>
#include <array>

#include "base/strings.h"
#include "base/time.h"
#include "text.h"

namespace dhow::ingress {

namespace {

// Fields without blanks, of which HAProxy makes "-" when there is nothing; then captured headers and the request line,
// where it writes '#' and two digits for what is not plain.
constexpr std::string_view kStart = "R ";
constexpr std::string_view kFormat =
    "%Ts %ms %ci %ST %U %B %Ta %Tw %Tc %Tr %b %si:%sp %ID %sslv %ts %[fc_http_major] %[var(txn.to),field(2,@)] "
    "%[var(txn.filter.rules)]";
enum Field : size_t {
  kSeconds,
  kMilliseconds,
  kClient,
  kStatus,
  kBytesIn,
  kBytesOut,
  kDuration,
  kQueue,
  kConnect,
  kResponse,
  kBackend,
  kServer,
  kId,
  kTls,
  kEnd,
  kMajor,
  kRoute,
  kRules,
  kOwner,
  kFields,
};
struct Captured {
  std::string_view name;
  size_t most;
};
constexpr Captured kCaptured[] = {{"Host", 256}, {"User-Agent", 512}, {"Referer", 512}, {"X-Request-ID", 128}};
constexpr size_t kLongestUri = 1024, kLongestMethod = 32;

int digitOf(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

// HAProxy's '#XX', taken back.
std::string decoded(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    const int high = i + 2 < text.size() && text[i] == '#' ? digitOf(text[i + 1]) : -1;
    const int low = high >= 0 ? digitOf(text[i + 2]) : -1;
    if (low < 0) {
      out += text[i];
    } else {
      out += static_cast<char>(high * 16 + low);
      i += 2;
    }
  }
  return out;
}

// How long the character at the start of `text` is in UTF-8 (RFC 3629); 0: none begins so.
size_t characterLength(std::string_view text) {
  const auto at = [&](size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0U; };
  const unsigned first = at(0);
  if (first < 0x80) return 1;
  const size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4) return 0;
  for (size_t i = 1; i < length; ++i)
    if ((at(i) & 0xc0U) != 0x80) return 0;
  const bool wrong = (first == 0xe0 && at(1) < 0xa0) || (first == 0xed && at(1) > 0x9f) ||
                     (first == 0xf0 && at(1) < 0x90) || (first == 0xf4 && at(1) > 0x8f);
  return wrong ? 0 : length;
}

// What is no character is left out.
void addText(std::string& out, std::string_view key, std::string_view value) {
  fmt::format_to(std::back_inserter(out), ",\"{}\":\"", key);
  while (!value.empty()) {
    const size_t length = characterLength(value);
    const char c = value[0];
    if (c == '"' || c == '\\')
      (out += '\\') += c;
    else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f)
      fmt::format_to(std::back_inserter(out), "\\u{:04x}", static_cast<unsigned>(c));
    else
      out += value.substr(0, length);
    value.remove_prefix(std::max<size_t>(length, 1));
  }
  out += '"';
}

bool isNumber(std::string_view text) {
  return parseInt(text).has_value();
}

}  // namespace

std::vector<std::string> recordLines(std::string_view owner) {
  std::vector<std::string> out = {"unique-id-format %[uuid]"};
  for (const Captured& header : kCaptured)
    out.push_back(fmt::format("capture request header {} len {}", header.name, header.most));
  out.push_back(fmt::format("log-format '{}{} {} %hr %r'", kStart, kFormat, owner.empty() ? "-" : owner));
  return out;
}

std::optional<std::string> recordOf(std::string_view line) {
  if (!line.starts_with(kStart)) return std::nullopt;
  line.remove_prefix(kStart.size());
  std::array<std::string_view, kFields> fields;
  for (std::string_view& field : fields) {
    const size_t end = line.find(' ');
    if (end == std::string_view::npos) return std::nullopt;
    field = line.substr(0, end);
    line.remove_prefix(end + 1);
  }
  for (Field number : {kSeconds, kMilliseconds, kStatus, kBytesIn, kBytesOut, kDuration, kQueue, kConnect, kResponse})
    if (!isNumber(fields[number])) return std::nullopt;
  // "{a.test|curl/7.88.1||} ": in what is captured these are written as '#XX'. Of what was no request there are none.
  std::vector<std::string> headers(std::size(kCaptured));
  if (line.starts_with('{')) {
    const size_t end = line.find("} ");
    if (end == std::string_view::npos) return std::nullopt;
    headers = split(line.substr(1, end - 1), '|');
    line.remove_prefix(end + 2);
  } else if (line != "<BADREQ>") {
    return std::nullopt;
  }
  if (headers.size() != std::size(kCaptured)) return std::nullopt;
  for (std::string& header : headers) header = header.empty() ? "-" : decoded(header);
  const auto& [host, agent, referer, ownId] = std::tie(headers[0], headers[1], headers[2], headers[3]);
  // "GET /cart?item=tea HTTP/1.1", cut where it is long; "<BADREQ>".
  const std::string request = decoded(line);
  const size_t afterMethod = request.find(' ');
  std::string_view method, uri, version;
  if (afterMethod != std::string::npos) {
    method = std::string_view(request).substr(0, std::min(afterMethod, kLongestMethod));
    uri = std::string_view(request).substr(afterMethod + 1);
    if (const size_t last = uri.rfind(" HTTP/"); last != std::string_view::npos) {
      version = uri.substr(last + 1);
      uri = uri.substr(0, last);
    }
    // HTTP/2 and proxies ask for "https://host/path".
    if (const size_t scheme = uri.find("://"); !uri.starts_with('/') && scheme != std::string_view::npos)
      uri.remove_prefix(std::min(uri.find('/', scheme + 3), uri.size()));
    uri = uri.substr(0, kLongestUri);
  }
  std::string name(host.substr(0, host.starts_with('[') ? host.find(']') + 1 : host.find(':')));
  std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return std::tolower(c); });
  const std::vector<std::string> backend = split(fields[kBackend], '_');  // "b_<namespace>_<service>_..."
  const WallTime time{
      std::chrono::duration_cast<WallTime::duration>(std::chrono::seconds(parseInt(fields[kSeconds]).value_or(0)))};
  std::string out = fmt::format("{{\"time\":\"{}.{:0>3}Z\"", formatTime(time).substr(0, 19), fields[kMilliseconds]);
  auto number = [&](std::string_view key, Field field) {
    fmt::format_to(std::back_inserter(out), ",\"{}\":{}", key, *parseInt(fields[field]));
  };
  addText(out, "client", fields[kClient]);
  addText(out, "method", method);
  addText(out, "host", name);
  addText(out, "path", uri);
  addText(out, "protocol", version.empty() ? fields[kMajor] == "1" ? "HTTP/1.1" : "HTTP/2.0" : version);
  number("status", kStatus);
  number("bytes_in", kBytesIn);
  number("bytes_out", kBytesOut);
  number("duration_ms", kDuration);
  number("queue_ms", kQueue);
  number("connect_ms", kConnect);
  number("response_ms", kResponse);
  if (fields[kOwner] != "-") addText(out, "gateway", fields[kOwner]);
  addText(out, "route", fields[kRoute]);
  addText(out, "namespace", backend.size() > 2 ? std::string_view(backend[1]) : "-");
  addText(out, "service", backend.size() > 2 ? std::string_view(backend[2]) : "-");
  const auto server = readEndpoint(fields[kServer]);
  addText(out, "server", server ? endpointText(server->address, server->port) : std::string(fields[kServer]));
  addText(out, "request_id", ownId == "-" ? fields[kId] : std::string_view(ownId));
  addText(out, "tls", fields[kTls]);
  addText(out, "user_agent", agent);
  addText(out, "referer", referer);
  addText(out, "waf", fields[kRules]);
  addText(out, "end", fields[kEnd]);
  out += '}';
  return out;
}

}  // namespace dhow::ingress
