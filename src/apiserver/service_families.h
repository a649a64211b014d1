// Which IP families a service has, by its ipFamilyPolicy, ipFamilies and clusterIPs and by what the cluster serves.
// Pure. Semantics and texts: Kubernetes' KEP-563 (dual stack).
#pragma once

#include <boost/json/object.hpp>

#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace dhow::apiserver {

namespace json = boost::json;

inline constexpr std::string_view kIpv4 = "IPv4", kIpv6 = "IPv6";
inline std::string_view familyOf(std::string_view address) {
  return address.find(':') == std::string_view::npos ? kIpv4 : kIpv6;
}

// Brings clusterIP and clusterIPs into line for clients that know only one of the two. `before`: the spec that is
// replaced, or null for a new service.
void alignClusterIps(json::object& spec, const json::object* before);

// Settles ipFamilyPolicy and ipFamilies, and takes away the secondary address of a service that becomes SingleStack.
// `served`: the cluster's families, the default first. What is wrong is returned; then the spec is of no use.
std::vector<ErrorCause> settleFamilies(json::object& spec, const json::object* before,
                                       const std::vector<std::string_view>& served);

// What a change of a service may not do: another primary address or family, or letting go of the secondary one without
// saying so.
std::vector<ErrorCause> checkFamilyChange(const json::object& spec, const json::object& before);

}  // namespace dhow::apiserver
