// The event loop: time, timers and the executor on which a component's state lives. Components take a Loop&,
// so the same code runs on the machine's clock (RealLoop) and on a virtual one (SimLoop), where nothing waits
// and everything replays from one seed.
//
// All functions but post() are for the loop's own thread.
#pragma once

#include <boost/asio/any_io_executor.hpp>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>

#include "base/task.h"

namespace dhow {

using Duration = std::chrono::nanoseconds;
using TimePoint = std::chrono::time_point<std::chrono::steady_clock, Duration>;  // monotonic
using WallTime = std::chrono::time_point<std::chrono::system_clock, Duration>;   // UTC

// A pending timer. Destroying or cancelling it means that its function never runs.
class Timer {
 public:
  class Impl {
   public:
    virtual ~Impl() = default;  // cancels
  };
  Timer() = default;
  explicit Timer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
  void cancel() { impl_.reset(); }
  explicit operator bool() const { return impl_ != nullptr; }

 private:
  std::unique_ptr<Impl> impl_;
};

class Loop {
 public:
  virtual ~Loop() = default;

  virtual boost::asio::any_io_executor executor() = 0;
  virtual TimePoint now() const = 0;
  virtual WallTime wallNow() const = 0;
  virtual Timer after(Duration delay, std::function<void()> run) = 0;
  // Uniform over 64 bits; replayable under SimLoop.
  virtual uint64_t random() = 0;

  // Runs `run` on the loop, after what is already queued. Any thread.
  void post(std::function<void()> run);
  // Returns after `delay` of the loop's time.
  Task<> sleep(Duration delay);
};

// The machine's clock, one thread.
class RealLoop final : public Loop {
 public:
  RealLoop();
  ~RealLoop() override;

  void run();   // until stop(), or until no work is left
  void stop();  // any thread
  boost::asio::any_io_executor executor() override;
  TimePoint now() const override;
  WallTime wallNow() const override;
  Timer after(Duration delay, std::function<void()> run) override;
  uint64_t random() override;

 private:
  struct Rep;
  std::unique_ptr<Rep> rep_;
};

// Virtual time: it passes only when a test says so, and jumps from timer to timer.
class SimLoop final : public Loop {
 public:
  explicit SimLoop(uint64_t seed = 1);
  ~SimLoop() override;

  // Runs what is ready without letting time pass; returns how many handlers ran.
  size_t runReady();
  // Runs everything due within `span`, in order of time; now() ends `span` later.
  void advance(Duration span);
  // Advances from timer to timer until `done` holds or `limit` has passed; returns whether it holds.
  bool runUntil(const std::function<bool()>& done, Duration limit);

  boost::asio::any_io_executor executor() override;
  TimePoint now() const override;
  WallTime wallNow() const override;
  Timer after(Duration delay, std::function<void()> run) override;
  uint64_t random() override;

 private:
  struct Rep;
  std::shared_ptr<Rep> rep_;
};

// Runs `task` on the loop by itself. What must be waited for at the end enters a Gate (base/gate.h) instead.
// An exception that leaves the task aborts the program: ours do not throw.
void spawn(Loop& loop, Task<> task);

// Runs `task` to its end on a loop that nobody else runs, for tests and short commands.
template <class T>
T runOn(RealLoop& loop, Task<T> task);
template <class T>
T runOn(SimLoop& loop, Task<T> task, Duration limit = std::chrono::hours(1));

}  // namespace dhow

#include "base/loop_run.h"
