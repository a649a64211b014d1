// What a kind is to the API: its group, version, names, scope and behaviour. Built from api/ by the generator; custom
// resources will make the same at run time.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace dhow::object {

// Group, version and plural name, as in a URL. The core group is "".
struct Resource {
  std::string group;
  std::string version;
  std::string plural;
  bool namespaced = true;

  std::string apiVersion() const { return group.empty() ? version : group + "/" + version; }
  bool operator==(const Resource&) const = default;
  auto operator<=>(const Resource&) const = default;
};

namespace resources {
inline const Resource kNamespaces{"", "v1", "namespaces", false};
inline const Resource kNodes{"", "v1", "nodes", false};
inline const Resource kPods{"", "v1", "pods"};
inline const Resource kServices{"", "v1", "services"};
inline const Resource kConfigMaps{"", "v1", "configmaps"};
inline const Resource kSecrets{"", "v1", "secrets"};
inline const Resource kServiceAccounts{"", "v1", "serviceaccounts"};
inline const Resource kEvents{"", "v1", "events"};
inline const Resource kEndpoints{"", "v1", "endpoints"};
inline const Resource kEndpointSlices{"discovery.k8s.io", "v1", "endpointslices"};
inline const Resource kDeployments{"apps", "v1", "deployments"};
inline const Resource kReplicaSets{"apps", "v1", "replicasets"};
inline const Resource kLeases{"coordination.k8s.io", "v1", "leases"};
inline const Resource kRoles{"rbac.authorization.k8s.io", "v1", "roles"};
inline const Resource kRoleBindings{"rbac.authorization.k8s.io", "v1", "rolebindings"};
inline const Resource kClusterRoles{"rbac.authorization.k8s.io", "v1", "clusterroles", false};
inline const Resource kClusterRoleBindings{"rbac.authorization.k8s.io", "v1", "clusterrolebindings", false};
}  // namespace resources

}  // namespace dhow::object
