// zone: a cluster's availability zones, cut from the network and put back.
#include <cstdio>

#include "cluster_option.h"
#include "commands.h"

namespace dhow::cli {

namespace {

int list(Workbench& workbench, const platform::ClusterConfig& config) {
  auto zones = runOn(workbench.loop, workbench.cluster.zones(config));
  if (!zones.ok()) return fail(zones.error());
  std::printf("%-20s %-10s %-8s %-8s\n", "ZONE", "NETWORK", "MASTERS", "NODES");
  for (const auto& zone : *zones)
    std::printf("%-20s %-10s %-8d %-8d\n", zone.name.c_str(), zone.up ? "Up" : "Cut", zone.masters, zone.nodes);
  return 0;
}

int act(const ClusterOption& option, const std::string& verb, const std::string& zone) {
  if (verb != "list" && zone.empty()) return fail(Error(Code::kInvalid, "which zone? `dhow zone list` shows them"));
  return withCluster(option, [&](Workbench& workbench, const platform::ClusterConfig& config) {
    if (verb == "list") return list(workbench, config);
    auto done = runOn(workbench.loop, workbench.cluster.setZone(config, zone, verb == "restore"));
    if (!done.ok()) return fail(done.error());
    std::printf("zone %s is %s\n", zone.c_str(), verb == "cut" ? "cut off" : "connected again");
    return 0;
  });
}

}  // namespace

void addZone(CLI::App& app, Action* chosen) {
  auto* command = app.add_subcommand("zone", "list zones; cut one off as a power failure would, and restore it");
  auto option = addClusterOption(command);
  auto verb = std::make_shared<std::string>(), zone = std::make_shared<std::string>();
  command->add_option("verb", *verb, "list, cut or restore")
      ->required()
      ->check(CLI::IsMember({"list", "cut", "restore"}));
  command->add_option("zone", *zone, "as `dhow zone list` shows it");
  command->callback([=] { *chosen = [=] { return act(*option, *verb, *zone); }; });
}

}  // namespace dhow::cli
