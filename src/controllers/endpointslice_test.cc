#include <gmock/gmock.h>

#include "base/strings.h"
#include "client/node_lease.h"
#include "component_fixture.h"
#include "endpoints_mirror.h"
#include "endpointslice.h"
#include "workload.h"

namespace dhow::controllers {
namespace {

using namespace std::chrono_literals;
using namespace client;
namespace kinds = object::resources;

struct EndpointsTest : ComponentTest {
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

}  // namespace
}  // namespace dhow::controllers
