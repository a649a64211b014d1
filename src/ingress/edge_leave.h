// An edge whose node is about to be taken away: its HAProxy is asked to end the connections that it has, and ends with
// the last of them. On the loop; steps come one after the other, and not while something else is asked of HAProxy.
// Private to this folder.
#pragma once

#include <functional>

#include "base/blocking.h"
#include "base/loop.h"
#include "haproxy.h"
#include "process_watch.h"

namespace dhow::ingress {

class EdgeLeave {
 public:
  EdgeLeave(Loop& loop, BlockingPool& pool, Haproxy& haproxy) : loop_(loop), pool_(pool), haproxy_(haproxy) {}
  // A step is due; HAProxy has ended; it is to serve again.
  std::function<void()> onDue, onLeft, onBack;

  void set(bool leaving);
  bool due() const { return state_ == State::kAsk || state_ == State::kLook; }
  bool left() const { return state_ == State::kLeft; }
  static Task<> step(EdgeLeave* self);
  // No more steps; one that is under way does nothing more.
  void stop();

 private:
  enum class State : uint8_t {
    kStays,
    kAsk,    // connections are to be asked to end
    kRetry,  // that has failed, and is tried again soon
    kLook,   // who has connections still is to be looked at
    kWait,   // until the next of them has ended
    kLeft,
  };
  void become(State state);

  Loop& loop_;
  BlockingPool& pool_;
  Haproxy& haproxy_;
  State state_ = State::kStays;
  ProcessWatch worker_;
  Timer retry_;
};

}  // namespace dhow::ingress
