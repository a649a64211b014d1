#include "platform/provider.h"

#include <signal.h>

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>

#include <set>

#include "base/files.h"
#include "base/key_locks.h"
#include "base/log.h"
#include "base/process.h"
#include "base/strings.h"
#include "client/fields.h"
#include "platform/region.h"
#include "runtime/runtime.h"

namespace dhow::platform {

namespace json = boost::json;
using client::text;

namespace {

constexpr Duration kRoleGrace = std::chrono::seconds(10);

// A machine with what it was asked to be.
struct Known {
  MachinePlan plan;
  bool master = false;
  NodeTraits traits;
};

json::object recordOf(const Known& known) {
  json::object labels, resources;
  for (const auto& [key, value] : known.traits.labels) labels[key] = value;
  for (const auto& [key, value] : known.traits.resources) resources[key] = value;
  json::array taints;
  for (const auto& taint : known.traits.taints)
    taints.push_back(json::object{{"key", taint.key}, {"value", taint.value}, {"effect", taint.effect}});
  return {{"name", known.plan.name},           {"zoneIndex", known.plan.zoneIndex}, {"address", known.plan.address},
          {"pool", known.traits.pool},         {"version", known.traits.version},   {"labels", std::move(labels)},
          {"resources", std::move(resources)}, {"taints", std::move(taints)}};
}

Result<Known> readRecord(const ClusterConfig& config, const std::string& path) {
  ASSIGN_OR_RETURN(auto bytes, readFile(path, 1 << 20));
  boost::system::error_code error;
  auto value = json::parse(bytes, error);
  if (error || !value.is_object()) return Error(Code::kDataLoss, "read " + path + ": not a JSON object");
  const auto& object = value.get_object();
  Known known;
  known.plan.name = text(object, "name");
  known.plan.address = text(object, "address");
  known.plan.address6 = config.machineAddress6(known.plan.address);
  known.plan.zoneIndex = static_cast<int>(client::number(object, {"zoneIndex"}, 1));
  known.plan.zone = config.zoneName(known.plan.zoneIndex);
  known.traits.pool = text(object, "pool");
  known.traits.version = text(object, "version");
  for (const auto& [key, label] : client::object(object, {"labels"}))
    if (label.is_string()) known.traits.labels[key] = label.get_string();
  for (const auto& [key, amount] : client::object(object, {"resources"}))
    if (amount.is_string()) known.traits.resources[key] = amount.get_string();
  for (const auto& taint : client::array(object, {"taints"})) {
    if (!taint.is_object()) continue;
    const auto& fields = taint.get_object();
    known.traits.taints.push_back(
        {std::string(text(fields, "key")), std::string(text(fields, "value")), std::string(text(fields, "effect"))});
  }
  return known;
}

bool isMachineName(const std::string& name) {
  if (name.empty() || name.size() > 63 || name.front() == '-' || name.back() == '-') return false;
  return std::all_of(name.begin(), name.end(),
                     [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-'; });
}

}  // namespace

struct Provider::Rep {
  Rep(Loop& l, BlockingPool& p, ClusterConfig c, Programs g)
      : loop(l), pool(p), config(std::move(c)), programs(std::move(g)), locks(l) {}

  Loop& loop;
  BlockingPool& pool;
  const ClusterConfig config;
  const Programs programs;
  std::unique_ptr<runtime::Runtime> runtime;
  std::map<std::string, Known> machines;
  std::set<std::string> cutMachines, cutZones;
  std::set<std::string> starting;
  std::vector<std::function<void(const std::string&)>> listeners;
  KeyLocks locks;

  Result<> readMachines();
  Result<std::string> freeAddress(int zone) const;
  // kNotFound with what to do.
  Result<Known> find(const std::string& name) const;
  Result<int> zoneIndex(const std::string& zone) const;
  std::string folderOf(const Known& known) const {
    return known.master ? config.paths().master(known.plan.name) : config.paths().node(known.plan.name);
  }
  std::vector<std::string> commandOf(const Known& known) const {
    return known.master ? masterCommand(config, known.plan.name) : nodeCommand(config, known.plan.name);
  }
  bool held(const Known& known) const { return pathExists(config.paths().held(folderOf(known))); }
  Result<> hold(const Known& known, bool held) const;
  void changed(const std::string& name) {
    for (const auto& listener : listeners) listener(name);
  }
  Task<Result<>> run(Known known);
  Task<Result<>> boot(const Known& known);
  Task<Result<>> endRole(std::string name, std::vector<std::string> command, std::string program);
  Task<Result<>> save(const Known& known);
};

Result<> Provider::Rep::readMachines() {
  for (const auto& plan : config.masterPlans()) machines[plan.name] = {plan, true, {}};
  auto paths = config.paths();
  for (const auto& plan : config.nodePlans()) {
    if (!pathExists(paths.nodeRemoved(plan.name))) machines[plan.name] = {plan, false, {}};
  }
  if (!pathExists(paths.nodes())) return {};
  ASSIGN_OR_RETURN(auto names, listDir(paths.nodes()));
  for (const auto& name : names) {
    if (!pathExists(paths.nodeRecord(name))) continue;
    ASSIGN_OR_RETURN(auto known, readRecord(config, paths.nodeRecord(name)));
    machines[name] = std::move(known);
  }
  return {};
}

Result<std::string> Provider::Rep::freeAddress(int zone) const {
  std::set<std::string> taken;
  for (const auto& [name, known] : machines) taken.insert(known.plan.address.substr(known.plan.address.rfind('.') + 1));
  const std::string gateway = config.zoneGateway(zone);
  for (int host = kFirstNodeHost; host <= kLastNodeHost; ++host) {
    const std::string last = std::to_string(host);
    if (!taken.contains(last)) return gateway.substr(0, gateway.rfind('.') + 1) + last;
  }
  return Error(Code::kTooManyRequests, fmt::format("the region holds {} machines already, the most that it has "
                                                   "addresses for",
                                                   machines.size()));
}

Result<Known> Provider::Rep::find(const std::string& name) const {
  auto found = machines.find(name);
  if (found == machines.end())
    return Error(Code::kNotFound, "there is no machine " + name + "; `dhow status` lists them");
  return found->second;
}

Result<int> Provider::Rep::zoneIndex(const std::string& zone) const {
  for (int index = 1; index <= config.request.zones; ++index) {
    if (config.zoneName(index) == zone) return index;
  }
  std::vector<std::string> names;
  for (int index = 1; index <= config.request.zones; ++index) names.push_back(config.zoneName(index));
  return Error(Code::kNotFound, fmt::format("there is no zone {}; there are {}", zone, join(names, ", ")));
}

Result<> Provider::Rep::hold(const Known& known, bool held) const {
  const auto file = config.paths().held(folderOf(known));
  if (!held) return removeTree(file);
  RETURN_IF_ERROR(makeDirs(folderOf(known), 0700));
  return writeFileDurably(file, "");
}

Task<Result<>> Provider::Rep::run(Known known) {
  starting.insert(known.plan.name);
  auto done = co_await boot(known);
  starting.erase(known.plan.name);
  if (done.ok()) changed(known.plan.name);
  co_return done;
}

Task<Result<>> Provider::Rep::boot(const Known& known) {
  auto states = co_await runtime->machines();
  CO_RETURN_IF_ERROR(states);
  for (const auto& state : *states) {
    if (state.name == known.plan.name && state.running) co_return Result<>();
  }
  // What a master's store is may have been changed since this process began.
  CO_ASSIGN_OR_RETURN(const ClusterConfig now, loadConfig(config.paths()));
  auto prepared = co_await pool.run(loop, [&]() -> Result<> {
    RETURN_IF_ERROR(hold(known, false));
    RETURN_IF_ERROR(createMachineLink(config, known.plan));
    RETURN_IF_ERROR(ensureLinked(config.paths(), known.plan.name, now.program));
    return known.master ? prepareMaster(now, known.plan) : prepareNode(config, known.plan, known.traits);
  });
  CO_RETURN_IF_ERROR(prepared);
  auto spec = known.master ? masterMachine(now, known.plan) : nodeMachine(config, known.plan);
  auto created = co_await runtime->createMachine(std::move(spec));
  CO_RETURN_IF_ERROR(created);
  auto started = co_await runtime->startMachine(known.plan.name);
  CO_RETURN_IF_ERROR(started);
  co_return Result<>();
}

Task<Result<>> Provider::Rep::save(const Known& known) {
  auto saved = co_await pool.run(loop, [&]() -> Result<> {
    auto paths = config.paths();
    RETURN_IF_ERROR(makeDirs(paths.node(known.plan.name), 0700));
    RETURN_IF_ERROR(removeTree(paths.nodeRemoved(known.plan.name)));
    return writeFileDurably(paths.nodeRecord(known.plan.name), json::serialize(recordOf(known)) + "\n", 0600);
  });
  co_return saved;
}

Provider::Provider(std::unique_ptr<Rep> rep) : rep_(std::move(rep)) {}
Provider::~Provider() = default;

Task<Result<std::unique_ptr<Provider>>> Provider::open(Loop& loop, BlockingPool& pool, const ClusterConfig& config,
                                                       Programs programs) {
  auto rep = std::make_unique<Rep>(loop, pool, config, std::move(programs));
  CO_RETURN_IF_ERROR(rep->readMachines());
  CO_ASSIGN_OR_RETURN(rep->runtime, runtime::Runtime::create(
                                        loop, pool, {config.paths().machines(), rep->programs.shim, cgroupOf(config)}));
  auto found = co_await rep->runtime->findSandboxes();
  CO_RETURN_IF_ERROR(found);
  rep->runtime->onEvent([raw = rep.get()](const runtime::Event& event) {
    constexpr std::string_view kPrefix = "machine-";
    std::string_view id = event.sandboxId;
    if (id.starts_with(kPrefix)) raw->changed(std::string(id.substr(kPrefix.size())));
  });
  co_return std::unique_ptr<Provider>(new Provider(std::move(rep)));
}

Task<Result<std::vector<MachineInfo>>> Provider::list() {
  auto states = co_await rep_->runtime->machines();
  CO_RETURN_IF_ERROR(states);
  std::vector<MachineInfo> out;
  auto add = [&](bool masters) {
    for (const auto& [name, known] : rep_->machines) {
      if (known.master != masters) continue;
      MachineInfo info{name, known.master, known.plan.zone, known.plan.address};
      auto paths = rep_->config.paths();
      info.made = pathExists(known.master ? paths.masterConfig(name) : paths.nodeConfig(name));
      info.starting = rep_->starting.contains(name);
      info.held = rep_->held(known);
      info.pool = known.traits.pool;
      info.version = known.traits.version;
      info.cut = rep_->cutMachines.contains(name) || rep_->cutZones.contains(known.plan.zone);
      for (const auto& state : *states) {
        if (state.name != name) continue;
        info.running = state.running;
        info.pid = state.pid;
        info.program = runningProgram(paths, findRole(state.pid, rep_->commandOf(known)));
      }
      out.push_back(std::move(info));
    }
  };
  add(true);
  add(false);
  co_return out;
}

Task<Result<>> Provider::create(std::string name, std::string zone, NodeTraits traits) {
  if (!isMachineName(name))
    co_return Error(Code::kInvalid,
                    fmt::format("{}: a machine's name is 1 to 63 lower-case letters, digits or '-'", name));
  CO_ASSIGN_OR_RETURN(int index, rep_->zoneIndex(zone));
  auto held = co_await rep_->locks.acquire(name);
  auto found = rep_->machines.find(name);
  if (found != rep_->machines.end() && (found->second.master || found->second.plan.zoneIndex != index))
    co_return Error(Code::kConflict,
                    fmt::format("machine {} is there already, in zone {}", name, found->second.plan.zone));
  if (rep_->cutZones.contains(zone)) co_return Error(Code::kUnavailable, fmt::format("zone {} does not answer", zone));
  Known known{{name, zone, index, ""}, false, std::move(traits)};
  bool run = true;
  if (found != rep_->machines.end()) {
    known.plan = found->second.plan;
    auto made = co_await rep_->runtime->machines();
    CO_RETURN_IF_ERROR(made);
    const bool there =
        std::any_of(made->begin(), made->end(), [&](const auto& machine) { return machine.name == name; });
    run = !there && !rep_->held(known);
    // What `up` has started belongs to whoever asks for it first.
    if (!run && !rep_->machines[name].traits.version.empty()) co_return Result<>();
  } else {
    CO_ASSIGN_OR_RETURN(known.plan.address, rep_->freeAddress(index));
    known.plan.address6 = rep_->config.machineAddress6(known.plan.address);
  }
  // Taken before the disk is waited for, so that no other machine takes the address meanwhile.
  const bool isNew = rep_->machines.insert_or_assign(name, known).second;
  auto saved = co_await rep_->save(known);
  if (!saved.ok() && isNew) rep_->machines.erase(name);
  CO_RETURN_IF_ERROR(saved);
  if (!run) co_return Result<>();
  auto ran = co_await rep_->run(std::move(known));
  co_return ran;
}

Task<Result<>> Provider::start(std::string name) {
  auto held = co_await rep_->locks.acquire(name);
  CO_ASSIGN_OR_RETURN(auto known, rep_->find(name));
  auto ran = co_await rep_->run(std::move(known));
  co_return ran;
}

Task<Result<>> Provider::stop(std::string name, Duration grace) {
  auto held = co_await rep_->locks.acquire(name);
  CO_ASSIGN_OR_RETURN(auto known, rep_->find(name));
  CO_RETURN_IF_ERROR(rep_->hold(known, true));
  auto stopped = co_await rep_->runtime->stopMachine(name, grace);
  rep_->changed(name);
  co_return stopped;
}

Task<Result<>> Provider::kill(std::string name) {
  auto held = co_await rep_->locks.acquire(name);
  CO_RETURN_IF_ERROR(rep_->find(name));
  auto killed = co_await rep_->runtime->killMachine(name);
  rep_->changed(name);
  co_return killed;
}

Task<Result<>> Provider::restart(std::string name) {
  auto held = co_await rep_->locks.acquire(name);
  CO_ASSIGN_OR_RETURN(auto known, rep_->find(name));
  if (rep_->cutZones.contains(known.plan.zone))
    co_return Error(Code::kUnavailable, fmt::format("zone {} does not answer", known.plan.zone));
  auto killed = co_await rep_->runtime->killMachine(name);
  CO_RETURN_IF_ERROR(killed);
  auto ran = co_await rep_->run(std::move(known));
  co_return ran;
}

// Waits for the end of what runs another program.
Task<Result<>> Provider::Rep::endRole(std::string name, std::vector<std::string> command, std::string program) {
  auto states = co_await runtime->machines();
  CO_RETURN_IF_ERROR(states);
  for (const auto& state : *states) {
    if (state.name != name || !state.running) continue;
    const pid_t role = findRole(state.pid, command);
    if (role == 0 || runningProgram(config.paths(), role) == program) co_return Result<>();
    auto fd = pidfdOf(role);
    if (!fd.ok() && fd.error().is(Code::kNotFound)) co_return Result<>();
    CO_RETURN_IF_ERROR(fd);
    // The number may have become another's before it was opened.
    if (findRole(state.pid, command) != role) co_return Result<>();
    ::kill(role, SIGTERM);
    Timer late = loop.after(kRoleGrace, [role] { ::kill(role, SIGKILL); });
    auto ended = co_await waitReadable(loop, fd->get());
    CO_RETURN_IF_ERROR(ended);
  }
  co_return Result<>();
}

Task<Result<>> Provider::replace(std::string name, std::string program) {
  auto held = co_await rep_->locks.acquire(name);
  CO_ASSIGN_OR_RETURN(auto known, rep_->find(name));
  CO_ASSIGN_OR_RETURN(const ClusterConfig now, loadConfig(rep_->config.paths()));
  auto linked = co_await rep_->pool.run(rep_->loop, [&]() -> Result<> {
    // The new one may need what the old one was not told.
    RETURN_IF_ERROR(known.master ? prepareMaster(now, known.plan)
                                 : prepareNode(rep_->config, known.plan, known.traits));
    return linkProgram(now.paths(), name, program);
  });
  CO_RETURN_IF_ERROR(linked);
  auto ended = co_await rep_->endRole(name, rep_->commandOf(known), program);
  CO_RETURN_IF_ERROR(ended);
  log::info("region", "{} runs {} from now on", name, program);
  rep_->changed(name);
  co_return Result<>();
}

std::vector<ZoneInfo> Provider::zones() const {
  std::vector<ZoneInfo> out;
  for (int zone = 1; zone <= rep_->config.request.zones; ++zone) {
    const auto name = rep_->config.zoneName(zone);
    out.push_back({name, !rep_->cutZones.contains(name)});
  }
  return out;
}

void Provider::onChange(std::function<void(const std::string& name)> changed) {
  rep_->listeners.push_back(std::move(changed));
}

void Provider::tellChange(const std::string& name) {
  rep_->changed(name);
}

Task<Result<>> Provider::remove(std::string name) {
  auto held = co_await rep_->locks.acquire(name);
  auto found = rep_->machines.find(name);
  if (found == rep_->machines.end()) co_return Result<>();
  if (found->second.master)
    co_return Error(Code::kInvalid, fmt::format("machine {} is a master; `dhow down` removes it", name));
  if (rep_->cutZones.contains(found->second.plan.zone))
    co_return Error(Code::kUnavailable, fmt::format("zone {} does not answer", found->second.plan.zone));
  auto removed = co_await rep_->runtime->removeMachine(name);
  CO_RETURN_IF_ERROR(removed);
  auto cleaned = co_await rep_->pool.run(rep_->loop, [&]() -> Result<> {
    auto paths = rep_->config.paths();
    for (const auto& plan : rep_->config.nodePlans()) {
      if (plan.name == name) RETURN_IF_ERROR(writeFileDurably(paths.nodeRemoved(name), ""));
    }
    RETURN_IF_ERROR(removeMachineLink(rep_->config, name));
    RETURN_IF_ERROR(removeTree(paths.link(name)));
    return removeTree(paths.node(name));
  });
  CO_RETURN_IF_ERROR(cleaned);
  rep_->machines.erase(name);
  rep_->cutMachines.erase(name);
  rep_->changed(name);
  co_return Result<>();
}

Task<Result<>> Provider::setLink(std::string name, bool up) {
  CO_ASSIGN_OR_RETURN(auto known, rep_->find(name));
  auto set = co_await rep_->pool.run(rep_->loop, [&] { return setMachineLink(rep_->config, known.plan, up); });
  CO_RETURN_IF_ERROR(set);
  if (up)
    rep_->cutMachines.erase(name);
  else
    rep_->cutMachines.insert(name);
  co_return Result<>();
}

Task<Result<>> Provider::setZone(std::string zone, bool up) {
  CO_ASSIGN_OR_RETURN(int index, rep_->zoneIndex(zone));
  auto set = co_await rep_->pool.run(rep_->loop, [&] { return setZoneLink(rep_->config, index, up); });
  CO_RETURN_IF_ERROR(set);
  if (up)
    rep_->cutZones.erase(zone);
  else
    rep_->cutZones.insert(zone);
  rep_->changed("");
  co_return Result<>();
}

Task<Result<>> Provider::removeAll() {
  auto states = co_await rep_->runtime->machines();
  CO_RETURN_IF_ERROR(states);
  for (const auto& state : *states) {
    auto removed = co_await rep_->runtime->removeMachine(state.name);
    CO_RETURN_IF_ERROR(removed);
  }
  CO_RETURN_IF_ERROR(rep_->runtime->removeCgroupParent());
  auto links = co_await rep_->pool.run(rep_->loop, [&]() -> Result<> {
    for (const auto& [name, known] : rep_->machines) RETURN_IF_ERROR(removeMachineLink(rep_->config, name));
    return {};
  });
  co_return links;
}

Task<> Provider::close() {
  return rep_->runtime->stop();
}

}  // namespace dhow::platform
