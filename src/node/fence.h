// Keeps the promise of client/node_lease.h: pods with an identity run here only while this node's lease surely holds.
//
// What was renewed last is kept in a file that a reboot empties, so that an agent that is started anew knows what its
// predecessor's pods are worth.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "base/loop.h"

namespace dhow::node {

class Fence {
 public:
  // `file` is below /run. Reads what an earlier agent left there.
  Fence(Loop& loop, std::string file);
  // By a request that was sent then.
  void renewed(TimePoint sent);
  bool holds() const;
  // The lease is about to end: pods with an identity must be gone within kSelfFencedBy - kSelfFenceAfter.
  std::function<void()> onLost;
  // It holds (again): such pods may be started.
  std::function<void()> onHeld;

 private:
  void arm();

  Loop& loop_;
  const std::string file_;
  std::optional<TimePoint> last_;
  bool held_ = false;
  Timer timer_;
};

}  // namespace dhow::node
