#include <gtest/gtest.h>

#include "base/time.h"
#include "client/memory_cache.h"
#include "drill_identities.h"
#include "drill_story.h"
#include "drill_target.h"

namespace dhow::platform {
namespace {

namespace json = boost::json;
using namespace std::chrono_literals;
using client::MemoryCache;

DrillView wholeView(int masters = 3) {
  DrillView view;
  view.state.regionAnswers = view.state.serverAnswers = true;
  for (int i = 1; i <= 3; ++i) {
    const std::string zone = "z" + std::to_string(i);
    view.zones.push_back({zone, true});
    view.phases[zone] = "Up";
    if (i <= masters) {
      const std::string master = "m" + std::to_string(i);
      view.state.machines.push_back({.name = master, .master = true, .zone = zone, .running = true});
      view.state.mastersAlive[master] = true;
    }
    const std::string node = "n" + std::to_string(i);
    view.state.machines.push_back({.name = node, .zone = zone, .running = true});
    view.state.nodesReady[node] = true;
  }
  if (masters > 1) view.state.leader = "m3";
  return view;
}

TEST(DrillTarget, ClusterThatIsNotWholeIsNamed) {
  EXPECT_TRUE(checkWhole(wholeView()).ok());
  auto view = wholeView();
  view.state.nodesReady["n2"] = false;
  EXPECT_NE(checkWhole(view).error().message().find("node n2 is not Ready"), std::string::npos);
  view = wholeView();
  view.zones[1].up = false;
  EXPECT_NE(checkWhole(view).error().message().find("dhow zone restore z2"), std::string::npos);
  view = wholeView();
  view.phases["z1"] = "Returning";
  EXPECT_FALSE(checkWhole(view).ok());
  view = wholeView();
  view.state.machines[0].running = false;
  EXPECT_FALSE(checkWhole(view).ok());
}

TEST(DrillTarget, UnknownNamesAreRefusedWithThoseThatThereAre) {
  for (auto kind : {DrillKind::kZone, DrillKind::kNode, DrillKind::kMaster, DrillKind::kLink, DrillKind::kStore}) {
    auto chosen = chooseTarget(wholeView(), kind, "nowhere");
    ASSERT_FALSE(chosen.ok());
    EXPECT_TRUE(chosen.error().is(Code::kNotFound));
    EXPECT_NE(chosen.error().message().find("1, "), std::string::npos) << chosen.error().message();
  }
}

TEST(DrillTarget, ZoneOfTheOnlyMasterIsRefusedAndTheLeadersIsNotTheFirstChoice) {
  EXPECT_EQ(chooseTarget(wholeView(), DrillKind::kZone, "")->name, "z2");
  EXPECT_EQ(chooseTarget(wholeView(), DrillKind::kZone, "z3")->nodes, std::set<std::string>{"n3"});
  EXPECT_FALSE(chooseTarget(wholeView(1), DrillKind::kZone, "z1").ok());
  EXPECT_EQ(chooseTarget(wholeView(1), DrillKind::kZone, "")->name, "z3");
}

TEST(DrillTarget, LeadingMasterIsChosen) {
  auto chosen = chooseTarget(wholeView(), DrillKind::kMaster, "");
  EXPECT_EQ(chosen->name, "m3");
  EXPECT_TRUE(chosen->led);
  EXPECT_TRUE(chooseTarget(wholeView(1), DrillKind::kMaster, "")->onlyMaster);
}

IdentitySpan span(const char* uid, int pid, Duration began, std::optional<Duration> ended) {
  IdentitySpan out{"identity-0", uid, pid, TimePoint(began), std::nullopt};
  if (ended) out.ended = TimePoint(*ended);
  return out;
}

TEST(DrillIdentities, OverlappingProcessesOfTwoPodsAreDoubled) {
  EXPECT_TRUE(overlaps({span("a", 1, 1s, 5s), span("b", 2, 6s, std::nullopt)}).empty());
  EXPECT_EQ(overlaps({span("a", 1, 1s, 7s), span("b", 2, 6s, std::nullopt)}).size(), 1U);
  EXPECT_EQ(overlaps({span("b", 2, 6s, std::nullopt), span("a", 1, 1s, std::nullopt)}).size(), 1U);
  // A pod's own second process is no second identity.
  EXPECT_TRUE(overlaps({span("a", 1, 1s, std::nullopt), span("a", 2, 6s, std::nullopt)}).empty());
}

TEST(DrillReport, BrokenPromisesAreTold) {
  DrillReport report;
  report.target = "z1";
  report.events = {{0s, DrillMark::kBroken, ""}, {9s, DrillMark::kHealed, ""}, {40s, DrillMark::kReturned, ""}};
  report.writesAcknowledged = 10;
  EXPECT_TRUE(report.failures().empty());
  EXPECT_TRUE(report.toJson()["passed"].as_bool());
  EXPECT_EQ(report.toJson()["marks"].as_object()["healed"].as_double(), 9.0);
  report.writesMissing = {"write-3"};
  report.doubled = {"identity-0: twice"};
  report.events.resize(1);
  EXPECT_EQ(report.failures().size(), 4U);
  EXPECT_FALSE(report.toJson()["passed"].as_bool());
}

class Story : public ::testing::Test {
 protected:
  SimLoop loop;
  MemoryCache zones{loop}, machines{loop}, nodes{loop}, leases{loop}, pods{loop};
  std::vector<DrillMark> marks;
  uint64_t version = 0;

  std::unique_ptr<DrillStory> story(DrillStory::Subject subject) {
    return std::make_unique<DrillStory>(loop, std::move(subject),
                                        DrillStory::Caches{zones, machines, nodes, leases, pods},
                                        [this](DrillMark mark, const std::string&) {
                                          if (mark != DrillMark::kNone) marks.push_back(mark);
                                        });
  }
  void put(MemoryCache& cache, std::string name, json::object rest, std::string ns = "") {
    json::object metadata{{"name", name}, {"resourceVersion", std::to_string(++version)}};
    if (!ns.empty()) metadata["namespace"] = ns;
    rest["metadata"] = std::move(metadata);
    cache.put(object::Object::make(std::move(rest)));
  }
  void phase(MemoryCache& cache, std::string name, std::string phase) {
    put(cache, std::move(name), {{"status", {{"phase", phase}}}});
  }
  void pod(std::string name, std::string node) {
    put(pods, std::move(name),
        {{"spec", {{"nodeName", node}}},
         {"status", {{"conditions", json::array{{{"type", "Ready"}, {"status", "True"}}}}}}},
        "ns");
  }
  void beat(std::string node) {
    put(nodes, node, {{"status", {{"conditions", json::array{{{"type", "Ready"}, {"status", "True"}}}}}}});
    put(leases, node, {{"spec", {{"renewTime", formatTimeMicro(loop.wallNow())}}}}, "kube-node-lease");
  }
};

TEST_F(Story, LostZoneIsDetectedHealedAndBack) {
  phase(zones, "z1", "Up");
  phase(machines, "n1", "Running");
  beat("n1");
  pod("a", "n1");
  auto told = story({.kind = DrillKind::kZone, .target = "z1", .nodes = {"n1"}, .replicas = 1, .ns = "ns"});
  EXPECT_TRUE(told->whole());
  told->breaking();
  told->broken();
  EXPECT_FALSE(told->whole());
  phase(zones, "z1", "Down");
  phase(machines, "n1", "Lost");
  EXPECT_EQ(marks, std::vector{DrillMark::kDetected});
  pod("b", "n2");
  EXPECT_TRUE(told->healed());
  loop.advance(10s);
  told->restored();
  loop.advance(1s);
  beat("n1");
  EXPECT_FALSE(told->returned());
  phase(machines, "n1", "Running");
  phase(zones, "z1", "Up");
  EXPECT_EQ(marks, (std::vector{DrillMark::kDetected, DrillMark::kHealed, DrillMark::kReturned}));
}

TEST_F(Story, CutThatNobodyNoticedIsOverWhenTheNodeIsHeardAgain) {
  phase(machines, "n1", "Running");
  beat("n1");
  pod("a", "n1");
  auto told = story({.kind = DrillKind::kLink, .target = "n1", .nodes = {"n1"}, .replicas = 1, .ns = "ns"});
  told->breaking();
  told->broken();
  loop.advance(5s);
  told->restored();
  EXPECT_TRUE(marks.empty());
  loop.advance(1s);
  beat("n1");
  EXPECT_EQ(marks, (std::vector{DrillMark::kReturned, DrillMark::kHealed}));
}

TEST_F(Story, LeaderIsReplacedAndWritesGoOn) {
  auto told = story({.kind = DrillKind::kMaster, .target = "m1", .led = true});
  put(leases, "dhow-master", {{"spec", {{"holderIdentity", "m1"}}}}, "kube-system");
  told->breaking();
  told->broken();
  told->acknowledged(loop.now());
  EXPECT_FALSE(told->healed());
  put(leases, "dhow-master", {{"spec", {{"holderIdentity", "m2"}}}}, "kube-system");
  told->acknowledged(loop.now());
  EXPECT_EQ(marks, (std::vector{DrillMark::kDetected, DrillMark::kHealed}));
  told->restored();
  told->targetServes();
  EXPECT_TRUE(told->returned());
}

}  // namespace
}  // namespace dhow::platform
