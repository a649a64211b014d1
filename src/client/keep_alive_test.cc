// Servers that fall silent, on the virtual clock: connections are pairs of buffers, no socket takes part.
#include <gtest/gtest.h>

#include "base/gate.h"
#include "client/http_client.h"
#include "http/fake_stream.h"
#include "http/server.h"
#include "object/resource_names.h"

namespace dhow::client {
namespace {

using namespace std::chrono_literals;
using object::resources::kPods;

struct KeepAliveTest : testing::Test {
  KeepAliveTest() : served(loop), server(loop, {}, [this](auto&, auto& writer) { return serve(this, writer); }) {}
  void TearDown() override {
    for (auto& pipe : pipes) {
      pipe->lost = false;
      pipe->end();
    }
    over = true;
    served.notify();
    if (client) runOn(loop, client->stop());
    runOn(loop, server.stop());
  }
  // A watch that says nothing, or a request that is never answered.
  static Task<> serve(KeepAliveTest* self, http::ResponseWriter& writer) {
    if (self->answers) {
      auto started = co_await writer.start(200, {});
      (void)started;
    }
    while (!self->over && !writer.closed()) co_await self->served.waitFor(10s);
  }
  static Task<Result<std::unique_ptr<http::Stream>>> dial(KeepAliveTest* self) {
    auto up = std::make_shared<http::FakePipe>(self->loop);
    auto down = std::make_shared<http::FakePipe>(self->loop);
    self->pipes.insert(self->pipes.end(), {up, down});
    self->gate.spawn(self->server.serve(std::make_unique<http::FakeStream>(up, down), {}));
    std::unique_ptr<http::Stream> stream = std::make_unique<http::FakeStream>(down, up);
    co_return stream;
  }
  void start(Duration requestTimeout) {
    HttpClient::Options options;
    options.servers = {"http://master"};
    options.requestTimeout = requestTimeout;
    options.dial = [this] { return dial(this); };
    options.priorKnowledgeHttp2 = true;
    client = std::make_unique<HttpClient>(loop, std::move(options));
  }
  void cut() {
    for (auto& pipe : pipes) pipe->lost = true;
  }
  static Task<> follow(Watcher* watcher, std::optional<Code>* end) {
    auto event = co_await watcher->next();
    *end = event.ok() ? Code::kUnknown : event.error().code();
  }

  SimLoop loop;
  Signal served;
  Gate gate{loop};
  bool answers = true;
  bool over = false;
  std::vector<std::shared_ptr<http::FakePipe>> pipes;
  http::Server server;
  std::unique_ptr<HttpClient> client;
};

TEST_F(KeepAliveTest, QuietWatchOfALivingServerGoesOn) {
  start(30s);
  auto watcher = runOn(loop, client->watch(kPods, {}, "1"));
  ASSERT_TRUE(watcher.ok()) << watcher.error().message();
  std::optional<Code> end;
  gate.spawn(follow(watcher->get(), &end));
  loop.advance(1h);
  EXPECT_FALSE(end);
  (*watcher)->close();
  loop.advance(1s);
  EXPECT_TRUE(end);
}

TEST_F(KeepAliveTest, WatchOfADeadServerEndsWithinTenSeconds) {
  start(30s);
  auto watcher = runOn(loop, client->watch(kPods, {}, "1"));
  ASSERT_TRUE(watcher.ok()) << watcher.error().message();
  std::optional<Code> end;
  gate.spawn(follow(watcher->get(), &end));
  loop.advance(3s);
  cut();
  loop.advance(11s);
  ASSERT_TRUE(end);
  EXPECT_EQ(*end, Code::kUnavailable);
}

TEST_F(KeepAliveTest, RequestToADeadServerFailsBeforeItsTimeout) {
  start(1min);
  answers = false;
  const TimePoint began = loop.now();
  gate.spawn([](KeepAliveTest* self) -> Task<> {
    co_await self->loop.sleep(1s);
    self->cut();
  }(this));
  auto got = runOn(loop, client->get(kPods, "d", "p"));
  ASSERT_FALSE(got.ok());
  EXPECT_EQ(got.error().code(), Code::kUnavailable);
  EXPECT_LE(loop.now() - began, 12s);
}

TEST_F(KeepAliveTest, RequestThatALivingServerNeverAnswersEndsAtItsTimeout) {
  start(1min);
  answers = false;
  const TimePoint began = loop.now();
  auto got = runOn(loop, client->get(kPods, "d", "p"));
  ASSERT_FALSE(got.ok());
  EXPECT_EQ(got.error().code(), Code::kDeadlineExceeded);
  EXPECT_EQ(loop.now() - began, 1min);
}

}  // namespace
}  // namespace dhow::client
