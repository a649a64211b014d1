#include "base/loop.h"

#include <malloc.h>

#include <boost/asio/async_result.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <map>
#include <random>

namespace dhow {

namespace asio = boost::asio;

void Loop::post(std::function<void()> run) {
  asio::post(executor(), std::move(run));
}

Task<> Loop::sleep(Duration delay) {
  Timer timer;
  auto start = [this, &timer, delay](auto handler) {
    auto shared = std::make_shared<decltype(handler)>(std::move(handler));
    timer = after(delay, [shared] { std::move (*shared)(); });
  };
  co_await asio::async_initiate<const asio::use_awaitable_t<>&, void()>(std::move(start), asio::use_awaitable);
}

void spawn(Loop& loop, Task<> task) {
  asio::co_spawn(loop.executor(), std::move(task), [](std::exception_ptr failure) {
    if (!failure) return;
    try {
      std::rethrow_exception(failure);
    } catch (const std::exception& e) {
      CHECK(false, "an exception left a task: {}", e.what());
    } catch (...) {
      CHECK(false, "an exception left a task");
    }
  });
}

namespace {

class AsioTimer final : public Timer::Impl {
 public:
  AsioTimer(asio::io_context& context, Duration delay, std::function<void()> run)
      : run_(std::make_shared<std::function<void()>>(std::move(run))), timer_(context, delay) {
    // The handler may be queued already when the timer is destroyed, so it holds its function only weakly.
    timer_.async_wait([weak = std::weak_ptr(run_)](boost::system::error_code error) {
      if (error) return;
      if (auto function = weak.lock()) (*function)();
    });
  }

 private:
  std::shared_ptr<std::function<void()>> run_;
  asio::basic_waitable_timer<std::chrono::steady_clock> timer_;
};

}  // namespace

namespace {
constexpr size_t kBurst = 100;
constexpr Duration kQuiet = std::chrono::seconds(3);
}  // namespace

struct RealLoop::Rep {
  asio::io_context context{1};
  std::mt19937_64 random{(static_cast<uint64_t>(std::random_device{}()) << 32) | std::random_device{}()};
  asio::steady_timer quiet{context};
  size_t timers = 0;  // since memory was given back

  // A burst of work leaves free memory all over the heap: when it is over, that goes back to the system. Whatever waits
  // or has a limit makes a timer, so their number tells of work.
  void noteTimer() {
    if (++timers == kBurst) awaitQuiet();
  }
  void awaitQuiet() {
    quiet.expires_after(kQuiet);
    quiet.async_wait([this, before = timers](boost::system::error_code error) {
      if (error) return;
      if (timers - before >= kBurst) return awaitQuiet();
      timers = 0;
      ::malloc_trim(0);
    });
  }
};

RealLoop::RealLoop() : rep_(std::make_unique<Rep>()) {}
RealLoop::~RealLoop() = default;
void RealLoop::run() {
  rep_->context.restart();
  rep_->context.run();
}
void RealLoop::stop() {
  rep_->context.stop();
}
asio::any_io_executor RealLoop::executor() {
  return rep_->context.get_executor();
}
TimePoint RealLoop::now() const {
  return std::chrono::steady_clock::now();
}
WallTime RealLoop::wallNow() const {
  return std::chrono::system_clock::now();
}
uint64_t RealLoop::random() {
  return rep_->random();
}
Timer RealLoop::after(Duration delay, std::function<void()> run) {
  rep_->noteTimer();
  return Timer(std::make_unique<AsioTimer>(rep_->context, delay, std::move(run)));
}

struct SimLoop::Rep {
  explicit Rep(uint64_t seed) : random(seed) {}
  asio::io_context context{1};
  // 2026-01-01T00:00:00Z: runs of one seed write the same times.
  WallTime epoch{std::chrono::seconds(1767225600)};
  Duration elapsed{0};
  uint64_t sequence = 0;
  std::map<std::pair<Duration, uint64_t>, std::function<void()>> timers;
  std::mt19937_64 random;
};

namespace {
template <class Rep>
class SimTimer final : public Timer::Impl {
 public:
  SimTimer(std::weak_ptr<Rep> rep, std::pair<Duration, uint64_t> key) : rep_(std::move(rep)), key_(key) {}
  ~SimTimer() override {
    if (auto rep = rep_.lock()) rep->timers.erase(key_);
  }

 private:
  std::weak_ptr<Rep> rep_;
  std::pair<Duration, uint64_t> key_;
};
}  // namespace

SimLoop::SimLoop(uint64_t seed) : rep_(std::make_shared<Rep>(seed)) {}
SimLoop::~SimLoop() = default;

size_t SimLoop::runReady() {
  rep_->context.restart();
  return rep_->context.poll();
}

void SimLoop::advance(Duration span) {
  runUntil([] { return false; }, span);
}

bool SimLoop::runUntil(const std::function<bool()>& done, Duration limit) {
  const Duration end = rep_->elapsed + limit;
  while (true) {
    runReady();
    if (done()) return true;
    auto next = rep_->timers.begin();
    if (next == rep_->timers.end() || next->first.first > end) {
      rep_->elapsed = end;
      return false;
    }
    rep_->elapsed = std::max(rep_->elapsed, next->first.first);
    auto run = std::move(next->second);
    rep_->timers.erase(next);
    run();
  }
}

asio::any_io_executor SimLoop::executor() {
  return rep_->context.get_executor();
}
TimePoint SimLoop::now() const {
  return TimePoint(rep_->elapsed);
}
WallTime SimLoop::wallNow() const {
  return rep_->epoch + rep_->elapsed;
}
uint64_t SimLoop::random() {
  return rep_->random();
}
Timer SimLoop::after(Duration delay, std::function<void()> run) {
  std::pair key{rep_->elapsed + std::max(delay, Duration(0)), rep_->sequence++};
  rep_->timers.emplace(key, std::move(run));
  return Timer(std::make_unique<SimTimer<Rep>>(rep_, key));
}

}  // namespace dhow
