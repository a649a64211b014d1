#include "gateway.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/strings.h"
#include "client/fake_client.h"
#include "client/fields.h"
#include "client/node_lease.h"
#include "object/resource_names.h"

namespace dhow::controllers {
namespace {

using namespace std::chrono_literals;
using namespace client;
namespace kinds = object::resources;
using testing::ElementsAre;
using testing::Pair;

struct GatewayTest : testing::Test {
  void SetUp() override {
    api.seed(
        kinds::kGatewayClasses,
        R"({"metadata":{"name":"dhow","namespace":"","generation":1},"spec":{"controllerName":"dhow.io/gateway"}})");
    api.seed(
        kinds::kNodes,
        fmt::format(
            R"({{"metadata":{{"name":"n1","namespace":""}},"status":{{"addresses":[{{"type":"InternalIP","address":"10.0.0.5"}}],
        "conditions":[{{"type":"Ready","status":"True"}},{{"type":"{}","status":"True"}}]}}}})",
            kServesIngress));
    component = std::make_unique<GatewayController>(Context{loop, api, api});
    component->start();
  }
  void TearDown() override { runOn(loop, component->stop()); }

  void gateway(std::string name, std::string listeners, std::string gatewayClass = "dhow") {
    api.seed(
        kinds::kGateways,
        fmt::format(
            R"({{"metadata":{{"name":"{}","namespace":"default","generation":3}},"spec":{{"gatewayClassName":"{}","listeners":[{}]}}}})",
            name, gatewayClass, listeners));
    loop.advance(1s);
  }
  ObjectPtr serviceOf(std::string name) {
    return api.find(kinds::kServices, "kube-system",
                    ingress::gatewayService(*api.find(kinds::kGateways, "default", name)));
  }
  std::map<uint16_t, uint16_t> ports(std::string name) { return ingress::nodePortsOf(*serviceOf(std::move(name))); }
  void giveAddress(std::string name, std::string ip) {
    api.change(kinds::kServices, "kube-system", serviceOf(std::move(name))->name(), [&](json::object& o) {
      o["status"] = json::object{{"loadBalancer", {{"ingress", json::array{{{"ip", ip}}}}}}};
    });
    loop.advance(1s);
  }
  std::string condition(const json::object& holder, std::string_view type) {
    for (const auto& one : array(holder, {"conditions"}))
      if (text(one.as_object(), "type") == type)
        return fmt::format("{} {}", std::string(text(one.as_object(), "status")),
                           std::string(text(one.as_object(), "reason")));
    return "";
  }
  json::object status(const Resource& kind, std::string name) {
    return client::object(api.find(kind, kind.namespaced ? "default" : "", name)->root(), {"status"});
  }

  SimLoop loop;
  FakeClient api{loop};
  std::unique_ptr<GatewayController> component;
};

const std::string kWeb = R"({"name":"web","port":80,"protocol":"HTTP"})";

TEST_F(GatewayTest, AServiceLeadsToPortsOfTheNodesThatNoOtherGatewayHas) {
  gateway("one", kWeb + R"(,{"name":"more","port":8080,"protocol":"HTTP"})");
  gateway("two", kWeb);
  gateway("others", kWeb, "nginx");
  EXPECT_THAT(ports("one"), ElementsAre(Pair(80, 28000), Pair(8080, 28001)));
  EXPECT_THAT(ports("two"), ElementsAre(Pair(80, 28002)));
  EXPECT_EQ(serviceOf("others"), nullptr);
  auto slice = api.find(kinds::kEndpointSlices, "kube-system", serviceOf("two")->name());
  ASSERT_NE(slice, nullptr);
  EXPECT_EQ(number(array(slice->root(), {"ports"})[0].as_object(), {"port"}), 28002);
  EXPECT_EQ(array(slice->root(), {"endpoints"}).size(), 1u);
  // What is there keeps its port, whoever leads; what goes gives its own back.
  api.change(kinds::kGateways, "default", "one", [](json::object& o) {
    array(o, {"spec", "listeners"});
    o["spec"].as_object()["listeners"].as_array().erase(o["spec"].as_object()["listeners"].as_array().begin());
  });
  runOn(loop, component->stop());
  component = std::make_unique<GatewayController>(Context{loop, api, api});
  component->start();
  loop.advance(1s);
  EXPECT_THAT(ports("one"), ElementsAre(Pair(8080, 28001)));
  const std::string gone(serviceOf("one")->name());
  api.drop(kinds::kGateways, "default", "one");
  loop.advance(1s);
  EXPECT_EQ(api.find(kinds::kServices, "kube-system", gone), nullptr);
  EXPECT_EQ(api.find(kinds::kEndpointSlices, "kube-system", gone), nullptr);
  EXPECT_THAT(ports("two"), ElementsAre(Pair(80, 28002)));
}

TEST_F(GatewayTest, IPv6ComesAndGoesWithTheService) {
  gateway("g", kWeb);
  const std::string name(serviceOf("g")->name());
  EXPECT_EQ(text(serviceOf("g")->root(), {"spec", "ipFamilyPolicy"}), "PreferDualStack");
  auto addresses = [&](const std::string& slice) {
    std::vector<std::string> out;
    if (auto found = api.find(kinds::kEndpointSlices, "kube-system", slice))
      for (const auto& one : array(found->root(), {"endpoints"}))
        for (std::string& address : strings(array(one.as_object(), {"addresses"}))) out.push_back(std::move(address));
    return out;
  };
  auto families = [&](json::array now) {
    api.change(kinds::kServices, "kube-system", name,
               [&](json::object& o) { o["spec"].as_object()["ipFamilies"] = std::move(now); });
    loop.advance(1s);
  };
  families({"IPv4"});
  EXPECT_EQ(api.find(kinds::kEndpointSlices, "kube-system", name + "-ipv6"), nullptr);
  families({"IPv4", "IPv6"});
  auto six = api.find(kinds::kEndpointSlices, "kube-system", name + "-ipv6");
  ASSERT_NE(six, nullptr);
  EXPECT_EQ(text(six->root(), {"addressType"}), "IPv6");
  EXPECT_THAT(addresses(name + "-ipv6"), testing::IsEmpty());
  api.change(kinds::kNodes, "", "n1", [](json::object& o) {
    o["status"].as_object()["addresses"].as_array().push_back({{"type", "InternalIP"}, {"address", "fd00::5"}});
  });
  loop.advance(1s);
  EXPECT_THAT(addresses(name + "-ipv6"), ElementsAre("fd00::5"));
  EXPECT_THAT(addresses(name), ElementsAre("10.0.0.5"));
  api.clearActions();
  loop.advance(10s);
  EXPECT_THAT(api.actionNames(), testing::IsEmpty());
  families({"IPv4"});
  EXPECT_EQ(api.find(kinds::kEndpointSlices, "kube-system", name + "-ipv6"), nullptr);
  // A service that was made before there were two families gets the second one.
  api.change(kinds::kServices, "kube-system", name,
             [](json::object& o) { o["spec"].as_object()["ipFamilyPolicy"] = "SingleStack"; });
  loop.advance(1s);
  EXPECT_EQ(text(serviceOf("g")->root(), {"spec", "ipFamilyPolicy"}), "PreferDualStack");
}

TEST_F(GatewayTest, TheStatusSaysHowFarItIs) {
  gateway("g", kWeb + R"(,{"name":"udp","port":53,"protocol":"UDP"})");
  EXPECT_EQ(condition(status(kinds::kGatewayClasses, "dhow"), "Accepted"), "True Accepted");
  EXPECT_EQ(condition(status(kinds::kGateways, "g"), "Accepted"), "True ListenersNotValid");
  EXPECT_EQ(condition(status(kinds::kGateways, "g"), "Programmed"), "False AddressNotAssigned");
  giveAddress("g", "192.0.2.9");
  const json::object after = status(kinds::kGateways, "g");
  EXPECT_EQ(condition(after, "Programmed"), "True Programmed");
  EXPECT_EQ(text(array(after, {"addresses"})[0].as_object(), "value"), "192.0.2.9");
  EXPECT_EQ(condition(array(after, {"listeners"})[0].as_object(), "Programmed"), "True Programmed");
  EXPECT_EQ(condition(array(after, {"listeners"})[1].as_object(), "Accepted"), "False UnsupportedProtocol");
  EXPECT_EQ(condition(array(after, {"listeners"})[1].as_object(), "Programmed"), "False Invalid");
  EXPECT_EQ(number(array(after, {"conditions"})[0].as_object(), {"observedGeneration"}), 3);
}

TEST_F(GatewayTest, AGatewayForWhichNoPortIsLeftSaysSo) {
  for (int i = 0; i < 32; ++i) {
    std::string listeners;
    for (int port = 1; port <= 64; ++port)
      listeners += fmt::format(R"({}{{"name":"l{}","port":{},"protocol":"HTTP"}})", port > 1 ? "," : "", port, port);
    gateway(fmt::format("g{:02}", i), listeners);
  }
  gateway("late", kWeb);
  EXPECT_EQ(ports("g00").size(), 64u);
  EXPECT_EQ(condition(status(kinds::kGateways, "late"), "Programmed"), "False NoResources");
  EXPECT_EQ(condition(status(kinds::kGateways, "late"), "Accepted"), "True Accepted");
  api.drop(kinds::kGateways, "default", "g00");
  loop.advance(1s);
  giveAddress("late", "192.0.2.9");
  EXPECT_EQ(condition(status(kinds::kGateways, "late"), "Programmed"), "True Programmed");
}

TEST_F(GatewayTest, ARoutesStatusIsOursWhereItsParentIs) {
  gateway("g", kWeb);
  api.seed(
      kinds::kHTTPRoutes,
      R"({"metadata":{"name":"r","namespace":"default"},"spec":{"parentRefs":[{"name":"g"},{"name":"other"}],"rules":[{"backendRefs":[{"name":"web","port":80}]}]},
               "status":{"parents":[{"parentRef":{"name":"other"},"controllerName":"example.com/x","conditions":[]}]}})");
  loop.advance(1s);
  auto parents = [&] { return array(api.find(kinds::kHTTPRoutes, "default", "r")->root(), {"status", "parents"}); };
  ASSERT_EQ(parents().size(), 2u);
  const json::object ours = parents()[1].as_object();
  EXPECT_EQ(condition(ours, "Accepted"), "True Accepted");
  EXPECT_EQ(condition(ours, "ResolvedRefs"), "False BackendNotFound");
  api.seed(kinds::kServices, R"({"metadata":{"name":"web","namespace":"default"},"spec":{"ports":[{"port":80}]}})");
  loop.advance(1s);
  EXPECT_EQ(condition(parents()[1].as_object(), "ResolvedRefs"), "True ResolvedRefs");
  // Settled: nothing is written again.
  api.clearActions();
  loop.advance(10s);
  EXPECT_THAT(api.actionNames(), testing::IsEmpty());
  api.drop(kinds::kGateways, "default", "g");
  loop.advance(1s);
  ASSERT_EQ(parents().size(), 1u);
  EXPECT_EQ(text(parents()[0].as_object(), "controllerName"), "example.com/x");
}

}  // namespace
}  // namespace dhow::controllers
