// The authority of a cluster and the identities that it signs, as files under pki/. Made once; what exists is kept.
#pragma once

#include <string>

#include "base/pki.h"
#include "base/result.h"
#include "platform/config.h"

namespace dhow::platform {

// Files under pki/.
inline constexpr const char* kAuthority = "ca";             // .crt, .key
inline constexpr const char* kMemberAuthority = "etcd-ca";  // of etcd's members and their clients, the masters alone
inline constexpr const char* kAdmin = "admin";              // CN kubernetes-admin, O system:masters
// The region's process: serves its API and the registry, and reads what it balances as CN system:kube-proxy.
inline constexpr const char* kRegion = "region";
inline constexpr const char* kServiceAccountKey = "sa.key";
inline constexpr const char* kEncryption = "encryption.yaml";  // how secrets are encrypted in the store
inline constexpr const char* kRegistryPassword = "registry-password";
inline constexpr const char* kRegistryUser = "dhow";

// Makes what is missing, and the administrator's kubeconfig. Blocks.
Result<> ensureIdentities(const ClusterConfig& config, WallTime now);
// Files in a master's own folder.
inline constexpr const char* kServer = "server";  // serves the API; the region's API knows masters by it
inline constexpr const char* kMember = "etcd";    // member of etcd and its client
inline constexpr const char* kMasterGroup = "dhow:masters";
// kServer of a master and, where it has a member, kMember; each made anew as a node's.
Result<> ensureMasterIdentities(const ClusterConfig& config, const MasterPlan& master, WallTime now);
// CN system:node:<name>, O system:nodes. Made anew when its certificate has less than a third of its life left.
Result<Identity> ensureNodeIdentity(const ClusterConfig& config, const std::string& node, WallTime now);

// What the above and others (host/server.h) are made of.
// An authority at `stem`, made where there is none.
Result<Identity> ensureAuthority(const std::string& stem, const std::string& name, WallTime now);
// The identity stored at `stem`, or a new one when there is none or it has less than a third of its life left.
Result<Identity> ensureIdentity(const std::string& stem, const Identity& authority, CertificateSpec spec);
Result<> saveIdentity(const std::string& stem, const Identity& identity);
CertificateSpec adminCertificate(WallTime now);
CertificateSpec masterCertificate(const std::string& name, const std::string& domain, WallTime now);  // add addresses
CertificateSpec memberCertificate(const std::string& name, const std::string& address, WallTime now);
CertificateSpec nodeCertificate(const std::string& name, WallTime now);
std::string kubeconfigOf(const std::string& cluster, const std::string& server, const std::string& authorityPem,
                         const Identity& admin);
// Kubernetes' EncryptionConfiguration, with one new key.
std::string encryptionConfig();

// From <stem>.crt and <stem>.key.
Result<Identity> readIdentity(const std::string& stem);
Result<Identity> loadIdentity(const ClusterPaths& paths, const std::string& name);
Result<std::string> loadAuthorityCertificate(const ClusterPaths& paths);

}  // namespace dhow::platform
