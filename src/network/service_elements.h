// What a ServicePort becomes in the table's maps. Private to the service proxy.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "network/service_proxy.h"
#include "nft.h"

namespace dhow::services {

// Frontend -> how its endpoint is picked (a picker's class), for packets from anywhere and from inside the cluster.
// Plain data: the kernel walks a whole verdict map again at each change of it.
inline constexpr const char* kFrontends = "services";
inline constexpr const char* kFrontendsInside = "services-inside";
inline constexpr const char* kNodePorts = "nodeports";
inline constexpr const char* kNodePortsInside = "nodeports-inside";
// Class -> the picker's chain.
inline constexpr const char* kClasses = "classes";
// Frontends that cannot be served: told so, or dropped.
inline constexpr const char* kRefused = "refused";
inline constexpr const char* kRefusedNodePorts = "refused-nodeports";
inline constexpr const char* kDropped = "dropped";
inline constexpr const char* kDroppedNodePorts = "dropped-nodeports";
// Frontend and number -> endpoint. A node port's frontend has the unspecified address.
inline constexpr const char* kEndpoints = "endpoints";
// Client and frontend -> endpoint, filled by packets; frontend and endpoint pairs that may be in it.
inline constexpr const char* kAffinity = "affinity";
inline constexpr const char* kMembers = "members";
// Local endpoints, which may call themselves through a service.
inline constexpr const char* kHairpin = "hairpin";
// loadBalancerSourceRanges: frontends that have some, and who may come.
inline constexpr const char* kRestricted = "restricted";
inline constexpr const char* kAllowed = "allowed";

inline constexpr const char* kReject = "reject";

// Address (empty for a node port), protocol, port.
struct Frontend {
  IpAddress address;
  Protocol protocol = Protocol::kTcp;
  uint16_t port = 0;
  auto operator<=>(const Frontend&) const = default;
};
std::vector<Frontend> frontendsOf(const ServicePort& port);
// What of the port one family's table holds; nothing when the service is not of that family.
std::optional<ServicePort> ofFamily(const ServicePort& port, IpFamily family);

// How an endpoint is picked; one chain for each way in use, shared by all frontends.
struct Picker {
  bool nodePort = false;
  bool inside = false;      // numbers of the list for packets from inside
  bool keepSource = false;  // never masquerade
  uint32_t count = 0;
  uint32_t affinitySeconds = 0;
  std::string chain() const;
  NftKey key() const;  // its class: two numbers
  auto operator<=>(const Picker&) const = default;
};
std::vector<NftRule> rulesOf(const Picker& picker, IpFamily family);

struct Element {
  const char* set = nullptr;
  NftBatch::Element element;
};
struct Contribution {
  std::vector<Element> elements;
  std::set<Picker> pickers;
};
// What `port` puts into the maps for one frontend that it holds.
void contributeFrontend(const ServicePort& port, const Frontend& frontend, IpFamily family, Contribution& out);

// The endpoints in an order that keeps those of `before` where they were as far as possible.
std::vector<ServiceEndpoint> keepOrder(const std::vector<ServiceEndpoint>& before,
                                       const std::vector<ServiceEndpoint>& now);

// The fixed part of the table: sets, hooks and their rules.
void buildSkeleton(NftBatch& batch, const ServiceProxyOptions& options);  // of the batch's family

// A connection as connection tracking knows it: whom it was opened to, and who answers.
struct Flow {
  Protocol protocol = Protocol::kUdp;
  IpAddress destination;
  uint16_t port = 0;
  IpAddress answeredBy;
  uint16_t answeringPort = 0;
};
// Which ones are looked at. Empty and 0: any.
struct FlowFilter {
  Protocol protocol = Protocol::kUdp;
  IpAddress destination;
  uint16_t port = 0;
};
// Forgets those that are `stale`; gives how many.
Result<size_t> forgetFlows(NetlinkSocket& socket, IpFamily family, const FlowFilter& filter,
                           const std::function<bool(const Flow&)>& stale);

}  // namespace dhow::services
