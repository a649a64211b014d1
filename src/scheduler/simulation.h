// A control plane under the virtual clock, for simulations: API server on the store in memory, controllers, scheduler,
// and kubelets that only pretend. No thread, no sleep; one seed is one run.
#pragma once

#include <map>

#include "apiserver/server.h"
#include "base/time.h"
#include "client/fields.h"
#include "controllers/manager.h"
#include "scheduler/scheduler.h"
#include "store/memory_store.h"

namespace dhow::scheduler {
using namespace std::chrono_literals;
using namespace client;
namespace kinds = dhow::object::resources;

// Starts and ends the pods of all nodes.
class Kubelets {
 public:
  Kubelets(SimLoop& loop, Client& client, Cache& pods) : loop_(loop), client_(client), pods_(pods), gate_(loop) {}
  void start() {
    subscription_ =
        pods_.subscribe([this](const ObjectPtr& before, const ObjectPtr& after) { changed(before, after); });
  }
  Task<> stop() {
    subscription_.reset();
    timers_.clear();
    co_await gate_.close();
  }
  size_t ready() const { return ready_; }

 private:
  static bool isReady(const ObjectPtr& pod) { return pod && !pod->deleting() && conditionTrue(pod->root(), "Ready"); }
  void changed(const ObjectPtr& before, const ObjectPtr& after) {
    ready_ += isReady(after);
    ready_ -= isReady(before);
    if (!after) {
      timers_.erase(std::string(before->uid()));
      return;
    }
    if (text(after->root(), {"spec", "nodeName"}).empty()) return;
    const bool wasDeleting = before && before->deleting();
    const bool wasBound = before && !text(before->root(), {"spec", "nodeName"}).empty();
    if (after->deleting() ? wasDeleting : wasBound) return;
    later(std::string(after->uid()), std::string(after->ns()), std::string(after->name()), after->deleting());
  }
  void later(std::string uid, std::string ns, std::string name, bool end) {
    Timer& timer = timers_[uid];
    timer = loop_.after(std::chrono::milliseconds(50 + loop_.random() % 1500), [this, uid, ns, name, end] {
      gate_.spawn(end ? stopPod(this, uid, ns, name) : startPod(this, uid, ns, name));
    });
  }
  static Task<> startPod(Kubelets* self, std::string uid, std::string ns, std::string name) {
    const std::string now = formatTime(self->loop_.wallNow());
    json::object body{
        {"status",
         {{"phase", "Running"},
          {"startTime", now},
          {"podIP", "10.244.0.1"},
          {"conditions", json::array{{{"type", "Ready"}, {"status", "True"}, {"lastTransitionTime", now}}}}}}};
    Result<ObjectPtr> done =
        co_await self->client_.patch(kinds::kPods, ns, name, "status", PatchType::kStrategicMerge, std::move(body));
    if (!done.ok() && !done.error().is(Code::kNotFound)) self->later(uid, ns, name, false);
  }
  static Task<> stopPod(Kubelets* self, std::string uid, std::string ns, std::string name) {
    DeleteOptions options;
    options.gracePeriodSeconds = 0;
    options.uid = uid;
    Result<> done = co_await self->client_.remove(kinds::kPods, ns, name, options);
    if (!done.ok() && !done.error().is(Code::kNotFound)) self->later(uid, ns, name, true);
  }

  SimLoop& loop_;
  Client& client_;
  Cache& pods_;
  std::unique_ptr<Cache::Subscription> subscription_;
  std::map<std::string, Timer> timers_;
  size_t ready_ = 0;
  Gate gate_;
};

struct World {
  // `disabled`: controllers that the test runs itself; "scheduler" is one of them here.
  explicit World(uint64_t seed, std::set<std::string> disabled = {})
      : loop(seed), store(loop, {.fault = [this](const store::Txn&) { return fault(); }}) {
    CHECK(runOn(loop, server.start()).ok());
    admin = server.clientFor("admin");
    forControllers = server.clientFor("kube-controller-manager");
    forScheduler = server.clientFor("kube-scheduler");
    forKubelets = server.clientFor("kubelets");
    if (!disabled.contains("scheduler")) {
      scheduler = std::make_unique<Scheduler>(loop, *forScheduler, server.caches(), Options());
    }
    controllers::Options options;
    options.disabled = std::move(disabled);
    options.disabled.insert("nodelifecycle");  // nodes renew no leases here
    manager = std::make_unique<controllers::Manager>(loop, *forControllers, server.caches(), std::move(options));
    kubelets = std::make_unique<Kubelets>(loop, *forKubelets, server.caches().of(kinds::kPods));
    manager->start();
    if (scheduler) scheduler->start();
    kubelets->start();
  }
  ~World() {
    faults = 0;
    runOn(loop, kubelets->stop());
    if (scheduler) runOn(loop, scheduler->stop());
    runOn(loop, manager->stop());
    runOn(loop, server.stop());
  }
  store::MemoryStore::Fault fault() {
    if (faults == 0 || loop.random() % faults != 0) return store::MemoryStore::Fault::kNone;
    return loop.random() % 2 == 0 ? store::MemoryStore::Fault::kRefused : store::MemoryStore::Fault::kLostAnswer;
  }
  void node(int i, int zones) {
    const std::string name = fmt::format("n{}", i);
    json::object node{
        {"apiVersion", "v1"},
        {"kind", "Node"},
        {"metadata",
         {{"name", name},
          {"labels",
           {{"kubernetes.io/hostname", name}, {"topology.kubernetes.io/zone", fmt::format("z{}", i % zones)}}}}}};
    Result<ObjectPtr> made = runOn(loop, admin->create(kinds::kNodes, "", std::move(node)));
    CHECK(made.ok(), "{}", made.error().message());
    const std::string now = formatTime(loop.wallNow());
    json::object status{
        {"status",
         {{"allocatable", {{"cpu", "32"}, {"memory", "64Gi"}, {"pods", "110"}}},
          {"capacity", {{"cpu", "32"}, {"memory", "64Gi"}, {"pods", "110"}}},
          {"conditions",
           json::array{
               {{"type", "Ready"}, {"status", "True"}, {"lastTransitionTime", now}, {"lastHeartbeatTime", now}}}}}}};
    Result<ObjectPtr> told =
        runOn(loop, admin->patch(kinds::kNodes, "", name, "status", PatchType::kMerge, std::move(status)));
    CHECK(told.ok(), "{}", told.error().message());
  }
  void deploy(std::string name, int replicas, std::string image, int surge = 1, int unavailable = 0) {
    json::object spec{
        {"replicas", replicas},
        {"selector", {{"matchLabels", {{"app", name}}}}},
        {"strategy",
         {{"type", "RollingUpdate"}, {"rollingUpdate", {{"maxSurge", surge}, {"maxUnavailable", unavailable}}}}},
        {"template",
         {{"metadata", {{"labels", {{"app", name}}}}},
          {"spec",
           {{"containers", json::array{{{"name", "c"},
                                        {"image", image},
                                        {"resources", {{"requests", {{"cpu", "100m"}, {"memory", "64Mi"}}}}}}}}}}}}};
    json::object body{{"apiVersion", "apps/v1"},
                      {"kind", "Deployment"},
                      {"metadata", {{"name", name}, {"namespace", "default"}}},
                      {"spec", std::move(spec)}};
    const uint64_t had = std::exchange(faults, 0);
    Result<ObjectPtr> made = find(name)
                                 ? runOn(loop, admin->patch(kinds::kDeployments, "default", name, "", PatchType::kMerge,
                                                            json::object{{"spec", body["spec"]}}))
                                 : runOn(loop, admin->create(kinds::kDeployments, "default", std::move(body)));
    CHECK(made.ok(), "{}", made.error().message());
    faults = had;
  }
  ObjectPtr find(std::string_view name) { return server.caches().of(kinds::kDeployments).get("default", name); }
  // As `kubectl rollout status` sees it.
  bool rolledOut(std::string_view name) {
    ObjectPtr d = find(name);
    if (!d || number(d->root(), {"status", "observedGeneration"}, 0) < number(d->root(), {"metadata", "generation"}, 0))
      return false;
    const int64_t wanted = number(d->root(), {"spec", "replicas"}, 1);
    return number(d->root(), {"status", "updatedReplicas"}, 0) == wanted &&
           number(d->root(), {"status", "replicas"}, 0) == wanted &&
           number(d->root(), {"status", "availableReplicas"}, 0) == wanted;
  }
  std::vector<ObjectPtr> podsOf(std::string_view app) {
    std::vector<ObjectPtr> out;
    for (ObjectPtr& pod : server.caches().of(kinds::kPods).list("default")) {
      if (pod->label("app") == app && !pod->deleting()) out.push_back(std::move(pod));
    }
    return out;
  }

  SimLoop loop;
  uint64_t faults = 0;  // one of so many transactions fails; 0: none
  store::MemoryStore store;
  apiserver::ApiServer server{loop, store, object::Kinds::builtin(), {}};
  std::unique_ptr<Client> admin, forControllers, forScheduler, forKubelets;
  std::unique_ptr<controllers::Manager> manager;
  std::unique_ptr<Scheduler> scheduler;
  std::unique_ptr<Kubelets> kubelets;
};

}  // namespace dhow::scheduler
