#include "http1.h"

#include <netinet/in.h>
#include <sys/socket.h>

#include "base/fd.h"

#include "test_util.h"

namespace dhow::http {
namespace {

using namespace testing;

TEST(Http1Heads, TakesARequestApart) {
  auto head = internal::parseRequestHead("GET /a/b?c=d HTTP/1.1\r\nHost: x\r\nX-A:  1 \r\nx-a: 2");
  ASSERT_TRUE(head.ok());
  EXPECT_EQ(head->method, "GET");
  EXPECT_EQ(head->target, "/a/b?c=d");
  EXPECT_EQ(head->headers.get("X-a"), "1");
  EXPECT_EQ(head->headers.all().size(), 3u);
}

TEST(Http1Heads, RefusesWhatCanBeReadInTwoWays) {
  for (std::string_view text : {
           "GET  / HTTP/1.1\r\nHost: x",
           "GET / HTTP/1.1\nHost: x",
           "GET / HTTP/1.1\r\nHost : x",
           "GET / HTTP/1.1\r\nHost: x\r\n folded",
           "GET / HTTP/1.1",
           "GET / HTTP/1.1\r\nHost: x\r\nHost: y",
           "GET / HTTP/1.1\r\nHost: a\rb",
           "/ HTTP/1.1\r\nHost: x",
           "GET / HTTP/3.0\r\nHost: x",
           "G(T / HTTP/1.1\r\nHost: x",
           "GET x HTTP/1.1\r\nHost: x",
           "GET / HTTP/1.1\r\nHost: x\r\n: y",
       }) {
    EXPECT_FALSE(internal::parseRequestHead(text).ok()) << text;
  }
  for (std::string_view fields :
       {"Content-Length: 1\r\nContent-Length: 2", "Content-Length: 1\r\nTransfer-Encoding: chunked",
        "Content-Length: -1", "Content-Length: 1x", "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "Content-Length: 99999999999999999999"}) {
    auto head = internal::parseRequestHead(fmt::format("POST / HTTP/1.1\r\nHost: x\r\n{}", fields));
    ASSERT_TRUE(head.ok()) << fields;
    EXPECT_FALSE(internal::requestFraming(*head).ok()) << fields;
  }
}

TEST(Http1Heads, BoundsTheNumberOfFields) {
  std::string text = "GET / HTTP/1.1\r\nHost: x";
  for (int i = 0; i < 200; ++i) text += "\r\nA: b";
  auto head = internal::parseRequestHead(text);
  ASSERT_FALSE(head.ok());
  EXPECT_EQ(head.error().code(), Code::kTooLarge);
}

TEST(Message, QueriesSurviveARoundTrip) {
  auto query = Query::parse("a=1&b=%20x+y&a=2&flag&bad=%zz");
  EXPECT_EQ(query.get("a"), "1");
  EXPECT_EQ(query.getAll("a").size(), 2u);
  EXPECT_EQ(query.get("b"), " x y");
  EXPECT_TRUE(query.has("flag"));
  EXPECT_EQ(query.get("bad"), "%zz");
  EXPECT_EQ(Query::parse(query.str()).all(), query.all());
}

TEST(Message, TokensAreFoundWithoutCase) {
  Headers headers;
  headers.add("Connection", "keep-alive, Upgrade");
  EXPECT_TRUE(headers.hasToken("connection", "upgrade"));
  EXPECT_FALSE(headers.hasToken("connection", "up"));
  headers.set("CONNECTION", "x");
  EXPECT_EQ(headers.all().size(), 1u);
}

TEST(Http1Server, KeepsTheConnectionAndTakesPipelinedRequests) {
  Fixture f;
  auto port = portOf(f.listen());
  auto text = runOn(f.loop, talk(f.loop, port,
                                 "GET /1 HTTP/1.1\r\nHost: x\r\n\r\nGET /2 HTTP/1.1\r\nHost: x\r\n\r\n"
                                 "GET /3 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"));
  EXPECT_NE(text.find("hello /1 over 1.1HTTP/1.1 200 OK"), std::string::npos) << text;
  EXPECT_NE(text.find("hello /3"), std::string::npos);
  EXPECT_EQ(f.counters->handled, 3);
}

TEST(Http1Server, AnswersMalformedInputWith400AndCloses) {
  Fixture f;
  auto port = portOf(f.listen());
  for (std::string text : {"garbage\r\n\r\n", "GET / HTTP/1.1\r\n\r\n", "GET /\r\nHost: x\r\n\r\n",
                           "\x16\x03\x01\x02\r\n\r\n", "GET / HT"}) {
    auto answer = runOn(f.loop, talk(f.loop, port, text));
    EXPECT_TRUE(answer.starts_with("HTTP/1.1 400 ")) << text << " -> " << answer;
  }
  std::string large = "GET / HTTP/1.1\r\nHost: x\r\nA: " + std::string(70'000, 'a') + "\r\n\r\n";
  EXPECT_TRUE(runOn(f.loop, talk(f.loop, port, large)).starts_with("HTTP/1.1 431 "));
  EXPECT_EQ(f.counters->handled, 0);
}

TEST(Http1Server, RefusesMalformedChunks) {
  Fixture f;
  auto port = portOf(f.listen());
  for (std::string_view chunks :
       {"zz\r\nab\r\n0\r\n\r\n", "2\r\nabc\r\n0\r\n\r\n", "ffffffffffffffffff\r\n", "5\r\nab"}) {
    auto answer = runOn(
        f.loop, talk(f.loop, port,
                     fmt::format("POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{}", chunks)));
    EXPECT_TRUE(answer.starts_with("HTTP/1.1 400 ")) << chunks << " -> " << answer;
  }
}

TEST(Http1Server, HeadHasTheLengthAndNoBody) {
  Fixture f;
  auto port = portOf(f.listen());
  auto text = runOn(f.loop, talk(f.loop, port, "HEAD /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"));
  EXPECT_NE(text.find("Content-Length: 17\r\n"), std::string::npos) << text;
  EXPECT_TRUE(text.ends_with("\r\n\r\n"));
}

TEST(Http1Server, ContinuesOnlyWhenTheBodyIsWanted) {
  Fixture f;
  auto port = portOf(f.listen());
  std::string expect = "Host: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n";
  auto wanted = runOn(f.loop, talk(f.loop, port, "POST /echo HTTP/1.1\r\n" + expect + "ab"));
  EXPECT_TRUE(wanted.starts_with("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK")) << wanted;
  auto refused = runOn(f.loop, talk(f.loop, port, "POST /ignore-body HTTP/1.1\r\n" + expect));
  EXPECT_TRUE(refused.starts_with("HTTP/1.1 413 ")) << refused;
  EXPECT_NE(refused.find("Connection: close"), std::string::npos);
}

TEST(Http1Server, ServesHttp10WithoutChunks) {
  Fixture f;
  auto port = portOf(f.listen());
  auto text = runOn(f.loop, talk(f.loop, port, "GET /large?size=10 HTTP/1.0\r\n\r\n"));
  EXPECT_TRUE(text.ends_with("\r\n\r\nxxxxxxxxxx")) << text;
  EXPECT_EQ(text.find("chunked"), std::string::npos);
}

TEST(Http1Server, AHandlerWithoutAnswerGives500AndABrokenOneEndsTheConnection) {
  Fixture f;
  auto port = portOf(f.listen());
  EXPECT_TRUE(runOn(f.loop, talk(f.loop, port, "GET /none HTTP/1.1\r\nHost: x\r\n\r\n")).starts_with("HTTP/1.1 500 "));
  auto broken = runOn(f.loop, talk(f.loop, port, "GET /broken HTTP/1.1\r\nHost: x\r\n\r\n", false));
  EXPECT_TRUE(broken.ends_with("4\r\npart\r\n")) << broken;
}

TEST(Http1Server, AHijackGivesWhatWasReadAheadAndHalfCloses) {
  Fixture f;
  auto port = portOf(f.listen());
  auto text = runOn(
      f.loop,
      talk(f.loop, port, "POST /hijack HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\nearly bytes"));
  EXPECT_TRUE(text.starts_with("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"))
      << text;
  EXPECT_TRUE(text.ends_with("\r\n\r\nearly bytes<end>")) << text;
  auto raw = runOn(f.loop, talk(f.loop, port, "POST /raw HTTP/1.1\r\nHost: x\r\n\r\nabc"));
  EXPECT_TRUE(raw.starts_with("HTTP/1.1 200 OK\r\nContent-Type: application/vnd.docker.raw-stream\r\n\r\nabc<end>"))
      << raw;
}

Task<bool> waitFor(std::shared_ptr<Counters> counters, std::function<bool()> done) {
  for (int i = 0; i < 100 && !done(); ++i) co_await counters->changed.waitFor(50ms);
  co_return done();
}

Task<bool> leaveWatch(Fixture& f, uint16_t port) {
  auto stream = co_await connectTcp(f.loop, "127.0.0.1", port, 5s);
  if (!stream.ok()) co_return false;
  auto written = co_await (*stream)->write("GET /watch HTTP/1.1\r\nHost: x\r\n\r\n");
  if (!written.ok()) co_return false;
  bool watching = co_await waitFor(f.counters, [&] { return f.counters->watching == 1; });
  if (!watching || f.counters->closed != 0) co_return false;
  (*stream)->close();
  bool closed = co_await waitFor(f.counters, [&] { return f.counters->closed == 1 && f.counters->sawClosed; });
  co_return closed;
}

TEST(Http1Server, AWatchLearnsThatItsClientHasGone) {
  Fixture f;
  auto port = portOf(f.listen());
  EXPECT_TRUE(runOn(f.loop, leaveWatch(f, port)));
}

Task<bool> startWatch(Fixture& f, uint16_t port, std::unique_ptr<Stream>& out) {
  auto stream = co_await connectTcp(f.loop, "127.0.0.1", port, 5s);
  if (!stream.ok()) co_return false;
  out = std::move(*stream);
  auto written = co_await out->write("GET /watch HTTP/1.1\r\nHost: x\r\n\r\n");
  if (!written.ok()) co_return false;
  bool watching = co_await waitFor(f.counters, [&] { return f.counters->watching == 1; });
  co_return watching;
}

TEST(Http1Server, StopEndsWatchesAndIdleConnections) {
  Fixture f;
  auto port = portOf(f.listen());
  std::unique_ptr<Stream> watch;
  ASSERT_TRUE(runOn(f.loop, startWatch(f, port, watch)));
  auto idle = runOn(f.loop, connectTcp(f.loop, "127.0.0.1", port, 5s));
  ASSERT_TRUE(idle.ok());
  runOn(f.loop, f.server.stop());
  EXPECT_EQ(f.counters->closed, 1);
}

// A server whose queue is full: the kernel drops what would open a further connection.
struct FullServer {
  UniqueFd listener, waiting;
  sockaddr_in address{.sin_family = AF_INET};
  FullServer() {
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    auto* generic = reinterpret_cast<sockaddr*>(&address);
    listener.reset(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    socklen_t size = sizeof address;
    bool made = ::bind(listener.get(), generic, size) == 0 && ::listen(listener.get(), 0) == 0 &&
                ::getsockname(listener.get(), generic, &size) == 0;
    waiting.reset(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    made = made && ::connect(waiting.get(), generic, size) == 0;
    CHECK(made, "a full server");
  }
  std::string url() const { return fmt::format("http://127.0.0.1:{}/", ntohs(address.sin_port)); }
};

TEST(Http1Client, WhatIsStillDialingEndsWithTheClient) {
  RealLoop loop;
  FullServer server;
  Client::Options options;
  options.connectTimeout = std::chrono::hours(1);
  Client client(loop, options);
  Timer closing = loop.after(20ms, [&] { client.close(); });
  auto response = runOn(loop, client.fetch(server.url(), {}));
  ASSERT_FALSE(response.ok());
  EXPECT_TRUE(response.error().is(Code::kCancelled)) << response.error().message();
}

TEST(Http1Client, FetchesOverTcpAndReusesTheConnection) {
  Fixture f;
  auto url = f.listen();
  Client client(f.loop, {});
  for (int i = 0; i < 3; ++i) {
    auto response = runOn(f.loop, client.fetch(url + "/a?b=c", {}));
    ASSERT_TRUE(response.ok()) << response.error().message();
    EXPECT_EQ(response->status, 200);
    EXPECT_EQ(response->body, "hello /a over 1.1");
  }
}

TEST(Http1Client, SendsAndReceivesOverAUnixSocket) {
  Fixture f;
  auto path = f.dir / "s.sock";
  ASSERT_TRUE(f.server.listenUnix(path).ok());
  Client client(f.loop, {.unixSocket = path});
  Request request;
  request.method = "POST";
  request.body = bodyOf("some bytes");
  auto response = runOn(f.loop, client.fetch("http://localhost/echo", std::move(request)));
  ASSERT_TRUE(response.ok()) << response.error().message();
  EXPECT_EQ(response->body, "some bytes");
  EXPECT_EQ(f.counters->lastPeer.unixCredentials->first, ::getuid());
  RealLoop other;
  Server second(other, {}, demoHandler(f.counters));
  EXPECT_FALSE(second.listenUnix(path).ok());
}

TEST(Http1Client, CarriesLargeBodiesBothWays) {
  Fixture f;
  auto url = f.listen();
  Client client(f.loop, {});
  std::string large(20 << 20, 'a');
  for (size_t i = 0; i < large.size(); i += 977) large[i] = static_cast<char>(i);
  Request request;
  request.method = "PUT";
  request.body = bodyOf(large);
  auto response = runOn(f.loop, client.fetch(url + "/stream", std::move(request)));
  ASSERT_TRUE(response.ok()) << response.error().message();
  EXPECT_TRUE(response->body == large);
  auto tooLarge = runOn(f.loop, client.fetch(url + "/large?size=100000", {}, 1000));
  ASSERT_FALSE(tooLarge.ok());
  EXPECT_EQ(tooLarge.error().code(), Code::kTooLarge);
}

Task<std::string> upgradeEcho(Client& client, std::string url) {
  Request request;
  request.method = "POST";
  request.headers.add("Upgrade", "tcp");
  auto upgraded = co_await client.upgrade(std::move(url), std::move(request));
  if (!upgraded.ok()) co_return upgraded.error().message();
  auto written = co_await upgraded->stream->write("ping");
  if (!written.ok()) co_return "not written";
  co_await upgraded->stream->shutdownWrite();
  auto text = co_await readToEnd(*upgraded->stream);
  co_return fmt::format("{} {}", upgraded->status, text);
}

TEST(Http1Client, UpgradesToAStream) {
  Fixture f;
  auto url = f.listen();
  Client client(f.loop, {});
  EXPECT_EQ(runOn(f.loop, upgradeEcho(client, url + "/hijack")), "101 ping<end>");
  EXPECT_EQ(runOn(f.loop, upgradeEcho(client, url + "/raw")), "200 ping<end>");
  EXPECT_EQ(runOn(f.loop, upgradeEcho(client, url + "/ignore-body")), "too much");
}

TEST(Http1Client, ABrokenResponseIsAnError) {
  Fixture f;
  auto url = f.listen();
  Client client(f.loop, {});
  auto response = runOn(f.loop, client.fetch(url + "/broken", {}));
  EXPECT_FALSE(response.ok());
  auto nobody = runOn(f.loop, client.fetch("http://127.0.0.1:1/", {}));
  ASSERT_FALSE(nobody.ok());
  EXPECT_EQ(nobody.error().code(), Code::kUnavailable);
  for (std::string bad :
       {"ftp://x/", "http:///", "x", "http://a:0/", "http://a:99999/", "http://a b/", "http://[::1/"}) {
    EXPECT_EQ(runOn(f.loop, client.fetch(bad, {})).error().code(), Code::kBadRequest) << bad;
  }
}

TEST(Http1Client, SurvivesARestartOfTheServer) {
  Fixture f;
  auto path = f.dir / "s.sock";
  Client client(f.loop, {.unixSocket = path});
  for (int i = 0; i < 3; ++i) {
    Server server(f.loop, {}, demoHandler(f.counters));
    ASSERT_TRUE(server.listenUnix(path).ok());
    auto response = runOn(f.loop, client.fetch("http://localhost/x", {}));
    EXPECT_TRUE(response.ok()) << response.error().message();
    runOn(f.loop, server.stop());
  }
}

TEST(Curl, IsServedOverTcpAndUnixSockets) {
  if (!have("curl")) GTEST_SKIP() << "curl is not installed";
  Fixture f;
  BlockingPool pool(1);
  auto url = f.listen();
  auto path = f.dir / "s.sock";
  ASSERT_TRUE(f.server.listenUnix(path).ok());
  EXPECT_EQ(runOn(f.loop, runBeside(f.loop, pool, "curl -sS " + url + "/a")).out, "hello /a over 1.1");
  EXPECT_EQ(runOn(f.loop, runBeside(f.loop, pool, "curl -sS --unix-socket " + path + " http://x/a")).out,
            "hello /a over 1.1");
  auto upload =
      fmt::format("head -c 3000000 /dev/zero | curl -sS -T - -H 'Expect: 100-continue' {}/stream | wc -c", url);
  EXPECT_EQ(trim(runOn(f.loop, runBeside(f.loop, pool, upload)).out), "3000000");
  auto twice = fmt::format("curl -sSv {0}/a {0}/b 2>&1 | grep -c Re-using", url);
  EXPECT_EQ(trim(runOn(f.loop, runBeside(f.loop, pool, twice)).out), "1");
}

}  // namespace
}  // namespace dhow::http
