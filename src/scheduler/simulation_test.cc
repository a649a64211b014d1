// The control plane as a whole under the virtual clock.
#include "simulation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace dhow::scheduler {
namespace {

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
