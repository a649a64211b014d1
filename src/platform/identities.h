// The authorities of a cluster and the identities that they sign, as files: authorities as <name>.crt and <name>.key,
// identities as <name>.pem (base/identity_keeper.h). Made once; what exists is kept, and renewed by the processes that
// use it.
#pragma once

#include <string>

#include "base/identity_keeper.h"
#include "base/pki.h"
#include "base/result.h"
#include "platform/config.h"

namespace dhow::platform {

// Files under pki/.
inline constexpr const char* kAuthority = "ca";
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
// The administrator's kubeconfig, and the shared one, as its identity is now. Blocks.
Result<> writeKubeconfig(const ClusterConfig& config);
// Files in a master's own folder.
inline constexpr const char* kServer = "server";  // serves the API; the region's API knows masters by it
inline constexpr const char* kMember = "etcd";    // member of etcd and its client
inline constexpr const char* kMasterGroup = "dhow:masters";
// kServer of a master and, where it has a member, kMember; each made anew as a node's.
Result<> ensureMasterIdentities(const ClusterConfig& config, const MasterPlan& master, WallTime now);
// CN system:node:<name>, O system:nodes. Made anew when its certificate has less than a third of its life left.
Result<Identity> ensureNodeIdentity(const ClusterConfig& config, const std::string& node, WallTime now);

// What the above and others (host/server.h) are made of. A `stem` is a path without its ending.
inline constexpr Duration kYear = std::chrono::hours(24 * 365);
// Of certificates that are to hold for so many seconds; 0: a year.
Duration certificateLife(int seconds);
std::string identityFile(const std::string& stem);
// An authority at `stem`, made where there is none.
Result<Identity> ensureAuthority(const std::string& stem, const std::string& name, WallTime now);
Result<Identity> readAuthority(const std::string& stem);
// The identity stored at `stem`, or a new one when there is none or it has less than a third of its life left.
Result<Identity> ensureIdentity(const std::string& stem, const Identity& authority, CertificateSpec spec);
CertificateSpec adminCertificate(WallTime now, Duration life);
CertificateSpec masterCertificate(const std::string& name, const std::string& domain, WallTime now,
                                  Duration life);  // add addresses
CertificateSpec memberCertificate(const std::string& name, const std::string& address, WallTime now, Duration life);
CertificateSpec nodeCertificate(const std::string& name, WallTime now, Duration life);
std::string kubeconfigOf(const std::string& cluster, const std::string& server, const std::string& authorityPem,
                         const Identity& admin);
// Kubernetes' EncryptionConfiguration, with one new key.
std::string encryptionConfig();

Result<Identity> loadIdentity(const ClusterPaths& paths, const std::string& name);
Result<std::string> loadAuthorityCertificate(const ClusterPaths& paths);

// How long the authorities in a folder pki/ still hold, the one that ends first. Blocks.
Result<Duration> authorityLeft(const std::string& pki, WallTime now);

// Keeps an identity whose authority's key is on this machine: it is the same again, with a new key.
struct LocalIdentity {
  std::string name;                              // as IdentityKeeper::Options
  std::string path;                              // the identity's file
  std::string caFile, caKeyFile;                 // its authority
  std::function<Result<>(const Identity&)> use;  // on the loop, when the file holds it
};
Result<std::unique_ptr<IdentityKeeper>> keepLocally(Loop& loop, BlockingPool& pool, LocalIdentity identity);

}  // namespace dhow::platform
