#include <gmock/gmock.h>

#include "base/strings.h"
#include "component_fixture.h"
#include "service_lb.h"
#include "workload.h"

namespace dhow::controllers {
namespace {

using namespace std::chrono_literals;
using namespace client;
namespace kinds = object::resources;
using testing::UnorderedElementsAre;

TEST_F(ComponentTest, LoadBalancersGetDistinctAddressesAndGiveThemBack) {
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

class PoolTest : public ComponentTest {
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

TEST_F(ComponentTest, WithoutAPoolABalancedServiceIsToldThatItWaits) {
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

}  // namespace
}  // namespace dhow::controllers
