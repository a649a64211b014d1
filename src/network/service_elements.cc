#include "service_elements.h"

namespace dhow::services {

namespace {

constexpr uint32_t kInsideOffset = 1 << 16;

const IpAddress& anyAddress(IpFamily family) {
  static const IpAddress four = IpAddress::v4(0), six = IpAddress::v6({});
  return family == IpFamily::kV4 ? four : six;
}

NftKey frontendKey(const Frontend& f, IpFamily family) {
  return NftKey().address(f.address.empty() ? anyAddress(family) : f.address).protocol(f.protocol).port(f.port);
}
// Node ports are looked up without an address.
NftKey lookupKey(const Frontend& f, IpFamily family) {
  return f.address.empty() ? NftKey().protocol(f.protocol).port(f.port) : frontendKey(f, family);
}

bool isClusterIp(const ServicePort& port, const Frontend& f) {
  return std::find(port.clusterIps.begin(), port.clusterIps.end(), f.address) != port.clusterIps.end();
}
bool isLoadBalancerIp(const ServicePort& port, const Frontend& f) {
  return std::find(port.loadBalancerIps.begin(), port.loadBalancerIps.end(), f.address) != port.loadBalancerIps.end();
}

void addPicked(const ServicePort& port, const Frontend& f, const std::vector<ServiceEndpoint>& endpoints, Picker picker,
               IpFamily family, Contribution& out) {
  picker.nodePort = f.address.empty();
  picker.count = static_cast<uint32_t>(endpoints.size());
  picker.affinitySeconds = static_cast<uint32_t>(std::max(0, port.affinitySeconds));
  uint32_t number = picker.inside ? kInsideOffset : 0;
  for (auto& endpoint : endpoints) {
    NftKey key = frontendKey(f, family), data;
    key.number(number++);
    data.address(endpoint.address).port(endpoint.port);
    out.elements.push_back({kEndpoints, {.key = key, .keyEnd = "", .data = data, .verdict = ""}});
  }
  const char* set = picker.nodePort ? (picker.inside ? kNodePortsInside : kNodePorts)
                                    : (picker.inside ? kFrontendsInside : kFrontends);
  out.elements.push_back({set, {.key = lookupKey(f, family), .keyEnd = "", .data = picker.key(), .verdict = ""}});
  out.pickers.insert(picker);
}

void addSourceRanges(const ServicePort& port, const Frontend& f, IpFamily family, Contribution& out) {
  out.elements.push_back({kRestricted, {.key = frontendKey(f, family), .keyEnd = "", .data = "", .verdict = ""}});
  std::set<IpPrefix> ranges;
  for (auto& range : port.loadBalancerSourceRanges) ranges.insert(range.masked());
  for (auto& range : ranges) {
    // A range inside another one adds nothing, and overlapping intervals are refused by the kernel.
    bool covered = false;
    for (auto& other : ranges) covered |= other.length < range.length && other.contains(range.address);
    if (covered) continue;
    NftKey from = frontendKey(f, family), to = frontendKey(f, family);
    from.address(range.network());
    to.address(range.last());
    out.elements.push_back({kAllowed, {.key = from, .keyEnd = to, .data = "", .verdict = ""}});
  }
}

}  // namespace

std::vector<Frontend> frontendsOf(const ServicePort& port) {
  std::set<Frontend> out;
  auto add = [&](const std::vector<IpAddress>& addresses) {
    for (auto& address : addresses) out.insert({address, port.protocol, port.port});
  };
  add(port.clusterIps);
  add(port.loadBalancerIps);
  add(port.externalIps);
  if (port.nodePort != 0) out.insert({IpAddress(), port.protocol, port.nodePort});
  return {out.begin(), out.end()};
}

std::optional<ServicePort> ofFamily(const ServicePort& port, IpFamily family) {
  auto has = [&](const std::vector<IpAddress>& addresses) {
    return std::any_of(addresses.begin(), addresses.end(), [&](const IpAddress& a) { return a.is(family); });
  };
  // The cluster's addresses tell which families a service has, and so where its node port answers.
  const bool told = !port.clusterIps.empty() || !port.loadBalancerIps.empty() || !port.externalIps.empty();
  if (!port.clusterIps.empty() ? !has(port.clusterIps)
      : told                   ? !has(port.loadBalancerIps) && !has(port.externalIps)
                               : family != IpFamily::kV4)
    return std::nullopt;
  ServicePort out = port;
  auto other = [&](const IpAddress& address) { return !address.is(family); };
  for (auto* list : {&out.clusterIps, &out.loadBalancerIps, &out.externalIps}) std::erase_if(*list, other);
  for (auto* list : {&out.endpoints, &out.localEndpoints, &out.standing})
    std::erase_if(*list, [&](const ServiceEndpoint& endpoint) { return other(endpoint.address); });
  if (std::erase_if(out.loadBalancerSourceRanges, [&](const IpPrefix& range) { return other(range.address); }) > 0 &&
      out.loadBalancerSourceRanges.empty()) {
    // Ranges of the other family only: nobody of this one may come.
    out.loadBalancerSourceRanges.push_back(IpPrefix::host(anyAddress(family)));
  }
  return out;
}

void contributeFrontend(const ServicePort& port, const Frontend& f, IpFamily family, Contribution& out) {
  bool internal = isClusterIp(port, f);
  bool localOnly = internal ? port.internalLocal : port.externalLocal;
  const auto &all = port.endpoints, &local = port.localEndpoints;
  auto& served = localOnly ? local : all;
  if (!served.empty()) {
    addPicked(port, f, served, {.keepSource = localOnly && !internal}, family, out);
  } else {
    // Nothing at all: the client shall know at once. Elsewhere, but not here: the balancer in front tries another node.
    const char* refused = f.address.empty() ? kRefusedNodePorts : kRefused;
    const char* dropped = f.address.empty() ? kDroppedNodePorts : kDropped;
    out.elements.push_back({all.empty() && local.empty() ? refused : dropped,
                            {.key = lookupKey(f, family), .keyEnd = "", .data = "", .verdict = ""}});
  }
  // From inside the cluster, an external address is as good as the cluster's own.
  if (localOnly && !internal && !all.empty()) addPicked(port, f, all, {.inside = true}, family, out);
  if (port.affinitySeconds > 0) {
    std::set<std::pair<IpAddress, uint16_t>> members;
    for (auto* list : {&all, &served}) {
      for (auto& endpoint : *list) members.emplace(endpoint.address, endpoint.port);
    }
    for (auto& [address, number] : members) {
      NftKey key = frontendKey(f, family);
      key.address(address).port(number);
      out.elements.push_back({kMembers, {.key = key, .keyEnd = "", .data = "", .verdict = ""}});
    }
  }
  if (isLoadBalancerIp(port, f) && !port.loadBalancerSourceRanges.empty()) addSourceRanges(port, f, family, out);
}

std::vector<ServiceEndpoint> keepOrder(const std::vector<ServiceEndpoint>& before,
                                       const std::vector<ServiceEndpoint>& now) {
  std::set<std::pair<IpAddress, uint16_t>> seen;
  std::map<std::pair<IpAddress, uint16_t>, ServiceEndpoint> wanted;
  for (auto& endpoint : now) wanted.try_emplace({endpoint.address, endpoint.port}, endpoint);
  std::vector<std::optional<ServiceEndpoint>> slots(std::max(before.size(), wanted.size()));
  for (size_t i = 0; i < before.size(); i++) {
    auto it = wanted.find({before[i].address, before[i].port});
    if (it == wanted.end()) continue;
    slots[i] = it->second;
    wanted.erase(it);
  }
  size_t at = 0;
  for (auto& [key, endpoint] : wanted) {
    while (at < slots.size() && slots[at]) at++;
    if (at == slots.size()) slots.emplace_back();
    slots[at] = endpoint;
  }
  // Holes are filled from the end.
  std::vector<ServiceEndpoint> out;
  for (size_t i = 0; i < slots.size(); i++) {
    while (!slots.empty() && !slots.back()) slots.pop_back();
    if (i >= slots.size()) break;
    if (!slots[i]) {
      slots[i] = std::move(slots.back());
      slots.pop_back();
    }
    out.push_back(*slots[i]);
  }
  return out;
}

NftKey Picker::key() const {
  return NftKey().number(count).number(affinitySeconds << 3 | (nodePort ? 4u : 0u) | (inside ? 2u : 0u) |
                                       (keepSource ? 1u : 0u));
}

std::string Picker::chain() const {
  return fmt::format("pick-{}{}{}-{}{}", nodePort ? "node" : "service", inside ? "-inside" : "",
                     keepSource ? "-keep" : "", count, affinitySeconds > 0 ? fmt::format("-{}s", affinitySeconds) : "");
}

// Registers: client, frontend; then the remembered endpoint, or the number and the picked endpoint. All sixteen, where
// an address takes four.
std::vector<NftRule> rulesOf(const Picker& picker, IpFamily family) {
  const int width = addressRegisters(family);
  const int client = family == IpFamily::kV4 ? 1 : 0, frontend = client + width, number = frontend + width + 2,
            picked = number + 1;
  std::vector<NftRule> rules;
  auto loadFrontend = [&](NftRule& rule) {
    if (picker.nodePort) {
      rule.constant(frontend, anyAddress(family).bytes());
    } else {
      rule.destinationAddress(frontend);
    }
    rule.protocol(frontend + width).destinationPort(frontend + width + 1);
  };
  if (!picker.keepSource) rules.emplace_back(family).jump("mark-for-masquerade");
  if (picker.affinitySeconds > 0) {
    NftRule& known = rules.emplace_back(family);
    known.sourceAddress(client);
    loadFrontend(known);
    known.map(kAffinity, client, number)
        .in(kMembers, frontend)
        .remember(kAffinity, client, number, picker.affinitySeconds)
        .destinationNat(number, number + width);
  }
  NftRule& pick = rules.emplace_back(family);
  pick.sourceAddress(client);
  loadFrontend(pick);
  pick.random(number, picker.count, picker.inside ? kInsideOffset : 0).map(kEndpoints, frontend, picked);
  if (picker.affinitySeconds > 0) pick.remember(kAffinity, client, picked, picker.affinitySeconds);
  pick.destinationNat(picked, picked + width);
  return rules;
}

}  // namespace dhow::services
