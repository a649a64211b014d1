#include "options.h"

#include <boost/json/parse.hpp>

#include "base/files.h"
#include "network/families.h"

namespace dhow::node {

namespace json = boost::json;

namespace {

std::string member(const json::object& object, std::string_view name) {
  const json::value* value = object.if_contains(name);
  return value != nullptr && value->is_string() ? std::string(value->get_string()) : std::string();
}

Error wrong(std::string_view field, std::string_view what) {
  return Error(Code::kInvalid, fmt::format("node configuration: {}: {}", field, what));
}

Result<> readText(const json::value& value, std::string_view name, std::string& into) {
  if (!value.is_string()) return wrong(name, "must be text");
  into = std::string(value.get_string());
  return {};
}

template <class T>
Result<> readNumber(const json::value& value, std::string_view name, int64_t least, int64_t most, T& into) {
  if (!value.is_int64() || value.get_int64() < least || value.get_int64() > most) {
    return wrong(name, fmt::format("must be a number from {} to {}", least, most));
  }
  into = static_cast<T>(value.get_int64());
  return {};
}

Result<> readMap(const json::value& value, std::string_view name, std::map<std::string, std::string>& into) {
  if (!value.is_object()) return wrong(name, "must be an object");
  for (const auto& [key, entry] : value.get_object()) {
    if (!entry.is_string()) return wrong(name, "values must be text");
    into[std::string(key)] = std::string(entry.get_string());
  }
  return {};
}

Result<> readTaints(const json::value& value, std::vector<Taint>& into) {
  if (!value.is_array()) return wrong("taints", "must be a list");
  for (const json::value& entry : value.get_array()) {
    if (!entry.is_object()) return wrong("taints", "must be objects");
    const json::object& taint = entry.get_object();
    into.push_back({member(taint, "key"), member(taint, "value"), member(taint, "effect")});
    if (into.back().key.empty() || into.back().effect.empty()) return wrong("taints", "key and effect are needed");
  }
  return {};
}

Result<> readServers(const json::value& value, std::vector<std::string>& into) {
  if (!value.is_array()) return wrong("servers", "must be a list");
  for (const json::value& server : value.get_array()) {
    if (!server.is_string() || !server.get_string().starts_with("https://")) {
      return wrong("servers", "must be https addresses");
    }
    into.emplace_back(server.get_string());
  }
  return {};
}

Result<> readField(NodeOptions& o, std::string_view name, const json::value& value) {
  const std::pair<std::string_view, std::string*> texts[] = {{"name", &o.name},
                                                             {"zone", &o.zone},
                                                             {"region", &o.region},
                                                             {"caFile", &o.caFile},
                                                             {"certFile", &o.certFile},
                                                             {"keyFile", &o.keyFile},
                                                             {"dataDir", &o.dataDir},
                                                             {"runDir", &o.runDir},
                                                             {"cgroupParent", &o.cgroupParent},
                                                             {"shimPath", &o.shimPath},
                                                             {"address", &o.address},
                                                             {"segment", &o.segment},
                                                             {"podRange", &o.podRange},
                                                             {"serviceRange", &o.serviceRange},
                                                             {"podRange6", &o.podRange6},
                                                             {"serviceRange6", &o.serviceRange6},
                                                             {"address6", &o.address6},
                                                             {"segment6", &o.segment6},
                                                             {"dnsAddress", &o.dnsAddress},
                                                             {"domain", &o.domain},
                                                             {"resolvConf", &o.resolvConf},
                                                             {"registriesFile", &o.registriesFile}};
  for (const auto& [known, into] : texts) {
    if (name == known) return readText(value, name, *into);
  }
  const std::pair<std::string_view, bool*> flags[] = {{"followMasters", &o.followMasters},
                                                      {"isolatePods", &o.isolatePods},
                                                      {"announceAddresses", &o.announceAddresses},
                                                      {"ipv6First", &o.ipv6First}};
  for (const auto& [known, into] : flags) {
    if (name != known) continue;
    if (!value.is_bool()) return wrong(name, "must be true or false");
    *into = value.get_bool();
    return {};
  }
  if (name == "servers") return readServers(value, o.servers);
  if (name == "registries") {
    if (!value.is_object()) return wrong(name, "must be an object");
    o.registries = value.get_object();
    return {};
  }
  if (name == "labels") return readMap(value, name, o.labels);
  if (name == "resources") return readMap(value, name, o.resources);
  if (name == "reserved") return readMap(value, name, o.reserved);
  if (name == "taints") return readTaints(value, o.taints);
  if (name == "maxPods") return readNumber(value, name, 1, 10000, o.maxPods);
  if (name == "firstUser") return readNumber(value, name, 65536, 0xffff0000, o.firstUser);
  if (name == "poolSize") return readNumber(value, name, 0, 1000, o.poolSize);
  if (name == "logMaxSize") return readNumber(value, name, 4096, int64_t{1} << 40, o.logMaxSize);
  if (name == "logMaxFiles") return readNumber(value, name, 1, 1000, o.logMaxFiles);
  return {};
}

}  // namespace

Result<NodeOptions> parseNodeOptions(std::string_view bytes) {
  boost::system::error_code failed;
  json::value root = json::parse(bytes, failed);
  if (failed || !root.is_object()) return Error(Code::kInvalid, "node configuration: not a JSON object");
  NodeOptions options;
  for (const auto& [name, value] : root.get_object()) RETURN_IF_ERROR(readField(options, name, value));
  const std::pair<std::string_view, const std::string*> needed[] = {
      {"name", &options.name},       {"caFile", &options.caFile},   {"certFile", &options.certFile},
      {"keyFile", &options.keyFile}, {"dataDir", &options.dataDir}, {"runDir", &options.runDir}};
  for (const auto& [name, value] : needed) {
    if (value->empty()) return wrong(name, "is needed");
  }
  if (options.servers.empty()) return wrong("servers", "is needed");
  if (options.podRange.empty() && options.podRange6.empty()) return wrong("podRange", "is needed, or podRange6");
  if (nodeAddressesOf(options).empty()) return wrong(options.podRange.empty() ? "address6" : "address", "is needed");
  const int64_t lastUser = options.firstUser + options.maxPods * 65536;
  if (options.firstUser % 65536 != 0 || lastUser > 0xffff0000)
    return wrong("firstUser", "must be a multiple of 65536, with 65536 ids for each of maxPods from there");
  if (!options.cgroupParent.starts_with('/')) return wrong("cgroupParent", "must start with /");
  return options;
}

Result<NodeOptions> loadNodeOptions(const std::string& path) {
  ASSIGN_OR_RETURN(std::string bytes, readFile(path, 1 << 20));
  auto options = parseNodeOptions(bytes);
  if (!options.ok()) return options.error().wrap(path);
  return options;
}

json::object toJson(const NodeOptions& o) {
  json::object out{{"name", o.name},
                   {"zone", o.zone},
                   {"region", o.region},
                   {"caFile", o.caFile},
                   {"certFile", o.certFile},
                   {"keyFile", o.keyFile},
                   {"dataDir", o.dataDir},
                   {"runDir", o.runDir},
                   {"cgroupParent", o.cgroupParent},
                   {"shimPath", o.shimPath},
                   {"address", o.address},
                   {"segment", o.segment},
                   {"podRange", o.podRange},
                   {"serviceRange", o.serviceRange},
                   {"podRange6", o.podRange6},
                   {"serviceRange6", o.serviceRange6},
                   {"address6", o.address6},
                   {"segment6", o.segment6},
                   {"dnsAddress", o.dnsAddress},
                   {"domain", o.domain},
                   {"resolvConf", o.resolvConf},
                   {"registriesFile", o.registriesFile},
                   {"registries", o.registries},
                   {"followMasters", o.followMasters},
                   {"maxPods", o.maxPods},
                   {"firstUser", static_cast<int64_t>(o.firstUser)},
                   {"poolSize", o.poolSize},
                   {"isolatePods", o.isolatePods},
                   {"announceAddresses", o.announceAddresses},
                   {"ipv6First", o.ipv6First},
                   {"logMaxSize", static_cast<int64_t>(o.logMaxSize)},
                   {"logMaxFiles", static_cast<int64_t>(o.logMaxFiles)}};
  json::array servers(o.servers.begin(), o.servers.end());
  out["servers"] = std::move(servers);
  auto map = [](const std::map<std::string, std::string>& values) {
    json::object object;
    for (const auto& [key, value] : values) object[key] = value;
    return object;
  };
  out["labels"] = map(o.labels);
  out["resources"] = map(o.resources);
  out["reserved"] = map(o.reserved);
  json::array taints;
  for (const Taint& taint : o.taints) {
    taints.push_back(json::object{{"key", taint.key}, {"value", taint.value}, {"effect", taint.effect}});
  }
  out["taints"] = std::move(taints);
  return out;
}

Result<std::vector<IpAddress>> dnsAddressesOf(const NodeOptions& options) {
  constexpr uint64_t kNumber = 10;
  std::vector<IpAddress> out;
  ASSIGN_OR_RETURN(out.emplace_back(), IpAddress::parse(options.dnsAddress));
  const std::string& other = out.front().isV4() ? options.serviceRange6 : options.serviceRange;
  if (other.empty()) return out;
  ASSIGN_OR_RETURN(IpPrefix range, IpPrefix::parse(other));
  out.push_back(range.network().plus(kNumber));
  return out;
}

std::vector<std::string> nodeAddressesOf(const NodeOptions& options) {
  return inFamilyOrder(options.podRange.empty() ? "" : options.address, options.address6, options.ipv6First);
}

}  // namespace dhow::node
