#include "metrics.h"

#include <charconv>

#include "base/strings.h"
#include "control.h"
#include "text.h"

namespace dhow::ingress {

namespace {

constexpr size_t kLongestMetrics = 64 << 20;

// The value of a label of a line, and where it stands with its name.
struct Label {
  size_t begin = std::string_view::npos, end = 0;
  std::string_view value;
  explicit operator bool() const { return begin != std::string_view::npos; }
};
Label labelOf(std::string_view line, std::string_view name) {
  const std::string mark = fmt::format("{}=\"", name);
  const size_t at = line.find(mark);
  const size_t end = at == std::string_view::npos ? at : line.find('"', at + mark.size());
  if (end == std::string_view::npos) return {};
  return {at, end + 1, line.substr(at + mark.size(), end - at - mark.size())};
}

// Names of services have no underscore, so a section's tells what it is of: b_<namespace>_<service>_<port>_<digest>.
std::string proxyLabels(std::string_view proxy, const Config& config) {
  if (proxy.starts_with("b_") || proxy.starts_with("t_")) {
    const std::vector<std::string> parts = split(proxy, '_');
    if (parts.size() == 5)
      return fmt::format("namespace=\"{}\",service=\"{}\",port=\"{}\",", parts[1], parts[2], parts[3]);
  }
  for (const Frontend& frontend : config.frontends)
    if (!frontend.owner.empty() && proxy == "edge_" + frontend.name)
      return fmt::format("gateway=\"{}\",", frontend.owner.substr(frontend.owner.find('/') + 1));
  return "";
}

}  // namespace

Result<RawMetrics> readMetrics(const std::string& metricsSocket, const std::string& adminSocket) {
  RawMetrics out;
  ASSIGN_OR_RETURN(std::string answer,
                   exchange(metricsSocket, "GET /metrics?no-maint HTTP/1.0\r\n\r\n", kLongestMetrics));
  const size_t head = answer.find("\r\n\r\n");
  if (!answer.starts_with("HTTP/1.") || answer.find(" 200 ") > head || head == std::string::npos)
    return Error(Code::kUnavailable, "HAProxy tells no metrics: " + answer.substr(0, answer.find('\r')));
  // Version 2.6 sends chunks to whoever asks.
  const bool chunked = toLower(std::string_view(answer).substr(0, head)).find("chunked") != std::string::npos;
  std::string_view body = std::string_view(answer).substr(head + 4);
  if (!chunked) out.text = body;
  while (chunked && !body.empty()) {
    const size_t line = std::min(body.find("\r\n"), body.size());
    size_t size = 0;
    const auto read = std::from_chars(body.data(), body.data() + line, size, 16);
    if (read.ec != std::errc() || line + 2 > body.size() || size > body.size() - line - 2)
      return Error(Code::kUnavailable, "HAProxy's metrics are cut off");
    if (size == 0) break;
    out.text += body.substr(line + 2, size);
    body.remove_prefix(std::min(line + 2 + size + 2, body.size()));
  }
  ASSIGN_OR_RETURN(std::string servers, exchange(adminSocket, "show servers conn\n", kLongestMetrics));
  for (const std::string& line : split(servers, '\n')) {
    const std::vector<std::string> words = split(line, ' ');
    if (words.size() > 3 && !line.starts_with('#'))
      out.servers[words[0]] = endpointText(words[2], parseUint(words[3]).value_or(0));
  }
  return out;
}

std::string labelledMetrics(const RawMetrics& raw, const Config& config,
                            const std::function<std::string(const std::string& address)>& podOf) {
  std::string out;
  out.reserve(raw.text.size() * 2);
  std::map<std::string, std::string, std::less<>> known;
  std::string_view rest = raw.text;
  while (!rest.empty()) {
    const size_t end = std::min(rest.find('\n'), rest.size());
    const std::string_view line = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    const Label proxy = line.starts_with('#') ? Label{} : labelOf(line, "proxy");
    if (!proxy) {
      out.append(line).push_back('\n');
      continue;
    }
    if (proxy.value == "metrics") continue;
    auto labels = known.find(proxy.value);
    if (labels == known.end()) labels = known.emplace(std::string(proxy.value), proxyLabels(proxy.value, config)).first;
    out.append(line.substr(0, proxy.begin)).append(labels->second);
    const Label server = labelOf(line, "server");
    auto found = server ? raw.servers.find(fmt::format("{}/{}", proxy.value, server.value)) : raw.servers.end();
    if (found == raw.servers.end()) {
      out.append(line.substr(proxy.begin));
    } else {
      out.append(line.substr(proxy.begin, server.begin - proxy.begin));
      const auto endpoint = readEndpoint(found->second);
      out +=
          fmt::format("server=\"{}\",pod=\"{}\"", found->second, endpoint ? podOf(std::string(endpoint->address)) : "");
      out.append(line.substr(server.end));
    }
    out.push_back('\n');
  }
  return out;
}

}  // namespace dhow::ingress
