#include "disruption.h"

#include <gtest/gtest.h>

#include "base/time.h"
#include "client/fake_client.h"

namespace dhow::controllers {
namespace {

using namespace std::chrono_literals;
using namespace client;
using object::resources::kDeployments;
using object::resources::kPodDisruptionBudgets;
using object::resources::kPods;
using object::resources::kReplicaSets;

struct DisruptionTest : testing::Test {
  DisruptionTest() {
    api.seed(kDeployments, R"({"metadata":{"name":"web","uid":"d-1"},"spec":{"replicas":4}})");
    api.seed(
        kReplicaSets,
        R"({"metadata":{"name":"web-1","uid":"rs-1","ownerReferences":[{"kind":"Deployment","name":"web","uid":"d-1","controller":true}]},"spec":{"replicas":5}})");
    for (int i = 0; i < 4; ++i) pod(fmt::format("p{}", i), i < 3);
    controller.start();
  }
  void pod(std::string name, bool ready, bool managed = true) {
    json::object document{
        {"metadata", {{"name", name}, {"labels", {{"app", "web"}}}}},
        {"status", {{"conditions", json::array{{{"type", "Ready"}, {"status", ready ? "True" : "False"}}}}}}};
    if (managed) {
      metadataOf(document)["ownerReferences"] = json::array{{{"apiVersion", "apps/v1"},
                                                             {"kind", "ReplicaSet"},
                                                             {"name", "web-1"},
                                                             {"uid", "rs-1"},
                                                             {"controller", true}}};
    }
    api.seed(kPods, std::move(document));
  }
  void budget(std::string_view field, json::value value) {
    api.seed(kPodDisruptionBudgets,
             {{"metadata", {{"name", "b"}, {"generation", 1}}},
              {"spec", {{"selector", {{"matchLabels", {{"app", "web"}}}}}, {field, std::move(value)}}}});
    loop.advance(1s);
  }
  ObjectPtr found() { return api.find(kPodDisruptionBudgets, "default", "b"); }
  // allowed, healthy, wanted healthy, expected
  std::string status() {
    auto get = [&](std::string_view name) { return number(found()->root(), {"status", name}, -1); };
    return fmt::format("{} {} {} {}", get("disruptionsAllowed"), get("currentHealthy"), get("desiredHealthy"),
                       get("expectedPods"));
  }
  std::string reason() { return std::string(text(*condition(found()->root(), "DisruptionAllowed"), "reason")); }
  void TearDown() override { runOn(loop, controller.stop()); }

  SimLoop loop;
  FakeClient api{loop};
  DisruptionController controller{{loop, api, api}};
};

TEST_F(DisruptionTest, AbsoluteMinimumCountsThePodsThatThereAre) {
  budget("minAvailable", 2);
  EXPECT_EQ(status(), "1 3 2 4");
  EXPECT_EQ(reason(), "SufficientPods");
  EXPECT_EQ(number(found()->root(), {"status", "observedGeneration"}, 0), 1);
}

TEST_F(DisruptionTest, MaximumCountsFromWhatTheDeploymentWants) {
  budget("maxUnavailable", 1);
  EXPECT_EQ(status(), "0 3 3 4");
  EXPECT_EQ(reason(), "InsufficientPods");
  api.change(kPods, "default", "p3",
             [&](json::object& o) { setCondition(objectAt(o, "status"), "Ready", "True", "", "", loop.wallNow()); });
  loop.advance(1s);
  EXPECT_EQ(status(), "1 4 3 4");
  // Scaled up: the same pods are fewer than wanted.
  api.change(kDeployments, "default", "web", [](json::object& o) { objectAt(o, "spec")["replicas"] = 6; });
  loop.advance(1s);
  EXPECT_EQ(status(), "0 4 5 6");
}

TEST_F(DisruptionTest, PercentagesRoundUp) {
  budget("minAvailable", "51%");
  EXPECT_EQ(status(), "0 3 3 4");
}

TEST_F(DisruptionTest, EvictionIsGivenBackWhenThePodStays) {
  budget("minAvailable", 2);
  api.change(kPodDisruptionBudgets, "default", "b", [&](json::object& o) {
    objectAt(o, "status")["disruptedPods"] = {{"p0", formatTime(loop.wallNow())}};
    objectAt(o, "status")["disruptionsAllowed"] = 0;
  });
  loop.advance(1s);
  EXPECT_EQ(status(), "0 2 2 4");
  loop.advance(2min);
  EXPECT_EQ(status(), "1 3 2 4");
  EXPECT_FALSE(has(found()->root(), {"status", "disruptedPods"}));
}

TEST_F(DisruptionTest, EvictionIsConfirmedWhenThePodGoes) {
  budget("minAvailable", 2);
  api.change(kPodDisruptionBudgets, "default", "b",
             [&](json::object& o) { objectAt(o, "status")["disruptedPods"] = {{"p0", formatTime(loop.wallNow())}}; });
  api.drop(kPods, "default", "p0");
  loop.advance(1s);
  EXPECT_EQ(status(), "0 2 2 3");
  EXPECT_FALSE(has(found()->root(), {"status", "disruptedPods"}));
}

TEST_F(DisruptionTest, OwnersWithoutAWantedNumberAllowNothing) {
  api.change(kPods, "default", "p0", [](json::object& o) {
    metadataOf(o)["ownerReferences"] =
        json::array{{{"apiVersion", "x/v1"}, {"kind", "Thing"}, {"name", "t"}, {"uid", "t-1"}, {"controller", true}}};
  });
  budget("maxUnavailable", 2);
  EXPECT_EQ(number(found()->root(), {"status", "disruptionsAllowed"}, -1), 0);
  EXPECT_EQ(reason(), "SyncFailed");
}

}  // namespace
}  // namespace dhow::controllers
