#include "engine/engine.h"

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>

#include <csignal>

#include "base/digest.h"
#include "base/files.h"
#include "base/log.h"
#include "base/strings.h"
#include "create.h"
#include "fields.h"
#include "launch.h"

namespace dhow::engine {

using namespace std::chrono_literals;

namespace {

constexpr size_t kEventsKept = 256;
constexpr size_t kExecsKept = 1024;
constexpr Duration kFirstRestartDelay = 100ms;
constexpr Duration kLongestRestartDelay = 1min;
constexpr Duration kHealthyAfter = 10s;

Error noSuchContainer(std::string_view ref) { return Error(Code::kNotFound, fmt::format("No such container: {}", ref)); }

// Names and ids for the users of one engine, kept over restarts.
Result<std::string> engineId(const std::string& root) {
  auto path = root + "/engine-id";
  if (auto stored = readFile(path, 128); stored.ok()) return std::string(trim(*stored));
  auto id = randomUuid();
  RETURN_IF_ERROR(writeFileDurably(path, id + "\n"));
  return id;
}

Result<std::vector<ContainerPtr>> readRecords(Loop& loop, const std::string& folder) {
  std::vector<ContainerPtr> containers;
  ASSIGN_OR_RETURN(auto ids, listDir(folder));
  for (const auto& id : ids) {
    auto content = readFile(folder + "/" + id + "/container.json", 4 << 20);
    boost::system::error_code error;
    auto value = content.ok() ? json::parse(*content, error) : json::value();
    auto container = value.is_object() ? fromRecord(loop, value.get_object()) : Result<ContainerPtr>(Error(Code::kDataLoss, "no record"));
    if (container.ok()) {
      containers.push_back(std::move(*container));
    } else {
      // A crash came between making the folder and writing the record: nobody was told of this container.
      log::warn("engine", "removing an unfinished container {}", id);
      RETURN_IF_ERROR(removeTree(folder + "/" + id));
    }
  }
  return containers;
}

}  // namespace

Engine::Engine(Loop& loop, BlockingPool& pool, EngineOptions options)
    : loop_(loop), pool_(pool), options_(std::move(options)), gate_(loop) {}
Engine::~Engine() = default;

Task<Result<std::unique_ptr<Engine>>> Engine::start(Loop& loop, BlockingPool& pool, EngineOptions options) {
  std::unique_ptr<Engine> engine(new Engine(loop, pool, std::move(options)));
  auto opened = co_await engine->open();
  CO_RETURN_IF_ERROR(opened);
  auto taken = co_await engine->takeOver();
  CO_RETURN_IF_ERROR(taken);
  co_return engine;
}

Task<Result<>> Engine::open() {
  CO_RETURN_IF_ERROR(makeDirs(options_.root + "/containers", 0711));
  CO_ASSIGN_OR_RETURN(id_, engineId(options_.root));
  image::ImageStore::Options images;
  images.root = options_.root + "/images";
  images.hostsFile = "/etc/dhow/registries.yaml";
  images.hosts = options_.registries;
  CO_ASSIGN_OR_RETURN(images_, image::ImageStore::open(loop_, pool_, std::move(images)));
  CO_ASSIGN_OR_RETURN(volumes_, Volumes::open(options_.root + "/volumes"));
  CO_ASSIGN_OR_RETURN(nat_, NatTable::open(options_.natTable));
  BridgeNetworkOptions network;
  network.bridge = options_.bridge;
  CO_ASSIGN_OR_RETURN(network.subnet, IpPrefix::parse(options_.subnet));
  network.poolSize = options_.readyNetworks;
  network.stateDir = options_.runDir;
  CO_RETURN_IF_ERROR(makeDirs(options_.runDir, 0700));
  CO_ASSIGN_OR_RETURN(bridge_, BridgeNetwork::start(std::move(network), *nat_));
  CO_ASSIGN_OR_RETURN(runtime_, runtime::Runtime::create(loop_, pool_, {options_.runDir + "/sandboxes", options_.shimPath, options_.cgroupParent}));
  co_return Result<>();
}

Task<Result<>> Engine::takeOver() {
  auto found = co_await runtime_->findSandboxes();
  CO_RETURN_IF_ERROR(found);
  std::map<std::string, std::shared_ptr<runtime::Sandbox>> sandboxes;
  for (auto& sandbox : found->sandboxes) sandboxes[sandbox->id()] = sandbox;
  CO_ASSIGN_OR_RETURN(auto records, readRecords(loop_, options_.root + "/containers"));
  std::vector<std::string> live;
  std::vector<std::pair<ContainerPtr, runtime::ExitInfo>> ended;
  for (auto& container : records) {
    byId_[container->id] = container;
    idOfName_[container->name] = container->id;
    auto it = sandboxes.find(container->id);
    if (it != sandboxes.end()) {
      container->sandbox = it->second;
      auto status = it->second->container(container->id);
      if (status && status->state == runtime::ContainerState::kRunning) {
        if (!container->state.running()) container->state.status = Status::kRunning;
        container->state.pid = status->pid;
        if (container->network) {
          (void)bridge_->adopt(container->id, container->network->address.address, container->network->hostInterface);
          live.push_back(container->id);
        }
        if (!container->ports.empty()) (void)nat_->publish(container->id, container->ports);
        sandboxes.erase(it);
        continue;
      }
      ended.emplace_back(container, status && status->exit ? *status->exit : runtime::ExitInfo{255, 0, false, loop_.wallNow()});
      sandboxes.erase(it);
    } else if (container->state.running() || container->state.status == Status::kRestarting) {
      // The machine restarted, or the shim was killed.
      ended.emplace_back(container, runtime::ExitInfo{255, 0, false, loop_.wallNow()});
    }
  }
  bridge_->releaseAllBut(live);
  for (auto& [id, sandbox] : sandboxes) {
    auto removed = co_await sandbox->remove();
    if (!removed.ok()) log::warn("engine", "sandbox {}: {}", id, removed.error().message());
  }
  runtime_->onEvent([this](const runtime::Event& event) { onRuntimeEvent(event); });
  for (auto& [container, exit] : ended) {
    container->state.status = Status::kRunning;
    gate_.spawn(afterExit(container, exit));
  }
  // Layers of containers that were never finished.
  for (const auto& id : images_->snapshots()) {
    if (!byId_.contains(id)) {
      auto removed = co_await images_->removeSnapshot(id);
      if (!removed.ok()) log::warn("engine", "layer of {}: {}", id, removed.error().message());
    }
  }
  co_return Result<>();
}

Task<> Engine::stop() {
  stopping_ = true;
  for (auto& [id, container] : byId_) container->restart.cancel();
  co_await gate_.close();
  co_await runtime_->stop();
  co_await images_->stop();
  bridge_->stop();
}

Task<> Engine::destroy() {
  stopping_ = true;
  for (const auto& container : containers()) {
    auto removed = co_await remove(container->id, true, false);
    if (!removed.ok()) log::warn("engine", "remove {}: {}", container->name, removed.error().message());
  }
  co_await gate_.close();
  co_await runtime_->stop();
  co_await images_->stop();
  auto network = bridge_->destroy();
  if (!network.ok()) log::warn("engine", "{}", network.error().message());
  auto nat = nat_->destroy();
  if (!nat.ok()) log::warn("engine", "{}", nat.error().message());
}

Result<> Engine::save(const Container& container, bool durably) {
  auto content = json::serialize(toRecord(container));
  auto path = folder(container) + "/container.json";
  return durably ? writeFileDurably(path, content, 0600) : writeFile(path, content, 0600);
}

Result<ContainerPtr> Engine::find(std::string_view ref) const {
  if (ref.starts_with("/")) ref.remove_prefix(1);
  if (auto it = byId_.find(std::string(ref)); it != byId_.end()) return it->second;
  if (auto it = idOfName_.find(std::string(ref)); it != idOfName_.end()) return byId_.at(it->second);
  if (ref.empty()) return noSuchContainer(ref);
  auto it = byId_.lower_bound(std::string(ref));
  if (it == byId_.end() || !it->first.starts_with(ref)) return noSuchContainer(ref);
  auto next = std::next(it);
  if (next != byId_.end() && next->first.starts_with(ref))
    return Error(Code::kBadRequest, fmt::format("Multiple IDs found with provided prefix: {}", ref));
  return it->second;
}

std::vector<ContainerPtr> Engine::containers() const {
  std::vector<ContainerPtr> all;
  for (const auto& [id, container] : byId_) all.push_back(container);
  std::sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return std::tie(b->created, b->id) < std::tie(a->created, a->id); });
  return all;
}

std::string Engine::logPath(const Container& container) const { return folder(container) + "/log/log"; }

std::vector<image::ImageUser> Engine::usersOf(const std::string& imageId) const {
  std::vector<image::ImageUser> users;
  for (const auto& [id, container] : byId_) {
    if (container->imageId == imageId) users.push_back({id, container->state.running()});
  }
  return users;
}

Task<Result<Engine::Created>> Engine::create(std::string name, json::object body, image::Platform platform) {
  if (name.starts_with("/")) name.erase(0, 1);
  if (!name.empty() && !validContainerName(name))
    co_return Error(Code::kBadRequest, fmt::format("Invalid container name ({}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed", name));
  auto imageName = text(body, "Image");
  CO_ASSIGN_OR_RETURN(auto image, images_->get(imageName));
  if (!platform.empty() && !image::platformDistance(platform, image->config.platform))
    co_return Error(Code::kNotFound, fmt::format("image with reference {} was found but its platform ({}) does not match the specified platform ({})",
                                                 imageName, image->config.platform.str(), platform.str()));
  if (auto it = idOfName_.find(name); !name.empty() && it != idOfName_.end())
    co_return Error(Code::kConflict, fmt::format("Conflict. The container name \"/{}\" is already in use by container \"{}\". You have to remove (or "
                                                 "rename) that container to be able to reuse that name.", name, it->second));
  auto container = std::make_shared<Container>(loop_);
  container->id = randomHex(64);
  while (name.empty() || (idOfName_.contains(name) && container->name.empty() && name.find('_') != std::string::npos)) {
    name = randomName(loop_.random());
    if (!idOfName_.contains(name)) break;
    name += std::to_string(loop_.random() % 1000);
    if (!idOfName_.contains(name)) break;
    name.clear();
  }
  container->name = name;
  container->created = loop_.wallNow();
  container->imageId = image->id;
  container->imageName = imageName;
  idOfName_[name] = container->id;  // taken from here on

  Created created{container->id, {}};
  auto attempt = [](Engine* self, ContainerPtr container, image::ImagePtr image, json::object body, std::vector<std::string>* warnings) -> Task<Result<>> {
    auto snapshot = co_await self->images_->prepare(image->id, container->id);
    CO_RETURN_IF_ERROR(snapshot);
    auto configured = co_await self->pool_.run(self->loop_, [&]() -> Result<> {
      RETURN_IF_ERROR(configure(*container, body, *image, *snapshot, *self->volumes_, *warnings));
      RETURN_IF_ERROR(makeDirs(self->folder(*container) + "/log", 0710));
      return self->save(*container, true);
    });
    co_return configured;
  };
  auto done = co_await attempt(this, container, image, std::move(body), &created.warnings);
  if (!done.ok()) {
    idOfName_.erase(name);
    auto cleaned = co_await images_->removeSnapshot(container->id);
    (void)removeTree(folder(*container));
    co_return std::move(done).error();
  }
  byId_[container->id] = container;
  emit(*container, "create");
  co_return created;
}

Task<Result<>> Engine::startContainer(std::string ref) {
  CO_ASSIGN_OR_RETURN(auto container, find(ref));
  auto turn = co_await container->turn.take();
  if (container->removed) co_return noSuchContainer(ref);
  if (container->state.status == Status::kPaused) co_return Error(Code::kConflict, "cannot start a paused container, try unpause instead");
  if (container->state.running()) co_return Error(Code::kFailedPrecondition, "container " + container->id + " is already running");
  container->restart.cancel();
  container->restartDelay = {};
  container->stoppedByUser = false;
  auto launched = co_await launch(container);
  co_return launched;
}

// Network, sandbox, process. Undoes what it did when a step fails.
Task<Result<>> Engine::launch(ContainerPtr container) {
  auto failed = [](Engine* self, ContainerPtr container, Error error) -> Task<Result<>> {
    co_await self->release(container);
    container->state.status = Status::kExited;
    container->state.error = error.message();
    container->state.exitCode = error.is(Code::kNotFound) ? 127 : error.is(Code::kPermissionDenied) ? 126 : 128;
    container->state.finishedAt = self->loop_.wallNow();
    (void)self->save(*container, false);
    for (auto& waiting : container->waiting) waiting->streams.emplace();
    container->waiting.clear();
    container->changed.notify();
    co_return error;
  };
  CO_ASSIGN_OR_RETURN(auto snapshot, images_->snapshot(container->id));
  auto sandbox = sandboxSpec(*container);
  auto mode = text(container->hostConfig, "NetworkMode");
  Netns netns;
  if (mode == "bridge") {
    auto acquired = bridge_->acquire(container->id);
    if (!acquired.ok()) {
      auto error = co_await failed(this, container, std::move(acquired).error());
      co_return error;
    }
    netns = std::move(acquired->netns);
    container->network = std::move(acquired->attachment);
    sandbox.netFd = netns.fd();
  } else if (mode.starts_with("container:")) {
    auto other = find(mode.substr(10));
    if (!other.ok()) co_return std::move(other).error();
    if (!(*other)->sandbox || !(*other)->state.running())
      co_return Error(Code::kConflict, "cannot join network of a non running container: " + (*other)->id);
    sandbox.net = runtime::Namespace::join((*other)->sandbox->netPath());
  }
  auto spec = co_await pool_.run(loop_, [&] { return containerSpec(*container, snapshot, {folder(*container), logPath(*container)}); });
  if (!spec.ok()) {
    auto error = co_await failed(this, container, std::move(spec).error());
    co_return error;
  }
  auto made = co_await runtime_->createSandbox(std::move(sandbox));
  if (!made.ok()) {
    auto error = co_await failed(this, container, std::move(made).error());
    co_return error;
  }
  container->sandbox = *made;
  if (container->network) {
    CO_ASSIGN_OR_RETURN(auto wanted, wantedPorts(*container));
    for (auto& port : wanted) port.containerAddress = container->network->address.address;
    if (!wanted.empty()) {
      auto published = nat_->publish(container->id, wanted);
      if (!published.ok()) {
        auto why = fmt::format("driver failed programming external connectivity on endpoint {} ({}): {}", container->name, container->id.substr(0, 12),
                               published.error().message());
        auto error = co_await failed(this, container, Error(published.error().code(), why));
        co_return error;
      }
      container->ports = std::move(*published);
    }
  }
  std::vector<runtime::StreamOptions> attach;
  auto clients = std::exchange(container->waiting, {});
  for (const auto& client : clients) attach.push_back(client->options);
  // Set before the start: the exit of a short process may be reported before start() returns.
  container->state = {};
  container->state.status = Status::kRunning;
  auto started = co_await container->sandbox->start(std::move(*spec), std::move(attach));
  if (!started.ok()) {
    container->waiting = std::move(clients);
    auto error = co_await failed(this, container, std::move(started).error());
    co_return error;
  }
  container->state.pid = started->pid;
  container->state.startedAt = started->startedAt;
  for (size_t i = 0; i < clients.size(); ++i) clients[i]->streams = std::move(started->streams[i]);
  for (const auto& warning : started->warnings) log::warn("engine", "container {}: {}", container->name, warning);
  auto saved = save(*container, false);
  if (!saved.ok()) log::error("engine", "container {}: {}", container->name, saved.error().message());
  container->changed.notify();
  emit(*container, "start");
  co_return Result<>();
}

// Takes away what a run needed: ports, network, sandbox. What fails is logged; the next start of the engine tries again.
Task<> Engine::release(ContainerPtr container) {
  auto unpublished = nat_->unpublish(container->id);
  if (!unpublished.ok()) log::warn("engine", "ports of {}: {}", container->name, unpublished.error().message());
  container->ports.clear();
  if (auto sandbox = std::exchange(container->sandbox, nullptr)) {
    auto removed = co_await sandbox->remove();
    if (!removed.ok()) log::warn("engine", "sandbox of {}: {}", container->name, removed.error().message());
  }
  if (container->network) bridge_->detach(container->id);
  container->network.reset();
  container->state.pid = 0;
}

void Engine::onRuntimeEvent(const runtime::Event& event) {
  auto it = byId_.find(event.sandboxId);
  if (it == byId_.end()) return;
  auto& container = it->second;
  if (event.kind == runtime::Event::Kind::kOom) {
    container->state.oomKilled = true;
    emit(*container, "oom");
    return;
  }
  runtime::ExitInfo exit = event.exit;
  if (event.kind == runtime::Event::Kind::kShimGone) exit = {137, SIGKILL, false, loop_.wallNow()};
  gate_.spawn(afterExit(container, exit));
}

Task<> Engine::afterExit(ContainerPtr container, runtime::ExitInfo exit) {
  auto turn = co_await container->turn.take();
  if (container->removed || !container->state.running()) co_return;
  co_await release(container);
  auto& state = container->state;
  state.status = Status::kExited;
  state.exitCode = exit.code;
  state.oomKilled = state.oomKilled || exit.oom;
  state.finishedAt = exit.time;
  emit(*container, "die", {{"exitCode", std::to_string(exit.code)}});

  const auto& policy = child(container->hostConfig, "RestartPolicy");
  auto name = text(policy, "Name");
  auto most = integer(policy, "MaximumRetryCount");
  bool again = !stopping_ && !container->stoppedByUser &&
               (name == "always" || name == "unless-stopped" ||
                (name == "on-failure" && exit.code != 0 && (most == 0 || container->restartCount < most)));
  if (again) {
    bool healthy = state.finishedAt - state.startedAt >= kHealthyAfter;
    container->restartDelay = healthy || container->restartDelay == Duration{} ? kFirstRestartDelay
                                                                              : std::min(container->restartDelay * 2, kLongestRestartDelay);
    state.status = Status::kRestarting;
    container->restart = loop_.after(container->restartDelay, [this, weak = std::weak_ptr(container)] {
      if (auto container = weak.lock()) gate_.spawn(launchAgain(container));
    });
  }
  (void)save(*container, false);
  ++container->exits;
  container->changed.notify();
  if (container->autoRemove() && !again) {
    auto removed = co_await removeLocked(container, true);
    if (!removed.ok()) log::warn("engine", "remove {}: {}", container->name, removed.error().message());
  }
}

Task<> Engine::launchAgain(ContainerPtr container) {
  auto turn = co_await container->turn.take();
  if (container->removed || container->state.status != Status::kRestarting) co_return;
  ++container->restartCount;
  auto launched = co_await launch(container);
  if (!launched.ok()) log::warn("engine", "restart {}: {}", container->name, launched.error().message());
}

Task<Result<>> Engine::kill(std::string ref, std::string name) {
  CO_ASSIGN_OR_RETURN(auto container, find(ref));
  int signal = name.empty() ? SIGKILL : signalOf(name);
  if (signal == 0) co_return Error(Code::kBadRequest, "Invalid signal: " + name);
  if (!container->state.running() || !container->sandbox)
    co_return Error(Code::kConflict, fmt::format("Cannot kill container: {}: container {} is not running", ref, container->id));
  if (signal == SIGKILL || signal == signalOf(text(container->config, "StopSignal"))) container->stoppedByUser = true;
  auto sandbox = container->sandbox;
  auto sent = co_await sandbox->signal(container->id, signal);
  if (!sent.ok() && !sent.error().is(Code::kNotFound)) co_return sent;
  emit(*container, "kill", {{"signal", std::to_string(signal)}});
  co_return Result<>();
}

Task<Result<>> Engine::stopContainer(std::string ref, std::string name, std::optional<int64_t> seconds) {
  CO_ASSIGN_OR_RETURN(auto container, find(ref));
  if (name.empty()) name = text(container->config, "StopSignal");
  int signal = name.empty() ? SIGTERM : signalOf(name);
  if (signal == 0) co_return Error(Code::kBadRequest, "Invalid signal: " + name);
  if (!seconds) seconds = integer(container->config, "StopTimeout", 10);
  container->stoppedByUser = true;
  container->restart.cancel();
  if (container->state.status == Status::kRestarting) {
    container->state.status = Status::kExited;
    container->changed.notify();
  }
  if (!container->state.running() || !container->sandbox) co_return Error(Code::kFailedPrecondition, "container is not running");
  uint64_t before = container->exits;
  auto sandbox = container->sandbox;
  if (container->state.status == Status::kPaused) {
    auto resumed = co_await sandbox->resume(container->id);
    CO_RETURN_IF_ERROR(resumed);
  }
  auto sent = co_await sandbox->signal(container->id, signal);
  if (!sent.ok() && !sent.error().is(Code::kNotFound)) co_return sent;
  auto deadline = loop_.now() + std::chrono::seconds(*seconds);
  while (container->exits == before && !container->removed) {
    auto left = deadline - loop_.now();
    bool changed = *seconds < 0 || left > Duration{};
    if (*seconds < 0) co_await container->changed.wait();
    else if (changed) changed = co_await container->changed.waitFor(left);
    if (changed) continue;
    auto killed = co_await sandbox->signal(container->id, SIGKILL, true);
    if (!killed.ok() && !killed.error().is(Code::kNotFound)) co_return killed;
    while (container->exits == before && !container->removed) co_await container->changed.wait();
  }
  emit(*container, "stop");
  co_return Result<>();
}

Task<Result<>> Engine::pause(std::string ref, bool frozen) {
  CO_ASSIGN_OR_RETURN(auto container, find(ref));
  auto turn = co_await container->turn.take();
  if (!container->state.running() || !container->sandbox)
    co_return Error(Code::kConflict, fmt::format("Container {} is not running", container->id));
  bool isFrozen = container->state.status == Status::kPaused;
  if (frozen && isFrozen) co_return Error(Code::kConflict, fmt::format("Container {} is already paused", container->id));
  if (!frozen && !isFrozen) co_return Error(Code::kConflict, fmt::format("Container {} is not paused", container->id));
  auto done = frozen ? co_await container->sandbox->pause(container->id) : co_await container->sandbox->resume(container->id);
  CO_RETURN_IF_ERROR(done);
  container->state.status = frozen ? Status::kPaused : Status::kRunning;
  (void)save(*container, false);
  container->changed.notify();
  emit(*container, frozen ? "pause" : "unpause");
  co_return Result<>();
}

Task<Result<>> Engine::rename(std::string ref, std::string name) {
  CO_ASSIGN_OR_RETURN(auto container, find(ref));
  if (name.starts_with("/")) name.erase(0, 1);
  if (!validContainerName(name))
    co_return Error(Code::kBadRequest, fmt::format("Invalid container name ({}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed", name));
  if (name == container->name)
    co_return Error(Code::kBadRequest, "Error when allocating new name: renaming a container with the same name as its current name");
  if (auto it = idOfName_.find(name); it != idOfName_.end())
    co_return Error(Code::kConflict, fmt::format("Error when allocating new name: Conflict. The container name \"/{}\" is already in use by container "
                                                 "\"{}\". You have to remove (or rename) that container to be able to reuse that name.", name, it->second));
  auto old = std::exchange(container->name, name);
  auto saved = save(*container, true);
  if (!saved.ok()) {
    container->name = old;
    co_return saved;
  }
  idOfName_.erase(old);
  idOfName_[name] = container->id;
  emit(*container, "rename", {{"oldName", "/" + old}});
  co_return Result<>();
}

Task<Result<>> Engine::remove(std::string ref, bool force, bool withVolumes) {
  CO_ASSIGN_OR_RETURN(auto container, find(ref));
  if (container->state.running()) {
    if (!force) {
      const char* how = container->state.status == Status::kPaused ? "paused" : "running";
      co_return Error(Code::kConflict, fmt::format("cannot remove container \"/{}\": container is {}: stop the container before removing or force remove",
                                                   container->name, how));
    }
    container->stoppedByUser = true;
    container->restart.cancel();
    uint64_t before = container->exits;
    auto sandbox = container->sandbox;
    if (sandbox) {
      auto killed = co_await sandbox->signal(container->id, SIGKILL, true);
      while (container->exits == before && !container->removed && container->state.running() && killed.ok()) co_await container->changed.wait();
    }
  }
  auto turn = co_await container->turn.take();
  if (container->removed) co_return Result<>();
  container->restart.cancel();
  auto removed = co_await removeLocked(container, withVolumes);
  co_return removed;
}

// The caller holds the turn and the container does not run.
Task<Result<>> Engine::removeLocked(ContainerPtr container, bool withVolumes) {
  auto before = container->state.status;
  container->state.status = Status::kRemoving;
  co_await release(container);
  auto undo = [&](Error error) {
    container->state.status = before;
    return error;
  };
  auto layer = co_await images_->removeSnapshot(container->id);
  if (!layer.ok()) co_return undo(std::move(layer).error());
  auto cleared = co_await pool_.run(loop_, [&] { return removeTree(folder(*container)); });
  if (!cleared.ok()) co_return undo(std::move(cleared).error());
  if (withVolumes) {
    for (const auto& mount : container->mounts) {
      if (mount.type != "volume") continue;
      auto volume = volumes_->get(mount.name);
      if (volume.ok() && volume->anonymous) (void)volumes_->remove(mount.name);
    }
  }
  byId_.erase(container->id);
  idOfName_.erase(container->name);
  std::erase_if(execs_, [&](const auto& entry) { return entry.second->containerId == container->id; });
  container->removed = true;
  for (auto& waiting : container->waiting) waiting->streams.emplace();
  container->waiting.clear();
  container->changed.notify();
  emit(*container, "destroy");
  co_return Result<>();
}

Task<Result<runtime::Streams>> Engine::attach(ContainerPtr container, runtime::StreamOptions streams) {
  if (container->state.running() && container->sandbox) {
    auto sandbox = container->sandbox;
    auto attached = co_await sandbox->attach(container->id, streams);
    co_return attached;
  }
  auto waiting = std::make_shared<Container::Waiting>();
  waiting->options = streams;
  container->waiting.push_back(waiting);
  while (!waiting->streams && !container->removed) co_await container->changed.wait();
  if (!waiting->streams) co_return runtime::Streams();
  co_return std::move(*waiting->streams);
}

Task<Result<ExecPtr>> Engine::createExec(std::string ref, json::object config) {
  CO_ASSIGN_OR_RETURN(auto container, find(ref));
  if (container->state.status == Status::kPaused)
    co_return Error(Code::kConflict, fmt::format("container {} is paused, unpause the container before exec", container->id));
  if (!container->state.running()) co_return Error(Code::kConflict, fmt::format("container {} is not running", container->id));
  if (texts(config, "Cmd").empty()) co_return Error(Code::kBadRequest, "No exec command specified");
  // Records of ended processes are for their clients' last question; a bound keeps them from growing without end.
  if (execs_.size() >= kExecsKept) std::erase_if(execs_, [](const auto& entry) { return entry.second->exit.has_value(); });
  auto session = std::make_shared<ExecSession>();
  session->id = randomHex(64);
  session->containerId = container->id;
  session->config = std::move(config);
  execs_[session->id] = session;
  co_return session;
}

Result<ExecPtr> Engine::findExec(std::string_view id) const {
  auto it = execs_.find(std::string(id));
  if (it == execs_.end()) return Error(Code::kNotFound, fmt::format("No such exec instance: {}", id));
  return it->second;
}

namespace {
Task<> awaitExec(ExecPtr session) {
  auto exit = co_await session->exec->wait();
  session->exit = exit.ok() ? *exit : runtime::ExitInfo{137, SIGKILL, false, {}};
}
}  // namespace

Task<Result<>> Engine::startExec(ExecPtr session, runtime::StreamOptions streams, uint16_t rows, uint16_t columns) {
  if (session->started) co_return Error(Code::kConflict, "exec " + session->id + " has already run");
  CO_ASSIGN_OR_RETURN(auto container, find(session->containerId));
  if (!container->state.running() || !container->sandbox)
    co_return Error(Code::kConflict, fmt::format("container {} is not running", container->id));
  CO_ASSIGN_OR_RETURN(auto snapshot, images_->snapshot(container->id));
  CO_ASSIGN_OR_RETURN(auto process, execSpec(*container, snapshot, session->config));
  process.rows = rows;
  process.columns = columns;
  auto sandbox = container->sandbox;
  session->started = true;
  auto exec = co_await sandbox->exec(container->id, std::move(process), streams);
  if (!exec.ok()) {
    session->exit = runtime::ExitInfo{exec.error().is(Code::kNotFound) ? 127 : 126, 0, false, loop_.wallNow()};
    co_return std::move(exec).error();
  }
  session->exec = std::move(*exec);
  gate_.spawn(awaitExec(session));
  co_return Result<>();
}

std::shared_ptr<void> Engine::listen(EventListener listener) {
  auto kept = std::make_shared<EventListener>(std::move(listener));
  listeners_.push_back(kept);
  return kept;
}

void Engine::emit(std::string type, std::string action, std::string actorId, json::object attributes) {
  events_.push_back({std::move(type), std::move(action), std::move(actorId), std::move(attributes), loop_.wallNow()});
  if (events_.size() > kEventsKept) events_.pop_front();
  std::erase_if(listeners_, [](const auto& weak) { return weak.expired(); });
  for (const auto& weak : listeners_) {
    if (auto listener = weak.lock()) (*listener)(events_.back());
  }
}

void Engine::emit(const Container& container, std::string action, json::object more) {
  json::object attributes = child(container.config, "Labels");
  attributes["image"] = container.imageName;
  attributes["name"] = container.name;
  for (const auto& [key, value] : more) attributes[key] = value;
  emit("container", std::move(action), container.id, std::move(attributes));
}

}  // namespace dhow::engine
