// Rolls a Deployment's pod template out over ReplicaSets (apps/v1): RollingUpdate and Recreate, pause, revisions,
// proportional scaling, progress deadline. Annotations, condition reasons and messages are Kubernetes' own, as kubectl
// rollout reads them.
#pragma once

#include "component.h"
#include "own_writes.h"
#include "workload.h"

namespace dhow::controllers {

// One reconciliation's view of a deployment.
struct Rollout {
  ObjectPtr deployment;
  json::object status;         // to be written: conditions as changed so far
  ObjectPtr current;           // the ReplicaSet of today's template; null when there is none yet
  std::vector<ObjectPtr> old;  // the others, oldest first
  std::vector<ObjectPtr> all() const;
};

class DeploymentController final : public Component {
 public:
  explicit DeploymentController(Context context);

  void start() override { controller_.start(); }
  Task<> stop() override;
  bool idle() const override { return controller_.idle(); }
  Task<Result<>> reconcile(std::string key);

 private:
  void setChanged(const ObjectPtr& before, const ObjectPtr& after, client::WorkQueue& queue);
  void podChanged(const ObjectPtr& before, const ObjectPtr& after, client::WorkQueue& queue);

  // deployment.cc: the steps of a rollout. Those that give a bool say whether they scaled something.
  Task<Result<>> roll(Rollout* rollout);
  Task<Result<>> findCurrent(Rollout* rollout, bool create);
  Task<Result<>> createCurrent(Rollout* rollout, std::string revision);
  Task<Result<>> annotateCurrent(Rollout* rollout, std::string revision);
  Task<Result<>> recordRevision(Rollout* rollout);
  Task<Result<bool>> growCurrent(Rollout* rollout);
  Task<Result<bool>> shrinkOld(Rollout* rollout);
  Task<Result<bool>> stopOld(Rollout* rollout);
  bool oldPodsRun(const Rollout& rollout) const;
  Task<Result<>> cleanUp(Rollout* rollout);

  // deployment_scale.cc
  bool scalingAsked(const Rollout& rollout) const;
  Task<Result<>> scaleAll(Rollout* rollout);
  // Scales when needed, and gives the set as it is then.
  Task<Result<ObjectPtr>> scaleSet(ObjectPtr deployment, ObjectPtr set, int64_t replicas);

  // deployment_status.cc
  void progressStatus(Rollout* rollout);
  void pauseCondition(Rollout* rollout);
  Task<Result<>> writeStatus(Rollout* rollout);

  Context context_;
  client::Cache& deployments_;
  client::Cache& sets_;
  client::Cache& pods_;
  client::EventRecorder events_;
  OwnWrites own_;
  client::Controller controller_;
};

// deployment_math.cc: pure functions over the documents.
inline constexpr char kRevision[] = "deployment.kubernetes.io/revision";
inline constexpr char kRevisionHistory[] = "deployment.kubernetes.io/revision-history";
inline constexpr char kDesiredReplicas[] = "deployment.kubernetes.io/desired-replicas";
inline constexpr char kMaxReplicas[] = "deployment.kubernetes.io/max-replicas";
inline constexpr char kTemplateHash[] = "pod-template-hash";

int64_t replicasOf(const Object& object);  // spec.replicas, 1 where missing
int64_t statusOf(const Object& object, std::string_view field);
int64_t sumReplicas(const std::vector<ObjectPtr>& sets);
int64_t sumStatus(const std::vector<ObjectPtr>& sets, std::string_view field);
// The set's controller has acted on its latest size, or is about to; the numbers below hold from then on.
bool observed(const Object& set);
bool observed(const std::vector<ObjectPtr>& sets);
// The most pods that the sets may have at this moment: those still to be made, and those still to be deleted.
int64_t sumPods(const std::vector<ObjectPtr>& sets);
// The fewest available pods that the sets have once they are at their size.
int64_t availableOf(const Object& set);
int64_t sumAvailable(const std::vector<ObjectPtr>& sets);
bool isRolling(const Object& deployment);
int64_t maxSurge(const Object& deployment);
int64_t maxUnavailable(const Object& deployment);
int64_t revisionOf(const Object& object);
// Same template, the hash label aside.
bool sameTemplate(const Object& deployment, const Object& set);
std::string templateHash(const Object& deployment, int64_t collisions);
// How many replicas the current set may have now.
int64_t currentTarget(const Object& deployment, const std::vector<ObjectPtr>& all, const Object* current);
bool complete(const Object& deployment, const json::object& status);
// Annotations that a set takes over from its deployment.
bool inheritAnnotations(const Object& deployment, json::object& annotations);
void sortByCreation(std::vector<ObjectPtr>& sets);

}  // namespace dhow::controllers
