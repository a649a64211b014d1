// Leader election over a coordination.k8s.io Lease: of all that run with one lease name, one leads. Writes are guarded
// by the lease's resourceVersion; a holder's lease counts as live for leaseDuration after this process last saw it
// change, by this process's own monotonic clock, so that clocks need not agree. A leader whose last renewal was asked
// for longer than renewDeadline ago no longer leads, whether or not an answer comes: onLost runs before the lease ends
// for others.
#pragma once

#include <functional>
#include <string>

#include "base/gate.h"
#include "client/client.h"

namespace dhow::client {

class LeaderElector {
 public:
  struct Options {
    std::string ns = "kube-system";
    std::string name;
    std::string identity;
    Duration leaseDuration = std::chrono::seconds(15);
    Duration renewDeadline = std::chrono::seconds(10);  // shorter than leaseDuration
    Duration retryPeriod = std::chrono::seconds(2);
    std::function<void()> onLead;
    std::function<void()> onLost;
  };
  LeaderElector(Loop& loop, Client& client, Options options);

  void start();
  // Gives the lease up, so that another takes over at once.
  Task<> stop();
  bool leading() const { return leading_; }
  // Somebody watches the lease, and has seen it like this; null: it is gone. A renewal then counts from when it came,
  // and not from the next look, which may wait long while the store is without its leader; a free one is taken at once.
  void saw(const ObjectPtr& lease);
  // Who holds the lease, as last seen.
  const std::string& holder() const { return holder_; }

 private:
  static Task<> run(LeaderElector* self);
  Duration pause() const;
  Task<Result<>> tryAcquire();
  void note(const ObjectPtr& lease);
  Task<> release();
  boost::json::object leaseBody(std::string_view holder, int64_t transitions, std::string_view acquireTime) const;
  void setLeading(bool leading);

  Loop& loop_;
  Client& client_;
  Options options_;
  std::string holder_;
  uint64_t seenVersion_ = 0;
  TimePoint seenAt_{};
  TimePoint liveUntil_{};  // of another's lease
  Timer expiry_;
  ObjectPtr lease_;
  bool leading_ = false;
  bool stopping_ = false;
  Signal wake_;
  Gate gate_;
};

}  // namespace dhow::client
