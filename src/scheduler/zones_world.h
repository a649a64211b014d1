// A region for simulations: the real API server, controllers and scheduler, a fake provider of machines, and node
// agents that only pretend to run pods but keep the rules of client/node_lease.h. What an agent "runs" is apart from
// what the API believes, so that a pod that lives twice is seen. The leading master's connection, the store and the
// provider fail on request.
#pragma once

#include <gtest/gtest.h>

#include "apiserver/server.h"
#include "base/time.h"
#include "client/fields.h"
#include "client/node_lease.h"
#include "client/reflector.h"
#include "controllers/fake_machine_provider.h"
#include "controllers/heartbeats.h"
#include "controllers/manager.h"
#include "controllers/platform.h"
#include "faulty_client.h"
#include "scheduler/scheduler.h"
#include "store/memory_store.h"

namespace dhow::scheduler {

using namespace client;
namespace kinds = dhow::object::resources;
using controllers::FakeMachineProvider;
using controllers::MachineRequest;

class Region;

// One node's agent, from power on to power off.
class FakeAgent {
 public:
  FakeAgent(Region& region, MachineRequest request);
  Task<> stop();
  const std::string& name() const { return request_.name; }
  const std::string& zone() const { return request_.zone; }
  bool connected() const;  // to the masters
  // Its zone, its link and itself are well, and were so for this long; zero: they are not.
  Duration well() const;
  bool holdsLease() const;
  size_t running() const { return running_.size(); }
  bool runs(const std::string& identity) const;
  void reconnected();
  void seen(const ObjectPtr& before, const ObjectPtr& after);

 private:
  struct Running {
    std::string uid, identity;
  };
  static Task<> beat(FakeAgent* self);
  static Task<> enroll(FakeAgent* self);
  static Task<> startPod(FakeAgent* self, std::string key, std::string uid);
  static Task<> endPod(FakeAgent* self, std::string key, std::string uid);
  static Task<> tellAll(FakeAgent* self);
  void later(std::string what, Duration delay, std::function<void()> run);
  void sync();
  void fence();

  Region& region_;
  MachineRequest request_;
  std::map<std::string, Running> running_;  // by pod key
  std::map<std::string, Timer> timers_;
  std::optional<TimePoint> renewed_;  // when the last renewal that succeeded was sent
  bool enrolled_ = false, told_ = false, off_ = false;
  TimePoint wellSince_;
  Gate gate_;
};

struct RegionOptions {
  int zones = 3;
  // Masters in all zones over a store that needs most of them; otherwise one master, outside of them.
  bool quorum = false;
  // Of the leading master's connection to the API; none: it reads the API server's own caches.
  std::optional<Faults> faults;
};

class Region {
 public:
  using Options = RegionOptions;
  explicit Region(uint64_t seed, Options given = {})
      : loop(seed), options(std::move(given)), store(loop, {.fault = [this](const store::Txn&) { return fault(); }}) {
    CHECK(runOn(loop, server.start()).ok());
    admin = server.clientFor("admin");
    forControllers = server.clientFor("kube-controller-manager");
    forScheduler = server.clientFor("kube-scheduler");
    forNodes = server.clientFor("nodes");
    provider.onPower = [this](const MachineRequest& request, bool on) { power(request, on); };
    create(kinds::kRegions, {{"metadata", {{"name", "r"}}}});
    for (int i = 1; i <= options.zones; ++i) {
      const std::string name = fmt::format("z{}", i);
      provider.zones.insert(name);
      create(kinds::kZones, {{"metadata", {{"name", name}}}, {"spec", {{"region", "r"}}}});
      zones.push_back(name);
    }
    controllers::indexByNode(server.caches().of(kinds::kPods));
    pods = server.caches().of(kinds::kPods).subscribe([this](const ObjectPtr& before, const ObjectPtr& after) {
      const std::string node(text((after ? after : before)->root(), {"spec", "nodeName"}));
      if (auto found = agents.find(node); found != agents.end()) found->second->seen(before, after);
    });
    heartbeats = std::make_unique<controllers::Heartbeats>(loop, server.caches(), options.quorum ? "dhow-master" : "");
    heartbeats->start();
    if (options.quorum) {
      create(kinds::kLeases, {{"metadata", {{"name", "dhow-master"}}}, {"spec", {{"holderIdentity", "m"}}}},
             "kube-system");
      masterLease = std::make_unique<Gate>(loop);
      renewMasterLease();
    }
    lead();
  }
  ~Region() {
    storeFaults = 0;
    masterTimer.cancel();
    if (masterLease) runOn(loop, masterLease->close());
    if (owner) runOn(loop, owner->close());
    ownerTimer.cancel();
    if (manager) resign();
    heartbeats->stop();
    pods.reset();
    runOn(loop, provider.stop());
    for (auto& [name, agent] : agents) runOn(loop, agent->stop());
    for (auto& agent : gone) runOn(loop, agent->stop());
    runOn(loop, server.stop());
  }

  // A master takes the lead, or another takes it over.
  void lead() {
    controllers::Options duties;
    duties.machines = &provider;
    duties.clusterName = "c";
    duties.heartbeats = heartbeats.get();
    Client* client = forControllers.get();
    Caches* caches = &server.caches();
    if (options.faults) {
      faulty = std::make_unique<FaultyClient>(loop, *forControllers, *options.faults);
      late = std::make_unique<HttpCaches>(loop, *faulty);
      client = faulty.get();
      caches = late.get();
    }
    manager = std::make_unique<controllers::Manager>(loop, *client, *caches, duties);
    scheduler = std::make_unique<Scheduler>(loop, *forScheduler, server.caches(), scheduler::Options());
    manager->start();
    scheduler->start();
    if (late) late->start();
  }
  void resign() {
    runOn(loop, scheduler->stop());
    runOn(loop, manager->stop());
    if (late) runOn(loop, late->stop());
    scheduler.reset();
    manager.reset();
    late.reset();
    faulty.reset();
  }
  // Whether the masters that are left are most of them.
  bool quorumHolds() const { return 2 * provider.out.size() < zones.size(); }
  // Whether a node of the zone reaches a master that can write.
  bool masterReached(const std::string& zone) const {
    return options.quorum ? quorumHolds() : !masterCut || zone == masterWith;
  }

  void create(const Resource& kind, json::object body, std::string ns = "") {
    Result<ObjectPtr> made = runOn(loop, admin->create(kind, std::move(ns), std::move(body)));
    CHECK(made.ok(), "{}", made.error().message());
  }
  void pool(int count, json::object more = {}) {
    json::object spec{{"count", count}};
    json::array names;
    for (const std::string& zone : zones) names.push_back(json::string(zone));
    spec["zones"] = std::move(names);
    for (auto& [key, value] : more) spec[key] = value;
    create(kinds::kNodePools, {{"metadata", {{"name", "default"}}}, {"spec", std::move(spec)}});
  }
  void change(const Resource& kind, std::string name, json::object body, std::string ns = "") {
    Result<ObjectPtr> done = runOn(loop, admin->patch(kind, ns, name, "", PatchType::kMerge, std::move(body)));
    CHECK(done.ok(), "{}", done.error().message());
  }
  void deploy(std::string name, int replicas, std::string cpu = "100m") {
    create(kinds::kDeployments,
           {{"metadata", {{"name", name}, {"namespace", "default"}}},
            {"spec",
             {{"replicas", replicas},
              {"selector", {{"matchLabels", {{"app", name}}}}},
              {"template",
               {{"metadata", {{"labels", {{"app", name}}}}},
                {"spec",
                 {{"containers",
                   json::array{{{"name", "c"}, {"image", "i"}, {"resources", {{"requests", {{"cpu", cpu}}}}}}}}}}}}}}},
           "default");
  }
  // Keeps `count` pods with an identity, as a StatefulSet would: db-0 is made again when there is none.
  void database(int count) {
    databases = count;
    owner = std::make_unique<Gate>(loop);
    keepDatabases();
  }

  // The zone loses its network; with `power`, its machines too.
  void lose(const std::string& zone, bool power) {
    provider.out.insert(zone);
    if (options.quorum && manager && !quorumHolds()) resign();
    if (!power) return;
    for (const auto& [name, info] : std::map(provider.machines())) {
      if (info.zone == zone) provider.powerOff(name);
    }
  }
  void giveBack(const std::string& zone) {
    provider.out.erase(zone);
    for (const auto& [name, info] : std::map(provider.machines())) {
      if (info.zone == zone && info.state == controllers::MachineInfo::State::kStopped) provider.powerOn(name);
    }
    const bool led = manager != nullptr;
    if (!led && quorumHolds()) lead();
    for (auto& [name, agent] : agents) {
      if (agent->zone() == zone || !led) agent->reconnected();
    }
  }
  // The nodes that were cut off one by one reach the masters again.
  void mendNodes() {
    for (const std::string& name : std::exchange(cutNodes, {})) {
      auto agent = agents.find(name);
      if (agent != agents.end()) agent->second->reconnected();
    }
  }
  // The only master is cut off from the zones, but for `with`, and from the provider.
  void cut(bool now, std::string with = "") {
    masterCut = now;
    masterWith = std::move(with);
    provider.unreached = now;
    if (now) return;
    for (auto& [name, agent] : agents) agent->reconnected();
  }

  std::vector<ObjectPtr> podsOf(std::string_view app) {
    std::vector<ObjectPtr> out;
    for (ObjectPtr& pod : server.caches().of(kinds::kPods).list("default")) {
      if (pod->label("app") == app && !pod->deleting()) out.push_back(std::move(pod));
    }
    return out;
  }
  // Pods of the app that truly run on nodes that are reached.
  int64_t serving(std::string_view app) {
    int64_t out = 0;
    for (const ObjectPtr& pod : podsOf(app)) {
      auto agent = agents.find(std::string(text(pod->root(), {"spec", "nodeName"})));
      out += conditionTrue(pod->root(), "Ready") && agent != agents.end() && agent->second->connected() &&
             agent->second->runs(pod->key());
    }
    return out;
  }
  std::vector<ObjectPtr> machines() { return server.caches().of(kinds::kMachines).list(); }
  ObjectPtr machine(std::string_view name) { return server.caches().of(kinds::kMachines).get("", name); }
  std::string phase(std::string_view zone) {
    ObjectPtr found = server.caches().of(kinds::kZones).get("", zone);
    return found ? std::string(text(found->root(), {"status", "phase"})) : "";
  }
  // "False NodesSilent": status and reason; empty when there is none.
  std::string condition(const Resource& kind, std::string_view name, std::string_view type) {
    ObjectPtr found = server.caches().of(kind).get("", name);
    const json::object* one = found ? client::condition(found->root(), type) : nullptr;
    return one ? fmt::format("{} {}", text(*one, "status"), text(*one, "reason")) : "";
  }
  int64_t standIns() {
    int64_t out = 0;
    for (const ObjectPtr& one : machines()) out += !controllers::standsInFor(*one).empty();
    return out;
  }
  // Machines of the pool in each zone that is up; the difference of most and fewest. Stand-ins count while the zone of
  // their originals is down: when it returns they go one by one.
  int64_t skew() {
    std::map<std::string, int64_t> count;
    for (const std::string& zone : zones)
      if (phase(zone) == "Up") count[zone] = 0;
    for (const ObjectPtr& one : machines()) {
      auto found = count.find(std::string(text(one->root(), {"spec", "zone"})));
      const bool counts = controllers::standsInFor(*one).empty()
                              ? one->label(controllers::kSurgeLabel).empty()
                              : phase(text(one->root(), {"spec", "standInFor", "zone"})) == "Down";
      if (found != count.end() && !one->deleting() && counts) ++found->second;
    }
    if (count.empty()) return 0;
    auto [least, most] = std::minmax_element(count.begin(), count.end(),
                                             [](const auto& a, const auto& b) { return a.second < b.second; });
    return most->second - least->second;
  }
  std::map<std::string, int> byZone(std::string_view app) {
    std::map<std::string, int> out;
    for (const std::string& zone : zones) out[zone] = 0;
    for (const ObjectPtr& pod : podsOf(app)) ++out[std::string(pod->label(controllers::kZoneLabel))];
    return out;
  }
  bool whole(int count) {
    int64_t running = 0;
    for (const ObjectPtr& one : machines()) {
      if (text(one->root(), {"status", "phase"}) != "Running" || one->deleting()) return false;
      ++running;
    }
    for (const std::string& zone : zones)
      if (phase(zone) != "Up") return false;
    return running == count && standIns() == 0;
  }
  std::string describe() {
    std::string out;
    for (const std::string& zone : zones) out += fmt::format("zone {} {}\n", zone, phase(zone));
    for (const ObjectPtr& one : machines()) {
      out += fmt::format("machine {} {} {} {} {}{}\n", one->name(), text(one->root(), {"spec", "zone"}),
                         text(one->root(), {"status", "phase"}), controllers::standsInFor(*one),
                         text(one->root(), {"status", "message"}), one->deleting() ? " (deleting)" : "");
    }
    for (const ObjectPtr& pod : server.caches().of(kinds::kPods).list()) {
      out += fmt::format("pod {} on {} {}{}{}\n", pod->key(), text(pod->root(), {"spec", "nodeName"}),
                         conditionTrue(pod->root(), "Ready") ? "ready" : "not ready",
                         controllers::leaving(*pod) ? " leaving" : "", pod->deleting() ? " (deleting)" : "");
    }
    return out;
  }
  // Every place where the identity runs at this moment.
  size_t holders(const std::string& identity) {
    size_t out = 0;
    for (auto& [name, agent] : agents) out += agent->runs(identity);
    return out;
  }

  store::MemoryStore::Fault fault() {
    if (storeFaults == 0 || loop.random() % storeFaults != 0) return store::MemoryStore::Fault::kNone;
    return loop.random() % 2 == 0 ? store::MemoryStore::Fault::kRefused : store::MemoryStore::Fault::kLostAnswer;
  }

  SimLoop loop;
  const Options options;
  uint64_t storeFaults = 0;  // one of so many transactions fails; 0: none
  store::MemoryStore store;
  apiserver::ApiServer server{loop, store, object::Kinds::builtin(), {}};
  FakeMachineProvider provider{loop};
  std::unique_ptr<Client> admin, forControllers, forScheduler, forNodes;
  std::unique_ptr<FaultyClient> faulty;
  std::unique_ptr<HttpCaches> late;
  std::unique_ptr<controllers::Heartbeats> heartbeats;  // kept by masters that do not lead
  std::unique_ptr<controllers::Manager> manager;
  std::unique_ptr<Scheduler> scheduler;
  std::map<std::string, std::unique_ptr<FakeAgent>> agents;
  std::vector<std::unique_ptr<FakeAgent>> gone;
  std::vector<std::string> zones;
  std::set<std::string> cutNodes;
  bool masterCut = false;
  std::string masterWith;  // the zone that it is cut off with
  size_t doubled = 0;      // how often an identity was started while it ran elsewhere
  int databases = 0;
  std::unique_ptr<Gate> owner, masterLease;
  Timer ownerTimer, masterTimer;

 private:
  // Without most of the masters nobody leads; when they are back, one does.
  void renewMasterLease() {
    if (quorumHolds() && manager) masterLease->spawn(renewOnce(this));
    masterTimer = loop.after(std::chrono::milliseconds(500), [this] { renewMasterLease(); });
  }
  static Task<> renewOnce(Region* self) {
    json::object spec{{"renewTime", formatTimeMicro(self->loop.wallNow())}};
    (void)co_await self->forControllers->patch(kinds::kLeases, "kube-system", "dhow-master", "", PatchType::kMerge,
                                               json::object{{"spec", std::move(spec)}});
  }

  void power(const MachineRequest& request, bool on) {
    auto found = agents.find(request.name);
    if (found != agents.end()) {
      spawn(loop, found->second->stop());
      gone.push_back(std::move(found->second));
      agents.erase(found);
    }
    if (on) agents[request.name] = std::make_unique<FakeAgent>(*this, request);
  }
  void keepDatabases() {
    owner->spawn(makeDatabases(this));
    ownerTimer = loop.after(std::chrono::milliseconds(500), [this] { keepDatabases(); });
  }
  static Task<> makeDatabases(Region* self) {
    for (int i = 0; i < self->databases; ++i) {
      const std::string name = fmt::format("db-{}", i);
      if (self->server.caches().of(kinds::kPods).get("default", name)) continue;
      json::object owner{{"apiVersion", "example.com/v1"},
                         {"kind", "Database"},
                         {"name", "db"},
                         {"uid", "db-uid"},
                         {"controller", true}};
      json::object body{{"metadata",
                         {{"name", name},
                          {"namespace", "default"},
                          {"labels", {{"app", "db"}}},
                          {"annotations", {{"dhow.io/exclusive", "true"}}},
                          {"ownerReferences", json::array{std::move(owner)}}}},
                        {"spec", {{"containers", json::array{{{"name", "c"}, {"image", "i"}}}}}}};
      (void)co_await self->admin->create(kinds::kPods, "default", std::move(body));
    }
  }
  std::unique_ptr<Cache::Subscription> pods;
};

inline FakeAgent::FakeAgent(Region& region, MachineRequest request)
    : region_(region), request_(std::move(request)), wellSince_(region.loop.now()), gate_(region.loop) {
  later("boot", std::chrono::milliseconds(500 + region_.loop.random() % 1500), [this] { gate_.spawn(beat(this)); });
}

inline Task<> FakeAgent::stop() {
  off_ = true;
  running_.clear();
  timers_.clear();
  co_await gate_.close();
}

inline bool FakeAgent::connected() const {
  return well() > Duration::zero() && region_.masterReached(request_.zone);
}

inline Duration FakeAgent::well() const {
  if (off_ || region_.provider.out.contains(request_.zone) || region_.cutNodes.contains(request_.name))
    return Duration::zero();
  return region_.loop.now() - wellSince_ + std::chrono::nanoseconds(1);
}

inline bool FakeAgent::runs(const std::string& identity) const {
  return std::any_of(running_.begin(), running_.end(),
                     [&](const auto& one) { return one.first == identity || one.second.identity == identity; });
}

inline bool FakeAgent::holdsLease() const {
  return renewed_ && region_.loop.now() - *renewed_ < kSelfFenceAfter;
}

inline void FakeAgent::later(std::string what, Duration delay, std::function<void()> run) {
  if (off_) return;
  timers_[what] = region_.loop.after(delay, std::move(run));
}

inline Task<> FakeAgent::beat(FakeAgent* self) {
  const TimePoint sent = self->region_.loop.now();
  bool ok = false;
  if (self->connected()) {
    if (!self->enrolled_) co_await enroll(self);
    json::object spec{{"holderIdentity", self->name()},
                      {"renewTime", formatTimeMicro(self->region_.loop.wallNow())},
                      {"leaseDurationSeconds", kLeaseSeconds}};
    Result<ObjectPtr> done = co_await self->region_.forNodes->patch(kinds::kLeases, "kube-node-lease", self->name(), "",
                                                                    PatchType::kMerge, json::object{{"spec", spec}});
    if (!done.ok() && done.error().is(Code::kNotFound)) {
      json::object body{{"metadata", {{"name", self->name()}, {"namespace", "kube-node-lease"}}},
                        {"spec", std::move(spec)}};
      done = co_await self->region_.forNodes->create(kinds::kLeases, "kube-node-lease", std::move(body));
    }
    ok = done.ok();
  }
  if (self->off_) co_return;
  if (ok && self->connected()) {
    const bool lapsed = !self->renewed_ || sent - *self->renewed_ > 2 * kRenewEvery;
    self->renewed_ = sent;
    self->later("fence", kSelfFenceAfter + std::chrono::milliseconds(self->region_.loop.random() % 3000),
                [self] { self->fence(); });
    if (lapsed || !self->told_) {
      co_await tellAll(self);
      self->sync();
    }
  }
  const Duration next = ok ? kRenewEvery : std::chrono::milliseconds(500 + self->region_.loop.random() % 1000);
  self->later("beat", next, [self] { self->gate_.spawn(beat(self)); });
}

inline Task<> FakeAgent::enroll(FakeAgent* self) {
  json::object labels{{"kubernetes.io/hostname", self->name()},
                      {controllers::kZoneLabel, self->zone()},
                      {controllers::kRegionLabel, "r"}};
  for (const auto& [key, value] : self->request_.labels) labels[key] = value;
  json::object metadata{{"name", self->name()}, {"labels", labels}, {"annotations", {{kFencesItself, "true"}}}};
  Result<ObjectPtr> made =
      co_await self->region_.forNodes->create(kinds::kNodes, "", json::object{{"metadata", std::move(metadata)}});
  if (!made.ok() && made.error().is(Code::kAlreadyExists)) {
    json::object change{{"metadata", {{"labels", labels}}}};
    made = co_await self->region_.forNodes->patch(kinds::kNodes, "", self->name(), "", PatchType::kMerge,
                                                  std::move(change));
  }
  self->enrolled_ = made.ok();
}

// The node's state, as an agent tells it after a silence.
inline Task<> FakeAgent::tellAll(FakeAgent* self) {
  const std::string now = formatTime(self->region_.loop.wallNow());
  const std::string cpu = self->request_.cpu.empty() ? "4" : self->request_.cpu;
  json::object status{
      {"allocatable", {{"cpu", cpu}, {"memory", "16Gi"}, {"pods", "110"}}},
      {"capacity", {{"cpu", cpu}, {"memory", "16Gi"}, {"pods", "110"}}},
      {"conditions", json::array{{{"type", "Ready"}, {"status", "True"}, {"lastTransitionTime", now}}}}};
  Result<ObjectPtr> told =
      co_await self->region_.forNodes->patch(kinds::kNodes, "", self->name(), "status", PatchType::kStrategicMerge,
                                             json::object{{"status", std::move(status)}});
  self->told_ = told.ok();
  if (!told.ok()) self->enrolled_ = false;
}

inline void FakeAgent::reconnected() {
  wellSince_ = region_.loop.now();
  sync();
}

inline void FakeAgent::seen(const ObjectPtr&, const ObjectPtr&) {
  if (connected()) sync();
}

// What should run and what should not, by what the API says now.
inline void FakeAgent::sync() {
  if (!connected() || !renewed_) return;
  auto& pods = region_.server.caches().of(kinds::kPods);
  for (const ObjectPtr& pod : pods.byIndex(controllers::kPodsOfNode, name())) {
    const std::string key = pod->key(), uid(pod->uid());
    auto found = running_.find(key);
    const bool isRunning = found != running_.end() && found->second.uid == uid;
    if (pod->deleting()) {
      if (!timers_.contains("end " + uid)) {
        later("end " + uid, std::chrono::milliseconds(50 + region_.loop.random() % 1500),
              [this, key, uid] { gate_.spawn(endPod(this, key, uid)); });
      }
    } else if (!isRunning || !conditionTrue(pod->root(), "Ready")) {
      if (!timers_.contains("start " + uid)) {
        later("start " + uid, std::chrono::milliseconds(100 + region_.loop.random() % 1500),
              [this, key, uid] { gate_.spawn(startPod(this, key, uid)); });
      }
    }
  }
  for (auto it = running_.begin(); it != running_.end();) {
    auto [ns, podName] = splitKey(it->first);
    ObjectPtr pod = pods.get(ns, podName);
    it = pod && pod->uid() == it->second.uid ? std::next(it) : running_.erase(it);
  }
}

inline Task<> FakeAgent::startPod(FakeAgent* self, std::string key, std::string uid) {
  self->timers_.erase("start " + uid);
  auto [ns, name] = splitKey(key);
  ObjectPtr pod = self->region_.server.caches().of(kinds::kPods).get(ns, name);
  if (!self->connected() || !pod || pod->uid() != uid || pod->deleting()) co_return;
  const bool identity = pod->annotation("dhow.io/exclusive") == "true";
  if (identity && !self->holdsLease()) co_return;
  if (!self->running_.contains(key)) {
    if (identity && self->region_.holders(key) > 0) ++self->region_.doubled;
    self->running_[key] = {uid, identity ? key : ""};
  }
  const std::string now = formatTime(self->region_.loop.wallNow());
  json::object body{
      {"status",
       {{"phase", "Running"},
        {"conditions", json::array{{{"type", "Ready"}, {"status", "True"}, {"lastTransitionTime", now}}}}}}};
  Result<ObjectPtr> done = co_await self->region_.forNodes->patch(
      kinds::kPods, std::string(ns), std::string(name), "status", PatchType::kStrategicMerge, std::move(body));
  if (!done.ok()) self->sync();
}

inline Task<> FakeAgent::endPod(FakeAgent* self, std::string key, std::string uid) {
  auto found = self->running_.find(key);
  if (found != self->running_.end() && found->second.uid == uid) self->running_.erase(found);
  if (!self->connected()) {
    self->timers_.erase("end " + uid);
    co_return;
  }
  auto [ns, name] = splitKey(key);
  DeleteOptions options;
  options.gracePeriodSeconds = 0;
  options.uid = uid;
  Result<> done = co_await self->region_.forNodes->remove(kinds::kPods, std::string(ns), std::string(name), options);
  self->timers_.erase("end " + uid);
  if (!done.ok() && !done.error().is(Code::kNotFound)) self->sync();
}

inline void FakeAgent::fence() {
  if (holdsLease()) return;
  for (auto it = running_.begin(); it != running_.end();)
    it = it->second.identity.empty() ? std::next(it) : running_.erase(it);
}

}  // namespace dhow::scheduler
