// What the machines of a cluster are made of: which program each runs and what of this machine it sees.
#pragma once

#include "base/result.h"
#include "image/hosts.h"
#include "node/options.h"
#include "platform/config.h"
#include "runtime/spec.h"

namespace dhow::platform {

// What a node is asked to be beyond its plan.
struct NodeTraits {
  std::map<std::string, std::string> labels;
  std::vector<node::Taint> taints;
  std::map<std::string, std::string> resources;  // {"cpu": "2", "memory": "4Gi"}: what it says that it has
  std::string pool, version;                     // of whoever made it; given back
};

// They run what their link leads to (programs.h).
runtime::MachineSpec masterMachine(const ClusterConfig& config, const MasterPlan& master);
runtime::MachineSpec nodeMachine(const ClusterConfig& config, const NodePlan& node);
// The words that the command line of a machine's role begins with.
std::vector<std::string> masterCommand(const ClusterConfig& config, const std::string& master);
std::vector<std::string> nodeCommand(const ClusterConfig& config, const std::string& node);
// Write the machine's identities and the file that its process reads. Block.
Result<> prepareMaster(const ClusterConfig& config, const MasterPlan& master);
Result<> prepareNode(const ClusterConfig& config, const NodePlan& node, const NodeTraits& traits);

// How the cluster's registry is reached from here.
Result<image::RegistryHosts> clusterRegistries(const ClusterConfig& config);

// Everything of this cluster in the cgroup tree is below here.
std::string cgroupOf(const ClusterConfig& config);

}  // namespace dhow::platform
