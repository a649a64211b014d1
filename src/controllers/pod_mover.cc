#include "pod_mover.h"

#include "base/log.h"
#include "base/time.h"
#include "client/node_lease.h"
#include "object/kinds.h"

namespace dhow::controllers {

using namespace client;
namespace kinds = dhow::object::resources;

namespace {

// So long a replacement may lack a place before the pod goes without one, as far as its budgets let it.
constexpr Duration kPlacePatience = std::chrono::seconds(20);

bool withoutPlace(const Object& pod, WallTime now) {
  const json::object* scheduled = condition(pod.root(), "PodScheduled");
  if (scheduled == nullptr || text(*scheduled, "status") != "False") return false;
  const auto created = client::time(pod.root(), {"metadata", "creationTimestamp"});
  return created && now - *created >= kPlacePatience;
}

}  // namespace

PodMover::PodMover(Context context)
    : context_(context), pods_(context.caches.of(kinds::kPods)), sets_(context.caches.of(kinds::kReplicaSets)) {
  indexByNode(pods_);
  indexByOwner(pods_);
  if (const auto* budget = object::Kinds::builtin().findKind("policy/v1", "PodDisruptionBudget"))
    budgets_ = &context.caches.of(budget->resource());
}

Task<Result<Move>> PodMover::step(ObjectPtr pod) {
  if (pod->deleting()) co_return Move{Move::State::kWaiting, "it is ending", ""};
  const json::object* owner = controllerOf(*pod);
  if (owner == nullptr) {
    co_return Move{Move::State::kBlocked, "nobody would make it again: delete it, or let something manage it", ""};
  }
  ObjectPtr set = text(*owner, "kind") == "ReplicaSet" ? sets_.get(pod->ns(), text(*owner, "name")) : nullptr;
  if (set && set->uid() == text(*owner, "uid") && !set->deleting()) {
    Result<bool> ready = co_await replaced(pod, set);
    if (!ready.ok()) co_return std::move(ready).error();
    if (!*ready) co_return Move{Move::State::kWaiting, "its replacement is not available yet", ""};
  }
  Result<Move> moved = co_await evict(pod);
  co_return moved;
}

Task<Result<bool>> PodMover::replaced(ObjectPtr pod, ObjectPtr set) {
  if (!leaving(*pod)) {
    json::object change{{"metadata", {{"annotations", {{kLeaving, formatTime(context_.loop.wallNow())}}}}}};
    Result<ObjectPtr> marked =
        co_await context_.client.patch(kinds::kPods, std::string(pod->ns()), std::string(pod->name()), "",
                                       PatchType::kMerge, guardedPatch(*pod, std::move(change)));
    if (!marked.ok() && !marked.error().is(Code::kNotFound)) co_return std::move(marked).error();
    co_return false;
  }
  const int64_t wanted = number(set->root(), {"spec", "replicas"}, 1);
  const int64_t minReady = number(set->root(), {"spec", "minReadySeconds"}, 0);
  const WallTime now = context_.loop.wallNow();
  if (!podAvailable(*pod, minReady, now)) co_return true;  // it serves nobody
  int64_t available = 0;
  bool noPlace = false;
  for (const ObjectPtr& other : pods_.byIndex(kByOwner, set->uid())) {
    if (!podActive(*other)) continue;
    available += podAvailable(*other, minReady, now);
    noPlace = noPlace || (!leaving(*other) && withoutPlace(*other, now));
  }
  co_return available > wanted || noPlace;
}

Task<Result<Move>> PodMover::evict(ObjectPtr pod) {
  json::object body{{"apiVersion", "policy/v1"},
                    {"kind", "Eviction"},
                    {"metadata", {{"name", pod->name()}, {"namespace", pod->ns()}}},
                    {"deleteOptions", {{"preconditions", {{"uid", pod->uid()}}}}}};
  Result<ObjectPtr> evicted = co_await context_.client.create(kinds::kPods, std::string(pod->ns()), std::move(body),
                                                              std::string(pod->name()), "eviction");
  if (evicted.ok()) {
    log::info("pod-mover", "pod {} leaves node {}", pod->key(), text(pod->root(), {"spec", "nodeName"}));
    co_return Move{Move::State::kWaiting, "it is ending", ""};
  }
  const Error& error = evicted.error();
  if (error.is(Code::kNotFound)) co_return Move{};
  if (error.is(Code::kTooManyRequests)) {
    co_return Move{Move::State::kBlocked, error.message(), budgetOf(*pod)};
  }
  co_return std::move(evicted).error();
}

std::string PodMover::budgetOf(const Object& pod) const {
  if (budgets_ == nullptr) return {};
  for (const ObjectPtr& budget : budgets_->list(pod.ns())) {
    auto selector = object::LabelSelector::fromDocument(field(budget->root(), {"spec", "selector"}));
    if (selector.ok() && selector->matches(pod) && number(budget->root(), {"status", "disruptionsAllowed"}, 0) == 0)
      return budget->key();
  }
  return {};
}

Task<Result<Drained>> drainStep(Context context, PodMover& mover, ObjectPtr node) {
  Drained out;
  if (!flag(node->root(), {"spec", "unschedulable"})) {
    json::object change{{"metadata", {{"annotations", {{kCordoned, "true"}}}}}, {"spec", {{"unschedulable", true}}}};
    Result<ObjectPtr> cordoned = co_await context.client.patch(kinds::kNodes, "", std::string(node->name()), "",
                                                               PatchType::kMerge, std::move(change));
    CO_RETURN_IF_ERROR(unlessGone(std::move(cordoned)));
  }
  for (const ObjectPtr& pod : context.caches.of(kinds::kPods).byIndex(kPodsOfNode, node->name())) {
    if (boundToNode(*pod)) continue;
    Result<Move> moved = co_await mover.step(pod);
    if (!moved.ok()) {
      if (!moved.error().is(Code::kConflict)) co_return std::move(moved).error();
      ++out.left;
      continue;
    }
    if (moved->state == Move::State::kGone) continue;
    ++out.left;
    if (moved->state != Move::State::kBlocked || !out.blockedBy.empty()) continue;
    out.blockedBy = pod->key();
    out.budget = moved->budget;
    out.message = moved->budget.empty()
                      ? fmt::format("pod {} stays: {}", pod->key(), moved->why)
                      : fmt::format("pod {} stays: disruption budget {}: {}", pod->key(), moved->budget, moved->why);
  }
  co_return out;
}

Task<Result<>> uncordon(Context context, ObjectPtr node) {
  if (node->annotation(kCordoned).empty()) co_return Result<>();
  json::object change{{"metadata", {{"annotations", {{kCordoned, nullptr}, {kIngressLeavesSince, nullptr}}}}},
                      {"spec", {{"unschedulable", nullptr}}}};
  Result<ObjectPtr> done = co_await context.client.patch(kinds::kNodes, "", std::string(node->name()), "",
                                                         PatchType::kMerge, std::move(change));
  co_return unlessGone(std::move(done));
}

}  // namespace dhow::controllers
