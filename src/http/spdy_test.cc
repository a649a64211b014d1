#include "http/spdy.h"

#include "spdy_frame.h"
#include "test_util.h"

namespace dhow::http {
namespace {

using namespace testing;
using namespace internal;

Task<> echoSpdyStream(std::unique_ptr<SpdyStream> stream) {
  auto hello = co_await stream->write(fmt::format("{}:", stream->headers().get("streamType")));
  if (!hello.ok()) co_return;
  if (stream->headers().get("streamType") == "flood") {
    std::string much(1 << 20, 'f');
    auto written = co_await stream->write(much);
    ignore(written);
    co_return;
  }
  co_await echoStream(std::move(stream));
}

Task<> serveSession(Loop& loop, std::unique_ptr<Stream> stream, std::shared_ptr<Gate> gate) {
  auto session = serveSpdy(loop, std::move(stream));
  while (true) {
    auto next = co_await session->accept();
    if (!next.ok()) break;
    gate->spawn(echoSpdyStream(std::move(*next)));
  }
  co_await gate->close();
}

Task<> serveEither(Loop& loop, Request& request, ResponseWriter& writer) {
  std::unique_ptr<Stream> stream;
  if (isWebSocketUpgrade(request)) {
    auto socket = co_await acceptWebSocket(request, writer, {"SPDY/3.1+portforward.k8s.io"});
    if (!socket.ok()) co_return;
    stream = streamOver(loop, std::move(*socket));
  } else {
    Headers headers;
    headers.add("Upgrade", "SPDY/3.1");
    auto hijacked = co_await writer.hijack(101, std::move(headers));
    if (!hijacked.ok()) co_return;
    stream = std::move(*hijacked);
  }
  co_await serveSession(loop, std::move(stream), std::make_shared<Gate>(loop));
}

// What a client sees.
struct Seen : SpdyEvents {
  void onSynStream(uint32_t, uint8_t, Headers) override {}
  void onReply(uint32_t id, uint8_t, Headers) override { replies.insert(id); }
  void onData(uint32_t id, std::string_view bytes, bool fin) override {
    data[id] += bytes;
    if (fin) ends.insert(id);
  }
  void onRst(uint32_t id, uint32_t status) override { resets[id] = status; }
  void onPing(uint32_t id) override { pings.insert(id); }
  void onGoAway() override { goAway = true; }
  void onWindowUpdate(uint32_t id, uint32_t delta) override { updates[id] += delta; }
  void onInitialWindow(uint32_t) override {}
  std::set<uint32_t> replies, ends, pings;
  std::map<uint32_t, std::string> data;
  std::map<uint32_t, uint32_t> resets, updates;
  bool goAway = false;
};

struct Sessions {
  Sessions()
      : server(loop, {},
               [this](Request& request, ResponseWriter& writer) { return serveEither(loop, request, writer); }),
        client(loop, {}) {
    port = *server.listenTcp("127.0.0.1", 0);
  }
  ~Sessions() {
    stream.reset();
    runOn(loop, server.stop());
  }
  void connect() {
    Request request;
    request.method = "POST";
    request.headers.add("Upgrade", "SPDY/3.1");
    auto upgraded = runOn(loop, client.upgrade(fmt::format("http://127.0.0.1:{}/", port), std::move(request)));
    ASSERT_TRUE(upgraded.ok()) << upgraded.error().message();
    stream = std::move(upgraded->stream);
  }
  void tunnel() {
    auto socket = runOn(
        loop, connectWebSocket(client, fmt::format("ws://127.0.0.1:{}/", port), {}, {"SPDY/3.1+portforward.k8s.io"}));
    ASSERT_TRUE(socket.ok()) << socket.error().message();
    stream = streamOver(loop, std::move(*socket));
  }
  std::string open(uint32_t id, std::string_view type, uint8_t flags = 0) {
    Headers headers;
    headers.add("streamType", type);
    headers.add("port", "80");
    return encoder.synStream(id, flags, headers);
  }
  void send(std::string bytes) { ASSERT_TRUE(runOn(loop, stream->write(bytes)).ok()); }
  // Reads until `done` holds or the server has ended.
  void readUntil(std::function<bool()> done) {
    std::array<char, 8192> buffer;
    while (!done()) {
      auto n = runOn(loop, stream->read(buffer));
      if (!n.ok() || *n == 0) return;
      held.append(buffer.data(), *n);
      auto taken = decoder.feed(held);
      ASSERT_TRUE(taken.ok()) << taken.error().message();
      held.erase(0, *taken);
    }
  }
  RealLoop loop;
  Server server;
  Client client;
  uint16_t port;
  std::unique_ptr<Stream> stream;
  SpdyEncoder encoder;
  Seen seen;
  SpdyDecoder decoder{seen};
  std::string held;
};

TEST(Spdy, TheDictionaryIsTheStandards) {
  EXPECT_EQ(spdyDictionary().size(), 1423u);
  EXPECT_EQ(adler32(adler32(0, nullptr, 0), reinterpret_cast<const Bytef*>(spdyDictionary().data()), 1423),
            0xe3c6a7c2u);
}

TEST(Spdy, StreamsCarryHeadersDataAndHalfClose) {
  for (bool tunnelled : {false, true}) {
    Sessions s;
    tunnelled ? s.tunnel() : s.connect();
    s.send(s.open(1, "stdin") + s.open(3, "stdout") + spdyData(1, "one", false) + spdyPing(1));
    s.readUntil(
        [&] { return s.seen.data[1] == "stdin:one" && s.seen.data[3] == "stdout:" && s.seen.pings.contains(1); });
    EXPECT_EQ(s.seen.replies, (std::set<uint32_t>{1, 3}));
    EXPECT_FALSE(s.seen.ends.contains(1));
    s.send(spdyData(1, " two", true) + spdyData(3, "", true));
    s.readUntil([&] { return s.seen.ends.size() == 2; });
    EXPECT_EQ(s.seen.data[1], "stdin:one two<end>");
    EXPECT_EQ(s.seen.data[3], "stdout:<end>");
  }
}

TEST(Spdy, APeerWithoutWindowsIsNotWaitedFor) {
  Sessions s;
  s.connect();
  s.send(s.open(1, "flood"));
  s.readUntil([&] { return s.seen.ends.contains(1); });
  EXPECT_EQ(s.seen.data[1].size(), 6 + (1u << 20));
}

TEST(Spdy, APeerWithWindowsIsObeyed) {
  Sessions s;
  s.connect();
  std::string settings("\x80\x03\x00\x04\x00\x00\x00\x0c\x00\x00\x00\x01\x00\x00\x00\x07\x00\x00\x04\x00", 20);
  s.send(settings + s.open(1, "flood") + spdyPing(1));
  s.readUntil([&] { return s.seen.data[1].size() >= 1024 && s.seen.pings.contains(1); });
  EXPECT_EQ(s.seen.data[1].size(), 1024u);
  s.send(spdyWindowUpdate(1, 500) + spdyPing(3));
  s.readUntil([&] { return s.seen.data[1].size() >= 1524; });
  EXPECT_EQ(s.seen.data[1].size(), 1524u);
  s.send(spdyWindowUpdate(1, 2 << 20));
  s.readUntil([&] { return s.seen.ends.contains(1); });
  EXPECT_EQ(s.seen.data[1].size(), 6 + (1u << 20));
}

TEST(Spdy, LargeInputWidensThePeersWindow) {
  Sessions s;
  s.connect();
  s.send(s.open(1, "in"));
  std::string much(300'000, 'm');
  for (int i = 0; i < 4; ++i) {
    s.send(spdyData(1, much, false));
    s.readUntil([&] { return s.seen.data[1].size() >= 3 + (static_cast<size_t>(i) + 1) * much.size(); });
  }
  s.send(spdyData(1, "", true));
  s.readUntil([&] { return s.seen.ends.contains(1); });
  EXPECT_EQ(s.seen.data[1].size(), 3 + 4 * much.size() + 5);
  EXPECT_GT(s.seen.updates[1], 1'000'000u);
}

TEST(Spdy, RefusesWrongAndTooManyStreams) {
  Sessions s;
  s.connect();
  s.send(s.open(2, "even") + s.open(5, "a") + s.open(3, "back"));
  s.readUntil([&] { return s.seen.resets.size() == 2; });
  EXPECT_EQ(s.seen.resets[2], kSpdyProtocolError);
  EXPECT_EQ(s.seen.resets[3], kSpdyProtocolError);
  std::string many;
  for (uint32_t i = 0; i < 300; ++i) many += s.open(7 + 2 * i, "b");
  s.send(many);
  s.readUntil([&] { return s.seen.resets.contains(7 + 2 * 299); });
  EXPECT_EQ(s.seen.resets[7 + 2 * 299], kSpdyRefusedStream);
}

TEST(Spdy, AResetStreamLeavesTheOthers) {
  Sessions s;
  s.connect();
  s.send(s.open(1, "a") + s.open(3, "b") + spdyRst(1, 5) + spdyData(1, "late", false) + spdyData(3, "x", true));
  s.readUntil([&] { return s.seen.ends.contains(3); });
  EXPECT_EQ(s.seen.data[3], "b:x<end>");
}

TEST(Spdy, GarbageEndsTheSession) {
  uint64_t seed = 3;
  Sessions s;
  for (int round = 0; round < 100; ++round) {
    s.connect();
    std::string bytes = round % 2 ? std::string("\x80\x03\x00\x01\x00\x00\x00\x20", 8) : std::string();
    for (int i = 0; i < 64; ++i) {
      seed = seed * 6364136223846793005u + 1442695040888963407u;
      bytes += static_cast<char>(seed >> 56);
    }
    s.send(bytes);
    runOn(s.loop, s.stream->shutdownWrite());
    runOn(s.loop, readToEnd(*s.stream));
  }
}

TEST(Spdy, ABombInTheHeadersIsRefused) {
  Seen seen;
  SpdyDecoder decoder(seen);
  SpdyEncoder encoder;
  Headers headers;
  headers.add("a", std::string(1 << 20, 'a'));
  EXPECT_FALSE(decoder.feed(encoder.synStream(1, 0, headers)).ok());
}

}  // namespace
}  // namespace dhow::http
