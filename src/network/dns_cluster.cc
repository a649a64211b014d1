#include "base/strings.h"
#include "dns_wire.h"
#include "network/dns.h"

namespace dhow {

namespace {

std::string dashed(const IpAddress& address) {
  std::string out = address.str();
  for (char& c : out) {
    if (c == '.' || c == ':') c = '-';
  }
  return out;
}

std::string reverseName(const IpAddress& address) {
  auto bytes = address.bytes();
  std::string out;
  for (size_t i = bytes.size(); i-- > 0;) {
    auto b = static_cast<uint8_t>(bytes[i]);
    out += address.isV4() ? fmt::format("{}.", b) : fmt::format("{:x}.{:x}.", b & 15, b >> 4);
  }
  return out + (address.isV4() ? "in-addr.arpa" : "ip6.arpa");
}

// The address of a PTR question; empty when the name is none.
IpAddress addressOfReverse(std::string_view name) {
  constexpr std::string_view kV4 = ".in-addr.arpa", kV6 = ".ip6.arpa";
  constexpr size_t kV6Digits = 64;  // with a dot behind each but the last, 63 characters
  if (name.ends_with(kV4)) {
    auto parts = split(name.substr(0, name.size() - kV4.size()), '.');
    if (parts.size() != 4) return {};
    std::reverse(parts.begin(), parts.end());
    auto address = IpAddress::parse(join(parts, "."));
    return address.ok() ? *address : IpAddress();
  }
  if (!name.ends_with(kV6)) return {};
  auto digits = name.substr(0, name.size() - kV6.size());
  if (digits.size() != kV6Digits - 1) return {};
  std::string text;
  for (size_t i = 0; i < kV6Digits / 2; i++) {
    if (i > 0 && i % 4 == 0) text += ':';
    text += digits[digits.size() - 1 - 2 * i];
    if (i > 0 && digits[digits.size() - 2 * i] != '.') return {};
  }
  auto address = IpAddress::parse(text);
  return address.ok() ? *address : IpAddress();
}

uint16_t addressType(const IpAddress& address) {
  return address.isV6() ? kDnsAaaa : kDnsA;
}

// "x.suffix" -> "x"; nothing when it does not end so.
std::optional<std::string_view> before(std::string_view name, std::string_view suffix) {
  if (name.size() <= suffix.size() + 1 || !name.ends_with(suffix)) return std::nullopt;
  if (name[name.size() - suffix.size() - 1] != '.') return std::nullopt;
  return name.substr(0, name.size() - suffix.size() - 1);
}

}  // namespace

struct ClusterDns::Rep {
  Options options;
  std::unordered_map<std::string, std::vector<DnsRecord>> records;  // by name
  std::unordered_map<std::string, size_t> inner;                    // names that only lead to others
  std::unordered_map<std::string, std::vector<DnsRecord>> byService;
  std::set<std::string> namespaces;
  bool namespacesKnown = false;
  std::unordered_map<IpAddress, std::string> clients;
  mutable uint64_t turn = 0;

  std::vector<DnsRecord> recordsOf(const Service& service) const;
  void addEndpointRecords(const Service& service, const std::string& name, std::vector<DnsRecord>& out) const;
  void insert(const DnsRecord& record);
  void erase(const DnsRecord& record);
  void eraseService(const std::string& key);
  void countParents(const std::string& name, bool add);
  Answer inZone(std::string_view name, uint16_t type) const;
  std::optional<DnsRecord> podRecord(std::string_view name) const;
  Answer find(std::string_view name, uint16_t type) const;
};

void ClusterDns::Rep::addEndpointRecords(const Service& service, const std::string& name,
                                         std::vector<DnsRecord>& out) const {
  uint32_t ttl = options.ttl;
  for (auto& endpoint : service.endpoints) {
    auto host = (endpoint.hostname.empty() ? dashed(endpoint.address) : toLower(endpoint.hostname)) + "." + name;
    auto type = addressType(endpoint.address);
    out.push_back({.name = name, .type = type, .ttl = ttl, .address = endpoint.address});
    out.push_back({.name = host, .type = type, .ttl = ttl, .address = endpoint.address});
    if (!endpoint.hostname.empty()) {
      out.push_back({.name = reverseName(endpoint.address), .type = kDnsPtr, .ttl = ttl, .target = host});
    }
    for (auto& port : endpoint.ports.empty() ? service.ports : endpoint.ports) {
      if (port.name.empty()) continue;
      out.push_back({.name = fmt::format("_{}._{}.{}", toLower(port.name), protocolName(port.protocol), name),
                     .type = kDnsSrv,
                     .ttl = ttl,
                     .target = host,
                     .weight = 100,
                     .port = port.port});
    }
  }
}

namespace {

// An endpoint that is in several slices, as those of other controllers may be, is told once.
std::vector<DnsRecord> withoutRepetitions(std::vector<DnsRecord> records) {
  std::vector<DnsRecord> out;
  std::unordered_map<std::string, std::vector<size_t>> byName;
  for (auto& record : records) {
    auto& same = byName[record.name];
    if (std::any_of(same.begin(), same.end(), [&](size_t i) { return out[i] == record; })) continue;
    same.push_back(out.size());
    out.push_back(std::move(record));
  }
  return out;
}

}  // namespace

std::vector<DnsRecord> ClusterDns::Rep::recordsOf(const Service& service) const {
  std::vector<DnsRecord> out;
  auto name = toLower(service.name + "." + service.ns + ".svc." + options.domain);
  if (!service.externalName.empty()) {
    auto target = toLower(service.externalName);
    if (target.ends_with('.')) target.pop_back();
    out.push_back({.name = name, .type = kDnsCname, .ttl = options.ttl, .target = target});
    return out;
  }
  if (service.clusterIps.empty()) {
    addEndpointRecords(service, name, out);
    return withoutRepetitions(std::move(out));
  }
  for (auto& address : service.clusterIps) {
    out.push_back({.name = name, .type = addressType(address), .ttl = options.ttl, .address = address});
    out.push_back({.name = reverseName(address), .type = kDnsPtr, .ttl = options.ttl, .target = name});
  }
  for (auto& port : service.ports) {
    if (port.name.empty()) continue;
    out.push_back({.name = fmt::format("_{}._{}.{}", toLower(port.name), protocolName(port.protocol), name),
                   .type = kDnsSrv,
                   .ttl = options.ttl,
                   .target = name,
                   .weight = 100,
                   .port = port.port});
  }
  return out;
}

void ClusterDns::Rep::countParents(const std::string& name, bool add) {
  std::string_view rest = name;
  for (size_t dot = rest.find('.'); dot != rest.npos; dot = rest.find('.')) {
    rest.remove_prefix(dot + 1);
    if (rest.size() < options.domain.size() || !before(name, options.domain)) return;
    if (add) {
      inner[std::string(rest)]++;
      continue;
    }
    auto it = inner.find(std::string(rest));
    if (it != inner.end() && --it->second == 0) inner.erase(it);
  }
}

void ClusterDns::Rep::insert(const DnsRecord& record) {
  auto& list = records[record.name];
  if (list.empty()) countParents(record.name, true);
  list.push_back(record);
}

void ClusterDns::Rep::erase(const DnsRecord& record) {
  auto it = records.find(record.name);
  if (it == records.end()) return;
  auto one = std::find(it->second.begin(), it->second.end(), record);
  if (one != it->second.end()) it->second.erase(one);
  if (!it->second.empty()) return;
  countParents(record.name, false);
  records.erase(it);
}

void ClusterDns::Rep::eraseService(const std::string& key) {
  auto it = byService.find(key);
  if (it == byService.end()) return;
  for (auto& record : it->second) erase(record);
  byService.erase(it);
}

ClusterDns::ClusterDns(Options options) : rep_(std::make_unique<Rep>()) {
  options.domain = toLower(options.domain);
  rep_->options = std::move(options);
  rep_->insert(
      {.name = "dns-version." + rep_->options.domain, .type = kDnsTxt, .ttl = rep_->options.ttl, .text = "1.1.0"});
  rep_->inner["svc." + rep_->options.domain]++;
  rep_->inner["pod." + rep_->options.domain]++;
}
ClusterDns::~ClusterDns() = default;

void ClusterDns::set(const Service& service) {
  auto key = service.ns + "/" + service.name;
  auto records = rep_->recordsOf(service);
  rep_->eraseService(key);
  for (auto& record : records) rep_->insert(record);
  if (!records.empty()) rep_->byService[key] = std::move(records);
}

void ClusterDns::remove(const std::string& ns, const std::string& name) {
  rep_->eraseService(ns + "/" + name);
}

void ClusterDns::replaceAll(const std::vector<Service>& services) {
  std::set<std::string> keep;
  for (auto& service : services) {
    keep.insert(service.ns + "/" + service.name);
    set(service);
  }
  std::vector<std::string> gone;
  for (auto& [key, records] : rep_->byService) {
    if (keep.count(key) == 0) gone.push_back(key);
  }
  for (auto& key : gone) rep_->eraseService(key);
}

void ClusterDns::setNamespaces(std::vector<std::string> namespaces) {
  rep_->namespaces = {namespaces.begin(), namespaces.end()};
  rep_->namespacesKnown = true;
}
void ClusterDns::setClientNamespace(const IpAddress& pod, const std::string& ns) {
  rep_->clients[pod] = ns;
}
void ClusterDns::removeClient(const IpAddress& pod) {
  rep_->clients.erase(pod);
}

// a-b-c-d.ns.pod.<domain> says its own address.
std::optional<DnsRecord> ClusterDns::Rep::podRecord(std::string_view name) const {
  auto rest = before(name, "pod." + options.domain);
  if (!rest) return std::nullopt;
  auto parts = splitOnce(*rest, '.');
  if (!parts || parts->second.find('.') != parts->second.npos) return std::nullopt;
  if (namespacesKnown && namespaces.count(std::string(parts->second)) == 0) return std::nullopt;
  for (char separator : {'.', ':'}) {
    std::string text(parts->first);
    std::replace(text.begin(), text.end(), '-', separator);
    auto address = IpAddress::parse(text);
    if (address.ok()) {
      return DnsRecord{
          .name = std::string(name), .type = addressType(*address), .ttl = options.ttl, .address = *address};
    }
  }
  return std::nullopt;
}

DnsSource::Answer ClusterDns::Rep::find(std::string_view name, uint16_t type) const {
  Answer out;
  out.kind = Answer::Kind::kRecords;
  auto it = records.find(std::string(name));
  if (it == records.end()) {
    auto pod = podRecord(name);
    if (pod && (type == pod->type || type == kDnsAny)) out.records.push_back(*pod);
    if (!pod && inner.count(std::string(name)) == 0) out.kind = Answer::Kind::kNoName;
    return out;
  }
  for (auto& record : it->second) {
    if (record.type == kDnsCname && type != kDnsCname) out.canonical = record.target;
    if (record.type == type || record.type == kDnsCname || type == kDnsAny) out.records.push_back(record);
    if (record.type != kDnsSrv || type != kDnsSrv) continue;
    auto target = records.find(record.target);
    if (target == records.end()) continue;
    for (auto& address : target->second) {
      bool known = std::find(out.extra.begin(), out.extra.end(), address) != out.extra.end();
      if (!known && (address.type == kDnsA || address.type == kDnsAaaa)) out.extra.push_back(address);
    }
  }
  // Clients take the first address: each of them comes first in its turn.
  if (out.records.size() > 1) {
    std::rotate(out.records.begin(), out.records.begin() + static_cast<std::ptrdiff_t>(turn++ % out.records.size()),
                out.records.end());
  }
  return out;
}

DnsSource::Answer ClusterDns::answer(std::string_view name, uint16_t type, const IpAddress& client) const {
  auto& r = *rep_;
  Answer out;
  if (name.ends_with(".arpa")) {
    auto address = addressOfReverse(name);
    bool ours = false;
    for (auto& range : r.options.reverseRanges) ours |= !address.empty() && range.contains(address);
    if (!ours && r.records.count(std::string(name)) == 0) return out;
    out = r.find(name, type);
    out.zone = r.options.domain;
    return out;
  }
  if (name != r.options.domain && !before(name, r.options.domain)) return out;
  out = r.find(name, type);
  out.zone = r.options.domain;
  if (name == r.options.domain && type == kDnsSoa) out.records = {dns::soaOf(r.options.domain, r.options.ttl)};
  if (out.kind != Answer::Kind::kNoName || (type != kDnsA && type != kDnsAaaa)) return out;
  // The first step of the search path of the pod that asks: take the further steps for it.
  auto who = r.clients.find(client);
  if (who == r.clients.end()) return out;
  auto rest = before(name, who->second + ".svc." + r.options.domain);
  if (!rest || rest->find('.') == rest->npos) return out;
  std::string target;
  for (auto& suffix : {".svc." + r.options.domain, "." + r.options.domain}) {
    if (r.find(std::string(*rest) + suffix, type).kind != Answer::Kind::kRecords) continue;
    target = std::string(*rest) + suffix;
    break;
  }
  if (target.empty()) target = *rest;
  out.kind = Answer::Kind::kRecords;
  out.records = {{.name = std::string(name), .type = kDnsCname, .ttl = r.options.ttl, .target = target}};
  out.canonical = target;
  return out;
}

struct ContainerDns::Rep {
  struct Entry {
    IpAddress address;
    std::vector<std::string> names;
  };
  std::map<std::string, std::map<std::string, Entry>> networks;  // network -> container
  std::map<IpAddress, std::set<std::string>> byAddress;          // -> containers
};

ContainerDns::ContainerDns() : rep_(std::make_unique<Rep>()) {}
ContainerDns::~ContainerDns() = default;

void ContainerDns::set(const std::string& network, const std::string& containerId, const IpAddress& address,
                       const std::vector<std::string>& names) {
  remove(network, containerId);
  Rep::Entry entry{address, {}};
  for (auto& name : names) entry.names.push_back(toLower(name));
  rep_->networks[network][containerId] = std::move(entry);
  rep_->byAddress[address].insert(containerId);
}

void ContainerDns::remove(const std::string& network, const std::string& containerId) {
  auto on = rep_->networks.find(network);
  if (on == rep_->networks.end()) return;
  auto it = on->second.find(containerId);
  if (it == on->second.end()) return;
  auto address = rep_->byAddress.find(it->second.address);
  if (address != rep_->byAddress.end()) {
    address->second.erase(containerId);
    if (address->second.empty()) rep_->byAddress.erase(address);
  }
  on->second.erase(it);
  if (on->second.empty()) rep_->networks.erase(on);
}

DnsSource::Answer ContainerDns::answer(std::string_view name, uint16_t type, const IpAddress& client) const {
  Answer out;
  auto who = rep_->byAddress.find(client);
  if (who == rep_->byAddress.end()) return out;
  auto reverse = addressOfReverse(name);
  for (auto& [network, containers] : rep_->networks) {
    bool shared = std::any_of(who->second.begin(), who->second.end(),
                              [&](const std::string& id) { return containers.count(id) > 0; });
    if (!shared) continue;
    for (auto& [id, entry] : containers) {
      if (!reverse.empty() && entry.address == reverse && !entry.names.empty()) {
        out.kind = Answer::Kind::kRecords;
        if (type == kDnsPtr || type == kDnsAny) {
          out.records.push_back({.name = std::string(name),
                                 .type = kDnsPtr,
                                 .ttl = 600,
                                 .target = entry.names[0] + "." + toLower(network)});
        }
        continue;
      }
      auto plain = before(name, toLower(network)).value_or(name);
      bool named = std::find(entry.names.begin(), entry.names.end(), name) != entry.names.end() ||
                   std::find(entry.names.begin(), entry.names.end(), plain) != entry.names.end();
      if (!named) continue;
      out.kind = Answer::Kind::kRecords;
      if (type == addressType(entry.address) || type == kDnsAny) {
        out.records.push_back(
            {.name = std::string(name), .type = addressType(entry.address), .ttl = 600, .address = entry.address});
      }
    }
  }
  return out;
}

}  // namespace dhow
