// Zones, pools, machines and fencing under the virtual clock, with injected faults. One seed is one run:
//   DHOW_SEED=17 scheduler_test --gtest_filter='ZonesSimulation.*'   that seed alone, with what happened
//   DHOW_SEEDS=5000                                                  more of them
#include <gmock/gmock.h>

#include <cstdlib>

#include "zones_world.h"

namespace dhow::scheduler {
namespace {

using namespace std::chrono_literals;

TEST(ZonesSimulation, PoolMakesItsMachinesEvenlyAndUnderStableNames) {
  Region region(1);
  region.pool(6);
  ASSERT_TRUE(region.loop.runUntil([&] { return region.whole(6); }, 60s)) << region.describe();
  std::map<std::string, std::string> zones;
  for (const ObjectPtr& one : region.machines())
    zones[std::string(one->name())] = std::string(text(one->root(), {"spec", "zone"}));
  EXPECT_EQ(zones, (std::map<std::string, std::string>{{"c-node-1", "z1"},
                                                       {"c-node-2", "z2"},
                                                       {"c-node-3", "z3"},
                                                       {"c-node-4", "z1"},
                                                       {"c-node-5", "z2"},
                                                       {"c-node-6", "z3"}}));
  region.change(kinds::kNodePools, "default", {{"spec", {{"count", 4}}}});
  ASSERT_TRUE(region.loop.runUntil([&] { return region.whole(4); }, 60s)) << region.describe();
  EXPECT_LE(region.skew(), 1);
  EXPECT_EQ(region.machine("c-node-6"), nullptr);
  EXPECT_EQ(region.server.caches().of(kinds::kNodes).list().size(), 4u);
}

TEST(ZonesSimulation, LostZoneIsDetectedInTenAndHealedInTwentySecondsAndComesBack) {
  Region region(2);
  region.provider.slowest = 2s;
  region.pool(6);
  region.deploy("web", 12);
  region.database(3);
  ASSERT_TRUE(region.loop.runUntil([&] { return region.whole(6) && region.serving("web") == 12; }, 60s))
      << region.describe();
  const auto before = region.byZone("web");
  region.loop.advance(20s);
  const TimePoint lost = region.loop.now();
  region.lose("z1", false);
  ASSERT_TRUE(region.loop.runUntil([&] { return region.phase("z1") == "Down"; }, 10s)) << region.describe();
  const auto detected = std::chrono::duration<double>(region.loop.now() - lost).count();
  ASSERT_TRUE(region.loop.runUntil(
      [&] { return region.serving("web") == 12 && region.standIns() == 2 && region.serving("db") == 3; },
      lost + 20s - region.loop.now()))
      << region.describe();
  fmt::print("zone loss detected after {:.1f} s, healed after {:.1f} s\n", detected,
             std::chrono::duration<double>(region.loop.now() - lost).count());
  EXPECT_LE(region.skew(), 1);
  region.loop.advance(60s);
  region.giveBack("z1");
  int64_t least = 12;
  ASSERT_TRUE(region.loop.runUntil(
      [&] {
        least = std::min(least, region.serving("web"));
        return region.whole(6);
      },
      300s))
      << region.describe();
  EXPECT_EQ(least, 12) << "pods came back before others went";
  EXPECT_EQ(region.byZone("web"), before);
  EXPECT_EQ(region.doubled, 0u);
}

TEST(ZonesSimulation, CutMasterDoesNothingRash) {
  Region region(3);
  region.pool(6);
  region.deploy("web", 6);
  ASSERT_TRUE(region.loop.runUntil([&] { return region.whole(6) && region.serving("web") == 6; }, 60s));
  std::set<std::string> before;
  for (const ObjectPtr& pod : region.podsOf("web")) before.emplace(pod->name());
  region.cut(true);
  region.loop.advance(200s);
  for (const std::string& zone : region.zones) EXPECT_EQ(region.phase(zone), "Up");
  EXPECT_EQ(region.standIns(), 0);
  region.cut(false);
  region.loop.advance(30s);
  std::set<std::string> after;
  for (const ObjectPtr& pod : region.podsOf("web")) after.emplace(pod->name());
  EXPECT_EQ(before, after);
  EXPECT_TRUE(region.whole(6)) << region.describe();
}

TEST(ZonesSimulation, SingleNodeIsRepairedUnderItsNameAndItsZoneStaysUp) {
  Region region(4);
  region.pool(6);
  ASSERT_TRUE(region.loop.runUntil([&] { return region.whole(6); }, 60s));
  region.provider.powerOff("c-node-1");
  region.loop.advance(3s);
  EXPECT_EQ(region.phase("z1"), "Up");
  ASSERT_TRUE(region.loop.runUntil([&] { return region.whole(6); }, 60s)) << region.describe();
  EXPECT_NE(region.machine("c-node-1"), nullptr);
  EXPECT_EQ(region.standIns(), 0);
}

TEST(ZonesSimulation, OnlyNodeOfAZoneIsNotTakenForTheZone) {
  Region region(5);
  region.pool(3);
  ASSERT_TRUE(region.loop.runUntil([&] { return region.whole(3); }, 60s));
  region.cutNodes.insert("c-node-2");
  region.loop.advance(12s);
  EXPECT_EQ(region.phase("z2"), "Up");
  region.mendNodes();
  ASSERT_TRUE(region.loop.runUntil([&] { return region.whole(3); }, 120s)) << region.describe();
  // Its provider does not answer either: it is the zone.
  region.lose("z2", true);
  EXPECT_TRUE(region.loop.runUntil([&] { return region.phase("z2") == "Down"; }, 10s)) << region.describe();
  EXPECT_TRUE(region.loop.runUntil([&] { return region.standIns() == 1; }, 5s));
}

TEST(ZonesSimulation, FlappingZoneIsTrustedLaterEachTime) {
  Region region(6);
  region.pool(6);
  ASSERT_TRUE(region.loop.runUntil([&] { return region.whole(6); }, 60s));
  std::vector<double> waits;
  for (int i = 0; i < 4; ++i) {
    region.lose("z3", false);
    ASSERT_TRUE(region.loop.runUntil([&] { return region.phase("z3") == "Down"; }, 12s)) << region.describe();
    region.loop.advance(10s);
    region.giveBack("z3");
    const TimePoint back = region.loop.now();
    ASSERT_TRUE(region.loop.runUntil([&] { return region.phase("z3") != "Down"; }, 600s)) << region.describe();
    waits.push_back(std::chrono::duration<double>(region.loop.now() - back).count());
    region.loop.advance(5s);
  }
  EXPECT_LT(waits[0], 10);
  EXPECT_GT(waits[3], 35);
}

TEST(ZonesSimulation, UpgradeSurgesDrainsAndReplacesUnderTheOldNames) {
  Region region(7);
  region.pool(3);
  region.deploy("web", 6);
  ASSERT_TRUE(region.loop.runUntil([&] { return region.whole(3) && region.serving("web") == 6; }, 60s));
  region.change(kinds::kNodePools, "default", {{"spec", {{"template", {{"labels", {{"tier", "new"}}}}}}}});
  int64_t least = 6;
  size_t most = 0;
  auto upgraded = [&] {
    least = std::min(least, region.serving("web"));
    most = std::max(most, region.machines().size());
    for (const ObjectPtr& one : region.machines()) {
      if (text(one->root(), {"spec", "template", "labels", "tier"}) != "new") return false;
    }
    return region.whole(3);
  };
  ASSERT_TRUE(region.loop.runUntil(upgraded, 600s)) << region.describe();
  EXPECT_EQ(least, 6);
  EXPECT_EQ(most, 4u);
  for (std::string name : {"c-node-1", "c-node-2", "c-node-3"}) EXPECT_NE(region.machine(name), nullptr) << name;
  for (const ObjectPtr& node : region.server.caches().of(kinds::kNodes).list()) EXPECT_EQ(node->label("tier"), "new");
}

TEST(ZonesSimulation, FullZonesLeaveStandInsOutAndSaySo) {
  Region region(8);
  region.pool(6);
  ASSERT_TRUE(region.loop.runUntil([&] { return region.whole(6); }, 60s));
  region.change(kinds::kZones, "z2", {{"spec", {{"maxMachines", 2}}}});
  region.provider.room["z3"] = 3;
  region.lose("z1", true);
  region.loop.advance(60s);
  int running = 0;
  for (const ObjectPtr& one : region.machines()) {
    running += !controllers::standsInFor(*one).empty() && text(one->root(), {"status", "phase"}) == "Running";
  }
  EXPECT_EQ(running, 1) << region.describe();
  ObjectPtr pool = region.server.caches().of(kinds::kNodePools).get("", "default");
  EXPECT_THAT(std::string(text(pool->root(), {"status", "message"})), ::testing::HasSubstr("no room"));
}

TEST(ZonesSimulation, UpgradeThatCannotDrainStopsAndNamesThePod) {
  Region region(9);
  region.pool(3, {{"drainDeadlineSeconds", 30}});
  ASSERT_TRUE(region.loop.runUntil([&] { return region.whole(3); }, 60s));
  region.create(kinds::kPods,
                {{"metadata", {{"name", "alone"}, {"namespace", "default"}}},
                 {"spec",
                  {{"nodeSelector", {{"kubernetes.io/hostname", "c-node-1"}}},
                   {"containers", json::array{{{"name", "c"}, {"image", "i"}}}}}}},
                "default");
  region.loop.advance(10s);
  region.change(kinds::kNodePools, "default", {{"spec", {{"upgrade", "now"}}}});
  auto pool = [&] { return region.server.caches().of(kinds::kNodePools).get("", "default"); };
  auto stuck = [&] {
    const json::object* upgrading = condition(pool()->root(), "Upgrading");
    return upgrading != nullptr && text(*upgrading, "reason") == "DrainBlocked";
  };
  ASSERT_TRUE(region.loop.runUntil(stuck, 200s)) << region.describe();
  EXPECT_THAT(std::string(text(pool()->root(), {"status", "message"})),
              ::testing::AllOf(::testing::HasSubstr("machine c-node-1"),
                               ::testing::HasSubstr("pod default/alone stays: nobody would make it again")));
  region.loop.advance(120s);
  EXPECT_EQ(region.machines().size(), 4u) << "nothing else is touched meanwhile";
  EXPECT_NE(region.server.caches().of(kinds::kPods).get("default", "alone"), nullptr);
  // Once the pod is gone it goes on by itself.
  ASSERT_TRUE(runOn(region.loop, region.admin->remove(kinds::kPods, "default", "alone", {})).ok());
  EXPECT_TRUE(region.loop.runUntil([&] { return region.whole(3); }, 600s)) << region.describe();
}

TEST(ZonesSimulation, PendingPodsBringMachinesAndIdleOnesLeave) {
  Region region(10);
  region.pool(3, {{"min", 3}, {"max", 8}, {"idleSeconds", 60}, {"template", {{"size", {{"cpu", "4"}}}}}});
  ASSERT_TRUE(region.loop.runUntil([&] { return region.whole(3); }, 60s));
  region.deploy("web", 5, "3");
  ASSERT_TRUE(region.loop.runUntil([&] { return region.whole(5) && region.serving("web") == 5; }, 120s))
      << region.describe();
  EXPECT_LE(region.skew(), 1);
  // In the zone that it needs, and no further than evenness allows.
  region.create(
      kinds::kPods,
      {{"metadata", {{"name", "here"}, {"namespace", "default"}, {"labels", {{"app", "here"}}}}},
       {"spec",
        {{"nodeSelector", {{controllers::kZoneLabel, "z3"}}},
         {"containers", json::array{{{"name", "c"}, {"image", "i"}, {"resources", {{"requests", {{"cpu", "3"}}}}}}}}}}},
      "default");
  ASSERT_TRUE(region.loop.runUntil([&] { return region.serving("here") == 1; }, 120s)) << region.describe();
  EXPECT_TRUE(region.loop.runUntil([&] { return region.whole(6); }, 60s)) << region.describe();
  ASSERT_TRUE(runOn(region.loop, region.admin->remove(kinds::kPods, "default", "here", {})).ok());
  region.change(kinds::kDeployments, "web", {{"spec", {{"replicas", 1}}}}, "default");
  EXPECT_TRUE(region.loop.runUntil([&] { return region.whole(3); }, 900s)) << region.describe();
  EXPECT_EQ(region.serving("web"), 1);
  EXPECT_LE(region.skew(), 1);
}

TEST(ZonesSimulation, MachinesOfANewClusterAreTakenOverAsTheyAre) {
  Region region(11);
  for (int i = 1; i <= 3; ++i) {
    MachineRequest planned;
    planned.name = fmt::format("c-node-{}", i);
    planned.zone = fmt::format("z{}", i);
    ASSERT_TRUE(runOn(region.loop, region.provider.create(planned)).ok());
  }
  region.loop.advance(10s);
  region.pool(3);
  ASSERT_TRUE(region.loop.runUntil([&] { return region.whole(3); }, 60s)) << region.describe();
  for (const auto& [name, info] : region.provider.machines()) EXPECT_EQ(info.version, "") << "it was made anew";
  region.change(kinds::kNodePools, "default", {{"spec", {{"upgrade", "now"}}}});
  region.loop.advance(1s);
  ASSERT_TRUE(region.loop.runUntil([&] { return region.whole(3); }, 600s)) << region.describe();
  for (const auto& [name, info] : region.provider.machines()) EXPECT_NE(info.version, "");
}

// Many regions, each with its own mishaps. After every step: no identity runs twice, the pool is even over live zones.
// At the end all is as it was meant: zones up, machines under their names, stand-ins gone, pods even, nothing lost.
void mishaps(uint64_t seed) {
  Region region(seed);
  SCOPED_TRACE(fmt::format("DHOW_SEED={}", seed));
  auto pick = [&](size_t n) { return static_cast<size_t>(region.loop.random() % n); };
  const int count = 3 + static_cast<int>(pick(5));
  region.provider.slowest = std::chrono::milliseconds(500 + pick(6000));
  region.pool(count);
  region.deploy("web", 6);
  region.database(2);
  ASSERT_TRUE(region.loop.runUntil(
      [&] { return region.whole(count) && region.serving("web") == 6 && region.serving("db") == 2; }, 180s))
      << region.describe();
  size_t uneven = 0;
  std::string when;
  auto watch = region.server.caches().of(kinds::kMachines).subscribe([&](const ObjectPtr&, const ObjectPtr&) {
    if (region.skew() > 1 && uneven++ == 0) when = region.describe();
  });
  std::set<std::string> lost;
  const size_t steps = 2 + pick(4);
  for (size_t i = 0; i < steps; ++i) {
    if (std::getenv("DHOW_SEED")) fmt::print("{} s:\n{}\n", i, region.describe());
    const std::string zone = region.zones[pick(region.zones.size())];
    switch (pick(8)) {
      case 0:
      case 1:
      case 2:
        if (lost.empty()) {
          lost.insert(zone);
          region.lose(zone, pick(2) == 0);
        }
        break;
      case 3: region.provider.faults = pick(2) == 0 ? 0 : 4; break;
      case 4: {
        std::vector<std::string> names;
        for (const auto& [name, info] : region.provider.machines()) names.push_back(name);
        if (!names.empty()) region.provider.powerOff(names[pick(names.size())]);
        break;
      }
      case 5: {
        std::vector<std::string> names;
        for (const auto& [name, agent] : region.agents) names.push_back(name);
        if (!names.empty()) region.cutNodes.insert(names[pick(names.size())]);
        break;
      }
      case 6:
        region.cut(true);
        region.loop.advance(std::chrono::seconds(pick(30)));
        region.cut(false);
        break;
      case 7:
        region.resign();
        region.loop.advance(std::chrono::milliseconds(pick(5000)));
        region.lead();
        break;
    }
    region.loop.advance(std::chrono::milliseconds(pick(40000)));
    if (!lost.empty() && pick(2) == 0) {
      for (const std::string& one : lost) region.giveBack(one);
      lost.clear();
      region.loop.advance(std::chrono::milliseconds(pick(15000)));
    }
    if (pick(2) == 0) region.mendNodes();
    ASSERT_EQ(region.doubled, 0u) << region.describe();
  }
  for (const std::string& one : lost) region.giveBack(one);
  region.mendNodes();
  region.provider.faults = 0;
  ASSERT_TRUE(region.loop.runUntil(
      [&] { return region.whole(count) && region.serving("web") == 6 && region.serving("db") == 2; }, 2000s))
      << region.describe();
  EXPECT_EQ(region.doubled, 0u);
  EXPECT_EQ(uneven, 0u) << when;
  EXPECT_EQ(region.podsOf("web").size(), 6u);
  EXPECT_LE(region.skew(), 1);
}

uint64_t fromEnvironment(const char* name, uint64_t otherwise) {
  const char* given = std::getenv(name);
  return given != nullptr ? std::strtoull(given, nullptr, 10) : otherwise;
}

TEST(ZonesSimulation, RegionSurvivesMishapsOverManySeeds) {
  if (const uint64_t one = fromEnvironment("DHOW_SEED", 0)) return mishaps(one);
#ifdef __OPTIMIZE__
  const uint64_t seeds = fromEnvironment("DHOW_SEEDS", 200);
#else
  const uint64_t seeds = fromEnvironment("DHOW_SEEDS", 10);
#endif
  for (uint64_t seed = 1; seed <= seeds && !testing::Test::HasFailure(); ++seed) mishaps(seed);
}

}  // namespace
}  // namespace dhow::scheduler
