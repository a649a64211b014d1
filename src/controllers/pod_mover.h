// Takes pods off a node without a gap: a ReplicaSet's pod is marked (dhow.io/leaving), its set makes another one, and
// the marked one is evicted when enough others are available. Others are evicted as they are. Every eviction goes
// through the eviction API, so that disruption budgets hold.
#pragma once

#include "platform.h"

namespace dhow::controllers {

struct Move {
  enum class State {
    kGone,     // deleted, or about to be
    kWaiting,  // for its replacement
    kBlocked,  // a budget or its nature keeps it; `why` tells
  };
  State state = State::kGone;
  std::string why;
  std::string budget;  // "ns/name", when one keeps it
};

class PodMover {
 public:
  explicit PodMover(Context context);
  // One step for one pod; called again when pods change. Errors are the API's.
  Task<Result<Move>> step(ObjectPtr pod);

 private:
  Task<Result<Move>> evict(ObjectPtr pod);
  Task<Result<bool>> replaced(ObjectPtr pod, ObjectPtr set);
  std::string budgetOf(const Object& pod) const;

  Context context_;
  client::Cache& pods_;
  client::Cache& sets_;
  client::Cache* budgets_ = nullptr;
};

struct Drained {
  size_t left = 0;        // pods that have not gone yet
  std::string blockedBy;  // "ns/name" of a pod that is kept
  std::string budget;
  std::string message;
  bool done() const { return left == 0; }
};

// Makes the node unschedulable and takes its pods off, one step.
Task<Result<Drained>> drainStep(Context context, PodMover& mover, ObjectPtr node);
// Takes back what drainStep() did to the node, if it was drainStep() that did it.
Task<Result<>> uncordon(Context context, ObjectPtr node);

}  // namespace dhow::controllers
