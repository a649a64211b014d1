#include "gateway_world.h"

#include <algorithm>

#include "base/strings.h"
#include "client/fields.h"
#include "object/resource_names.h"

namespace dhow::ingress {

namespace resources = object::resources;
using client::text;

namespace {

const std::pair<RouteKind, const client::Resource&> kRoutes[] = {{RouteKind::kHttp, resources::kHTTPRoutes},
                                                                 {RouteKind::kGrpc, resources::kGRPCRoutes},
                                                                 {RouteKind::kTls, resources::kTLSRoutes},
                                                                 {RouteKind::kTcp, resources::kTCPRoutes}};

void addNames(std::set<NamedObjects::Name>& names, const char* plural, const std::set<std::string>& keys) {
  for (const std::string& key : keys)
    if (auto parts = splitOnce(key, '/')) names.insert({plural, std::string(parts->first), std::string(parts->second)});
}

}  // namespace

GatewayWorld::GatewayWorld(client::Caches& caches, std::function<void()> changed)
    : caches_(caches), gateways_(caches.of(resources::kGateways)), changed_(std::move(changed)) {}

void GatewayWorld::subscribe() {
  subscriptions_.push_back(gateways_.subscribe([this](const auto&, const auto&) {
    open();
    changed_();
  }));
}

void GatewayWorld::open() {
  if (!others_.empty()) return;
  std::vector<client::Resource> all{resources::kGatewayClasses, resources::kReferenceGrants,
                                    resources::kBackendTLSPolicies, resources::kNamespaces};
  for (const auto& [kind, resource] : kRoutes) all.push_back(resource);
  for (const client::Resource& resource : all) others_[resource] = &caches_.of(resource);
  for (auto& [resource, cache] : others_)
    subscriptions_.push_back(cache->subscribe([this, cache](const ObjectPtr& before, const ObjectPtr& after) {
      // Of namespaces only labels count.
      if (cache == others_[resources::kNamespaces] && before && after &&
          client::object(before->root(), {"metadata", "labels"}) ==
              client::object(after->root(), {"metadata", "labels"}))
        return;
      changed_();
    }));
}

bool GatewayWorld::synced() const {
  return gateways_.synced() &&
         std::all_of(others_.begin(), others_.end(), [](const auto& one) { return one.second->synced(); });
}

GatewayDocuments GatewayWorld::documents(std::set<NamedObjects::Name>& names) const {
  GatewayDocuments out;
  if (others_.empty()) return out;
  for (const ObjectPtr& gateway : gateways_.list()) {
    ObjectPtr found = cacheOf(resources::kGatewayClasses).get("", text(gateway->root(), {"spec", "gatewayClassName"}));
    if (!gateway->deleting() && found && text(found->root(), {"spec", "controllerName"}) == kGatewayController)
      out.gateways.push_back(gateway);
  }
  if (out.gateways.empty()) return out;
  for (const auto& [kind, resource] : kRoutes)
    for (const ObjectPtr& route : cacheOf(resource).list())
      if (!route->deleting()) out.routes.push_back({kind, route});
  out.grants = cacheOf(resources::kReferenceGrants).list();
  out.backendTlsPolicies = cacheOf(resources::kBackendTLSPolicies).list();
  client::Cache& namespaces = cacheOf(resources::kNamespaces);
  out.ns = [&namespaces](std::string_view name) { return namespaces.get("", name); };
  for (const ObjectPtr& gateway : out.gateways) {
    addNames(names, "secrets", gatewaySecrets(*gateway, out.grants));
    addNames(names, "configmaps", gatewayConfigMaps(*gateway, out.grants));
  }
  for (const ObjectPtr& policy : out.backendTlsPolicies) addNames(names, "configmaps", policyConfigMaps(*policy));
  return out;
}

}  // namespace dhow::ingress
