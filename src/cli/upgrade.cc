// upgrade: the programs of a running cluster, or of a host of one, replaced by others.
#include <cstdio>

#include "cluster_option.h"
#include "commands.h"
#include "host/upgrade.h"

namespace dhow::cli {

namespace {

void show(const std::string& subject, const platform::Upgraded& done) {
  if (done.from != done.to)
    std::printf("%s runs dhow %s; before it was %s\n", subject.c_str(), done.to.c_str(), done.from.c_str());
  else if (done.snapshot.empty() && done.members == 0)
    std::printf("%s runs dhow %s; nothing was to be done\n", subject.c_str(), done.to.c_str());
  else
    std::printf("%s runs dhow %s everywhere again\n", subject.c_str(), done.to.c_str());
  if (done.members > 0) std::printf("started anew with another etcd: %d of the store's members\n", done.members);
  if (!done.snapshot.empty()) std::printf("what the store held before is kept in %s\n", done.snapshot.c_str());
}

int upgrade(Workbench& workbench, const platform::ClusterConfig& config, const std::string& to) {
  auto done = runOn(workbench.loop, workbench.cluster.upgrade(config, to, printStep));
  if (!done.ok()) return fail(done.error());
  show(fmt::format("cluster \"{}\"", config.request.name), *done);
  return 0;
}

int upgradeHost(const ClusterOption& option, const std::string& to) {
  auto config = host::loadHost(option.data);
  if (!config.ok()) return fail(config.error());
  return withWorkbench([&](Workbench& workbench) {
    auto done = runOn(workbench.loop,
                      host::upgrade(workbench.loop, workbench.pool, *config, workbench.programs, to, printStep));
    if (!done.ok()) return fail(done.error());
    show(fmt::format("this host of cluster \"{}\"", config->cluster), *done);
    return 0;
  });
}

}  // namespace

void addUpgrade(CLI::App& app, Action* chosen) {
  auto* command = app.add_subcommand(
      "upgrade",
      "replace a running cluster's programs by these: masters, then nodes, without stopping a container; of "
      "a cluster of separate machines those of this machine");
  auto option = addClusterOption(command);
  auto to = std::make_shared<std::string>();
  command->add_option("--to", *to,
                      "by others: a folder with dhow and dhow-shim, or the id of ones that the cluster had before; one "
                      "version back is fine");
  command->callback([=] {
    *chosen = [=] {
      if (option->meansHost()) return upgradeHost(*option, *to);
      return withCluster(*option, [&](Workbench& workbench, const platform::ClusterConfig& config) {
        return upgrade(workbench, config, *to);
      });
    };
  });
}

}  // namespace dhow::cli
