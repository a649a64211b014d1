#include <gtest/gtest.h>

#include <boost/json/parse.hpp>

#include "apiserver/server.h"
#include "client/fields.h"
#include "store/memory_store.h"

namespace dhow::apiserver {
namespace {

using client::number;
using client::text;
namespace resources = object::resources;

class EvictionTest : public testing::Test {
 protected:
  EvictionTest() {
    EXPECT_TRUE(runOn(loop_, server_.start()).ok());
    client_ = server_.clientFor("tester");
    EXPECT_TRUE(make(resources::kServiceAccounts, R"({"metadata":{"name":"default"}})").ok());
    for (int i = 0; i < 3; ++i) pod(fmt::format("p{}", i), true);
  }
  ~EvictionTest() override { runOn(loop_, server_.stop()); }

  Result<ObjectPtr> make(const Resource& resource, std::string_view body) {
    return runOn(loop_, client_->create(resource, "default", json::parse(body).as_object(), "", ""));
  }
  Result<ObjectPtr> status(const Resource& resource, std::string name, std::string_view body) {
    return runOn(loop_, client_->patch(resource, "default", std::move(name), "status", client::PatchType::kMerge,
                                       json::parse(body)));
  }
  void pod(std::string name, bool ready) {
    ASSERT_TRUE(make(resources::kPods, fmt::format(R"({{"metadata":{{"name":"{}","labels":{{"app":"web"}}}},)"
                                                   R"("spec":{{"containers":[{{"name":"c","image":"i"}}]}}}})",
                                                   name))
                    .ok());
    ASSERT_TRUE(
        status(resources::kPods, name,
               fmt::format(R"({{"status":{{"phase":"Running","conditions":[{{"type":"Ready","status":"{}"}}]}}}})",
                           ready ? "True" : "False"))
            .ok());
  }
  void budget(std::string name, int allowed, std::string_view extra = "") {
    ASSERT_TRUE(
        make(resources::kPodDisruptionBudgets, fmt::format(R"({{"metadata":{{"name":"{}"}},"spec":{{"minAvailable":2,)"
                                                           R"("selector":{{"matchLabels":{{"app":"web"}}}}{}}}}})",
                                                           name, extra))
            .ok());
    auto told = status(resources::kPodDisruptionBudgets, name,
                       fmt::format(R"({{"status":{{"observedGeneration":1,"disruptionsAllowed":{},"currentHealthy":{},)"
                                   R"("desiredHealthy":2,"expectedPods":3}}}})",
                                   allowed, 2 + allowed));
    ASSERT_TRUE(told.ok()) << told.error().message();
  }
  Result<ObjectPtr> evict(std::string name, std::string_view body = R"({"metadata":{}})") {
    return runOn(loop_, client_->create(resources::kPods, "default", json::parse(body).as_object(), std::move(name),
                                        "eviction"));
  }
  ObjectPtr find(const Resource& resource, std::string_view name) {
    return server_.caches().of(resource).get("default", name);
  }

  SimLoop loop_;
  store::MemoryStore store_{loop_};
  ApiServer server_{loop_, store_, object::Kinds::builtin(), {}};
  std::unique_ptr<client::Client> client_;
};

TEST_F(EvictionTest, TakesFromTheBudgetAndThenRefusesInKubernetesWords) {
  budget("b", 1);
  ASSERT_TRUE(evict("p0").ok());
  auto spent = find(resources::kPodDisruptionBudgets, "b");
  EXPECT_EQ(number(spent->root(), {"status", "disruptionsAllowed"}, -1), 0);
  EXPECT_TRUE(client::has(spent->root(), {"status", "disruptedPods", "p0"}));
  auto refused = evict("p1");
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code(), Code::kTooManyRequests);
  EXPECT_EQ(refused.error().message(), "Cannot evict pod as it would violate the pod's disruption budget.");
  ASSERT_EQ(refused.error().causes().size(), 1u);
  EXPECT_EQ(refused.error().causes()[0].reason, "DisruptionBudget");
  EXPECT_EQ(refused.error().causes()[0].message, "The disruption budget b needs 2 healthy pods and has 3 currently");
  ASSERT_NE(find(resources::kPods, "p1"), nullptr);
  EXPECT_FALSE(find(resources::kPods, "p1")->deleting());
}

TEST_F(EvictionTest, ChangedBudgetsAreWaitedFor) {
  budget("b", 1);
  ASSERT_TRUE(runOn(loop_, client_->patch(resources::kPodDisruptionBudgets, "default", "b", "",
                                          client::PatchType::kMerge, json::parse(R"({"spec":{"minAvailable":3}})")))
                  .ok());
  auto refused = evict("p0");
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().causes()[0].message, "The disruption budget b is still being processed by the server.");
  EXPECT_EQ(refused.error().retryAfterSeconds(), 10);
}

TEST_F(EvictionTest, PodsThatAreNotReadyGoWhileTheOthersAreEnough) {
  budget("b", 0);
  pod("sick", false);
  EXPECT_TRUE(evict("sick").ok());
  EXPECT_FALSE(evict("p0").ok());
}

TEST_F(EvictionTest, SickPodsOfASpentBudgetGoOnlyWherePolicyAllows) {
  budget("b", -1);
  ASSERT_TRUE(status(resources::kPodDisruptionBudgets, "b", R"({"status":{"disruptionsAllowed":0}})").ok());
  pod("sick", false);
  EXPECT_FALSE(evict("sick").ok());
  ASSERT_TRUE(
      runOn(loop_, client_->patch(resources::kPodDisruptionBudgets, "default", "b", "", client::PatchType::kMerge,
                                  json::parse(R"({"spec":{"unhealthyPodEvictionPolicy":"AlwaysAllow"}})")))
          .ok());
  EXPECT_TRUE(evict("sick").ok());
}

TEST_F(EvictionTest, TwoBudgetsOfOnePodAreRefused) {
  budget("a", 1);
  budget("b", 1);
  auto refused = evict("p0");
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().message(),
            "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.");
}

TEST_F(EvictionTest, DryRunSpendsNothing) {
  budget("b", 1);
  ASSERT_TRUE(evict("p0", R"({"metadata":{},"deleteOptions":{"dryRun":["All"]}})").ok());
  EXPECT_EQ(number(find(resources::kPodDisruptionBudgets, "b")->root(), {"status", "disruptionsAllowed"}, -1), 1);
  EXPECT_NE(find(resources::kPods, "p0"), nullptr);
}

TEST_F(EvictionTest, BudgetsWithBothLimitsAreInvalid) {
  auto refused = make(resources::kPodDisruptionBudgets,
                      R"({"metadata":{"name":"x"},"spec":{"minAvailable":1,"maxUnavailable":1}})");
  ASSERT_FALSE(refused.ok());
  EXPECT_NE(refused.error().message().find("minAvailable and maxUnavailable cannot be both set"), std::string::npos);
}

}  // namespace
}  // namespace dhow::apiserver
