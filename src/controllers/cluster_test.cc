#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/strings.h"
#include "base/time.h"
#include "client/bootstrap_token.h"
#include "client/fake_client.h"
#include "client/node_lease.h"
#include "controllers/manager.h"
#include "endpoints_mirror.h"
#include "endpointslice.h"
#include "garbage_collector.h"
#include "namespace.h"
#include "node_ipam.h"
#include "node_lifecycle.h"
#include "node_zones.h"
#include "platform_seed.h"
#include "pod_gc.h"
#include "service_account.h"
#include "service_lb.h"
#include "token_cleaner.h"

namespace dhow::controllers {
namespace {

using namespace std::chrono_literals;
using namespace client;
namespace kinds = object::resources;
using testing::ElementsAre;
using testing::UnorderedElementsAre;

struct Base : testing::Test {
  void TearDown() override {
    if (component) runOn(loop, component->stop());
  }
  template <class T, class... Args>
  void run(Args... args) {
    component = std::make_unique<T>(Context{loop, api, api}, std::move(args)...);
    component->start();
    loop.advance(1s);
  }
  SimLoop loop;
  FakeClient api{loop};
  std::unique_ptr<Component> component;
};

struct EndpointsTest : Base {
  void pod(std::string name, std::string ip, bool ready, std::string node = "n1") {
    api.seed(kinds::kPods,
             {{"metadata", {{"name", name}, {"labels", {{"app", "web"}}}}},
              {"spec",
               {{"nodeName", node},
                {"containers",
                 json::array{{{"name", "c"}, {"ports", json::array{{{"name", "http"}, {"containerPort", 8080}}}}}}}}},
              {"status",
               {{"phase", "Running"},
                {"podIP", ip},
                {"conditions", json::array{{{"type", "Ready"}, {"status", ready ? "True" : "False"}}}}}}});
  }
  void service(json::object extra = {}) {
    json::object spec{
        {"clusterIP", "10.96.0.7"},
        {"selector", {{"app", "web"}}},
        {"ports", json::array{{{"name", "http"}, {"port", 80}, {"targetPort", "http"}, {"protocol", "TCP"}}}}};
    for (auto& [key, value] : extra) spec[key] = value;
    api.seed(kinds::kServices, {{"metadata", {{"name", "web"}}}, {"spec", std::move(spec)}});
  }
  json::array endpoints() {
    json::array out;
    for (auto& slice : api.all(kinds::kEndpointSlices)) {
      for (auto& e : array(slice->root(), {"endpoints"})) out.push_back(e);
    }
    return out;
  }
};

TEST_F(EndpointsTest, ShowsReadinessZoneNodeAndNamedPort) {
  api.seed(kinds::kNodes, R"({"metadata":{"name":"n1","namespace":"","labels":{"topology.kubernetes.io/zone":"z1"}}})");
  pod("a", "10.244.0.1", true);
  pod("b", "10.244.0.2", false);
  service();
  run<EndpointSliceController>();
  auto slices = api.all(kinds::kEndpointSlices);
  ASSERT_EQ(slices.size(), 1u);
  EXPECT_EQ(slices[0]->label("kubernetes.io/service-name"), "web");
  EXPECT_EQ(number(array(slices[0]->root(), {"ports"})[0].as_object(), {"port"}), 8080);
  ASSERT_EQ(endpoints().size(), 2u);
  const json::object a = endpoints()[0].as_object();
  EXPECT_TRUE(flag(a, {"conditions", "ready"}));
  EXPECT_EQ(text(a, "zone"), "z1");
  EXPECT_EQ(text(a, "nodeName"), "n1");
  EXPECT_FALSE(flag(endpoints()[1].as_object(), {"conditions", "ready"}, true));
  const json::object subset = array(api.find(kinds::kEndpoints, "default", "web")->root(), {"subsets"})[0].as_object();
  EXPECT_EQ(array(subset, {"addresses"}).size(), 1u);
  EXPECT_EQ(array(subset, {"notReadyAddresses"}).size(), 1u);
}

TEST_F(EndpointsTest, HintsFollowTheTrafficDistribution) {
  api.seed(kinds::kNodes, R"({"metadata":{"name":"n1","namespace":"","labels":{"topology.kubernetes.io/zone":"z1"}}})");
  pod("a", "10.244.0.1", true);
  pod("b", "10.244.0.2", false);
  service({{"trafficDistribution", "PreferSameZone"}});
  run<EndpointSliceController>();
  const json::object ready = endpoints().at(0).as_object();
  EXPECT_EQ(client::field(ready, {"hints"})->as_object(),
            (json::object{{"forZones", json::array{json::object{{"name", "z1"}}}}}));
  EXPECT_FALSE(client::has(endpoints().at(1).as_object(), {"hints"}));
  api.change(kinds::kServices, "default", "web",
             [](json::object& o) { objectAt(o, "spec")["trafficDistribution"] = "PreferSameNode"; });
  loop.advance(1s);
  EXPECT_TRUE(client::has(endpoints().at(0).as_object(), {"hints", "forNodes"}));
  EXPECT_TRUE(client::has(endpoints().at(0).as_object(), {"hints", "forZones"}));
}

TEST_F(EndpointsTest, AnotherZoneOfTheNodeIsToldAtOnce) {
  pod("a", "10.244.0.1", true);
  service({{"trafficDistribution", "PreferClose"}});
  run<EndpointSliceController>();
  EXPECT_FALSE(client::has(endpoints().at(0).as_object(), {"zone"})) << "nobody knows the node yet";
  auto zone = [&] { return std::string(text(endpoints().at(0).as_object(), "zone")); };
  auto hint = [&] {
    const auto all = endpoints();
    const auto& zones = array(all.at(0).as_object(), {"hints", "forZones"});
    return zones.empty() ? "" : std::string(text(zones[0].as_object(), "name"));
  };
  api.seed(kinds::kNodes, R"({"metadata":{"name":"n1","namespace":"","labels":{"topology.kubernetes.io/zone":"z1"}}})");
  loop.advance(1s);
  EXPECT_EQ(zone(), "z1");
  EXPECT_EQ(hint(), "z1");
  api.change(kinds::kNodes, "", "n1", [](json::object& node) {
    objectAt(objectAt(node, "metadata"), "labels")["topology.kubernetes.io/zone"] = "z2";
  });
  loop.advance(1s);
  EXPECT_EQ(zone(), "z2");
  EXPECT_EQ(hint(), "z2");
}

TEST_F(EndpointsTest, APortsNameIsLookedUpInSidecarsButNotInInitContainersThatEnd) {
  pod("a", "10.244.0.1", true);
  auto init = [&](const char* policy) {
    api.change(kinds::kPods, "default", "a", [&](json::object& pod) {
      auto& spec = objectAt(pod, "spec");
      spec["containers"] = json::array{{{"name", "c"}}};
      spec["initContainers"] = json::array{
          {{"name", "side"}, {"restartPolicy", policy}, {"ports", {{{"name", "http"}, {"containerPort", 9090}}}}}};
    });
  };
  service();
  init("Always");
  run<EndpointSliceController>();
  auto ports = [&] { return array(api.all(kinds::kEndpointSlices).at(0)->root(), {"ports"}); };
  ASSERT_EQ(ports().size(), 1u);
  EXPECT_EQ(number(ports()[0].as_object(), {"port"}), 9090);
  init("");
  api.change(kinds::kPods, "default", "a",
             [](json::object& pod) { objectAt(objectAt(pod, "metadata"), "labels")["changed"] = "yes"; });
  loop.advance(1s);
  EXPECT_TRUE(ports().empty());
}

TEST_F(EndpointsTest, ServicesOfTwoFamiliesHaveSlicesOfEach) {
  pod("a", "10.244.0.1", true);
  pod("b", "10.244.0.2", true);
  api.change(kinds::kPods, "default", "a", [](json::object& pod) {
    objectAt(pod, "status")["podIPs"] = json::array{{{"ip", "10.244.0.1"}}, {{"ip", "fd00:10:244::1"}}};
  });
  service({{"ipFamilies", {"IPv6", "IPv4"}}});
  run<EndpointSliceController>();
  auto slices = [&] {
    std::map<std::string, std::string> out;
    for (auto& slice : api.all(kinds::kEndpointSlices)) {
      std::string& addresses = out[std::string(text(slice->root(), {"addressType"}))];
      for (auto& endpoint : array(slice->root(), {"endpoints"}))
        addresses += client::strings(array(endpoint.as_object(), {"addresses"})).at(0) + " ";
    }
    return out;
  };
  EXPECT_EQ(slices(),
            (std::map<std::string, std::string>{{"IPv4", "10.244.0.1 10.244.0.2 "}, {"IPv6", "fd00:10:244::1 "}}))
      << "a pod without an address of a family is not in it";
  const json::object subset = array(api.find(kinds::kEndpoints, "default", "web")->root(), {"subsets"})[0].as_object();
  EXPECT_EQ(text(array(subset, {"addresses"})[0].as_object(), "ip"), "fd00:10:244::1")
      << "Endpoints know the first one";
  // A pod's second address is seen when it comes, and a family that goes takes its slices along.
  api.change(kinds::kPods, "default", "b", [](json::object& pod) {
    objectAt(pod, "status")["podIPs"] = json::array{{{"ip", "10.244.0.2"}}, {{"ip", "fd00:10:244::2"}}};
  });
  loop.advance(1s);
  EXPECT_EQ(slices()["IPv6"], "fd00:10:244::1 fd00:10:244::2 ");
  api.change(kinds::kServices, "default", "web",
             [](json::object& o) { objectAt(o, "spec")["ipFamilies"] = json::array{"IPv6"}; });
  loop.advance(1s);
  EXPECT_EQ(slices().size(), 1u);
}

TEST_F(EndpointsTest, TerminatingPodStillServes) {
  pod("a", "10.244.0.1", true);
  service();
  run<EndpointSliceController>();
  (void)runOn(loop, api.remove(kinds::kPods, "default", "a", {}));
  loop.advance(1s);
  ASSERT_EQ(endpoints().size(), 1u);
  const json::object conditions = client::object(endpoints()[0].as_object(), {"conditions"});
  EXPECT_FALSE(flag(conditions, {"ready"}, true));
  EXPECT_TRUE(flag(conditions, {"serving"}));
  EXPECT_TRUE(flag(conditions, {"terminating"}));
}

TEST_F(EndpointsTest, PodOfASilentNodeServesThoseWhoKnowIt) {
  pod("a", "10.244.0.1", true);
  service();
  run<EndpointSliceController>();
  auto serving = [&](const char* reason) {
    api.change(kinds::kPods, "default", "a", [&](json::object& o) {
      objectAt(o, "status")["conditions"] =
          json::array{json::object{{"type", "Ready"}, {"status", "False"}, {"reason", reason}}};
    });
    loop.advance(1s);
    const json::object conditions = client::object(endpoints()[0].as_object(), {"conditions"});
    EXPECT_FALSE(flag(conditions, {"ready"}, true));
    return flag(conditions, {"serving"});
  };
  EXPECT_TRUE(serving(kNodeNotReady));
  EXPECT_FALSE(serving("ContainersNotReady"));
}

TEST_F(EndpointsTest, SliceHoldsAHundredAtMost) {
  for (int i = 0; i < 250; ++i) pod(fmt::format("p{}", i), fmt::format("10.244.0.{}", i), true);
  service();
  run<EndpointSliceController>();
  EXPECT_EQ(api.all(kinds::kEndpointSlices).size(), 3u);
  EXPECT_EQ(endpoints().size(), 250u);
}

TEST_F(EndpointsTest, PublishesNotReadyWhenAsked) {
  pod("a", "10.244.0.1", false);
  service({{"publishNotReadyAddresses", true}});
  run<EndpointSliceController>();
  EXPECT_TRUE(flag(endpoints().at(0).as_object(), {"conditions", "ready"}));
}

TEST_F(EndpointsTest, StaleCacheLeavesNoDoubleSlice) {
  service();
  run<EndpointSliceController>();
  for (auto& slice : api.all(kinds::kEndpointSlices)) api.drop(kinds::kEndpointSlices, "default", slice->name());
  api.holdCaches();
  pod("a", "10.244.0.1", true);
  api.releaseCaches();
  loop.advance(1s);
  EXPECT_EQ(api.all(kinds::kEndpointSlices).size(), 1u);
}

TEST_F(EndpointsTest, MirrorsEndpointsWrittenByHandWhileNothingSelectsPods) {
  service({{"selector", json::object()}});
  api.seed(kinds::kEndpoints, R"({"metadata":{"name":"web","namespace":"default","labels":{"team":"a"}},
    "subsets":[{"addresses":[{"ip":"192.0.2.7","hostname":"db"},{"ip":"2001:db8::7"}],"notReadyAddresses":[{"ip":"192.0.2.8"}],
    "ports":[{"name":"http","port":9000}]}]})");
  api.seed(kinds::kEndpoints, R"({"metadata":{"name":"lonely","namespace":"default"},
    "subsets":[{"addresses":[{"ip":"192.0.2.9"}],"ports":[{"port":1}]}]})");
  run<EndpointsMirrorController>();
  auto slices = api.all(kinds::kEndpointSlices);
  ASSERT_EQ(slices.size(), 2u) << "one a family; none without a service";
  std::sort(slices.begin(), slices.end(),
            [](auto& a, auto& b) { return text(a->root(), {"addressType"}) < text(b->root(), {"addressType"}); });
  EXPECT_EQ(slices[0]->label("endpointslice.kubernetes.io/managed-by"), "endpointslicemirroring-controller.k8s.io");
  EXPECT_EQ(slices[0]->label("kubernetes.io/service-name"), "web");
  EXPECT_EQ(slices[0]->label("team"), "a");
  EXPECT_EQ(text(slices[1]->root(), {"addressType"}), "IPv6");
  EXPECT_EQ(number(array(slices[0]->root(), {"ports"})[0].as_object(), {"port"}), 9000);
  const json::array four = array(slices[0]->root(), {"endpoints"});
  ASSERT_EQ(four.size(), 2u);
  EXPECT_EQ(text(four[0].as_object(), "hostname"), "db");
  EXPECT_TRUE(flag(four[0].as_object(), {"conditions", "ready"}));
  EXPECT_FALSE(flag(four[1].as_object(), {"conditions", "ready"}, true));
  api.change(kinds::kEndpoints, "default", "web", [](json::object& o) {
    o["subsets"].as_array()[0].as_object()["addresses"] = json::array{json::object{{"ip", "192.0.2.10"}}};
  });
  loop.advance(1s);
  EXPECT_EQ(api.all(kinds::kEndpointSlices).size(), 1u);
  api.change(kinds::kServices, "default", "web",
             [](json::object& o) { objectAt(o, "spec")["selector"] = json::object{{"app", "web"}}; });
  loop.advance(1s);
  EXPECT_TRUE(api.all(kinds::kEndpointSlices).empty());
}

struct GarbageTest : Base {
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

TEST_F(Base, NamespaceGetsItsAccountAndRootCertificate) {
  api.seed(kinds::kNamespaces, R"({"metadata":{"name":"shop"}})");
  run<ServiceAccountController>(std::string("PEM"));
  EXPECT_NE(api.find(kinds::kServiceAccounts, "shop", "default"), nullptr);
  EXPECT_EQ(text(api.find(kinds::kConfigMaps, "shop", "kube-root-ca.crt")->root(), {"data", "ca.crt"}), "PEM");
  api.drop(kinds::kServiceAccounts, "shop", "default");
  loop.advance(1s);
  EXPECT_NE(api.find(kinds::kServiceAccounts, "shop", "default"), nullptr);
}

TEST_F(Base, NodesGetDistinctRangesAndFreedOnesComeBack) {
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

TEST_F(Base, NodesOfTwoFamiliesHaveTheSameNumberInBothRanges) {
  for (const char* name : {"n1", "n2", "n3"})
    api.seed(kinds::kNodes, {{"metadata", {{"name", name}, {"namespace", ""}}}});
  run<NodeIpamController>(NodeIpamController::Options{{"10.244.0.0/16", "fd00:10:244::/63"}, 24});
  std::set<std::string> ranges;
  for (const char* name : {"n1", "n2", "n3"})
    ranges.insert(join(client::strings(array(api.find(kinds::kNodes, "", name)->root(), {"spec", "podCIDRs"})), " "));
  EXPECT_EQ(ranges, (std::set<std::string>{"", "10.244.0.0/24 fd00:10:244::/64", "10.244.1.0/24 fd00:10:244:1::/64"}))
      << "as many as the smaller range holds";
}

struct NodeRangesTest : Base {
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

TEST_F(Base, LoadBalancersGetDistinctAddressesAndGiveThemBack) {
  auto service = [&](std::string name, std::string type) {
    api.seed(kinds::kServices, {{"metadata", {{"name", name}}}, {"spec", {{"type", type}}}});
  };
  auto address = [&](std::string name) {
    const json::array ingress =
        array(api.find(kinds::kServices, "default", name)->root(), {"status", "loadBalancer", "ingress"});
    return ingress.empty() ? std::string() : std::string(text(ingress[0].as_object(), "ip"));
  };
  service("a", "LoadBalancer");
  service("b", "LoadBalancer");
  service("c", "ClusterIP");
  service("d", "LoadBalancer");
  run<ServiceLoadBalancerController>(std::string("10.89.0.128/30"));
  std::vector<std::string> given{address("a"), address("b"), address("d")};
  EXPECT_THAT(given, UnorderedElementsAre("10.89.0.129", "10.89.0.130", ""));
  EXPECT_EQ(address("c"), "");
  api.drop(kinds::kServices, "default", address("a").empty() ? "b" : "a");
  loop.advance(120s);
  EXPECT_NE(address("d"), "");
}

class PoolTest : public Base {
 protected:
  void service(const std::string& name, json::object spec = {}, json::object annotations = {}) {
    spec["type"] = "LoadBalancer";
    api.seed(kinds::kServices,
             {{"metadata", {{"name", name}, {"annotations", std::move(annotations)}}}, {"spec", std::move(spec)}});
  }
  void pool(const std::string& name, std::vector<std::string> ranges, bool automatic = true) {
    json::array addresses;
    for (auto& range : ranges) addresses.push_back(json::string(range));
    api.seed(kinds::kAddressPools, {{"metadata", {{"name", name}}},
                                    {"spec", {{"addresses", std::move(addresses)}, {"autoAssign", automatic}}}});
    loop.advance(1s);
  }
  std::string address(const std::string& name) {
    std::vector<std::string> out;
    for (auto& ingress :
         array(api.find(kinds::kServices, "default", name)->root(), {"status", "loadBalancer", "ingress"}))
      out.emplace_back(text(ingress.as_object(), "ip"));
    return join(out, " ");
  }
  std::string trouble(const std::string& name) {
    std::string out;
    for (auto& event : api.all(kinds::kEvents)) {
      if (text(event->root(), {"involvedObject", "name"}) == name && text(event->root(), {"type"}) == "Warning")
        out = text(event->root(), {"message"});
    }
    return out;
  }
  // "used free condition"
  std::string state(const std::string& name) {
    auto object = api.find(kinds::kAddressPools, "", name);
    const json::object* ready = condition(object->root(), "Ready");
    return fmt::format("{} {} {}", number(object->root(), {"status", "used"}, -1),
                       number(object->root(), {"status", "free"}, -1), ready ? text(*ready, "reason") : "");
  }
};

TEST_F(PoolTest, TheConfiguredRangeIsAPoolThatFollowsItsOption) {
  run<ServiceLoadBalancerController>(std::string("10.89.0.128/29"));
  service("a");
  loop.advance(1s);
  EXPECT_EQ(address("a"), "10.89.0.129");
  EXPECT_EQ(state("default"), "1 5 AddressesFree");
  EXPECT_EQ(trouble("a"), "");
  runOn(loop, component->stop());
  run<ServiceLoadBalancerController>(std::string("10.89.1.0/30"));
  service("b");
  loop.advance(1s);
  EXPECT_EQ(address("a"), "10.89.0.129") << "it keeps what it has";
  EXPECT_EQ(address("b"), "10.89.1.1");
  EXPECT_EQ(state("default"), "1 1 AddressesFree");
}

TEST_F(PoolTest, ServicesAskForAPoolOrAnAddress) {
  run<ServiceLoadBalancerController>(std::string());
  pool("blue", {"192.0.2.0/30"});
  pool("green", {"198.51.100.10-198.51.100.12", "2001:db8::/126"}, false);
  service("plain");
  service("named", {}, {{"dhow.io/address-pool", "green"}});
  service("exact", {{"loadBalancerIP", "198.51.100.12"}});
  service("taken", {{"loadBalancerIP", "198.51.100.12"}});
  service("outside", {{"loadBalancerIP", "203.0.113.2"}});
  service("nowhere", {}, {{"dhow.io/address-pool", "red"}});
  service("both", {{"ipFamilies", {"IPv4", "IPv6"}}}, {{"dhow.io/address-pool", "green"}});
  loop.advance(1s);
  EXPECT_EQ(address("plain"), "192.0.2.1");
  EXPECT_EQ(address("named"), "198.51.100.10");
  EXPECT_EQ(address("exact"), "198.51.100.12");
  EXPECT_EQ(address("taken"), "");
  EXPECT_EQ(trouble("taken"), "Error syncing load balancer: 198.51.100.12 belongs to the service default/exact");
  EXPECT_EQ(trouble("outside"), "Error syncing load balancer: 203.0.113.2 is in no address pool");
  EXPECT_EQ(trouble("nowhere"), "Error syncing load balancer: the address pool red does not exist");
  EXPECT_EQ(address("both"), "198.51.100.11 2001:db8::");
  pool("red", {"203.0.113.0/30"}, false);
  EXPECT_EQ(address("nowhere"), "203.0.113.1") << "a pool that comes later serves those that waited";
  EXPECT_EQ(address("outside"), "203.0.113.2");
  api.drop(kinds::kServices, "default", "exact");
  loop.advance(1s);
  EXPECT_EQ(address("taken"), "198.51.100.12");
  EXPECT_EQ(state("green"), "4 3 AddressesFree");
}

TEST_F(PoolTest, ASecondFamilyComesAndGoesWithTheService) {
  run<ServiceLoadBalancerController>(std::string("192.0.2.0/29,2001:db8::/126"));
  service("a");
  loop.advance(1s);
  EXPECT_EQ(address("a"), "192.0.2.1");
  auto become = [&](json::array families) {
    api.change(kinds::kServices, "default", "a",
               [&](json::object& o) { objectAt(o, "spec")["ipFamilies"] = families; });
    loop.advance(1s);
    return address("a");
  };
  EXPECT_EQ(become({"IPv4", "IPv6"}), "192.0.2.1 2001:db8::");
  EXPECT_EQ(become({"IPv4"}), "192.0.2.1");
  EXPECT_EQ(state("default"), "1 9 AddressesFree");
}

TEST_F(PoolTest, AnExhaustedPoolSaysSoAndServesAgainWhenAnAddressIsFree) {
  run<ServiceLoadBalancerController>(std::string());
  pool("small", {"192.0.2.7/32"});
  service("a");
  loop.advance(1s);
  service("b");
  loop.advance(1s);
  EXPECT_EQ(address("b"), "");
  EXPECT_EQ(trouble("b"), "Error syncing load balancer: no IPv4 address is left in the address pool small");
  EXPECT_EQ(state("small"), "1 0 Exhausted");
  api.change(kinds::kServices, "default", "a",
             [](json::object& service) { service["spec"].as_object()["type"] = "ClusterIP"; });
  loop.advance(1s);
  EXPECT_EQ(address("a"), "");
  EXPECT_EQ(address("b"), "192.0.2.7");
}

TEST_F(PoolTest, APoolThatOverlapsWithAnOlderOneGivesNothing) {
  run<ServiceLoadBalancerController>(std::string());
  pool("old", {"192.0.2.0/24"});
  pool("late", {"198.51.100.0/24", "192.0.2.200-192.0.3.5"});
  EXPECT_EQ(state("late"), "0 0 Overlaps");
  service("a", {}, {{"dhow.io/address-pool", "late"}});
  loop.advance(1s);
  EXPECT_EQ(trouble("a"),
            "Error syncing load balancer: 192.0.2.200-192.0.3.5 overlaps with the address pool old, which is older");
  api.drop(kinds::kAddressPools, "", "old");
  loop.advance(1s);
  EXPECT_EQ(address("a"), "198.51.100.1");
}

TEST_F(Base, WithoutAPoolABalancedServiceIsToldThatItWaits) {
  api.seed(kinds::kServices, {{"metadata", {{"name", "a"}}}, {"spec", {{"type", "LoadBalancer"}}}});
  api.seed(kinds::kServices, {{"metadata", {{"name", "b"}}},
                              {"spec", {{"type", "LoadBalancer"}}},
                              {"status", {{"loadBalancer", {{"ingress", json::array{{{"ip", "192.0.2.1"}}}}}}}}});
  run<ServiceLoadBalancerController>(std::string());
  loop.advance(10s);
  const auto events = api.all(kinds::kEvents);
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(text(events[0]->root(), {"reason"}), "LoadBalancerPending");
  EXPECT_EQ(text(events[0]->root(), {"involvedObject", "name"}), "a");
  const json::array kept =
      array(api.find(kinds::kServices, "default", "b")->root(), {"status", "loadBalancer", "ingress"});
  EXPECT_EQ(kept.size(), 1u) << "somebody else's address stays";
}

TEST_F(Base, ZonesAreThoseThatNodesName) {
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

TEST_F(Base, BootstrapTokensAreRemovedWhenTheyExpire) {
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

struct NodeTest : Base {
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
    Base::TearDown();
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
  int evicted = 0;
  for (int i = 0; i < 4; ++i) evicted += tainted(fmt::format("n{}", i), "NoExecute");
  EXPECT_LE(evicted, 2);
}

TEST_F(NodeTest, WholeZoneIsEvictedNodeByNode) {
  for (int i = 0; i < 3; ++i) node(fmt::format("n{}", i), "a");
  node("other", "b");
  watch();
  pass(20s);
  for (int i = 0; i < 3; ++i) alive.erase(fmt::format("n{}", i));
  auto evicted = [&] {
    int count = 0;
    for (int i = 0; i < 3; ++i) count += tainted(fmt::format("n{}", i), "NoExecute");
    return count;
  };
  int most = 0, before = 0;
  for (int i = 0; i < 12; ++i) {
    pass(10s);
    most = std::max(most, evicted() - before);
    before = evicted();
  }
  EXPECT_LE(most, 2);
  EXPECT_EQ(evicted(), 3);
}

TEST_F(NodeTest, PodsOfARemovedNodeGo) {
  node("n1", "a");
  api.seed(kinds::kPods, R"({"metadata":{"name":"p"},"spec":{"nodeName":"n1"},"status":{"phase":"Running"}})");
  watch();
  api.drop(kinds::kNodes, "", "n1");
  loop.advance(60s);
  EXPECT_EQ(api.find(kinds::kPods, "default", "p"), nullptr);
}

TEST_F(Base, NewClusterIsGivenItsRegionZonesAndPoolOnce) {
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

TEST_F(Base, OldestFinishedPodsGoBeyondTheLimit) {
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
