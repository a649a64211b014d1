// What the machines of a cluster are made of: which program each runs and what of this machine it sees.
#pragma once

#include <boost/json/object.hpp>

#include "base/result.h"
#include "platform/cluster.h"
#include "platform/config.h"
#include "runtime/spec.h"

namespace dhow::platform {

runtime::MachineSpec masterMachine(const ClusterConfig& config, const Cluster::Programs& programs);
runtime::MachineSpec nodeMachine(const ClusterConfig& config, const Cluster::Programs& programs, const NodePlan& node);
// Writes the node's identity and the file that its agent reads. Blocks.
Result<> prepareNode(const ClusterConfig& config, const NodePlan& node);

// The cluster's registry, as `registries:` in registries.yaml says how to reach one (image/hosts.h).
boost::json::object registriesOf(const ClusterConfig& config, const std::string& authorityPem, const std::string& password);

// Everything of this cluster in the cgroup tree is below here.
std::string cgroupOf(const ClusterConfig& config);

}  // namespace dhow::platform
