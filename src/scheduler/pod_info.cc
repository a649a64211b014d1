#include "pod_info.h"

#include "base/saturate.h"
#include "base/strings.h"
#include "client/fields.h"
#include "object/quantity.h"

namespace dhow::scheduler {

using namespace client;
using dhow::object::LabelSelector;
using dhow::object::Quantity;

namespace {
constexpr int64_t kCpuStandIn = 100;
constexpr int64_t kMemoryStandIn = 200 << 20;
// More than any machine has, and little enough that the sums over a node's pods stay in 64 bits.
constexpr int64_t kMostOfOne = int64_t{1} << 50;
constexpr int64_t kMostOfPod = int64_t{1} << 52;

int64_t bounded(int64_t value) {
  return std::clamp(value, -kMostOfOne, kMostOfOne);
}

void addTo(int64_t& sum, int64_t more, int64_t sign = 1) {
  sum = saturatingAdd(sum, sign * more);
}
}  // namespace

void Resources::add(const Resources& more, int64_t sign) {
  addTo(cpu, more.cpu, sign);
  addTo(memory, more.memory, sign);
  addTo(ephemeral, more.ephemeral, sign);
  for (const auto& [name, value] : more.others) addTo(others[name], value, sign);
}

void Resources::atMost(int64_t each) {
  cpu = std::min(cpu, each);
  memory = std::min(memory, each);
  ephemeral = std::min(ephemeral, each);
  for (auto& [name, value] : others) value = std::min(value, each);
}

void Resources::atLeast(const Resources& floor) {
  cpu = std::max(cpu, floor.cpu);
  memory = std::max(memory, floor.memory);
  ephemeral = std::max(ephemeral, floor.ephemeral);
  for (const auto& [name, value] : floor.others) others[name] = std::max(others[name], value);
}

Resources parseResources(const json::object& quantities) {
  Resources out;
  for (const auto& [key, value] : quantities) {
    const std::string_view name = key;
    const Quantity quantity = Quantity::from(&value);
    if (name == "cpu") {
      out.cpu = bounded(quantity.milliValue());
    } else if (name == "memory") {
      out.memory = bounded(quantity.value());
    } else if (name == "ephemeral-storage") {
      out.ephemeral = bounded(quantity.value());
    } else if (name != "pods") {
      out.others[std::string(name)] = bounded(quantity.value());
    }
  }
  return out;
}

bool tolerates(const std::vector<Toleration>& tolerations, const Taint& taint) {
  for (const Toleration& t : tolerations) {
    if (!t.effect.empty() && t.effect != taint.effect) continue;
    if (!t.key.empty() && t.key != taint.key) continue;
    if (t.op == "Exists") return true;
    if (!t.key.empty() && (t.op.empty() || t.op == "Equal") && t.value == taint.value) return true;
  }
  return false;
}

bool HostPort::conflicts(const HostPort& other) const {
  if (port != other.port || protocol != other.protocol) return false;
  return ip == other.ip || ip == "0.0.0.0" || other.ip == "0.0.0.0";
}

namespace {

bool holds(const NodeRequirement& requirement, const Object& node) {
  bool present = true;
  std::string_view value;
  if (requirement.field) {
    value = node.name();
  } else {
    const json::value* label = field(node.metadata(), {"labels", requirement.key});
    present = label != nullptr && label->is_string();
    if (present) value = label->get_string();
  }
  const auto& values = requirement.values;
  const bool listed = present && std::find(values.begin(), values.end(), value) != values.end();
  if (requirement.op == "In") return listed;
  if (requirement.op == "NotIn") return !listed;
  if (requirement.op == "Exists") return present;
  if (requirement.op == "DoesNotExist") return !present;
  if (!present || values.size() != 1) return false;
  const auto left = parseInt(value);
  const auto right = parseInt(values[0]);
  if (!left || !right) return false;
  return requirement.op == "Gt" ? *left > *right : requirement.op == "Lt" && *left < *right;
}

NodeTerm readNodeTerm(const json::object& from) {
  NodeTerm term;
  for (bool isField : {false, true}) {
    for (const json::value& value : array(from, {isField ? "matchFields" : "matchExpressions"})) {
      if (!value.is_object()) continue;
      const json::object& r = value.get_object();
      term.all.push_back(
          {std::string(text(r, "key")), std::string(text(r, "operator")), strings(array(r, {"values"})), isField});
    }
  }
  return term;
}

LabelSelector readSelector(const json::value* document) {
  auto selector = LabelSelector::fromDocument(document);
  return selector.ok() ? std::move(*selector) : LabelSelector::nothing();
}

// matchLabelKeys narrows a selector to pods with the same values as this one; mismatchLabelKeys to others.
LabelSelector readSelectorOf(const json::object& from, const json::object& labels) {
  const json::value* document = field(from, {"labelSelector"});
  const json::array& keys = array(from, {"matchLabelKeys"});
  const json::array& unequal = array(from, {"mismatchLabelKeys"});
  if (document == nullptr || (keys.empty() && unequal.empty())) return readSelector(document);
  json::value merged = *document;
  if (!merged.is_object()) return LabelSelector::nothing();
  json::array& expressions = arrayAt(merged.get_object(), "matchExpressions");
  for (bool same : {true, false}) {
    for (const json::value& key : same ? keys : unequal) {
      if (!key.is_string()) continue;
      const json::value* own = labels.if_contains(key.get_string());
      if (own == nullptr) continue;
      expressions.push_back(
          json::object{{"key", key}, {"operator", same ? "In" : "NotIn"}, {"values", json::array{*own}}});
    }
  }
  return readSelector(&merged);
}

AffinityTerm readTerm(const json::object& from, const PodInfo& info, const json::object& labels, int64_t weight,
                      const std::function<std::vector<ObjectPtr>()>& namespaces) {
  AffinityTerm term;
  term.weight = weight;
  term.topologyKey = text(from, "topologyKey");
  term.match.selector = readSelectorOf(from, labels);
  for (std::string& name : strings(array(from, {"namespaces"}))) term.match.namespaces.insert(std::move(name));
  const json::value* selector = field(from, {"namespaceSelector"});
  if (selector != nullptr && selector->is_object()) {
    const LabelSelector chosen = readSelector(selector);
    if (chosen.everything()) {
      term.match.everyNamespace = true;
    } else {
      for (const ObjectPtr& ns : namespaces()) {
        if (chosen.matches(*ns)) term.match.namespaces.emplace(ns->name());
      }
    }
  } else if (term.match.namespaces.empty()) {
    term.match.namespaces.insert(info.ns);
  }
  return term;
}

void readAffinity(const json::object& spec, PodInfo& info, const json::object& labels,
                  const std::function<std::vector<ObjectPtr>()>& namespaces) {
  const json::object& affinity = client::object(spec, {"affinity"});
  if (affinity.empty()) return;
  const json::object& node = client::object(affinity, {"nodeAffinity"});
  info.hasNodeRequired = has(node, {"requiredDuringSchedulingIgnoredDuringExecution"});
  for (const json::value& term : array(node, {"requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms"})) {
    if (term.is_object()) info.nodeRequired.push_back(readNodeTerm(term.get_object()));
  }
  for (const json::value& value : array(node, {"preferredDuringSchedulingIgnoredDuringExecution"})) {
    if (!value.is_object()) continue;
    NodeTerm term = readNodeTerm(client::object(value.get_object(), {"preference"}));
    term.weight = number(value.get_object(), {"weight"}, 0);
    info.nodePreferred.push_back(std::move(term));
  }
  for (bool anti : {false, true}) {
    const json::object& kind = client::object(affinity, {anti ? "podAntiAffinity" : "podAffinity"});
    for (const json::value& term : array(kind, {"requiredDuringSchedulingIgnoredDuringExecution"})) {
      if (!term.is_object()) continue;
      (anti ? info.antiAffinity : info.affinity).push_back(readTerm(term.get_object(), info, labels, 1, namespaces));
    }
    for (const json::value& value : array(kind, {"preferredDuringSchedulingIgnoredDuringExecution"})) {
      if (!value.is_object()) continue;
      const int64_t weight = number(value.get_object(), {"weight"}, 0);
      AffinityTerm term =
          readTerm(client::object(value.get_object(), {"podAffinityTerm"}), info, labels, weight, namespaces);
      (anti ? info.preferredAntiAffinity : info.preferredAffinity).push_back(std::move(term));
    }
  }
}

void readSpread(const json::object& spec, PodInfo& info, const json::object& labels) {
  const json::array& constraints = array(spec, {"topologySpreadConstraints"});
  info.ownSpread = !constraints.empty();
  for (const json::value& value : constraints) {
    if (!value.is_object()) continue;
    const json::object& from = value.get_object();
    SpreadConstraint out;
    out.maxSkew = std::max<int64_t>(number(from, {"maxSkew"}, 1), 1);
    out.minDomains = number(from, {"minDomains"}, 1);
    out.topologyKey = text(from, "topologyKey");
    out.match.namespaces.insert(info.ns);
    out.match.selector = readSelectorOf(from, labels);
    out.honorAffinity = text(from, "nodeAffinityPolicy") != "Ignore";
    out.honorTaints = text(from, "nodeTaintsPolicy") == "Honor";
    (text(from, "whenUnsatisfiable") == "ScheduleAnyway" ? info.spreadSoft : info.spreadHard).push_back(std::move(out));
  }
}

// The sum of the containers, or what the largest step of initialization needs beside the sidecars started before it.
void readRequests(const json::object& spec, PodInfo& info) {
  Resources running, sidecars, starting;
  int64_t cpu = 0, memory = 0;
  for (const json::value& value : array(spec, {"containers"})) {
    if (!value.is_object()) continue;
    const Resources r = parseResources(client::object(value.get_object(), {"resources", "requests"}));
    running.add(r);
    addTo(cpu, r.cpu > 0 ? r.cpu : kCpuStandIn);
    addTo(memory, r.memory > 0 ? r.memory : kMemoryStandIn);
  }
  for (const json::value& value : array(spec, {"initContainers"})) {
    if (!value.is_object()) continue;
    Resources r = parseResources(client::object(value.get_object(), {"resources", "requests"}));
    if (text(value.get_object(), "restartPolicy") == "Always") {
      sidecars.add(r);
      running.add(r);
      starting.atLeast(sidecars);
    } else {
      r.add(sidecars);
      starting.atLeast(r);
    }
  }
  running.atLeast(starting);
  cpu = std::max(cpu, starting.cpu);
  memory = std::max(memory, starting.memory);
  const json::object& whole = client::object(spec, {"resources", "requests"});
  if (!whole.empty()) {
    const Resources r = parseResources(whole);
    if (r.cpu > 0) running.cpu = cpu = r.cpu;
    if (r.memory > 0) running.memory = memory = r.memory;
  }
  const Resources overhead = parseResources(client::object(spec, {"overhead"}));
  running.add(overhead);
  running.atMost(kMostOfPod);
  info.requests = std::move(running);
  info.scoredCpu = std::min(saturatingAdd(cpu, overhead.cpu), kMostOfPod);
  info.scoredMemory = std::min(saturatingAdd(memory, overhead.memory), kMostOfPod);
}

}  // namespace

bool NodeTerm::matches(const Object& node) const {
  // A term without requirements matches nothing.
  return !all.empty() && std::all_of(all.begin(), all.end(), [&](const NodeRequirement& r) { return holds(r, node); });
}

bool PodMatch::matches(std::string_view ns, const json::object* labels) const {
  return (everyNamespace || namespaces.contains(ns)) && selector.matchesLabels(labels);
}

std::string PodMatch::text() const {
  std::string out = everyNamespace ? "*" : "";
  for (const std::string& ns : namespaces) out += ns + ",";
  // The empty text of a selector may mean all or nothing.
  return out + (selector.everything() ? "|all|" : "|") + selector.text();
}

bool PodInfo::matchesNode(const Object& node) const {
  for (const NodeRequirement& requirement : nodeSelector) {
    if (!holds(requirement, node)) return false;
  }
  if (!hasNodeRequired) return true;
  return std::any_of(nodeRequired.begin(), nodeRequired.end(),
                     [&](const NodeTerm& term) { return term.matches(node); });
}

PodInfoPtr readPod(const ObjectPtr& pod, const std::function<std::vector<ObjectPtr>()>& namespaces) {
  auto out = std::make_shared<PodInfo>();
  PodInfo& info = *out;
  info.pod = pod;
  info.key = pod->key();
  info.uid = pod->uid();
  info.ns = pod->ns();
  const json::object& spec = client::object(pod->root(), {"spec"});
  const json::object& labels = client::object(pod->metadata(), {"labels"});
  info.labels = &labels;
  info.node = text(spec, "nodeName");
  info.nominated = text(pod->root(), {"status", "nominatedNodeName"});
  info.priority = number(spec, {"priority"}, 0);
  info.preempts = text(spec, "preemptionPolicy") != "Never";
  info.gated = !array(spec, {"schedulingGates"}).empty();
  info.terminating = pod->deleting();
  readRequests(spec, info);
  for (const json::value& value : array(spec, {"tolerations"})) {
    if (!value.is_object()) continue;
    const json::object& t = value.get_object();
    info.tolerations.push_back({std::string(text(t, "key")), std::string(text(t, "operator")),
                                std::string(text(t, "value")), std::string(text(t, "effect"))});
  }
  for (const auto& [key, value] : client::object(spec, {"nodeSelector"})) {
    if (value.is_string()) info.nodeSelector.push_back({std::string(key), "In", {std::string(value.get_string())}});
  }
  for (const json::value& container : array(spec, {"containers"})) {
    if (!container.is_object()) continue;
    info.images.emplace_back(text(container.get_object(), "image"));
    for (const json::value& port : array(container.get_object(), {"ports"})) {
      if (!port.is_object()) continue;
      const int64_t number = client::number(port.get_object(), {"hostPort"}, 0);
      if (number == 0) continue;
      const std::string_view ip = text(port.get_object(), "hostIP");
      const std::string_view protocol = text(port.get_object(), "protocol");
      info.ports.push_back(
          {std::string(ip.empty() ? "0.0.0.0" : ip), std::string(protocol.empty() ? "TCP" : protocol), number});
    }
  }
  readAffinity(spec, info, labels, namespaces);
  readSpread(spec, info, labels);
  return out;
}

}  // namespace dhow::scheduler
