#include "engine/engine.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>

#include "base/digest.h"
#include "base/files.h"
#include "base/log.h"
#include "base/strings.h"
#include "create.h"
#include "errors.h"
#include "fields.h"

namespace dhow::engine {

namespace {

using namespace std::chrono_literals;

constexpr size_t kEventsKept = 256;
constexpr const char* kRecordFile = "container.json";
constexpr const char* kStateFile = "state.json";
constexpr Duration kSaveAgainAfter = 2s;

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
  auto read = [&](const std::string& id, const char* name) {
    auto content = readFile(folder + "/" + id + "/" + name, 4 << 20);
    boost::system::error_code error;
    auto value = content.ok() ? json::parse(*content, error) : json::value();
    return value.is_object() ? value.get_object() : json::object();
  };
  for (const auto& id : ids) {
    auto record = read(id, kRecordFile);
    // A version before this one kept all in one file.
    auto state = record.contains("state") ? record : json::object();
    if (auto own = read(id, kStateFile); !own.empty()) state = std::move(own);
    auto container = fromRecord(loop, record, state);
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

// The group that held the containers', empty by now, in every hierarchy of version 1 and in version 2. Others' rests
// keep it.
void removeCgroup(const std::string& path) {
  const std::string root = "/sys/fs/cgroup";
  ::rmdir((root + path).c_str());
  auto hierarchies = listDir(root);
  if (!hierarchies.ok()) return;
  for (const auto& name : *hierarchies) ::rmdir((root + "/" + name + path).c_str());
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
  CO_ASSIGN_OR_RETURN(
      runtime_, runtime::Runtime::create(loop_, pool_,
                                         {options_.runDir + "/sandboxes", options_.shimPath, options_.cgroupParent}));
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
        container->state.startedAt = status->startedAt;
        if (container->network) {
          (void)bridge_->adopt(container->id, container->network->address.address, container->network->hostInterface);
          live.push_back(container->id);
        }
        if (!container->ports.empty()) (void)nat_->publish(container->id, container->ports);
        watchHealth(container);
        sandboxes.erase(it);
        continue;
      }
      ended.emplace_back(container,
                         status && status->exit ? *status->exit : runtime::ExitInfo{255, 0, false, loop_.wallNow()});
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
  saveAgain_.cancel();
  for (auto& [id, container] : byId_) {
    container->restart.cancel();
    endHealth(*container);
  }
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
  removeCgroup(options_.cgroupParent);
}

namespace {

// A file that is not there yet: nobody knows of it before this returns, so that one commit of the file system's journal
// is enough where a replaced file needs two. A crash leaves it whole, torn or missing.
Result<> createDurably(const std::string& folder, const std::string& name, std::string_view content) {
  auto path = folder + "/" + name;
  UniqueFd parent(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  UniqueFd file(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!parent || !file) return Error::fromErrno("create " + path);
  while (!content.empty()) {
    ssize_t n = ::write(file.get(), content.data(), content.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Error::fromErrno("write " + path);
    content.remove_prefix(static_cast<size_t>(n));
  }
  if (::fsync(file.get()) != 0 || ::fsync(parent.get()) != 0) return Error::fromErrno("fsync " + path);
  return {};
}

}  // namespace

Result<> Engine::createRecord(const Container& container) {
  if (container.autoRemove()) return saveRecord(container);
  return createDurably(folder(container), kRecordFile, json::serialize(toRecord(container)));
}

// A container that removes itself is not to outlive the machine's power: its record need not reach the disk.
Result<> Engine::saveRecord(const Container& container) {
  auto content = json::serialize(toRecord(container));
  auto path = folder(container) + "/" + kRecordFile;
  return container.autoRemove() ? writeFile(path, content, 0600) : writeFileDurably(path, content, 0600);
}

Result<> Engine::writeState(const Container& container, const State& state) const {
  return writeFile(folder(container) + "/" + kStateFile, json::serialize(toStateRecord(container, state)), 0600);
}

void Engine::saveState(const Container& container) {
  auto saved = writeState(container, container.state);
  if (saved.ok()) {
    unsaved_.erase(container.id);
    return;
  }
  log::error("engine", "container {}: {}", container.name, saved.error().message());
  unsaved_.insert(container.id);
  saveAgain_ = loop_.after(kSaveAgainAfter, [this] {
    for (const auto& id : std::exchange(unsaved_, {})) {
      if (auto it = byId_.find(id); it != byId_.end() && !stopping_) saveState(*it->second);
    }
  });
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
  std::sort(all.begin(), all.end(),
            [](const auto& a, const auto& b) { return std::tie(b->created, b->id) < std::tie(a->created, a->id); });
  return all;
}

std::string Engine::logPath(const Container& container) const {
  return folder(container) + "/log/log";
}

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
    co_return Error(Code::kBadRequest,
                    fmt::format("Invalid container name ({}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed", name));
  auto imageName = text(body, "Image");
  CO_ASSIGN_OR_RETURN(auto image, images_->get(imageName));
  if (!platform.empty() && !image::platformDistance(platform, image->config.platform))
    co_return Error(
        Code::kNotFound,
        fmt::format(
            "image with reference {} was found but its platform ({}) does not match the specified platform ({})",
            imageName, image->config.platform.str(), platform.str()));
  if (auto it = idOfName_.find(name); !name.empty() && it != idOfName_.end())
    co_return Error(
        Code::kConflict,
        fmt::format(
            "Conflict. The container name \"/{}\" is already in use by container \"{}\". You have to remove (or "
            "rename) that container to be able to reuse that name.",
            name, it->second));
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
  auto attempt = [](Engine* self, ContainerPtr container, image::ImagePtr image, json::object body,
                    std::vector<std::string>* warnings) -> Task<Result<>> {
    auto snapshot = co_await self->images_->prepare(image->id, container->id);
    CO_RETURN_IF_ERROR(snapshot);
    auto configured = co_await self->pool_.run(self->loop_, [&]() -> Result<> {
      RETURN_IF_ERROR(configure(*container, body, *image, *snapshot, *self->volumes_, *warnings));
      RETURN_IF_ERROR(makeDirs(self->folder(*container) + "/log", 0710));
      return self->createRecord(*container);
    });
    co_return configured;
  };
  auto done = co_await attempt(this, container, image, std::move(body), &created.warnings);
  if (!done.ok()) {
    idOfName_.erase(name);
    auto cleaned = co_await images_->removeSnapshot(container->id);
    (void)removeTree(folder(*container));
    for (const auto& volume : container->newVolumes) {
      bool others = std::any_of(byId_.begin(), byId_.end(), [&](const auto& entry) {
        const auto& mounts = entry.second->mounts;
        return std::any_of(mounts.begin(), mounts.end(), [&](const auto& mount) { return mount.name == volume; });
      });
      if (!others) (void)volumes_->remove(volume);
    }
    co_return std::move(done).error();
  }
  byId_[container->id] = container;
  emit(*container, "create");
  co_return created;
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
