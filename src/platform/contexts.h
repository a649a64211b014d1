// The kubeconfig that all clusters of one data folder share: a context for each that is up, named after it, so that
// `kubectl config use-context` switches between them. What others put into the file stays as it is.
#pragma once

#include <string>

#include "base/result.h"
#include "platform/config.h"

namespace dhow::platform {

// <data>/kubeconfig, 0600.
std::string sharedKubeconfig(const std::string& dataDir);
// Adds the cluster's entries or brings them up to date; a context that is new becomes the current one. kAlreadyExists
// when entries of that name were made by somebody else: they stay. Blocks; one at a time on this machine.
Result<> addContext(const ClusterConfig& config);
// Brings the cluster's entries up to date, if there are any. As addContext else.
Result<> refreshContext(const ClusterConfig& config);
// Removes the entries that addContext made, and the file when nothing is left in it.
Result<> removeContext(const ClusterPaths& paths);

}  // namespace dhow::platform
