#include "platform/cluster.h"

#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/files.h"
#include "base/log.h"
#include "base/notify.h"
#include "base/process.h"
#include "base/strings.h"
#include "client/fields.h"
#include "client/kubeconfig.h"
#include "cluster_rep.h"
#include "http/client.h"
#include "platform/contexts.h"
#include "platform/deploy.h"
#include "platform/identities.h"
#include "platform/provider.h"
#include "platform/region.h"
#include "platform/region_process.h"

namespace dhow::platform {

namespace {

using namespace std::chrono_literals;

constexpr Duration kStopLimit = 10s;

bool isStill(const UniqueFd& fd, const std::string& path) {
  struct stat held{}, now{};
  return ::fstat(fd.get(), &held) == 0 && ::stat(path.c_str(), &now) == 0 && held.st_ino == now.st_ino &&
         held.st_dev == now.st_dev;
}

}  // namespace

Result<UniqueFd> lockCluster(const ClusterPaths& paths) {
  while (true) {
    RETURN_IF_ERROR(makeDirs(paths.run, 0711));
    auto owner = readFile(paths.run + "/data", 4096);
    if (owner.ok() && trim(*owner) != paths.data)
      return Error(Code::kConflict,
                   fmt::format("a cluster of this name has its data in {}; give another --name", trim(*owner)));
    RETURN_IF_ERROR(writeFile(paths.run + "/data", paths.data + "\n"));
    ASSIGN_OR_RETURN(auto lock, lockFile(paths.lock(), true));
    // A `down` that held it has removed the file meanwhile.
    if (isStill(lock, paths.lock())) return lock;
  }
}

namespace {

// Whether an `up` or `down` left anything of the cluster, its configuration or less.
bool anythingOf(const ClusterPaths& paths) {
  if (pathExists(paths.root)) return true;
  auto owner = readFile(paths.run + "/data", 4096);
  return owner.ok() && trim(*owner) == paths.data;
}

Result<> removeRemains(const ClusterPaths& paths) {
  RETURN_IF_ERROR(removeTree(paths.root));
  return removeTree(paths.run);
}

std::set<int> indexesOf(const std::vector<ClusterPaths>& clusters) {
  std::set<int> indexes;
  for (const auto& paths : clusters) {
    // One that cannot be read holds nothing that could be kept free.
    if (auto config = loadConfig(paths); config.ok()) indexes.insert(config->index);
  }
  return indexes;
}

// What clusters that are down will want back.
Result<std::set<int>> indexesIn(const std::string& dataDir) {
  ASSIGN_OR_RETURN(auto clusters, clustersIn(dataDir));
  return indexesOf(clusters);
}

// A cluster that was down comes back to its ranges only where nobody has taken them meanwhile.
Result<> checkRanges(const ClusterConfig& config) {
  ASSIGN_OR_RETURN(auto range, rangeInUse(config));
  if (range.empty()) return {};
  const auto& name = config.request.name;
  ASSIGN_OR_RETURN(auto others, knownClusters());
  for (const auto& paths : others) {
    auto other = loadConfig(paths);
    if (other.ok() && other->index == config.index && paths.root != config.paths().root && regionExists(*other))
      return Error(Code::kConflict,
                   fmt::format("cluster \"{}\" has the address range {}, which cluster \"{}\" uses now; `dhow down "
                               "--name {} --data {}` that one first",
                               name, range, other->request.name, other->request.name, paths.data));
  }
  return Error(Code::kConflict,
               fmt::format("cluster \"{}\" has the address range {}, to which this machine has another route now (`ip "
                           "route`); remove that, or `dhow down --name {}` and make the cluster anew, which chooses "
                           "free ranges",
                           name, range, name));
}

// These programs are the cluster's from now on: nothing of it runs.
Result<> adoptPrograms(ClusterConfig& config, const Programs& programs) {
  auto paths = config.paths();
  if (!config.program.empty()) RETURN_IF_ERROR(checkFollows(config, programs, config.program));
  // Anew: nobody waited for the disk when they were put there, and the machine may have lost power since.
  if (programs.folder() != paths.program(programs.id)) RETURN_IF_ERROR(removeTree(paths.program(programs.id)));
  ASSIGN_OR_RETURN(auto own, installPrograms(paths, programs));
  RETURN_IF_ERROR(removeTree(paths.links()));
  if (config.program != own.id) config.previousProgram = std::exchange(config.program, own.id);
  config.storeForm = std::max(config.storeForm, own.info.store.writes);
  RETURN_IF_ERROR(saveConfig(config));
  removeOtherPrograms(paths, {config.program, config.previousProgram});
  return {};
}

// The configuration of a cluster that exists, or a new one.
Result<ClusterConfig> chooseConfig(const ClusterRequest& request, const Programs& programs) {
  RETURN_IF_ERROR(validateRequest(request));
  ClusterPaths paths(request.dataDir, request.name);
  if (pathExists(paths.config())) {
    ASSIGN_OR_RETURN(auto config, loadConfig(paths));
    const auto& has = config.request;
    if (has.datastore != request.datastore)
      return Error(Code::kInvalid, fmt::format("cluster \"{}\" has another --datastore; `dhow down` it first to change "
                                               "that",
                                               has.name));
    if (!request.sensitivity.empty() && has.sensitivity != request.sensitivity)
      return Error(Code::kInvalid,
                   fmt::format("cluster \"{}\" is {}, and a cluster's sensitivity never changes; make "
                               "another with --name and --sensitivity {}, or `dhow down` this one first",
                               has.name, has.sensitivity, request.sensitivity));
    if (has.masters != request.masters || has.nodes != request.nodes || has.zones != request.zones)
      return Error(
          Code::kInvalid,
          fmt::format("cluster \"{}\" has {} masters and {} nodes in {} zones; `dhow down` it first to change that",
                      has.name, has.masters, has.nodes, has.zones));
    if (!request.ipFamilies.empty() && has.ipFamilies != request.ipFamilies)
      return Error(Code::kInvalid,
                   fmt::format("cluster \"{}\" has addresses of {}, and a cluster's families never change; make "
                               "another with --name and --ip-families {}, or `dhow down` this one first",
                               has.name, has.ipFamilies, request.ipFamilies));
    if (request.encryptSecrets && !has.encrypts()) {
      if (regionExists(config))
        return Error(Code::kInvalid, fmt::format("cluster \"{}\" does not encrypt its secrets; `dhow down --keep-data` "
                                                 "it first, and the next `up --encrypt-secrets` encrypts all",
                                                 has.name));
      config.request.encryptSecrets = true;
      RETURN_IF_ERROR(saveConfig(config));
    }
    ASSIGN_OR_RETURN(auto lock, lockFile(std::string(kRunDir) + "/choose.lock", true));
    if (!regionExists(config)) {
      RETURN_IF_ERROR(checkRanges(config));
      RETURN_IF_ERROR(adoptPrograms(config, programs));
      // From here on the ranges are taken.
      RETURN_IF_ERROR(createRegion(config));
    }
    if (!request.snapshotEvery.empty() && request.snapshotEvery != has.snapshotEvery) {
      config.request.snapshotEvery = request.snapshotEvery;
      RETURN_IF_ERROR(saveConfig(config));
    }
    return config;
  }
  if (request.ipFamilies.find("IPv6") != std::string::npos && !pathExists("/proc/sys/net/ipv6"))
    return Error(
        Code::kFailedPrecondition,
        fmt::format("--ip-families {}: this machine's kernel has no IPv6 (see ipv6.disable)", request.ipFamilies));
  // Two clusters that start at once must not choose the same ranges.
  ASSIGN_OR_RETURN(auto lock, lockFile(std::string(kRunDir) + "/choose.lock", true));
  ASSIGN_OR_RETURN(auto kept, indexesIn(request.dataDir));
  auto free = freeClusterIndex(kept, request.ipFamilies);
  // Rather the range of a cluster that is down than none.
  if (!free.ok()) free = freeClusterIndex({}, request.ipFamilies);
  ASSIGN_OR_RETURN(int index, std::move(free));
  auto config = configFor(request, index);
  RETURN_IF_ERROR(makeDirs(paths.root));
  RETURN_IF_ERROR(adoptPrograms(config, programs));
  RETURN_IF_ERROR(createRegion(config));
  return config;
}

Result<> prepareCluster(const ClusterConfig& config, WallTime now) {
  auto paths = config.paths();
  for (const auto& folder : {paths.masters(), paths.region(), paths.registry(), paths.engine(), paths.nodes(),
                             paths.machines(), paths.readiness(), paths.snapshots()})
    RETURN_IF_ERROR(makeDirs(folder, 0700));
  RETURN_IF_ERROR(ensureIdentities(config, now));
  return createRegion(config);
}

}  // namespace

Cluster::Cluster(Loop& loop, BlockingPool& pool, Programs programs) : rep_(new Rep{loop, pool, std::move(programs)}) {}
Cluster::~Cluster() = default;

Result<std::unique_ptr<HttpClient>> Cluster::Rep::clientOf(const ClusterConfig& config) {
  ASSIGN_OR_RETURN(auto kubeconfig, client::loadKubeconfig(config.paths().kubeconfig()));
  ASSIGN_OR_RETURN(auto options, client::httpOptions(kubeconfig));
  options.requestTimeout = 5s;
  return std::make_unique<HttpClient>(loop, std::move(options));
}

Task<Result<>> Cluster::Rep::startMachine(const ClusterConfig& config, std::string name) {
  auto region = regionOf(config);
  auto started = co_await region.start(std::move(name));
  co_return started;
}

Task<bool> Cluster::Rep::masterAnswers(const ClusterConfig& config, std::string name) {
  auto kubeconfig = client::loadKubeconfig(config.paths().kubeconfig());
  if (!kubeconfig.ok()) co_return false;
  for (const auto& plan : config.masterPlans()) {
    if (plan.name == name) kubeconfig->server = fmt::format("https://{}:{}", plan.address, config.apiPort);
  }
  auto options = client::httpOptions(*kubeconfig);
  if (!options.ok()) co_return false;
  options->requestTimeout = 2s;
  HttpClient api(loop, std::move(*options));
  auto answer = co_await api.raw("GET", "/readyz");
  co_await api.stop();
  co_return answer.ok();
}

Task<Result<>> Cluster::Rep::waitMaster(const ClusterConfig& config, std::string name, ReadySocket& ready) {
  const bool answers = co_await masterAnswers(config, name);
  if (answers) co_return Result<>();
  auto waited = co_await ready.wait(loop, kStartLimit);
  if (!waited.ok())
    co_return std::move(waited).error().wrap(
        fmt::format("start {} (its log: {}/log)", name, config.paths().master(name)));
  co_return Result<>();
}

Task<Result<>> Cluster::Rep::waitMember(const ClusterConfig& config, std::string name, ReadySocket& ready,
                                        Duration limit) {
  const bool answers = co_await memberAnswers(loop, config, name);
  if (answers) co_return Result<>();
  auto waited = co_await ready.wait(loop, limit);
  // One that an earlier version has started tells nobody.
  const bool serves = waited.ok() || co_await memberAnswers(loop, config, name);
  if (!serves)
    co_return std::move(waited).error().wrap(
        fmt::format("start the store's member of {} (its log: {}/log)", name, config.paths().master(name)));
  co_return Result<>();
}

// One that runs may have been started a moment ago by an `up` that was cut short: then it is waited for as well. It
// listens before it tells so, so that none of both is missed.
Task<Result<>> Cluster::Rep::startMaster(const ClusterConfig& config, std::string name) {
  CO_ASSIGN_OR_RETURN(auto ready, ReadySocket::create(config.paths().ready(name)));
  CO_ASSIGN_OR_RETURN(auto memberReady, ReadySocket::create(config.paths().memberReady(name)));
  auto started = co_await startMachine(config, name);
  CO_RETURN_IF_ERROR(started);
  Together together(loop);
  together.gate.spawn(Together::one(&together, waitMaster(config, name, ready)));
  if (config.request.ownMembers())
    together.gate.spawn(Together::one(&together, waitMember(config, name, memberReady, kStartLimit)));
  co_await together.gate.close();
  co_return std::move(together.first);
}

Task<Result<>> Cluster::Rep::stopMasters(const ClusterConfig& config) {
  auto region = regionOf(config);
  Together together(loop);
  for (const auto& plan : config.masterPlans()) together.gate.spawn(Together::one(&together, region.stop(plan.name)));
  co_await together.gate.close();
  co_return std::move(together.first);
}

Task<Result<>> Cluster::Rep::startMasters(const ClusterConfig& config, const std::vector<MachineInfo>& machines) {
  Together together(loop);
  for (const auto& machine : machines) {
    if (machine.master) together.gate.spawn(Together::one(&together, startMaster(config, machine.name)));
  }
  co_await together.gate.close();
  co_return std::move(together.first);
}

Task<bool> Cluster::Rep::engineAnswers(const ClusterConfig& config) {
  http::Client::Options options;
  options.unixSocket = config.paths().dockerSocket();
  options.connectTimeout = 1s;
  http::Client http(loop, std::move(options));
  auto answer = co_await http.fetch("http://docker/_ping", http::Request());
  http.close();
  co_return answer.ok() && answer->status == 200;
}

Task<Result<>> Cluster::Rep::startEngine(const ClusterConfig& config, Duration limit) {
  CO_ASSIGN_OR_RETURN(auto ready, ReadySocket::create(config.paths().ready("engine")));
  bool answers = co_await engineAnswers(config);
  if (answers) co_return Result<>();
  // Tells `down` that there may be one, however early this ends. One that is just starting keeps the lock, and reports
  // to this socket.
  CO_RETURN_IF_ERROR(writeFile(config.paths().engineLock(), ""));
  CO_RETURN_IF_ERROR(ensureLinked(config.paths(), kEngineProcess, config.program));
  SpawnOptions options;
  options.args = {config.paths().linkedDhow(kEngineProcess), "engine", "--cluster", config.paths().root};
  options.env = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "NOTIFY_SOCKET=" + ready.path()};
  options.cwd = "/";
  options.fds = {-1, -1, -1};
  options.newSession = true;
  auto process = Process::spawn(options);
  CO_RETURN_IF_ERROR(process);
  auto waited = co_await ready.wait(loop, limit);
  if (!waited.ok())
    co_return std::move(waited).error().wrap("start the engine (its log: " + config.paths().engine() + "/log)");
  co_return Result<>();
}

Task<Result<>> Cluster::Rep::startNodes(const ClusterConfig& config, const std::vector<MachineInfo>& machines) {
  Together together(loop);
  for (const auto& machine : machines) {
    if (!machine.master && !machine.running)
      together.gate.spawn(Together::one(&together, startMachine(config, machine.name)));
  }
  co_await together.gate.close();
  co_return std::move(together.first);
}

namespace {

constexpr Duration kWatchAgain = std::chrono::milliseconds(200);

// Watches until no name is left in `waiting`. kUnavailable: the watch has ended.
Task<Result<>> watchNodes(Loop& loop, HttpClient& api, const ClusterConfig& config, std::set<std::string>& waiting,
                          TimePoint end) {
  auto listed = co_await api.list(object::resources::kNodes, {});
  CO_RETURN_IF_ERROR(listed);
  for (const auto& node : listed->items) {
    if (client::conditionTrue(node->root(), "Ready")) waiting.erase(std::string(node->name()));
  }
  if (waiting.empty()) co_return Result<>();
  auto watcher = co_await api.watch(object::resources::kNodes, {}, listed->resourceVersion);
  CO_RETURN_IF_ERROR(watcher);
  bool late = false;
  auto limit = loop.after(end - loop.now(), [&] {
    late = true;
    (*watcher)->close();
  });
  while (!waiting.empty()) {
    auto event = co_await (*watcher)->next();
    if (!event.ok() && late) {
      std::vector<std::string> names(waiting.begin(), waiting.end());
      co_return Error(Code::kDeadlineExceeded,
                      fmt::format("not Ready after {} s: {} (logs: {}/<node>/log)", kStartLimit / 1s, join(names, ", "),
                                  config.paths().nodes()));
    }
    CO_RETURN_IF_ERROR(event);
    if (event->object && client::conditionTrue(event->object->root(), "Ready"))
      waiting.erase(std::string(event->object->name()));
  }
  (*watcher)->close();
  co_return Result<>();
}

}  // namespace

Task<Result<>> Cluster::Rep::waitNodesReady(const ClusterConfig& config, const std::vector<MachineInfo>& machines) {
  CO_ASSIGN_OR_RETURN(auto api, clientOf(config));
  std::set<std::string> waiting;
  for (const auto& machine : machines) {
    if (!machine.master) waiting.insert(machine.name);
  }
  const TimePoint end = loop.now() + kStartLimit;
  auto done = co_await watchNodes(loop, *api, config, waiting, end);
  while (!done.ok() && done.error().is(Code::kUnavailable) && loop.now() < end) {
    co_await loop.sleep(kWatchAgain);
    done = co_await watchNodes(loop, *api, config, waiting, end);
  }
  co_await api->stop();
  co_return done;
}

Task<Result<>> Cluster::Rep::publishExample(const ClusterConfig& config, std::string folder) {
  CO_ASSIGN_OR_RETURN(auto image, exampleImage(folder, programs.folder()));
  if (image) {
    auto pushed = co_await publishImage(loop, pool, config, std::move(*image));
    if (!pushed.ok()) co_return std::move(pushed).error().wrap("publish the image of " + folder);
  }
  co_return Result<>();
}

Task<Result<Cluster::Up>> Cluster::up(ClusterRequest request, std::string example, Progress progress) {
  Stopwatch watch{rep_->loop, progress};
  CO_RETURN_IF_ERROR(validateRequest(request));
  if (!example.empty()) {
    CO_RETURN_IF_ERROR(checkExample(example, rep_->programs.folder()));
  }
  ClusterPaths paths(request.dataDir, request.name);
  if (request.ownMembers()) {
    CO_RETURN_IF_ERROR(findEtcd());
  }
  CO_ASSIGN_OR_RETURN(auto lock, lockCluster(paths));
  std::string before;
  if (auto present = loadConfig(paths); present.ok()) before = present->program;
  auto config = co_await rep_->pool.run(rep_->loop, [&] { return chooseConfig(request, rep_->programs); });
  if (!config.ok() && !pathExists(paths.config())) (void)removeRemains(paths).ok();
  CO_RETURN_IF_ERROR(config);
  auto prepared = co_await rep_->pool.run(rep_->loop, [&] { return prepareCluster(*config, rep_->loop.wallNow()); });
  CO_RETURN_IF_ERROR(prepared);
  watch.step("region and identities");
  auto context = co_await rep_->pool.run(rep_->loop, [&] { return addContext(*config); });
  if (!context.ok()) log::warn("platform", "{}", context.error().message());

  auto started = co_await startRegionProcess(rep_->loop, *config, kStartLimit);
  CO_RETURN_IF_ERROR(started);
  auto region = rep_->regionOf(*config);
  auto listed = co_await region.list();
  CO_RETURN_IF_ERROR(listed);
  const auto* machines = &listed->machines;
  auto masters = co_await rep_->startMasters(*config, *machines);
  CO_RETURN_IF_ERROR(masters);
  watch.step(config->request.masters == 1 ? "master" : fmt::format("{} masters", config->request.masters));

  // The engine and the example's image come while the nodes start.
  Together together(rep_->loop);
  together.gate.spawn(Together::one(&together, rep_->startEngine(*config)));
  if (!example.empty()) together.gate.spawn(Together::one(&together, rep_->publishExample(*config, example)));
  auto nodes = co_await rep_->startNodes(*config, *machines);
  if (nodes.ok()) nodes = co_await rep_->waitNodesReady(*config, *machines);
  if (nodes.ok()) watch.step(fmt::format("{} nodes Ready", config->request.nodes));
  co_await together.gate.close();
  CO_RETURN_IF_ERROR(nodes);
  CO_RETURN_IF_ERROR(together.first);
  watch.step("engine");
  Up up{*config, before == config->program ? "" : before, {}};
  if (!example.empty()) {
    // Only now: spread over nodes that are there.
    auto applied = co_await applyManifests(rep_->loop, *config, example);
    CO_RETURN_IF_ERROR(applied);
    auto urls = co_await waitDeployed(rep_->loop, *config, example, kStartLimit);
    CO_RETURN_IF_ERROR(urls);
    up.urls = std::move(*urls);
    watch.step("example");
  }
  co_return up;
}

pid_t findEngine(const ClusterPaths& paths) {
  auto text = readFile(paths.enginePid(), 64);
  auto pid = text.ok() ? parseInt(trim(*text)) : std::nullopt;
  if (!pid) return 0;
  auto line = readFile(fmt::format("/proc/{}/cmdline", *pid), 1 << 16);
  // The number may belong to somebody else by now.
  return line.ok() && line->find(paths.root) != std::string::npos ? static_cast<pid_t>(*pid) : 0;
}

namespace {

// The engine removes its containers, networks and mounts when it is asked to; it ends by itself then. False when none
// runs.
Task<Result<bool>> shutDownEngine(Loop& loop, const ClusterPaths& paths) {
  const pid_t pid = findEngine(paths);
  if (pid == 0) co_return false;
  CO_ASSIGN_OR_RETURN(auto fd, pidfdOf(pid));
  if (::kill(pid, SIGUSR1) != 0) co_return false;
  auto ended = co_await waitReadable(loop, fd.get());
  CO_RETURN_IF_ERROR(ended);
  co_return true;
}

}  // namespace

Task<Result<>> Cluster::down(ClusterPaths paths, bool keepData, Progress progress) {
  Stopwatch watch{rep_->loop, progress};
  ClusterRequest request;
  request.name = paths.root.substr(paths.root.rfind('/') + 1);
  request.dataDir = paths.data;
  CO_RETURN_IF_ERROR(validateRequest(request));
  if (!anythingOf(paths)) co_return noSuchCluster(paths);
  CO_ASSIGN_OR_RETURN(auto lock, lockCluster(paths));
  // An `up` that was cut short before it made anything, or a `down` that had removed all else.
  if (auto removed = removeContext(paths); !removed.ok()) log::warn("platform", "{}", removed.error().message());
  if (!pathExists(paths.config())) co_return removeRemains(paths);
  CO_ASSIGN_OR_RETURN(auto config, loadConfig(paths));
  if (pathExists(paths.engineLock())) {
    auto engine = co_await shutDownEngine(rep_->loop, paths);
    CO_RETURN_IF_ERROR(engine);
    if (!*engine) {
      // One that died has left containers behind: only a living engine knows how to remove them.
      auto revived = co_await rep_->startEngine(config);
      if (!revived.ok()) log::warn("platform", "{}", revived.error().message());
      engine = co_await shutDownEngine(rep_->loop, paths);
      CO_RETURN_IF_ERROR(engine);
    }
    CO_RETURN_IF_ERROR(removeTree(paths.engineLock()));
  }
  watch.step("engine stopped");
  auto ended = co_await stopRegionProcess(rep_->loop, paths, kStopLimit);
  CO_RETURN_IF_ERROR(ended);
  auto provider = co_await Provider::open(rep_->loop, rep_->pool, config, rep_->programs);
  CO_RETURN_IF_ERROR(provider);
  auto removed = co_await (*provider)->removeAll();
  co_await (*provider)->close();
  provider->reset();
  CO_RETURN_IF_ERROR(removed);
  watch.step("machines removed");
  auto cleaned = co_await rep_->pool.run(rep_->loop, [&]() -> Result<> {
    RETURN_IF_ERROR(removeRegion(config));
    if (!keepData) RETURN_IF_ERROR(removeTree(paths.root));
    return removeTree(paths.run);
  });
  CO_RETURN_IF_ERROR(cleaned);
  watch.step("network and data removed");
  co_return Result<>();
}

Task<Result<ClusterState>> Cluster::state(const ClusterConfig& config) {
  ClusterState state;
  for (const auto& plan : config.masterPlans()) state.machines.push_back({plan.name, true, plan.zone, plan.address});
  for (const auto& plan : config.nodePlans()) state.machines.push_back({plan.name, false, plan.zone, plan.address});
  // Asking makes nothing, and waits for what changes the cluster.
  if (pathExists(config.paths().machines())) {
    CO_ASSIGN_OR_RETURN(auto lock, lockCluster(config.paths()));
    auto region = rep_->regionOf(config);
    auto listed = co_await region.list();
    state.regionAnswers = listed.ok();
    if (listed.ok()) state.machines = std::move(listed->machines);
    auto masters = co_await region.masters();
    if (masters.ok()) {
      for (const auto& master : *masters) state.mastersAlive[master.name] = master.alive;
    }
  }
  state.regionProgram = regionProgram(config.paths());
  state.engineProgram = runningProgram(config.paths(), findEngine(config.paths()));
  state.down = !regionExists(config);
  state.engineAnswers = co_await rep_->engineAnswers(config);
  CO_ASSIGN_OR_RETURN(auto api, rep_->clientOf(config));
  auto nodes = co_await api->list(object::resources::kNodes, {});
  state.serverAnswers = nodes.ok();
  if (nodes.ok()) {
    for (const auto& object : nodes->items)
      state.nodesReady[std::string(object->name())] = client::conditionTrue(object->root(), "Ready");
    if (config.request.masters > 1) {
      auto lease = co_await api->get(object::resources::kLeases, "kube-system", "dhow-master");
      if (lease.ok()) state.leader = client::text((*lease)->root(), {"spec", "holderIdentity"});
    }
  }
  if (!state.down) state.members = co_await memberStates(rep_->loop, config);
  co_await api->stop();
  co_return state;
}

Result<> checkUp(const ClusterConfig& config) {
  if (regionExists(config)) return {};
  return Error(Code::kFailedPrecondition, "the cluster is down; `dhow up` starts it");
}

Task<Result<>> Cluster::startMachine(const ClusterConfig& config, std::string name) {
  CO_RETURN_IF_ERROR(checkUp(config));
  CO_ASSIGN_OR_RETURN(auto lock, lockCluster(config.paths()));
  auto region = rep_->regionOf(config);
  auto listed = co_await region.list();
  CO_RETURN_IF_ERROR(listed);
  const auto& machines = listed->machines;
  const bool onlyMaster =
      config.request.masters == 1 && std::any_of(machines.begin(), machines.end(), [&](const MachineInfo& machine) {
        return machine.master && machine.name == name && !machine.running;
      });
  // One of several may have to wait for the others before it serves.
  auto done = onlyMaster ? co_await rep_->startMaster(config, name) : co_await region.start(name);
  co_return done;
}

Task<Result<>> Cluster::stopMachine(const ClusterConfig& config, std::string name) {
  CO_RETURN_IF_ERROR(checkUp(config));
  CO_ASSIGN_OR_RETURN(auto lock, lockCluster(config.paths()));
  auto region = rep_->regionOf(config);
  auto stopped = co_await region.stop(std::move(name));
  co_return stopped;
}

Task<Result<std::vector<Cluster::Zone>>> Cluster::zones(const ClusterConfig& config) {
  CO_RETURN_IF_ERROR(checkUp(config));
  auto region = rep_->regionOf(config);
  auto listed = co_await region.list();
  CO_RETURN_IF_ERROR(listed);
  std::vector<Zone> zones;
  for (const auto& info : listed->zones) {
    Zone zone{info.name, info.up};
    for (const auto& machine : listed->machines) {
      if (machine.zone == info.name) ++(machine.master ? zone.masters : zone.nodes);
    }
    zones.push_back(std::move(zone));
  }
  co_return zones;
}

Task<Result<>> Cluster::setZone(const ClusterConfig& config, std::string zone, bool up) {
  CO_RETURN_IF_ERROR(checkUp(config));
  CO_ASSIGN_OR_RETURN(auto lock, lockCluster(config.paths()));
  auto region = rep_->regionOf(config);
  auto set = co_await region.setZone(std::move(zone), up);
  co_return set;
}

}  // namespace dhow::platform
