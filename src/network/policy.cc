#include "network/policy.h"

#include <algorithm>

namespace dhow {

bool PolicyBlock::contains(const IpAddress& address) const {
  return cidr.contains(address) &&
         std::none_of(except.begin(), except.end(), [&](const IpPrefix& hole) { return hole.contains(address); });
}

std::vector<PortRange> namedRanges(const PolicyRule& rule, const std::vector<NamedPort>& ports) {
  std::vector<PortRange> out;
  for (const NamedPort& wanted : rule.names) {
    for (const NamedPort& port : ports) {
      if (port.name == wanted.name && port.protocol == wanted.protocol)
        out.push_back({port.protocol, port.port, port.port});
    }
  }
  return out;
}

std::vector<PolicyRule> resolveNames(std::vector<PolicyRule> rules, const std::vector<NamedPort>& ports) {
  for (PolicyRule& rule : rules) {
    for (const PortRange& range : namedRanges(rule, ports)) rule.ports.push_back(range);
    rule.names.clear();
  }
  return rules;
}

bool matchesPod(const PolicyRule& rule, const PolicyPeer& pod) {
  return rule.everyone || std::any_of(rule.groups.begin(), rule.groups.end(), [&](uint32_t group) {
           return std::binary_search(pod.groups.begin(), pod.groups.end(), group);
         });
}

std::optional<size_t> allowingRule(const std::vector<PolicyRule>& rules, const IpAddress& address,
                                   const PolicyPeer* pod, Protocol protocol, uint16_t port) {
  auto in = [&](const std::vector<PortRange>& ranges) {
    return std::any_of(ranges.begin(), ranges.end(), [&](const PortRange& r) { return r.contains(protocol, port); });
  };
  for (size_t i = 0; i < rules.size(); i++) {
    const PolicyRule& rule = rules[i];
    const bool asPod = pod != nullptr && matchesPod(rule, *pod);
    const bool matches = asPod || rule.everyone ||
                         std::any_of(rule.blocks.begin(), rule.blocks.end(),
                                     [&](const PolicyBlock& block) { return block.contains(address); });
    if (!matches) continue;
    if (rule.everyPort || in(rule.ports) || (asPod && in(namedRanges(rule, pod->ports)))) return i;
  }
  return std::nullopt;
}

}  // namespace dhow
