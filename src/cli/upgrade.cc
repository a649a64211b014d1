// upgrade: a running cluster's programs, replaced by others.
#include <cstdio>

#include "cluster_option.h"
#include "commands.h"

namespace dhow::cli {

namespace {

int upgrade(Workbench& workbench, const platform::ClusterConfig& config, const std::string& to) {
  auto done = runOn(workbench.loop, workbench.cluster.upgrade(config, to, printStep));
  if (!done.ok()) return fail(done.error());
  const char* name = config.request.name.c_str();
  if (done->from == done->to && done->snapshot.empty()) {
    std::printf("cluster \"%s\" runs dhow %s; nothing was to be done\n", name, done->to.c_str());
    return 0;
  }
  if (done->from == done->to)
    std::printf("cluster \"%s\" runs dhow %s everywhere again\n", name, done->to.c_str());
  else
    std::printf("cluster \"%s\" runs dhow %s; before it was %s\n", name, done->to.c_str(), done->from.c_str());
  if (!done->snapshot.empty()) std::printf("what the store held before is kept in %s\n", done->snapshot.c_str());
  return 0;
}

}  // namespace

void addUpgrade(CLI::App& app, Action* chosen) {
  auto* command = app.add_subcommand(
      "upgrade", "replace a running cluster's programs by these: masters, then nodes, without stopping a container");
  auto option = addClusterOption(command);
  auto to = std::make_shared<std::string>();
  command->add_option("--to", *to,
                      "by others: a folder with dhow and dhow-shim, or the id of ones that the cluster had before; one "
                      "version back is fine");
  command->callback([=] {
    *chosen = [=] {
      return withCluster(*option, [&](Workbench& workbench, const platform::ClusterConfig& config) {
        return upgrade(workbench, config, *to);
      });
    };
  });
}

}  // namespace dhow::cli
