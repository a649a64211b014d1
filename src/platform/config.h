// What a cluster on this machine is: what its owner asked for, and the ranges and ports chosen so that two clusters
// never collide.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "platform/layout.h"

namespace dhow::platform {

inline constexpr const char* kPublic = "public";
inline constexpr const char* kInternal = "internal";
inline constexpr const char* kRestricted = "restricted";

struct ClusterRequest {
  std::string name = "dhow";
  std::string dataDir = kDefaultDataDir;
  int masters = 1;
  int nodes = 3;
  int zones = 3;
  // "": the embedded store for one master, and etcd on the masters' machines for several. "etcd=https://a:2379,...":
  // one that is there already, with the files that its clients need.
  std::string datastore;
  std::string datastoreCa, datastoreCert, datastoreKey;
  // How often the leading master saves a snapshot: "1h", "30m", "off" (parseInterval); empty: as it was, at first
  // hourly.
  std::string snapshotEvery;
  // Set by what changes the store of a cluster (store_change.h). One master, and yet a member of etcd:
  bool movedToEtcd = false;
  // Which of the contents under the store's prefix is the cluster's: each restored one has a name of its own.
  std::string storeGeneration;

  // "public", "internal" or "restricted"; "": what the cluster has, and internal for a new one. Restricted clusters
  // enforce the restricted Pod Security level, encrypt secrets in the store and keep a full audit log.
  std::string sensitivity;

  // Which addresses pods and services have, the first family first: "IPv4", "IPv6", "IPv4,IPv6" or "IPv6,IPv4"; "":
  // what the cluster has, and IPv4 for a new one.
  std::string ipFamilies;
  bool encryptSecrets = false;  // restricted clusters do in any case
  // How long certificates hold, for tests of their rotation; 0: a year. `up --certificate-seconds`, which no help
  // tells.
  int certificateSeconds = 0;

  bool encrypts() const { return encryptSecrets || restricted(); }
  bool restricted() const { return sensitivity == kRestricted; }
  bool ownMembers() const { return datastore.empty() && (masters > 1 || movedToEtcd); }
};

// A machine on its zone's segment.
struct MachinePlan {
  std::string name;  // "dhow-node-1", "dhow-master-1"
  std::string zone;  // "local-east-1"
  int zoneIndex = 1;
  std::string address;
  std::string address6;  // empty: the cluster has IPv4 alone
};
using NodePlan = MachinePlan;
using MasterPlan = MachinePlan;

// One /21 of 10.89.0.0/16 a cluster, by its index: the first /24 links the host and the region's router, its upper half
// is the load balancer's pool; each further /24 is one zone's segment. With IPv6 likewise a /61 of fd00:10:89::/48, and
// a /64 for each segment. Machines have an IPv4 address in any case: masters, members and the region are reached by it.
struct ClusterConfig {
  ClusterRequest request;
  int index = 0;
  std::string region = "local-east";
  std::string domain = "cluster.local";
  std::string podRange, serviceRange;    // of IPv4; empty: pods and services have IPv6 alone
  std::string podRange6, serviceRange6;  // of IPv6; empty: IPv4 alone
  bool ipv6First = false;
  uint16_t apiPort = 0;
  uint16_t registryPort = 0;
  uint16_t regionPort = 0;  // the region's API for the masters (platform/region_api.h)
  // The programs that it runs (programs.h), by id, those before the last upgrade, and the newest form that any of them
  // may have written into the store.
  std::string program, previousProgram;
  int storeForm = 1;

  ClusterPaths paths() const { return ClusterPaths(request.dataDir, request.name); }
  std::string zoneName(int zone) const;  // 1-based
  std::string zoneSubnet(int zone) const;
  std::string zoneGateway(int zone) const;
  std::string uplinkSubnet() const;
  std::string hostAddress() const;    // the host's end of the uplink: the API, the registry and the region listen there
  std::string routerAddress() const;  // the router's end
  std::string loadBalancerRange() const;
  std::string allSegments() const;  // the /21
  // The same of IPv6; only where the cluster has it.
  bool ipv4() const { return !podRange.empty(); }
  bool ipv6() const { return !podRange6.empty(); }
  // Of the machine with that IPv4 address; empty in a cluster of IPv4 alone.
  std::string machineAddress6(const std::string& address) const;
  std::string zoneSubnet6(int zone) const;
  std::string zoneGateway6(int zone) const;
  std::string hostAddress6() const;
  std::string routerAddress6() const;
  std::string loadBalancerRange6() const;
  std::string allSegments6() const;  // the /61
  // Of the first family: where pods find the API, its service, and names.
  std::string advertiseAddress() const { return ipv6First ? hostAddress6() : hostAddress(); }
  std::string kubernetesServiceAddress() const;
  std::string dnsAddress() const;
  std::string apiUrl() const;                   // from this machine
  std::vector<std::string> masterUrls() const;  // the masters themselves, from the segments and from this machine
  std::string registryHost() const;             // the name that image references carry, with its port
  std::string engineBridge() const;             // of this machine's Docker containers
  std::string engineSubnet() const;
  std::vector<NodePlan> nodePlans() const;
  std::vector<MasterPlan> masterPlans() const;
  // Of the store that the masters share; empty for the embedded one.
  std::vector<std::string> storeEndpoints() const;
  // Before each key of etcd. The keys of a generation begin with '!' for whoever uses the prefix without one: they are
  // hidden from it.
  std::string storePrefix() const;
};

// What the clusters of a machine share out among them.
inline constexpr const char* kAllSegments = "10.89.0.0/16";
inline constexpr const char* kAllSegments6 = "fd00:10:89::/48";
inline constexpr const char* kAllEngines = "10.88.0.0/16";
inline constexpr uint16_t kMemberClientPort = 2379;
inline constexpr uint16_t kMemberPeerPort = 2380;
inline constexpr int kMaxZones = 7;
inline constexpr int kMaxClusters = 32;
inline constexpr int kMaxNodes = 100;
inline constexpr int kMaxMasters = 7;
// The last part of addresses on a segment: 1 is the gateway, then masters, then nodes. Unique in the whole region.
inline constexpr int kFirstMasterHost = 3;
inline constexpr int kFirstNodeHost = 10;
inline constexpr int kLastNodeHost = 250;

// "30s", "5m", "1h", "2d"; zero for "off". kInvalid for anything else.
Result<std::chrono::seconds> parseInterval(const std::string& text);
// kInvalid with what is wrong: names, counts.
Result<> validateRequest(const ClusterRequest& request);
// Chooses ranges and ports by index.
ClusterConfig configFor(const ClusterRequest& request, int index);
// What another version has put into the file and this one does not know stays in it.
Result<> saveConfig(const ClusterConfig& config);
// kFailedPrecondition when a newer version has given the file a form that this one does not know.
Result<ClusterConfig> loadConfig(const ClusterPaths& paths);
// kNotFound, with what to do.
Error noSuchCluster(const ClusterPaths& paths);
// Clusters that are running or stopped on this machine, by name; each is known by /run/dhow/<name>/data.
Result<std::vector<ClusterPaths>> knownClusters();
// Those with a configuration in this data folder, up or down, by name.
Result<std::vector<ClusterPaths>> clustersIn(const std::string& dataDir);

}  // namespace dhow::platform
