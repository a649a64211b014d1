// Zones, pools, machines and fencing under the virtual clock, with injected faults: one scenario a test. The same with
// mishaps by chance is in zones_mishaps_test.cc.
#include <gmock/gmock.h>

#include <algorithm>

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
  auto unevenness = [&] {
    const auto count = region.byZone("web");
    auto [least, most] = std::minmax_element(count.begin(), count.end(),
                                             [](const auto& a, const auto& b) { return a.second < b.second; });
    return most->second - least->second;
  };
  const int before = unevenness();
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
  std::map<std::string, std::vector<std::string>> phases;  // of the stand-ins
  auto watched =
      region.server.caches().of(kinds::kMachines).subscribe([&](const ObjectPtr& before, const ObjectPtr& after) {
        if (!before || !after || controllers::standsInFor(*after).empty()) return;
        std::string phase(client::text(after->root(), {"status", "phase"}));
        if (phase != client::text(before->root(), {"status", "phase"}))
          phases[std::string(after->name())].push_back(std::move(phase));
      });
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
  EXPECT_LE(unevenness(), before) << "pods stand as even as before";
  EXPECT_EQ(region.doubled, 0u);
  EXPECT_EQ(phases.size(), 2u);
  for (const auto& [name, seen] : phases)
    EXPECT_EQ(seen, (std::vector<std::string>{"Draining", "Deleting"})) << name << " went back";
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

TEST(ZonesSimulation, ZoneThatIsBackTakesItsShareOfWhatStandsInForTheOneThatIsNot) {
  Region region(20, {.quorum = false});
  region.pool(7);
  region.deploy("web", 12);
  ASSERT_TRUE(region.loop.runUntil([&] { return region.whole(7) && region.serving("web") == 12; }, 60s));
  for (const char* zone : {"z2", "z3"}) {
    region.lose(zone, false);
    ASSERT_TRUE(region.loop.runUntil([&] { return region.phase(zone) == "Down"; }, 10s)) << region.describe();
    region.loop.advance(20s);
  }
  ASSERT_TRUE(region.loop.runUntil([&] { return region.standIns() >= 4 && region.serving("web") == 12; }, 60s))
      << region.describe();
  region.giveBack("z2");
  int64_t least = 12;
  ASSERT_TRUE(region.loop.runUntil(
      [&] {
        least = std::min(least, region.serving("web"));
        return region.phase("z2") == "Up";
      },
      120s))
      << region.describe();
  EXPECT_LE(region.skew(), 1) << region.describe();
  EXPECT_EQ(least, 12) << "pods went before others came";
  region.giveBack("z3");
  EXPECT_TRUE(region.loop.runUntil([&] { return region.whole(7); }, 300s)) << region.describe();
  EXPECT_LE(region.skew(), 1);
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

TEST(ZonesSimulation, MachineGoesWhenTheClientsOfItsIngressesHaveGone) {
  Region region(15);
  region.pool(4);
  ASSERT_TRUE(region.loop.runUntil([&] { return region.whole(4); }, 60s));
  auto serves = [&](std::string_view node, std::string_view status, std::string_view reason) {
    json::object condition{{"type", kServesIngress}, {"status", status}, {"reason", reason}};
    json::object body{{"status", {{"conditions", json::array{std::move(condition)}}}}};
    auto told = runOn(region.loop, region.admin->patch(kinds::kNodes, "", std::string(node), "status",
                                                       PatchType::kStrategicMerge, std::move(body)));
    EXPECT_TRUE(told.ok()) << told.error().message();
  };
  for (const ObjectPtr& node : region.server.caches().of(kinds::kNodes).list())
    serves(node->name(), "True", "HAProxyRuns");
  std::string leaving;
  auto asked = [&] {
    for (const ObjectPtr& node : region.server.caches().of(kinds::kNodes).list())
      if (!node->annotation(kIngressLeavesSince).empty()) leaving = node->name();
    return !leaving.empty();
  };
  region.change(kinds::kNodePools, "default", {{"spec", {{"count", 3}}}});
  ASSERT_TRUE(region.loop.runUntil(asked, 30s)) << region.describe();
  serves(leaving, "True", kIngressLeaves);
  region.loop.advance(120s);
  ASSERT_NE(region.machine(leaving), nullptr);
  EXPECT_EQ(text(region.machine(leaving)->root(), {"status", "message"}).substr(0, 20), "clients of Ingresses");
  serves(leaving, "False", "HAProxyDoesNotRun");
  EXPECT_TRUE(region.loop.runUntil([&] { return region.whole(3); }, 10s)) << region.describe();
  // One that says nothing of it cannot.
  leaving.clear();
  region.change(kinds::kNodePools, "default", {{"spec", {{"count", 2}}}});
  ASSERT_TRUE(region.loop.runUntil(asked, 30s)) << region.describe();
  EXPECT_FALSE(region.loop.runUntil([&] { return region.whole(2); }, 15s));
  EXPECT_TRUE(region.loop.runUntil([&] { return region.whole(2); }, 15s)) << region.describe();
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

}  // namespace
}  // namespace dhow::scheduler
