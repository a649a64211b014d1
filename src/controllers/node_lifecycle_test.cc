#include <gmock/gmock.h>

#include "base/time.h"
#include "component_fixture.h"
#include "node_lifecycle.h"
#include "workload.h"

namespace dhow::controllers {
namespace {

using namespace std::chrono_literals;
using namespace client;
namespace kinds = object::resources;

struct NodeTest : ComponentTest {
  void node(std::string name, std::string zone) {
    api.seed(kinds::kNodes,
             {{"metadata", {{"name", name}, {"namespace", ""}, {"labels", {{"topology.kubernetes.io/zone", zone}}}}},
              {"status", {{"conditions", json::array{{{"type", "Ready"}, {"status", "True"}}}}}}});
    api.seed(kinds::kLeases,
             {{"metadata", {{"name", name}, {"namespace", "kube-node-lease"}}}, {"spec", {{"renewTime", "x"}}}});
    alive.insert(name);
  }
  void watch() {
    heartbeats.start();
    component = std::make_unique<NodeLifecycleController>(Context{loop, api, api}, heartbeats,
                                                          NodeLifecycleController::Options{});
    component->start();
    loop.advance(1s);
  }
  void TearDown() override {
    ComponentTest::TearDown();
    heartbeats.stop();
  }
  // Time passes while those that live renew their leases.
  void pass(Duration span) {
    for (Duration at{}; at < span; at += 2s) {
      for (const std::string& name : alive) {
        api.change(kinds::kLeases, "kube-node-lease", name,
                   [&](json::object& o) { objectAt(o, "spec")["renewTime"] = formatTimeMicro(loop.wallNow()); });
      }
      loop.advance(2s);
    }
  }
  bool tainted(std::string name, std::string effect) {
    for (auto& t : array(api.find(kinds::kNodes, "", name)->root(), {"spec", "taints"})) {
      if (text(t.as_object(), "key") == "node.kubernetes.io/unreachable" && text(t.as_object(), "effect") == effect)
        return true;
    }
    return false;
  }
  // How many of n0, n1 and so on.
  int evicted(int nodes) {
    int count = 0;
    for (int i = 0; i < nodes; ++i) count += tainted(fmt::format("n{}", i), "NoExecute");
    return count;
  }
  std::set<std::string> alive;
  Heartbeats heartbeats{loop, api};
};

TEST_F(NodeTest, SilentNodeIsTaintedAndItsPodsLeaveWhenTheirTimeIsUp) {
  node("n1", "a");
  node("n2", "b");
  api.seed(
      kinds::kPods,
      R"({"metadata":{"name":"p"},"spec":{"nodeName":"n1","tolerations":[{"key":"node.kubernetes.io/unreachable","operator":"Exists","effect":"NoExecute","tolerationSeconds":60}]},"status":{"phase":"Running"}})");
  watch();
  pass(60s);
  EXPECT_FALSE(tainted("n1", "NoSchedule"));
  alive.erase("n1");
  pass(60s);
  EXPECT_EQ(text(*condition(api.find(kinds::kNodes, "", "n1")->root(), "Ready"), "status"), "Unknown");
  EXPECT_TRUE(tainted("n1", "NoSchedule"));
  EXPECT_TRUE(tainted("n1", "NoExecute"));
  EXPECT_FALSE(api.find(kinds::kPods, "default", "p")->deleting());
  pass(70s);
  EXPECT_TRUE(api.find(kinds::kPods, "default", "p")->deleting());
}

TEST_F(NodeTest, NothingIsEvictedWhenAllAreSilent) {
  for (int i = 0; i < 4; ++i) node(fmt::format("n{}", i), fmt::format("z{}", i % 2));
  watch();
  alive.clear();
  pass(300s);
  for (int i = 0; i < 4; ++i) {
    EXPECT_TRUE(tainted(fmt::format("n{}", i), "NoSchedule"));
    EXPECT_FALSE(tainted(fmt::format("n{}", i), "NoExecute"));
  }
}

TEST_F(NodeTest, PodsOfASilentNodeAreNotReadyUnlessNobodyIsHeard) {
  for (const char* name : {"n1", "n2"}) {
    node(name, "a");
    api.seed(kinds::kPods, {{"metadata", {{"name", name}}},
                            {"spec", {{"nodeName", name}}},
                            {"status", {{"conditions", json::array{{{"type", "Ready"}, {"status", "True"}}}}}}});
  }
  auto ready = [&](const char* name) { return podReady(*api.find(kinds::kPods, "default", name)); };
  watch();
  pass(20s);
  alive.clear();
  pass(100s);
  EXPECT_TRUE(ready("n1") && ready("n2"));
  alive.insert("n2");
  api.change(kinds::kNodes, "", "n2", [](json::object& o) {
    o["status"].as_object()["conditions"] = json::array{{{"type", "Ready"}, {"status", "True"}}};
  });
  pass(20s);
  EXPECT_TRUE(!ready("n1") && ready("n2"));
}

TEST_F(NodeTest, SmallZoneMostOfWhichIsSilentIsLeftAlone) {
  for (int i = 0; i < 5; ++i) node(fmt::format("n{}", i), "a");
  node("other", "b");
  watch();
  pass(20s);
  for (int i = 0; i < 4; ++i) alive.erase(fmt::format("n{}", i));
  pass(300s);
  EXPECT_LE(evicted(4), 2);
}

TEST_F(NodeTest, WholeZoneIsEvictedNodeByNode) {
  for (int i = 0; i < 3; ++i) node(fmt::format("n{}", i), "a");
  node("other", "b");
  watch();
  pass(20s);
  for (int i = 0; i < 3; ++i) alive.erase(fmt::format("n{}", i));
  int most = 0, before = 0;
  for (int i = 0; i < 12; ++i) {
    pass(10s);
    most = std::max(most, evicted(3) - before);
    before = evicted(3);
  }
  EXPECT_LE(most, 2);
  EXPECT_EQ(evicted(3), 3);
}

TEST_F(NodeTest, PodsOfARemovedNodeGo) {
  node("n1", "a");
  api.seed(kinds::kPods, R"({"metadata":{"name":"p"},"spec":{"nodeName":"n1"},"status":{"phase":"Running"}})");
  watch();
  api.drop(kinds::kNodes, "", "n1");
  loop.advance(60s);
  EXPECT_EQ(api.find(kinds::kPods, "default", "p"), nullptr);
}

}  // namespace
}  // namespace dhow::controllers
