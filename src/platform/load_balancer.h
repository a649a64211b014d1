// The load balancer in front of a local cluster: in the region's router, the addresses of Services of type LoadBalancer
// lead to their pods, and the pods' ranges lead to their nodes. What it has set stays in the kernel when this process
// ends, and while no master tells anything.
#pragma once

#include <memory>
#include <set>
#include <string>

#include "base/loop.h"
#include "base/result.h"
#include "client/cache.h"
#include "platform/config.h"

namespace dhow::platform {

class LoadBalancer {
 public:
  static Result<std::unique_ptr<LoadBalancer>> start(Loop& loop, client::Caches& caches, const ClusterConfig& config);
  ~LoadBalancer();
  // Waits until all changes of EndpointSlices up to `revision` are in force, at most `limit`; gives the revision up to
  // which they are.
  Task<uint64_t> untilApplied(uint64_t revision, Duration limit);
  // Machines that do not run or have no link, as a switch sees it: nothing new is sent there, whatever masters think,
  // who take longer to be sure. One that comes back has a moment to serve again.
  void setGone(const std::set<std::string>& nodes);
  // Sets the ways to nodes anew: the kernel forgets them when a zone's segment is taken down.
  Result<> routesAgain();
  // After the caches have been stopped: until they hold all, it waits for them.
  Task<> stop();

 private:
  struct Rep;
  explicit LoadBalancer(std::unique_ptr<Rep> rep);
  std::unique_ptr<Rep> rep_;
};

}  // namespace dhow::platform
