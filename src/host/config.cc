#include "host/config.h"

#include <limits.h>
#include <unistd.h>

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>

#include "base/files.h"
#include "base/strings.h"
#include "base/url_host.h"
#include "client/bootstrap_token.h"
#include "network/families.h"
#include "network/ip.h"
#include "platform/config.h"

namespace dhow::host {

namespace json = boost::json;

namespace {

constexpr int kWidestRange = 8, kNarrowestPods = 22, kNarrowestServices = 24, kNarrowestBalanced = 30;
// Of IPv6. Nodes have a /64 each.
constexpr int kWidestPods6 = 32, kNarrowestPods6 = 60, kWidestServices6 = 108, kNarrowestServices6 = 120;
constexpr int kWidestBalanced6 = 64, kNarrowestBalanced6 = 126;
constexpr size_t kHashSize = 64;

Error invalid(std::string text) {
  return Error(Code::kInvalid, std::move(text));
}

// RFC 1123: a Node's name is a subdomain.
bool isName(const std::string& name, bool dots) {
  if (name.empty() || name.size() > 63) return false;
  for (const auto& part : split(name, '.')) {
    if (part.empty() || part.front() == '-' || part.back() == '-') return false;
    if (part.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789-") != part.npos) return false;
  }
  return dots || name.find('.') == name.npos;
}

Result<> checkName(std::string_view option, const std::string& name) {
  if (name.empty() || isName(name, true)) return {};
  return invalid(fmt::format("{} {}: give lower-case letters, digits, '-' and '.', at most 63", option, name));
}

struct Lengths {
  int widest, narrowest, widest6, narrowest6;
};

// Of the family as it is written; "" is none.
Result<IpPrefix> checkRange(std::string_view option, const std::string& text, const Lengths& lengths) {
  if (text.empty()) return IpPrefix();
  const bool six = text.find(':') != std::string::npos;
  const int widest = six ? lengths.widest6 : lengths.widest, narrowest = six ? lengths.narrowest6 : lengths.narrowest;
  auto range = IpPrefix::parse(text);
  if (range.ok() && range->masked() == *range && range->length >= widest && range->length <= narrowest) return range;
  return invalid(
      fmt::format("{} {}: give an {} range, from /{} to /{}, as {}; for two families one of each, with a comma between",
                  option, text, six ? "IPv6" : "IPv4", widest, narrowest,
                  six ? fmt::format("fd00:10:244::/{}", std::max(widest, std::min(56, narrowest))) : "10.244.0.0/16"));
}

struct CheckedRanges {
  FamilyRanges text;
  IpPrefix v4, v6;
  bool overlaps(const CheckedRanges& other) const { return v4.overlaps(other.v4) || v6.overlaps(other.v6); }
};

Result<CheckedRanges> checkRanges(std::string_view option, const std::string& text, const Lengths& lengths) {
  CheckedRanges out;
  ASSIGN_OR_RETURN(out.text, familyRanges(option, text));
  ASSIGN_OR_RETURN(out.v4, checkRange(option, out.text.v4, lengths));
  ASSIGN_OR_RETURN(out.v6, checkRange(option, out.text.v6, lengths));
  return out;
}

Result<> checkAddress(std::string_view option, const std::string& address) {
  if (address.empty()) return {};
  auto parsed = IpAddress::parse(address);
  if (!parsed.ok() || parsed->isLoopback() || parsed->isUnspecified())
    return invalid(fmt::format("{} {}: give an address of this machine that the others reach", option, address));
  return {};
}

std::string familiesOf(const FamilyRanges& ranges) {
  return join(inFamilyOrder(ranges.v4.empty() ? "" : "IPv4", ranges.v6.empty() ? "" : "IPv6", ranges.v6First), ",");
}

Result<> checkAllRanges(const ServerRequest& request) {
  ASSIGN_OR_RETURN(auto pods, checkRanges("--pod-range", request.podRange,
                                          {kWidestRange, kNarrowestPods, kWidestPods6, kNarrowestPods6}));
  ASSIGN_OR_RETURN(auto services,
                   checkRanges("--service-range", request.serviceRange,
                               {kWidestRange, kNarrowestServices, kWidestServices6, kNarrowestServices6}));
  if (pods.overlaps(services))
    return invalid(
        fmt::format("--pod-range {} and --service-range {} overlap", request.podRange, request.serviceRange));
  const auto families = familiesOf(pods.text);
  if (families != familiesOf(services.text))
    return invalid(
        fmt::format("--pod-range {} is of {} and --service-range {} of {}: give both ranges of the same families, in "
                    "the same order",
                    request.podRange, families, request.serviceRange, familiesOf(services.text)));
  if (!pods.text.v6.empty() && !pathExists("/proc/sys/net/ipv6"))
    return invalid("--pod-range: this machine's kernel has no IPv6; give IPv4 ranges alone");
  if (!request.advertise.empty() && IpAddress::parse(request.advertise)->isV6() != pods.text.v6First)
    return invalid(fmt::format("--advertise {}: give an {} address, which is the first family of --pod-range",
                               request.advertise, pods.text.v6First ? "IPv6" : "IPv4"));
  if (request.loadBalancerRange.empty()) return {};
  ASSIGN_OR_RETURN(auto balanced,
                   checkRanges("--load-balancer-range", request.loadBalancerRange,
                               {kWidestRange, kNarrowestBalanced, kWidestBalanced6, kNarrowestBalanced6}));
  for (const auto& [range, family] : {std::pair(balanced.text.v4, pods.text.v4), {balanced.text.v6, pods.text.v6}}) {
    if (!range.empty() && family.empty())
      return invalid(fmt::format("--load-balancer-range {}: the cluster has addresses of {} alone", range, families));
  }
  if (balanced.overlaps(pods) || balanced.overlaps(services))
    return invalid(
        fmt::format("--load-balancer-range {} overlaps the pods' or the services' range", request.loadBalancerRange));
  return {};
}

Result<> checkData(const std::string& dataDir) {
  if (dataDir.empty() || dataDir.front() != '/')
    return invalid(fmt::format("--data {}: give an absolute path", dataDir));
  return {};
}

struct TextField {
  const char* name;
  std::string HostConfig::* member;
};
// Hosts that are older than these go without.
constexpr TextField kOptionalTexts[] = {{"podRange6", &HostConfig::podRange6},
                                        {"serviceRange6", &HostConfig::serviceRange6}};
constexpr const char* kIpv6First = "ipv6First";
constexpr TextField kTexts[] = {
    {"name", &HostConfig::name},
    {"cluster", &HostConfig::cluster},
    {"region", &HostConfig::region},
    {"zone", &HostConfig::zone},
    {"address", &HostConfig::address},
    {"podRange", &HostConfig::podRange},
    {"serviceRange", &HostConfig::serviceRange},
};
struct FlagField {
  const char* name;
  bool HostConfig::* member;
};
constexpr FlagField kFlags[] = {
    {"master", &HostConfig::master}, {"member", &HostConfig::member}, {"node", &HostConfig::node}};

}  // namespace

std::string HostConfig::apiUrl() const {
  return fmt::format("https://{}:{}", urlHost(address), port);
}

bool hostExists(const std::string& dataDir) {
  return pathExists(HostPaths(dataDir).config());
}

Result<HostConfig> loadHost(const std::string& dataDir) {
  const auto path = HostPaths(dataDir).config();
  if (!pathExists(path))
    return Error(Code::kNotFound, fmt::format("this machine belongs to no cluster of separate hosts (there is no {}); "
                                              "`dhow server` or `dhow join` makes it belong to one",
                                              path));
  ASSIGN_OR_RETURN(auto text, readFile(path, 1 << 20));
  boost::system::error_code error;
  auto value = json::parse(text, error);
  auto broken = [&] { return Error(Code::kDataLoss, "read " + path + ": a field is missing or of another type"); };
  if (error || !value.is_object()) return broken();
  const auto& object = value.get_object();
  HostConfig config;
  config.dataDir = dataDir;
  for (const auto& field : kTexts) {
    const auto* found = object.if_contains(field.name);
    if (!found || !found->is_string()) return broken();
    config.*field.member = found->get_string();
  }
  for (const auto& field : kOptionalTexts) {
    const auto* found = object.if_contains(field.name);
    if (found && found->is_string()) config.*field.member = found->get_string();
  }
  for (const auto& field : kFlags) {
    const auto* found = object.if_contains(field.name);
    if (!found || !found->is_bool()) return broken();
    config.*field.member = found->get_bool();
  }
  if (const auto* first = object.if_contains(kIpv6First)) config.ipv6First = *first == true;
  const auto* port = object.if_contains("port");
  const auto* settings = object.if_contains("settings");
  if (!port || !port->is_int64() || !settings || !settings->is_object()) return broken();
  config.port = static_cast<uint16_t>(port->get_int64());
  for (const auto& [name, was] : settings->get_object()) {
    if (!was.is_string()) return broken();
    config.settings[name] = was.get_string();
  }
  return config;
}

std::string FamilyRanges::text() const {
  return join(inFamilyOrder(v4, v6, v6First), ",");
}

Result<FamilyRanges> familyRanges(std::string_view option, const std::string& text) {
  FamilyRanges out;
  for (const auto& part : split(text, ',')) {
    const std::string range(trim(part));
    const bool six = range.find(':') != range.npos;
    std::string& into = six ? out.v6 : out.v4;
    if (range.empty() || !into.empty())
      return invalid(
          fmt::format("{} {}: give one range, or one of IPv4 and one of IPv6, with a comma between", option, text));
    if (six && out.v4.empty()) out.v6First = true;
    into = range;
  }
  return out;
}

void takeRanges(const ServerRequest& request, HostConfig& into) {
  const auto pods = familyRanges("", request.podRange).valueOr(FamilyRanges());
  const auto services = familyRanges("", request.serviceRange).valueOr(FamilyRanges());
  into.podRange = pods.v4;
  into.podRange6 = pods.v6;
  into.serviceRange = services.v4;
  into.serviceRange6 = services.v6;
  into.ipv6First = pods.v6First;
}

Result<> saveHost(const HostConfig& config) {
  json::object out;
  for (const auto& field : kTexts) out[field.name] = config.*field.member;
  for (const auto& field : kOptionalTexts) {
    if (!(config.*field.member).empty()) out[field.name] = config.*field.member;
  }
  for (const auto& field : kFlags) out[field.name] = config.*field.member;
  if (config.ipv6First) out[kIpv6First] = true;
  out["port"] = config.port;
  json::object settings;
  for (const auto& [name, was] : config.settings) settings[name] = was;
  out["settings"] = std::move(settings);
  return writeFileDurably(config.paths().config(), json::serialize(out) + "\n");
}

Result<> validate(const ServerRequest& request) {
  RETURN_IF_ERROR(checkData(request.dataDir));
  if (!isName(request.cluster, false) || request.cluster.size() > 40)
    return invalid(
        fmt::format("--name {}: a cluster's name is 1 to 40 lower-case letters, digits or '-'", request.cluster));
  RETURN_IF_ERROR(checkName("--region", request.region));
  RETURN_IF_ERROR(checkName("--zone", request.zone));
  RETURN_IF_ERROR(checkName("--node-name", request.hostName));
  RETURN_IF_ERROR(checkAddress("--advertise", request.advertise));
  if (request.port == 0) return invalid("--port: from 1 to 65535");
  RETURN_IF_ERROR(checkAllRanges(request));
  if (request.store != "embedded" && request.store != "etcd")
    return invalid(fmt::format("--store {}: embedded or etcd", request.store));
  if (request.store == "etcd" && !request.datastore.empty())
    return invalid("--store etcd makes an etcd on this host, --datastore uses one that is there: give one of both");
  // What both kinds of clusters are asked for is judged in one place.
  platform::ClusterRequest same;
  same.dataDir = request.dataDir;
  same.datastore = request.datastore;
  same.datastoreCa = request.datastoreCa;
  same.datastoreCert = request.datastoreCert;
  same.datastoreKey = request.datastoreKey;
  same.sensitivity = request.sensitivity;
  same.snapshotEvery = request.snapshotEvery;
  same.certificateSeconds = request.certificateSeconds;
  return platform::validateRequest(same);
}

Result<> validate(const JoinRequest& request) {
  RETURN_IF_ERROR(checkData(request.dataDir));
  const std::string_view rest = std::string_view(request.server).substr(std::min<size_t>(8, request.server.size()));
  if (!request.server.starts_with("https://") || rest.empty() || rest.find_first_of("/?# @") != rest.npos)
    return invalid(fmt::format("\"{}\": give a master's address as https://<host>:{}", request.server, kApiPort));
  if (!client::BootstrapToken::parse(request.token))
    return invalid("--token: give one as abcdef.0123456789abcdef; `dhow token create` on a master makes one");
  if (request.caHashes.empty())
    return invalid(
        "--ca-hash is needed: it tells the cluster from whoever else may answer; `dhow token create "
        "--print-join-command` on a master shows it");
  for (const auto& hash : request.caHashes) {
    constexpr std::string_view kPrefix = "sha256:";
    if (!hash.starts_with(kPrefix) || hash.size() != kPrefix.size() + kHashSize ||
        hash.find_first_not_of("0123456789abcdef", kPrefix.size()) != hash.npos)
      return invalid(fmt::format("--ca-hash {}: give sha256: and {} hexadecimal digits", hash, kHashSize));
  }
  RETURN_IF_ERROR(checkName("--zone", request.zone));
  RETURN_IF_ERROR(checkName("--node-name", request.hostName));
  RETURN_IF_ERROR(checkAddress("--address", request.address));
  if (request.master && request.certificateKey.empty())
    return invalid("--master needs --certificate-key; `dhow token create --master` on a master shows it");
  if (!request.master && !request.certificateKey.empty()) return invalid("--certificate-key belongs to --master");
  return {};
}

Result<node::Taint> parseTaint(const std::string& text) {
  const auto colon = text.rfind(':');
  const auto effect = colon == text.npos ? "" : text.substr(colon + 1);
  if (effect != "NoSchedule" && effect != "PreferNoSchedule" && effect != "NoExecute")
    return invalid(fmt::format("--taint {}: give <key>[=<value>]:NoSchedule, PreferNoSchedule or NoExecute", text));
  const std::string_view pair = std::string_view(text).substr(0, colon);
  const auto equals = pair.find('=');
  node::Taint taint{std::string(pair.substr(0, equals)),
                    equals == pair.npos ? "" : std::string(pair.substr(equals + 1)), effect};
  if (taint.key.empty()) return invalid(fmt::format("--taint {}: the key is missing", text));
  return taint;
}

Result<std::pair<std::string, std::string>> parseLabel(const std::string& text) {
  const auto equals = text.find('=');
  if (equals == text.npos || equals == 0) return invalid(fmt::format("--label {}: give <key>=<value>", text));
  return std::pair(text.substr(0, equals), text.substr(equals + 1));
}

Result<std::string> defaultHostName() {
  char name[HOST_NAME_MAX + 1] = {};
  if (::gethostname(name, sizeof name - 1) != 0) return Error::fromErrno("read this machine's name");
  auto lower = toLower(name);
  if (!isName(lower, true))
    return invalid(fmt::format("this machine's name \"{}\" cannot be a node's; give one with --node-name", name));
  return lower;
}

}  // namespace dhow::host
