#include <cmath>

#include "base/strings.h"
#include "deployment.h"

namespace dhow::controllers {

using namespace client;
using object::resources::kReplicaSets;

// The number of replicas in the deployment is another than its sets were last scaled for.
bool DeploymentController::scalingAsked(const Rollout& rollout) const {
  for (const ObjectPtr& set : rollout.all()) {
    if (replicasOf(*set) == 0) continue;
    const auto desired = parseInt(set->annotation(kDesiredReplicas));
    if (desired && *desired != replicasOf(*rollout.deployment)) return true;
  }
  return false;
}

namespace {

// How much of `toAdd` the set gets: as much as its share of the whole.
int64_t shareOf(const Object& deployment, const Object& set, int64_t toAdd, int64_t added) {
  if (replicasOf(set) == 0 || toAdd == 0 || toAdd == added) return 0;
  int64_t share = -replicasOf(set);
  if (replicasOf(deployment) > 0) {
    int64_t before = parseInt(set.annotation(kMaxReplicas)).value_or(0);
    if (before == 0) before = statusOf(deployment, "replicas");
    if (before <= 0) return 0;
    const int64_t whole = replicasOf(deployment) + maxSurge(deployment);
    share = std::llround(static_cast<double>(replicasOf(set) * whole) / static_cast<double>(before)) - replicasOf(set);
  }
  const int64_t left = toAdd - added;
  return toAdd > 0 ? std::min(share, left) : std::max(share, left);
}

// Proportions yield to availability: sets give up pods that do not serve before others give up pods that do.
void keepAvailable(const std::vector<ObjectPtr>& sets, std::vector<int64_t>& sizes, int64_t least) {
  int64_t available = 0;
  for (size_t i = 0; i < sets.size(); ++i) available += std::min(sizes[i], availableOf(*sets[i]));
  size_t from = 0;
  for (size_t i = 0; i < sets.size(); ++i) {
    while (available < least && sizes[i] < availableOf(*sets[i])) {
      while (from < sets.size() && sizes[from] <= availableOf(*sets[from])) ++from;
      if (from == sets.size()) return;
      --sizes[from];
      ++sizes[i];
      ++available;
    }
  }
}

}  // namespace

Task<Result<>> DeploymentController::scaleAll(Rollout* rollout) {
  const Object& deployment = *rollout->deployment;
  const int64_t wanted = replicasOf(deployment);
  const std::vector<ObjectPtr> all = rollout->all();
  // What the sets last heard is under way. Its end is an event, and brings this here again.
  if (!observed(all)) co_return Result<>();
  const int64_t leftover = sumPods(all) - sumReplicas(all);  // pods that are still to be deleted
  std::vector<ObjectPtr> active;
  for (const ObjectPtr& set : all) {
    if (replicasOf(*set) > 0) active.push_back(set);
  }
  ObjectPtr only;
  if (active.size() == 1) only = active[0];
  if (active.empty()) only = rollout->current ? rollout->current : rollout->old.empty() ? nullptr : rollout->old.back();
  if (only) {
    // Of the right size it is still told what it was scaled for: else this would be asked for ever.
    if (isRolling(deployment) && replicasOf(*only) < wanted && leftover > maxSurge(deployment)) co_return Result<>();
    Result<ObjectPtr> scaled = co_await scaleSet(rollout->deployment, only, wanted);
    if (!scaled.ok()) co_return std::move(scaled).error();
    co_return Result<>();
  }
  if (rollout->current && replicasOf(*rollout->current) == wanted &&
      parseInt(rollout->current->annotation(kDesiredReplicas)) == wanted &&
      statusOf(*rollout->current, "availableReplicas") == wanted) {
    Result<bool> stopped = co_await stopOld(rollout);
    if (!stopped.ok()) co_return std::move(stopped).error();
    co_return Result<>();
  }
  if (!isRolling(deployment) || active.empty()) co_return Result<>();
  const int64_t allowed = wanted > 0 ? wanted + maxSurge(deployment) : 0;
  int64_t toAdd = allowed - sumReplicas(active);
  if (toAdd > 0) toAdd = std::max<int64_t>(toAdd - leftover, 0);
  // The largest first; of equals the newest when growing, the oldest when shrinking.
  sortByCreation(active);
  if (toAdd > 0) std::reverse(active.begin(), active.end());
  std::vector<std::pair<int64_t, size_t>> bySize;
  for (size_t i = 0; i < active.size(); ++i) bySize.emplace_back(-replicasOf(*active[i]), i);
  std::sort(bySize.begin(), bySize.end());
  std::vector<ObjectPtr> ordered;
  for (const auto& [size, place] : bySize) ordered.push_back(active[place]);
  active = std::move(ordered);
  std::vector<int64_t> sizes;
  int64_t added = 0;
  for (const ObjectPtr& set : active) {
    const int64_t share = shareOf(deployment, *set, toAdd, added);
    sizes.push_back(replicasOf(*set) + share);
    added += share;
  }
  sizes[0] = std::max<int64_t>(sizes[0] + toAdd - added, 0);
  keepAvailable(active, sizes, wanted - maxUnavailable(deployment));
  for (size_t i = 0; i < active.size(); ++i) {
    ObjectPtr set = active[i];
    Result<ObjectPtr> scaled = co_await scaleSet(rollout->deployment, set, sizes[i]);
    if (!scaled.ok()) co_return std::move(scaled).error();
  }
  co_return Result<>();
}

Task<Result<ObjectPtr>> DeploymentController::scaleSet(ObjectPtr deployment, ObjectPtr set, int64_t replicas) {
  const int64_t before = replicasOf(*set);
  const std::string desired = std::to_string(replicasOf(*deployment));
  const std::string most = std::to_string(replicasOf(*deployment) + maxSurge(*deployment));
  if (before == replicas && set->annotation(kDesiredReplicas) == desired && set->annotation(kMaxReplicas) == most)
    co_return set;
  json::object change{{"metadata", {{"annotations", {{kDesiredReplicas, desired}, {kMaxReplicas, most}}}}},
                      {"spec", {{"replicas", replicas}}}};
  Result<ObjectPtr> patched =
      co_await context_.client.patch(kReplicaSets, std::string(set->ns()), std::string(set->name()), "",
                                     PatchType::kMerge, guardedPatch(*set, std::move(change)));
  const std::string owner(deployment->uid());
  if (!patched.ok()) {
    own_.failed(owner, set->ns(), set->name(), patched.error());
    co_return std::move(patched).error();
  }
  own_.wrote(owner, *patched);
  if (before != replicas) {
    events_.normal(*deployment, "ScalingReplicaSet",
                   fmt::format("Scaled {} replica set {} from {} to {}", replicas > before ? "up" : "down", set->name(),
                               before, replicas));
  }
  co_return *patched;
}

}  // namespace dhow::controllers
