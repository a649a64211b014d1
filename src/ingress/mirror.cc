#include "mirror.h"

#include <algorithm>

#include "base/log.h"
#include "base/strings.h"
#include "http/stream.h"
#include "text.h"

namespace dhow::ingress {

namespace {

constexpr size_t kMostUnderWay = 256;
constexpr Duration kConnectPatience = std::chrono::seconds(2);
constexpr Duration kPatience = std::chrono::seconds(10);

bool plain(std::string_view text) {
  return std::none_of(text.begin(), text.end(), [](unsigned char c) { return c < 0x20 && c != '\t'; });
}

// Of a connection, not of a request.
bool hopByHop(std::string_view name) {
  for (std::string_view one : {"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding",
                               "upgrade", "content-length", "expect"})
    if (name == one) return true;
  return false;
}

Error noCopy(std::string_view why) {
  return Error(Code::kInvalid, "a request has no copy: " + std::string(why));
}

}  // namespace

Result<MirrorCopy> copyOf(const MirrorRequest& request) {
  MirrorCopy out;
  std::string_view target = request.target;
  const bool withUri = target.ends_with('*');
  if (withUri) target.remove_suffix(1);
  const size_t slash = std::min(target.find('/'), target.size());
  const auto endpoint = readEndpoint(target.substr(0, slash));
  if (!endpoint) return noCopy("its target is no address");
  out.address = endpoint->address;
  out.port = endpoint->port;
  std::string path(target.substr(slash));
  if (withUri) path += request.uri;
  if (path.empty()) path = "/";
  if (!plain(request.method) || !plain(path) || path.find(' ') != std::string::npos) return noCopy("it is no request");
  out.bytes = fmt::format("{} {} HTTP/1.1\r\n", request.method, path);
  std::string_view host = request.host;
  std::optional<uint64_t> length;
  bool upgrade = false;
  for (const auto& [name, value] : request.headers) {
    const std::string lower = toLower(name);
    if (!plain(lower) || !plain(value)) return noCopy("a header has control characters");
    if (lower == "host") {
      if (host.empty()) host = value;
      continue;
    }
    if (lower == "content-length") length = parseUint(value);
    upgrade = upgrade || lower == "upgrade";
    if (!hopByHop(lower)) out.bytes += fmt::format("{}: {}\r\n", name, value);
  }
  if (upgrade) return noCopy("it becomes another protocol");
  const bool bodiless =
      request.method == "GET" || request.method == "HEAD" || request.method == "OPTIONS" || request.method == "DELETE";
  if (length.value_or(0) != request.body.size() || (!length && !bodiless))
    return noCopy("its body is not there as a whole");
  if (!plain(host)) return noCopy("its host has control characters");
  out.bytes += fmt::format("Host: {}\r\nConnection: close\r\n", host);
  if (length) out.bytes += fmt::format("Content-Length: {}\r\n", *length);
  out.bytes += "\r\n";
  out.bytes += request.body;
  return out;
}

void Mirrors::send(MirrorCopy copy) {
  if (underWay_ >= kMostUnderWay) return;
  ++underWay_;
  ++sent_;
  gate_.spawn(run(this, std::move(copy)));
}

Task<> Mirrors::run(Mirrors* self, MirrorCopy copy) {
  auto stream = co_await http::connectTcp(self->loop_, copy.address, copy.port, kConnectPatience);
  if (stream.ok()) {
    http::Stream* open = stream->get();
    Timer end = self->loop_.after(kPatience, [open] { open->close(); });
    auto written = co_await open->write(copy.bytes);
    char answer[4096];
    while (written.ok()) {
      auto count = co_await open->read(answer);
      if (!count.ok() || *count == 0) break;
    }
    end.cancel();
    open->close();
  } else {
    log::debug("ingress", "a copy of a request: {}", stream.error().message());
  }
  --self->underWay_;
}

Task<> Mirrors::stop() {
  co_await gate_.close();
}

}  // namespace dhow::ingress
