#include "platform/identities.h"

#include "base/digest.h"
#include "base/files.h"
#include "base/seal.h"
#include "base/strings.h"

namespace dhow::platform {

Result<Identity> readIdentity(const std::string& stem) {
  ASSIGN_OR_RETURN(auto certificate, readFile(stem + ".crt", 1 << 20));
  ASSIGN_OR_RETURN(auto key, readFile(stem + ".key", 1 << 20));
  return Identity{std::move(certificate), std::move(key)};
}

namespace {

constexpr Duration kYear = std::chrono::hours(24 * 365);
constexpr Duration kAuthorityLife = 10 * kYear;

}  // namespace

Result<> saveIdentity(const std::string& stem, const Identity& identity) {
  RETURN_IF_ERROR(writeFileDurably(stem + ".key", identity.privateKeyPem, 0600));
  return writeFileDurably(stem + ".crt", identity.certificatePem);
}

Result<Identity> ensureIdentity(const std::string& stem, const Identity& authority, CertificateSpec spec) {
  if (auto stored = readIdentity(stem); stored.ok()) {
    auto info = inspectCertificate(stored->certificatePem);
    if (info.ok() && (info->notAfter - spec.notBefore) * 3 > info->notAfter - info->notBefore) return stored;
  }
  ASSIGN_OR_RETURN(auto issued, issueCertificate(authority, spec));
  RETURN_IF_ERROR(saveIdentity(stem, issued));
  return issued;
}

Result<Identity> ensureAuthority(const std::string& stem, const std::string& name, WallTime now) {
  if (auto stored = readIdentity(stem); stored.ok()) return stored;
  ASSIGN_OR_RETURN(auto made, createAuthority(name, now, kAuthorityLife));
  RETURN_IF_ERROR(saveIdentity(stem, made));
  return made;
}

std::string kubeconfigOf(const std::string& name, const std::string& server, const std::string& authorityPem,
                         const Identity& admin) {
  return fmt::format(
      "apiVersion: v1\n"
      "kind: Config\n"
      "clusters:\n"
      "- name: {0}\n"
      "  cluster:\n"
      "    server: {1}\n"
      "    certificate-authority-data: {2}\n"
      "users:\n"
      "- name: {0}-admin\n"
      "  user:\n"
      "    client-certificate-data: {3}\n"
      "    client-key-data: {4}\n"
      "contexts:\n"
      "- name: {0}\n"
      "  context:\n"
      "    cluster: {0}\n"
      "    user: {0}-admin\n"
      "current-context: {0}\n",
      name, server, toBase64(authorityPem), toBase64(admin.certificatePem), toBase64(admin.privateKeyPem));
}

std::string encryptionConfig() {
  return fmt::format(
      "apiVersion: apiserver.config.k8s.io/v1\n"
      "kind: EncryptionConfiguration\n"
      "resources:\n"
      "- resources: [secrets]\n"
      "  providers:\n"
      "  - aesgcm:\n"
      "      keys:\n"
      "      - name: key1\n"
      "        secret: {}\n"
      "  - identity: {{}}\n",
      toBase64(randomBytes(kSealKeySize)));
}

CertificateSpec adminCertificate(WallTime now) {
  CertificateSpec spec;
  spec.commonName = "kubernetes-admin";
  spec.organizations = {"system:masters"};
  spec.client = true;
  spec.notBefore = now;
  spec.validity = kYear;
  return spec;
}

CertificateSpec masterCertificate(const std::string& name, const std::string& domain, WallTime now) {
  CertificateSpec spec;
  spec.commonName = name;
  spec.organizations = {kMasterGroup};
  spec.server = spec.client = true;
  spec.notBefore = now;
  spec.validity = kYear;
  spec.dnsNames = {"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc",
                   "kubernetes.default.svc." + domain};
  return spec;
}

CertificateSpec memberCertificate(const std::string& name, const std::string& address, WallTime now) {
  CertificateSpec spec;
  spec.commonName = name;
  spec.server = spec.client = true;
  spec.notBefore = now;
  spec.validity = kYear;
  spec.ipAddresses = {"127.0.0.1", address};
  return spec;
}

CertificateSpec nodeCertificate(const std::string& name, WallTime now) {
  CertificateSpec spec;
  spec.commonName = "system:node:" + name;
  spec.organizations = {"system:nodes"};
  spec.client = true;
  spec.notBefore = now;
  spec.validity = kYear;
  return spec;
}

Result<> ensureIdentities(const ClusterConfig& config, WallTime now) {
  auto paths = config.paths();
  RETURN_IF_ERROR(makeDirs(paths.pki(), 0700));
  ASSIGN_OR_RETURN(auto authority, ensureAuthority(paths.pki(kAuthority), "dhow-" + config.request.name, now));
  if (config.request.ownMembers())
    RETURN_IF_ERROR(ensureAuthority(paths.pki(kMemberAuthority), "dhow-" + config.request.name + "-etcd", now));

  CertificateSpec region;
  region.commonName = "system:kube-proxy";
  region.server = region.client = true;
  region.notBefore = now;
  region.validity = kYear;
  region.dnsNames = {"localhost", "registry.dhow.internal"};
  region.ipAddresses = {"127.0.0.1", config.hostAddress()};
  RETURN_IF_ERROR(ensureIdentity(paths.pki(kRegion), authority, region));

  ASSIGN_OR_RETURN(auto admin, ensureIdentity(paths.pki(kAdmin), authority, adminCertificate(now)));

  if (!pathExists(paths.pki(kServiceAccountKey)))
    RETURN_IF_ERROR(writeFileDurably(paths.pki(kServiceAccountKey), generatePrivateKey(), 0600));
  if (config.request.encrypts() && !pathExists(paths.pki(kEncryption)))
    RETURN_IF_ERROR(writeFileDurably(paths.pki(kEncryption), encryptionConfig(), 0600));
  if (!pathExists(paths.pki(kRegistryPassword)))
    RETURN_IF_ERROR(writeFileDurably(paths.pki(kRegistryPassword), randomHex(32), 0600));
  auto kubeconfig = kubeconfigOf(config.request.name, config.apiUrl(), authority.certificatePem, admin);
  auto existing = readFile(paths.kubeconfig(), 1 << 20);
  if (existing.ok() && *existing == kubeconfig) return {};
  return writeFileDurably(paths.kubeconfig(), kubeconfig, 0600);
}

Result<> ensureMasterIdentities(const ClusterConfig& config, const MasterPlan& master, WallTime now) {
  auto paths = config.paths();
  const std::string folder = paths.master(master.name);
  RETURN_IF_ERROR(makeDirs(folder, 0700));
  ASSIGN_OR_RETURN(auto authority, readIdentity(paths.pki(kAuthority)));
  CertificateSpec server = masterCertificate(master.name, config.domain, now);
  server.ipAddresses = {"127.0.0.1", config.hostAddress(), config.kubernetesServiceAddress(), master.address};
  RETURN_IF_ERROR(ensureIdentity(folder + "/" + kServer, authority, server));

  if (!config.request.ownMembers()) return {};
  ASSIGN_OR_RETURN(auto members, readIdentity(paths.pki(kMemberAuthority)));
  RETURN_IF_ERROR(ensureIdentity(folder + "/" + kMember, members, memberCertificate(master.name, master.address, now)));
  return {};
}

Result<Identity> ensureNodeIdentity(const ClusterConfig& config, const std::string& node, WallTime now) {
  auto paths = config.paths();
  ASSIGN_OR_RETURN(auto authority, readIdentity(paths.pki(kAuthority)));
  RETURN_IF_ERROR(makeDirs(paths.node(node), 0700));
  return ensureIdentity(paths.node(node) + "/node", authority, nodeCertificate(node, now));
}

Result<Identity> loadIdentity(const ClusterPaths& paths, const std::string& name) {
  return readIdentity(paths.pki(name));
}

Result<std::string> loadAuthorityCertificate(const ClusterPaths& paths) {
  return readFile(paths.pki(std::string(kAuthority) + ".crt"), 1 << 20);
}

}  // namespace dhow::platform
