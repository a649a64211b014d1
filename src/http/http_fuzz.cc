// libFuzzer entry for the parsers that see a peer's bytes. The first byte chooses one.
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "http/client.h"
#include "http/server.h"
#include "http/spdy.h"
#include "http/websocket.h"
#include "http1.h"
#include "spdy_frame.h"
#include "websocket_frame.h"

namespace dhow::http::internal {
namespace {

// Gives the bytes in small pieces, then the end.
class Pieces final : public Stream {
 public:
  explicit Pieces(std::string bytes) : held_(std::move(bytes)), bytes_(held_) {}
  Task<Result<size_t>> read(std::span<char> into) override {
    size_t n = std::min({into.size(), bytes_.size(), size_t{37}});
    bytes_.copy(into.data(), n);
    bytes_.remove_prefix(n);
    co_return n;
  }
  Task<Result<>> write(std::string_view) override { co_return Result<>(); }
  Task<> shutdownWrite() override { co_return; }
  void close() override { bytes_ = {}; }

 private:
  const std::string held_;
  std::string_view bytes_;
};

Task<> readMessages(Loop& loop, std::string_view bytes) {
  auto input = std::make_shared<Input>(loop, std::make_unique<Pieces>(std::string(bytes)));
  while (true) {
    auto raw = co_await readHead(*input);
    if (!raw.ok() || !*raw) co_return;
    auto head = parseRequestHead((*raw)->text);
    input->consume((*raw)->size);
    if (!head.ok()) co_return;
    auto framing = requestFraming(*head);
    if (!framing.ok()) co_return;
    Http1Body body(input, *framing);
    char buffer[64];
    while (!body.done()) {
      auto n = co_await body.read(buffer);
      if (!n.ok()) co_return;
    }
  }
}

Task<> readWebSocket(Request& request, ResponseWriter& writer) {
  auto socket = co_await acceptWebSocket(request, writer, {"v5.channel.k8s.io", "a"}, 4096);
  if (!socket.ok()) co_return;
  while (true) {
    auto message = co_await (*socket)->read();
    if (!message.ok()) co_return;
    auto written = co_await (*socket)->write(message->bytes, message->binary);
    if (!written.ok()) co_return;
  }
}

Task<> readSpdy(Loop& loop, ResponseWriter& writer) {
  auto stream = co_await writer.hijack(101, {});
  if (!stream.ok()) co_return;
  auto session = serveSpdy(loop, std::move(*stream));
  std::vector<std::unique_ptr<SpdyStream>> streams;
  while (true) {
    auto opened = co_await session->accept();
    if (!opened.ok()) break;
    streams.push_back(std::move(*opened));
    if (streams.size() > 3) streams.erase(streams.begin());
    auto written = co_await streams.back()->write("hello");
    if (!written.ok()) break;
  }
  char buffer[64];
  for (auto& one : streams) {
    auto n = co_await one->read(buffer);
    if (!n.ok()) continue;
    co_await one->shutdownWrite();
  }
}

Task<> answer(Loop& loop, Request& request, ResponseWriter& writer) {
  if (request.path == "/ws") {
    co_await readWebSocket(request, writer);
  } else if (request.path == "/spdy") {
    co_await readSpdy(loop, writer);
  } else {
    auto body = co_await readAll(*request.body, 4096);
    Response response;
    response.status = body.ok() ? 200 : 400;
    response.body = body.ok() ? std::move(*body) : std::string();
    (void)(co_await writer.send(std::move(response))).ok();
  }
}

constexpr std::string_view kNoSettings("\0\0\0\4\0\0\0\0\0", 9);
constexpr std::string_view kPreface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
constexpr std::string_view kWebSocket =
    "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
constexpr std::string_view kSpdy =
    "POST /spdy HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nContent-Length: 0\r\n\r\n";

// A whole server on one connection. The first byte chooses what stands before the rest.
void serveOne(std::string_view bytes) {
  if (bytes.empty()) return;
  std::string sent;
  switch (bytes[0] & 3) {
    case 0: break;
    case 1: sent.append(kPreface).append(kNoSettings); break;
    case 2: sent = kWebSocket; break;
    default: sent = kSpdy;
  }
  sent += bytes.substr(1);
  SimLoop loop;
  Server server(loop, {}, [&loop](Request& request, ResponseWriter& writer) { return answer(loop, request, writer); });
  runOn(loop, server.serve(std::make_unique<Pieces>(std::move(sent)), {}));
  runOn(loop, server.stop());
  loop.runReady();
}

Task<Result<std::unique_ptr<Stream>>> connected(std::string bytes) {
  co_return std::make_unique<Pieces>(std::move(bytes));
}

Task<> fetchTwice(Client& client) {
  for (const char* method : {"GET", "POST"}) {
    Request request;
    request.method = method;
    if (request.method == "POST") request.body = bodyOf("hello");
    (void)(co_await client.fetch("http://a/b", std::move(request), 4096)).ok();
  }
}

// A client whose server says the bytes, on every connection.
void askOne(std::string_view bytes, bool http2) {
  std::string said(http2 ? kNoSettings : "");
  said += bytes;
  SimLoop loop;
  Client::Options options;
  options.dial = [&said] { return connected(said); };
  options.priorKnowledgeHttp2 = http2;
  Client client(loop, std::move(options));
  runOn(loop, fetchTwice(client));
  client.close();
  loop.runReady();
}

struct Nothing final : SpdyEvents {
  void onSynStream(uint32_t, uint8_t, Headers) override {}
  void onReply(uint32_t, uint8_t, Headers) override {}
  void onData(uint32_t, std::string_view, bool) override {}
  void onRst(uint32_t, uint32_t) override {}
  void onPing(uint32_t) override {}
  void onGoAway() override {}
  void onWindowUpdate(uint32_t, uint32_t) override {}
  void onInitialWindow(uint32_t) override {}
};

void feedSpdy(std::string_view bytes) {
  Nothing events;
  SpdyDecoder decoder(events);
  // In halves: what is taken late must not matter.
  std::string held;
  for (std::string_view piece : {bytes.substr(0, bytes.size() / 2), bytes.substr(bytes.size() / 2)}) {
    held += piece;
    auto taken = decoder.feed(held);
    if (!taken.ok()) return;
    CHECK(*taken <= held.size());
    held.erase(0, *taken);
  }
}

void feedWebSocket(std::string_view bytes) {
  while (true) {
    auto head = parseWsHead(bytes, true);
    if (!head.ok() || !*head) return;
    CHECK((*head)->headSize <= bytes.size());
    bytes.remove_prefix((*head)->headSize);
    if ((*head)->length > bytes.size()) return;
    std::string payload(bytes.substr(0, (*head)->length));
    applyMask(payload.data(), payload.size(), (*head)->mask);
    (void)isUtf8(payload);
    bytes.remove_prefix((*head)->length);
  }
}

}  // namespace
}  // namespace dhow::http::internal

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace dhow::http::internal;
  if (size == 0) return 0;
  std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  switch (data[0] % 7) {
    case 0: {
      dhow::SimLoop loop;
      dhow::runOn(loop, readMessages(loop, bytes));
      break;
    }
    case 1: {
      auto head = parseResponseHead(bytes);
      if (head.ok()) (void)responseFraming("GET", *head);
      (void)dhow::http::Query::parse(bytes);
      break;
    }
    case 2: feedSpdy(bytes); break;
    case 3: feedWebSocket(bytes); break;
    case 4: serveOne(bytes); break;
    default: askOne(bytes, data[0] % 7 == 5);
  }
  return 0;
}
