#include "host/server.h"

#include <boost/json/serialize.hpp>

#include "address.h"
#include "base/files.h"
#include "base/log.h"
#include "base/strings.h"
#include "base/url_host.h"
#include "network/ip.h"
#include "platform/config.h"
#include "platform/identities.h"
#include "platform/master_options.h"
#include "platform/members.h"

namespace dhow::host {

namespace json = boost::json;

namespace {

// The n-th address of a range: 1 is the service `kubernetes`, 10 is DNS.
std::string addressIn(const std::string& range, uint64_t n) {
  auto parsed = IpPrefix::parse(range);
  return parsed.ok() ? parsed->network().plus(n).str() : std::string();
}

// The authorities and keys that all masters share.
Result<> makeKeys(const HostConfig& config, bool encrypts, WallTime now) {
  const auto paths = config.paths();
  RETURN_IF_ERROR(makeDirs(paths.pki(), 0700));
  const auto name = "dhow-" + config.cluster;
  RETURN_IF_ERROR(platform::ensureAuthority(paths.pki(platform::kAuthority), name, now));
  if (config.member)
    RETURN_IF_ERROR(platform::ensureAuthority(paths.pki(platform::kMemberAuthority), name + "-etcd", now));
  const auto signingKey = paths.pki(platform::kServiceAccountKey), encryption = paths.pki(platform::kEncryption);
  if (!pathExists(signingKey)) RETURN_IF_ERROR(writeFileDurably(signingKey, generatePrivateKey(), 0600));
  if (encrypts && !pathExists(encryption))
    RETURN_IF_ERROR(writeFileDurably(encryption, platform::encryptionConfig(), 0600));
  return {};
}

Result<> writeIdentities(const HostConfig& config, Duration life, WallTime now) {
  const auto paths = config.paths();
  RETURN_IF_ERROR(makeDirs(paths.master(), 0700));
  RETURN_IF_ERROR(makeDirs(paths.snapshots(), 0700));
  ASSIGN_OR_RETURN(auto authority, platform::readAuthority(paths.pki(platform::kAuthority)));
  auto server = platform::masterCertificate(config.name, kDomain, now, life);
  server.dnsNames.push_back(config.name);
  server.ipAddresses = {"127.0.0.1", addressIn(config.firstServiceRange(), 1), config.address};
  RETURN_IF_ERROR(platform::ensureIdentity(paths.master() + "/" + platform::kServer, authority, server));
  if (config.member) {
    ASSIGN_OR_RETURN(auto members, platform::readAuthority(paths.pki(platform::kMemberAuthority)));
    RETURN_IF_ERROR(platform::ensureIdentity(paths.master() + "/" + platform::kMember, members,
                                             platform::memberCertificate(config.name, config.address, now, life)));
  }
  ASSIGN_OR_RETURN(auto admin, platform::ensureIdentity(paths.pki(platform::kAdmin), authority,
                                                        platform::adminCertificate(now, life)));
  RETURN_IF_ERROR(makeDirs("/etc/dhow", 0755));
  return writeFileDurably(
      kKubeconfig, platform::kubeconfigOf(config.cluster, config.apiUrl(), authority.certificatePem, admin), 0600);
}

std::string memberUrl(const std::string& address) {
  return fmt::format("https://{}:{}", urlHost(address), platform::kMemberClientPort);
}

MasterSettings settingsOf(const HostConfig& config, const ServerRequest& request) {
  MasterSettings settings;
  settings.loadBalancerRange = request.loadBalancerRange;
  settings.restricted = request.sensitivity == platform::kRestricted;
  const auto every = platform::parseInterval(request.snapshotEvery);
  settings.snapshotEvery = every.ok() ? static_cast<int>(every->count()) : 0;
  settings.certificateSeconds = request.certificateSeconds;
  if (config.member) settings.peers[config.name] = config.address;
  if (!request.datastore.empty())
    settings.datastore = split(request.datastore.substr(request.datastore.find('=') + 1), ',');
  settings.datastoreCa = request.datastoreCa;
  settings.datastoreCert = request.datastoreCert;
  settings.datastoreKey = request.datastoreKey;
  return settings;
}

Result<HostConfig> addNode(const ServerRequest& request, WallTime now) {
  ASSIGN_OR_RETURN(auto config, loadHost(request.dataDir));
  if (!config.master || config.node || !request.node)
    return Error(Code::kAlreadyExists,
                 fmt::format("this machine is {} of cluster \"{}\" already; `dhow leave` takes it out",
                             config.master ? "a master" : "a node", config.cluster));
  ASSIGN_OR_RETURN(auto place, findAddress(config.address, config.ipv6First));
  config.settings = networkSettings(!config.podRange6.empty());
  config.node = true;
  RETURN_IF_ERROR(writeOwnNode(config, place, now));
  RETURN_IF_ERROR(saveHost(config));
  return config;
}

}  // namespace

Result<> writeMaster(const HostConfig& config, const MasterSettings& settings, WallTime now) {
  RETURN_IF_ERROR(writeIdentities(config, platform::certificateLife(settings.certificateSeconds), now));
  const auto paths = config.paths();
  platform::MasterOptions options;
  options.name = config.name;
  options.cluster = config.cluster;
  options.region = config.region;
  options.address = options.advertise = config.address;
  options.port = config.port;
  options.podRange = config.podRange;
  options.serviceRange = config.serviceRange;
  options.podRange6 = config.podRange6;
  options.serviceRange6 = config.serviceRange6;
  options.ipv6First = config.ipv6First;
  options.loadBalancerRange = settings.loadBalancerRange;
  options.caFile = paths.authority();
  options.caKeyFile = paths.pki(std::string(platform::kAuthority) + ".key");
  options.certificateSeconds = settings.certificateSeconds;
  options.certFile = options.keyFile = platform::identityFile(paths.master() + "/" + platform::kServer);
  options.adminFile = platform::identityFile(paths.pki(platform::kAdmin));
  options.kubeconfigFile = kKubeconfig;
  options.serviceAccountKeyFile = paths.pki(platform::kServiceAccountKey);
  options.restricted = settings.restricted;
  if (options.restricted) options.auditFile = paths.audit();
  if (pathExists(paths.pki(platform::kEncryption))) options.encryptionFile = paths.pki(platform::kEncryption);
  options.snapshots = paths.snapshots();
  options.snapshotEvery = settings.snapshotEvery;
  if (config.member) {
    options.member = paths.member();
    options.memberReady = paths.memberReady();
    options.peers = settings.peers;
    // The nearest member first.
    options.etcd = {memberUrl(config.address)};
    for (const auto& [name, address] : settings.peers) {
      if (address != config.address) options.etcd.push_back(memberUrl(address));
    }
    options.etcdCaFile = paths.pki(std::string(platform::kMemberAuthority) + ".crt");
    options.etcdCaKeyFile = paths.pki(std::string(platform::kMemberAuthority) + ".key");
    options.etcdCertFile = options.etcdKeyFile = platform::identityFile(paths.master() + "/" + platform::kMember);
  } else if (!settings.datastore.empty()) {
    options.etcd = settings.datastore;
    options.etcdCaFile = settings.datastoreCa;
    options.etcdCertFile = settings.datastoreCert;
    options.etcdKeyFile = settings.datastoreKey;
    options.storePrefix = "/dhow/" + config.cluster;
  } else {
    options.store = paths.store();
  }
  return writeFileDurably(paths.masterConfig(), json::serialize(toJson(options)) + "\n", 0600);
}

Result<> writeOwnNode(const HostConfig& config, const HostAddress& place, WallTime now) {
  const auto paths = config.paths();
  RETURN_IF_ERROR(makeDirs(paths.node(), 0700));
  ASSIGN_OR_RETURN(auto authority, platform::readAuthority(paths.pki(platform::kAuthority)));
  ASSIGN_OR_RETURN(auto master, platform::loadMasterOptions(paths.masterConfig()));
  const auto life = platform::certificateLife(master.certificateSeconds);
  RETURN_IF_ERROR(
      platform::ensureIdentity(paths.nodeIdentity(), authority, platform::nodeCertificate(config.name, now, life)));
  return writeNodeConfig(config, place, {config.apiUrl()}, {.labels = {{"node-role.kubernetes.io/control-plane", ""}}});
}

Result<> writeNodeConfig(const HostConfig& config, const HostAddress& place, const std::vector<std::string>& servers,
                         const NodeTraits& traits) {
  const auto paths = config.paths();
  const auto folder = paths.node();
  RETURN_IF_ERROR(makeDirs(folder + "/var", 0700));
  node::NodeOptions options;
  options.name = config.name;
  options.zone = config.zone;
  options.region = config.region;
  options.servers = servers;
  options.followMasters = true;
  options.caFile = paths.authority();
  options.certFile = options.keyFile = platform::identityFile(paths.nodeIdentity());
  options.dataDir = folder + "/var";
  options.runDir = paths.run() + "/node";
  options.cgroupParent = config.cgroup();
  options.ipv6First = config.ipv6First;
  if (!config.podRange.empty()) {
    options.address = place.address;
    options.segment = place.segment;
  }
  options.announceAddresses = true;
  options.podRange = config.podRange;
  options.serviceRange = config.serviceRange;
  options.podRange6 = config.podRange6;
  options.serviceRange6 = config.serviceRange6;
  if (!config.podRange6.empty()) {
    options.address6 = place.address6;
    options.segment6 = place.segment6;
  }
  options.dnsAddress = addressIn(config.firstServiceRange(), 10);
  options.domain = kDomain;
  options.resolvConf = resolverFile();
  options.registriesFile = kRegistries;
  options.labels = traits.labels;
  options.taints = traits.taints;
  return writeFileDurably(paths.nodeConfig(), json::serialize(node::toJson(options)) + "\n", 0600);
}

Result<HostConfig> prepareServer(const ServerRequest& request, WallTime now) {
  RETURN_IF_ERROR(validate(request));
  if (hostExists(request.dataDir)) return addNode(request, now);
  HostConfig config;
  config.dataDir = request.dataDir;
  config.cluster = request.cluster;
  config.region = request.region;
  config.zone = request.zone.empty() ? request.region + "-1" : request.zone;
  config.name = request.hostName;
  if (config.name.empty()) {
    ASSIGN_OR_RETURN(config.name, defaultHostName());
  }
  takeRanges(request, config);
  config.port = request.port;
  config.master = true;
  config.member = request.store == "etcd";
  config.node = request.node;
  if (config.member) RETURN_IF_ERROR(platform::findEtcd());
  ASSIGN_OR_RETURN(auto place, findAddress(request.advertise, config.ipv6First));
  config.address = place.first(config.ipv6First);
  RETURN_IF_ERROR(checkRangesFree({config.podRange, config.serviceRange, config.podRange6, config.serviceRange6}));
  RETURN_IF_ERROR(checkPortFree(config.address, config.port));
  if (config.node) config.settings = networkSettings(!config.podRange6.empty());
  const bool encrypts = request.encryptSecrets || request.sensitivity == platform::kRestricted;
  auto written = makeKeys(config, encrypts, now);
  if (written.ok()) written = writeMaster(config, settingsOf(config, request), now);
  if (written.ok() && config.node) written = writeOwnNode(config, place, now);
  if (written.ok()) written = saveHost(config);
  if (!written.ok()) {
    (void)removeTree(config.paths().root).ok();
    return std::move(written).error();
  }
  return config;
}

}  // namespace dhow::host
