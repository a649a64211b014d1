// Watches over nodes: a node that is silent (heartbeats.h) becomes Unknown, conditions become taints, and pods leave
// nodes whose NoExecute taints they do not tolerate. As in Kubernetes the eviction from silent nodes is slowed down
// zone by zone: one node in ten seconds as a rule; where more than two nodes and at least 55 % of a zone are silent,
// one in a hundred seconds, or none at all when the zone has 50 nodes or fewer. When most zones have no node that is
// ready, it is the master that is cut off: then nothing is evicted.
//
// Tolerations: in seconds since a taint's timeAdded.
#pragma once

#include <map>

#include "component.h"
#include "heartbeats.h"
#include "workload.h"

namespace dhow::controllers {

class NodeLifecycleController final : public Component {
 public:
  struct Options {
    Duration evictionPause = std::chrono::seconds(10);       // between two nodes of a zone
    Duration slowEvictionPause = std::chrono::seconds(100);  // in a large zone most of which is silent
    double unhealthyZoneShare = 0.55;
    size_t largeZone = 50;  // more nodes than that
  };
  NodeLifecycleController(Context context, Heartbeats& heartbeats, Options options);

  void start() override;
  Task<> stop() override;
  bool idle() const override { return nodesController_.idle() && podsController_.idle(); }
  Task<Result<>> reconcileNode(std::string key);
  Task<Result<>> reconcilePod(std::string key);

 private:
  enum class Eviction { kNow, kLater, kNotNow, kNever };
  // Whether the node, which is not ready, gets its NoExecute taint now.
  Eviction evictionOf(const Object& node);
  bool evictionAllowed() const;  // most zones have a ready node
  Task<Result<>> markUnknown(ObjectPtr node);
  Task<Result<>> syncTaints(ObjectPtr node);
  Task<Result<>> markPodsNotReady(std::string node);
  Task<Result<>> evict(ObjectPtr pod, std::string why);

  Context context_;
  Heartbeats& heartbeats_;
  Options options_;
  client::Cache& nodes_;
  client::Cache& pods_;
  std::map<std::string, TimePoint> nextEviction_;  // by zone
  client::EventRecorder events_;
  client::Controller nodesController_;
  client::Controller podsController_;
  std::unique_ptr<Heartbeats::Subscription> heard_;
};

// Whether `toleration` covers `taint` (core/v1 semantics: empty key and effect match all, operator Exists or Equal).
bool tolerates(const json::object& toleration, const json::object& taint);

}  // namespace dhow::controllers
