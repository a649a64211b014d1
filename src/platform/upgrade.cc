// Cluster::upgrade: the programs of a running cluster, replaced process by process.
#include <signal.h>

#include <set>

#include "base/files.h"
#include "base/log.h"
#include "base/notify.h"
#include "base/process.h"
#include "base/strings.h"
#include "client/fields.h"
#include "client/node_lease.h"
#include "cluster_rep.h"
#include "platform/region.h"
#include "platform/region_process.h"
#include "platform/snapshots.h"

namespace dhow::platform {

using namespace std::chrono_literals;

namespace {

// How long what was replaced may take until it is well.
constexpr Duration kReplaceLimit = 30s;

struct Part {
  enum class Kind { kRegion, kMaster, kNode, kEngine };
  Kind kind = Kind::kRegion;
  std::string process;  // the name of its link (programs.h)
  std::string program;  // what it runs; empty: nothing just now
};

Error refused(std::string text) {
  return Error(Code::kFailedPrecondition, std::move(text));
}

// Calls `changed` of the region until the connection is closed.
Task<> follow(RegionClient* client, Signal* news, bool* ended) {
  (void)(co_await client->follow([news](const std::string&) { news->notify(); })).ok();
  *ended = true;
  news->notify();
}

}  // namespace

Result<> checkFollows(const ClusterConfig& config, const Programs& next, const std::string& before) {
  const Version from = versionOf(before), to = next.info.version;
  if (!workTogether(from, to))
    return refused(
        fmt::format("cluster \"{}\" runs dhow {}, and {} is too far from it: versions work together when their "
                    "minor numbers differ by one at most. Go through the versions between them",
                    config.request.name, from.text(), to.text()));
  if (config.storeForm > next.info.store.reads)
    return refused(fmt::format(
        "the store of cluster \"{}\" has form {}, which dhow {} writes; dhow {} reads forms up to "
        "{}. Nothing was changed",
        config.request.name, config.storeForm, versionOf(config.program).text(), to.text(), next.info.store.reads));
  return {};
}

struct Upgrade {
  Cluster::Rep& rep;
  ClusterConfig config;
  Stopwatch watch;
  Programs target;
  RegionClient region = rep.regionOf(config);
  int members = 0;  // started anew

  Task<Result<std::vector<Part>>> parts();
  Result<> checkVersions(const std::vector<Part>& parts, bool asked) const;
  Task<Result<>> checkWhole();
  Task<Result<>> checkNodes(const std::vector<MachineInfo>& machines, bool apiMayBeAway);
  Task<Result<std::string>> prepare(bool begun);
  Task<Result<>> replaceAll(std::vector<Part> parts);
  Task<Result<>> replace(Part part);
  Task<Result<>> change(const Part& part, std::string program);
  Task<Result<>> changeMaster(std::string name, std::string program);
  Task<Result<>> changeNode(std::string name, std::string program);
  Task<Result<>> changeEngine(std::string program);
  Task<Result<>> waitMasterSeen(std::string name);
  Task<Result<>> renewMembers();
  Task<std::string> mixture();
  // One whose program an upgrade has changed already may be unwell: it comes first.
  bool underWay(const std::string& machine) const {
    const auto linked = linkedProgram(config.paths(), machine);
    return !linked.empty() && linked != config.program;
  }
};

// In the order in which they are replaced: of the masters the leader last.
Task<Result<std::vector<Part>>> Upgrade::parts() {
  auto paths = config.paths();
  auto listed = co_await region.list();
  CO_RETURN_IF_ERROR(listed);
  std::string leader;
  auto api = rep.clientOf(config);
  if (api.ok()) {
    auto lease = co_await (*api)->get(object::resources::kLeases, "kube-system", "dhow-master");
    if (lease.ok()) leader = client::text((*lease)->root(), {"spec", "holderIdentity"});
    co_await (*api)->stop();
  }
  std::vector<Part> out{{Part::Kind::kRegion, kRegionProcess, regionProgram(paths)}};
  for (bool leads : {false, true}) {
    for (const auto& machine : listed->machines) {
      if (machine.master && (machine.name == leader) == leads)
        out.push_back({Part::Kind::kMaster, machine.name, machine.program});
    }
  }
  for (const auto& machine : listed->machines) {
    if (!machine.master) out.push_back({Part::Kind::kNode, machine.name, machine.program});
  }
  out.push_back({Part::Kind::kEngine, kEngineProcess, runningProgram(paths, findEngine(paths))});
  co_return out;
}

Result<> Upgrade::checkVersions(const std::vector<Part>& parts, bool asked) const {
  std::set<std::string> running{config.program};
  for (const auto& part : parts) {
    if (!part.program.empty()) running.insert(part.program);
  }
  for (const auto& id : running) {
    if (id == target.id) continue;
    RETURN_IF_ERROR(checkFollows(config, target, id));
    if (!asked && target.info.version < versionOf(id))
      return refused(
          fmt::format("cluster \"{}\" runs dhow {}, and this is {}, which is older; `dhow upgrade --to {}` goes "
                      "back to it",
                      config.request.name, versionOf(id).text(), target.info.version.text(), target.folder()));
  }
  return {};
}

Task<Result<>> Upgrade::checkNodes(const std::vector<MachineInfo>& machines, bool apiMayBeAway) {
  CO_ASSIGN_OR_RETURN(auto api, rep.clientOf(config));
  auto listed = co_await api->list(object::resources::kNodes, {});
  co_await api->stop();
  if (!listed.ok() && apiMayBeAway) co_return Result<>();
  if (!listed.ok()) co_return std::move(listed).error().wrap("the API does not answer");
  std::set<std::string> ready;
  for (const auto& node : listed->items) {
    if (client::conditionTrue(node->root(), "Ready")) ready.insert(std::string(node->name()));
  }
  for (const auto& machine : machines) {
    if (machine.master || underWay(machine.name) || ready.contains(machine.name)) continue;
    co_return refused(
        fmt::format("{} is not Ready (its log: {}/log)", machine.name, config.paths().node(machine.name)));
  }
  co_return Result<>();
}

Task<Result<>> Upgrade::checkWhole() {
  auto listed = co_await region.list();
  CO_RETURN_IF_ERROR(listed);
  auto masters = co_await region.masters();
  CO_RETURN_IF_ERROR(masters);
  std::set<std::string> alive;
  for (const auto& master : *masters) {
    if (master.alive) alive.insert(master.name);
  }
  for (const auto& zone : listed->zones) {
    if (!zone.up)
      co_return refused(fmt::format("zone {0} is cut off; `dhow zone restore {0}` puts it back", zone.name));
  }
  bool masterAway = false;
  for (const auto& machine : listed->machines) {
    if (machine.cut) co_return refused(fmt::format("{} is cut from its network", machine.name));
    if (!machine.running)
      co_return refused(fmt::format("{0} is stopped; `dhow machine start {0}` starts it", machine.name));
    if (!machine.master) continue;
    if (underWay(machine.name)) masterAway = true;
    if (!alive.contains(machine.name) && !underWay(machine.name))
      co_return refused(
          fmt::format("{} does not answer (its log: {}/log)", machine.name, config.paths().master(machine.name)));
  }
  const auto members = co_await memberStates(rep.loop, config);
  for (const auto& member : members) {
    if (!member.answers) co_return refused(fmt::format("the store's member {} does not answer", member.name));
  }
  auto nodes = co_await checkNodes(listed->machines, masterAway);
  co_return nodes;
}

// Everything that can be found out before the first process ends. Gives the snapshot's file.
Task<Result<std::string>> Upgrade::prepare(bool begun) {
  auto paths = config.paths();
  auto whole = co_await checkWhole();
  if (!whole.ok()) co_return std::move(whole).error().wrap("the cluster is not whole, and nothing was changed");
  std::string file;
  if (!begun) {
    file = fmt::format("{}/before-upgrade-{}", paths.snapshots(), snapshotName(rep.loop.wallNow(), false));
    auto saved = co_await fetchSnapshot(rep.loop, paths.kubeconfig(), file);
    CO_RETURN_IF_ERROR(saved);
    watch.step("checks and snapshot");
  }
  auto installed = co_await rep.pool.run(rep.loop, [&]() -> Result<> {
    ASSIGN_OR_RETURN(auto own, installPrograms(paths, target));
    // From there it runs as well, and is what was asked for.
    RETURN_IF_ERROR(installedPrograms(paths, own.id));
    target = std::move(own);
    config.storeForm = std::max(config.storeForm, target.info.store.writes);
    return saveConfig(config);
  });
  CO_RETURN_IF_ERROR(installed);
  co_return file;
}

Task<Result<>> Upgrade::waitMasterSeen(std::string name) {
  auto follower = rep.regionOf(config);
  Signal news(rep.loop);
  bool ended = false, late = false, seen = false;
  Gate gate(rep.loop);
  gate.spawn(follow(&follower, &news, &ended));
  Timer limit = rep.loop.after(kReplaceLimit, [&] {
    late = true;
    news.notify();
  });
  while (!ended && !late) {
    // First of all the stream tells that it has begun: from then on nothing is missed.
    co_await news.wait();
    auto masters = co_await region.masters();
    if (!masters.ok()) continue;
    for (const auto& master : *masters) seen = seen || (master.name == name && master.alive);
    if (seen) break;
  }
  follower.close();
  co_await gate.close();
  if (!seen) co_return Error(Code::kDeadlineExceeded, fmt::format("the region does not reach {}", name));
  co_return Result<>();
}

Task<Result<>> Upgrade::changeMaster(std::string name, std::string program) {
  CO_ASSIGN_OR_RETURN(auto ready, ReadySocket::create(config.paths().ready(name)));
  auto listed = co_await region.list();
  CO_RETURN_IF_ERROR(listed);
  const bool runs = std::any_of(listed->machines.begin(), listed->machines.end(), [&](const auto& machine) {
    return machine.name == name && machine.program == program;
  });
  auto replaced = co_await region.replace(name, program);
  CO_RETURN_IF_ERROR(replaced);
  const bool answers = runs && co_await rep.masterAnswers(config, name);
  if (!answers) {
    auto waited = co_await ready.wait(rep.loop, kReplaceLimit);
    if (!waited.ok())
      co_return std::move(waited).error().wrap(fmt::format("its log: {}/log", config.paths().master(name)));
  }
  auto seen = co_await waitMasterSeen(name);
  co_return seen;
}

Task<Result<>> Upgrade::changeNode(std::string name, std::string program) {
  auto replaced = co_await region.replace(name, program);
  CO_RETURN_IF_ERROR(replaced);
  CO_ASSIGN_OR_RETURN(auto api, rep.clientOf(config));
  auto well = co_await client::awaitNode(rep.loop, *api, name, std::move(program), kReplaceLimit);
  co_await api->stop();
  if (!well.ok()) co_return std::move(well).error().wrap(fmt::format("its log: {}/log", config.paths().node(name)));
  co_return Result<>();
}

Task<Result<>> Upgrade::changeEngine(std::string program) {
  auto paths = config.paths();
  CO_RETURN_IF_ERROR(linkProgram(paths, kEngineProcess, program));
  const pid_t pid = findEngine(paths);
  if (pid != 0 && runningProgram(paths, pid) != program) {
    CO_ASSIGN_OR_RETURN(auto fd, pidfdOf(pid));
    ::kill(pid, SIGTERM);
    Timer late = rep.loop.after(kReplaceLimit, [pid] { ::kill(pid, SIGKILL); });
    auto ended = co_await waitReadable(rep.loop, fd.get());
    CO_RETURN_IF_ERROR(ended);
  }
  auto started = co_await rep.startEngine(config, kReplaceLimit);
  co_return started;
}

Task<Result<>> Upgrade::change(const Part& part, std::string program) {
  switch (part.kind) {
    case Part::Kind::kRegion: co_return co_await replaceRegionProcess(rep.loop, config, program, kReplaceLimit);
    case Part::Kind::kMaster: co_return co_await changeMaster(part.process, program);
    case Part::Kind::kNode: co_return co_await changeNode(part.process, program);
    case Part::Kind::kEngine: co_return co_await changeEngine(program);
  }
}

// Which process runs what, in words.
Task<std::string> Upgrade::mixture() {
  auto all = co_await parts();
  if (!all.ok()) co_return "what runs now is not known: " + all.error().message();
  std::map<std::string, std::vector<std::string>> by;
  for (const auto& part : *all) by[part.program.empty() ? "nothing just now" : part.program].push_back(part.process);
  std::vector<std::string> sentences;
  for (const auto& [program, processes] : by)
    sentences.push_back(fmt::format("{} ({})", program, join(processes, ", ")));
  co_return "running now: " + join(sentences, "; ");
}

Task<Result<>> Upgrade::replace(Part part) {
  const std::string before = part.program.empty() || part.program == target.id ? config.program : part.program;
  auto done = co_await change(part, target.id);
  if (done.ok()) {
    watch.step(part.process);
    co_return done;
  }
  std::string text = fmt::format("{} does not come up with {}: {}", part.process, target.id, done.error().message());
  // When there is nothing to go back to, nothing else is done.
  auto back = before == target.id ? Result<>(done.error()) : co_await change(part, before);
  if (before != target.id)
    text += back.ok() ? fmt::format("; it runs {} again", before)
                      : fmt::format("; and it is not back with {}: {}", before, back.error().message());
  auto mixed = co_await mixture();
  co_return refused(
      fmt::format("{}. The upgrade has stopped; {}. `dhow upgrade` with the same programs goes on, `dhow "
                  "upgrade --to {}` goes back",
                  text, mixed, before));
}

// Members run the machine's etcd: they start anew, one at a time, where Debian has replaced its file.
Task<Result<>> Upgrade::renewMembers() {
  if (!config.request.ownMembers()) co_return Result<>();
  CO_ASSIGN_OR_RETURN(const std::string etcd, findEtcd());
  auto listed = co_await region.list();
  CO_RETURN_IF_ERROR(listed);
  for (const auto& machine : listed->machines) {
    const pid_t member = machine.master ? findRole(machine.pid, {etcd}) : 0;
    if (member == 0 || !runsOtherEtcd(member)) continue;
    auto whole = co_await checkWhole();
    CO_RETURN_IF_ERROR(whole);
    CO_ASSIGN_OR_RETURN(auto fd, pidfdOf(member));
    CO_ASSIGN_OR_RETURN(auto ready, ReadySocket::create(config.paths().memberReady(machine.name)));
    ::kill(member, SIGTERM);
    Timer late = rep.loop.after(kReplaceLimit, [member] { ::kill(member, SIGKILL); });
    auto ended = co_await waitReadable(rep.loop, fd.get());
    CO_RETURN_IF_ERROR(ended);
    auto serves = co_await rep.waitMember(config, machine.name, ready, kReplaceLimit);
    CO_RETURN_IF_ERROR(serves);
    ++members;
    watch.step("etcd on " + machine.name);
  }
  co_return Result<>();
}

Task<Result<>> Upgrade::replaceAll(std::vector<Part> all) {
  for (const auto& part : all) {
    if (part.kind == Part::Kind::kEngine) continue;
    // Those that are well with it already are not touched by this.
    auto done = co_await replace(part);
    CO_RETURN_IF_ERROR(done);
    if (part.kind != Part::Kind::kRegion) continue;
    // What was connected to the one before is not any more.
    region = rep.regionOf(config);
    auto members = co_await renewMembers();
    CO_RETURN_IF_ERROR(members);
  }
  // Nodes that were made meanwhile.
  for (bool more = true; more;) {
    more = false;
    auto now = co_await parts();
    CO_RETURN_IF_ERROR(now);
    for (const auto& part : *now) {
      if (part.kind == Part::Kind::kEngine || part.program == target.id) continue;
      more = true;
      auto done = co_await replace(part);
      CO_RETURN_IF_ERROR(done);
    }
  }
  auto engine = co_await replace(all.back());
  co_return engine;
}

Task<Result<Upgraded>> Cluster::upgrade(ClusterConfig config, std::string to, Progress progress) {
  CO_RETURN_IF_ERROR(checkUp(config));
  CO_ASSIGN_OR_RETURN(auto lock, lockCluster(config.paths()));
  CO_ASSIGN_OR_RETURN(config, loadConfig(config.paths()));
  if (config.program.empty())
    co_return refused(
        fmt::format("cluster \"{}\" was started by a program that knows of no upgrades; `dhow down "
                    "--keep-data` and `dhow up` start it with this one",
                    config.request.name));
  Upgrade upgrade{*rep_, config, {rep_->loop, std::move(progress)}, rep_->programs};
  CO_ASSIGN_OR_RETURN(upgrade.target, co_await rep_->pool.run(rep_->loop, [&] {
    return choosePrograms(config.paths(), rep_->programs, to);
  }));
  // It may be taking its place from itself just now, when another upgrade was cut short.
  auto region = co_await startRegionProcess(rep_->loop, config, kReplaceLimit);
  CO_RETURN_IF_ERROR(region);
  auto parts = co_await upgrade.parts();
  CO_RETURN_IF_ERROR(parts);
  auto runsIt = [&](const Part& part) { return part.program == upgrade.target.id; };
  if (config.program == upgrade.target.id && std::all_of(parts->begin(), parts->end(), runsIt)) {
    auto members = co_await upgrade.renewMembers();
    CO_RETURN_IF_ERROR(members);
    co_return Upgraded{config.program, config.program, "", upgrade.members};
  }
  CO_RETURN_IF_ERROR(upgrade.checkVersions(*parts, !to.empty()));
  const bool begun = std::any_of(parts->begin(), parts->end(), runsIt);
  auto snapshot = co_await upgrade.prepare(begun);
  CO_RETURN_IF_ERROR(snapshot);
  auto replaced = co_await upgrade.replaceAll(std::move(*parts));
  CO_RETURN_IF_ERROR(replaced);
  const std::string from = config.program;
  auto& done = upgrade.config;
  if (done.program != upgrade.target.id) done.previousProgram = std::exchange(done.program, upgrade.target.id);
  CO_RETURN_IF_ERROR(saveConfig(done));
  removeOtherPrograms(done.paths(), {done.program, done.previousProgram});
  co_return Upgraded{from, done.program, std::move(*snapshot), upgrade.members};
}

}  // namespace dhow::platform
