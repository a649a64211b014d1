// From a Service and its EndpointSlices to what the network floor balances. Nodes and the region's load balancer both
// read services through this.
#pragma once

#include <string>
#include <vector>

#include "network/service_proxy.h"
#include "object/object.h"

namespace dhow::node {

struct ServiceView {
  std::string node, zone;
  std::vector<IpAddress> dnsAddresses;  // answered by this node itself, never forwarded
};
// The service's ports with the endpoints that may get connections from this node now.
std::vector<ServicePort> servicePorts(const object::Object& service, const std::vector<object::ObjectPtr>& slices,
                                      const ServiceView& view);

}  // namespace dhow::node
