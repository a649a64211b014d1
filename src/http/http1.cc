#include "http1.h"

#include <array>
#include <limits>

#include "base/strings.h"

namespace dhow::http::internal {

namespace {

constexpr auto kToken = [] {
  std::array<bool, 256> out{};
  for (int c = '0'; c <= '9'; ++c) out[c] = true;
  for (int c = 'a'; c <= 'z'; ++c) out[c] = true;
  for (int c = 'A'; c <= 'Z'; ++c) out[c] = true;
  for (unsigned char c : std::string_view("!#$%&'*+-.^_`|~")) out[c] = true;
  return out;
}();

bool isToken(std::string_view text) {
  if (text.empty()) return false;
  for (unsigned char c : text) {
    if (!kToken[c]) return false;
  }
  return true;
}

bool isFieldValue(std::string_view text) {
  for (unsigned char c : text) {
    if ((c < 0x20 && c != '\t') || c == 0x7f) return false;
  }
  return true;
}

bool isTarget(std::string_view text) {
  if (text.empty()) return false;
  for (unsigned char c : text) {
    if (c <= 0x20 || c == 0x7f) return false;
  }
  return true;
}

Error bad(std::string_view what) {
  return Error(Code::kBadRequest, fmt::format("malformed HTTP message: {}", what));
}

// Cuts the first line off `text`; lines end in CR LF, and the last may end with the text.
Result<std::string_view> takeLine(std::string_view& text) {
  size_t end = text.find('\n');
  std::string_view line = text.substr(0, end);
  if (end == std::string_view::npos) {
    text = {};
    return line;
  }
  text.remove_prefix(end + 1);
  if (line.empty() || line.back() != '\r') return bad("a line ends without carriage return");
  line.remove_suffix(1);
  return line;
}

std::string_view trimBlanks(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

Result<> parseFields(std::string_view text, Headers& out) {
  while (!text.empty()) {
    ASSIGN_OR_RETURN(std::string_view line, takeLine(text));
    size_t colon = line.find(':');
    if (colon == std::string_view::npos) return bad("a header line has no colon");
    std::string_view name = line.substr(0, colon);
    std::string_view value = trimBlanks(line.substr(colon + 1));
    if (!isToken(name)) return bad("bad header name");
    if (!isFieldValue(value)) return bad("bad header value");
    if (out.all().size() >= kMaxFields) return Error(Code::kTooLarge, "too many header fields");
    out.add(name, value);
  }
  return {};
}

Result<bool> parseVersion(std::string_view text) {
  if (text == "HTTP/1.1") return false;
  if (text == "HTTP/1.0") return true;
  if (text.starts_with("HTTP/")) return Error(Code::kUnimplemented, "HTTP version is not supported");
  return bad("bad protocol version");
}

std::optional<uint64_t> parseDigits(std::string_view text) {
  if (text.empty() || text.size() > 18) return std::nullopt;
  uint64_t out = 0;
  for (char c : text) {
    if (c < '0' || c > '9') return std::nullopt;
    out = out * 10 + static_cast<uint64_t>(c - '0');
  }
  return out;
}

std::optional<uint64_t> parseHex(std::string_view text) {
  if (text.empty() || text.size() > 15) return std::nullopt;
  uint64_t out = 0;
  for (char c : text) {
    int digit = c >= '0' && c <= '9'   ? c - '0'
                : c >= 'a' && c <= 'f' ? c - 'a' + 10
                : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                       : -1;
    if (digit < 0) return std::nullopt;
    out = out * 16 + static_cast<uint64_t>(digit);
  }
  return out;
}

// What Transfer-Encoding and Content-Length say; nothing when there is neither.
Result<std::optional<Framing>> statedFraming(const Headers& headers) {
  std::optional<uint64_t> length;
  bool chunked = false;
  for (const auto& [name, value] : headers.all()) {
    if (equalsIgnoreCase(name, "content-length")) {
      auto n = parseDigits(value);
      if (!n || (length && *length != *n)) return bad("bad Content-Length");
      length = n;
    } else if (equalsIgnoreCase(name, "transfer-encoding")) {
      if (chunked || !equalsIgnoreCase(value, "chunked")) {
        return Error(Code::kUnimplemented, "transfer encoding is not supported");
      }
      chunked = true;
    }
  }
  if (chunked && length) return bad("both Content-Length and Transfer-Encoding");
  if (chunked) return std::optional(Framing{Framing::kChunked});
  if (length) return std::optional(Framing{*length == 0 ? Framing::kNone : Framing::kLength, *length});
  return std::optional<Framing>();
}

}  // namespace

Result<RequestHead> parseRequestHead(std::string_view head) {
  RequestHead out;
  ASSIGN_OR_RETURN(std::string_view line, takeLine(head));
  size_t first = line.find(' ');
  size_t last = line.rfind(' ');
  if (first == std::string_view::npos || first == last) return bad("bad request line");
  std::string_view method = line.substr(0, first);
  std::string_view target = line.substr(first + 1, last - first - 1);
  if (!isToken(method) || method.size() > 32) return bad("bad method");
  if (!isTarget(target)) return bad("bad request target");
  ASSIGN_OR_RETURN(out.http10, parseVersion(line.substr(last + 1)));
  out.method = method;
  // The absolute form, as it is sent to proxies.
  if (target.starts_with("http://") || target.starts_with("https://")) {
    size_t path = target.find('/', target.find("//") + 2);
    target = path == std::string_view::npos ? std::string_view("/") : target.substr(path);
  }
  if (target.front() != '/' && target != "*" && method != "CONNECT") return bad("bad request target");
  out.target = target;
  RETURN_IF_ERROR(parseFields(head, out.headers));
  size_t hosts = 0;
  for (const auto& [name, value] : out.headers.all()) hosts += equalsIgnoreCase(name, "host");
  if (hosts > 1 || (hosts == 0 && !out.http10)) return bad("there must be one Host header");
  return out;
}

Result<ResponseHead> parseResponseHead(std::string_view head) {
  ResponseHead out;
  ASSIGN_OR_RETURN(std::string_view line, takeLine(head));
  if (line.size() < 12 || line[8] != ' ') return bad("bad status line");
  ASSIGN_OR_RETURN(out.http10, parseVersion(line.substr(0, 8)));
  auto status = parseDigits(line.substr(9, 3));
  if (!status || *status < 100 || (line.size() > 12 && line[12] != ' ')) return bad("bad status line");
  out.status = static_cast<int>(*status);
  RETURN_IF_ERROR(parseFields(head, out.headers));
  return out;
}

Result<Framing> requestFraming(const RequestHead& head) {
  ASSIGN_OR_RETURN(auto stated, statedFraming(head.headers));
  if (stated && stated->kind == Framing::kChunked && head.http10) return bad("chunked body in HTTP/1.0");
  return stated.value_or(Framing{});
}

Result<Framing> responseFraming(std::string_view method, const ResponseHead& head) {
  if (method == "HEAD" || head.status < 200 || head.status == 204 || head.status == 304) return Framing{};
  ASSIGN_OR_RETURN(auto stated, statedFraming(head.headers));
  return stated.value_or(Framing{Framing::kUntilClose});
}

Task<Result<std::optional<RawHead>>> readHead(Input& input) {
  size_t searched = 0;
  while (true) {
    // Empty lines before a message are skipped (RFC 9112, 2.2).
    while (searched == 0 && input.data().starts_with("\r\n")) input.consume(2);
    std::string_view data = input.data();
    // A TLS handshake on a plain port is answered at once: its client would wait for its own time-out.
    if (!data.empty() && data[0] == '\x16') co_return bad("it is not HTTP");
    size_t end = data.find("\r\n\r\n", searched > 3 ? searched - 3 : 0);
    if (end <= kMaxHead) {  // npos is greater
      co_return std::optional(RawHead{data.substr(0, end), end + 4});
    }
    if (data.size() > kMaxHead) co_return Error(Code::kTooLarge, "the message's head is too large");
    searched = data.size() <= 2 ? 0 : data.size();
    auto more = co_await input.fill();
    if (!more.ok()) co_return std::move(more).error();
    if (!*more) {
      if (input.data().empty()) co_return std::optional<RawHead>();
      co_return bad("it ends inside its head");
    }
  }
}

void appendField(std::string& out, std::string_view name, std::string_view value) {
  size_t start = out.size();
  out += name;
  out += ": ";
  out += value;
  for (size_t i = start; i < out.size(); ++i) {
    if (out[i] == '\r' || out[i] == '\n' || out[i] == '\0') out[i] = ' ';
  }
  out += "\r\n";
}

Http1Body::Http1Body(std::shared_ptr<Input> input, Framing framing) : input_(std::move(input)), framing_(framing) {
  left_ = framing.length;
  done_ = framing.kind == Framing::kNone;
}

Result<size_t> Http1Body::fail(Error error) {
  failed_ = error;
  return error;
}

Task<Result<size_t>> Http1Body::read(std::span<char> into) {
  if (done_ || into.empty()) co_return size_t{0};
  if (failed_) co_return *failed_;
  if (framing_.kind == Framing::kChunked) {
    auto n = co_await readChunked(into);
    if (!n.ok()) co_return fail(std::move(n).error());
    co_return n;
  }
  if (framing_.kind == Framing::kLength && into.size() > left_) into = into.first(left_);
  auto n = co_await input_->read(into);
  if (!n.ok()) co_return fail(std::move(n).error());
  if (framing_.kind == Framing::kUntilClose) {
    done_ = *n == 0;
    co_return n;
  }
  if (*n == 0) co_return fail(Error(Code::kUnavailable, "the connection ended inside a body"));
  left_ -= *n;
  done_ = left_ == 0;
  co_return n;
}

// One line of the chunked coding, without its end.
Task<Result<std::string>> Http1Body::readLine(size_t limit) {
  while (true) {
    std::string_view data = input_->data();
    size_t end = data.find("\r\n");
    if (end != std::string_view::npos && end <= limit) {
      std::string line(data.substr(0, end));
      input_->consume(end + 2);
      co_return line;
    }
    if (data.size() > limit) co_return bad("a chunk's line is too long");
    auto more = co_await input_->fill();
    if (!more.ok()) co_return std::move(more).error();
    if (!*more) co_return Error(Code::kUnavailable, "the connection ended inside a body");
  }
}

Task<Result<size_t>> Http1Body::readChunked(std::span<char> into) {
  if (left_ == 0) {
    if (insideChunk_) {
      auto end = co_await readLine(0);
      if (!end.ok()) co_return std::move(end).error();
      insideChunk_ = false;
    }
    auto line = co_await readLine(1024);
    if (!line.ok()) co_return std::move(line).error();
    if (!isFieldValue(*line)) co_return bad("bad chunk extension");
    auto size = parseHex(trimBlanks(std::string_view(*line).substr(0, line->find(';'))));
    if (!size) co_return bad("bad chunk size");
    if (*size == 0) {
      // Trailers are read over.
      for (size_t fields = 0;; ++fields) {
        if (fields > kMaxFields) co_return bad("too many trailers");
        auto trailer = co_await readLine(8192);
        if (!trailer.ok()) co_return std::move(trailer).error();
        if (trailer->empty()) break;
      }
      done_ = true;
      co_return size_t{0};
    }
    left_ = *size;
    insideChunk_ = true;
  }
  if (into.size() > left_) into = into.first(left_);
  auto n = co_await input_->read(into);
  if (!n.ok()) co_return std::move(n).error();
  if (*n == 0) co_return Error(Code::kUnavailable, "the connection ended inside a body");
  left_ -= *n;
  co_return n;
}

}  // namespace dhow::http::internal
