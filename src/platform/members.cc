#include "platform/members.h"

#include "base/files.h"
#include "base/log.h"
#include "base/strings.h"
#include "platform/identities.h"

namespace dhow::platform {

using namespace std::chrono_literals;

namespace {

constexpr int64_t kQuotaBytes = int64_t{8} << 30;

std::string peerUrl(const std::string& address) {
  return fmt::format("https://{}:{}", address, kMemberPeerPort);
}
std::string clientUrl(const std::string& address) {
  return fmt::format("https://{}:{}", address, kMemberClientPort);
}
// Tells that this master has had a member: beside its data, which may be lost.
std::string joinedFile(const MasterOptions& options) {
  return options.member + ".joined";
}

struct InitialCluster {
  bool existing = false;
  std::vector<std::string> members;  // "name=url"
};

InitialCluster plannedCluster(const MasterOptions& options) {
  InitialCluster cluster;
  for (const auto& [name, address] : options.peers) cluster.members.push_back(name + "=" + peerUrl(address));
  return cluster;
}

Task<Result<InitialCluster>> findCluster(const MasterOptions& options) {
  if (!pathExists(joinedFile(options))) co_return plannedCluster(options);
  co_return Error(Code::kDataLoss, fmt::format("{} has lost its data", options.name));
}

std::vector<std::string> commandOf(const std::string& program, const MasterOptions& options,
                                   const InitialCluster& cluster) {
  return {program,
          "--name=" + options.name,
          "--data-dir=" + options.member,
          "--listen-peer-urls=" + peerUrl(options.address),
          "--initial-advertise-peer-urls=" + peerUrl(options.address),
          "--listen-client-urls=" + clientUrl(options.address),
          "--advertise-client-urls=" + clientUrl(options.address),
          "--initial-cluster=" + join(cluster.members, ","),
          std::string("--initial-cluster-state=") + (cluster.existing ? "existing" : "new"),
          "--initial-cluster-token=dhow",
          "--client-cert-auth",
          "--trusted-ca-file=" + options.etcdCaFile,
          "--cert-file=" + options.etcdCertFile,
          "--key-file=" + options.etcdKeyFile,
          "--peer-client-cert-auth",
          "--peer-trusted-ca-file=" + options.etcdCaFile,
          "--peer-cert-file=" + options.etcdCertFile,
          "--peer-key-file=" + options.etcdKeyFile,
          fmt::format("--quota-backend-bytes={}", kQuotaBytes),
          "--enable-v2=false",
          "--logger=zap",
          "--log-level=warn",
          "--log-outputs=stderr"};
}

}  // namespace

Result<store::EtcdOptions> storeOptions(const MasterOptions& options) {
  store::EtcdOptions out;
  out.endpoints = options.etcd;
  out.prefix = options.storePrefix;
  if (!options.etcdCaFile.empty()) {
    ASSIGN_OR_RETURN(out.caPem, readFile(options.etcdCaFile, 1 << 20));
  }
  if (!options.etcdCertFile.empty()) {
    ASSIGN_OR_RETURN(out.certificatePem, readFile(options.etcdCertFile, 1 << 20));
    ASSIGN_OR_RETURN(out.privateKeyPem, readFile(options.etcdKeyFile, 1 << 20));
  }
  return out;
}

Result<std::string> findEtcd() {
  for (const char* path : {"/usr/local/bin/etcd", "/usr/bin/etcd"}) {
    if (pathExists(path)) return std::string(path);
  }
  return Error(Code::kNotFound, "several masters need etcd; install Debian's etcd-server");
}

Task<Result<std::vector<std::string>>> prepareMember(Loop&, const MasterOptions& options) {
  CO_ASSIGN_OR_RETURN(auto program, findEtcd());
  InitialCluster cluster = plannedCluster(options);
  if (!pathExists(options.member + "/member/wal")) {
    auto found = co_await findCluster(options);
    CO_RETURN_IF_ERROR(found);
    cluster = std::move(*found);
    // What a start that was cut short has left.
    CO_RETURN_IF_ERROR(removeTree(options.member));
  }
  CO_RETURN_IF_ERROR(makeDirs(options.member, 0700));
  CO_RETURN_IF_ERROR(writeFileDurably(joinedFile(options), ""));
  co_return commandOf(program, options, cluster);
}

}  // namespace dhow::platform
