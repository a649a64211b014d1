// The options that name a cluster of this machine, shared by the commands that act on one.
#pragma once

#include <memory>
#include <string>

#include "base/blocking.h"
#include "base/result.h"
#include "cli/command.h"
#include "platform/cluster.h"

namespace dhow::cli {

struct ClusterOption {
  std::string name = "dhow";
  std::string data = platform::kDefaultDataDir;

  platform::ClusterPaths paths() const { return platform::ClusterPaths(data, name); }
  // The cluster's configuration; kNotFound with what to do when there is no such cluster.
  Result<platform::ClusterConfig> load() const;
  // There is no such cluster here, and this machine is a part of one of separate hosts: commands that make sense there
  // act on that.
  bool meansHost() const;
};

// Adds --name and --data. The object lives as long as the command.
std::shared_ptr<ClusterOption> addClusterOption(CLI::App* command);

// kPermissionDenied for others: the cluster's identities, machines and links are root's.
Result<> needRoot();

// A step of a command that takes a while, with its time.
void printStep(const std::string& step, Duration took);

// What a command works with: the loop is the thread's, and runs while a command waits.
struct Workbench {
  RealLoop loop;
  BlockingPool pool{4};
  platform::Programs programs;
  platform::Cluster cluster{loop, pool, programs};
};

// Calls `act(workbench)`: it gives the exit code.
template <class F>
int withWorkbench(F act) {
  if (auto root = needRoot(); !root.ok()) return fail(root.error());
  auto programs = platform::Programs::ofThisProcess();
  if (!programs.ok()) return fail(programs.error());
  Workbench workbench{.programs = std::move(*programs)};
  return act(workbench);
}

// The same for the cluster that is named: `act(workbench, config)`.
template <class F>
int withCluster(const ClusterOption& option, F act) {
  if (auto root = needRoot(); !root.ok()) return fail(root.error());
  auto config = option.load();
  if (!config.ok()) return fail(config.error());
  return withWorkbench([&](Workbench& workbench) { return act(workbench, std::as_const(*config)); });
}

}  // namespace dhow::cli
