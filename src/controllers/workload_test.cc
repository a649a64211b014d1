#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "client/fake_client.h"
#include "deployment.h"
#include "replicaset.h"

namespace dhow::controllers {
namespace {

using namespace std::chrono_literals;
using namespace client;
using object::resources::kDeployments;
using object::resources::kEvents;
using object::resources::kPods;
using object::resources::kReplicaSets;
using testing::ElementsAre;
using testing::IsEmpty;

constexpr std::string_view kSet =
    R"({"apiVersion":"apps/v1","metadata":{"name":"web","uid":"rs-1"},"spec":{"replicas":3,
  "selector":{"matchLabels":{"app":"web"}},
  "template":{"metadata":{"labels":{"app":"web"}},"spec":{"containers":[{"name":"c","image":"i"}]}}}})";

void makeReady(FakeClient& api, SimLoop& loop, const ObjectPtr& pod) {
  api.change(kPods, pod->ns(), pod->name(), [&](json::object& o) {
    objectAt(o, "status")["phase"] = "Running";
    setCondition(objectAt(o, "status"), "Ready", "True", "", "", loop.wallNow());
  });
}

struct ReplicaSetTest : testing::Test {
  ReplicaSetTest() { api.of(kPods), api.of(kReplicaSets); }
  Result<> sync() { return runOn(loop, controller.reconcile("default/web")); }
  size_t active() {
    size_t n = 0;
    for (auto& pod : api.all(kPods)) n += podActive(*pod);
    return n;
  }
  void TearDown() override { runOn(loop, controller.stop()); }
  SimLoop loop;
  FakeClient api{loop};
  ReplicaSetController controller{{loop, api, api}};
};

TEST_F(ReplicaSetTest, CreatesMissingPodsWithOwnerAndLabels) {
  api.seed(kReplicaSets, kSet);
  ASSERT_TRUE(sync().ok());
  auto pods = api.all(kPods);
  ASSERT_EQ(pods.size(), 3u);
  EXPECT_EQ(controllerUid(*pods[0]), "rs-1");
  EXPECT_EQ(pods[0]->label("app"), "web");
  EXPECT_TRUE(pods[0]->name().starts_with("web-"));
}

TEST_F(ReplicaSetTest, StaleCacheNeverCreatesTwice) {
  api.seed(kReplicaSets, kSet);
  controller.start();
  api.holdCaches();
  for (int i = 0; i < 5; ++i) {
    // Its view is old, so that its status is refused; what counts is that no pod is made twice.
    Result<> result = sync();
    EXPECT_TRUE(result.ok() || result.error().is(Code::kConflict));
    loop.runReady();
  }
  EXPECT_EQ(api.all(kPods).size(), 3u);
  api.releaseCaches();
  loop.advance(1s);
  EXPECT_EQ(api.all(kPods).size(), 3u);
}

// The API does what is asked and its answer is lost.
TEST_F(ReplicaSetTest, LostAnswersNeverCreateTwice) {
  api.seed(kReplicaSets, kSet);
  controller.start();
  api.holdCaches();
  int lost = 0;
  api.inject = [&](const FakeClient::Action& a) -> std::optional<Error> {
    if (a.verb != "create" || a.resource != kPods || lost++ > 0) return std::nullopt;
    json::object pod = a.body.as_object();
    api.seed(kPods, std::move(pod));
    return Error(Code::kUnavailable, "the connection broke");
  };
  for (int i = 0; i < 5; ++i) {
    Result<> result = sync();
    loop.advance(100ms);
  }
  api.releaseCaches();
  loop.advance(10s);
  EXPECT_EQ(api.all(kPods).size(), 3u);
  EXPECT_EQ(lost, 3);
}

TEST_F(ReplicaSetTest, StopsTryingAfterAFailedBatch) {
  api.seed(kReplicaSets, std::string(kSet).replace(std::string(kSet).find("\"replicas\":3"), 12, "\"replicas\":100"));
  int tries = 0;
  api.inject = [&](const FakeClient::Action& a) -> std::optional<Error> {
    if (a.verb != "create" || a.resource != kPods) return std::nullopt;
    ++tries;
    return Error(Code::kPermissionDenied, "exceeded quota");
  };
  EXPECT_FALSE(sync().ok());
  EXPECT_EQ(tries, 1);
  const json::object* failure = condition(api.find(kReplicaSets, "default", "web")->root(), "ReplicaFailure");
  ASSERT_NE(failure, nullptr);
  EXPECT_EQ(text(*failure, "reason"), "FailedCreate");
}

TEST_F(ReplicaSetTest, AdoptsOrphansAndReleasesStrays) {
  api.seed(kReplicaSets, kSet);
  api.seed(kPods, R"({"metadata":{"name":"orphan","labels":{"app":"web"}},"status":{"phase":"Running"}})");
  api.seed(
      kPods,
      R"({"metadata":{"name":"stray","labels":{"app":"other"},"ownerReferences":[{"uid":"rs-1","kind":"ReplicaSet","name":"web","controller":true}]}})");
  ASSERT_TRUE(sync().ok());
  EXPECT_EQ(controllerUid(*api.find(kPods, "default", "orphan")), "rs-1");
  EXPECT_EQ(controllerUid(*api.find(kPods, "default", "stray")), "");
  EXPECT_EQ(api.all(kPods).size(), 4u);  // orphan, stray and two new ones
}

TEST_F(ReplicaSetTest, DeletesSurplusUnreadyFirst) {
  api.seed(kReplicaSets, kSet);
  ASSERT_TRUE(sync().ok());
  auto pods = api.all(kPods);
  makeReady(api, loop, pods[0]);
  makeReady(api, loop, pods[2]);
  api.change(kReplicaSets, "default", "web", [](json::object& o) { objectAt(o, "spec")["replicas"] = 2; });
  controller.start();
  loop.advance(1s);
  EXPECT_EQ(api.find(kPods, "default", pods[1]->name()), nullptr);
  EXPECT_EQ(active(), 2u);
  EXPECT_EQ(number(api.find(kReplicaSets, "default", "web")->root(), {"status", "readyReplicas"}), 2);
}

TEST_F(ReplicaSetTest, AvailabilityWaitsForMinReadySeconds) {
  json::object set = copyOf(api.seed(kReplicaSets, kSet));
  api.change(kReplicaSets, "default", "web", [](json::object& o) { objectAt(o, "spec")["minReadySeconds"] = 10; });
  controller.start();
  loop.advance(1s);
  for (auto& pod : api.all(kPods)) makeReady(api, loop, pod);
  loop.advance(5s);
  auto available = [&] {
    return number(api.find(kReplicaSets, "default", "web")->root(), {"status", "availableReplicas"}, 0);
  };
  EXPECT_EQ(available(), 0);
  loop.advance(20s);
  EXPECT_EQ(available(), 3);
}

TEST(DeletionOrder, FollowsKubernetes) {
  SimLoop loop;
  FakeClient api(loop);
  auto pod = [&](std::string name, std::string node, std::string phase, bool ready, std::string cost = "") {
    json::object o{{"metadata", {{"name", name}}}, {"spec", {{"nodeName", node}}}, {"status", {{"phase", phase}}}};
    if (!cost.empty()) objectAt(o, "metadata")["annotations"] = {{"controller.kubernetes.io/pod-deletion-cost", cost}};
    if (ready) setCondition(objectAt(o, "status"), "Ready", "True", "", "", loop.wallNow());
    return api.seed(kPods, std::move(o));
  };
  std::vector<ObjectPtr> pods{pod("ready-crowded", "n1", "Running", true), pod("dear", "n1", "Running", true, "100"),
                              pod("cheap", "n2", "Running", true, "-1"),   pod("ready-alone", "n3", "Running", true),
                              pod("unready", "n3", "Running", false),      pod("pending", "n3", "Pending", false),
                              pod("unassigned", "", "Pending", false)};
  pods.erase(pods.begin() + 3);
  pods.push_back(pod("ready-alone2", "n9", "Running", true));
  std::vector<std::string> names;
  for (auto& p : deletionOrder(pods, pods)) names.emplace_back(p->name());
  EXPECT_THAT(names, ElementsAre("unassigned", "pending", "unready", "cheap", "ready-crowded", "ready-alone2", "dear"));
  // Users count before what would spread pods, and after what their owner wants.
  std::map<std::string, int64_t> users;
  for (auto& p : pods)
    if (p->name() == "ready-crowded" || p->name() == "cheap") users[std::string(p->uid())] = 3;
  names.clear();
  for (auto& p : deletionOrder(pods, pods, users)) names.emplace_back(p->name());
  EXPECT_THAT(names, ElementsAre("unassigned", "pending", "unready", "cheap", "ready-alone2", "ready-crowded", "dear"));
}

struct DeploymentTest : testing::Test {
  DeploymentTest() {
    sets.start();
    controller.start();
  }
  void deploy(std::string_view image, int replicas = 4, json::object extra = {}) {
    json::object spec{{"replicas", replicas},
                      {"selector", {{"matchLabels", {{"app", "web"}}}}},
                      {"progressDeadlineSeconds", 600},
                      {"template",
                       {{"metadata", {{"labels", {{"app", "web"}}}}},
                        {"spec", {{"containers", json::array{{{"name", "c"}, {"image", image}}}}}}}}};
    for (auto& [key, value] : extra) spec[key] = value;
    if (api.find(kDeployments, "default", "web")) {
      api.change(kDeployments, "default", "web", [&](json::object& o) { o["spec"] = spec; });
    } else {
      api.seed(kDeployments, {{"apiVersion", "apps/v1"}, {"metadata", {{"name", "web"}}}, {"spec", std::move(spec)}});
    }
  }
  // Makes every pod ready `delay` after its birth, and checks the bounds all the while.
  void settle(Duration span = 60s) {
    const TimePoint end = loop.now() + span;
    while (loop.now() < end) {
      loop.advance(500ms);
      int64_t available = 0, total = 0;
      for (auto& pod : api.all(kPods)) {
        total += podActive(*pod);
        available += podActive(*pod) && podReady(*pod);
      }
      least = std::min(least, available);
      most = std::max(most, total);
      if (stuck) continue;
      for (auto& pod : api.all(kPods)) {
        if (!podReady(*pod)) {
          makeReady(api, loop, pod);
          break;
        }
      }
    }
  }
  ObjectPtr deployment() { return api.find(kDeployments, "default", "web"); }
  int64_t status(std::string_view name) { return number(deployment()->root(), {"status", name}, 0); }
  std::string reason(std::string_view type) {
    const json::object* c = condition(deployment()->root(), type);
    return c ? std::string(text(*c, "reason")) : "";
  }
  void TearDown() override {
    runOn(loop, controller.stop());
    runOn(loop, sets.stop());
  }
  SimLoop loop;
  FakeClient api{loop};
  ReplicaSetController sets{{loop, api, api}};
  DeploymentController controller{{loop, api, api}};
  bool stuck = false;
  int64_t least = 1000, most = 0;
};

TEST_F(DeploymentTest, FirstRolloutCompletes) {
  deploy("i1");
  settle();
  EXPECT_EQ(status("availableReplicas"), 4);
  EXPECT_EQ(status("updatedReplicas"), 4);
  EXPECT_EQ(status("observedGeneration"), 1);
  EXPECT_EQ(reason("Progressing"), "NewReplicaSetAvailable");
  EXPECT_EQ(reason("Available"), "MinimumReplicasAvailable");
  EXPECT_EQ(deployment()->annotation(kRevision), "1");
  ASSERT_EQ(api.all(kReplicaSets).size(), 1u);
  EXPECT_FALSE(api.all(kPods)[0]->label(kTemplateHash).empty());
}

TEST_F(DeploymentTest, RollingUpdateKeepsItsBounds) {
  deploy("i1");
  settle();
  least = 1000, most = 0;
  deploy("i2");
  settle();
  EXPECT_GE(least, 3);
  EXPECT_LE(most, 5);
  EXPECT_EQ(status("updatedReplicas"), 4);
  EXPECT_EQ(status("availableReplicas"), 4);
  EXPECT_EQ(deployment()->annotation(kRevision), "2");
  EXPECT_EQ(api.all(kPods).size(), 4u);
}

TEST_F(DeploymentTest, NoUnavailableMeansCreateBeforeDelete) {
  json::object strategy{
      {"strategy", {{"type", "RollingUpdate"}, {"rollingUpdate", {{"maxSurge", 1}, {"maxUnavailable", 0}}}}}};
  deploy("i1", 4, strategy);
  settle();
  least = 1000, most = 0;
  deploy("i2", 4, strategy);
  settle();
  EXPECT_EQ(least, 4);
  EXPECT_EQ(most, 5);
  EXPECT_EQ(reason("Progressing"), "NewReplicaSetAvailable");
}

// A set whose controller has not acted yet may still have the pods of before: they count.
TEST_F(DeploymentTest, WaitsForSetsThatHaveNotActedYet) {
  deploy("i1");
  settle();
  runOn(loop, sets.stop());
  deploy("i2");
  loop.advance(60s);
  std::vector<int64_t> sizes;
  for (auto& set : api.all(kReplicaSets)) sizes.push_back(replicasOf(*set));
  std::sort(sizes.begin(), sizes.end());
  EXPECT_THAT(sizes, ElementsAre(1, 4));
}

TEST_F(DeploymentTest, GoingBackReusesTheOldSetUnderANewRevision) {
  deploy("i1");
  settle();
  deploy("i2");
  settle();
  deploy("i1");
  settle();
  EXPECT_EQ(api.all(kReplicaSets).size(), 2u);
  EXPECT_EQ(deployment()->annotation(kRevision), "3");
  EXPECT_EQ(status("updatedReplicas"), 4);
}

TEST_F(DeploymentTest, RecreateStopsAllBeforeItStarts) {
  json::object strategy{{"strategy", {{"type", "Recreate"}}}};
  deploy("i1", 3, strategy);
  settle();
  most = 0;
  deploy("i2", 3, strategy);
  settle();
  EXPECT_LE(most, 3);
  EXPECT_EQ(status("updatedReplicas"), 3);
}

TEST_F(DeploymentTest, HistoryKeepsItsLimit) {
  for (int i = 0; i < 5; ++i) {
    deploy(fmt::format("i{}", i), 1, {{"revisionHistoryLimit", 2}});
    settle(20s);
  }
  EXPECT_EQ(api.all(kReplicaSets).size(), 3u);
}

TEST_F(DeploymentTest, PausedDeploymentScalesButDoesNotRoll) {
  deploy("i1");
  settle();
  deploy("i2", 6, {{"paused", true}});
  settle();
  EXPECT_EQ(api.all(kReplicaSets).size(), 1u);
  EXPECT_EQ(status("replicas"), 6);
  EXPECT_EQ(reason("Progressing"), "DeploymentPaused");
  deploy("i2", 6);
  settle();
  EXPECT_EQ(api.all(kReplicaSets).size(), 2u);
  EXPECT_EQ(status("updatedReplicas"), 6);
}

TEST_F(DeploymentTest, TellsWhenTheDeadlinePasses) {
  stuck = true;
  deploy("i1", 2, {{"progressDeadlineSeconds", 30}});
  settle(60s);
  EXPECT_EQ(reason("Progressing"), "ProgressDeadlineExceeded");
  EXPECT_EQ(reason("Available"), "MinimumReplicasUnavailable");
  stuck = false;
  settle();
  EXPECT_EQ(reason("Progressing"), "NewReplicaSetAvailable");
}

TEST_F(DeploymentTest, ScalingInTheMiddleOfARolloutKeepsProportions) {
  deploy("i1", 10);
  settle();
  stuck = true;
  deploy("i2", 10);
  settle(10s);
  deploy("i2", 20);
  settle(10s);
  std::vector<int64_t> sizes;
  for (auto& set : api.all(kReplicaSets)) sizes.push_back(replicasOf(*set));
  std::sort(sizes.begin(), sizes.end());
  // 10 with a surge of 3 stood at 8 and 5; 20 with a surge of 5 gives the larger the larger part.
  EXPECT_THAT(sizes, ElementsAre(10, 15));
  stuck = false;
  settle();
  EXPECT_EQ(status("updatedReplicas"), 20);
}

TEST_F(DeploymentTest, ForeignSetOfTheSameNameCountsAsCollision) {
  deploy("i1", 1);
  loop.advance(1s);
  std::string name(api.all(kReplicaSets)[0]->name());
  api.drop(kDeployments, "default", "web");
  api.change(kReplicaSets, "default", name, [](json::object& o) {
    metadataOf(o)["ownerReferences"] =
        json::array{{{"uid", "other"}, {"controller", true}, {"kind", "Deployment"}, {"name", "o"}}};
  });
  deploy("i1", 1);
  settle();
  EXPECT_EQ(status("collisionCount"), 1);
  EXPECT_EQ(status("availableReplicas"), 1);
}

TEST_F(DeploymentTest, NothingToDoWritesNothing) {
  deploy("i1");
  settle();
  api.clearActions();
  ASSERT_TRUE(runOn(loop, controller.reconcile("default/web")).ok());
  EXPECT_THAT(api.actionNames(), IsEmpty());
}

}  // namespace
}  // namespace dhow::controllers
