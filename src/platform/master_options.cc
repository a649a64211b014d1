#include "platform/master_options.h"

#include <boost/json/parse.hpp>

#include <span>

#include "base/files.h"
#include "network/families.h"

namespace dhow::platform {

namespace json = boost::json;

namespace {

constexpr int64_t kLongestCertificate = int64_t{3650} * 86400;
constexpr int64_t kLongestSnapshotEvery = int64_t{366} * 86400;

struct TextField {
  const char* name;
  std::string MasterOptions::* member;
};

constexpr TextField kTexts[] = {
    {"name", &MasterOptions::name},
    {"cluster", &MasterOptions::cluster},
    {"region", &MasterOptions::region},
    {"address", &MasterOptions::address},
    {"advertise", &MasterOptions::advertise},
    {"caFile", &MasterOptions::caFile},
    {"certFile", &MasterOptions::certFile},
    {"keyFile", &MasterOptions::keyFile},
    {"serviceAccountKeyFile", &MasterOptions::serviceAccountKeyFile},
};
constexpr TextField kOptionalTexts[] = {
    {"podRange", &MasterOptions::podRange},
    {"serviceRange", &MasterOptions::serviceRange},
    {"caKeyFile", &MasterOptions::caKeyFile},
    {"adminFile", &MasterOptions::adminFile},
    {"kubeconfigFile", &MasterOptions::kubeconfigFile},
    {"loadBalancerRange", &MasterOptions::loadBalancerRange},
    {"regionUrl", &MasterOptions::regionUrl},
    {"store", &MasterOptions::store},
    {"etcdCaFile", &MasterOptions::etcdCaFile},
    {"etcdCaKeyFile", &MasterOptions::etcdCaKeyFile},
    {"etcdCertFile", &MasterOptions::etcdCertFile},
    {"etcdKeyFile", &MasterOptions::etcdKeyFile},
    {"storePrefix", &MasterOptions::storePrefix},
    {"storeFrom", &MasterOptions::storeFrom},
    {"snapshots", &MasterOptions::snapshots},
    {"member", &MasterOptions::member},
    {"memberReady", &MasterOptions::memberReady},
    {"auditFile", &MasterOptions::auditFile},
    {"encryptionFile", &MasterOptions::encryptionFile},
    {"podRange6", &MasterOptions::podRange6},
    {"serviceRange6", &MasterOptions::serviceRange6},
    {"loadBalancerRange6", &MasterOptions::loadBalancerRange6},
};

Error wrong(std::string_view field, std::string_view what) {
  return Error(Code::kInvalid, fmt::format("master configuration: {}: {}", field, what));
}

Result<> readTexts(std::string_view name, const json::value& value, std::vector<std::string>& out) {
  if (!value.is_array()) return wrong(name, "must be a list");
  for (const auto& item : value.get_array()) {
    if (!item.is_string()) return wrong(name, "must be a list of texts");
    out.emplace_back(item.get_string());
  }
  return {};
}

Result<> readField(MasterOptions& options, std::string_view name, const json::value& value) {
  for (std::span<const TextField> fields :
       {std::span<const TextField>(kTexts), std::span<const TextField>(kOptionalTexts)}) {
    for (const auto& field : fields) {
      if (name != field.name) continue;
      if (!value.is_string()) return wrong(name, "must be a text");
      options.*field.member = value.get_string();
      return {};
    }
  }
  if (name == "etcd") return readTexts(name, value, options.etcd);
  if (name == "zones") return readTexts(name, value, options.zones);
  for (const auto& [known, into] :
       {std::pair{"restricted", &options.restricted}, std::pair{"ipv6First", &options.ipv6First}}) {
    if (name != known) continue;
    if (!value.is_bool()) return wrong(name, "must be true or false");
    *into = value.get_bool();
    return {};
  }
  if (name == "peers") {
    if (!value.is_object()) return wrong(name, "must be an object");
    for (const auto& [peer, address] : value.get_object()) {
      if (!address.is_string()) return wrong(name, "must be an object of texts");
      options.peers[peer] = address.get_string();
    }
    return {};
  }
  if (name == "nodes") {
    if (!value.is_int64() || value.get_int64() < 0 || value.get_int64() > 10000) return wrong(name, "from 0 to 10000");
    options.nodes = static_cast<int>(value.get_int64());
    return {};
  }
  if (name == "snapshotEvery") {
    if (!value.is_int64() || value.get_int64() < 0 || value.get_int64() > kLongestSnapshotEvery)
      return wrong(name, "from 0 to the seconds of a year");
    options.snapshotEvery = static_cast<int>(value.get_int64());
    return {};
  }
  if (name == "certificateSeconds") {
    if (!value.is_int64() || value.get_int64() < 0 || value.get_int64() > kLongestCertificate)
      return wrong(name, "from 0 to the seconds of ten years");
    options.certificateSeconds = static_cast<int>(value.get_int64());
    return {};
  }
  if (name != "port") return {};  // another version's
  if (!value.is_int64() || value.get_int64() < 1 || value.get_int64() > 65535) return wrong(name, "from 1 to 65535");
  options.port = static_cast<uint16_t>(value.get_int64());
  return {};
}

}  // namespace

Result<MasterOptions> parseMasterOptions(std::string_view bytes) {
  boost::system::error_code failed;
  json::value root = json::parse(bytes, failed);
  if (failed || !root.is_object()) return Error(Code::kInvalid, "master configuration: not a JSON object");
  MasterOptions options;
  for (const auto& [name, value] : root.get_object()) RETURN_IF_ERROR(readField(options, name, value));
  for (const auto& field : kTexts) {
    if ((options.*field.member).empty()) return wrong(field.name, "is needed");
  }
  if (options.port == 0) return wrong("port", "is needed");
  if (options.podRanges().empty()) return wrong("podRange", "is needed, or podRange6");
  if (options.serviceRanges().empty()) return wrong("serviceRange", "is needed, or serviceRange6");
  if (options.snapshotEvery > 0 && options.snapshots.empty()) return wrong("snapshots", "is needed by snapshotEvery");
  if (!options.storeFrom.empty() && options.etcd.empty()) return wrong("storeFrom", "needs etcd");
  if (options.store.empty() == options.etcd.empty()) return wrong("store", "give either this or etcd");
  if (options.adminFile.empty() != options.kubeconfigFile.empty())
    return wrong("adminFile", "goes with kubeconfigFile");
  if (!options.member.empty() && !options.peers.contains(options.name)) return wrong("peers", "must name this master");
  return options;
}

Result<MasterOptions> loadMasterOptions(const std::string& path) {
  ASSIGN_OR_RETURN(std::string bytes, readFile(path, 1 << 20));
  auto options = parseMasterOptions(bytes);
  if (!options.ok()) return options.error().wrap(path);
  return options;
}

json::object toJson(const MasterOptions& options) {
  json::object out;
  for (const auto& field : kTexts) out[field.name] = options.*field.member;
  for (const auto& field : kOptionalTexts) out[field.name] = options.*field.member;
  out["port"] = options.port;
  out["restricted"] = options.restricted;
  out["ipv6First"] = options.ipv6First;
  out["snapshotEvery"] = options.snapshotEvery;
  out["certificateSeconds"] = options.certificateSeconds;
  out["nodes"] = options.nodes;
  out["zones"] = json::array(options.zones.begin(), options.zones.end());
  out["etcd"] = json::array(options.etcd.begin(), options.etcd.end());
  json::object peers;
  for (const auto& [peer, address] : options.peers) peers[peer] = address;
  out["peers"] = std::move(peers);
  return out;
}

std::vector<std::string> MasterOptions::podRanges() const {
  return inFamilyOrder(podRange, podRange6, ipv6First);
}
std::vector<std::string> MasterOptions::serviceRanges() const {
  return inFamilyOrder(serviceRange, serviceRange6, ipv6First);
}
std::vector<std::string> MasterOptions::loadBalancerRanges() const {
  return inFamilyOrder(loadBalancerRange, loadBalancerRange6, ipv6First);
}

}  // namespace dhow::platform
