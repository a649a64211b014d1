#include "service_elements.h"

namespace dhow::services {

namespace {

constexpr uint32_t kInsideOffset = 1 << 16;
const IpAddress kAnyAddress = IpAddress::v4(0);

NftKey frontendKey(const Frontend& f) {
  return NftKey().address(f.address.empty() ? kAnyAddress : f.address).protocol(f.protocol).port(f.port);
}
// Node ports are looked up without an address.
NftKey lookupKey(const Frontend& f) {
  return f.address.empty() ? NftKey().protocol(f.protocol).port(f.port) : frontendKey(f);
}

bool isClusterIp(const ServicePort& port, const Frontend& f) {
  return std::find(port.clusterIps.begin(), port.clusterIps.end(), f.address) != port.clusterIps.end();
}
bool isLoadBalancerIp(const ServicePort& port, const Frontend& f) {
  return std::find(port.loadBalancerIps.begin(), port.loadBalancerIps.end(), f.address) != port.loadBalancerIps.end();
}

void addPicked(const ServicePort& port, const Frontend& f, const std::vector<ServiceEndpoint>& endpoints, Picker picker,
               Contribution& out) {
  picker.nodePort = f.address.empty();
  picker.count = static_cast<uint32_t>(endpoints.size());
  picker.affinitySeconds = static_cast<uint32_t>(std::max(0, port.affinitySeconds));
  uint32_t number = picker.inside ? kInsideOffset : 0;
  for (auto& endpoint : endpoints) {
    NftKey key = frontendKey(f), data;
    key.number(number++);
    data.address(endpoint.address).port(endpoint.port);
    out.elements.push_back({kEndpoints, {.key = key, .keyEnd = "", .data = data, .verdict = ""}});
  }
  const char* set = picker.nodePort ? (picker.inside ? kNodePortsInside : kNodePorts)
                                    : (picker.inside ? kFrontendsInside : kFrontends);
  out.elements.push_back({set, {.key = lookupKey(f), .keyEnd = "", .data = picker.key(), .verdict = ""}});
  out.pickers.insert(picker);
}

void addSourceRanges(const ServicePort& port, const Frontend& f, Contribution& out) {
  out.elements.push_back({kRestricted, {.key = frontendKey(f), .keyEnd = "", .data = "", .verdict = ""}});
  std::set<IpPrefix> ranges;
  for (auto& range : port.loadBalancerSourceRanges) {
    if (range.address.isV4()) ranges.insert(range.masked());
  }
  for (auto& range : ranges) {
    // A range inside another one adds nothing, and overlapping intervals are refused by the kernel.
    bool covered = false;
    for (auto& other : ranges) covered |= other.length < range.length && other.contains(range.address);
    if (covered) continue;
    NftKey from = frontendKey(f), to = frontendKey(f);
    from.address(range.network());
    to.address(range.network().plus(range.hostCount() - 1));
    out.elements.push_back({kAllowed, {.key = from, .keyEnd = to, .data = "", .verdict = ""}});
  }
}

}  // namespace

std::vector<Frontend> frontendsOf(const ServicePort& port) {
  std::set<Frontend> out;
  auto add = [&](const std::vector<IpAddress>& addresses) {
    for (auto& address : addresses) {
      if (address.isV4()) out.insert({address, port.protocol, port.port});
    }
  };
  add(port.clusterIps);
  add(port.loadBalancerIps);
  add(port.externalIps);
  if (port.nodePort != 0) out.insert({IpAddress(), port.protocol, port.nodePort});
  return {out.begin(), out.end()};
}

void contributeFrontend(const ServicePort& port, const Frontend& f, Contribution& out) {
  bool internal = isClusterIp(port, f);
  bool localOnly = internal ? port.internalLocal : port.externalLocal;
  auto ofFamily = [](std::vector<ServiceEndpoint> from) {
    std::erase_if(from, [](const ServiceEndpoint& endpoint) { return !endpoint.address.isV4(); });
    return from;
  };
  const auto all = ofFamily(port.endpoints), local = ofFamily(port.localEndpoints);
  auto& served = localOnly ? local : all;
  if (!served.empty()) {
    addPicked(port, f, served, {.keepSource = localOnly && !internal}, out);
  } else {
    // Nothing at all: the client shall know at once. Elsewhere, but not here: the balancer in front tries another node.
    const char* refused = f.address.empty() ? kRefusedNodePorts : kRefused;
    const char* dropped = f.address.empty() ? kDroppedNodePorts : kDropped;
    out.elements.push_back({all.empty() && local.empty() ? refused : dropped,
                            {.key = lookupKey(f), .keyEnd = "", .data = "", .verdict = ""}});
  }
  // From inside the cluster, an external address is as good as the cluster's own.
  if (localOnly && !internal && !all.empty()) addPicked(port, f, all, {.inside = true}, out);
  if (port.affinitySeconds > 0) {
    std::set<std::pair<IpAddress, uint16_t>> members;
    for (auto* list : {&all, &served}) {
      for (auto& endpoint : *list) members.emplace(endpoint.address, endpoint.port);
    }
    for (auto& [address, number] : members) {
      NftKey key = frontendKey(f);
      key.address(address).port(number);
      out.elements.push_back({kMembers, {.key = key, .keyEnd = "", .data = "", .verdict = ""}});
    }
  }
  if (isLoadBalancerIp(port, f) && !port.loadBalancerSourceRanges.empty()) addSourceRanges(port, f, out);
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

// Registers: 1 client, 2..4 frontend; 5, 6 the remembered endpoint, or 5 the number and 6, 7 the picked endpoint.
std::vector<NftRule> rulesOf(const Picker& picker) {
  std::vector<NftRule> rules;
  auto loadFrontend = [&](NftRule& rule) {
    if (picker.nodePort) {
      rule.constant(2, kAnyAddress.bytes());
    } else {
      rule.destinationAddress(2);
    }
    rule.protocol(3).destinationPort(4);
  };
  if (!picker.keepSource) rules.emplace_back().jump("mark-for-masquerade");
  if (picker.affinitySeconds > 0) {
    NftRule& known = rules.emplace_back();
    known.sourceAddress(1);
    loadFrontend(known);
    known.map(kAffinity, 1, 5).in(kMembers, 2).remember(kAffinity, 1, 5, picker.affinitySeconds).destinationNat(5, 6);
  }
  NftRule& pick = rules.emplace_back();
  pick.sourceAddress(1);
  loadFrontend(pick);
  pick.random(5, picker.count, picker.inside ? kInsideOffset : 0).map(kEndpoints, 2, 6);
  if (picker.affinitySeconds > 0) pick.remember(kAffinity, 1, 6, picker.affinitySeconds);
  pick.destinationNat(6, 7);
  return rules;
}

}  // namespace dhow::services
