// The control plane as a whole under the virtual clock: API server on the store in memory, controllers, scheduler, and
// kubelets that only pretend. No thread, no sleep; one seed is one run.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "apiserver/server.h"
#include "base/time.h"
#include "client/fields.h"
#include "controllers/manager.h"
#include "scheduler/scheduler.h"
#include "store/memory_store.h"

namespace dhow::scheduler {
namespace {

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
  explicit World(uint64_t seed) : loop(seed), store(loop, {.fault = [this](const store::Txn&) { return fault(); }}) {
    CHECK(runOn(loop, server.start()).ok());
    admin = server.clientFor("admin");
    forControllers = server.clientFor("kube-controller-manager");
    forScheduler = server.clientFor("kube-scheduler");
    forKubelets = server.clientFor("kubelets");
    manager = std::make_unique<controllers::Manager>(loop, *forControllers, server.caches(), controllers::Options());
    scheduler = std::make_unique<Scheduler>(loop, *forScheduler, server.caches(), Options());
    kubelets = std::make_unique<Kubelets>(loop, *forKubelets, server.caches().of(kinds::kPods));
    manager->start();
    scheduler->start();
    kubelets->start();
  }
  ~World() {
    faults = 0;
    runOn(loop, kubelets->stop());
    runOn(loop, scheduler->stop());
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

TEST(Simulation, SixReplicasOnThreeZonesAreTwoEach) {
  World world(1);
  for (int i = 0; i < 3; ++i) world.node(i, 3);
  world.deploy("web", 6, "i1");
  ASSERT_TRUE(world.loop.runUntil([&] { return world.rolledOut("web"); }, 30s));
  std::map<std::string, int> nodes;
  for (const ObjectPtr& pod : world.podsOf("web")) ++nodes[std::string(text(pod->root(), {"spec", "nodeName"}))];
  EXPECT_EQ(nodes, (std::map<std::string, int>{{"n0", 2}, {"n1", 2}, {"n2", 2}}));
}

TEST(Simulation, OneSeedIsOneRun) {
  auto run = [](uint64_t seed) {
    World world(seed);
    for (int i = 0; i < 3; ++i) world.node(i, 3);
    world.deploy("web", 6, "i1");
    world.loop.advance(20s);
    std::string out;
    for (const ObjectPtr& pod : world.podsOf("web")) out += pod->bytes();
    return out;
  };
  const std::string first = run(7);
  EXPECT_GT(first.size(), 1000u);
  EXPECT_EQ(first, run(7));
}

// Rolls, scales and rolls back while transactions fail and answers get lost. At every moment: never fewer available
// than promised, never more pods than the surge allows.
TEST(Simulation, RolloutsKeepTheirPromisesOverManySeedsAndFaults) {
  for (uint64_t seed = 1; seed <= 12; ++seed) {
    SCOPED_TRACE(fmt::format("seed {}", seed));
    World world(seed);
    for (int i = 0; i < 4; ++i) world.node(i, 2);
    world.deploy("web", 8, "i1", 2, 1);
    ASSERT_TRUE(world.loop.runUntil([&] { return world.rolledOut("web"); }, 30s));
    world.faults = 20;
    size_t least = 1000, most = 0;
    auto watch = world.server.caches().of(kinds::kPods).subscribe([&](const ObjectPtr&, const ObjectPtr&) {
      size_t available = 0, total = 0;
      for (const ObjectPtr& pod : world.podsOf("web")) {
        ++total;
        available += conditionTrue(pod->root(), "Ready");
      }
      least = std::min(least, available);
      most = std::max(most, total);
    });
    // The first call of the subscription came with what was there.
    least = 1000, most = 0;
    for (std::string image : {"i2", "i3", "i1"}) {
      world.deploy("web", 8, image, 2, 1);
      ASSERT_TRUE(world.loop.runUntil([&] { return world.rolledOut("web"); }, 300s)) << image;
      EXPECT_EQ(world.podsOf("web").size(), 8u);
    }
    EXPECT_GE(least, 7u);
    EXPECT_LE(most, 10u);
    watch.reset();
    world.deploy("web", 3, "i1", 2, 1);
    ASSERT_TRUE(world.loop.runUntil([&] { return world.rolledOut("web"); }, 300s));
    EXPECT_EQ(world.podsOf("web").size(), 3u);
  }
}

TEST(Simulation, DeletedDeploymentTakesItsSetsAndPodsAlong) {
  World world(3);
  for (int i = 0; i < 3; ++i) world.node(i, 3);
  world.deploy("web", 6, "i1");
  ASSERT_TRUE(world.loop.runUntil([&] { return world.rolledOut("web"); }, 30s));
  DeleteOptions options;
  options.propagationPolicy = "Background";
  ASSERT_TRUE(runOn(world.loop, world.admin->remove(kinds::kDeployments, "default", "web", options)).ok());
  auto empty = [&] {
    return world.server.caches().of(kinds::kPods).list("default").empty() &&
           world.server.caches().of(kinds::kReplicaSets).list("default").empty();
  };
  EXPECT_TRUE(world.loop.runUntil(empty, 60s));
}

TEST(Simulation, DeletedNamespaceEmptiesAndGoes) {
  World world(4);
  world.node(0, 1);
  auto create = [&](const Resource& kind, std::string ns, json::object body) {
    return runOn(world.loop, world.admin->create(kind, ns, std::move(body)));
  };
  ASSERT_TRUE(
      create(kinds::kNamespaces, "", {{"apiVersion", "v1"}, {"kind", "Namespace"}, {"metadata", {{"name", "shop"}}}})
          .ok());
  ASSERT_TRUE(
      create(kinds::kConfigMaps, "shop", {{"apiVersion", "v1"}, {"kind", "ConfigMap"}, {"metadata", {{"name", "c"}}}})
          .ok());
  world.loop.advance(2s);
  EXPECT_NE(world.server.caches().of(kinds::kServiceAccounts).get("shop", "default"), nullptr);
  ASSERT_TRUE(runOn(world.loop, world.admin->remove(kinds::kNamespaces, "", "shop", {})).ok());
  EXPECT_TRUE(world.loop.runUntil(
      [&] { return world.server.caches().of(kinds::kNamespaces).get("", "shop") == nullptr; }, 60s));
  EXPECT_EQ(world.server.caches().of(kinds::kConfigMaps).get("shop", "c"), nullptr);
}

TEST(Simulation, ThousandNodesTenThousandPods) {
#ifdef __OPTIMIZE__
  const int nodes = 1000, deployments = 100;
#else
  const int nodes = 60, deployments = 6;
#endif
  const auto start = std::chrono::steady_clock::now();
  World world(5);
  for (int i = 0; i < nodes; ++i) world.node(i, 3);
  for (int i = 0; i < deployments; ++i) world.deploy(fmt::format("d{}", i), 100, "i1", 25, 25);
  const auto pods = static_cast<size_t>(deployments) * 100;
  EXPECT_TRUE(world.loop.runUntil([&] { return world.kubelets->ready() == pods; }, 35s)) << world.kubelets->ready();
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  fmt::print("{} pods on {} nodes ready after {:.1f} s of computing\n", pods, nodes, seconds);
  // Nobody was made twice.
  EXPECT_EQ(world.server.caches().of(kinds::kPods).list("default").size(), pods);
}

}  // namespace
}  // namespace dhow::scheduler
