#include "platform/config.h"

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>

#include "base/files.h"
#include "base/strings.h"
#include "base/version.h"
#include "network/ip.h"

namespace dhow::platform {

namespace json = boost::json;

namespace {

std::string segment(int index, int zone, int host) {
  return fmt::format("10.89.{}.{}", index * 8 + zone, host);
}

// Hosts' numbers look as in IPv4.
std::string segment6(int index, int zone, int host) {
  return IpAddress::parse(fmt::format("fd00:10:89:{:x}::{}", index * 8 + zone, host)).valueOr(IpAddress()).str();
}

std::string addressIn(const std::string& range, uint64_t offset) {
  const auto parsed = IpPrefix::parse(range);
  return parsed.ok() ? parsed->network().plus(offset).str() : std::string();
}

constexpr const char *kIpv4 = "IPv4", *kIpv6 = "IPv6", *kIpv4First = "IPv4,IPv6", *kIpv6First = "IPv6,IPv4";

// Counts up when an older program would misread the file, not when a field is added. Of the second one are clusters
// whose first family is IPv6.
constexpr int kForm = 2, kFormOfIpv4 = 1;

Result<json::object> readObject(const std::string& path) {
  ASSIGN_OR_RETURN(auto text, readFile(path, 1 << 20));
  boost::system::error_code error;
  auto value = json::parse(text, error);
  if (error || !value.is_object()) return Error(Code::kDataLoss, "read " + path + ": not a JSON object");
  return std::move(value.get_object());
}

std::vector<std::string> endpointsOf(const std::string& datastore) {
  return split(datastore.substr(datastore.find('=') + 1), ',');
}

bool isDnsLabel(const std::string& name) {
  if (name.empty() || name.size() > 40 || name.front() == '-' || name.back() == '-') return false;
  return std::all_of(name.begin(), name.end(),
                     [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-'; });
}

}  // namespace

std::string ClusterConfig::zoneName(int zone) const {
  return fmt::format("{}-{}", region, zone);
}
std::string ClusterConfig::zoneSubnet(int zone) const {
  return segment(index, zone, 0) + "/24";
}
std::string ClusterConfig::zoneGateway(int zone) const {
  return segment(index, zone, 1);
}
std::string ClusterConfig::uplinkSubnet() const {
  return segment(index, 0, 0) + "/25";
}
std::string ClusterConfig::hostAddress() const {
  return segment(index, 0, 1);
}
std::string ClusterConfig::routerAddress() const {
  return segment(index, 0, 2);
}
std::string ClusterConfig::loadBalancerRange() const {
  return segment(index, 0, 128) + "/25";
}
std::string ClusterConfig::allSegments() const {
  return segment(index, 0, 0) + "/21";
}
std::string ClusterConfig::machineAddress6(const std::string& address) const {
  if (!ipv6()) return "";
  const auto parts = split(address, '.');
  return fmt::format("fd00:10:89:{:x}::{}", parseInt(parts[2]).value_or(0), parts[3]);
}
std::string ClusterConfig::zoneSubnet6(int zone) const {
  return fmt::format("fd00:10:89:{:x}::/64", index * 8 + zone);
}
std::string ClusterConfig::zoneGateway6(int zone) const {
  return segment6(index, zone, 1);
}
std::string ClusterConfig::hostAddress6() const {
  return segment6(index, 0, 1);
}
std::string ClusterConfig::routerAddress6() const {
  return segment6(index, 0, 2);
}
std::string ClusterConfig::loadBalancerRange6() const {
  return fmt::format("fd00:10:89:{:x}::1:0/112", index * 8);
}
std::string ClusterConfig::allSegments6() const {
  return fmt::format("fd00:10:89:{:x}::/61", index * 8);
}
std::string ClusterConfig::kubernetesServiceAddress() const {
  return addressIn(ipv6First ? serviceRange6 : serviceRange, 1);
}
std::string ClusterConfig::dnsAddress() const {
  return addressIn(ipv6First ? serviceRange6 : serviceRange, 10);
}
std::string ClusterConfig::apiUrl() const {
  return fmt::format("https://127.0.0.1:{}", apiPort);
}
std::string ClusterConfig::registryHost() const {
  return "registry.dhow.internal:5000";
}

std::string ClusterConfig::engineBridge() const {
  return fmt::format("dhow{}-engine", index);
}
std::string ClusterConfig::engineSubnet() const {
  return fmt::format("10.88.{}.0/24", index);
}

std::vector<NodePlan> ClusterConfig::nodePlans() const {
  std::vector<NodePlan> plans;
  for (int i = 0; i < request.nodes; ++i) {
    int zone = i % request.zones + 1;
    plans.push_back({fmt::format("{}-node-{}", request.name, i + 1), zoneName(zone), zone,
                     segment(index, zone, kFirstNodeHost + i),
                     machineAddress6(segment(index, zone, kFirstNodeHost + i))});
  }
  return plans;
}

std::vector<MasterPlan> ClusterConfig::masterPlans() const {
  std::vector<MasterPlan> plans;
  for (int i = 0; i < request.masters; ++i) {
    int zone = i % request.zones + 1;
    plans.push_back({fmt::format("{}-master-{}", request.name, i + 1), zoneName(zone), zone,
                     segment(index, zone, kFirstMasterHost + i),
                     machineAddress6(segment(index, zone, kFirstMasterHost + i))});
  }
  return plans;
}

std::vector<std::string> ClusterConfig::storeEndpoints() const {
  if (!request.datastore.empty()) return endpointsOf(request.datastore);
  std::vector<std::string> urls;
  if (!request.ownMembers()) return urls;
  for (const auto& plan : masterPlans()) urls.push_back(fmt::format("https://{}:{}", plan.address, kMemberClientPort));
  return urls;
}

std::string ClusterConfig::storePrefix() const {
  if (storeEndpoints().empty()) return "";
  std::string prefix = request.datastore.empty() ? "" : "/dhow/" + request.name;
  if (!request.storeGeneration.empty()) prefix += "!" + request.storeGeneration + "!";
  return prefix;
}

std::vector<std::string> ClusterConfig::masterUrls() const {
  std::vector<std::string> urls;
  for (const auto& plan : masterPlans()) urls.push_back(fmt::format("https://{}:{}", plan.address, apiPort));
  return urls;
}

namespace {

Result<> validateMasters(const ClusterRequest& request) {
  auto invalid = [](std::string text) { return Error(Code::kInvalid, std::move(text)); };
  if (request.masters < 1 || request.masters > kMaxMasters)
    return invalid(fmt::format("--masters {}: from 1 to {}", request.masters, kMaxMasters));
  if (!request.datastore.empty()) {
    if (!request.datastore.starts_with("etcd="))
      return invalid(fmt::format("--datastore {}: give etcd=https://<address>:2379,...", request.datastore));
    for (const auto& endpoint : endpointsOf(request.datastore)) {
      if (!endpoint.starts_with("https://") && !endpoint.starts_with("http://"))
        return invalid(fmt::format("--datastore {}: {} is no http(s) address", request.datastore, endpoint));
    }
    for (const auto* file : {&request.datastoreCa, &request.datastoreCert, &request.datastoreKey}) {
      if (!file->empty() && file->front() != '/')
        return invalid(fmt::format("--datastore: {}: give an absolute path", *file));
    }
    if (request.datastoreCert.empty() != request.datastoreKey.empty())
      return invalid("--datastore-cert and --datastore-key belong together");
    return {};
  }
  if (request.masters % 2 == 0)
    return invalid(
        fmt::format("--masters {}: give an odd number: the store goes on while more than half of its members "
                    "live, so that {} masters survive the loss of no more than {} do",
                    request.masters, request.masters, request.masters - 1));
  return {};
}

}  // namespace

Result<std::chrono::seconds> parseInterval(const std::string& text) {
  if (text == "off") return std::chrono::seconds(0);
  constexpr int64_t kLongestDays = 366;
  constexpr std::pair<char, int64_t> kUnits[] = {{'s', 1}, {'m', 60}, {'h', 3600}, {'d', 86400}};
  auto count = text.empty() ? std::nullopt : parseInt(std::string_view(text).substr(0, text.size() - 1));
  for (auto [unit, seconds] : kUnits) {
    if (!count || text.back() != unit || *count < 1 || *count > kLongestDays * 86400 / seconds) continue;
    return std::chrono::seconds(*count * seconds);
  }
  return Error(Code::kInvalid, fmt::format("\"{}\": give a time as 30m, 1h or 1d, or off", text));
}

Result<> validateRequest(const ClusterRequest& request) {
  auto invalid = [](std::string text) { return Error(Code::kInvalid, std::move(text)); };
  if (!isDnsLabel(request.name))
    return invalid(
        fmt::format("--name {}: a cluster's name is 1 to 40 lower-case letters, digits or '-'", request.name));
  if (!request.sensitivity.empty() && request.sensitivity != kPublic && request.sensitivity != kInternal &&
      request.sensitivity != kRestricted)
    return invalid(fmt::format("--sensitivity {}: public, internal or restricted", request.sensitivity));
  const auto& families = request.ipFamilies;
  if (!families.empty() && families != kIpv4 && families != kIpv6 && families != kIpv4First && families != kIpv6First)
    return invalid(fmt::format("--ip-families {}: {}, {}, {} or {}: one family, or both with the first one first",
                               families, kIpv4, kIpv6, kIpv4First, kIpv6First));
  RETURN_IF_ERROR(validateMasters(request));
  if (request.nodes < 1 || request.nodes > kMaxNodes)
    return invalid(fmt::format("--nodes {}: from 1 to {}", request.nodes, kMaxNodes));
  if (request.zones < 1 || request.zones > kMaxZones)
    return invalid(fmt::format("--zones {}: from 1 to {}", request.zones, kMaxZones));
  if (request.zones > request.nodes)
    return invalid(fmt::format("--zones {}: more zones than nodes ({})", request.zones, request.nodes));
  if (!request.snapshotEvery.empty()) {
    auto every = parseInterval(request.snapshotEvery);
    if (!every.ok()) return every.error().wrap("--snapshot-every");
  }
  if (request.certificateSeconds != 0 && request.certificateSeconds < 30)
    return invalid(fmt::format("--certificate-seconds {}: 30 at least", request.certificateSeconds));
  if (request.dataDir.empty() || request.dataDir.front() != '/')
    return invalid(fmt::format("--data {}: give an absolute path", request.dataDir));
  return {};
}

ClusterConfig configFor(const ClusterRequest& request, int index) {
  ClusterConfig config;
  config.request = request;
  if (config.request.sensitivity.empty()) config.request.sensitivity = kInternal;
  config.index = index;
  auto& families = config.request.ipFamilies;
  if (families.empty()) families = kIpv4;
  config.ipv6First = families.starts_with(kIpv6);
  // The first cluster has Kubernetes' customary ranges; pods grow down and services up from there.
  if (families != kIpv6) {
    config.podRange = fmt::format("10.{}.0.0/16", 244 - index);
    config.serviceRange = fmt::format("10.{}.0.0/16", 96 + index);
  }
  // Documented for kubeadm's clusters of two families; the index is read as digits.
  if (families != kIpv4) {
    config.podRange6 = fmt::format("fd00:10:{}::/56", 244 - index);
    config.serviceRange6 = fmt::format("fd00:10:{}::/108", 96 + index);
  }
  config.apiPort = static_cast<uint16_t>(6443 + index);
  config.registryPort = 5000;
  config.regionPort = 7443;
  return config;
}

Result<> saveConfig(const ClusterConfig& config) {
  json::object out{{"form", config.ipv6First ? kForm : kFormOfIpv4},
                   {"name", config.request.name},
                   {"masters", config.request.masters},
                   {"nodes", config.request.nodes},
                   {"zones", config.request.zones},
                   {"datastore", config.request.datastore},
                   {"datastoreCa", config.request.datastoreCa},
                   {"datastoreCert", config.request.datastoreCert},
                   {"datastoreKey", config.request.datastoreKey},
                   {"sensitivity", config.request.sensitivity},
                   {"encryptSecrets", config.request.encryptSecrets},
                   {"snapshotEvery", config.request.snapshotEvery},
                   {"certificateSeconds", config.request.certificateSeconds},
                   {"movedToEtcd", config.request.movedToEtcd},
                   {"storeGeneration", config.request.storeGeneration},
                   {"index", config.index},
                   {"region", config.region},
                   {"domain", config.domain},
                   {"podRange", config.podRange},
                   {"serviceRange", config.serviceRange},
                   {"podRange6", config.podRange6},
                   {"serviceRange6", config.serviceRange6},
                   {"ipv6First", config.ipv6First},
                   {"apiPort", config.apiPort},
                   {"registryPort", config.registryPort},
                   {"regionPort", config.regionPort},
                   {"program", config.program},
                   {"previousProgram", config.previousProgram},
                   {"storeForm", config.storeForm}};
  if (auto present = readObject(config.paths().config()); present.ok()) out.insert(present->begin(), present->end());
  return writeFileDurably(config.paths().config(), json::serialize(out) + "\n");
}

Result<ClusterConfig> loadConfig(const ClusterPaths& paths) {
  ASSIGN_OR_RETURN(const auto object, readObject(paths.config()));
  ClusterConfig config;
  config.request.dataDir = paths.data;
  bool whole = true;
  auto number = [&](const char* key) {
    auto* field = object.if_contains(key);
    whole = whole && field && field->is_int64();
    return field && field->is_int64() ? static_cast<int>(field->get_int64()) : 0;
  };
  auto text_ = [&](const char* key) {
    auto* field = object.if_contains(key);
    whole = whole && field && field->is_string();
    return field && field->is_string() ? std::string(field->get_string()) : std::string();
  };
  if (object.contains("form") && number("form") > kForm)
    return Error(Code::kFailedPrecondition,
                 fmt::format("{} has form {} (the cluster runs dhow {}); this is dhow {}, which knows forms up to {}",
                             paths.config(), number("form"), text_("program"), thisProgram().version.text(), kForm));
  config.request.name = text_("name");
  config.request.masters = number("masters");
  config.request.nodes = number("nodes");
  config.request.zones = number("zones");
  config.request.datastore = text_("datastore");
  config.request.datastoreCa = text_("datastoreCa");
  config.request.datastoreCert = text_("datastoreCert");
  config.request.datastoreKey = text_("datastoreKey");
  // Clusters that are older than this field are internal.
  config.request.sensitivity = object.contains("sensitivity") ? text_("sensitivity") : kInternal;
  if (const auto* encrypts = object.if_contains("encryptSecrets"))
    config.request.encryptSecrets = encrypts->is_bool() && encrypts->get_bool();
  config.index = number("index");
  config.region = text_("region");
  config.domain = text_("domain");
  config.podRange = text_("podRange");
  config.serviceRange = text_("serviceRange");
  config.apiPort = static_cast<uint16_t>(number("apiPort"));
  config.registryPort = static_cast<uint16_t>(number("registryPort"));
  config.regionPort = static_cast<uint16_t>(number("regionPort"));
  // Clusters of before these were known go without.
  if (object.contains("podRange6")) config.podRange6 = text_("podRange6");
  if (object.contains("serviceRange6")) config.serviceRange6 = text_("serviceRange6");
  if (const auto* first = object.if_contains("ipv6First")) config.ipv6First = *first == true;
  config.request.ipFamilies = !config.ipv6()     ? kIpv4
                              : !config.ipv4()   ? kIpv6
                              : config.ipv6First ? kIpv6First
                                                 : kIpv4First;
  if (object.contains("snapshotEvery")) config.request.snapshotEvery = text_("snapshotEvery");
  if (object.contains("certificateSeconds"))
    config.request.certificateSeconds = static_cast<int>(number("certificateSeconds"));
  if (object.contains("storeGeneration")) config.request.storeGeneration = text_("storeGeneration");
  if (object.contains("program")) config.program = text_("program");
  if (object.contains("previousProgram")) config.previousProgram = text_("previousProgram");
  if (object.contains("storeForm")) config.storeForm = number("storeForm");
  if (auto* moved = object.if_contains("movedToEtcd")) config.request.movedToEtcd = *moved == true;
  if (!whole) return Error(Code::kDataLoss, "read " + paths.config() + ": a field is missing");
  RETURN_IF_ERROR(validateRequest(config.request));
  return config;
}

Error noSuchCluster(const ClusterPaths& paths) {
  return Error(Code::kNotFound, fmt::format("there is no cluster \"{}\" in {}; `dhow up` starts one",
                                            paths.root.substr(paths.root.rfind('/') + 1), paths.data));
}

Result<std::vector<ClusterPaths>> knownClusters() {
  std::vector<ClusterPaths> clusters;
  if (!pathExists(kRunDir)) return clusters;
  ASSIGN_OR_RETURN(auto names, listDir(kRunDir));
  for (const auto& name : names) {
    auto data = readFile(fmt::format("{}/{}/data", kRunDir, name), 4096);
    if (data.ok()) clusters.emplace_back(std::string(trim(*data)), name);
  }
  return clusters;
}

Result<std::vector<ClusterPaths>> clustersIn(const std::string& dataDir) {
  std::vector<ClusterPaths> clusters;
  if (!pathExists(dataDir + "/clusters")) return clusters;
  ASSIGN_OR_RETURN(auto names, listDir(dataDir + "/clusters"));
  for (const auto& name : names) {
    ClusterPaths paths(dataDir, name);
    if (pathExists(paths.config())) clusters.push_back(std::move(paths));
  }
  return clusters;
}

}  // namespace dhow::platform
