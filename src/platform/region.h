// The region of a local cluster: a network namespace that is its router, with one bridge a zone (its segment) and an
// uplink to this machine; and one namespace for each machine on its zone's segment. Everything is named after the
// cluster's index, so that clusters never meet.
//
//   this machine --- uplink --- router -+- zone 1 --- master 1, node 1, node 4, ...
//                                       +- zone 2 --- master 2, node 2, ...
//
// All functions block and are idempotent: they make or remove what is missing or left.
#pragma once

#include <set>
#include <string>

#include "base/result.h"
#include "platform/config.h"

namespace dhow::platform {

Result<> createRegion(const ClusterConfig& config);
// The machine's namespace, pinned at paths().machineNamespace(name), with eth0 on its zone's segment.
Result<> createMachineLink(const ClusterConfig& config, const MachinePlan& machine);
Result<> removeMachineLink(const ClusterConfig& config, const std::string& machine);
// Takes a machine off its segment, as a pulled cable does, or puts it back. kNotFound when it has no link.
Result<> setMachineLink(const ClusterConfig& config, const MachinePlan& machine, bool up);
// The same for a whole zone: its segment reaches no other segment and not this machine.
Result<> setZoneLink(const ClusterConfig& config, int zone, bool up);
// Whether the router stands.
bool regionExists(const ClusterConfig& config);
Result<> removeRegion(const ClusterConfig& config);
// Which of the cluster's ranges or links something on this machine uses, where the cluster itself is down; empty: none.
Result<std::string> rangeInUse(const ClusterConfig& config);
// The lowest index, of those not `kept`, whose ranges and links nothing on this machine uses.
Result<int> freeClusterIndex(const std::set<int>& kept = {}, const std::string& ipFamilies = "");

}  // namespace dhow::platform
