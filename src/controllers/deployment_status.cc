#include "base/strings.h"
#include "base/time.h"
#include "client/sessions.h"
#include "deployment.h"

namespace dhow::controllers {

using namespace client;
using object::resources::kDeployments;

namespace {

const json::object* conditionOf(const json::object& status, std::string_view type) {
  for (const json::value& value : array(status, {"conditions"})) {
    if (value.is_object() && text(value.get_object(), "type") == type) return &value.get_object();
  }
  return nullptr;
}

// A deployment's conditions also say when they were last confirmed.
void setTimed(json::object& status, std::string_view type, std::string_view value, std::string_view reason,
              std::string_view message, WallTime now, bool confirm = false) {
  const json::object* found = conditionOf(status, type);
  const bool same = found != nullptr && text(*found, "status") == value && text(*found, "reason") == reason;
  if (same && !confirm) return;
  setCondition(status, type, value, reason, message, now);
  for (json::value& entry : arrayAt(status, "conditions")) {
    if (text(entry.get_object(), "type") == type) entry.get_object()["lastUpdateTime"] = formatTime(now);
  }
}

void count(const Rollout& rollout, json::object& status) {
  const Object& deployment = *rollout.deployment;
  const std::vector<ObjectPtr> all = rollout.all();
  auto put = [&](std::string_view name, int64_t value) {
    if (value != 0) {
      status[name] = value;
    } else {
      status.erase(name);
    }
  };
  const int64_t available = sumStatus(all, "availableReplicas");
  status["observedGeneration"] = number(deployment.root(), {"metadata", "generation"}, 0);
  put("replicas", sumStatus(all, "replicas"));
  put("updatedReplicas", rollout.current ? statusOf(*rollout.current, "replicas") : 0);
  put("readyReplicas", sumStatus(all, "readyReplicas"));
  put("availableReplicas", available);
  put("unavailableReplicas", std::max<int64_t>(sumReplicas(all) - available, 0));
  status["terminatingReplicas"] = sumStatus(all, "terminatingReplicas");
}

// Pods that leave and keep their users are old replicas whose termination is pending: `kubectl rollout status` says so,
// and waits for them. They hold up nothing else.
void countHeld(const Rollout& rollout, json::object& status, WallTime now) {
  std::vector<std::string> told;
  int64_t pods = 0;
  for (const ObjectPtr& set : rollout.all()) {
    const json::object* held = condition(set->root(), kSessionsHeldCondition);
    if (held == nullptr || text(*held, "status") != "True") continue;
    told.emplace_back(text(*held, "message"));
    pods += statusOf(*set, "terminatingReplicas");
  }
  if (told.empty()) {
    removeCondition(status, kSessionsHeldCondition);
    return;
  }
  status["replicas"] = number(status, {"replicas"}, 0) + pods;
  const std::string message = join(told, "; ");
  const json::object* before = conditionOf(status, kSessionsHeldCondition);
  const bool news = before == nullptr || text(*before, "message") != message;
  setTimed(status, kSessionsHeldCondition, "True", "DrainingSessions", message, now, news);
}

}  // namespace

void DeploymentController::pauseCondition(Rollout* rollout) {
  if (!has(rollout->deployment->root(), {"spec", "progressDeadlineSeconds"})) return;
  const json::object* progressing = conditionOf(rollout->status, "Progressing");
  const std::string_view reason = progressing == nullptr ? std::string_view() : text(*progressing, "reason");
  // A deadline that has passed stays told.
  if (reason == "ProgressDeadlineExceeded") return;
  const bool paused = flag(rollout->deployment->root(), {"spec", "paused"});
  if (paused && reason != "DeploymentPaused") {
    setTimed(rollout->status, "Progressing", "Unknown", "DeploymentPaused", "Deployment is paused",
             context_.loop.wallNow());
  } else if (!paused && reason == "DeploymentPaused") {
    setTimed(rollout->status, "Progressing", "Unknown", "DeploymentResumed", "Deployment is resumed",
             context_.loop.wallNow());
  }
}

void DeploymentController::progressStatus(Rollout* rollout) {
  const Object& deployment = *rollout->deployment;
  const json::object& before = client::object(deployment.root(), {"status"});
  const WallTime now = context_.loop.wallNow();
  json::object& status = rollout->status;
  count(*rollout, status);
  const std::optional<int64_t> deadline = number(deployment.root(), {"spec", "progressDeadlineSeconds"});
  if (!deadline || *deadline >= INT32_MAX) {
    removeCondition(status, "Progressing");
    return;
  }
  const json::object* progressing = conditionOf(status, "Progressing");
  const std::string reason(progressing == nullptr ? std::string_view() : text(*progressing, "reason"));
  auto get = [](const json::object& from, std::string_view name) { return number(from, {name}, 0); };
  if (reason == "NewReplicaSetAvailable" && get(status, "replicas") == get(status, "updatedReplicas")) return;
  const std::string what = rollout->current ? fmt::format("ReplicaSet \"{}\"", rollout->current->name())
                                            : fmt::format("Deployment \"{}\"", deployment.name());
  const bool moved = get(status, "updatedReplicas") > get(before, "updatedReplicas") ||
                     get(status, "replicas") - get(status, "updatedReplicas") <
                         get(before, "replicas") - get(before, "updatedReplicas") ||
                     get(status, "readyReplicas") > get(before, "readyReplicas") ||
                     get(status, "availableReplicas") > get(before, "availableReplicas");
  if (complete(deployment, status)) {
    setTimed(status, "Progressing", "True", "NewReplicaSetAvailable", what + " has successfully progressed.", now);
    return;
  }
  if (moved) {
    setTimed(status, "Progressing", "True", "ReplicaSetUpdated", what + " is progressing.", now, true);
  }
  progressing = conditionOf(status, "Progressing");
  if (progressing == nullptr || text(*progressing, "reason") == "NewReplicaSetAvailable" ||
      text(*progressing, "reason") == "ProgressDeadlineExceeded") {
    return;
  }
  const auto since = client::time(*progressing, {"lastUpdateTime"});
  if (!since) {
    // Set in this very round: confirmed now.
    for (json::value& entry : arrayAt(status, "conditions")) {
      if (text(entry.get_object(), "type") == "Progressing") entry.get_object()["lastUpdateTime"] = formatTime(now);
    }
  }
  const WallTime due = since.value_or(now) + std::chrono::seconds(*deadline);
  if (now >= due) {
    setTimed(status, "Progressing", "False", "ProgressDeadlineExceeded", what + " has timed out progressing.", now);
  } else {
    controller_.queue().addAfter(deployment.key(), due - now + std::chrono::seconds(1));
  }
}

Task<Result<>> DeploymentController::writeStatus(Rollout* rollout) {
  const Object& deployment = *rollout->deployment;
  const WallTime now = context_.loop.wallNow();
  json::object& status = rollout->status;
  count(*rollout, status);
  if (number(status, {"availableReplicas"}, 0) >= replicasOf(deployment) - maxUnavailable(deployment)) {
    setTimed(status, "Available", "True", "MinimumReplicasAvailable", "Deployment has minimum availability.", now);
  } else {
    setTimed(status, "Available", "False", "MinimumReplicasUnavailable",
             "Deployment does not have minimum availability.", now);
  }
  const json::object* failure = rollout->current ? condition(rollout->current->root(), "ReplicaFailure") : nullptr;
  for (size_t i = 0; failure == nullptr && i < rollout->old.size(); ++i) {
    failure = condition(rollout->old[i]->root(), "ReplicaFailure");
  }
  if (failure != nullptr) {
    setTimed(status, "ReplicaFailure", text(*failure, "status"), text(*failure, "reason"), text(*failure, "message"),
             now);
  } else {
    removeCondition(status, "ReplicaFailure");
  }
  countHeld(*rollout, status, now);
  if (status == client::object(deployment.root(), {"status"})) co_return Result<>();
  json::object body = copyOf(rollout->deployment);
  body["status"] = status;
  Result<ObjectPtr> updated = co_await context_.client.update(
      kDeployments, std::string(deployment.ns()), std::string(deployment.name()), "status", std::move(body));
  if (!updated.ok() && !updated.error().is(Code::kNotFound)) co_return std::move(updated).error();
  co_return Result<>();
}

}  // namespace dhow::controllers
