// Starts the controllers of the control plane: deployment, replicaset, disruption budgets, endpointslice, endpoints,
// garbage collection, namespaces, node lifecycle, pod garbage collection, service accounts, root certificate,
// certificates, node addresses, load balancers, zones, node pools, machines. On the loop's thread; one manager leads at
// a time (client/leader.h).
#pragma once

#include <memory>
#include <set>
#include <string>
#include <vector>

#include "base/loop.h"
#include "base/result.h"
#include "client/cache.h"
#include "client/client.h"

namespace dhow::controllers {

class Heartbeats;
class MachineProvider;
struct Context;

struct Options {
  // Pod addresses, one range for each family, the first family's first; empty: nodes get no range.
  std::vector<std::string> clusterCidrs = {"10.244.0.0/16"};
  int nodeMaskSize = 24;                                    // of IPv4; of IPv6 a node has a /64
  std::string rootCaPem;                                    // for kube-root-ca.crt in every namespace
  Duration certificateLife = std::chrono::hours(24 * 365);  // of signed ones, at most
  std::string caKeyPem;                                     // of rootCaPem: signs certificates; empty: nothing signs
  std::string loadBalancerPool;               // "172.30.255.0/24"; empty: services of type LoadBalancer get no address
  size_t terminatedPodLimit = 12500;          // finished pods that are kept
  Duration eventTtl = std::chrono::hours(1);  // how long Events are kept
  // Null: machines and pools are let alone, and zones are those that nodes name. Outlives the manager.
  MachineProvider* machines = nullptr;
  // Kept on by a master while others lead, so that its count of silence goes on when it takes over. Null: the manager
  // has its own. Outlives the manager.
  Heartbeats* heartbeats = nullptr;
  std::string clusterName = "dhow";  // begins the names of machines
  // What a new cluster is given: its Region, its Zones and the NodePool "default". Empty: nothing. Made once; what a
  // user changes or deletes later stays so.
  std::string region;
  std::vector<std::string> zones;
  int nodes = 0;
  std::set<std::string> disabled;  // names of controllers that do not start: deployment, replicaset, disruption,
                                   // endpointslice, garbagecollector, podgc, namespace, nodelifecycle, serviceaccount,
                                   // certificates, tokencleaner, nodeipam, loadbalancer, eventexpiry, platform
};

// kInvalid names the option that cannot be read. Comes before a Manager is made of what a user wrote.
Result<> check(const Options& options);

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
  static void addPlatform(Rep& rep, const Context& context, Heartbeats& heartbeats, const Options& options);
  std::unique_ptr<Rep> rep_;
};

}  // namespace dhow::controllers
