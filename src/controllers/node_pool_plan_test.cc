#include "node_pool_plan.h"

#include <gmock/gmock.h>

#include <cstdlib>
#include <map>
#include <random>

namespace dhow::controllers {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Create = PoolStep::Create;

PoolMachine ready(std::string name, std::string zone, int64_t number, std::string original = "") {
  PoolMachine machine;
  machine.name = std::move(name);
  machine.zone = std::move(zone);
  machine.number = number;
  machine.original = std::move(original);
  machine.ready = true;
  return machine;
}
std::vector<PoolZone> abc() {
  return {{.name = "a"}, {.name = "b"}, {.name = "c"}};
}

TEST(PoolPlan, NewPoolIsSpreadInTheOrderOfItsZones) {
  PoolStep step = planPool({.count = 5}, {}, abc());
  EXPECT_THAT(step.create, ElementsAre(Create{.zone = "a"}, Create{.zone = "b"}, Create{.zone = "c"},
                                       Create{.zone = "a"}, Create{.zone = "b"}));
}

TEST(PoolPlan, MachinesGoWhereThereAreMost) {
  std::vector<PoolMachine> machines = {ready("1", "a", 1), ready("2", "b", 2), ready("3", "c", 3), ready("4", "a", 4)};
  EXPECT_THAT(planPool({.count = 3}, machines, abc()).remove, ElementsAre("4"));
  machines[0].idle = true;
  EXPECT_THAT(planPool({.count = 3}, machines, abc()).remove, ElementsAre("1"));
}

TEST(PoolPlan, LostZoneIsStoodInForAndKeepsItsOriginals) {
  std::vector<PoolMachine> machines = {ready("1", "a", 1), ready("2", "b", 2), ready("3", "c", 3), ready("4", "a", 4)};
  std::vector<PoolZone> zones = abc();
  zones[0].phase = ZonePhase::kDown;
  PoolStep step = planPool({.count = 4}, machines, zones);
  EXPECT_THAT(step.create, ElementsAre(Create{.zone = "b", .original = "1", .originalZone = "a"},
                                       Create{.zone = "c", .original = "4", .originalZone = "a"}));
  EXPECT_THAT(step.remove, IsEmpty());
}

TEST(PoolPlan, StandInGoesOnlyWhenItsOriginalIsReadyAgain) {
  std::vector<PoolMachine> machines = {ready("1", "a", 1), ready("2", "b", 2), ready("1-standin", "b", 0, "1")};
  machines[0].ready = false;
  EXPECT_TRUE(planPool({.count = 2}, machines, abc()).remove.empty());
  machines[0].ready = true;
  EXPECT_THAT(planPool({.count = 2}, machines, abc()).remove, ElementsAre("1-standin"));
}

TEST(PoolPlan, StandInMovesOnWhenItsOwnZoneFails) {
  std::vector<PoolMachine> machines = {ready("1", "a", 1), ready("1-standin", "b", 0, "1")};
  std::vector<PoolZone> zones = abc();
  zones[0].phase = zones[1].phase = ZonePhase::kDown;
  PoolStep step = planPool({.count = 1}, machines, zones);
  EXPECT_THAT(step.remove, ElementsAre("1-standin"));
  EXPECT_THAT(step.create, ElementsAre(Create{.zone = "c", .original = "1", .originalZone = "a"}));
}

// Zones a, b and c have a machine or two; b and c were lost, and all stood in for in a.
std::vector<PoolMachine> twoZonesInOne() {
  return {ready("1", "a", 1),
          ready("2", "b", 2),
          ready("3", "c", 3),
          ready("4", "a", 4),
          ready("2-standin", "a", 0, "2"),
          ready("3-standin", "a", 0, "3")};
}

TEST(PoolPlan, StandInsOfAZoneThatIsStillLostSpreadOverTheOneThatIsBackByMakingFirst) {
  std::vector<PoolMachine> machines = twoZonesInOne();
  std::vector<PoolZone> zones = abc();
  zones[1].phase = ZonePhase::kReturning;
  zones[2].phase = ZonePhase::kDown;
  machines[1].ready = machines[2].ready = false;
  EXPECT_TRUE(planPool({.count = 4}, machines, zones).empty()) << "its own machines come first";
  machines[1].ready = true;
  PoolStep step = planPool({.count = 4}, machines, zones);
  EXPECT_THAT(step.create, ElementsAre(Create{.zone = "b", .original = "3", .originalZone = "c"}));
  EXPECT_THAT(step.remove, ElementsAre("2-standin"));
  EXPECT_TRUE(step.spreading);
  machines.erase(machines.begin() + 4);
  machines.push_back(ready("3-standin-2", "b", 2, "3"));
  machines.back().ready = false;
  machines.back().creating = true;
  step = planPool({.count = 4}, machines, zones);
  EXPECT_TRUE(step.empty());
  EXPECT_TRUE(step.spreading);
  machines.back().ready = true;
  machines.back().creating = false;
  EXPECT_THAT(planPool({.count = 4}, machines, zones).remove, ElementsAre("3-standin"));
  machines.erase(machines.begin() + 4);
  step = planPool({.count = 4}, machines, zones);
  EXPECT_TRUE(step.empty());
  EXPECT_FALSE(step.spreading);
}

TEST(PoolPlan, StandInThatMovesStaysWhenTheZoneFailsAgain) {
  std::vector<PoolMachine> machines = twoZonesInOne();
  machines.push_back(ready("3-standin-2", "b", 2, "3"));
  std::vector<PoolZone> zones = abc();
  zones[1].phase = zones[2].phase = ZonePhase::kDown;
  machines[1].ready = machines[2].ready = machines.back().ready = false;
  PoolStep step = planPool({.count = 4}, machines, zones);
  EXPECT_THAT(step.create, IsEmpty());
  EXPECT_THAT(step.remove, ElementsAre("3-standin-2"));
}

TEST(PoolPlan, MoveOfAStandInEndsWhereTheOtherZoneHasNoRoom) {
  std::vector<PoolMachine> machines = {ready("1", "a", 1), ready("2", "b", 2), ready("3", "c", 3), ready("4", "a", 4),
                                       ready("3-standin", "a", 0, "3")};
  machines.push_back(ready("3-standin-2", "b", 2, "3"));
  machines[2].ready = machines.back().ready = false;
  machines.back().noRoom = true;
  std::vector<PoolZone> zones = abc();
  zones[1].room = 0;
  zones[2].phase = ZonePhase::kDown;
  PoolStep step = planPool({.count = 4}, machines, zones);
  EXPECT_THAT(step.create, IsEmpty());
  EXPECT_THAT(step.remove, ElementsAre("3-standin-2"));
  EXPECT_FALSE(step.spreading);
}

TEST(PoolPlan, OriginalsAreLevelledOverTheLiveZonesWhenStandInsAreNotEnough) {
  std::vector<PoolMachine> machines = {ready("1", "a", 1),
                                       ready("2", "b", 2),
                                       ready("3", "c", 3),
                                       ready("4", "a", 4),
                                       ready("5", "a", 5),
                                       ready("6", "a", 6),
                                       ready("3-standin", "b", 0, "3")};
  machines[2].ready = false;
  std::vector<PoolZone> zones = abc();
  zones[2].phase = ZonePhase::kDown;
  PoolStep step = planPool({.count = 6}, machines, zones);
  EXPECT_THAT(step.create, ElementsAre(Create{.zone = "b"}));
  EXPECT_THAT(step.remove, IsEmpty());
  machines.push_back(ready("7", "b", 7));
  EXPECT_THAT(planPool({.count = 6}, machines, zones).remove, ElementsAre("6"));
  zones[1].phase = ZonePhase::kReturning;
  machines.pop_back();
  EXPECT_TRUE(planPool({.count = 6}, machines, zones).empty()) << "nothing of the kind while a zone is returning";
}

TEST(PoolPlan, FullZonesAreSaid) {
  std::vector<PoolZone> zones = {{.name = "a", .room = 1}};
  PoolStep step = planPool({.count = 2}, {}, zones);
  EXPECT_EQ(step.create.size(), 1u);
  EXPECT_THAT(step.message, HasSubstr("no room"));
}

TEST(PoolPlan, UnevenPoolIsLevelledByMakingFirst) {
  std::vector<PoolMachine> machines = {ready("1", "a", 1), ready("2", "a", 2), ready("3", "b", 3)};
  PoolStep step = planPool({.count = 3}, machines, abc());
  EXPECT_THAT(step.create, ElementsAre(Create{.zone = "c"}));
  EXPECT_THAT(step.remove, IsEmpty());
  machines.push_back(ready("4", "c", 4));
  machines.back().ready = false;
  machines.back().creating = true;
  EXPECT_TRUE(planPool({.count = 3}, machines, abc()).empty());
  machines.back().ready = true;
  machines.back().creating = false;
  EXPECT_THAT(planPool({.count = 3}, machines, abc()).remove, ElementsAre("2"));
}

TEST(PoolPlan, UpgradeSurgesThenRenewsOneAtATimeAndStopsAtAStuckDrain) {
  std::vector<PoolMachine> machines = {ready("1", "a", 1), ready("2", "b", 2), ready("3", "c", 3)};
  for (PoolMachine& machine : machines) machine.current = false;
  PoolStep step = planPool({.count = 3}, machines, abc());
  EXPECT_THAT(step.create, ElementsAre(Create{.zone = "a", .surge = true}));
  EXPECT_THAT(step.renew, IsEmpty());
  PoolMachine surge = ready("4", "a", 4);
  surge.surge = true;
  machines.push_back(surge);
  EXPECT_THAT(planPool({.count = 3}, machines, abc()).renew, ElementsAre("1"));
  machines[0].current = true;
  machines[0].ready = false;
  EXPECT_THAT(planPool({.count = 3}, machines, abc()).renew, IsEmpty());
  machines[0].blocked = true;
  machines[0].message = "pod shop/web-1 stays: disruption budget shop/web";
  step = planPool({.count = 3}, machines, abc());
  EXPECT_TRUE(step.upgrading);
  EXPECT_FALSE(step.stuck);
  EXPECT_EQ(step.message, "machine 1: pod shop/web-1 stays: disruption budget shop/web");
  machines[0].stuck = true;
  step = planPool({.count = 3}, machines, abc());
  EXPECT_TRUE(step.stuck);
  EXPECT_THAT(step.message, HasSubstr("pod shop/web-1 stays: disruption budget shop/web"));
  for (PoolMachine& machine : machines) {
    machine.current = machine.ready = true;
    machine.stuck = machine.blocked = false;
  }
  step = planPool({.count = 3}, machines, abc());
  EXPECT_FALSE(step.upgrading);
  EXPECT_THAT(step.remove, ElementsAre("4"));
}

// Zones fail and return, machines come and go, people scale and upgrade: after every step the rules hold. When that
// ends the pool is even over the zones that are left, and when they all are back it is what it should be. DHOW_SEEDS
// makes it more.
void walk(uint64_t seed) {
  std::mt19937_64 random(seed);
  auto pick = [&](uint64_t n) { return static_cast<int64_t>(random() % n); };
  PoolWish wish{.count = pick(8), .surge = 1 + pick(3)};
  std::vector<PoolZone> zones = abc();
  std::vector<PoolMachine> machines;
  int64_t version = 0, last = 0;
  std::map<std::string, int64_t> versionOf;
  auto live = [&](const std::string& zone) {
    return std::any_of(zones.begin(), zones.end(),
                       [&](const PoolZone& one) { return one.name == zone && one.phase != ZonePhase::kDown; });
  };
  auto step = [&] {
    for (PoolMachine& machine : machines) machine.current = versionOf[machine.name] == version;
    PoolStep next = planPool(wish, machines, zones);
    for (const Create& create : next.create) {
      auto zone =
          std::find_if(zones.begin(), zones.end(), [&](const PoolZone& one) { return one.name == create.zone; });
      ASSERT_NE(zone->phase, ZonePhase::kDown);
      PoolMachine made;
      made.number = ++last;
      made.name = fmt::format("{}-{}", create.original, made.number);
      made.zone = create.zone;
      made.original = create.original;
      made.surge = create.surge;
      made.creating = true;
      versionOf[made.name] = version;
      machines.push_back(std::move(made));
    }
    for (const std::string& name : next.remove) {
      for (PoolMachine& machine : machines) machine.deleting = machine.deleting || machine.name == name;
    }
    for (const std::string& name : next.remove) {
      auto gone =
          std::find_if(machines.begin(), machines.end(), [&](const PoolMachine& one) { return one.name == name; });
      auto original = std::find_if(machines.begin(), machines.end(),
                                   [&](const PoolMachine& one) { return one.name == gone->original && !one.deleting; });
      if (original == machines.end() || live(original->zone) || !live(gone->zone) || !gone->ready) continue;
      ASSERT_TRUE(std::any_of(machines.begin(), machines.end(),
                              [&](const PoolMachine& one) {
                                return one.original == original->name && one.ready && !one.deleting && live(one.zone);
                              }))
          << name << " went, and nothing else stands in for " << original->name;
    }
    for (const std::string& name : next.renew) {
      for (PoolMachine& machine : machines) {
        if (machine.name == name) machine.ready = false;
      }
      versionOf[name] = version;
    }
    int64_t surges = 0;
    for (const PoolMachine& machine : machines) {
      surges += machine.surge && !machine.deleting;
    }
    ASSERT_LE(surges, wish.surge);
  };
  // What runs goes on its way: machines come up, and those that go are gone.
  auto time = [&](bool all) {
    std::erase_if(machines, [&](const PoolMachine& one) { return one.deleting && live(one.zone) && (all || pick(2)); });
    for (PoolMachine& machine : machines) {
      if (!live(machine.zone))
        machine.ready = machine.creating = false;
      else if (all || pick(2))
        machine.ready = true, machine.creating = false;
    }
  };
  for (int i = 0; i < 60; ++i) {
    switch (pick(8)) {
      case 0: zones[static_cast<size_t>(pick(3))].phase = ZonePhase::kDown; break;
      case 1: zones[static_cast<size_t>(pick(3))].phase = ZonePhase::kUp; break;
      case 2: {
        ZonePhase& phase = zones[static_cast<size_t>(pick(3))].phase;
        if (phase == ZonePhase::kDown) phase = ZonePhase::kReturning;
        break;
      }
      case 3: wish.count = pick(8); break;
      case 4: ++version; break;
      default: break;
    }
    step();
    time(false);
    if (testing::Test::HasFatalFailure()) return;
  }
  auto rest = [&] {
    for (int i = 0; i < 50; ++i) {
      step();
      time(true);
    }
  };
  for (PoolZone& zone : zones)
    if (zone.phase == ZonePhase::kReturning) zone.phase = ZonePhase::kUp;
  rest();
  std::map<std::string, int64_t> there, standIns;
  for (const PoolZone& zone : zones)
    if (live(zone.name)) there[zone.name] = 0;
  for (const PoolMachine& machine : machines) {
    if (machine.deleting || machine.surge || !live(machine.zone)) continue;
    ++there[machine.zone];
    if (!machine.original.empty()) ++standIns[machine.original];
  }
  if (!there.empty()) {
    for (const PoolMachine& machine : machines) {
      if (machine.original.empty() && !machine.surge && !machine.deleting)
        EXPECT_EQ(standIns[machine.name], live(machine.zone) ? 0 : 1) << machine.name;
    }
    auto [least, most] = std::minmax_element(there.begin(), there.end(),
                                             [](const auto& a, const auto& b) { return a.second < b.second; });
    EXPECT_LE(most->second - least->second, 1) << "over live zones";
  }
  for (PoolZone& zone : zones) zone.phase = ZonePhase::kUp;
  rest();
  std::map<std::string, int64_t> home{{"a", 0}, {"b", 0}, {"c", 0}};
  for (const PoolMachine& machine : machines) {
    EXPECT_TRUE(machine.original.empty() && !machine.surge && !machine.deleting && machine.ready) << machine.name;
    EXPECT_EQ(versionOf[machine.name], version) << machine.name;
    ++home[machine.zone];
  }
  EXPECT_EQ(static_cast<int64_t>(machines.size()), wish.count);
  auto [least, most] =
      std::minmax_element(home.begin(), home.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  EXPECT_LE(most->second - least->second, 1);
}

TEST(PoolPlan, RulesHoldOverThousandsOfSeeds) {
  const char* given = std::getenv("DHOW_SEEDS");
#ifdef __OPTIMIZE__
  const uint64_t usual = 5000;
#else
  const uint64_t usual = 300;
#endif
  const uint64_t seeds = given != nullptr ? std::strtoull(given, nullptr, 10) : usual;
  for (uint64_t seed = 1; seed <= seeds && !testing::Test::HasFailure(); ++seed) {
    SCOPED_TRACE(fmt::format("seed {}", seed));
    walk(seed);
  }
}

}  // namespace
}  // namespace dhow::controllers
