#include "node_routes.h"

#include <gtest/gtest.h>

#include <boost/json/serialize.hpp>

namespace dhow::node {
namespace {

ObjectPtr node(const std::string& name, const std::string& range, const std::string& address) {
  json::object root{{"kind", "Node"}, {"metadata", json::object{{"name", name}}}};
  if (!range.empty()) root["spec"] = json::object{{"podCIDR", range}};
  root["status"] = json::object{{"addresses", json::array{json::object{{"type", "InternalIP"}, {"address", address}}}}};
  return *Object::parse(json::serialize(root));
}

TEST(NodeRoutes, LeadToOtherNodes) {
  auto routes = nodeRoutes({node("n1", "10.244.0.0/24", "10.0.1.1"), node("n2", "10.244.1.0/24", "10.0.1.2"),
                            node("n3", "10.244.2.0/24", "10.0.2.2"), node("n4", "", "10.0.2.3")},
                           "n1", "10.0.1.0/24", "");
  ASSERT_EQ(routes.size(), 2u);
  EXPECT_TRUE(routes[0].onSegment);
  EXPECT_FALSE(routes[1].onSegment);
  EXPECT_TRUE(routes[0].podRange6.address.empty());
}

TEST(NodeRoutes, LeadToTheSecondFamilyDirectlyOrByTheTunnel) {
  auto both = [](const std::string& name, const std::string& range, const std::string& range6,
                 const std::string& address, const std::string& address6) {
    json::object root = node(name, range, address)->root();
    root["spec"].as_object()["podCIDRs"] = json::array{json::value(range), json::value(range6)};
    client::arrayAt(root["status"].as_object(), "addresses")
        .push_back(json::object{{"type", "InternalIP"}, {"address", address6}});
    return *Object::parse(json::serialize(root));
  };
  auto routes = nodeRoutes({both("near", "10.244.1.0/24", "fd00:10:244:1::/64", "10.0.1.2", "2001:db8:1::2"),
                            both("far", "10.244.2.0/24", "fd00:10:244:2::/64", "10.0.2.2", "2001:db8:2::2")},
                           "n1", "10.0.1.0/24", "2001:db8:1::/64");
  ASSERT_EQ(routes.size(), 2u);
  EXPECT_EQ(routes[0].podRange6.str(), "fd00:10:244:1::/64");
  EXPECT_EQ(routes[0].nodeAddress6.str(), "2001:db8:1::2");
  EXPECT_EQ(routes[1].podRange6.str(), "fd00:10:244:2::/64");
  EXPECT_TRUE(routes[1].nodeAddress6.empty()) << "by the tunnel";
  const std::string text = routesText(routes);
  auto again = parseRoutes(text);
  ASSERT_EQ(again.size(), 2u);
  EXPECT_EQ(again[0].nodeAddress6, routes[0].nodeAddress6);
  EXPECT_EQ(routesText(again), text);
}

TEST(NodeRoutes, OfIpv6AloneLeadDirectlyOrByATunnelOfIpv6) {
  auto routes = nodeRoutes({node("near", "fd00:10:244:1::/64", "2001:db8:1::2"),
                            node("far", "fd00:10:244:2::/64", "2001:db8:2::2"), node("none", "fd00:10:244:3::/64", "")},
                           "n1", "10.0.1.0/24", "2001:db8:1::/64");
  ASSERT_EQ(routes.size(), 2u);
  EXPECT_EQ(routes[0].podRange.str(), "fd00:10:244:1::/64");
  EXPECT_TRUE(routes[0].onSegment && routes[0].podRange6.address.empty());
  EXPECT_EQ(routes[0].nodeAddress.str(), "2001:db8:1::2");
  EXPECT_FALSE(routes[1].onSegment);
  EXPECT_EQ(routes[1].nodeAddress.str(), "2001:db8:2::2");
  const std::string text = routesText(routes);
  EXPECT_EQ(text, "fd00:10:244:1::/64 2001:db8:1::2 segment\nfd00:10:244:2::/64 2001:db8:2::2 away\n");
  EXPECT_EQ(routesText(parseRoutes(text)), text);
}

TEST(NodeRoutes, OfIpv6FirstLeadDirectlyByBothFamiliesOrByATunnelOfIpv6) {
  auto both = [](int number, const std::string& six, const std::string& four) {
    const auto range6 = fmt::format("fd00:10:244:{}::/64", number);
    json::object root = node(fmt::format("n{}", number), range6, six)->root();
    root["spec"].as_object()["podCIDRs"] =
        json::array{json::value(range6), json::value(fmt::format("10.244.{}.0/24", number))};
    if (!four.empty())
      client::arrayAt(root["status"].as_object(), "addresses")
          .push_back(json::object{{"type", "InternalIP"}, {"address", four}});
    return *Object::parse(json::serialize(root));
  };
  const std::vector<ObjectPtr> nodes = {both(2, "2001:db8:1::2", "10.0.1.2"), both(3, "2001:db8:2::2", "10.0.2.2"),
                                        both(4, "2001:db8:1::4", ""), both(5, "2001:db8:3::2", "10.0.1.5")};
  for (const std::string segment : {"10.0.1.0/24", ""}) {
    const auto routes = nodeRoutes(nodes, "n1", segment, "2001:db8:1::/64");
    ASSERT_EQ(routes.size(), 4u);
    for (const NodeRoute& route : routes) {
      const bool direct = &route == &routes[0] && !segment.empty();
      EXPECT_EQ(route.onSegment, direct);
      EXPECT_EQ(route.nodeAddress.isV4(), direct) << route.nodeAddress.str();
      EXPECT_TRUE(route.podRange.address.isV4() && route.podRange6.address.isV6());
    }
    EXPECT_EQ(routes[0].nodeAddress6.str(), "2001:db8:1::2");
    EXPECT_TRUE(routes[1].nodeAddress6.empty());
  }
}

TEST(NodeRoutes, ComeBackFromDisk) {
  const std::string text = "10.244.1.0/24 10.0.1.2 segment\n10.244.2.0/24 10.0.2.2 away\n";
  auto routes = parseRoutes(text);
  ASSERT_EQ(routes.size(), 2u);
  EXPECT_EQ(routes[1].nodeAddress.str(), "10.0.2.2");
  EXPECT_EQ(routesText(routes), text);
}

TEST(NodeRoutes, OfAFileThatWasCutShortAreThoseThatCanBeRead) {
  EXPECT_EQ(parseRoutes("10.244.1.0/24 10.0.1.2 segment\n10.244.2.0/24 10.0.").size(), 1u);
  EXPECT_TRUE(
      parseRoutes("x\n\n10.244.1.0/33 10.0.1.2 away\n10.244.1.0/24 a away\n10.244.1.0/24 10.0.1.2 b\n").empty());
}

}  // namespace
}  // namespace dhow::node
