// What the machines of a cluster are made of: which program each runs and what of this machine it sees.
#pragma once

#include "base/result.h"
#include "image/hosts.h"
#include "platform/cluster.h"
#include "platform/config.h"
#include "runtime/spec.h"

namespace dhow::platform {

runtime::MachineSpec masterMachine(const ClusterConfig& config, const Cluster::Programs& programs);
runtime::MachineSpec nodeMachine(const ClusterConfig& config, const Cluster::Programs& programs, const NodePlan& node);
// Writes the node's identity and the file that its agent reads. Blocks.
Result<> prepareNode(const ClusterConfig& config, const NodePlan& node);

// How the cluster's registry is reached from here.
Result<image::RegistryHosts> clusterRegistries(const ClusterConfig& config);

// Everything of this cluster in the cgroup tree is below here.
std::string cgroupOf(const ClusterConfig& config);

}  // namespace dhow::platform
