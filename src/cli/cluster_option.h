// The options that name a cluster of this machine, shared by the commands that act on one.
#pragma once

#include <memory>
#include <string>

#include "base/result.h"
#include "cli/command.h"
#include "platform/config.h"

namespace dhow::cli {

struct ClusterOption {
  std::string name = "dhow";
  std::string data = platform::kDefaultDataDir;

  platform::ClusterPaths paths() const { return platform::ClusterPaths(data, name); }
  // The cluster's configuration; kNotFound with what to do when there is no such cluster.
  Result<platform::ClusterConfig> load() const;
};

// Adds --name and --data. The object lives as long as the command.
std::shared_ptr<ClusterOption> addClusterOption(CLI::App* command);

}  // namespace dhow::cli
