#include "node_routes.h"

#include "base/strings.h"

namespace dhow::node {

namespace {

constexpr std::string_view kOnSegment = "segment", kAway = "away";

}  // namespace

std::vector<NodeRoute> nodeRoutes(const std::vector<ObjectPtr>& nodes, const std::string& self,
                                  const std::string& segment) {
  std::vector<NodeRoute> out;
  auto here = IpPrefix::parse(segment);
  for (const ObjectPtr& node : nodes) {
    if (node->name() == self) continue;
    auto range = IpPrefix::parse(text(node->root(), {"spec", "podCIDR"}));
    if (!range.ok()) continue;
    for (const json::value& entry : array(node->root(), {"status", "addresses"})) {
      if (!entry.is_object() || text(entry.get_object(), "type") != "InternalIP") continue;
      auto address = IpAddress::parse(text(entry.get_object(), "address"));
      if (!address.ok()) continue;
      NodeRoute route;
      route.podRange = *range;
      route.nodeAddress = *address;
      route.onSegment = !here.ok() || here->contains(*address);
      out.push_back(std::move(route));
      break;
    }
  }
  return out;
}

std::string routesText(const std::vector<NodeRoute>& routes) {
  std::string text;
  for (const NodeRoute& route : routes)
    text +=
        fmt::format("{} {} {}\n", route.podRange.str(), route.nodeAddress.str(), route.onSegment ? kOnSegment : kAway);
  return text;
}

std::vector<NodeRoute> parseRoutes(const std::string& text) {
  std::vector<NodeRoute> out;
  for (const auto& line : split(text, '\n')) {
    const auto words = split(line, ' ');
    if (words.size() != 3 || (words[2] != kOnSegment && words[2] != kAway)) continue;
    auto range = IpPrefix::parse(words[0]);
    auto address = IpAddress::parse(words[1]);
    if (!range.ok() || !address.ok()) continue;
    out.push_back({.podRange = *range, .nodeAddress = *address, .onSegment = words[2] == kOnSegment});
  }
  return out;
}

}  // namespace dhow::node
