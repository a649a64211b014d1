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
                           "n1", "10.0.1.0/24");
  ASSERT_EQ(routes.size(), 2u);
  EXPECT_TRUE(routes[0].onSegment);
  EXPECT_FALSE(routes[1].onSegment);
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
