#include "scheduler/scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/strings.h"
#include "client/fake_client.h"
#include "client/fields.h"
#include "rep.h"

namespace dhow::scheduler {
namespace {

using namespace std::chrono_literals;
using namespace client;
namespace kinds = dhow::object::resources;
using testing::HasSubstr;

struct SchedulerTest : testing::Test {
  SchedulerTest() {
    for (const auto& kind : {kinds::kPods, kinds::kNodes, kinds::kServices, kinds::kReplicaSets, kinds::kNamespaces})
      api.of(kind);
    scheduler.start();
  }
  void TearDown() override { runOn(loop, scheduler.stop()); }
  void node(std::string name, std::string zone = "", json::object spec = {}, std::string cpu = "4",
            std::string memory = "8Gi", std::string pods = "110") {
    json::object labels{{"kubernetes.io/hostname", name}};
    if (!zone.empty()) labels["topology.kubernetes.io/zone"] = zone;
    api.seed(kinds::kNodes, {{"apiVersion", "v1"},
                             {"kind", "Node"},
                             {"metadata", {{"name", name}, {"labels", std::move(labels)}}},
                             {"spec", std::move(spec)},
                             {"status", {{"allocatable", {{"cpu", cpu}, {"memory", memory}, {"pods", pods}}}}}});
  }
  void pod(std::string name, json::object spec = {}, std::string cpu = "100m", std::string app = "web") {
    if (!spec.contains("containers")) {
      spec["containers"] = json::array{
          {{"name", "c"}, {"image", "i"}, {"resources", {{"requests", {{"cpu", cpu}, {"memory", "64Mi"}}}}}}};
    }
    api.seed(kinds::kPods, {{"apiVersion", "v1"},
                            {"kind", "Pod"},
                            {"metadata", {{"name", name}, {"labels", {{"app", app}}}}},
                            {"spec", std::move(spec)},
                            {"status", {{"phase", "Pending"}}}});
  }
  std::string nodeOf(std::string name) {
    ObjectPtr found = api.find(kinds::kPods, "default", name);
    return found ? std::string(text(found->root(), {"spec", "nodeName"})) : "gone";
  }
  std::string zoneOf(std::string name) {
    ObjectPtr found = api.find(kinds::kNodes, "", nodeOf(name));
    return found ? std::string(found->label("topology.kubernetes.io/zone")) : "";
  }
  std::string messageOf(std::string name) {
    const json::object* c = condition(api.find(kinds::kPods, "default", name)->root(), "PodScheduled");
    return c ? std::string(text(*c, "message")) : "";
  }
  SimLoop loop;
  FakeClient api{loop};
  Scheduler scheduler{loop, api, api, {}};
};

TEST_F(SchedulerTest, BindsAndTells) {
  node("n1");
  pod("p");
  loop.advance(1s);
  EXPECT_EQ(nodeOf("p"), "n1");
  auto events = api.all(kinds::kEvents);
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(text(events[0]->root(), "message"), "Successfully assigned default/p to n1");
}

TEST_F(SchedulerTest, SaysWhyNothingFitsInKubernetesWords) {
  node("n1", "", {{"taints", json::array{{{"key", "k"}, {"value", "v"}, {"effect", "NoSchedule"}}}}});
  node("n2", "", {{"taints", json::array{{{"key", "k"}, {"value", "v"}, {"effect", "NoSchedule"}}}}});
  node("n3", "", {}, "1");
  pod("filler", {}, "800m");
  loop.advance(1s);
  pod("p", {}, "900m");
  loop.advance(1s);
  EXPECT_EQ(messageOf("p"),
            "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) had untolerated taint {k: v}. preemption: 0/3 "
            "nodes are available: "
            "1 No preemption victims found for incoming pod, 2 Preemption is not helpful for scheduling.");
  const json::object* c = condition(api.find(kinds::kPods, "default", "p")->root(), "PodScheduled");
  EXPECT_EQ(text(*c, "reason"), "Unschedulable");
}

TEST_F(SchedulerTest, NoNodesAtAll) {
  pod("p");
  loop.advance(1s);
  EXPECT_EQ(messageOf("p"), "no nodes available to schedule pods");
  node("n1");
  loop.advance(5s);
  EXPECT_EQ(nodeOf("p"), "n1");
}

TEST_F(SchedulerTest, UnschedulablePodFitsWhenAnotherGoes) {
  node("n1", "", {}, "1");
  pod("a", {}, "800m");
  loop.advance(1s);
  pod("b", {}, "800m");
  loop.advance(20s);
  EXPECT_EQ(nodeOf("b"), "");
  api.drop(kinds::kPods, "default", "a");
  loop.advance(15s);
  EXPECT_EQ(nodeOf("b"), "n1");
}

TEST_F(SchedulerTest, HonoursSelectorTaintsCordonAndPodCount) {
  node("plain");
  node("cordoned", "", {{"unschedulable", true}});
  node("full", "", {}, "4", "8Gi", "0");
  pod("p");
  pod("nowhere", {{"nodeSelector", {{"disk", "ssd"}}}});
  pod("tolerant",
      {{"nodeSelector", {{"kubernetes.io/hostname", "cordoned"}}},
       {"tolerations", json::array{{{"key", "node.kubernetes.io/unschedulable"}, {"operator", "Exists"}}}}});
  loop.advance(1s);
  EXPECT_EQ(nodeOf("p"), "plain");
  EXPECT_EQ(nodeOf("tolerant"), "cordoned");
  EXPECT_THAT(messageOf("nowhere"), HasSubstr("didn't match Pod's node affinity/selector"));
  EXPECT_THAT(messageOf("nowhere"), HasSubstr("1 node(s) were unschedulable"));
}

TEST_F(SchedulerTest, HostPortIsTakenOnce) {
  node("n1");
  json::object spec{
      {"containers", json::array{{{"name", "c"}, {"image", "i"}, {"ports", json::array{{{"hostPort", 80}}}}}}}};
  pod("a", spec);
  pod("b", spec);
  loop.advance(1s);
  EXPECT_EQ(nodeOf("a"), "n1");
  EXPECT_THAT(messageOf("b"), HasSubstr("node(s) didn't have free ports for the requested pod ports"));
}

TEST_F(SchedulerTest, ReplicasSpreadEvenlyOverZonesAndNodes) {
  for (int i = 0; i < 3; ++i) node(fmt::format("n{}", i), fmt::format("z{}", i));
  api.seed(kinds::kServices, R"({"metadata":{"name":"web"},"spec":{"selector":{"app":"web"}}})");
  for (int i = 0; i < 6; ++i) pod(fmt::format("p{}", i));
  loop.advance(1s);
  std::map<std::string, int> zones;
  for (int i = 0; i < 6; ++i) ++zones[zoneOf(fmt::format("p{}", i))];
  EXPECT_EQ(zones, (std::map<std::string, int>{{"z0", 2}, {"z1", 2}, {"z2", 2}}));
}

TEST_F(SchedulerTest, HardSpreadNeverExceedsItsSkew) {
  node("n1", "a", {}, "100");
  node("n2", "b", {}, "1");
  json::object constraint{{"maxSkew", 1},
                          {"topologyKey", "topology.kubernetes.io/zone"},
                          {"whenUnsatisfiable", "DoNotSchedule"},
                          {"labelSelector", {{"matchLabels", {{"app", "web"}}}}}};
  for (int i = 0; i < 4; ++i)
    pod(fmt::format("p{}", i), {{"topologySpreadConstraints", json::array{constraint}}}, "900m");
  loop.advance(5s);
  std::map<std::string, int> zones;
  for (int i = 0; i < 4; ++i) ++zones[zoneOf(fmt::format("p{}", i))];
  EXPECT_EQ(zones["a"], 2);
  EXPECT_EQ(zones["b"], 1);
}

json::object podTerm(std::string app, std::string key) {
  return {{"requiredDuringSchedulingIgnoredDuringExecution",
           json::array{{{"labelSelector", {{"matchLabels", {{"app", app}}}}}, {"topologyKey", key}}}}};
}

TEST_F(SchedulerTest, AntiAffinityHoldsBothWays) {
  node("n1");
  node("n2");
  json::object alone{{"affinity", {{"podAntiAffinity", podTerm("web", "kubernetes.io/hostname")}}}};
  pod("a", alone);
  pod("b", alone);
  loop.advance(1s);
  EXPECT_NE(nodeOf("a"), nodeOf("b"));
  pod("c", alone);
  pod("d");
  loop.advance(1s);
  EXPECT_EQ(nodeOf("c"), "");
  EXPECT_EQ(nodeOf("d"), "");
  EXPECT_THAT(messageOf("d"), HasSubstr("node(s) didn't satisfy existing pods anti-affinity rules"));
}

TEST_F(SchedulerTest, AffinityFollowsAndItsFirstPodMayStart) {
  for (int i = 0; i < 4; ++i) node(fmt::format("n{}", i), i % 2 ? "a" : "b");
  json::object together{{"affinity", {{"podAffinity", podTerm("web", "topology.kubernetes.io/zone")}}}};
  for (int i = 0; i < 5; ++i) pod(fmt::format("p{}", i), together);
  loop.advance(1s);
  for (int i = 1; i < 5; ++i) EXPECT_EQ(zoneOf(fmt::format("p{}", i)), zoneOf("p0"));
}

TEST_F(SchedulerTest, HigherPriorityMakesRoomWithTheFewestVictims) {
  node("n1", "", {}, "1");
  node("n2", "", {}, "1");
  pod("small-1", {{"nodeSelector", {{"kubernetes.io/hostname", "n1"}}}}, "400m");
  pod("small-2", {{"nodeSelector", {{"kubernetes.io/hostname", "n1"}}}}, "400m");
  pod("large", {{"nodeSelector", {{"kubernetes.io/hostname", "n2"}}}}, "800m");
  loop.advance(1s);
  pod("vip", {{"priority", 1000}}, "900m");
  loop.advance(1s);
  EXPECT_TRUE(api.find(kinds::kPods, "default", "large")->deleting());
  EXPECT_FALSE(api.find(kinds::kPods, "default", "small-1")->deleting());
  EXPECT_EQ(text(api.find(kinds::kPods, "default", "vip")->root(), {"status", "nominatedNodeName"}), "n2");
  // Nobody of lower priority takes the room meanwhile.
  api.drop(kinds::kPods, "default", "large");
  pod("thief", {{"nodeSelector", {{"kubernetes.io/hostname", "n2"}}}}, "800m");
  loop.advance(20s);
  EXPECT_EQ(nodeOf("vip"), "n2");
  EXPECT_EQ(nodeOf("thief"), "");
}

TEST_F(SchedulerTest, FailedBindingGivesTheRoomBackAndIsTriedAgain) {
  node("n1", "", {}, "1");
  int failures = 3;
  api.inject = [&](const FakeClient::Action& a) -> std::optional<Error> {
    if (a.subresource != "binding" || failures-- <= 0) return std::nullopt;
    return Error(Code::kUnavailable, "not now");
  };
  pod("p", {}, "900m");
  loop.advance(60s);
  EXPECT_EQ(nodeOf("p"), "n1");
}

TEST_F(SchedulerTest, InitContainersAndSidecarsCountAsKubernetesDoes) {
  auto c = [](std::string name, std::string cpu, bool sidecar = false) {
    json::object out{{"name", name}, {"image", "i"}, {"resources", {{"requests", {{"cpu", cpu}}}}}};
    if (sidecar) out["restartPolicy"] = "Always";
    return out;
  };
  json::object spec{{"containers", json::array{c("a", "100m"), c("b", "200m")}},
                    {"initContainers", json::array{c("s", "50m", true), c("i", "500m")}},
                    {"overhead", {{"cpu", "10m"}}}};
  pod("p", spec);
  PodInfoPtr info = readPod(api.find(kinds::kPods, "default", "p"), nullptr);
  EXPECT_EQ(info->requests.cpu, 560);  // 50 + 500 while starting, more than 350 while running
}

TEST_F(SchedulerTest, RequestsBeyondAnyMachineFitNowhere) {
  node("n1");
  auto c = [](std::string name) {
    return json::object{
        {"name", name}, {"image", "i"}, {"resources", {{"requests", {{"cpu", "9E"}, {"memory", "7E"}}}}}};
  };
  pod("p", {{"containers", json::array{c("a"), c("b")}}, {"overhead", {{"memory", "7E"}}}});
  pod("q");
  loop.advance(1s);
  EXPECT_EQ(nodeOf("p"), "");
  EXPECT_EQ(nodeOf("q"), "n1");
}

TEST_F(SchedulerTest, GatedPodWaitsForItsGate) {
  node("n1");
  pod("p", {{"schedulingGates", json::array{{{"name", "g"}}}}});
  loop.advance(1s);
  EXPECT_EQ(nodeOf("p"), "");
  api.change(kinds::kPods, "default", "p", [](json::object& o) { objectAt(o, "spec").erase("schedulingGates"); });
  loop.advance(1s);
  EXPECT_EQ(nodeOf("p"), "n1");
}

TEST_F(SchedulerTest, ThousandNodesTenThousandPods) {
#ifdef __OPTIMIZE__
  const int nodes = 1000, pods = 10000;
#else
  const int nodes = 200, pods = 1000;
#endif
  api.recordActions = false;
  for (int i = 0; i < nodes; ++i) node(fmt::format("n{}", i), fmt::format("z{}", i % 3), {}, "32", "128Gi");
  api.seed(kinds::kServices, R"({"metadata":{"name":"web"},"spec":{"selector":{"app":"web"}}})");
  for (int i = 0; i < pods; ++i) pod(fmt::format("p{}", i));
  const auto start = std::chrono::steady_clock::now();
  loop.advance(60s);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  EXPECT_EQ(scheduler.scheduled(), static_cast<uint64_t>(pods));
  std::map<std::string, int> zones;
  for (int i = 0; i < pods; ++i) ++zones[zoneOf(fmt::format("p{}", i))];
  EXPECT_NEAR(zones["z0"], pods / 3.0, pods / 100.0 + 1);
  RecordProperty("pods_per_second", fmt::format("{:.0f}", pods / seconds));
  fmt::print("{} pods on {} nodes: {:.0f} pods/s\n", pods, nodes, pods / seconds);
}

}  // namespace
}  // namespace dhow::scheduler
