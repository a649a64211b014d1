// The region of a local cluster: a network namespace that is its router, with one bridge a zone (its segment) and an
// uplink to this machine; and one namespace for each node on its zone's segment. Everything is named after the
// cluster's index, so that clusters never meet.
//
//   this machine --- uplink --- router -+- zone 1 --- node 1, node 4, ...
//                                       +- zone 2 --- node 2, ...
//
// All functions block and are idempotent: they make or remove what is missing or left.
#pragma once

#include "base/result.h"
#include "platform/config.h"

namespace dhow::platform {

Result<> createRegion(const ClusterConfig& config);
// The node's namespace, pinned at paths().nodeNamespace(name), with eth0 on its zone's segment.
Result<> createNodeLink(const ClusterConfig& config, const NodePlan& node);
Result<> removeNodeLink(const ClusterConfig& config, const std::string& node);
// Whether the router stands.
bool regionExists(const ClusterConfig& config);
Result<> removeRegion(const ClusterConfig& config);
// The lowest index whose ranges and links nothing on this machine uses.
Result<int> freeClusterIndex();

}  // namespace dhow::platform
