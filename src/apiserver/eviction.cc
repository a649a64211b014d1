// pods/eviction: a pod is deleted when its disruption budget allows it. The budget is taken from before the pod is
// deleted, so that many evictions at once never spend it twice; the disruption controller puts it right afterwards.
#include "apiserver/registry.h"
#include "base/time.h"
#include "client/fields.h"
#include "errors.h"
#include "object/selector.h"

namespace dhow::apiserver {

using client::number;
using client::text;
using object::resources::kPodDisruptionBudgets;
using object::resources::kPods;

namespace {

constexpr size_t kMostUnconfirmed = 2000;

Error overBudget(int retryAfter, std::string why) {
  return Error(Code::kTooManyRequests, "Cannot evict pod as it would violate the pod's disruption budget.")
      .withCauses({{"DisruptionBudget", std::move(why), ""}})
      .withRetryAfter(retryAfter);
}

// Nobody counts on a pod that has not begun, or has ended.
bool uncounted(const object::Object& pod) {
  const auto phase = text(pod.root(), {"status", "phase"});
  return pod.deleting() || phase == "Succeeded" || phase == "Failed" || phase == "Pending";
}

// The budget's document after one eviction.
Result<json::object> spend(const object::Object& budget, std::string_view pod, WallTime now) {
  const json::object& root = budget.root();
  if (number(root, {"status", "observedGeneration"}, 0) < number(root, {"metadata", "generation"}, 0)) {
    return overBudget(10,
                      fmt::format("The disruption budget {} is still being processed by the server.", budget.name()));
  }
  const int64_t allowed = number(root, {"status", "disruptionsAllowed"}, 0);
  if (allowed < 0) return forbidden(kPodDisruptionBudgets, budget.name(), "pdb disruptions allowed is negative");
  if (client::object(root, {"status", "disruptedPods"}).size() > kMostUnconfirmed) {
    return forbidden(kPodDisruptionBudgets, budget.name(),
                     "DisruptedPods map too big - too many evictions not confirmed by PDB controller");
  }
  if (allowed == 0) {
    const json::object* condition = client::condition(root, "DisruptionAllowed");
    if (condition && text(*condition, "reason") == "SyncFailed") {
      return overBudget(0, fmt::format("The disruption budget {} does not allow evicting pods currently because it "
                                       "failed sync: {}",
                                       budget.name(), text(*condition, "message")));
    }
    return overBudget(
        0, fmt::format("The disruption budget {} needs {} healthy pods and has {} currently", budget.name(),
                       number(root, {"status", "desiredHealthy"}, 0), number(root, {"status", "currentHealthy"}, 0)));
  }
  json::object document = root;
  json::object& status = client::objectAt(document, "status");
  status["disruptionsAllowed"] = allowed - 1;
  client::objectAt(status, "disruptedPods")[pod] = formatTime(now);
  if (allowed == 1) {
    for (json::value& entry : client::arrayAt(status, "conditions")) {
      if (!entry.is_object() || text(entry.get_object(), "type") != "DisruptionAllowed") continue;
      json::object& condition = entry.get_object();
      if (text(condition, "status") != "False") condition["lastTransitionTime"] = formatTime(now);
      condition["status"] = "False";
      condition["reason"] = "InsufficientPods";
    }
  }
  return document;
}

}  // namespace

Task<Result<>> Registry::takeFromBudget(Context context, ObjectPtr pod) {
  std::vector<ObjectPtr> budgets;
  for (ObjectPtr& budget : caches_.of(kPodDisruptionBudgets).list(pod->ns())) {
    const json::value* selector = client::field(budget->root(), {"spec", "selector"});
    if (!selector) continue;
    auto parsed = object::LabelSelector::fromDocument(selector);
    if (parsed.ok() && parsed->matches(*pod)) budgets.push_back(std::move(budget));
  }
  if (budgets.empty()) co_return Result<>();
  if (budgets.size() > 1) {
    co_return Error(Code::kInternal,
                    "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.");
  }
  const ObjectPtr budget = budgets[0];
  if (!client::conditionTrue(pod->root(), "Ready")) {
    if (text(budget->root(), {"spec", "unhealthyPodEvictionPolicy"}) == "AlwaysAllow") co_return Result<>();
    const int64_t desired = number(budget->root(), {"status", "desiredHealthy"}, 0);
    // It is not among the healthy ones, and those are enough without it.
    if (desired > 0 && number(budget->root(), {"status", "currentHealthy"}, 0) >= desired) co_return Result<>();
  }
  const auto* kind = kinds_.find(kPodDisruptionBudgets);
  const std::string name(pod->name());
  auto spent = co_await change(
      std::move(context), *kind, std::string(budget->ns()), std::string(budget->name()), "status", true, false,
      [name, now = loop_.wallNow()](const object::Object& current) { return spend(current, name, now); });
  // A budget that has gone in the meantime forbids nothing.
  if (!spent.ok() && !spent.error().is(Code::kNotFound)) co_return std::move(spent).error();
  co_return Result<>();
}

Task<Result<ObjectPtr>> Registry::evict(Context context, std::string ns, std::string name, json::object eviction) {
  DeleteQuery query;
  const auto& options = client::object(eviction, {"deleteOptions"});
  query.gracePeriodSeconds = number(options, {"gracePeriodSeconds"});
  query.propagationPolicy = text(options, "propagationPolicy");
  query.uid = text(options, {"preconditions", "uid"});
  query.resourceVersion = text(options, {"preconditions", "resourceVersion"});
  for (const auto& one : client::array(options, {"dryRun"})) context.dryRun = context.dryRun || one == "All";
  const auto own = text(eviction, {"metadata", "name"});
  if (!own.empty() && own != name) {
    co_return Error(Code::kBadRequest, "name in URL does not match name in Eviction object");
  }
  ObjectPtr pod = caches_.of(kPods).get(ns, name);
  if (!pod) co_return notFound(kPods, name);
  if (!query.uid.empty() && query.uid != pod->uid()) {
    co_return conflict(kPods, name,
                       fmt::format("the UID in the precondition ({}) does not match the UID in record ({}). The object "
                                   "might have been deleted and then recreated",
                                   query.uid, pod->uid()));
  }
  if (!uncounted(*pod)) CO_RETURN_IF_ERROR(co_await takeFromBudget(context, pod));
  query.uid = pod->uid();
  auto outcome = co_await remove(std::move(context), *kinds_.find(kPods), std::move(ns), std::move(name), query);
  CO_RETURN_IF_ERROR(outcome);
  co_return object::Object::make(json::object{
      {"kind", "Status"}, {"apiVersion", "v1"}, {"metadata", json::object()}, {"status", "Success"}, {"code", 201}});
}

}  // namespace dhow::apiserver
