// Starts the controllers of the control plane: deployment, replicaset, endpointslice, endpoints, garbage collection, namespaces, node lifecycle,
// pod garbage collection, service accounts, root certificate, node addresses, load balancers. On the loop's thread; one manager leads at a time
// (client/leader.h).
#pragma once

#include <memory>
#include <set>
#include <string>
#include <vector>

#include "base/loop.h"
#include "client/cache.h"
#include "client/client.h"

namespace dhow::controllers {

struct Options {
  std::string clusterCidr = "10.244.0.0/16";  // pod addresses; empty: nodes get no range
  int nodeMaskSize = 24;
  std::string rootCaPem;                      // for kube-root-ca.crt in every namespace; empty: none is published
  std::string loadBalancerPool;               // "172.30.255.0/24" or "a.b.c.d-a.b.c.e"; empty: none is given
  Duration nodeMonitorPeriod = std::chrono::seconds(5);
  Duration nodeMonitorGrace = std::chrono::seconds(40);    // a silent node's Ready becomes Unknown
  Duration nodeStartupGrace = std::chrono::seconds(60);    // of one that has never reported
  double nodeEvictionRate = 0.1;              // nodes a second, per zone
  double secondaryNodeEvictionRate = 0.01;    // in a large zone most of which is silent
  double unhealthyZoneThreshold = 0.55;
  size_t largeZoneSize = 50;
  size_t terminatedPodLimit = 12500;
  // Kinds that the garbage and namespace collectors look after. Empty: all built-in namespaced and cluster kinds that can be deleted.
  std::vector<object::Resource> collected;
  std::set<std::string> disabled;             // names of controllers that do not start
};

class Manager {
 public:
  Manager(Loop& loop, client::Client& client, client::Caches& caches, Options options);
  ~Manager();
  void start();
  Task<> stop();
  // No controller has anything ready or under way. Delayed work does not count.
  bool idle() const;

 private:
  struct Rep;
  std::unique_ptr<Rep> rep_;
};

}  // namespace dhow::controllers
