// What makes a machine a master of separate hosts, and what makes a master's machine a node, too: identities, keys and
// the files that the processes read. All block. Nothing is started here (services.h).
#pragma once

#include "base/loop.h"
#include "host/config.h"

namespace dhow::host {

struct HostAddress;

// Of the first master. Checks all that can be checked before anything is written; what a failed try has written is
// removed. kAlreadyExists when the machine belongs to a cluster already, unless `request` only adds `node` to a master.
Result<HostConfig> prepareServer(const ServerRequest& request, WallTime now);

// What the masters of a cluster have in common beyond the ranges.
struct MasterSettings {
  std::string loadBalancerRange;
  bool restricted = false;
  int snapshotEvery = 0;                     // seconds
  int certificateSeconds = 0;                // how long certificates hold; 0: a year
  std::map<std::string, std::string> peers;  // masters with a member: name -> address, this one among them
  std::vector<std::string> datastore;        // of an etcd that is there already
  std::string datastoreCa, datastoreCert, datastoreKey;
};

// With the authorities and keys under pki/: this master's identities, the administrator's kubeconfig, master.json.
Result<> writeMaster(const HostConfig& config, const MasterSettings& settings, WallTime now);
// The node of a master's machine, after writeMaster(); the authority is there, so that nobody is asked for a
// certificate.
Result<> writeOwnNode(const HostConfig& config, const HostAddress& place, WallTime now);

// A node's file; its identity is there.
struct NodeTraits {
  std::map<std::string, std::string> labels;
  std::vector<node::Taint> taints;
};
Result<> writeNodeConfig(const HostConfig& config, const HostAddress& place, const std::vector<std::string>& servers,
                         const NodeTraits& traits);

}  // namespace dhow::host
