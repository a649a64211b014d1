#include <gmock/gmock.h>

#include "base/strings.h"
#include "base/time.h"
#include "client/bootstrap_token.h"
#include "component_fixture.h"
#include "controllers/manager.h"
#include "garbage_collector.h"
#include "namespace.h"
#include "node_ipam.h"
#include "node_zones.h"
#include "platform_seed.h"
#include "pod_gc.h"
#include "service_account.h"
#include "token_cleaner.h"
#include "workload.h"

namespace dhow::controllers {
namespace {

using namespace std::chrono_literals;
using namespace client;
namespace kinds = object::resources;
using testing::ElementsAre;
using testing::UnorderedElementsAre;

struct GarbageTest : ComponentTest {
  void start() {
    run<GarbageCollector>(std::vector<GarbageCollector::Kind>{
        {kinds::kDeployments, "Deployment"}, {kinds::kReplicaSets, "ReplicaSet"}, {kinds::kPods, "Pod"}});
  }
  ObjectPtr child(const Resource& kind, std::string name, const ObjectPtr& owner) {
    return api.seed(kind,
                    {{"apiVersion", kind.apiVersion()},
                     {"metadata", {{"name", name}, {"ownerReferences", json::array{controllerReference(*owner)}}}}});
  }
  ObjectPtr d = api.seed(kinds::kDeployments, R"({"metadata":{"name":"d"}})");
  ObjectPtr s = child(kinds::kReplicaSets, "s", d);
  ObjectPtr p = child(kinds::kPods, "p", s);
  void remove(std::string policy) {
    DeleteOptions options;
    options.propagationPolicy = policy;
    ASSERT_TRUE(runOn(loop, api.remove(kinds::kDeployments, "default", "d", options)).ok());
    loop.advance(5s);
  }
};

TEST_F(GarbageTest, BackgroundTakesTheWholeTree) {
  start();
  remove("Background");
  EXPECT_TRUE(api.all(kinds::kReplicaSets).empty());
  EXPECT_TRUE(api.all(kinds::kPods).empty());
}

TEST_F(GarbageTest, ForegroundOwnerGoesLast) {
  start();
  std::vector<std::string> gone;
  auto note = [&](const ObjectPtr& before, const ObjectPtr& after) {
    if (!after) gone.emplace_back(before->name());
  };
  auto a = api.of(kinds::kDeployments).subscribe(note), b = api.of(kinds::kReplicaSets).subscribe(note),
       c = api.of(kinds::kPods).subscribe(note);
  remove("Foreground");
  EXPECT_THAT(gone, ElementsAre("p", "s", "d"));
}

TEST_F(GarbageTest, OrphansStay) {
  start();
  remove("Orphan");
  EXPECT_EQ(api.find(kinds::kDeployments, "default", "d"), nullptr);
  ASSERT_NE(api.find(kinds::kReplicaSets, "default", "s"), nullptr);
  EXPECT_EQ(controllerOf(*api.find(kinds::kReplicaSets, "default", "s")), nullptr);
  EXPECT_NE(api.find(kinds::kPods, "default", "p"), nullptr);
}

TEST_F(GarbageTest, AnOwnerThatOnlyTheCacheLacksKeepsItsDependents) {
  api.of(kinds::kDeployments), api.of(kinds::kReplicaSets), api.of(kinds::kPods);
  api.holdCaches();
  ObjectPtr late = api.seed(kinds::kDeployments, R"({"metadata":{"name":"late"}})");
  api.releaseCaches();
  child(kinds::kReplicaSets, "of-late", late);
  start();
  EXPECT_NE(api.find(kinds::kReplicaSets, "default", "of-late"), nullptr);
}

TEST_F(ComponentTest, NamespaceGetsItsAccountAndRootCertificate) {
  api.seed(kinds::kNamespaces, R"({"metadata":{"name":"shop"}})");
  run<ServiceAccountController>(std::string("PEM"));
  EXPECT_NE(api.find(kinds::kServiceAccounts, "shop", "default"), nullptr);
  EXPECT_EQ(text(api.find(kinds::kConfigMaps, "shop", "kube-root-ca.crt")->root(), {"data", "ca.crt"}), "PEM");
  api.drop(kinds::kServiceAccounts, "shop", "default");
  loop.advance(1s);
  EXPECT_NE(api.find(kinds::kServiceAccounts, "shop", "default"), nullptr);
}

TEST_F(ComponentTest, NodesGetDistinctRangesAndFreedOnesComeBack) {
  for (int i = 0; i < 4; ++i) api.seed(kinds::kNodes, {{"metadata", {{"name", fmt::format("n{}", i)}}}});
  auto cidr = [&](std::string name) {
    return std::string(text(api.find(kinds::kNodes, "", name)->root(), {"spec", "podCIDR"}));
  };
  run<NodeIpamController>(NodeIpamController::Options{{"10.244.0.0/22"}, 24});
  EXPECT_THAT((std::vector<std::string>{cidr("n0"), cidr("n1"), cidr("n2"), cidr("n3")}),
              UnorderedElementsAre("10.244.0.0/24", "10.244.1.0/24", "10.244.2.0/24", "10.244.3.0/24"));
  const std::string freed = cidr("n1");
  api.drop(kinds::kNodes, "", "n1");
  api.seed(kinds::kNodes, R"({"metadata":{"name":"new"}})");
  loop.advance(1s);
  EXPECT_EQ(cidr("new"), freed);
}

TEST_F(ComponentTest, NodesOfTwoFamiliesHaveTheSameNumberInBothRanges) {
  for (const char* name : {"n1", "n2", "n3"})
    api.seed(kinds::kNodes, {{"metadata", {{"name", name}, {"namespace", ""}}}});
  run<NodeIpamController>(NodeIpamController::Options{{"10.244.0.0/16", "fd00:10:244::/63"}, 24});
  std::set<std::string> ranges;
  for (const char* name : {"n1", "n2", "n3"})
    ranges.insert(join(client::strings(array(api.find(kinds::kNodes, "", name)->root(), {"spec", "podCIDRs"})), " "));
  EXPECT_EQ(ranges, (std::set<std::string>{"", "10.244.0.0/24 fd00:10:244::/64", "10.244.1.0/24 fd00:10:244:1::/64"}))
      << "as many as the smaller range holds";
}

struct NodeRangesTest : ComponentTest {
  std::string rangesOf(const char* name) {
    const auto node = api.find(kinds::kNodes, "", name);
    const auto ranges = client::strings(array(node->root(), {"spec", "podCIDRs"}));
    EXPECT_EQ(text(node->root(), {"spec", "podCIDR"}), ranges.front());
    return join(ranges, " ");
  }
  void give(std::vector<std::string> clusterRanges) {
    api.seed(kinds::kNodes, R"({"metadata":{"name":"n1","namespace":""},"spec":{"podCIDR":"fd00:10:244:2::/64"}})");
    api.seed(kinds::kNodes, R"({"metadata":{"name":"n2","namespace":""}})");
    run<NodeIpamController>(NodeIpamController::Options{std::move(clusterRanges)});
    loop.advance(1s);
    for (const char* name : {"n3", "n4"}) {
      api.seed(kinds::kNodes, {{"metadata", {{"name", name}, {"namespace", ""}}}});
      loop.advance(1s);
    }
  }
};

TEST_F(NodeRangesTest, MayBeOfIpv6Alone) {
  give({"fd00:10:244::/56"});
  EXPECT_EQ(rangesOf("n2"), "fd00:10:244::/64");
  EXPECT_EQ(rangesOf("n3"), "fd00:10:244:1::/64");
  EXPECT_EQ(rangesOf("n4"), "fd00:10:244:3::/64");
}

TEST_F(NodeRangesTest, MayBeOfIpv6First) {
  give({"fd00:10:244::/56", "10.244.0.0/16"});
  EXPECT_EQ(rangesOf("n2"), "fd00:10:244::/64 10.244.0.0/24");
  EXPECT_EQ(rangesOf("n4"), "fd00:10:244:3::/64 10.244.3.0/24");
}

TEST_F(ComponentTest, ZonesAreThoseThatNodesName) {
  auto node = [&](std::string name, std::string zone) {
    api.seed(kinds::kNodes,
             {{"metadata", {{"name", name}, {"namespace", ""}, {"labels", {{"topology.kubernetes.io/zone", zone}}}}}});
  };
  node("n1", "east-1");
  node("n2", "east-1");
  run<NodeZonesController>(std::string("east"));
  node("n3", "east-2");
  loop.advance(1s);
  ASSERT_EQ(api.all(kinds::kZones).size(), 2u);
  EXPECT_EQ(text(api.find(kinds::kZones, "", "east-2")->root(), {"spec", "region"}), "east");
  EXPECT_NE(api.find(kinds::kRegions, "", "east"), nullptr);
}

TEST_F(ComponentTest, BootstrapTokensAreRemovedWhenTheyExpire) {
  auto seed = [&](std::string id, std::optional<Duration> life, std::string type) {
    json::object data{{"token-id", toBase64(id)}, {"token-secret", toBase64("0123456789abcdef")}};
    if (life) data["expiration"] = toBase64(formatTime(loop.wallNow() + *life));
    api.seed(kinds::kSecrets, {{"metadata", {{"name", "bootstrap-token-" + id}, {"namespace", "kube-system"}}},
                               {"type", type},
                               {"data", std::move(data)}});
  };
  seed("aaaaaa", 1h, kBootstrapTokenType);
  seed("bbbbbb", -1h, kBootstrapTokenType);
  seed("cccccc", std::nullopt, kBootstrapTokenType);
  seed("dddddd", -1h, "Opaque");
  run<TokenCleaner>();
  auto has = [&](std::string id) {
    return api.find(kinds::kSecrets, "kube-system", "bootstrap-token-" + id) != nullptr;
  };
  EXPECT_TRUE(has("aaaaaa") && !has("bbbbbb") && has("cccccc") && has("dddddd"));
  loop.advance(1h);
  EXPECT_TRUE(!has("aaaaaa") && has("cccccc"));
}

TEST_F(ComponentTest, NewClusterIsGivenItsRegionZonesAndPoolOnce) {
  const PlatformSeed::Plan plan{"r", {"a", "b"}, 4};
  run<PlatformSeed>(plan);
  EXPECT_EQ(api.all(kinds::kZones).size(), 2u);
  EXPECT_EQ(number(api.find(kinds::kNodePools, "", "default")->root(), {"spec", "count"}), 4);
  EXPECT_EQ(api.find(kinds::kRegions, "", "r")->annotation("dhow.io/unfinished"), "");
  api.drop(kinds::kNodePools, "", "default");
  runOn(loop, component->stop());
  run<PlatformSeed>(plan);
  EXPECT_EQ(api.find(kinds::kNodePools, "", "default"), nullptr);
}

TEST_F(ComponentTest, OldestFinishedPodsGoBeyondTheLimit) {
  for (int i = 0; i < 5; ++i) {
    api.seed(kinds::kPods, {{"metadata", {{"name", fmt::format("p{}", i)}}},
                            {"status", {{"phase", i == 0 ? "Running" : "Succeeded"}}}});
    loop.advance(1s);
  }
  run<PodGarbageCollector>(size_t{2});
  loop.advance(60s);
  std::vector<std::string> left;
  for (auto& pod : api.all(kinds::kPods)) left.emplace_back(pod->name());
  EXPECT_THAT(left, ElementsAre("p0", "p3", "p4"));
}

TEST(ManagerOptions, UnreadableRangeIsNamed) {
  Options options;
  options.loadBalancerPool = "nonsense";
  EXPECT_FALSE(check(options).ok());
  options.loadBalancerPool = "192.0.2.0/24,2001:db8::/112";
  EXPECT_TRUE(check(options).ok());
  using Ranges = std::vector<std::string>;
  for (const Ranges& wrong : {Ranges{"fd00::/80"},
                              {"10.244.0.0/25"},
                              {"10.244.0.0/16", "10.245.0.0/16"},
                              {"fd00:x::/56"},
                              {"fd00::/56", "fd01::/56"}}) {
    options.clusterCidrs = wrong;
    EXPECT_FALSE(check(options).ok()) << wrong.front();
  }
  for (const Ranges& right :
       {Ranges{}, {"10.244.0.0/16", "fd00::/56"}, {"fd00::/56"}, {"fd00::/56", "10.244.0.0/16"}}) {
    options.clusterCidrs = right;
    EXPECT_TRUE(check(options).ok());
  }
}

}  // namespace
}  // namespace dhow::controllers
