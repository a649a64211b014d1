#include "client/fields.h"
#include "cycle.h"

namespace dhow::scheduler {

using namespace client;

namespace {

std::optional<std::string_view> labelOf(const Node& node, std::string_view key) {
  const json::value* value = field(node.node->metadata(), {"labels", key});
  if (value == nullptr || !value->is_string()) return std::nullopt;
  return std::string_view(value->get_string());
}

Refusal refuse(std::string reason, bool final = false) {
  return {{std::move(reason)}, final};
}

}  // namespace

Cycle::Cycle(State& state, PodInfoPtr pod, object::LabelSelector group, const std::vector<DefaultSpread>& defaults)
    : state_(state), pod_(std::move(pod)), soft_(pod_->spreadSoft) {
  if (!pod_->ownSpread && !group.everything()) {
    softIsDefault_ = true;
    for (const DefaultSpread& spread : defaults) {
      SpreadConstraint constraint;
      constraint.maxSkew = spread.maxSkew;
      constraint.topologyKey = spread.topologyKey;
      constraint.match.namespaces.insert(pod_->ns);
      constraint.match.selector = group;
      soft_.push_back(std::move(constraint));
    }
  }
  refresh();
}

void Cycle::refresh() {
  prepareSpread();
  prepareAffinity();
}

void Cycle::prepareSpread() {
  hard_.clear();
  for (const SpreadConstraint& constraint : pod_->spreadHard) {
    HardSpread spread;
    spread.constraint = &constraint;
    spread.self = constraint.match.matches(pod_->ns, pod_->labels);
    const Count& count = state_.count({constraint.match});
    for (size_t slot : state_.order()) {
      const Node& node = state_.at(slot);
      if (constraint.honorAffinity && !pod_->matchesNode(*node.node)) continue;
      if (constraint.honorTaints) {
        const bool tainted = std::any_of(node.taints.begin(), node.taints.end(), [&](const Taint& taint) {
          return taint.effect != "PreferNoSchedule" && !tolerates(pod_->tolerations, taint);
        });
        if (tainted) continue;
      }
      // Nodes that lack any of the keys are outside of all the domains.
      const bool whole = std::all_of(pod_->spreadHard.begin(), pod_->spreadHard.end(), [&](const SpreadConstraint& c) {
        return labelOf(node, c.topologyKey).has_value();
      });
      if (whole) spread.domains[*labelOf(node, constraint.topologyKey)] += count.byNode[slot];
    }
    spread.least = spread.domains.empty() ? 0 : INT64_MAX;
    for (const auto& [domain, pods] : spread.domains) spread.least = std::min(spread.least, pods);
    if (static_cast<int64_t>(spread.domains.size()) < constraint.minDomains) spread.least = 0;
    hard_.push_back(std::move(spread));
  }
}

void Cycle::prepareAffinity() {
  required_.clear();
  anti_.clear();
  forbidden_.clear();
  firstOfItsKind_ = false;
  if (!pod_->affinity.empty()) {
    // One pod must meet all terms at once.
    std::vector<PodMatch> all;
    for (const AffinityTerm& term : pod_->affinity) all.push_back(term.match);
    const Count& count = state_.count(all);
    bool any = false;
    for (const AffinityTerm& term : pod_->affinity) {
      Affinity affinity{&term, {}};
      for (size_t slot : state_.order()) {
        if (count.byNode[slot] == 0) continue;
        any = true;
        if (auto value = labelOf(state_.at(slot), term.topologyKey)) affinity.domains[*value] += count.byNode[slot];
      }
      required_.push_back(std::move(affinity));
    }
    // The first of a group that wants to be together must be able to start.
    firstOfItsKind_ = !any && std::all_of(all.begin(), all.end(),
                                          [&](const PodMatch& m) { return m.matches(pod_->ns, pod_->labels); });
  }
  for (const AffinityTerm& term : pod_->antiAffinity) {
    Affinity affinity{&term, {}};
    const Count& count = state_.count({term.match});
    for (size_t slot : state_.order()) {
      if (count.byNode[slot] == 0) continue;
      if (auto value = labelOf(state_.at(slot), term.topologyKey)) affinity.domains[*value] += count.byNode[slot];
    }
    anti_.push_back(std::move(affinity));
  }
  for (const auto& [key, carriers] : state_.antiAffinity()) {
    if (!carriers.term.match.matches(pod_->ns, pod_->labels)) continue;
    for (const auto& [slot, count] : carriers.byNode) {
      if (auto value = labelOf(state_.at(slot), carriers.term.topologyKey)) {
        forbidden_[{carriers.term.topologyKey, std::string(*value)}] = true;
      }
    }
  }
}

std::optional<Refusal> Cycle::filter(size_t slot) const {
  const Node& node = state_.at(slot);
  if (node.unschedulable && !tolerates(pod_->tolerations, {"node.kubernetes.io/unschedulable", "", "NoSchedule"})) {
    return refuse("node(s) were unschedulable", true);
  }
  for (const Taint& taint : node.taints) {
    if (taint.effect == "PreferNoSchedule" || tolerates(pod_->tolerations, taint)) continue;
    return refuse(fmt::format("node(s) had untolerated taint {{{}: {}}}", taint.key, taint.value), true);
  }
  if (!pod_->matchesNode(*node.node)) return refuse("node(s) didn't match Pod's node affinity/selector", true);
  for (const HostPort& wanted : pod_->ports) {
    for (const PodInfoPtr& other : node.pods) {
      for (const HostPort& taken : other->ports) {
        if (wanted.conflicts(taken)) return refuse("node(s) didn't have free ports for the requested pod ports");
      }
    }
  }
  if (auto refusal = fits(node)) return refusal;
  if (auto refusal = spreads(node)) return refusal;
  return gathers(node);
}

std::optional<Refusal> Cycle::fits(const Node& node) const {
  Refusal refusal;
  if (static_cast<int64_t>(node.pods.size()) + 1 > node.podLimit) {
    refusal.reasons.emplace_back("Too many pods");
    refusal.final = node.podLimit < 1;
  }
  auto check = [&](std::string_view name, int64_t wanted, int64_t has, int64_t used) {
    if (wanted <= 0 || wanted <= has - used) return;
    refusal.reasons.push_back(fmt::format("Insufficient {}", name));
    if (wanted > has) refusal.final = true;
  };
  check("cpu", pod_->requests.cpu, node.allocatable.cpu, node.requested.cpu);
  check("memory", pod_->requests.memory, node.allocatable.memory, node.requested.memory);
  check("ephemeral-storage", pod_->requests.ephemeral, node.allocatable.ephemeral, node.requested.ephemeral);
  for (const auto& [name, wanted] : pod_->requests.others) {
    auto has = node.allocatable.others.find(name);
    auto used = node.requested.others.find(name);
    check(name, wanted, has == node.allocatable.others.end() ? 0 : has->second,
          used == node.requested.others.end() ? 0 : used->second);
  }
  if (refusal.reasons.empty()) return std::nullopt;
  return refusal;
}

std::optional<Refusal> Cycle::spreads(const Node& node) const {
  for (const HardSpread& spread : hard_) {
    const auto value = labelOf(node, spread.constraint->topologyKey);
    if (!value) return refuse("node(s) didn't match pod topology spread constraints (missing required label)", true);
    auto domain = spread.domains.find(*value);
    const int64_t here = (domain == spread.domains.end() ? 0 : domain->second) + (spread.self ? 1 : 0);
    if (here - spread.least > spread.constraint->maxSkew)
      return refuse("node(s) didn't match pod topology spread constraints");
  }
  return std::nullopt;
}

std::optional<Refusal> Cycle::gathers(const Node& node) const {
  for (const Affinity& affinity : required_) {
    const auto value = labelOf(node, affinity.term->topologyKey);
    if (value && (firstOfItsKind_ || affinity.domains.contains(*value))) continue;
    return refuse("node(s) didn't match pod affinity rules", true);
  }
  for (const Affinity& affinity : anti_) {
    const auto value = labelOf(node, affinity.term->topologyKey);
    if (value && affinity.domains.contains(*value)) return refuse("node(s) didn't match pod anti-affinity rules");
  }
  for (const auto& [pair, yes] : forbidden_) {
    const auto value = labelOf(node, pair.first);
    if (value && *value == pair.second) return refuse("node(s) didn't satisfy existing pods anti-affinity rules");
  }
  return std::nullopt;
}

}  // namespace dhow::scheduler
