// What a host that joins is told, and who may read it. Kept in the API under kubeadm's names where it has some:
//
//   kube-public/cluster-info   `kubeconfig` with the cluster's address and authority; anybody may read it, and nobody
//                              believes it before the authority's pin was compared
//   kube-system/dhow-certs     the masters' keys, sealed (master_keys.h); for tokens of masters
//   kube-system/dhow-config    names, ranges and store; for bootstrap tokens and nodes
//
// Bootstrap tokens may also look at a node (whether its name is taken).
#pragma once

#include <string>
#include <string_view>

#include "client/client.h"

namespace dhow::host {

struct ClusterInfo {
  std::string cluster, region;
  std::string podRange, serviceRange, domain;
  std::string podRange6, serviceRange6;  // of IPv6; those of one family may be empty
  bool ipv6First = false;
  std::string authorityPem;
  std::string server;         // "https://10.0.0.1:6443": one of the masters
  bool memberOnEach = false;  // masters share an etcd of their own
};

// Makes or mends all of the above, roles and bindings among it.
Task<Result<>> publish(client::Client& client, ClusterInfo info);

// The authority's certificates in the ConfigMap cluster-info, whoever sent it. kInvalid when it holds none.
Result<std::string> authorityIn(const client::Object& clusterInfo);
// Those whose public key has one of these pins (base/pki.h), together. kPermissionDenied, which names the pins that
// there are, when none has: this is another cluster.
Result<std::string> pinnedAuthority(const std::string& authorityPem, const std::vector<std::string>& pins);

// From kube-system/dhow-config; the authority and the server stay empty. kInvalid when something is missing or wrong.
Result<ClusterInfo> clusterOf(const client::Object& config);

inline constexpr const char* kClusterInfo = "cluster-info";  // in kube-public
inline constexpr const char* kDhowConfig = "dhow-config";    // in kube-system

}  // namespace dhow::host
