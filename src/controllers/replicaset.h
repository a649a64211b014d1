// Keeps the number of pods of each ReplicaSet (apps/v1).
#pragma once

#include "component.h"
#include "own_writes.h"
#include "workload.h"

namespace dhow::controllers {

class ReplicaSetController final : public Component {
 public:
  explicit ReplicaSetController(Context context);

  void start() override { controller_.start(); }
  Task<> stop() override;
  bool idle() const override { return controller_.idle(); }
  Task<Result<>> reconcile(std::string key);

 private:
  void podChanged(const ObjectPtr& before, const ObjectPtr& after, client::WorkQueue& queue);
  Task<Result<>> manage(ObjectPtr set, std::vector<ObjectPtr> active);
  Task<Result<>> grow(ObjectPtr set, size_t count);
  Task<Result<>> shrink(ObjectPtr set, std::vector<ObjectPtr> active, size_t count);
  Task<Result<>> createPod(ObjectPtr set);
  Task<Result<>> deletePod(ObjectPtr set, ObjectPtr pod);
  Task<Result<>> writeStatus(ObjectPtr set, std::vector<ObjectPtr> pods, std::string failure, bool growing,
                             bool inSync);

  Context context_;
  client::Cache& sets_;
  client::Cache& pods_;
  client::EventRecorder events_;
  OwnWrites own_;
  client::Controller controller_;
};

// `active` in the order in which they are to be deleted: unassigned first, then pending, not ready, of lower deletion
// cost, on nodes with more pods of the same owner, ready for a shorter time, restarted more often, newer.
// `users`: sessions and connections that the edge holds, by uid; of pods that are equally ready, and whose deletion
// costs the same, the emptiest comes first.
std::vector<ObjectPtr> deletionOrder(std::vector<ObjectPtr> active, const std::vector<ObjectPtr>& related,
                                     const std::map<std::string, int64_t>& users = {});

}  // namespace dhow::controllers
