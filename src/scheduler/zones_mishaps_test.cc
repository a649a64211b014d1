// Regions under the virtual clock, each with its own mishaps. One seed is one run:
//   DHOW_SEED=17 scheduler_test --gtest_filter='ZonesSimulation.RegionSurvives*'   that seed alone, with what happened
//   DHOW_SEEDS=5000                                                                more of them
//   DHOW_FIRST_SEED=3001                                                           others
#include <gtest/gtest.h>
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
    if (region_.skew() > 1 && !standInsAwaited()) broken_.push_back("machines are uneven:\n" + region_.describe());
  }
  // A zone that is lost again while its stand-ins leave has some of them left, in whatever zones, until the others are
  // made: nobody can do that in the moment that it is told. They have to be within the time that healing may take.
  bool standInsAwaited() {
    std::set<std::string> stoodIn;
    for (const ObjectPtr& one : region_.machines())
      if (!one->deleting()) stoodIn.emplace(controllers::standsInFor(*one));
    for (const ObjectPtr& one : region_.machines()) {
      if (one->deleting() || !controllers::standsInFor(*one).empty() || stoodIn.contains(std::string(one->name())))
        continue;
      ObjectPtr zone = region_.server.caches().of(kinds::kZones).get("", text(one->root(), {"spec", "zone"}));
      if (controllers::phaseOf(zone.get()) != controllers::ZonePhase::kDown) continue;
      const auto since = client::time(zone->root(), {"status", "since"});
      if (since && region_.loop.wallNow() - *since < 20s) return true;
    }
    return false;
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
  void loseTwoZones();
  void takeOver();
  void giveBack() {
    for (const std::string& one : std::exchange(lost_, {})) region_.giveBack(one);
  }
  void giveOneBack() {
    auto one = std::next(lost_.begin(), static_cast<std::ptrdiff_t>(pick(lost_.size())));
    region_.giveBack(*one);
    lost_.erase(one);
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

// One of them is back long before the other.
void Mishaps::loseTwoZones() {
  for (size_t i = 0; i < 8 && lost_.size() < 2; ++i) {
    const std::string zone = region_.zones[pick(region_.zones.size())];
    if (!lost_.insert(zone).second) continue;
    region_.lose(zone, pick(2) == 0);
    region_.loop.advance(std::chrono::milliseconds(pick(30000)));
  }
  giveOneBack();
  region_.loop.advance(std::chrono::milliseconds(pick(60000)));
}

void Mishaps::takeOver() {
  if (!region_.manager) return;
  region_.resign();
  region_.loop.advance(std::chrono::milliseconds(pick(5000)));
  region_.lead();
}

void Mishaps::mishap() {
  switch (pick(10)) {
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
    case 9: loseTwoZones(); break;
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
      if (pick(2) == 0)
        giveBack();
      else
        giveOneBack();
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
  return 3000;
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
