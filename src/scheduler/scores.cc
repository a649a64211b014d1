#include <cmath>

#include "client/fields.h"
#include "cycle.h"
#include "object/labels.h"

namespace dhow::scheduler {

using namespace client;

namespace {

constexpr int64_t kMost = 100;

std::string_view labelOf(const Node& node, std::string_view key) {
  return node.node->label(key);
}

int64_t freeShare(int64_t has, int64_t used) {
  return has <= 0 || used > has ? 0 : (has - used) * kMost / has;
}

double usedShare(int64_t has, int64_t used) {
  return has <= 0 ? 1.0 : std::min(1.0, static_cast<double>(used) / static_cast<double>(has));
}

// To 0..100 by the largest; reversed: the largest becomes 0.
void normalize(std::vector<int64_t>& values, bool reversed) {
  int64_t most = 0;
  for (int64_t value : values) most = std::max(most, value);
  for (int64_t& value : values) {
    const int64_t scaled = most == 0 ? 0 : value * kMost / most;
    value = reversed ? kMost - scaled : scaled;
  }
}

}  // namespace

std::vector<int64_t> Cycle::score(const std::vector<size_t>& slots, const Weights& weights) const {
  std::vector<int64_t> total(slots.size()), taints(slots.size()), affinity(slots.size());
  for (size_t i = 0; i < slots.size(); ++i) {
    const Node& node = state_.at(slots[i]);
    for (const Taint& taint : node.taints) {
      if (taint.effect == "PreferNoSchedule" && !tolerates(pod_->tolerations, taint)) ++taints[i];
    }
    for (const NodeTerm& term : pod_->nodePreferred) {
      if (term.matches(*node.node)) affinity[i] += term.weight;
    }
    const int64_t cpu = node.scoredCpu + pod_->scoredCpu;
    const int64_t memory = node.scoredMemory + pod_->scoredMemory;
    const int64_t fit = (freeShare(node.allocatable.cpu, cpu) + freeShare(node.allocatable.memory, memory)) / 2;
    const double cpuUsed = usedShare(node.allocatable.cpu, node.requested.cpu + pod_->requests.cpu);
    const double memoryUsed = usedShare(node.allocatable.memory, node.requested.memory + pod_->requests.memory);
    const auto balanced = static_cast<int64_t>((1.0 - std::abs(cpuUsed - memoryUsed) / 2) * kMost);
    total[i] += weights.fit * fit + weights.balanced * balanced + weights.imageLocality * imageScore(node);
  }
  normalize(taints, true);
  normalize(affinity, false);
  const std::vector<int64_t> spread = spreadScores(slots);
  const std::vector<int64_t> gather = affinityScores(slots);
  for (size_t i = 0; i < slots.size(); ++i) {
    total[i] += weights.taintToleration * taints[i] + weights.nodeAffinity * affinity[i] + weights.spread * spread[i] +
                weights.podAffinity * gather[i];
  }
  return total;
}

// Images that are there already, large ones above all, but less so when few nodes have them: they should not draw all
// pods.
int64_t Cycle::imageScore(const Node& node) const {
  if (node.images.empty() || pod_->images.empty()) return 0;
  constexpr int64_t kMegabyte = 1 << 20;
  int64_t sum = 0;
  for (const std::string& image : pod_->images) {
    auto found = node.images.find(image);
    if (found == node.images.end() && image.find(':', image.rfind('/') + 1) == std::string::npos)
      found = node.images.find(image + ":latest");
    if (found == node.images.end()) continue;
    sum += found->second * state_.imageSpread(found->first) /
           std::max<int64_t>(static_cast<int64_t>(state_.nodeCount()), 1);
  }
  const int64_t low = 23 * kMegabyte;
  const int64_t high = 1000 * kMegabyte * static_cast<int64_t>(pod_->images.size());
  return kMost * (std::clamp(sum, low, high) - low) / (high - low);
}

std::vector<int64_t> Cycle::spreadScores(const std::vector<size_t>& slots) const {
  std::vector<int64_t> out(slots.size());
  if (soft_.empty()) return out;
  std::vector<double> raw(slots.size());
  std::vector<bool> ignored(slots.size());
  // A pod's own constraints count nothing on nodes that lack one of the keys; the defaults just skip that key.
  if (!softIsDefault_) {
    for (size_t i = 0; i < slots.size(); ++i) {
      for (const SpreadConstraint& constraint : soft_)
        ignored[i] = ignored[i] || labelOf(state_.at(slots[i]), constraint.topologyKey).empty();
    }
  }
  const size_t counted = slots.size() - static_cast<size_t>(std::count(ignored.begin(), ignored.end(), true));
  for (const SpreadConstraint& constraint : soft_) {
    const Count& count = state_.count({constraint.match});
    const bool perHost = constraint.topologyKey == object::kHostnameLabel;
    std::unordered_map<std::string_view, int64_t> domains;
    if (!perHost) {
      // Domains of the nodes in question; the pods of all their nodes count, also of those that do not fit.
      for (size_t i = 0; i < slots.size(); ++i) {
        if (ignored[i]) continue;
        const std::string_view value = labelOf(state_.at(slots[i]), constraint.topologyKey);
        if (!value.empty()) domains.try_emplace(value, 0);
      }
      for (size_t slot : state_.order()) {
        if (count.byNode[slot] == 0) continue;
        const Node& node = state_.at(slot);
        auto domain = domains.find(labelOf(node, constraint.topologyKey));
        if (domain == domains.end()) continue;
        if (!softIsDefault_ && constraint.honorAffinity && !pod_->matchesNode(*node.node)) continue;
        domain->second += count.byNode[slot];
      }
    }
    const double weight = std::log(static_cast<double>((perHost ? counted : domains.size()) + 2));
    for (size_t i = 0; i < slots.size(); ++i) {
      if (ignored[i]) continue;
      int64_t pods = 0;
      if (perHost) {
        pods = count.byNode[slots[i]];
      } else {
        const std::string_view value = labelOf(state_.at(slots[i]), constraint.topologyKey);
        if (value.empty()) continue;
        pods = domains[value];
      }
      raw[i] += static_cast<double>(pods) * weight + static_cast<double>(constraint.maxSkew - 1);
    }
  }
  int64_t least = INT64_MAX, most = 0;
  for (size_t i = 0; i < slots.size(); ++i) {
    if (ignored[i]) continue;
    const int64_t value = std::llround(raw[i]);
    least = std::min(least, value);
    most = std::max(most, value);
  }
  for (size_t i = 0; i < slots.size(); ++i) {
    if (ignored[i]) continue;
    out[i] = most == 0 ? kMost : kMost * (most + least - std::llround(raw[i])) / most;
  }
  return out;
}

std::vector<int64_t> Cycle::affinityScores(const std::vector<size_t>& slots) const {
  std::map<std::string_view, std::unordered_map<std::string_view, int64_t>> topology;  // key -> value -> score
  auto own = [&](const std::vector<AffinityTerm>& terms, int64_t sign) {
    for (const AffinityTerm& term : terms) {
      const Count& count = state_.count({term.match});
      for (size_t slot : state_.order()) {
        if (count.byNode[slot] == 0) continue;
        const std::string_view value = labelOf(state_.at(slot), term.topologyKey);
        if (!value.empty()) topology[term.topologyKey][value] += sign * term.weight * count.byNode[slot];
      }
    }
  };
  own(pod_->preferredAffinity, 1);
  own(pod_->preferredAntiAffinity, -1);
  auto others = [&](const State::Group& group, int64_t sign) {
    for (const auto& [key, carriers] : group) {
      if (!carriers.term.match.matches(pod_->ns, pod_->labels)) continue;
      for (const auto& [slot, count] : carriers.byNode) {
        const std::string_view value = labelOf(state_.at(slot), carriers.term.topologyKey);
        if (!value.empty()) topology[carriers.term.topologyKey][value] += sign * carriers.term.weight * count;
      }
    }
  };
  others(state_.affinity(), 1);
  others(state_.preferredAffinity(), 1);
  others(state_.preferredAntiAffinity(), -1);
  std::vector<int64_t> out(slots.size());
  if (topology.empty()) return out;
  int64_t least = INT64_MAX, most = INT64_MIN;
  for (size_t i = 0; i < slots.size(); ++i) {
    for (const auto& [key, values] : topology) {
      auto found = values.find(labelOf(state_.at(slots[i]), key));
      if (found != values.end()) out[i] += found->second;
    }
    least = std::min(least, out[i]);
    most = std::max(most, out[i]);
  }
  for (int64_t& value : out) value = most > least ? kMost * (value - least) / (most - least) : 0;
  return out;
}

}  // namespace dhow::scheduler
