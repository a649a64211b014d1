#include "http/websocket.h"

#include "test_util.h"
#include "websocket_frame.h"

namespace dhow::http {
namespace {

using namespace testing;

Task<> echoSocket(Request& request, ResponseWriter& writer) {
  auto socket = co_await acceptWebSocket(request, writer, {"v5.channel.k8s.io", "v4.channel.k8s.io"}, 1 << 20);
  if (!socket.ok()) {
    auto sent = co_await writer.send({.status = 400, .body = socket.error().message()});
    ignore(sent);
    co_return;
  }
  while (true) {
    auto message = co_await (*socket)->read();
    if (!message.ok()) co_return;
    if (message->bytes == "bye") {
      co_await (*socket)->close(1000, "as you wish");
      continue;
    }
    auto written = co_await (*socket)->write(message->bytes, message->binary);
    if (!written.ok()) co_return;
  }
}

struct Sockets {
  Sockets() : server(loop, {}, echoSocket) { port = *server.listenTcp("127.0.0.1", 0); }
  ~Sockets() { runOn(loop, server.stop()); }
  std::string url() const { return fmt::format("ws://127.0.0.1:{}/", port); }
  RealLoop loop;
  Server server;
  uint16_t port;
};

using Connected = Result<std::unique_ptr<WebSocket>>;

TEST(WebSocket, EchoesMessagesOfAnySize) {
  Sockets s;
  Client client(s.loop, {});
  auto socket = runOn(s.loop, connectWebSocket(client, s.url(), {}, {"x", "v4.channel.k8s.io"}));
  ASSERT_TRUE(socket.ok()) << socket.error().message();
  EXPECT_EQ((*socket)->protocol(), "v4.channel.k8s.io");
  for (size_t size : {size_t{0}, size_t{1}, size_t{125}, size_t{126}, size_t{65535}, size_t{65536}, size_t{1} << 20}) {
    std::string text(size, 'w');
    ASSERT_TRUE(runOn(s.loop, (*socket)->write(text, size % 2 == 0)).ok());
    auto message = runOn(s.loop, (*socket)->read());
    ASSERT_TRUE(message.ok()) << message.error().message();
    EXPECT_TRUE(message->bytes == text);
    EXPECT_EQ(message->binary, size % 2 == 0);
  }
  ASSERT_TRUE(runOn(s.loop, (*socket)->write("bye", false)).ok());
  auto end = runOn(s.loop, (*socket)->read());
  ASSERT_FALSE(end.ok());
  EXPECT_EQ(end.error().code(), Code::kCancelled);
}

TEST(WebSocket, RefusesProtocolsThatItDoesNotServe) {
  Sockets s;
  Client client(s.loop, {});
  auto socket = runOn(s.loop, connectWebSocket(client, s.url(), {}, {"other"}));
  ASSERT_FALSE(socket.ok());
  EXPECT_EQ(socket.error().code(), Code::kBadRequest);
}

TEST(WebSocket, AMessageOverTheBoundEndsIt) {
  Sockets s;
  Client client(s.loop, {});
  auto socket = runOn(s.loop, connectWebSocket(client, s.url(), {}, {}));
  ASSERT_TRUE(socket.ok());
  auto written = runOn(s.loop, (*socket)->write(std::string((1 << 20) + 1, 'x')));
  ignore(written);
  EXPECT_FALSE(runOn(s.loop, (*socket)->read()).ok());
}

TEST(WebSocket, WorksOnAnHttp2Stream) {
  Sockets s;
  Client::Options options;
  options.priorKnowledgeHttp2 = true;
  Client client(s.loop, options);
  auto socket =
      runOn(s.loop, connectWebSocket(client, fmt::format("http://127.0.0.1:{}/", s.port), {}, {"v5.channel.k8s.io"}));
  ASSERT_TRUE(socket.ok()) << socket.error().message();
  ASSERT_TRUE(runOn(s.loop, (*socket)->write("over h2")).ok());
  EXPECT_EQ(runOn(s.loop, (*socket)->read())->bytes, "over h2");
}

const std::string kUpgrade =
    "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

std::string afterHead(const std::string& text) {
  size_t end = text.find("\r\n\r\n");
  return end == std::string::npos ? text : text.substr(end + 4);
}

TEST(WebSocket, FollowsTheExamplesOfTheRfc) {
  Sockets s;
  uint32_t mask = 0x3dfa2137;
  auto frame = [&](uint8_t opcode, std::string_view text, bool fin = true) {
    auto out = internal::makeWsFrame(opcode, text, mask);
    if (!fin) out[0] = static_cast<char>(out[0] & 0x7f);
    return out;
  };
  auto text = runOn(
      s.loop, talk(s.loop, s.port,
                   kUpgrade + frame(1, "Hel", false) + frame(9, "ping!") + frame(0, "lo") + frame(8, "\x03\xe8")));
  EXPECT_NE(text.find("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), std::string::npos) << text;
  EXPECT_EQ(afterHead(text), std::string("\x8a\x05ping!\x81\x05Hello\x88\x02\x03\xe8"));
}

TEST(WebSocket, ProtocolErrorsAreTold) {
  Sockets s;
  auto closeCode = [&](const std::string& frames) {
    auto text = afterHead(runOn(s.loop, talk(s.loop, s.port, kUpgrade + frames)));
    return text.size() >= 4 && text[0] == '\x88' ? static_cast<uint8_t>(text[2]) << 8 | static_cast<uint8_t>(text[3])
                                                 : 0;
  };
  EXPECT_EQ(closeCode("\x81\x02hi"), 1002) << "not masked";
  EXPECT_EQ(closeCode(internal::makeWsFrame(3, "x", 1)), 1002) << "unknown opcode";
  EXPECT_EQ(closeCode(internal::makeWsFrame(0, "x", 1)), 1002) << "continues nothing";
  EXPECT_EQ(closeCode(internal::makeWsFrame(9, std::string(126, 'x'), 1)), 1002) << "long ping";
  EXPECT_EQ(closeCode(internal::makeWsFrame(1, "\xff\xfe", 1)), 1007) << "not UTF-8";
  EXPECT_EQ(closeCode(internal::makeWsFrame(2, std::string(2 << 20, 'x'), 1)), 1009) << "too large";
}

TEST(WebSocket, SurvivesGarbageAndCutFrames) {
  Sockets s;
  uint64_t seed = 7;
  for (int round = 0; round < 100; ++round) {
    std::string bytes;
    for (int i = 0; i < 60; ++i) {
      seed = seed * 6364136223846793005u + 1442695040888963407u;
      bytes += static_cast<char>(seed >> 56);
    }
    runOn(s.loop, talk(s.loop, s.port, kUpgrade + bytes));
    auto frame = internal::makeWsFrame(2, bytes, 5);
    runOn(s.loop, talk(s.loop, s.port, kUpgrade + frame.substr(0, static_cast<size_t>(round) % frame.size())));
  }
}

TEST(WebSocket, ChecksUtf8) {
  for (std::string_view good : {"", "abc", "\xc3\xa4", "\xe2\x82\xac", "\xf0\x9f\x98\x80"})
    EXPECT_TRUE(internal::isUtf8(good)) << good;
  for (std::string_view bad : {"\x80", "\xc0\x80", "\xe2\x82", "\xed\xa0\x80", "\xf5\x80\x80\x80", "\xc3"})
    EXPECT_FALSE(internal::isUtf8(bad));
}

}  // namespace
}  // namespace dhow::http
