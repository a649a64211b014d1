// The ways to the pods of the other nodes. Kept on disk as last seen, so that an agent that starts, on a node that has
// booted as well, leads there before a master tells it.
#pragma once

#include <string>
#include <vector>

#include "json.h"
#include "network/bridge_network.h"

namespace dhow::node {

// `segment`: nodes inside it are reached directly; empty: all. By IPv6 those in `segment6` are; others by the tunnel,
// which has the first family outside: that of a node's first address.
std::vector<NodeRoute> nodeRoutes(const std::vector<ObjectPtr>& nodes, const std::string& self,
                                  const std::string& segment, const std::string& segment6);
// A node's range of pod addresses of that family (spec.podCIDRs); empty when it has none.
std::string podRange(const Object& node, IpFamily family);

// "10.244.1.0/24 10.0.1.2 segment" a line, or of IPv6 where that is all; and behind it, where pods have two families,
// "10.244.1.0/24 fd00:10:244:1::/64 2001:db8::2 ipv6", or "tunnel" for the address. What cannot be read is left out.
std::string routesText(const std::vector<NodeRoute>& routes);
std::vector<NodeRoute> parseRoutes(const std::string& text);

}  // namespace dhow::node
