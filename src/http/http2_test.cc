#include "test_util.h"

namespace dhow::http {
namespace {

using namespace testing;

Client::Options prior() {
  Client::Options options;
  options.priorKnowledgeHttp2 = true;
  return options;
}

TEST(Http2, AnswersRequestsOnOneConnection) {
  Fixture f;
  auto url = f.listen();
  Client client(f.loop, prior());
  for (int i = 0; i < 3; ++i) {
    auto response = runOn(f.loop, client.fetch(url + "/a", {}));
    ASSERT_TRUE(response.ok()) << response.error().message();
    EXPECT_EQ(response->body, "hello /a over 2");
    EXPECT_EQ(response->headers.get("content-type"), "text/plain");
  }
  Request head;
  head.method = "HEAD";
  auto response = runOn(f.loop, client.fetch(url + "/a", std::move(head)));
  ASSERT_TRUE(response.ok());
  EXPECT_EQ(response->headers.get("Content-Length"), "15");
  EXPECT_EQ(runOn(f.loop, client.fetch(url + "/none", {}))->status, 500);
  EXPECT_EQ(runOn(f.loop, client.fetch(url + "/empty", {}))->status, 204);
  EXPECT_FALSE(runOn(f.loop, client.fetch(url + "/broken", {})).ok());
}

TEST(Http2, CarriesLargeBodiesBothWays) {
  Fixture f;
  auto url = f.listen();
  Client client(f.loop, prior());
  std::string large(20 << 20, 'a');
  for (size_t i = 0; i < large.size(); i += 977) large[i] = static_cast<char>(i);
  for (std::string path : {"/stream", "/echo"}) {
    Request request;
    request.method = "PUT";
    request.body = bodyOf(large);
    auto response = runOn(f.loop, client.fetch(url + path, std::move(request)));
    ASSERT_TRUE(response.ok()) << response.error().message();
    EXPECT_TRUE(response->body == large);
  }
}

TEST(Http2, AnAnswerBeforeTheBodyIsReadArrives) {
  Fixture f;
  auto url = f.listen();
  Client client(f.loop, prior());
  Request request;
  request.method = "POST";
  request.body = bodyOf(std::string(8 << 20, 'x'));
  auto response = runOn(f.loop, client.fetch(url + "/ignore-body", std::move(request)));
  ASSERT_TRUE(response.ok()) << response.error().message();
  EXPECT_EQ(response->status, 413);
  EXPECT_TRUE(runOn(f.loop, client.fetch(url + "/a", {})).ok());
}

std::string frame(uint8_t type, uint8_t flags, uint8_t stream, std::string_view payload) {
  std::string out = {0, 0, static_cast<char>(payload.size()), static_cast<char>(type), static_cast<char>(flags), 0,
                     0, 0};
  return (out += static_cast<char>(stream)).append(payload);
}

// Writes `bytes` and reads frames until one of that type and flags has come; their types as letters, in order.
Task<std::string> framesUntil(Stream& stream, std::string& in, std::string bytes, uint8_t type, uint8_t flags) {
  auto written = co_await stream.write(bytes);
  ignore(written);
  std::string types;
  std::array<char, 4096> buffer;
  while (true) {
    while (in.size() >= 9) {
      auto at = [&in](size_t i) { return static_cast<size_t>(static_cast<uint8_t>(in[i])); };
      const size_t size = 9 + (at(0) << 16 | at(1) << 8 | at(2)), kind = at(3), marks = at(4);
      if (in.size() < size) break;
      in.erase(0, size);
      types += "dhprspgwc"[std::min<size_t>(kind == 7 ? 7 : kind, 8)];
      if (kind == type && (marks & flags) == flags) co_return types;
    }
    auto n = co_await stream.read(buffer);
    if (!n.ok() || *n == 0) co_return types + " end";
    in.append(buffer.data(), *n);
  }
}

TEST(Http2, ASmallBodyThatNobodyReadsMayStillArrive) {
  Fixture f;
  auto stream = runOn(f.loop, connectTcp(f.loop, "127.0.0.1", portOf(f.listen()), 5s));
  ASSERT_TRUE(stream.ok());
  constexpr uint8_t kData = 0, kHeaders = 1, kSettings = 4, kPing = 6, kEnd = 1, kEndHeaders = 4, kAck = 1;
  // POST /ignore-body with a body of five bytes that are not sent yet (RFC 7541, appendix A: the indices).
  const std::string head = "\x83\x86\x04\x0c/ignore-body\x01\x01\x61\x0f\x0d\x01\x35";
  const std::string open = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(kSettings, 0, 0, "");
  std::string in;
  auto answer = runOn(f.loop, framesUntil(**stream, in, open + frame(kHeaders, kEndHeaders, 1, head), kData, kEnd));
  EXPECT_THAT(answer, ::testing::EndsWith("hd"));
  auto after = runOn(f.loop, framesUntil(**stream, in, frame(kPing, 0, 0, "12345678"), kPing, kAck));
  EXPECT_EQ(after, "g");
  after = runOn(
      f.loop, framesUntil(**stream, in, frame(kData, kEnd, 1, "hello") + frame(kPing, 0, 0, "12345678"), kPing, kAck));
  EXPECT_THAT(after, ::testing::Not(::testing::HasSubstr("r")));
  EXPECT_EQ(f.counters->handled, 1);
}

Task<> fetchOne(Client& client, std::string url, int& good, int& left, Signal& done) {
  auto response = co_await client.fetch(std::move(url), {});
  if (response.ok() && response->body.size() == 300'000) ++good;
  --left;
  done.notify();
}

Task<int> fetchMany(Loop& loop, Client& client, std::string url, int count) {
  int good = 0, left = count;
  Signal done(loop);
  for (int i = 0; i < count; ++i) spawn(loop, fetchOne(client, url, good, left, done));
  while (left > 0) co_await done.wait();
  co_return good;
}

TEST(Http2, CarriesManyStreamsAtOnce) {
  Fixture f;
  auto url = f.listen();
  Client client(f.loop, prior());
  EXPECT_EQ(runOn(f.loop, fetchMany(f.loop, client, url + "/large?size=300000", 100)), 100);
  EXPECT_EQ(runOn(f.loop, fetchMany(f.loop, client, url + "/large?size=300000", 400)), 400);
}

Task<std::string> upgradeEcho(Client& client, std::string url, size_t size) {
  Request request;
  request.method = "POST";
  auto upgraded = co_await client.upgrade(std::move(url), std::move(request));
  if (!upgraded.ok()) co_return upgraded.error().message();
  std::string sent(size, 'e');
  auto written = co_await upgraded->stream->write(sent);
  if (!written.ok()) co_return "not written";
  co_await upgraded->stream->shutdownWrite();
  auto text = co_await readToEnd(*upgraded->stream);
  co_return fmt::format("{} {}", upgraded->status, text == sent + "<end>" ? "whole" : text);
}

TEST(Http2, AHijackedStreamHalfCloses) {
  Fixture f;
  auto url = f.listen();
  Client client(f.loop, prior());
  EXPECT_EQ(runOn(f.loop, upgradeEcho(client, url + "/hijack", 10)), "200 whole");
  EXPECT_EQ(runOn(f.loop, upgradeEcho(client, url + "/hijack", 60'000)), "200 whole");
  EXPECT_EQ(runOn(f.loop, upgradeEcho(client, url + "/ignore-body", 1)), "too much");
}

Task<bool> waitFor(std::shared_ptr<Counters> counters, std::function<bool()> done) {
  for (int i = 0; i < 100 && !done(); ++i) co_await counters->changed.waitFor(50ms);
  co_return done();
}

Task<bool> watchAndLeave(Fixture& f, Client& client, std::string url) {
  auto response = co_await client.send(url, {});
  if (!response.ok()) co_return false;
  std::array<char, 64> buffer;
  auto n = co_await response->body->read(buffer);
  if (!n.ok() || std::string_view(buffer.data(), *n) != "first\n") co_return false;
  response->body.reset();
  bool closed = co_await waitFor(f.counters, [&] { return f.counters->closed == 1 && f.counters->sawClosed; });
  co_return closed;
}

TEST(Http2, AWatchLearnsThatItsStreamWasDropped) {
  Fixture f;
  auto url = f.listen();
  Client client(f.loop, prior());
  EXPECT_TRUE(runOn(f.loop, watchAndLeave(f, client, url + "/watch")));
}

TEST(Http2, StopEndsStreamsAndTheClientSeesIt) {
  Fixture f;
  auto url = f.listen();
  Client client(f.loop, prior());
  auto response = runOn(f.loop, client.send(url + "/watch", {}));
  ASSERT_TRUE(response.ok());
  EXPECT_TRUE(runOn(f.loop, waitFor(f.counters, [&] { return f.counters->watching == 1; })));
  runOn(f.loop, f.server.stop());
  EXPECT_EQ(f.counters->closed, 1);
  auto rest = runOn(f.loop, readAll(*response->body, 100));
  EXPECT_FALSE(rest.ok());
}

TEST(Http2, CloseCancelsRequestsUnderWay) {
  Fixture f;
  auto url = f.listen();
  Client client(f.loop, prior());
  auto response = runOn(f.loop, client.send(url + "/watch", {}));
  ASSERT_TRUE(response.ok());
  client.close();
  auto rest = runOn(f.loop, readAll(*response->body, 100));
  ASSERT_FALSE(rest.ok());
  EXPECT_EQ(rest.error().code(), Code::kCancelled);
  EXPECT_EQ(runOn(f.loop, client.fetch(url + "/a", {})).error().code(), Code::kCancelled);
}

TEST(Http2, GarbageAfterThePrefaceEndsTheConnection) {
  Fixture f;
  auto port = portOf(f.listen());
  std::string preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
  uint64_t seed = 1;
  for (int round = 0; round < 50; ++round) {
    std::string bytes = preface;
    for (int i = 0; i < 200; ++i) {
      seed = seed * 6364136223846793005u + 1442695040888963407u;
      bytes += static_cast<char>(seed >> 56);
    }
    runOn(f.loop, talk(f.loop, port, bytes));
    runOn(f.loop, talk(f.loop, port, bytes.substr(0, static_cast<size_t>(round))));
  }
  Client client(f.loop, prior());
  EXPECT_TRUE(runOn(f.loop, client.fetch(fmt::format("http://127.0.0.1:{}/a", port), {})).ok());
}

// The agent dials and upgrades; then the master is the client on that connection and the agent serves.
Task<> serveReversed(Server& agent, Client& dialer, std::string url, std::shared_ptr<Counters> counters) {
  Request request;
  request.headers.add("Upgrade", "dhow-agent");
  auto upgraded = co_await dialer.upgrade(std::move(url), std::move(request));
  if (upgraded.ok()) co_await agent.serve(std::move(upgraded->stream), Peer{.address = "master"});
  ++counters->closed;
  counters->changed.notify();
}

struct Master {
  explicit Master(Loop& loop) : arrived(loop) {}
  std::unique_ptr<Stream> stream;
  Signal arrived;
};

Task<> takeAgent(std::shared_ptr<Master> master, ResponseWriter& writer) {
  auto stream = co_await writer.hijack(101, {});
  if (!stream.ok()) co_return;
  master->stream = std::move(*stream);
  master->arrived.notify();
}

Task<Result<std::unique_ptr<Stream>>> dialAgent(std::shared_ptr<Master> master) {
  while (!master->stream) co_await master->arrived.wait();
  co_return std::move(master->stream);
}

TEST(Http2, AReversedConnectionIsServedByWhoDialed) {
  Fixture f;
  auto master = std::make_shared<Master>(f.loop);
  Server front(f.loop, {}, [master](Request&, ResponseWriter& writer) { return takeAgent(master, writer); });
  auto port = front.listenTcp("127.0.0.1", 0);
  ASSERT_TRUE(port.ok());
  {
    Client dialer(f.loop, {});
    spawn(f.loop, serveReversed(f.server, dialer, fmt::format("http://127.0.0.1:{}/agent", *port), f.counters));
    auto options = prior();
    options.dial = [master] { return dialAgent(master); };
    Client toAgent(f.loop, std::move(options));
    auto response = runOn(f.loop, toAgent.fetch("http://agent/a", {}));
    ASSERT_TRUE(response.ok()) << response.error().message();
    EXPECT_EQ(response->body, "hello /a over 2");
    EXPECT_EQ(runOn(f.loop, fetchMany(f.loop, toAgent, "http://agent/large?size=300000", 20)), 20);
    EXPECT_EQ(runOn(f.loop, upgradeEcho(toAgent, "http://agent/hijack", 1000)), "200 whole");
    EXPECT_EQ(f.counters->lastPeer.address, "master");
  }
  EXPECT_TRUE(runOn(f.loop, waitFor(f.counters, [&] { return f.counters->closed == 1; })));
  runOn(f.loop, front.stop());
}

TEST(Curl, SpeaksHttp2InTheClear) {
  if (!have("curl")) GTEST_SKIP() << "curl is not installed";
  Fixture f;
  BlockingPool pool(1);
  auto url = f.listen();
  auto run = [&](std::string command) {
    return std::string(trim(runOn(f.loop, runBeside(f.loop, pool, command)).out));
  };
  EXPECT_EQ(run("curl -sS --http2-prior-knowledge " + url + "/a"), "hello /a over 2");
  EXPECT_EQ(run("curl -sS --http2 " + url + "/a"), "hello /a over 2");
  EXPECT_EQ(run("curl -sS --http2-prior-knowledge '" + url + "/large?size=5000000' | wc -c"), "5000000");
  EXPECT_EQ(run("head -c 5000000 /dev/zero | curl -sS --http2-prior-knowledge -T - " + url + "/stream | wc -c"),
            "5000000");
  EXPECT_EQ(run("curl -sS -o /dev/null -w '%{http_code}' --http2-prior-knowledge " + url + "/none"), "500");
}

}  // namespace
}  // namespace dhow::http
