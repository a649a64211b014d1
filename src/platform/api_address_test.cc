#include "platform/api_address.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#include <thread>

#include "base/gate.h"
#include "base/process.h"
#include "http/client.h"
#include "http/server.h"
#include "http/stream.h"

namespace dhow::platform {
namespace {

using namespace std::chrono_literals;

// A master that answers with its name.
struct Backend {
  Backend(RealLoop& loop, std::string name)
      : server(loop, {},
               [name](http::Request&, http::ResponseWriter& writer) -> Task<> { return answer(writer, name); }) {
    port = server.listenTcp("127.0.0.1", 0).valueOr(0);
  }
  static Task<> answer(http::ResponseWriter& writer, std::string name) {
    http::Response response;
    response.body = name;
    (void)(co_await writer.send(std::move(response))).ok();
  }
  http::Server server;
  uint16_t port = 0;
};

Task<std::string> ask(Loop& loop, uint16_t port) {
  http::Client client(loop, {});
  auto response = co_await client.fetch(fmt::format("http://127.0.0.1:{}/", port), http::Request());
  client.close();
  co_return response.ok() ? response->body : "no answer";
}

Task<> livingMastersTakeTurnsAndDeadOnesArePassedOver(RealLoop& loop) {
  Backend one(loop, "one"), two(loop, "two");
  ApiAddress address(loop, {{"one", "127.0.0.1", one.port}, {"two", "127.0.0.1", two.port}});
  auto port = address.listen("127.0.0.1", 0);
  EXPECT_TRUE(port.ok());
  std::set<std::string> seen;
  for (int i = 0; i < 2; ++i) seen.insert(co_await ask(loop, *port));
  EXPECT_EQ(seen, (std::set<std::string>{"one", "two"}));

  // Known to be dead.
  address.setAlive("one", false);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(co_await ask(loop, *port), "two");
  // All are: they are tried all the same.
  address.setAlive("two", false);
  EXPECT_NE(co_await ask(loop, *port), "no answer");

  // Refusing, while nobody knows yet.
  address.setAlive("one", true);
  address.setAlive("two", true);
  co_await two.server.stop();
  for (int i = 0; i < 3; ++i) EXPECT_EQ(co_await ask(loop, *port), "one");
  co_await one.server.stop();
  EXPECT_EQ(co_await ask(loop, *port), "no answer");
  co_await address.stop();
}

TEST(ApiAddress, LivingMastersTakeTurnsAndDeadOnesArePassedOver) {
  RealLoop loop;
  runOn(loop, livingMastersTakeTurnsAndDeadOnesArePassedOver(loop));
}

constexpr std::string_view kQuestion = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";

// A connection that stays open after its first answer.
Task<std::unique_ptr<http::Stream>> connected(Loop& loop, uint16_t port) {
  auto stream = co_await http::connectTcp(loop, "127.0.0.1", port, 5s);
  EXPECT_TRUE(stream.ok());
  auto written = co_await (*stream)->write(kQuestion);
  EXPECT_TRUE(written.ok());
  char buffer[4096];
  auto first = co_await (*stream)->read(buffer);
  EXPECT_TRUE(first.ok() && *first > 0);
  co_return std::move(*stream);
}

Task<> untilItEnds(http::Stream& stream) {
  char buffer[4096];
  while (true) {
    auto more = co_await stream.read(buffer);
    if (!more.ok() || *more == 0) break;
  }
}

Task<> connectionsToADeadMasterEndAtOnce(RealLoop& loop) {
  Backend one(loop, "one");
  ApiAddress address(loop, {{"one", "127.0.0.1", one.port}});
  auto port = address.listen("127.0.0.1", 0);
  EXPECT_TRUE(port.ok());
  auto stream = co_await connected(loop, *port);
  EXPECT_EQ(address.connections(), 1u);
  address.setAlive("one", false);
  co_await untilItEnds(*stream);
  co_await address.stop();
  EXPECT_EQ(address.connections(), 0u);
  co_await one.server.stop();
}

TEST(ApiAddress, ConnectionsToADeadMasterEndAtOnce) {
  RealLoop loop;
  runOn(loop, connectionsToADeadMasterEndAtOnce(loop));
}

Task<> connectionsToAMasterThatIsCutOffEnd(RealLoop& loop) {
  Backend one(loop, "one");
  ApiAddress address(loop, {{"one", "127.0.0.1", one.port}});
  auto port = address.listen("127.0.0.1", 0);
  EXPECT_TRUE(port.ok());
  auto stream = co_await connected(loop, *port);
  for (const std::string& command :
       {std::string("add table inet cut"), std::string("add chain inet cut in { type filter hook input priority 0; }"),
        fmt::format("add rule inet cut in tcp dport {} drop", one.port)})
    EXPECT_EQ(runCommand({"nft", command}).value().status.code, 0);
  EXPECT_TRUE((co_await stream->write(kQuestion)).ok());
  bool late = false;
  Timer patience = loop.after(1min, [&] {
    late = true;
    address.setAlive("one", false);
  });
  co_await untilItEnds(*stream);
  patience.cancel();
  EXPECT_FALSE(late);
  co_await address.stop();
  co_await one.server.stop();
}

TEST(ApiAddress, ConnectionsToAMasterThatIsCutOffEnd) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root to make network namespaces";
  std::thread([] {
    ASSERT_EQ(::unshare(CLONE_NEWNET), 0);
    ASSERT_EQ(runCommand({"ip", "link", "set", "lo", "up"}).value().status.code, 0);
    RealLoop loop;
    runOn(loop, connectionsToAMasterThatIsCutOffEnd(loop));
  }).join();
}

// Echoes until the end of what it reads, then says so.
Task<> echo(http::Stream& stream) {
  char buffer[4096];
  while (true) {
    auto count = co_await stream.read(buffer);
    if (!count.ok() || *count == 0) break;
    (void)(co_await stream.write({buffer, *count})).ok();
  }
  (void)(co_await stream.write("end")).ok();
  co_await stream.shutdownWrite();
}

Task<> echoServer(http::ResponseWriter& writer) {
  auto stream = co_await writer.hijack(101, {});
  if (stream.ok()) co_await echo(**stream);
}

Task<> aHalfClosedConnectionStillCarriesTheAnswer(RealLoop& loop) {
  http::Server server(loop, {}, [](http::Request&, http::ResponseWriter& writer) { return echoServer(writer); });
  ApiAddress address(loop, {{"one", "127.0.0.1", server.listenTcp("127.0.0.1", 0).valueOr(0)}});
  auto port = address.listen("127.0.0.1", 0);
  EXPECT_TRUE(port.ok());
  auto stream = co_await http::connectTcp(loop, "127.0.0.1", *port, 5s);
  EXPECT_TRUE(stream.ok());
  auto asked = co_await (*stream)->write("GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n");
  EXPECT_TRUE(asked.ok());
  const std::string sent(300000, 'x');
  std::string got;
  char buffer[65536];
  while (got.find("\r\n\r\n") == std::string::npos) {
    auto count = co_await (*stream)->read(buffer);
    if (!count.ok() || *count == 0) break;
    got.append(buffer, *count);
  }
  got.erase(0, got.find("\r\n\r\n") + 4);
  Gate gate(loop);
  gate.spawn([](http::Stream* to, const std::string* bytes) -> Task<> {
    (void)(co_await to->write(*bytes)).ok();
    co_await to->shutdownWrite();
  }(stream->get(), &sent));
  while (true) {
    auto count = co_await (*stream)->read(buffer);
    if (!count.ok() || *count == 0) break;
    got.append(buffer, *count);
  }
  co_await gate.close();
  EXPECT_EQ(got, sent + "end");
  co_await address.stop();
  co_await server.stop();
}

TEST(ApiAddress, AHalfClosedConnectionStillCarriesTheAnswer) {
  RealLoop loop;
  runOn(loop, aHalfClosedConnectionStillCarriesTheAnswer(loop));
}

Task<> whatIsConnectedGoesOnInWhoTakesOver(RealLoop& loop) {
  http::Server server(loop, {}, [](http::Request&, http::ResponseWriter& writer) { return echoServer(writer); });
  const ApiAddress::Master master{"one", "127.0.0.1", server.listenTcp("127.0.0.1", 0).valueOr(0)};
  auto before = std::make_unique<ApiAddress>(loop, std::vector{master});
  auto port = before->listen("127.0.0.1", 0);
  EXPECT_TRUE(port.ok());
  auto stream = co_await http::connectTcp(loop, "127.0.0.1", *port, 5s);
  EXPECT_TRUE(stream.ok());
  auto asked = co_await (*stream)->write("GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n");
  EXPECT_TRUE(asked.ok());
  std::string got;
  char buffer[65536];
  while (got.find("\r\n\r\n") == std::string::npos) {
    auto count = co_await (*stream)->read(buffer);
    if (!count.ok() || *count == 0) break;
    got.append(buffer, *count);
  }
  got.erase(0, got.find("\r\n\r\n") + 4);
  // More than fits on the way while nobody reads: some is in the hands of the one that goes.
  const std::string sent(8 << 20, 'x');
  Gate gate(loop);
  gate.spawn([](http::Stream* to, const std::string* bytes) -> Task<> {
    (void)(co_await to->write(*bytes)).ok();
    co_await to->shutdownWrite();
  }(stream->get(), &sent));
  co_await loop.sleep(50ms);

  auto file = co_await before->handOver();
  EXPECT_TRUE(file.ok());
  EXPECT_EQ(before->connections(), 0u);
  before.reset();
  // Nobody accepts just now, and nobody is refused.
  auto early = co_await http::connectTcp(loop, "127.0.0.1", *port, 5s);
  EXPECT_TRUE(early.ok());

  ApiAddress after(loop, {master});
  auto taken = after.takeOver(std::move(*file));
  EXPECT_TRUE(taken.ok());
  EXPECT_EQ(after.listen("127.0.0.1", *port).valueOr(0), *port);
  while (true) {
    auto count = co_await (*stream)->read(buffer);
    if (!count.ok() || *count == 0) break;
    got.append(buffer, *count);
  }
  co_await gate.close();
  EXPECT_EQ(got.size(), sent.size() + 3);
  EXPECT_TRUE(got == sent + "end");
  auto next = co_await (*early)->write("GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n");
  EXPECT_TRUE(next.ok());
  auto answered = co_await (*early)->read(buffer);
  EXPECT_TRUE(answered.ok() && *answered > 0);
  co_await after.stop();
  co_await server.stop();
}

TEST(ApiAddress, WhatIsConnectedGoesOnInWhoTakesOver) {
  RealLoop loop;
  runOn(loop, whatIsConnectedGoesOnInWhoTakesOver(loop));
}

TEST(ApiAddress, TakesOverNothingThatIsNotTold) {
  RealLoop loop;
  ApiAddress address(loop, {});
  UniqueFd file(::memfd_create("test", MFD_CLOEXEC));
  EXPECT_TRUE(address.takeOver(UniqueFd(::dup(file.get()))).error().is(Code::kInvalid));
  const std::string text = R"({"listeners":[1000000],"connections":[]})";
  EXPECT_EQ(::pwrite(file.get(), text.data(), text.size(), 0), static_cast<ssize_t>(text.size()));
  EXPECT_TRUE(address.takeOver(std::move(file)).error().is(Code::kInvalid));
  runOn(loop, address.stop());
}

}  // namespace
}  // namespace dhow::platform
