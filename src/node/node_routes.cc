#include "node_routes.h"

#include "base/strings.h"

namespace dhow::node {

namespace {

constexpr std::string_view kOnSegment = "segment", kAway = "away", kTunnel = "tunnel", kIpv6 = "ipv6";

}  // namespace

std::string podRange(const Object& node, IpFamily family) {
  std::vector<std::string> ranges = strings(array(node.root(), {"spec", "podCIDRs"}));
  ranges.emplace_back(text(node.root(), {"spec", "podCIDR"}));
  for (const std::string& range : ranges) {
    auto parsed = IpPrefix::parse(range);
    if (parsed.ok() && parsed->address.is(family)) return range;
  }
  return "";
}

std::vector<NodeRoute> nodeRoutes(const std::vector<ObjectPtr>& nodes, const std::string& self,
                                  const std::string& segment, const std::string& segment6) {
  std::vector<NodeRoute> out;
  auto here = IpPrefix::parse(segment), here6 = IpPrefix::parse(segment6);
  for (const ObjectPtr& node : nodes) {
    if (node->name() == self) continue;
    NodeRoute route;
    route.podRange = IpPrefix::parse(podRange(*node, IpFamily::kV4)).valueOr(IpPrefix());
    route.podRange6 = IpPrefix::parse(podRange(*node, IpFamily::kV6)).valueOr(IpPrefix());
    IpAddress first, four;
    for (const json::value& entry : array(node->root(), {"status", "addresses"})) {
      if (!entry.is_object() || text(entry.get_object(), "type") != "InternalIP") continue;
      auto address = IpAddress::parse(text(entry.get_object(), "address"));
      if (!address.ok()) continue;
      if (first.empty()) first = *address;
      if (address->isV4() && four.empty()) four = *address;
      if (address->isV6() && here6.ok() && here6->contains(*address)) route.nodeAddress6 = *address;
    }
    if (first.isV4()) {
      route.nodeAddress = first;
      route.onSegment = !here.ok() || here->contains(first);
    } else if (route.podRange.address.empty()) {
      route.podRange = std::exchange(route.podRange6, {});
      route.onSegment = !route.nodeAddress6.empty();
      route.nodeAddress = route.onSegment ? std::exchange(route.nodeAddress6, {}) : first;
    } else {
      // Directly by both families or by none: the tunnel has IPv6 outside, to every node of such a cluster.
      route.onSegment = !route.nodeAddress6.empty() && here.ok() && here->contains(four);
      route.nodeAddress = route.onSegment ? four : first;
    }
    if (!route.podRange.address.empty() && !route.nodeAddress.empty()) out.push_back(std::move(route));
  }
  return out;
}

std::string routesText(const std::vector<NodeRoute>& routes) {
  std::string text;
  for (const NodeRoute& route : routes) {
    const std::string range = route.podRange.str();
    text += fmt::format("{} {} {}\n", range, route.nodeAddress.str(), route.onSegment ? kOnSegment : kAway);
    if (route.podRange6.address.empty()) continue;
    text += fmt::format("{} {} {} {}\n", range, route.podRange6.str(),
                        route.nodeAddress6.empty() ? std::string(kTunnel) : route.nodeAddress6.str(), kIpv6);
  }
  return text;
}

std::vector<NodeRoute> parseRoutes(const std::string& text) {
  std::vector<NodeRoute> out;
  for (const auto& line : split(text, '\n')) {
    const auto words = split(line, ' ');
    if (words.size() < 3) continue;
    auto range = IpPrefix::parse(words[0]);
    if (!range.ok()) continue;
    if (words.size() == 4 && words[3] == kIpv6) {
      auto range6 = IpPrefix::parse(words[1]);
      auto address6 = words[2] == kTunnel ? Result<IpAddress>(IpAddress()) : IpAddress::parse(words[2]);
      if (!range6.ok() || !address6.ok() || out.empty() || out.back().podRange != *range) continue;
      out.back().podRange6 = *range6;
      out.back().nodeAddress6 = *address6;
      continue;
    }
    auto address = IpAddress::parse(words[1]);
    if (words.size() != 3 || (words[2] != kOnSegment && words[2] != kAway) || !address.ok()) continue;
    out.push_back({.podRange = *range, .nodeAddress = *address, .onSegment = words[2] == kOnSegment});
  }
  return out;
}

}  // namespace dhow::node
