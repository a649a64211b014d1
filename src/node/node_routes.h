// The ways to the pods of the other nodes. Kept on disk as last seen, so that an agent that starts, on a node that has
// booted as well, leads there before a master tells it.
#pragma once

#include <string>
#include <vector>

#include "json.h"
#include "network/bridge_network.h"

namespace dhow::node {

// `segment`: nodes inside it are reached directly; empty: all.
std::vector<NodeRoute> nodeRoutes(const std::vector<ObjectPtr>& nodes, const std::string& self,
                                  const std::string& segment);

// "10.244.1.0/24 10.0.1.2 segment" a line; what cannot be read is left out.
std::string routesText(const std::vector<NodeRoute>& routes);
std::vector<NodeRoute> parseRoutes(const std::string& text);

}  // namespace dhow::node
