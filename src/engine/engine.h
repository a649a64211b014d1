// Containers as people use them: created from an image, started, attached to, waited for, removed. Docker's API
// (docker/) is one way in. State lives on the loop. What is acknowledged is on disk; containers outlive this process
// (their shims mind them), and a new Engine on the same root takes them over.
//
// Errors carry Docker's texts. kNotFound: no such container or image; kConflict: a name or state in the way;
// kBadRequest: a request that makes no sense.
#pragma once

#include <boost/json/object.hpp>

#include <functional>
#include <list>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "base/blocking.h"
#include "base/gate.h"
#include "base/loop.h"
#include "base/result.h"
#include "engine/container.h"
#include "engine/volumes.h"
#include "image/store.h"
#include "network/bridge_network.h"
#include "network/nat_table.h"
#include "runtime/runtime.h"

namespace dhow::engine {

struct EngineOptions {
  std::string root;    // /var/lib/dhow/engine: containers, volumes, images
  std::string runDir;  // /run/dhow/engine: sandboxes' state
  std::string shimPath;
  std::string cgroupParent = "/dhow-engine";
  std::string bridge = "dhow-docker";  // link name of the default network
  std::string subnet = "10.88.0.0/16";
  std::string natTable = "dhow-engine";
  int readyNetworks = 8;  // made ahead, so that a start does not pay for its network
  image::RegistryHosts registries;
};

// A process run inside a container by exec.
class ExecSession {
 public:
  std::string id;
  std::string containerId;
  boost::json::object config;           // as it was asked for
  std::unique_ptr<runtime::Exec> exec;  // once started
  bool started = false;
  std::optional<runtime::ExitInfo> exit;
  bool running() const { return started && !exit; }
};
using ExecPtr = std::shared_ptr<ExecSession>;

struct EngineEvent {
  std::string type, action, actorId;  // "container", "start", id
  boost::json::object attributes;
  WallTime time{};
};

class Engine {
 public:
  // Takes over what a former engine left. Blocks for its disk reads only.
  static Task<Result<std::unique_ptr<Engine>>> start(Loop& loop, BlockingPool& pool, EngineOptions options);
  ~Engine();
  // Leaves containers running.
  Task<> stop();
  // Stops and removes every container and the networks; images and volumes stay.
  Task<> destroy();

  struct Created {
    std::string id;
    std::vector<std::string> warnings;
  };
  Task<Result<Created>> create(std::string name, boost::json::object body, image::Platform platform);
  Task<Result<>> startContainer(std::string ref);  // kFailedPrecondition when it runs already (Docker's 304)
  Task<Result<>> stopContainer(std::string ref, std::string signal, std::optional<int64_t> seconds);
  Task<Result<>> kill(std::string ref, std::string signal);
  Task<Result<>> pause(std::string ref, bool frozen);
  Task<Result<>> rename(std::string ref, std::string name);
  // Limits and restart policy, as Docker's UpdateConfig has them; what is not given or zero stays. kBadRequest. Gives
  // warnings.
  Task<Result<std::vector<std::string>>> update(std::string ref, boost::json::object wanted);
  Task<Result<>> remove(std::string ref, bool force, bool withVolumes);

  // By name, id or a prefix of one: kNotFound "No such container: x", kBadRequest when several begin so.
  Result<ContainerPtr> find(std::string_view ref) const;
  std::vector<ContainerPtr> containers() const;  // newest first
  std::string logPath(const Container& container) const;
  // Streams of a running container, or of its next start.
  Task<Result<runtime::Streams>> attach(ContainerPtr container, runtime::StreamOptions streams);

  Task<Result<ExecPtr>> createExec(std::string ref, boost::json::object config);
  Result<ExecPtr> findExec(std::string_view id) const;
  Task<Result<>> startExec(ExecPtr exec, runtime::StreamOptions streams, uint16_t rows, uint16_t columns);

  // Events since the engine started, the last 256; listeners get new ones until they are dropped.
  const std::list<EngineEvent>& recentEvents() const { return events_; }
  using EventListener = std::function<void(const EngineEvent&)>;
  [[nodiscard]] std::shared_ptr<void> listen(EventListener listener);

  image::ImageStore& images() { return *images_; }
  Volumes& volumes() { return *volumes_; }
  const BridgeNetwork& bridge() const { return *bridge_; }
  runtime::Runtime& runtime() { return *runtime_; }
  const EngineOptions& options() const { return options_; }
  const std::string& id() const { return id_; }
  Loop& loop() { return loop_; }
  BlockingPool& pool() { return pool_; }
  std::vector<image::ImageUser> usersOf(const std::string& imageId) const;
  void emit(std::string type, std::string action, std::string actorId, boost::json::object attributes);

 private:
  Engine(Loop& loop, BlockingPool& pool, EngineOptions options);
  Task<Result<>> open();
  Task<Result<>> takeOver();
  Task<Result<>> launch(ContainerPtr container);
  Task<Result<>> tryLaunch(ContainerPtr container);
  Result<> joinNetwork(Container& container, runtime::SandboxSpec& sandbox, Netns& netns);
  Result<> publishPorts(Container& container);
  Task<> launchAgain(ContainerPtr container);
  void onRuntimeEvent(const runtime::Event& event);
  Task<> afterExit(ContainerPtr container, runtime::ExitInfo exit);
  Task<> release(ContainerPtr container);
  // engine_health.cc: a container's health, from its start (or taking over) to its end.
  void watchHealth(ContainerPtr container);
  void scheduleProbe(ContainerPtr container);
  Task<> probeHealth(ContainerPtr container, uint64_t exits);
  void judge(Container& container, Health::Probe probe);
  void endHealth(Container& container);
  Task<Result<>> removeLocked(ContainerPtr container, bool withVolumes);
  Result<> createRecord(const Container& container);
  Result<> saveRecord(const Container& container);
  // Keeps how it fares. What a full disk refuses is written as soon as it can be.
  void saveState(const Container& container);
  Result<> writeState(const Container& container, const State& state) const;
  void emit(const Container& container, std::string action, boost::json::object more = {});
  std::string folder(const Container& container) const { return options_.root + "/containers/" + container.id; }

  Loop& loop_;
  BlockingPool& pool_;
  EngineOptions options_;
  std::string id_;
  std::unique_ptr<image::ImageStore> images_;
  std::unique_ptr<Volumes> volumes_;
  std::unique_ptr<NatTable> nat_;
  std::unique_ptr<BridgeNetwork> bridge_;
  std::unique_ptr<runtime::Runtime> runtime_;
  std::map<std::string, ContainerPtr> byId_;
  std::map<std::string, std::string> idOfName_;
  std::map<std::string, ExecPtr> execs_;
  std::list<EngineEvent> events_;
  std::list<std::weak_ptr<EventListener>> listeners_;
  Gate gate_;
  std::set<std::string> unsaved_;  // containers whose state is not on disk
  Timer saveAgain_;
  bool stopping_ = false;
};

}  // namespace dhow::engine
