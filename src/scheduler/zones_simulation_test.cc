// Zones, pools, machines and fencing under the virtual clock, with injected faults. One seed is one run:
//   DHOW_SEED=17 scheduler_test --gtest_filter='ZonesSimulation.*'   that seed alone, with what happened
//   DHOW_SEEDS=5000                                                  more of them
#include <gmock/gmock.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "base/log.h"
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

TEST(ZonesSimulation, MasterThatIsCutOffWithItsZoneDoesNothingRash) {
  Region region(12);
  region.pool(6);
  region.deploy("web", 6);
  ASSERT_TRUE(region.loop.runUntil([&] { return region.whole(6) && region.serving("web") == 6; }, 60s));
  region.cut(true, "z1");
  region.loop.advance(100s);
  EXPECT_EQ(region.phase("z2"), "Up");
  EXPECT_EQ(region.phase("z3"), "Up");
  EXPECT_EQ(region.condition(kinds::kZones, "z2", "Ready"), "Unknown MasterCut");
  EXPECT_EQ(region.standIns(), 0);
  region.cut(false);
  region.loop.advance(30s);
  EXPECT_TRUE(region.whole(6)) << region.describe();
  for (const ObjectPtr& one : region.machines()) EXPECT_EQ(number(one->root(), {"status", "repairs"}, 0), 0);
  // The same while another zone is truly lost: what is left is one of three, and it is not concluded from.
  region.lose("z3", false);
  ASSERT_TRUE(region.loop.runUntil([&] { return region.phase("z3") == "Down" && region.serving("web") == 6; }, 60s));
  region.cut(true, "z1");
  region.loop.advance(100s);
  EXPECT_EQ(region.phase("z2"), "Up");
  region.cut(false);
  region.giveBack("z3");
  EXPECT_TRUE(region.loop.runUntil([&] { return region.whole(6); }, 300s)) << region.describe();
}

TEST(ZonesSimulation, SecondLostZoneIsToldFromACutMasterByTheProvider) {
  Region region(13);
  region.pool(6);
  region.deploy("web", 6);
  ASSERT_TRUE(region.loop.runUntil([&] { return region.whole(6) && region.serving("web") == 6; }, 60s));
  region.lose("z1", false);
  ASSERT_TRUE(region.loop.runUntil([&] { return region.phase("z1") == "Down"; }, 10s)) << region.describe();
  region.loop.advance(20s);
  region.lose("z2", false);
  ASSERT_TRUE(region.loop.runUntil([&] { return region.phase("z2") == "Down"; }, 10s)) << region.describe();
  auto stoodIn = [&](std::string_view zone) {
    return region.condition(kinds::kZones, zone, "StandInsReady") == "True Complete";
  };
  ASSERT_TRUE(region.loop.runUntil([&] { return region.serving("web") == 6 && stoodIn("z1") && stoodIn("z2"); }, 12s))
      << region.describe();
  EXPECT_EQ(region.condition(kinds::kZones, "z1", "Ready"), "False NodesSilent");
  region.giveBack("z1");
  region.giveBack("z2");
  EXPECT_TRUE(region.loop.runUntil([&] { return region.whole(6) && region.skew() <= 1; }, 300s)) << region.describe();
  EXPECT_EQ(region.condition(kinds::kZones, "z1", "Ready"), "True NodesHeard");
  EXPECT_EQ(region.condition(kinds::kZones, "z1", "StandInsReady"), "");
}

// All at once, and nobody but the provider to tell.
TEST(ZonesSimulation, TwoZonesThatAreLostAtOnceAreToldFromACutMasterByTheProvider) {
  Region region(14);
  region.pool(6);
  ASSERT_TRUE(region.loop.runUntil([&] { return region.whole(6); }, 60s));
  region.lose("z1", false);
  region.lose("z3", false);
  EXPECT_TRUE(region.loop.runUntil([&] { return region.phase("z1") == "Down" && region.phase("z3") == "Down"; }, 10s))
      << region.describe();
}

TEST(ZonesSimulation, MasterThatLeadsByAQuorumIsNotCutOff) {
  Region region(15, {.quorum = true});
  region.pool(6);
  region.deploy("web", 6);
  ASSERT_TRUE(region.loop.runUntil([&] { return region.whole(6) && region.serving("web") == 6; }, 60s));
  // Nodes of two zones lose their links, the masters there do not; the provider sees nothing wrong.
  for (const auto& [name, agent] : region.agents)
    if (agent->zone() != "z2") region.cutNodes.insert(name);
  EXPECT_TRUE(region.loop.runUntil([&] { return region.phase("z1") == "Down" && region.phase("z3") == "Down"; }, 10s))
      << region.describe();
  region.mendNodes();
  EXPECT_TRUE(region.loop.runUntil([&] { return region.whole(6) && region.serving("web") == 6; }, 300s))
      << region.describe();
}

TEST(ZonesSimulation, WithoutAQuorumNothingIsConcludedAndAfterItNothingRash) {
  Region region(16, {.quorum = true});
  region.pool(6);
  region.deploy("web", 6);
  ASSERT_TRUE(region.loop.runUntil([&] { return region.whole(6) && region.serving("web") == 6; }, 60s));
  std::set<std::string> before, after;
  for (const ObjectPtr& pod : region.podsOf("web")) before.emplace(pod->name());
  // Two zones' masters are gone for a while; nobody can renew anything.
  region.lose("z1", false);
  region.lose("z2", false);
  region.loop.advance(100s);
  region.giveBack("z1");
  region.giveBack("z2");
  region.loop.advance(60s);
  for (const ObjectPtr& pod : region.podsOf("web")) after.emplace(pod->name());
  EXPECT_EQ(before, after);
  EXPECT_TRUE(region.whole(6)) << region.describe();
  for (const ObjectPtr& one : region.machines()) EXPECT_EQ(number(one->root(), {"status", "repairs"}, 0), 0);
}

TEST(ZonesSimulation, MasterThatTakesOverGoesOnWithTheCountOfSilence) {
  Region region(17, {.quorum = true});
  region.pool(6);
  ASSERT_TRUE(region.loop.runUntil([&] { return region.whole(6); }, 60s));
  region.loop.advance(20s);
  const TimePoint lost = region.loop.now();
  region.lose("z1", false);
  region.loop.advance(4s);
  region.resign();
  region.loop.advance(2s);
  region.lead();
  ASSERT_TRUE(region.loop.runUntil([&] { return region.phase("z1") == "Down"; }, lost + 8600ms - region.loop.now()))
      << region.describe();
}

TEST(ZonesSimulation, MachineThatDiesAgainSoonIsRepairedAtOnceAndLaterWithPauses) {
  Region region(18);
  region.pool(3);
  ASSERT_TRUE(region.loop.runUntil([&] { return region.whole(3); }, 60s));
  std::vector<double> took;
  for (int i = 0; i < 5; ++i) {
    region.provider.powerOff("c-node-2");
    const TimePoint off = region.loop.now();
    ASSERT_TRUE(region.loop.runUntil([&] { return !region.whole(3); }, 10s));
    ASSERT_TRUE(region.loop.runUntil([&] { return region.whole(3); }, 300s)) << region.describe();
    took.push_back(std::chrono::duration<double>(region.loop.now() - off).count());
    region.loop.advance(3s);
  }
  EXPECT_LT(took[1], 15);
  EXPECT_GT(took[4], took[1] + 5) << "it is damped";
  EXPECT_EQ(region.condition(kinds::kMachines, "c-node-2", "Ready"), "True Running");
}

TEST(ZonesSimulation, PoolInAZoneThatTheProviderDoesNotHaveSaysSo) {
  Region region(19);
  region.create(kinds::kZones, {{"metadata", {{"name", "moon"}}}, {"spec", {{"region", "r"}}}});
  region.create(kinds::kNodePools,
                {{"metadata", {{"name", "far"}}}, {"spec", {{"count", 1}, {"zones", json::array{"moon"}}}}});
  region.loop.advance(10s);
  EXPECT_EQ(region.condition(kinds::kZones, "moon", "Ready"), "False NotProvided");
  EXPECT_EQ(region.condition(kinds::kMachines, "c-far-1", "Ready"), "False Pending");
  EXPECT_EQ(text(region.machine("c-far-1")->root(), {"status", "message"}), "no zone moon");
  // It can be taken back.
  ASSERT_TRUE(runOn(region.loop, region.admin->remove(kinds::kNodePools, "", "far", {})).ok());
  EXPECT_TRUE(region.loop.runUntil([&] { return region.machines().empty(); }, 30s)) << region.describe();
}

TEST(ZonesSimulation, SingleNodeIsRepairedUnderItsNameAndItsZoneStaysUp) {
  Region region(4);
  region.pool(6);
  ASSERT_TRUE(region.loop.runUntil([&] { return region.whole(6); }, 60s));
  region.provider.powerOff("c-node-1");
  const TimePoint off = region.loop.now();
  region.loop.advance(100ms);
  EXPECT_EQ(region.phase("z1"), "Up");
  ASSERT_TRUE(region.loop.runUntil([&] { return !region.whole(6); }, 10s));
  // It runs again with the first renewal after it was switched on, whatever was heard of it just before.
  auto renews = [&] {
    auto agent = region.agents.find("c-node-1");
    return agent != region.agents.end() && agent->second->holdsLease();
  };
  ASSERT_TRUE(region.loop.runUntil(renews, 60s));
  const TimePoint renewed = region.loop.now();
  ASSERT_TRUE(region.loop.runUntil([&] { return region.whole(6); }, 60s)) << region.describe();
  EXPECT_LT(region.loop.now() - renewed, 1s) << region.describe();
  EXPECT_LT(region.loop.now() - off, 10s) << region.describe();
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

// What must hold at every moment, whatever fails.
class Judge {
 public:
  Judge(Region& region, int64_t leastWeb) : region_(region), least_(leastWeb) {
    auto& caches = region.server.caches();
    subscriptions_.push_back(
        caches.of(kinds::kMachines).subscribe([this](const ObjectPtr&, const ObjectPtr&) { spread(); }));
    subscriptions_.push_back(
        caches.of(kinds::kZones).subscribe([this](const ObjectPtr& before, const ObjectPtr& after) {
          zone(before, after);
        }));
    subscriptions_.push_back(caches.of(kinds::kPods).subscribe([this](const ObjectPtr& before, const ObjectPtr& after) {
      pod(before, after);
    }));
  }
  const std::vector<std::string>& broken() const { return broken_; }

 private:
  void spread() {
    if (region_.skew() > 1) broken_.push_back("machines are uneven:\n" + region_.describe());
  }
  // A zone is Down only when none of its nodes is well.
  void zone(const ObjectPtr& before, const ObjectPtr& after) {
    if (!after || !before || controllers::phaseOf(after.get()) != controllers::ZonePhase::kDown ||
        controllers::phaseOf(before.get()) == controllers::ZonePhase::kDown)
      return;
    for (const auto& [name, agent] : region_.agents) {
      if (agent->zone() == after->name() && agent->well() > 15s)
        broken_.push_back(fmt::format("zone {} is Down and {} is well:\n{}", after->name(), name, region_.describe()));
    }
  }
  static bool healthy(const ObjectPtr& pod) {
    return pod && pod->label("app") == "web" && !pod->deleting() && conditionTrue(pod->root(), "Ready");
  }
  // A pod that serves is only taken when enough others do. What was lost a moment ago may not have been heard of.
  void pod(const ObjectPtr& before, const ObjectPtr& after) {
    healthy_ += healthy(after);
    healthy_ -= healthy(before);
    if (!healthy(before) || healthy(after)) return;
    auto agent = region_.agents.find(std::string(text(before->root(), {"spec", "nodeName"})));
    const bool ours = after && after->deleting() && agent != region_.agents.end() && agent->second->well() > 15s;
    if (!ours) {
      lastLoss_ = region_.loop.now();
    } else if (healthy_ < least_ && region_.loop.now() - lastLoss_ > 20s) {
      broken_.push_back(fmt::format("{} pods of at least {} after {} was taken:\n{}", healthy_, least_, before->key(),
                                    region_.describe()));
    }
  }

  Region& region_;
  const int64_t least_;
  int64_t healthy_ = 0;
  TimePoint lastLoss_{};
  std::vector<std::string> broken_;
  std::vector<std::unique_ptr<Cache::Subscription>> subscriptions_;
};

// Many regions, each with its own mishaps: zones that are lost, masters that are cut off and take over, machines and
// links that fail, a provider that refuses, a store that refuses or does not say what it has done, events that come
// late. After every step: no identity runs twice, no budget is broken by our own hand, no zone is declared Down that is
// not, the pool is even over live zones. At the end all is as it was meant: zones up, machines under their names,
// stand-ins gone, pods even, nothing lost.
class Mishaps {
 public:
  // One in eight is large: what goes wrong mostly does so in a small world as well, in a third of the time.
  explicit Mishaps(uint64_t seed) : region_(seed, optionsOf(seed)), large_(seed % 8 == 0) {
    count_ = 3 + static_cast<int>(pick(large_ ? 5 : 2));
    web_ = large_ ? 6 : 3;
    least_ = web_ - static_cast<int>(pick(2));
  }
  void run();

 private:
  static Region::Options optionsOf(uint64_t seed) {
    Region::Options options;
    options.quorum = seed % 2 == 0;
    if (seed % 3 != 0) {
      Faults faults;
      faults.delay = std::chrono::milliseconds(seed % 5 == 0 ? 400 : 20);
      if (seed % 7 != 0) {
        faults.refused = 30;
        faults.lost = 30;
        faults.broken = 50;
        faults.expired = 200;
      }
      options.faults = faults;
    }
    return options;
  }
  size_t pick(size_t n) { return static_cast<size_t>(region_.loop.random() % n); }
  template <class Map>
  std::string anyOf(const Map& map) {
    return map.empty() ? "" : std::next(map.begin(), static_cast<std::ptrdiff_t>(pick(map.size())))->first;
  }
  bool settled() {
    return region_.whole(count_) && region_.serving("web") == web_ && region_.serving("db") == 2 &&
           region_.podsOf("web").size() == static_cast<size_t>(web_);
  }
  void mishap();
  void loseZone();
  void takeOver();
  void giveBack() {
    for (const std::string& one : std::exchange(lost_, {})) region_.giveBack(one);
  }

  Region region_;
  const bool large_;
  int count_ = 3, web_ = 3;
  int64_t least_ = 2;
  std::set<std::string> lost_;
};

void Mishaps::loseZone() {
  // Sometimes a second one as well.
  if (lost_.size() > 1 || (lost_.size() == 1 && pick(3) != 0)) return;
  const std::string zone = region_.zones[pick(region_.zones.size())];
  if (lost_.insert(zone).second) region_.lose(zone, pick(2) == 0);
}

void Mishaps::takeOver() {
  if (!region_.manager) return;
  region_.resign();
  region_.loop.advance(std::chrono::milliseconds(pick(5000)));
  region_.lead();
}

void Mishaps::mishap() {
  switch (pick(9)) {
    case 0:
    case 1:
    case 2: loseZone(); break;
    case 3: region_.provider.faults = pick(2) == 0 ? 0 : 4; break;
    case 4:
      if (const std::string name = anyOf(region_.provider.machines()); !name.empty()) region_.provider.powerOff(name);
      break;
    case 5:
      if (const std::string name = anyOf(region_.agents); !name.empty()) region_.cutNodes.insert(name);
      break;
    case 6:
      if (region_.options.quorum) return takeOver();
      region_.cut(true, pick(2) == 0 ? "" : region_.zones[0]);
      region_.loop.advance(std::chrono::seconds(pick(90)));
      region_.cut(false);
      break;
    case 7: takeOver(); break;
    case 8: region_.storeFaults = pick(2) == 0 ? 0 : 15; break;
  }
}

void Mishaps::run() {
  region_.provider.slowest = std::chrono::milliseconds(500 + pick(6000));
  region_.pool(count_);
  region_.deploy("web", web_);
  region_.create(kinds::kPodDisruptionBudgets,
                 {{"metadata", {{"name", "web"}, {"namespace", "default"}}},
                  {"spec", {{"minAvailable", least_}, {"selector", {{"matchLabels", {{"app", "web"}}}}}}}},
                 "default");
  region_.database(2);
  ASSERT_TRUE(region_.loop.runUntil([&] { return settled(); }, 180s)) << region_.describe();
  Judge judge(region_, least_);
  auto holds = [&] {
    EXPECT_EQ(region_.doubled, 0u) << region_.describe();
    for (const std::string& what : judge.broken()) ADD_FAILURE() << what;
    return region_.doubled == 0 && judge.broken().empty();
  };
  const size_t steps = 2 + pick(large_ ? 4 : 2);
  for (size_t i = 0; i < steps && holds(); ++i) {
    if (std::getenv("DHOW_SEED")) fmt::print("{} s:\n{}\n", i, region_.describe());
    mishap();
    region_.loop.advance(std::chrono::milliseconds(pick(40000)));
    if (!lost_.empty() && pick(2) == 0) {
      giveBack();
      region_.loop.advance(std::chrono::milliseconds(pick(15000)));
    }
    if (pick(2) == 0) region_.mendNodes();
  }
  giveBack();
  region_.mendNodes();
  region_.provider.faults = region_.storeFaults = 0;
  ASSERT_TRUE(region_.loop.runUntil([&] { return settled(); }, 2000s)) << region_.describe();
  EXPECT_TRUE(holds());
  EXPECT_LE(region_.skew(), 1);
}

void mishaps(uint64_t seed) {
  SCOPED_TRACE(fmt::format("DHOW_SEED={}", seed));
  Mishaps(seed).run();
}

uint64_t fromEnvironment(const char* name, uint64_t otherwise) {
  const char* given = std::getenv(name);
  return given != nullptr ? std::strtoull(given, nullptr, 10) : otherwise;
}

constexpr uint64_t usualSeeds() {
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || !defined(__OPTIMIZE__)
  return 10;
#else
  return 1500;
#endif
}

// Every seed is a world of its own: processes share them, one for each core. A failure ends its process' share.
TEST(ZonesSimulation, RegionSurvivesMishapsOverManySeeds) {
  if (const uint64_t one = fromEnvironment("DHOW_SEED", 0)) return mishaps(one);
  log::configure(log::Level::kError, "");  // every failure that was asked for is a warning
  const uint64_t first = fromEnvironment("DHOW_FIRST_SEED", 1);
  const uint64_t end = first + fromEnvironment("DHOW_SEEDS", usualSeeds());
  const uint64_t shares = std::clamp<uint64_t>(std::thread::hardware_concurrency(), 1, 16);
  std::vector<pid_t> processes;
  for (uint64_t share = 0; share < shares; ++share) {
    const pid_t pid = ::fork();
    ASSERT_GE(pid, 0);
    if (pid > 0) {
      processes.push_back(pid);
      continue;
    }
    for (uint64_t seed = first + share; seed < end && !testing::Test::HasFailure(); seed += shares) mishaps(seed);
    std::fflush(nullptr);
    ::_exit(testing::Test::HasFailure() ? 1 : 0);
  }
  for (const pid_t pid : processes) {
    int status = -1;
    ASSERT_EQ(::waitpid(pid, &status, 0), pid);
    EXPECT_EQ(status, 0) << "a process has said above which seed failed, or it has crashed";
  }
  log::configure(log::Level::kInfo, "");
}

}  // namespace
}  // namespace dhow::scheduler
