// Network policies as this floor knows them: who may connect to whom, already turned from documents into plain values.
// A connection is judged by its first packet, after services have put a pod's address into it; what belongs to a
// connection that was let through is not looked at again. Pure: the table that enforces rules (policy_table.h) and what
// explains them to people are made of the same functions. Semantics: networking.k8s.io/v1 NetworkPolicy.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "network/ip.h"

namespace dhow {

// Ports of one protocol, both ends included; 0 to 65535: all.
struct PortRange {
  Protocol protocol = Protocol::kTcp;
  uint16_t first = 0, last = 65535;
  bool contains(Protocol p, uint16_t port) const { return p == protocol && first <= port && port <= last; }
  bool contains(const PortRange& r) const { return r.protocol == protocol && first <= r.first && r.last <= last; }
  auto operator<=>(const PortRange&) const = default;
};

// A port of a pod that has a name.
struct NamedPort {
  std::string name;
  Protocol protocol = Protocol::kTcp;
  uint16_t port = 0;
  auto operator<=>(const NamedPort&) const = default;
};

struct PolicyBlock {
  IpPrefix cidr;
  std::vector<IpPrefix> except;
  bool contains(const IpAddress& address) const;
  auto operator<=>(const PolicyBlock&) const = default;
};

// One entry of a policy's ingress or egress list. A connection must match a peer and a port.
struct PolicyRule {
  bool everyone = false;            // any peer
  std::vector<uint32_t> groups;     // pods that are in one of these groups
  std::vector<PolicyBlock> blocks;  // addresses, pods' too
  bool everyPort = false;           // of every protocol
  std::vector<PortRange> ports;
  // By name at the pod that is connected to; `port` is not used. A peer that only a block knows has no names.
  std::vector<NamedPort> names;
  auto operator<=>(const PolicyRule&) const = default;
};

// A pod of the cluster as the other end of a connection. Both lists are sorted.
struct PolicyPeer {
  std::vector<uint32_t> groups;
  std::vector<NamedPort> ports;
  auto operator<=>(const PolicyPeer&) const = default;
};

// A pod of this node. A direction without rules is open; one with an empty list is closed.
struct PolicySubject {
  std::optional<std::vector<PolicyRule>> ingress, egress;
  bool isolated() const { return ingress || egress; }
  bool operator==(const PolicySubject&) const = default;
};

// The rules with the names of ports replaced by what the pod calls so: for ingress. Keeps the number of rules.
std::vector<PolicyRule> resolveNames(std::vector<PolicyRule> rules, const std::vector<NamedPort>& ports);

// Whether the rule is for that pod, beside what its blocks say.
bool matchesPod(const PolicyRule& rule, const PolicyPeer& pod);
// The numbers of the rule's named ports at that pod.
std::vector<PortRange> namedRanges(const PolicyRule& rule, const std::vector<NamedPort>& ports);

// The first rule that allows a connection with the peer (a pod, or null) at that address; nullopt when none does.
// `port` is the destination's.
std::optional<size_t> allowingRule(const std::vector<PolicyRule>& rules, const IpAddress& address,
                                   const PolicyPeer* pod, Protocol protocol, uint16_t port);

}  // namespace dhow
