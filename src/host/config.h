// What this machine is in a cluster of separate hosts: a master, a node or both; and what was asked for when it became
// so. Kept as <data>/host/host.json, which is there from the moment when all else is, until `dhow leave`.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/result.h"
#include "host/layout.h"
#include "node/options.h"

namespace dhow::host {

inline constexpr uint16_t kApiPort = 6443;
inline constexpr const char* kDomain = "cluster.local";

struct HostConfig {
  std::string dataDir = platform::kDefaultDataDir;
  std::string name;  // of the host: of its Node and of its master
  std::string cluster, region, zone;
  std::string address;                   // as other hosts reach it; of the cluster's first family
  std::string podRange, serviceRange;    // of IPv4; empty: the cluster has IPv6 alone
  std::string podRange6, serviceRange6;  // of IPv6; empty: IPv4 alone
  bool ipv6First = false;
  uint16_t port = kApiPort;  // of the masters
  bool master = false, member = false, node = false;
  // Kernel settings that the agent changes, as they were before: given back by `dhow leave`.
  std::map<std::string, std::string> settings;

  HostPaths paths() const { return HostPaths(dataDir); }
  const std::string& firstServiceRange() const { return ipv6First ? serviceRange6 : serviceRange; }
  std::string apiUrl() const;                                             // of a master: its own
  std::string cgroup() const { return "/dhow/" + cluster + "-" + name; }  // of all pods here
};

bool hostExists(const std::string& dataDir);
Result<HostConfig> loadHost(const std::string& dataDir);  // kNotFound, with what to do, when it belongs to no cluster
Result<> saveHost(const HostConfig& config);

// `dhow server`. Empty texts are chosen.
struct ServerRequest {
  std::string dataDir = platform::kDefaultDataDir;
  std::string cluster = "dhow", region = "local", zone, hostName;
  std::string advertise;
  uint16_t port = kApiPort;
  // One range, or one of each family, that of the first one first: "10.244.0.0/16,fd00:10:244::/56".
  std::string podRange = "10.244.0.0/16", serviceRange = "10.96.0.0/16", loadBalancerRange;
  std::string store = "embedded";                                   // or "etcd": a member on each master
  std::string datastore, datastoreCa, datastoreCert, datastoreKey;  // etcd=https://...: one that is there already
  std::string sensitivity = "internal", snapshotEvery = "1h";
  bool encryptSecrets = false;
  int certificateSeconds = 0;  // as platform::ClusterRequest
  bool node = false;           // runs pods, too
};

// `dhow join`.
struct JoinRequest {
  std::string dataDir = platform::kDefaultDataDir;
  std::string server;  // "https://host-a:6443"
  std::string token;
  std::vector<std::string> caHashes;  // "sha256:<64 hex>"
  std::string zone, hostName, address;
  std::map<std::string, std::string> labels;
  std::vector<node::Taint> taints;
  bool master = false;
  bool node = true;            // of a master: runs pods, too
  std::string certificateKey;  // with `master`: opens the keys that `dhow token create --master` put up
};

// kInvalid names the option that is wrong.
Result<> validate(const ServerRequest& request);
Result<> validate(const JoinRequest& request);
// "<range>" or "<range>,<range>", by family; what is missing is "".
struct FamilyRanges {
  std::string v4, v6;
  bool v6First = false;
  std::string text() const;  // as it was given
};
// kInvalid when there are two of one family, or more.
Result<FamilyRanges> familyRanges(std::string_view option, const std::string& text);
// The ranges that a valid request asks for, by family.
void takeRanges(const ServerRequest& request, HostConfig& into);
// "key=value:Effect" or "key:Effect", as kubectl taint takes it; "key=value".
Result<node::Taint> parseTaint(const std::string& text);
Result<std::pair<std::string, std::string>> parseLabel(const std::string& text);
// This machine's name as a Node's may be: lower case, at most 63 characters.
Result<std::string> defaultHostName();

}  // namespace dhow::host
