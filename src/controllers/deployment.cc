#include "deployment.h"

#include "base/log.h"
#include "base/strings.h"

namespace dhow::controllers {

using namespace client;
using object::resources::kDeployments;
using object::resources::kPods;
using object::resources::kReplicaSets;

std::vector<ObjectPtr> Rollout::all() const {
  std::vector<ObjectPtr> out = old;
  if (current) out.push_back(current);
  return out;
}

DeploymentController::DeploymentController(Context context)
    : context_(context),
      deployments_(context.caches.of(kDeployments)),
      sets_(context.caches.of(kReplicaSets)),
      pods_(context.caches.of(kPods)),
      events_(context.loop, context.client, {.component = "deployment-controller"}),
      own_(context, kReplicaSets, sets_),
      controller_(context.loop, {.name = "deployment", .workers = 20},
                  [this](std::string key) { return reconcile(std::move(key)); }) {
  indexByOwner(sets_);
  indexByOwner(pods_);
  controller_.watch(deployments_, [this](const ObjectPtr& before, const ObjectPtr& after, WorkQueue& queue) {
    if (!after) own_.forget(std::string(before->uid()));
    queue.add((after ? after : before)->key());
  });
  controller_.watch(sets_, [this](const ObjectPtr& before, const ObjectPtr& after, WorkQueue& queue) {
    setChanged(before, after, queue);
  });
  controller_.watch(pods_, [this](const ObjectPtr& before, const ObjectPtr& after, WorkQueue& queue) {
    podChanged(before, after, queue);
  });
}

Task<> DeploymentController::stop() {
  co_await controller_.stop();
  co_await events_.stop();
}

void DeploymentController::setChanged(const ObjectPtr& before, const ObjectPtr& after, WorkQueue& queue) {
  for (const ObjectPtr& set : {before, after}) {
    if (!set) continue;
    const json::object* owner = controllerOf(*set);
    if (owner != nullptr && text(*owner, "kind") == "Deployment")
      queue.add(fmt::format("{}/{}", set->ns(), text(*owner, "name")));
  }
  if (!after || controllerOf(*after) != nullptr || after->deleting()) return;
  for (const ObjectPtr& deployment : deployments_.list(after->ns())) {
    if (selectorOf(*deployment).matches(*after)) queue.add(deployment->key());
  }
}

// Recreate waits for the last old pod to go.
void DeploymentController::podChanged(const ObjectPtr& before, const ObjectPtr& after, WorkQueue& queue) {
  if (after || !before) return;
  const json::object* owner = controllerOf(*before);
  if (owner == nullptr) return;
  ObjectPtr set = sets_.get(before->ns(), text(*owner, "name"));
  if (!set) return;
  const json::object* deployment = controllerOf(*set);
  if (deployment == nullptr) return;
  ObjectPtr found = deployments_.get(set->ns(), text(*deployment, "name"));
  if (found && !isRolling(*found)) queue.add(found->key());
}

Task<Result<>> DeploymentController::reconcile(std::string key) {
  auto [ns, name] = splitKey(key);
  Rollout rollout;
  rollout.deployment = deployments_.get(ns, name);
  if (!rollout.deployment) co_return Result<>();
  const Object& deployment = *rollout.deployment;
  rollout.status = client::object(deployment.root(), {"status"});
  object::LabelSelector selector = selectorOf(deployment);
  if (selector.everything()) {
    events_.warning(deployment, "SelectingAll",
                    "This deployment is selecting all pods. A non-empty selector is required.");
    co_return Result<>();
  }
  Result<bool> seen = co_await own_.seen(std::string(deployment.uid()));
  if (!seen.ok()) co_return std::move(seen).error();
  if (!*seen) {
    // An event ends the wait, this only an event that never comes.
    controller_.queue().addAfter(key, std::chrono::seconds(1));
    co_return Result<>();
  }
  std::vector<ObjectPtr> candidates = sets_.byIndex(kByOwner, deployment.uid());
  for (ObjectPtr& orphan : sets_.byIndex(kOrphans, ns)) candidates.push_back(std::move(orphan));
  Result<std::vector<ObjectPtr>> claimed = co_await claim(context_, kReplicaSets, kDeployments, rollout.deployment,
                                                          std::move(selector), std::move(candidates));
  if (!claimed.ok()) co_return std::move(claimed).error();
  rollout.old = std::move(*claimed);
  sortByCreation(rollout.old);
  for (auto set = rollout.old.begin(); set != rollout.old.end(); ++set) {
    if (!sameTemplate(deployment, **set)) continue;
    rollout.current = *set;
    rollout.old.erase(set);
    break;
  }
  if (!deployment.deleting()) {
    Result<> rolled = co_await roll(&rollout);
    if (!rolled.ok()) {
      // Conditions that tell of the failure are still written.
      Result<> told = co_await writeStatus(&rollout);
      if (!told.ok()) log::debug("deployment", "{}: {}", key, told.error().message());
      co_return rolled;
    }
  }
  Result<> written = co_await writeStatus(&rollout);
  co_return written;
}

Task<Result<>> DeploymentController::roll(Rollout* rollout) {
  // Kept: recording the revision puts a newer one in its place.
  const ObjectPtr kept = rollout->deployment;
  const Object& deployment = *kept;
  pauseCondition(rollout);
  if (flag(deployment.root(), {"spec", "paused"})) {
    CO_RETURN_IF_ERROR(co_await findCurrent(rollout, false));
    CO_RETURN_IF_ERROR(co_await scaleAll(rollout));
    CO_RETURN_IF_ERROR(co_await cleanUp(rollout));
    co_return Result<>();
  }
  if (scalingAsked(*rollout)) {
    CO_RETURN_IF_ERROR(co_await findCurrent(rollout, false));
    Result<> scaled = co_await scaleAll(rollout);
    co_return scaled;
  }
  if (!isRolling(deployment)) {
    Result<bool> stopped = co_await stopOld(rollout);
    if (!stopped.ok()) co_return std::move(stopped).error();
    if (*stopped || oldPodsRun(*rollout)) {
      CO_RETURN_IF_ERROR(co_await findCurrent(rollout, false));
      progressStatus(rollout);
      co_return Result<>();
    }
  }
  CO_RETURN_IF_ERROR(co_await findCurrent(rollout, true));
  Result<bool> grown = co_await growCurrent(rollout);
  if (!grown.ok()) co_return std::move(grown).error();
  if (!*grown && isRolling(deployment)) {
    Result<bool> shrunk = co_await shrinkOld(rollout);
    if (!shrunk.ok()) co_return std::move(shrunk).error();
  }
  progressStatus(rollout);
  if (complete(deployment, rollout->status)) CO_RETURN_IF_ERROR(co_await cleanUp(rollout));
  co_return Result<>();
}

Task<Result<>> DeploymentController::findCurrent(Rollout* rollout, bool create) {
  int64_t newest = 0;
  for (const ObjectPtr& set : rollout->old) newest = std::max(newest, revisionOf(*set));
  std::string revision = std::to_string(newest + 1);
  if (rollout->current) {
    CO_RETURN_IF_ERROR(co_await annotateCurrent(rollout, std::move(revision)));
  } else if (create) {
    CO_RETURN_IF_ERROR(co_await createCurrent(rollout, std::move(revision)));
  } else {
    co_return Result<>();
  }
  Result<> recorded = co_await recordRevision(rollout);
  co_return recorded;
}

// The deployment itself says which revision it is at.
Task<Result<>> DeploymentController::recordRevision(Rollout* rollout) {
  const Object& deployment = *rollout->deployment;
  const std::string_view revision = rollout->current->annotation(kRevision);
  if (deployment.annotation(kRevision) == revision) co_return Result<>();
  json::object change{{"metadata", {{"annotations", {{kRevision, revision}}}}}};
  Result<ObjectPtr> patched =
      co_await context_.client.patch(kDeployments, std::string(deployment.ns()), std::string(deployment.name()), "",
                                     PatchType::kMerge, guardedPatch(deployment, std::move(change)));
  if (!patched.ok()) co_return std::move(patched).error();
  rollout->deployment = *patched;
  co_return Result<>();
}

Task<Result<>> DeploymentController::annotateCurrent(Rollout* rollout, std::string revision) {
  const Object& deployment = *rollout->deployment;
  json::object annotations = client::object(rollout->current->metadata(), {"annotations"});
  bool changed = inheritAnnotations(deployment, annotations);
  const int64_t had = revisionOf(*rollout->current);
  if (had < parseInt(revision).value_or(0)) {
    if (had > 0) {
      std::string history(text(annotations, kRevisionHistory));
      if (!history.empty()) history += ",";
      history += std::to_string(had);
      // Old entries go first, so that the annotation stays small.
      while (history.size() > 2000) history.erase(0, history.find(',') + 1);
      annotations[kRevisionHistory] = history;
    }
    annotations[kRevision] = revision;
    changed = true;
  }
  const int64_t minReady = number(deployment.root(), {"spec", "minReadySeconds"}, 0);
  const bool otherReady = number(rollout->current->root(), {"spec", "minReadySeconds"}, 0) != minReady;
  if (condition(deployment.root(), "Progressing") == nullptr &&
      has(deployment.root(), {"spec", "progressDeadlineSeconds"})) {
    setCondition(rollout->status, "Progressing", "True", "FoundNewReplicaSet",
                 fmt::format("Found new replica set \"{}\"", rollout->current->name()), context_.loop.wallNow());
  }
  if (!changed && !otherReady) co_return Result<>();
  json::object change{{"metadata", {{"annotations", std::move(annotations)}}}};
  if (otherReady) change["spec"] = {{"minReadySeconds", minReady}};
  Result<ObjectPtr> patched =
      co_await context_.client.patch(kReplicaSets, std::string(deployment.ns()), std::string(rollout->current->name()),
                                     "", PatchType::kMerge, guardedPatch(*rollout->current, std::move(change)));
  if (!patched.ok()) {
    own_.failed(std::string(deployment.uid()), deployment.ns(), rollout->current->name(), patched.error());
    co_return std::move(patched).error();
  }
  own_.wrote(std::string(deployment.uid()), *patched);
  rollout->current = *patched;
  co_return Result<>();
}

Task<Result<>> DeploymentController::createCurrent(Rollout* rollout, std::string revision) {
  const Object& deployment = *rollout->deployment;
  const WallTime now = context_.loop.wallNow();
  const int64_t collisions = number(rollout->status, {"collisionCount"}, 0);
  const std::string hash = templateHash(deployment, collisions);
  const std::string name = fmt::format("{}-{}", deployment.name(), hash);
  json::object tmpl = client::object(deployment.root(), {"spec", "template"});
  at(tmpl, {"metadata", "labels"})[kTemplateHash] = hash;
  json::object selector = client::object(deployment.root(), {"spec", "selector"});
  objectAt(selector, "matchLabels")[kTemplateHash] = hash;
  const int64_t replicas = currentTarget(deployment, rollout->old, nullptr);
  json::object annotations;
  inheritAnnotations(deployment, annotations);
  annotations[kRevision] = revision;
  annotations[kDesiredReplicas] = std::to_string(replicasOf(deployment));
  annotations[kMaxReplicas] = std::to_string(replicasOf(deployment) + maxSurge(deployment));
  json::object body{
      {"apiVersion", "apps/v1"},
      {"kind", "ReplicaSet"},
      {"metadata",
       {{"name", name},
        {"namespace", deployment.ns()},
        {"labels", client::object(tmpl, {"metadata", "labels"})},
        {"annotations", std::move(annotations)},
        {"ownerReferences", json::array{controllerReference(deployment)}}}},
      {"spec", {{"replicas", replicas}, {"selector", std::move(selector)}, {"template", std::move(tmpl)}}}};
  if (const int64_t minReady = number(deployment.root(), {"spec", "minReadySeconds"}, 0); minReady > 0) {
    objectAt(body, "spec")["minReadySeconds"] = minReady;
  }
  Result<ObjectPtr> created =
      co_await context_.client.create(kReplicaSets, std::string(deployment.ns()), std::move(body));
  if (!created.ok() && created.error().is(Code::kAlreadyExists)) {
    Result<ObjectPtr> there = co_await context_.client.get(kReplicaSets, std::string(deployment.ns()), name);
    if (!there.ok()) co_return std::move(there).error();
    if (controllerUid(**there) == deployment.uid() && sameTemplate(deployment, **there)) {
      // Ours, made before the cache could show it.
      own_.wrote(std::string(deployment.uid()), *there);
      rollout->current = *there;
      co_return Result<>();
    }
    rollout->status["collisionCount"] = collisions + 1;
    co_return Error(Code::kConflict, fmt::format("replica set {} belongs to another template", name));
  }
  if (!created.ok()) {
    own_.failed(std::string(deployment.uid()), deployment.ns(), name, created.error());
    const std::string message =
        fmt::format("Failed to create new replica set \"{}\": {}", name, created.error().message());
    events_.warning(deployment, "ReplicaSetCreateError", message);
    if (has(deployment.root(), {"spec", "progressDeadlineSeconds"})) {
      setCondition(rollout->status, "Progressing", "False", "ReplicaSetCreateError", message, now);
    }
    co_return std::move(created).error();
  }
  own_.wrote(std::string(deployment.uid()), *created);
  rollout->current = *created;
  if (replicas > 0) {
    events_.normal(deployment, "ScalingReplicaSet",
                   fmt::format("Scaled up replica set {} from 0 to {}", name, replicas));
  }
  if (has(deployment.root(), {"spec", "progressDeadlineSeconds"})) {
    setCondition(rollout->status, "Progressing", "True", "NewReplicaSetCreated",
                 fmt::format("Created new replica set \"{}\"", name), now);
  }
  co_return Result<>();
}

Task<Result<bool>> DeploymentController::growCurrent(Rollout* rollout) {
  const Object& deployment = *rollout->deployment;
  const int64_t before = replicasOf(*rollout->current);
  const int64_t wanted = replicasOf(deployment);
  if (before == wanted) co_return false;
  const int64_t target = before > wanted ? wanted : currentTarget(deployment, rollout->all(), rollout->current.get());
  Result<ObjectPtr> scaled = co_await scaleSet(rollout->deployment, rollout->current, target);
  if (!scaled.ok()) co_return std::move(scaled).error();
  rollout->current = *scaled;
  co_return target != before;
}

// Old pods that do not work go first, as nobody misses them; then as many as availability allows.
Task<Result<bool>> DeploymentController::shrinkOld(Rollout* rollout) {
  const Object& deployment = *rollout->deployment;
  if (sumReplicas(rollout->old) == 0 || !observed(rollout->all())) co_return false;
  const int64_t minAvailable = replicasOf(deployment) - maxUnavailable(deployment);
  const int64_t currentMissing = replicasOf(*rollout->current) - availableOf(*rollout->current);
  int64_t room = sumReplicas(rollout->all()) - minAvailable - currentMissing;
  if (room <= 0) co_return false;
  bool scaled = false;
  for (size_t i = 0; i < rollout->old.size() && room > 0; ++i) {
    ObjectPtr set = rollout->old[i];
    const int64_t idle = std::min(room, replicasOf(*set) - availableOf(*set));
    if (idle <= 0) continue;
    Result<ObjectPtr> shrunk = co_await scaleSet(rollout->deployment, set, replicasOf(*set) - idle);
    if (!shrunk.ok()) co_return std::move(shrunk).error();
    rollout->old[i] = *shrunk;
    room -= idle;
    scaled = true;
  }
  int64_t surplus = sumAvailable(rollout->all()) - minAvailable;
  for (size_t i = 0; i < rollout->old.size() && surplus > 0; ++i) {
    ObjectPtr set = rollout->old[i];
    const int64_t count = std::min(surplus, replicasOf(*set));
    if (count <= 0) continue;
    Result<ObjectPtr> shrunk = co_await scaleSet(rollout->deployment, set, replicasOf(*set) - count);
    if (!shrunk.ok()) co_return std::move(shrunk).error();
    rollout->old[i] = *shrunk;
    surplus -= count;
    scaled = true;
  }
  co_return scaled;
}

Task<Result<bool>> DeploymentController::stopOld(Rollout* rollout) {
  bool scaled = false;
  for (size_t i = 0; i < rollout->old.size(); ++i) {
    ObjectPtr set = rollout->old[i];
    if (replicasOf(*set) == 0) continue;
    Result<ObjectPtr> stopped = co_await scaleSet(rollout->deployment, set, 0);
    if (!stopped.ok()) co_return std::move(stopped).error();
    rollout->old[i] = *stopped;
    scaled = true;
  }
  co_return scaled;
}

bool DeploymentController::oldPodsRun(const Rollout& rollout) const {
  for (const ObjectPtr& set : rollout.old) {
    for (const ObjectPtr& pod : pods_.byIndex(kByOwner, set->uid())) {
      if (!podFinished(*pod)) return true;
    }
  }
  return false;
}

// Old sets beyond the history limit go, the oldest revisions first.
Task<Result<>> DeploymentController::cleanUp(Rollout* rollout) {
  const int64_t limit = number(rollout->deployment->root(), {"spec", "revisionHistoryLimit"}, 10);
  if (static_cast<int64_t>(rollout->old.size()) <= limit) co_return Result<>();
  std::vector<ObjectPtr> sets;
  for (const ObjectPtr& set : rollout->old) {
    if (!set->deleting()) sets.push_back(set);
  }
  std::sort(sets.begin(), sets.end(), [](const ObjectPtr& a, const ObjectPtr& b) {
    return std::pair(revisionOf(*a), a->name()) < std::pair(revisionOf(*b), b->name());
  });
  const int64_t surplus = static_cast<int64_t>(sets.size()) - limit;
  for (int64_t i = 0; i < surplus; ++i) {
    ObjectPtr set = sets[static_cast<size_t>(i)];
    if (statusOf(*set, "replicas") != 0 || replicasOf(*set) != 0 || !observed(*set)) continue;
    DeleteOptions options;
    options.uid = set->uid();
    Result<> removed =
        co_await context_.client.remove(kReplicaSets, std::string(set->ns()), std::string(set->name()), options);
    if (!removed.ok() && !removed.error().is(Code::kNotFound)) co_return removed;
  }
  co_return Result<>();
}

}  // namespace dhow::controllers
