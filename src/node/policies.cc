#include "node/policies.h"

#include <algorithm>

#include "base/log.h"
#include "client/pod_ports.h"
#include "json.h"

namespace dhow::node {

namespace {

constexpr std::string_view kFree = "kube-system";  // the cluster's own, which no default isolates
constexpr int64_t kMaxPort = 65535;

// What cannot be read selects nothing.
LabelSelector selectorAt(const json::object& from, std::string_view name) {
  auto parsed = LabelSelector::fromDocument(from.if_contains(name));
  return parsed.ok() ? *parsed : LabelSelector::nothing();
}

void addPort(const json::object& port, PolicyRule& rule) {
  auto protocol = parseProtocol(text(port, "protocol"));
  if (!protocol.ok()) return;
  const json::value* given = port.if_contains("port");
  if (given == nullptr || given->is_null()) {
    rule.ports.push_back({*protocol, 0, static_cast<uint16_t>(kMaxPort)});
  } else if (given->is_string()) {
    rule.names.push_back({std::string(given->get_string()), *protocol, 0});
  } else if (auto first = number(port, {"port"}); first && *first > 0 && *first <= kMaxPort) {
    const int64_t last = std::clamp(number(port, {"endPort"}, *first), *first, kMaxPort);
    rule.ports.push_back({*protocol, static_cast<uint16_t>(*first), static_cast<uint16_t>(last)});
  }
}

void addPeer(const json::object& peer, std::string_view ns, PolicyEntry& entry) {
  if (client::has(peer, {"ipBlock"})) {
    auto cidr = IpPrefix::parse(text(peer, {"ipBlock", "cidr"}));
    if (!cidr.ok()) return;
    PolicyBlock block{cidr->masked(), {}};
    for (const std::string& hole : strings(array(peer, {"ipBlock", "except"}))) {
      auto parsed = IpPrefix::parse(hole);
      if (!parsed.ok()) return;
      block.except.push_back(parsed->masked());
    }
    entry.rule.blocks.push_back(std::move(block));
    return;
  }
  PodGroup group;
  if (client::has(peer, {"namespaceSelector"})) {
    group.namespaces = selectorAt(peer, "namespaceSelector");
  } else {
    group.ns = ns;
  }
  if (client::has(peer, {"podSelector"})) group.pods = selectorAt(peer, "podSelector");
  entry.groups.push_back(std::move(group));
}

std::vector<PolicyEntry> entriesOf(const json::object& spec, std::string_view list, std::string_view peers,
                                   std::string_view ns) {
  std::vector<PolicyEntry> out;
  for (const json::value& value : array(spec, {list})) {
    PolicyEntry& entry = out.emplace_back();
    if (!value.is_object()) continue;
    const json::object& rule = value.get_object();
    entry.rule.everyPort = array(rule, {"ports"}).empty();
    for (const json::value& port : array(rule, {"ports"})) {
      if (port.is_object()) addPort(port.get_object(), entry.rule);
    }
    entry.rule.everyone = array(rule, {peers}).empty();
    for (const json::value& peer : array(rule, {peers})) {
      if (peer.is_object()) addPeer(peer.get_object(), ns, entry);
    }
  }
  return out;
}

}  // namespace

std::string PodGroup::text() const {
  // No selector's text has a line break; "nothing" reads as "everything" there.
  auto one = [](const LabelSelector& selector) {
    return selector.everything() ? std::string("*") : "=" + selector.text();
  };
  return fmt::format("{}\n{}\n{}", ns, one(namespaces), one(pods));
}

NetworkPolicy parseNetworkPolicy(const ObjectPtr& object) {
  NetworkPolicy out;
  out.object = object;
  const json::object& spec = client::object(object->root(), {"spec"});
  if (client::has(spec, {"podSelector"})) out.pods = selectorAt(spec, "podSelector");
  std::vector<std::string> types = strings(array(spec, {"policyTypes"}));
  auto limits = [&](std::string_view type) { return std::find(types.begin(), types.end(), type) != types.end(); };
  if (types.empty() || limits("Ingress")) out.ingress = entriesOf(spec, "ingress", "from", object->ns());
  if (limits("Egress")) out.egress = entriesOf(spec, "egress", "to", object->ns());
  return out;
}

std::vector<IpAddress> podAddresses(const Object& pod) {
  std::vector<IpAddress> out;
  std::string_view phase = text(pod.root(), {"status", "phase"});
  if (flag(pod.root(), {"spec", "hostNetwork"}) || phase == "Succeeded" || phase == "Failed") return out;
  auto add = [&](std::string_view address) {
    auto parsed = IpAddress::parse(address);
    if (parsed.ok() && std::find(out.begin(), out.end(), *parsed) == out.end()) out.push_back(*parsed);
  };
  add(text(pod.root(), {"status", "podIP"}));
  for (const json::value& entry : array(pod.root(), {"status", "podIPs"})) {
    if (entry.is_object()) add(text(entry.get_object(), "ip"));
  }
  return out;
}

std::vector<NamedPort> namedPorts(const Object& pod) {
  std::vector<NamedPort> out;
  for (const client::PodPort& port : client::podPorts(pod)) {
    auto protocol = parseProtocol(port.protocol);
    if (!port.name.empty() && protocol.ok()) out.push_back({port.name, *protocol, port.number});
  }
  std::sort(out.begin(), out.end());
  return out;
}

void PolicyModel::set(const ObjectPtr& policy) {
  policies_[policy->key()] = parseNetworkPolicy(policy);
}
void PolicyModel::remove(const std::string& key) {
  policies_.erase(key);
}
void PolicyModel::setNamespace(const ObjectPtr& ns) {
  namespaces_[std::string(ns->name())] = ns;
}
void PolicyModel::removeNamespace(const std::string& name) {
  namespaces_.erase(name);
}

uint32_t PolicyModel::numberOf(const PodGroup& group) {
  Group& known = groups_[group.text()];
  if (known.number == 0) known = {++lastGroup_, group};
  terms_.groups.insert(known.number);
  return known.number;
}

void PolicyModel::forgetGroups() {
  std::erase_if(groups_, [&](const auto& entry) { return !terms_.groups.contains(entry.second.number); });
  terms_ = {};
}

PolicyModel::Isolation PolicyModel::isolationOf(const Object& pod, Direction direction) {
  Isolation out;
  if (flag(pod.root(), {"spec", "hostNetwork"})) return out;
  out.byDefault = isolate_ && pod.ns() != kFree;
  out.isolated = out.byDefault;
  const std::string prefix = std::string(pod.ns()) + "/";
  for (auto it = policies_.lower_bound(prefix); it != policies_.end() && it->first.starts_with(prefix); ++it) {
    const NetworkPolicy& policy = it->second;
    const auto& entries = direction == Direction::kIngress ? policy.ingress : policy.egress;
    if (!entries || !policy.pods.matches(pod)) continue;
    out.isolated = true;
    out.policies.push_back(&policy);
    for (size_t i = 0; i < entries->size(); ++i) {
      const PolicyEntry& entry = (*entries)[i];
      PolicyRule rule = entry.rule;
      for (const PodGroup& group : entry.groups) rule.groups.push_back(numberOf(group));
      std::sort(rule.groups.begin(), rule.groups.end());
      if (direction == Direction::kEgress) {
        for (const NamedPort& port : rule.names) terms_.names.insert(port.name);
      }
      out.sources.push_back({&policy, i});
      out.rules.push_back(std::move(rule));
    }
  }
  if (direction == Direction::kIngress) out.rules = resolveNames(std::move(out.rules), namedPorts(pod));
  return out;
}

PolicySubject PolicyModel::subjectOf(const Object& pod) {
  PolicySubject out;
  Isolation ingress = isolationOf(pod, Direction::kIngress), egress = isolationOf(pod, Direction::kEgress);
  if (ingress.isolated) out.ingress = std::move(ingress.rules);
  if (egress.isolated) out.egress = std::move(egress.rules);
  return out;
}

PolicyPeer PolicyModel::peerOf(const Object& pod) const {
  PolicyPeer out;
  auto ns = namespaces_.find(std::string(pod.ns()));
  for (const auto& [text, known] : groups_) {
    if (!terms_.groups.contains(known.number)) continue;
    const PodGroup& group = known.group;
    const bool there =
        group.ns.empty() ? ns != namespaces_.end() && group.namespaces.matches(*ns->second) : group.ns == pod.ns();
    if (there && group.pods.matches(pod)) out.groups.push_back(known.number);
  }
  std::sort(out.groups.begin(), out.groups.end());
  if (terms_.names.empty()) return out;
  for (NamedPort& port : namedPorts(pod)) {
    if (terms_.names.contains(port.name)) out.ports.push_back(std::move(port));
  }
  return out;
}

namespace {

bool isHostOf(const Object& pod, const IpAddress& address) {
  const std::string told = address.str();
  for (const json::value& host : array(pod.root(), {"status", "hostIPs"})) {
    if (host.is_object() && text(host.get_object(), "ip") == told) return true;
  }
  return text(pod.root(), {"status", "hostIP"}) == told;
}

Verdict::Side askOne(PolicyModel& model, const PolicyEnd& self, const PolicyEnd& other, Direction direction,
                     Protocol protocol, uint16_t port) {
  Verdict::Side out;
  if (!self.pod) {
    out.exemption = "not a pod";
    return out;
  }
  if (flag(self.pod->root(), {"spec", "hostNetwork"})) {
    out.exemption = "on its node's network, which policies do not limit";
    return out;
  }
  out.isolation = model.isolationOf(*self.pod, direction);
  if (!out.isolation.isolated) {
    out.exemption = "not isolated: no policy selects it";
    return out;
  }
  if (other.pod && other.pod->uid() == self.pod->uid()) {
    out.exemption = "a pod always reaches itself";
    return out;
  }
  if (direction == Direction::kIngress && isHostOf(*self.pod, other.address)) {
    out.exemption = "its own node always reaches it";
    return out;
  }
  std::optional<PolicyPeer> peer;
  const bool known = other.pod && !flag(other.pod->root(), {"spec", "hostNetwork"});
  if (known) peer = model.peerOf(*other.pod);
  out.rule = allowingRule(out.isolation.rules, other.address, peer ? &*peer : nullptr, protocol, port);
  out.allowed = out.rule.has_value();
  return out;
}

}  // namespace

Verdict judge(PolicyModel& model, const PolicyEnd& from, const PolicyEnd& to, Protocol protocol, uint16_t port) {
  return {askOne(model, from, to, Direction::kEgress, protocol, port),
          askOne(model, to, from, Direction::kIngress, protocol, port)};
}

}  // namespace dhow::node
