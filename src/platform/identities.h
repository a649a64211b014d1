// The authority of a cluster and the identities that it signs, as files under pki/. Made once; what exists is kept.
#pragma once

#include <string>

#include "base/pki.h"
#include "base/result.h"
#include "platform/config.h"

namespace dhow::platform {

// Files under pki/.
inline constexpr const char* kAuthority = "ca";   // .crt, .key
inline constexpr const char* kServer = "server";  // the masters' serving certificate
inline constexpr const char* kAdmin = "admin";    // CN kubernetes-admin, O system:masters
inline constexpr const char* kServiceAccountKey = "sa.key";
inline constexpr const char* kRegistryPassword = "registry-password";
inline constexpr const char* kRegistryUser = "dhow";

// Makes what is missing, and the administrator's kubeconfig. Blocks.
Result<> ensureIdentities(const ClusterConfig& config, WallTime now);
// CN system:node:<name>, O system:nodes. Made anew when its certificate has less than a third of its life left.
Result<Identity> ensureNodeIdentity(const ClusterConfig& config, const std::string& node, WallTime now);

Result<Identity> loadIdentity(const ClusterPaths& paths, const std::string& name);
Result<std::string> loadAuthorityCertificate(const ClusterPaths& paths);

}  // namespace dhow::platform
