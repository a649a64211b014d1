#include "platform/machines.h"

#include <limits.h>
#include <stdlib.h>

#include <boost/json/serialize.hpp>

#include "base/files.h"
#include "base/strings.h"
#include "node/options.h"
#include "platform/identities.h"
#include "platform/master_options.h"
#include "platform/snapshots.h"

namespace dhow::platform {

namespace json = boost::json;

namespace {

constexpr const char* kPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
constexpr uint64_t kLogSize = 10 << 20;
constexpr uint32_t kLogFiles = 3;

runtime::Mount writable(const std::string& path) {
  runtime::Mount mount;
  mount.source = mount.target = path;
  return mount;
}

// Where nameservers stand that can be asked from another network namespace: systemd-resolved's stub answers on this
// machine's loopback only.
constexpr const char* kStubResolver = "/run/systemd/resolve/stub-resolv.conf";
constexpr const char* kRealResolver = "/run/systemd/resolve/resolv.conf";

// /run is the machine's own; where /etc/resolv.conf leads into it, that file comes along.
void addRun(std::vector<runtime::Mount>& mounts) {
  runtime::Mount run;
  run.type = run.source = "tmpfs";
  run.target = "/run";
  run.options = {{"mode", "755"}};
  mounts.push_back(run);
  char resolved[PATH_MAX];
  if (!::realpath("/etc/resolv.conf", resolved) || !std::string_view(resolved).starts_with("/run/")) return;
  runtime::Mount resolver;
  resolver.target = resolved;
  resolver.source = resolver.target == kStubResolver && pathExists(kRealResolver) ? kRealResolver : resolver.target;
  resolver.readonly = true;
  mounts.push_back(resolver);
}

runtime::MachineSpec machine(const ClusterConfig& config, const std::string& name, const std::string& folder) {
  runtime::MachineSpec spec;
  spec.name = name;
  spec.hostname = name;
  spec.cgroup = cgroupOf(config) + "/" + name;
  spec.env = {kPath};
  spec.log.path = folder + "/log";
  spec.log.maxSize = kLogSize;
  spec.log.maxFiles = kLogFiles;
  addRun(spec.mounts);
  return spec;
}

std::string registryUrl(const ClusterConfig& config) {
  return fmt::format("https://{}:{}", config.hostAddress(), config.registryPort);
}

}  // namespace

std::string cgroupOf(const ClusterConfig& config) {
  return "/dhow/" + config.request.name;
}

std::vector<std::string> masterCommand(const ClusterConfig& config, const std::string& master) {
  return {config.paths().linkedDhow(master), "server"};
}
std::vector<std::string> nodeCommand(const ClusterConfig& config, const std::string& node) {
  return {config.paths().linkedDhow(node), "agent"};
}

runtime::MachineSpec masterMachine(const ClusterConfig& config, const MasterPlan& master) {
  auto paths = config.paths();
  auto spec = machine(config, master.name, paths.master(master.name));
  spec.args = masterCommand(config, master.name);
  spec.args.insert(spec.args.end(), {"--config", paths.masterConfig(master.name)});
  spec.env.push_back("NOTIFY_SOCKET=" + paths.ready(master.name));
  if (config.request.ownMembers())
    spec.beside = {{paths.linkedDhow(master.name), "member", "--config", paths.masterConfig(master.name)}};
  spec.netPath = paths.machineNamespace(master.name);
  spec.mounts.push_back(writable(paths.master(master.name)));
  spec.mounts.push_back(writable(paths.readiness()));
  spec.mounts.push_back(writable(paths.snapshots()));
  return spec;
}

runtime::MachineSpec nodeMachine(const ClusterConfig& config, const NodePlan& node) {
  auto paths = config.paths();
  auto spec = machine(config, node.name, paths.node(node.name));
  spec.args = nodeCommand(config, node.name);
  spec.args.insert(spec.args.end(), {"--config", paths.nodeConfig(node.name)});
  spec.netPath = paths.machineNamespace(node.name);
  spec.mounts.push_back(writable(paths.node(node.name)));
  return spec;
}

Result<> prepareMaster(const ClusterConfig& config, const MasterPlan& master) {
  auto paths = config.paths();
  const auto folder = paths.master(master.name);
  RETURN_IF_ERROR(ensureMasterIdentities(config, master, std::chrono::system_clock::now()));
  MasterOptions options;
  options.name = master.name;
  options.cluster = config.request.name;
  options.region = config.region;
  for (int zone = 1; zone <= config.request.zones; ++zone) options.zones.push_back(config.zoneName(zone));
  options.nodes = config.request.nodes;
  if (config.request.encrypts()) options.encryptionFile = paths.pki(kEncryption);
  if (config.request.restricted()) options.auditFile = paths.audit(master.name);
  options.restricted = config.request.restricted();
  options.address = master.address;
  options.port = config.apiPort;
  options.advertise = config.advertiseAddress();
  options.podRange = config.podRange;
  options.serviceRange = config.serviceRange;
  if (config.ipv4()) options.loadBalancerRange = config.loadBalancerRange();
  options.podRange6 = config.podRange6;
  options.serviceRange6 = config.serviceRange6;
  options.ipv6First = config.ipv6First;
  if (config.ipv6()) options.loadBalancerRange6 = config.loadBalancerRange6();
  options.caFile = paths.pki(std::string(kAuthority) + ".crt");
  options.caKeyFile = paths.pki(std::string(kAuthority) + ".key");
  options.certificateSeconds = config.request.certificateSeconds;
  options.certFile = options.keyFile = identityFile(folder + "/" + kServer);
  options.serviceAccountKeyFile = paths.pki(kServiceAccountKey);
  options.regionUrl = fmt::format("https://{}:{}", config.hostAddress(), config.regionPort);
  options.etcd = config.storeEndpoints();
  if (options.etcd.empty()) options.store = paths.store(master.name);
  options.storePrefix = config.storePrefix();
  if (config.request.movedToEtcd) options.storeFrom = paths.store(master.name);
  RETURN_IF_ERROR(makeDirs(paths.snapshots(), 0700));
  options.snapshots = paths.snapshots();
  const auto& every = config.request.snapshotEvery;
  ASSIGN_OR_RETURN(auto seconds, parseInterval(every.empty() ? kUsualSnapshotEvery : every));
  options.snapshotEvery = static_cast<int>(seconds.count());
  options.etcdCaFile = config.request.datastoreCa;
  options.etcdCertFile = config.request.datastoreCert;
  options.etcdKeyFile = config.request.datastoreKey;
  if (config.request.ownMembers()) {
    options.etcdCaFile = paths.pki(std::string(kMemberAuthority) + ".crt");
    options.etcdCaKeyFile = paths.pki(std::string(kMemberAuthority) + ".key");
    options.etcdCertFile = options.etcdKeyFile = identityFile(folder + "/" + kMember);
    options.member = paths.member(master.name);
    options.memberReady = paths.memberReady(master.name);
    for (const auto& plan : config.masterPlans()) options.peers[plan.name] = plan.address;
    // The nearest member first.
    const auto own = fmt::format("https://{}:{}", master.address, kMemberClientPort);
    std::erase(options.etcd, own);
    options.etcd.insert(options.etcd.begin(), own);
  }
  return writeFileDurably(paths.masterConfig(master.name), json::serialize(toJson(options)) + "\n", 0600);
}

namespace {

// Nodes of one machine share its kernel, and so their pods' users should differ, too. There are ids for some 590 nodes;
// those of a cluster come one after the other.
uint32_t firstUserOf(const ClusterConfig& config, const NodePlan& node, int64_t maxPods) {
  constexpr int64_t kIds = 65536, kRanges = 65534, kOfCluster = kRanges / kMaxClusters;
  const auto host = parseInt(node.address.substr(node.address.rfind('.') + 1)).value_or(kFirstNodeHost);
  const int64_t place = config.index * kOfCluster + (host - kFirstNodeHost) * maxPods;
  return static_cast<uint32_t>(kIds * (1 + place % (kRanges - maxPods)));
}

}  // namespace

Result<> prepareNode(const ClusterConfig& config, const NodePlan& node, const NodeTraits& traits) {
  auto paths = config.paths();
  auto folder = paths.node(node.name);
  RETURN_IF_ERROR(makeDirs(folder + "/run", 0700));
  RETURN_IF_ERROR(makeDirs(folder + "/var", 0700));
  RETURN_IF_ERROR(ensureNodeIdentity(config, node.name, std::chrono::system_clock::now()));
  ASSIGN_OR_RETURN(auto password, readFile(paths.pki(kRegistryPassword), 4096));
  ASSIGN_OR_RETURN(auto authority, loadAuthorityCertificate(paths));
  node::NodeOptions options;
  options.name = node.name;
  options.zone = node.zone;
  options.region = config.region;
  options.servers = config.masterUrls();
  // Nodes begin with different masters.
  std::rotate(options.servers.begin(),
              options.servers.begin() + static_cast<long>(std::hash<std::string>{}(node.name) % options.servers.size()),
              options.servers.end());
  options.caFile = paths.pki(std::string(kAuthority) + ".crt");
  options.certFile = options.keyFile = identityFile(folder + "/node");
  options.dataDir = folder + "/var";
  options.runDir = folder + "/run";
  options.cgroupParent = "/pods";
  options.address = node.address;
  options.segment = config.zoneSubnet(node.zoneIndex);
  options.podRange = config.podRange;
  options.serviceRange = config.serviceRange;
  options.podRange6 = config.podRange6;
  options.serviceRange6 = config.serviceRange6;
  options.address6 = node.address6;
  options.ipv6First = config.ipv6First;
  if (config.ipv6()) options.segment6 = config.zoneSubnet6(node.zoneIndex);
  options.dnsAddress = config.dnsAddress();
  options.domain = config.domain;
  options.registriesFile = "/etc/dhow/registries.yaml";
  options.registries = {
      {config.registryHost(),
       json::object{
           {"endpoint", registryUrl(config)}, {"ca", authority}, {"username", kRegistryUser}, {"password", password}}}};
  options.labels = traits.labels;
  options.taints = traits.taints;
  options.resources = traits.resources;
  options.isolatePods = config.request.restricted();
  options.firstUser = firstUserOf(config, node, options.maxPods);
  return writeFileDurably(paths.nodeConfig(node.name), json::serialize(node::toJson(options)) + "\n", 0600);
}

Result<image::RegistryHosts> clusterRegistries(const ClusterConfig& config) {
  auto paths = config.paths();
  image::RegistryHost host;
  host.endpoint = registryUrl(config);
  host.credentials.username = kRegistryUser;
  ASSIGN_OR_RETURN(host.credentials.password, readFile(paths.pki(kRegistryPassword), 4096));
  ASSIGN_OR_RETURN(host.caPem, loadAuthorityCertificate(paths));
  return image::RegistryHosts{{config.registryHost(), std::move(host)}};
}

}  // namespace dhow::platform
