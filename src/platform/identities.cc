#include "platform/identities.h"

#include "base/digest.h"
#include "base/files.h"
#include "base/seal.h"
#include "base/strings.h"
#include "platform/contexts.h"

namespace dhow::platform {

namespace {

constexpr Duration kAuthorityLife = 10 * kYear;
constexpr size_t kMaxFile = 1 << 20;

Duration lifeOf(const ClusterConfig& config) {
  return certificateLife(config.request.certificateSeconds);
}

}  // namespace

Duration certificateLife(int seconds) {
  return seconds > 0 ? std::chrono::seconds(seconds) : kYear;
}

std::string identityFile(const std::string& stem) {
  return stem + ".pem";
}

Result<Identity> ensureIdentity(const std::string& stem, const Identity& authority, CertificateSpec spec) {
  if (auto stored = readIdentityFile(identityFile(stem)); stored.ok()) {
    auto info = inspectCertificate(stored->certificatePem);
    if (info.ok() && (info->notAfter - spec.notBefore) * 3 > info->notAfter - info->notBefore) return stored;
  }
  ASSIGN_OR_RETURN(auto issued, issueCertificate(authority, spec));
  RETURN_IF_ERROR(writeIdentityFile(identityFile(stem), issued));
  return issued;
}

Result<Identity> readAuthority(const std::string& stem) {
  ASSIGN_OR_RETURN(auto certificate, readFile(stem + ".crt", kMaxFile));
  ASSIGN_OR_RETURN(auto key, readFile(stem + ".key", kMaxFile));
  return Identity{std::move(certificate), std::move(key)};
}

// The key comes first: without its certificate the authority is made anew, and nobody has seen it.
Result<Identity> ensureAuthority(const std::string& stem, const std::string& name, WallTime now) {
  if (auto stored = readAuthority(stem); stored.ok()) return stored;
  ASSIGN_OR_RETURN(auto made, createAuthority(name, now, kAuthorityLife));
  RETURN_IF_ERROR(writeFileDurably(stem + ".key", made.privateKeyPem, 0600));
  RETURN_IF_ERROR(writeFileDurably(stem + ".crt", made.certificatePem));
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

namespace {

Result<> writeOwnKubeconfig(const ClusterConfig& config) {
  auto paths = config.paths();
  ASSIGN_OR_RETURN(auto authority, loadAuthorityCertificate(paths));
  ASSIGN_OR_RETURN(auto admin, loadIdentity(paths, kAdmin));
  auto kubeconfig = kubeconfigOf(config.request.name, config.apiUrl(), authority, admin);
  auto existing = readFile(paths.kubeconfig(), kMaxFile);
  if (existing.ok() && *existing == kubeconfig) return {};
  return writeFileDurably(paths.kubeconfig(), kubeconfig, 0600);
}

}  // namespace

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

CertificateSpec adminCertificate(WallTime now, Duration life) {
  CertificateSpec spec;
  spec.commonName = "kubernetes-admin";
  spec.organizations = {"system:masters"};
  spec.client = true;
  spec.notBefore = now;
  spec.validity = life;
  return spec;
}

CertificateSpec masterCertificate(const std::string& name, const std::string& domain, WallTime now, Duration life) {
  CertificateSpec spec;
  spec.commonName = name;
  spec.organizations = {kMasterGroup};
  spec.server = spec.client = true;
  spec.notBefore = now;
  spec.validity = life;
  spec.dnsNames = {"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc",
                   "kubernetes.default.svc." + domain};
  return spec;
}

CertificateSpec memberCertificate(const std::string& name, const std::string& address, WallTime now, Duration life) {
  CertificateSpec spec;
  spec.commonName = name;
  spec.server = spec.client = true;
  spec.notBefore = now;
  spec.validity = life;
  spec.ipAddresses = {"127.0.0.1", address};
  return spec;
}

CertificateSpec nodeCertificate(const std::string& name, WallTime now, Duration life) {
  CertificateSpec spec;
  spec.commonName = "system:node:" + name;
  spec.organizations = {"system:nodes"};
  spec.client = true;
  spec.notBefore = now;
  spec.validity = life;
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
  region.validity = lifeOf(config);
  region.dnsNames = {"localhost", "registry.dhow.internal"};
  region.ipAddresses = {"127.0.0.1", config.hostAddress()};
  RETURN_IF_ERROR(ensureIdentity(paths.pki(kRegion), authority, region));

  RETURN_IF_ERROR(ensureIdentity(paths.pki(kAdmin), authority, adminCertificate(now, lifeOf(config))));

  if (!pathExists(paths.pki(kServiceAccountKey)))
    RETURN_IF_ERROR(writeFileDurably(paths.pki(kServiceAccountKey), generatePrivateKey(), 0600));
  if (config.request.encrypts() && !pathExists(paths.pki(kEncryption)))
    RETURN_IF_ERROR(writeFileDurably(paths.pki(kEncryption), encryptionConfig(), 0600));
  if (!pathExists(paths.pki(kRegistryPassword)))
    RETURN_IF_ERROR(writeFileDurably(paths.pki(kRegistryPassword), randomHex(32), 0600));
  return writeOwnKubeconfig(config);
}

Result<> writeKubeconfig(const ClusterConfig& config) {
  RETURN_IF_ERROR(writeOwnKubeconfig(config));
  return refreshContext(config);
}

Result<> ensureMasterIdentities(const ClusterConfig& config, const MasterPlan& master, WallTime now) {
  auto paths = config.paths();
  const std::string folder = paths.master(master.name);
  RETURN_IF_ERROR(makeDirs(folder, 0700));
  ASSIGN_OR_RETURN(auto authority, readAuthority(paths.pki(kAuthority)));
  CertificateSpec server = masterCertificate(master.name, config.domain, now, lifeOf(config));
  server.ipAddresses = {"127.0.0.1", config.hostAddress(), config.kubernetesServiceAddress(), master.address};
  if (config.ipv6First) server.ipAddresses.push_back(config.advertiseAddress());
  RETURN_IF_ERROR(ensureIdentity(folder + "/" + kServer, authority, server));

  if (!config.request.ownMembers()) return {};
  ASSIGN_OR_RETURN(auto members, readAuthority(paths.pki(kMemberAuthority)));
  RETURN_IF_ERROR(ensureIdentity(folder + "/" + kMember, members,
                                 memberCertificate(master.name, master.address, now, lifeOf(config))));
  return {};
}

Result<Identity> ensureNodeIdentity(const ClusterConfig& config, const std::string& node, WallTime now) {
  auto paths = config.paths();
  ASSIGN_OR_RETURN(auto authority, readAuthority(paths.pki(kAuthority)));
  RETURN_IF_ERROR(makeDirs(paths.node(node), 0700));
  return ensureIdentity(paths.node(node) + "/node", authority, nodeCertificate(node, now, lifeOf(config)));
}

Result<Identity> loadIdentity(const ClusterPaths& paths, const std::string& name) {
  return readIdentityFile(identityFile(paths.pki(name)));
}

Result<std::string> loadAuthorityCertificate(const ClusterPaths& paths) {
  return readFile(paths.pki(std::string(kAuthority) + ".crt"), kMaxFile);
}

Result<Duration> authorityLeft(const std::string& pki, WallTime now) {
  Duration least = Duration::max();
  for (const char* name : {kAuthority, kMemberAuthority}) {
    const auto path = fmt::format("{}/{}.crt", pki, name);
    if (name == kMemberAuthority && !pathExists(path)) continue;
    ASSIGN_OR_RETURN(auto text, readFile(path, kMaxFile));
    ASSIGN_OR_RETURN(auto info, inspectCertificate(text));
    least = std::min<Duration>(least, info.notAfter - now);
  }
  return least;
}

namespace {

Result<Identity> reissue(const std::string& path, const std::string& caFile, const std::string& caKeyFile,
                         WallTime now) {
  Identity authority;
  ASSIGN_OR_RETURN(authority.certificatePem, readFile(caFile, kMaxFile));
  ASSIGN_OR_RETURN(authority.privateKeyPem, readFile(caKeyFile, kMaxFile));
  ASSIGN_OR_RETURN(auto present, readIdentityFile(path));
  return reissueCertificate(authority, present.certificatePem, now);
}

Task<Result<Identity>> reissueOnPool(Loop* loop, BlockingPool* pool, std::string path, std::string caFile,
                                     std::string caKeyFile) {
  const WallTime now = loop->wallNow();
  co_return co_await pool->run(*loop, [&] { return reissue(path, caFile, caKeyFile, now); });
}

}  // namespace

Result<std::unique_ptr<IdentityKeeper>> keepLocally(Loop& loop, BlockingPool& pool, LocalIdentity identity) {
  ASSIGN_OR_RETURN(auto present, readIdentityFile(identity.path));
  IdentityKeeper::Options options;
  options.name = std::move(identity.name);
  options.certificatePem = std::move(present.certificatePem);
  options.issue = [&loop, &pool, path = identity.path, caFile = std::move(identity.caFile),
                   caKeyFile = std::move(identity.caKeyFile)] {
    return reissueOnPool(&loop, &pool, path, caFile, caKeyFile);
  };
  options.take = takeIntoFile(loop, pool, std::move(identity.path), std::move(identity.use));
  auto keeper = std::make_unique<IdentityKeeper>(loop, std::move(options));
  keeper->start();
  return keeper;
}

}  // namespace dhow::platform
