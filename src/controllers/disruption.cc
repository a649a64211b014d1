#include "disruption.h"

#include "base/time.h"
#include "object/quantity.h"

namespace dhow::controllers {

using namespace client;
using object::resources::kDeployments;
using object::resources::kPodDisruptionBudgets;
using object::resources::kPods;
using object::resources::kReplicaSets;

namespace {

// An eviction whose pod is not seen to go within this time did not happen.
constexpr Duration kConfirmWithin = std::chrono::minutes(2);

int64_t replicas(const Object& object) {
  return std::max<int64_t>(number(object.root(), {"spec", "replicas"}, 1), 0);
}

}  // namespace

DisruptionController::DisruptionController(Context context)
    : context_(context),
      budgets_(context.caches.of(kPodDisruptionBudgets)),
      pods_(context.caches.of(kPods)),
      sets_(context.caches.of(kReplicaSets)),
      deployments_(context.caches.of(kDeployments)),
      events_(context.loop, context.client, {.component = "controllermanager"}),
      controller_(context.loop, {.name = "disruption", .workers = 4},
                  [this](std::string key) { return reconcile(std::move(key)); }) {
  controller_.watchOwn(budgets_);
  controller_.watch(pods_, [this](const ObjectPtr& before, const ObjectPtr& after, WorkQueue& queue) {
    podChanged(before, after, queue);
  });
  for (Cache* cache : {&sets_, &deployments_}) {
    controller_.watch(*cache, [this](const ObjectPtr& before, const ObjectPtr& after, WorkQueue& queue) {
      ownerChanged(before, after, queue);
    });
  }
}

Task<> DisruptionController::stop() {
  co_await controller_.stop();
  co_await events_.stop();
}

void DisruptionController::podChanged(const ObjectPtr& before, const ObjectPtr& after, WorkQueue& queue) {
  for (const ObjectPtr& budget : budgets_.list((after ? after : before)->ns())) {
    const object::LabelSelector selector = selectorOf(*budget);
    if ((before && selector.matches(*before)) || (after && selector.matches(*after))) queue.add(budget->key());
  }
}

// Only the wanted number of pods matters; what becomes of the pods is told by them.
void DisruptionController::ownerChanged(const ObjectPtr& before, const ObjectPtr& after, WorkQueue& queue) {
  if (before && after && replicas(*before) == replicas(*after)) return;
  for (const ObjectPtr& budget : budgets_.list((after ? after : before)->ns())) queue.add(budget->key());
}

// What the owners of the pods want, each owner once. A deployment counts instead of its sets. Pods that nobody manages
// have no wanted number and do not count.
Result<int64_t> DisruptionController::expectedOf(const Object& budget, const std::vector<ObjectPtr>& pods) {
  std::map<std::string, int64_t> byOwner;
  for (const ObjectPtr& pod : pods) {
    const json::object* owner = controllerOf(*pod);
    if (owner == nullptr) {
      events_.warning(
          budget, "UnmanagedPods",
          fmt::format("Pods selected by this PodDisruptionBudget (selector: {}) were found to be unmanaged. "
                      "As a result, the status of the PDB cannot be calculated correctly, which may result "
                      "in undefined behavior. To account for these pods please set \".spec.minAvailable\" "
                      "field of the PDB to an integer value.",
                      selectorOf(budget).text()));
      continue;
    }
    if (text(*owner, "kind") != "ReplicaSet") {
      return Error(Code::kFailedPrecondition, fmt::format("{}.{} does not implement the scale subresource",
                                                          text(*owner, "kind"), text(*owner, "apiVersion")));
    }
    ObjectPtr set = sets_.get(pod->ns(), text(*owner, "name"));
    if (!set || set->uid() != text(*owner, "uid")) continue;
    ObjectPtr scaled = set;
    if (const json::object* above = controllerOf(*set); above != nullptr && text(*above, "kind") == "Deployment") {
      ObjectPtr deployment = deployments_.get(set->ns(), text(*above, "name"));
      if (deployment && deployment->uid() == text(*above, "uid")) scaled = deployment;
    }
    byOwner[std::string(scaled->uid())] = replicas(*scaled);
  }
  int64_t sum = 0;
  for (const auto& [uid, count] : byOwner) sum += count;
  return sum;
}

Result<DisruptionController::Wanted> DisruptionController::wantedOf(const Object& budget,
                                                                    const std::vector<ObjectPtr>& pods) {
  const object::IntOrString most(field(budget.root(), {"spec", "maxUnavailable"}));
  const object::IntOrString least(field(budget.root(), {"spec", "minAvailable"}));
  Wanted wanted;
  if (most.present()) {
    ASSIGN_OR_RETURN(wanted.expected, expectedOf(budget, pods));
    ASSIGN_OR_RETURN(const int64_t unavailable, most.scaled(wanted.expected, true));
    wanted.healthy = std::max<int64_t>(wanted.expected - unavailable, 0);
  } else if (least.present()) {
    const json::value* value = field(budget.root(), {"spec", "minAvailable"});
    if (value->is_int64()) {
      wanted.healthy = value->get_int64();
      wanted.expected = static_cast<int64_t>(pods.size());
    } else {
      ASSIGN_OR_RETURN(wanted.expected, expectedOf(budget, pods));
      ASSIGN_OR_RETURN(wanted.healthy, least.scaled(wanted.expected, true));
    }
  }
  return wanted;
}

Task<Result<>> DisruptionController::reconcile(std::string key) {
  auto [ns, name] = splitKey(key);
  ObjectPtr budget = budgets_.get(ns, name);
  if (!budget) co_return Result<>();
  const WallTime now = context_.loop.wallNow();
  const object::LabelSelector selector = selectorOf(*budget);
  std::vector<ObjectPtr> pods;
  for (ObjectPtr& pod : pods_.list(ns)) {
    if (selector.matches(*pod)) pods.push_back(std::move(pod));
  }
  json::object status = client::object(budget->root(), {"status"});
  const json::object evicted = client::object(status, {"disruptedPods"});
  json::object unconfirmed;
  int64_t healthy = 0;
  std::optional<Duration> again;
  for (const ObjectPtr& pod : pods) {
    if (pod->deleting()) continue;
    if (const auto since = client::time(evicted, {pod->name()})) {
      const Duration left = *since + kConfirmWithin - now;
      if (left > Duration(0)) {
        unconfirmed[pod->name()] = evicted.at(pod->name());
        again = again ? std::min(*again, left) : left;
        continue;
      }
      events_.warning(*pod, "NotDeleted", "Pod was expected by PDB " + budget->key() + " to be deleted but it wasn't");
    }
    healthy += podReady(*pod);
  }
  Result<Wanted> wanted = wantedOf(*budget, pods);
  int64_t allowed = 0;
  if (wanted.ok()) {
    allowed = wanted->expected > 0 ? std::max<int64_t>(healthy - wanted->healthy, 0) : 0;
    status["currentHealthy"] = healthy;
    status["desiredHealthy"] = wanted->healthy;
    status["expectedPods"] = wanted->expected;
    if (unconfirmed.empty()) {
      status.erase("disruptedPods");
    } else {
      status["disruptedPods"] = std::move(unconfirmed);
    }
    setCondition(status, "DisruptionAllowed", allowed > 0 ? "True" : "False",
                 allowed > 0 ? "SufficientPods" : "InsufficientPods", "", now);
  } else {
    for (std::string_view count : {"currentHealthy", "desiredHealthy", "expectedPods"}) {
      if (!status.contains(count)) status[count] = 0;
    }
    setCondition(status, "DisruptionAllowed", "False", "SyncFailed", wanted.error().message(), now);
    events_.warning(*budget, "CalculateExpectedPodCountFailed",
                    "Failed to calculate the number of expected pods: " + wanted.error().message());
  }
  status["disruptionsAllowed"] = allowed;
  const int64_t generation = number(budget->root(), {"metadata", "generation"}, 0);
  status["observedGeneration"] = generation;
  for (json::value& entry : arrayAt(status, "conditions")) {
    if (entry.is_object()) entry.get_object()["observedGeneration"] = generation;
  }
  if (again) controller_.queue().addAfter(key, *again);
  if (status == client::object(budget->root(), {"status"})) co_return Result<>();
  json::object body = copyOf(budget);
  body["status"] = std::move(status);
  Result<ObjectPtr> updated = co_await context_.client.update(kPodDisruptionBudgets, std::string(ns), std::string(name),
                                                              "status", std::move(body));
  if (!updated.ok() && !updated.error().is(Code::kNotFound)) co_return std::move(updated).error();
  co_return Result<>();
}

}  // namespace dhow::controllers
