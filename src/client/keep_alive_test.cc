// Servers that fall silent, on the virtual clock: connections are pairs of buffers, no socket takes part.
#include <gtest/gtest.h>

#include <deque>

#include "base/gate.h"
#include "client/http_client.h"
#include "http/server.h"
#include "object/resource_names.h"

namespace dhow::client {
namespace {

using namespace std::chrono_literals;
using object::resources::kPods;

// One direction of a connection.
struct Pipe {
  explicit Pipe(Loop& loop) : changed(loop) {}
  std::string bytes;
  bool ended = false;
  bool lost = false;  // what is written vanishes, as behind a cut cable
  Signal changed;
};

class PipeStream final : public http::Stream {
 public:
  PipeStream(std::shared_ptr<Pipe> in, std::shared_ptr<Pipe> out) : in_(std::move(in)), out_(std::move(out)) {}
  ~PipeStream() override { close(); }
  Task<Result<size_t>> read(std::span<char> into) override {
    auto in = in_;
    while (in->bytes.empty() && !in->ended) co_await in->changed.wait();
    const size_t n = std::min(into.size(), in->bytes.size());
    std::copy_n(in->bytes.begin(), n, into.begin());
    in->bytes.erase(0, n);
    co_return n;
  }
  Task<Result<>> write(std::string_view bytes) override {
    if (out_->ended) co_return Error(Code::kUnavailable, "the connection is closed");
    if (!out_->lost) out_->bytes.append(bytes);
    out_->changed.notify();
    co_return Result<>();
  }
  Task<> shutdownWrite() override {
    end(*out_);
    co_return;
  }
  void close() override {
    end(*in_);
    if (!out_->lost) end(*out_);
  }

 private:
  static void end(Pipe& pipe) {
    pipe.ended = true;
    pipe.changed.notify();
  }
  std::shared_ptr<Pipe> in_, out_;
};

struct KeepAliveTest : testing::Test {
  KeepAliveTest() : served(loop), server(loop, {}, [this](auto&, auto& writer) { return serve(this, writer); }) {}
  void TearDown() override {
    for (auto& pipe : pipes) {
      pipe->lost = false;
      pipe->ended = true;
      pipe->changed.notify();
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
    auto up = std::make_shared<Pipe>(self->loop);
    auto down = std::make_shared<Pipe>(self->loop);
    self->pipes.insert(self->pipes.end(), {up, down});
    self->gate.spawn(self->server.serve(std::make_unique<PipeStream>(up, down), {}));
    std::unique_ptr<http::Stream> stream = std::make_unique<PipeStream>(down, up);
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
  std::vector<std::shared_ptr<Pipe>> pipes;
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
