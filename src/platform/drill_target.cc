#include "drill_target.h"

#include <signal.h>

#include <algorithm>

#include "base/files.h"
#include "base/process.h"
#include "base/strings.h"

namespace dhow::platform {

namespace {

Error notWhole(const std::string& what) {
  return Error(Code::kFailedPrecondition, "a drill starts on a cluster that is whole: " + what);
}

Error unknown(DrillKind kind, const std::string& name, const std::vector<std::string>& there) {
  const char* what = kind == DrillKind::kZone                               ? "zone"
                     : kind == DrillKind::kNode || kind == DrillKind::kLink ? "node"
                                                                            : "master";
  return Error(Code::kNotFound, fmt::format("there is no {} {}; there are {}", what, name, join(there, ", ")));
}

std::set<std::string> nodesIn(const DrillView& view, const std::string& zone) {
  std::set<std::string> out;
  for (const auto& machine : view.state.machines)
    if (!machine.master && machine.zone == zone) out.insert(machine.name);
  return out;
}

std::set<std::string> zonesOfMasters(const DrillView& view) {
  std::set<std::string> out;
  for (const auto& machine : view.state.machines)
    if (machine.master) out.insert(machine.zone);
  return out;
}

Result<DrillTarget> chooseZone(const DrillView& view, const std::string& name) {
  std::vector<std::string> there, fit;
  const auto masters = zonesOfMasters(view);
  std::string leads;
  for (const auto& machine : view.state.machines)
    if (machine.master && machine.name == view.state.leader) leads = machine.zone;
  for (const auto& zone : view.zones) {
    there.push_back(zone.name);
    const bool allMasters = masters.size() == 1 && masters.contains(zone.name);
    if (!nodesIn(view, zone.name).empty() && !allMasters) fit.push_back(zone.name);
  }
  if (!name.empty() && std::find(there.begin(), there.end(), name) == there.end())
    return unknown(DrillKind::kZone, name, there);
  if (there.size() < 2) return Error(Code::kInvalid, "the region has one zone: with it everything would be lost");
  if (fit.empty()) return Error(Code::kInvalid, "no zone has nodes and leaves a master outside of it");
  DrillTarget target{DrillKind::kZone, name};
  // The one without the leader shows the zone's loss alone.
  if (name.empty()) {
    auto quiet = std::find_if(fit.rbegin(), fit.rend(), [&](const auto& zone) { return zone != leads; });
    target.name = quiet == fit.rend() ? fit.back() : *quiet;
  } else if (std::find(fit.begin(), fit.end(), name) == fit.end()) {
    return Error(Code::kInvalid, fmt::format("zone {} has no nodes, or all masters: nobody would notice; try {}", name,
                                             join(fit, ", ")));
  }
  target.nodes = nodesIn(view, target.name);
  return target;
}

Result<DrillTarget> chooseNode(const DrillView& view, DrillKind kind, const std::string& name) {
  std::vector<std::string> there;
  for (const auto& machine : view.state.machines)
    if (!machine.master) there.push_back(machine.name);
  if (there.empty()) return Error(Code::kInvalid, "the cluster has no nodes");
  if (!name.empty() && std::find(there.begin(), there.end(), name) == there.end()) return unknown(kind, name, there);
  DrillTarget target{kind, name.empty() ? there.back() : name};
  target.nodes = {target.name};
  return target;
}

Result<DrillTarget> chooseMaster(const DrillView& view, DrillKind kind, const std::string& name) {
  if (kind == DrillKind::kStore && view.foreignStore)
    return Error(Code::kInvalid,
                 "the store was there before the cluster (--datastore): it is not the drill's to break");
  std::vector<std::string> there;
  std::string leads = kind == DrillKind::kMaster ? view.state.leader : "";
  for (const auto& machine : view.state.machines)
    if (machine.master) there.push_back(machine.name);
  for (const auto& member : view.state.members)
    if (kind == DrillKind::kStore && member.leads) leads = member.name;
  if (!name.empty() && std::find(there.begin(), there.end(), name) == there.end()) return unknown(kind, name, there);
  DrillTarget target{kind, !name.empty() ? name : !leads.empty() ? leads : there.front()};
  target.onlyMaster = there.size() == 1;
  target.led = kind == DrillKind::kMaster && !target.onlyMaster && target.name == view.state.leader;
  target.member = kind == DrillKind::kStore && !view.state.members.empty();
  for (const auto& machine : view.state.machines)
    if (machine.name == target.name) target.address = machine.address;
  return target;
}

// The process that holds a master's store: its member's, or its server's.
pid_t storeProcess(const ClusterPaths& paths, const DrillTarget& target) {
  auto names = listDir("/proc");
  if (!names.ok()) return 0;
  for (const auto& name : *names) {
    auto pid = parseInt(name);
    if (!pid) continue;
    auto line = readFile("/proc/" + name + "/cmdline", 1 << 16);
    if (!line.ok()) continue;
    auto args = split(*line, '\0');
    const bool member = args[0].ends_with("/etcd") && line->find(paths.member(target.name)) != std::string::npos;
    const bool server = args.size() > 3 && args[0].ends_with("/dhow") && args[1] == "server" &&
                        args[3] == paths.masterConfig(target.name);
    if (target.member ? member : server) return static_cast<pid_t>(*pid);
  }
  return 0;
}

Task<Result<>> killStore(Loop& loop, BlockingPool& pool, const ClusterConfig& config, const DrillTarget& target) {
  const pid_t pid = co_await pool.run(loop, [&] { return storeProcess(config.paths(), target); });
  if (pid == 0) co_return Error(Code::kNotFound, "the store's process on " + target.name + " is not found");
  CO_ASSIGN_OR_RETURN(auto fd, pidfdOf(pid));
  if (::kill(pid, SIGKILL) != 0) co_return Error::fromErrno("kill the store's process");
  auto ended = co_await waitReadable(loop, fd.get());
  co_return ended;
}

}  // namespace

Result<> checkWhole(const DrillView& view) {
  if (view.state.down) return Error(Code::kFailedPrecondition, "the cluster is down; `dhow up` starts it");
  if (!view.state.regionAnswers) return notWhole("the region does not answer; `dhow up` starts it");
  if (!view.state.serverAnswers) return notWhole("the API does not answer");
  for (const auto& zone : view.zones)
    if (!zone.up) return notWhole(fmt::format("zone {0} is cut off; `dhow zone restore {0}` puts it back", zone.name));
  for (const auto& [zone, phase] : view.phases)
    if (!phase.empty() && phase != "Up") return notWhole(fmt::format("zone {} is {}", zone, phase));
  for (const auto& machine : view.state.machines) {
    if (machine.held) return notWhole(fmt::format("{0} is stopped; `dhow machine start {0}` starts it", machine.name));
    if (!machine.running) return notWhole(machine.name + " does not run");
    if (machine.cut) return notWhole(machine.name + " is cut off");
    const auto& seen = machine.master ? view.state.mastersAlive : view.state.nodesReady;
    auto found = seen.find(machine.name);
    if (found == seen.end() || !found->second)
      return notWhole(fmt::format("{} {} is not {}", machine.master ? "master" : "node", machine.name,
                                  machine.master ? "serving" : "Ready"));
  }
  for (const auto& [node, ready] : view.state.nodesReady)
    if (!ready) return notWhole(fmt::format("node {} is not Ready", node));
  for (const auto& member : view.state.members)
    if (!member.answers || member.learner) return notWhole(fmt::format("the store's member {} is away", member.name));
  return {};
}

Result<DrillTarget> chooseTarget(const DrillView& view, DrillKind kind, const std::string& name) {
  switch (kind) {
    case DrillKind::kZone: return chooseZone(view, name);
    case DrillKind::kNode:
    case DrillKind::kLink: return chooseNode(view, kind, name);
    case DrillKind::kMaster:
    case DrillKind::kStore: return chooseMaster(view, kind, name);
  }
  return Error(Code::kInvalid, "there is no such drill");
}

namespace {

// What the region switches: the network of a zone or a node, the power of a machine.
Task<Result<>> switchTarget(RegionClient& region, const DrillTarget& target, bool up) {
  switch (target.kind) {
    case DrillKind::kZone: return region.setZone(target.name, up);
    case DrillKind::kLink: return region.setLink(target.name, up);
    default: return up ? region.start(target.name) : region.kill(target.name);
  }
}

}  // namespace

Task<Result<>> breakTarget(Loop& loop, BlockingPool& pool, const ClusterConfig& config, RegionClient& region,
                           const DrillTarget& target) {
  if (target.kind == DrillKind::kStore) return killStore(loop, pool, config, target);
  return switchTarget(region, target, false);
}

// A node that is being repaired just now is let alone; a killed process comes back by itself.
Task<Result<>> restoreTarget(RegionClient& region, const DrillTarget& target) {
  if (target.kind == DrillKind::kStore) co_return Result<>();
  auto done = co_await switchTarget(region, target, true);
  co_return done;
}

std::string brokenText(const DrillTarget& target) {
  switch (target.kind) {
    case DrillKind::kZone: return fmt::format("zone {} is cut off", target.name);
    case DrillKind::kLink: return fmt::format("the link of {} is cut", target.name);
    case DrillKind::kNode: return fmt::format("{} loses its power", target.name);
    case DrillKind::kMaster:
      return fmt::format("{}{} loses its power", target.name, target.led ? ", which leads," : "");
    case DrillKind::kStore:
      return fmt::format("{} of {} is killed", target.member ? "the store's member" : "the process with the store",
                         target.name);
  }
  return "";
}

std::string restoredText(const DrillTarget& target) {
  switch (target.kind) {
    case DrillKind::kZone: return fmt::format("zone {} is connected again", target.name);
    case DrillKind::kLink: return fmt::format("the link of {} is put back", target.name);
    default: return fmt::format("{} is switched on", target.name);
  }
}

}  // namespace dhow::platform
