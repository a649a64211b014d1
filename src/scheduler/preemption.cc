#include "base/log.h"
#include "base/time.h"
#include "client/fields.h"
#include "rep.h"

namespace dhow::scheduler {

using namespace client;
namespace kinds = dhow::object::resources;

namespace {
constexpr size_t kCandidates = 100;

std::string_view startOf(const PodInfo& pod) {
  const std::string_view start = text(pod.pod->root(), {"status", "startTime"});
  return start.empty() ? text(pod.pod->metadata(), "creationTimestamp") : start;
}

// The most important first: these are kept if possible.
bool moreImportant(const PodInfoPtr& a, const PodInfoPtr& b) {
  if (a->priority != b->priority) return a->priority > b->priority;
  return std::pair(startOf(*a), std::string_view(a->uid)) < std::pair(startOf(*b), std::string_view(b->uid));
}

// Less is better: the highest victim, their sum, their number; then whose best victim started last.
struct Cost {
  int64_t highest, sum;
  size_t count;
  bool betterThan(const Cost& other, std::string_view start, std::string_view otherStart) const {
    const auto left = std::tie(highest, sum, count);
    const auto right = std::tie(other.highest, other.sum, other.count);
    return left != right ? left < right : start > otherStart;
  }
};

}  // namespace

std::optional<std::vector<PodInfoPtr>> Scheduler::Rep::victimsOn(Cycle& cycle, const PodInfoPtr& pod, size_t slot,
                                                                 Refusal& refusal) {
  std::vector<PodInfoPtr> lower;
  for (const PodInfoPtr& other : state.at(slot).pods) {
    if (other->priority < pod->priority) lower.push_back(other);
  }
  if (lower.empty()) {
    refusal.reasons = {"No preemption victims found for incoming pod"};
    return std::nullopt;
  }
  std::sort(lower.begin(), lower.end(), moreImportant);
  for (const PodInfoPtr& other : lower) state.removePod(other->uid);
  cycle.refresh();
  std::optional<Refusal> still = filter(cycle, pod, slot);
  std::vector<PodInfoPtr> victims;
  for (const PodInfoPtr& other : lower) {
    state.addPod(other);
    if (still) continue;
    cycle.refresh();
    if (!filter(cycle, pod, slot)) continue;
    state.removePod(other->uid);
    victims.push_back(other);
  }
  for (const PodInfoPtr& victim : victims) state.addPod(victim);
  cycle.refresh();
  if (still) {
    refusal = std::move(*still);
    return std::nullopt;
  }
  return victims;
}

Preemption Scheduler::Rep::preempt(Cycle& cycle, const PodInfoPtr& pod, const Diagnosis& diagnosis) {
  Preemption out;
  if (!pod->preempts) {
    out.message = "not eligible due to preemptionPolicy=Never.";
    return out;
  }
  if (auto known = nominated.find(pod->uid); known != nominated.end()) {
    if (auto slot = state.slotOf(known->second->nominated)) {
      for (const PodInfoPtr& other : state.at(*slot).pods) {
        if (!other->terminating || other->priority >= pod->priority) continue;
        out.message = "not eligible due to a terminating pod on the nominated node.";
        return out;
      }
    }
  }
  std::map<std::string, int> reasons;
  std::optional<Cost> best;
  std::string bestStart;
  size_t candidates = 0;
  for (const auto& [slot, refusal] : diagnosis.refusals) {
    if (refusal.final) {
      ++reasons["Preemption is not helpful for scheduling"];
      continue;
    }
    if (candidates >= kCandidates) break;
    Refusal why;
    std::optional<std::vector<PodInfoPtr>> victims = victimsOn(cycle, pod, slot, why);
    if (!victims) {
      for (const std::string& reason : why.reasons) ++reasons[reason];
      continue;
    }
    ++candidates;
    Cost cost{INT64_MIN, 0, victims->size()};
    for (const PodInfoPtr& victim : *victims) {
      cost.highest = std::max(cost.highest, victim->priority);
      // Shifted, so that more victims of a negative priority cost more, not less.
      cost.sum += victim->priority + (int64_t{1} << 31);
    }
    const std::string start(victims->empty() ? std::string_view() : startOf(*victims->front()));
    if (best && !cost.betterThan(*best, start, bestStart)) continue;
    best = cost;
    bestStart = start;
    out.node = state.at(slot).name;
    out.victims = std::move(*victims);
  }
  if (!best) out.message = describe(diagnosis.nodes, reasons);
  return out;
}

Task<> Scheduler::Rep::evict(std::shared_ptr<Rep> self, PodInfoPtr pod, std::vector<PodInfoPtr> victims,
                             std::string node) {
  for (const PodInfoPtr& victim : victims) {
    if (victim->terminating) continue;
    json::object change{
        {"type", "DisruptionTarget"},
        {"status", "True"},
        {"reason", "PreemptionByScheduler"},
        {"message", fmt::format("{}: preempting to accommodate a higher priority pod", self->options.name)},
        {"lastTransitionTime", formatTime(self->loop.wallNow())}};
    json::object body{{"metadata", {{"uid", victim->uid}}},
                      {"status", {{"conditions", json::array{std::move(change)}}}}};
    Result<ObjectPtr> marked = co_await self->client.patch(kinds::kPods, victim->ns, std::string(victim->pod->name()),
                                                           "status", PatchType::kStrategicMerge, std::move(body));
    if (!marked.ok() && marked.error().is(Code::kNotFound)) continue;
    DeleteOptions options;
    options.uid = victim->uid;
    Result<> removed =
        co_await self->client.remove(kinds::kPods, victim->ns, std::string(victim->pod->name()), options);
    if (!removed.ok() && !removed.error().is(Code::kNotFound)) {
      log::warn("scheduler", "preempt {}: {}", victim->key, removed.error().message());
      continue;
    }
    self->events.normal(*victim->pod, "Preempted", fmt::format("Preempted by pod {} on node {}", pod->uid, node));
  }
}

}  // namespace dhow::scheduler
