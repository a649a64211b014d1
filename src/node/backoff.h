// The delay between attempts that fail again and again: none before the first repetition, then 10 s, doubling to
// 5 min; forgotten after 10 min without one. On the caller's clock.
#pragma once

#include "base/loop.h"

namespace dhow::node {

class Backoff {
 public:
  struct Limits {
    Duration first = std::chrono::seconds(10);
    Duration most = std::chrono::minutes(5);
  };
  Backoff() = default;
  explicit Backoff(Limits limits) : limits_(limits) {}

  // How long to wait now, when the last attempt failed at `failedAt`.
  Duration remaining(TimePoint failedAt, TimePoint now) const {
    if (delay_ == Duration::zero()) return Duration::zero();
    return std::max(Duration::zero(), failedAt + delay_ - now);
  }
  // The delay that holds between the last failure and the next attempt.
  Duration current() const { return delay_; }
  // An attempt is made: the next failure waits longer.
  void next(TimePoint now) {
    const bool fresh = delay_ == Duration::zero() || now - last_ > 2 * limits_.most;
    delay_ = fresh ? limits_.first : std::min(limits_.most, 2 * delay_);
    last_ = now;
  }
  // Forgets when the failure came long after the last attempt.
  void settle(TimePoint failedAt) {
    if (delay_ != Duration::zero() && failedAt - last_ > 2 * limits_.most) delay_ = Duration::zero();
  }
  void reset() { delay_ = Duration::zero(); }

 private:
  Limits limits_;
  Duration delay_{};
  TimePoint last_{};
};

}  // namespace dhow::node
