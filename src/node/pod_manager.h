// All pods of this node: a worker each, from the API's list and from disk; routes the runtime's events to them; keeps
// the logs of pods that are gone for a while.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>

#include "client/cache.h"
#include "fence.h"
#include "pod_worker.h"

namespace dhow::node {

class PodManager {
 public:
  // `pods`: those bound to this node.
  PodManager(WorkerContext& context, client::Cache& pods, int64_t maxPods, size_t oldLogs = 100);
  ~PodManager();

  // From now on pods with an identity run only while the lease holds. Before recover().
  void fenceBy(Fence& fence);
  // Takes up what an earlier agent left: sandboxes that run, pods on disk. Before start().
  Task<Result<>> recover();
  void start();
  // Containers go on.
  Task<> stop();

  PodWorker* find(std::string_view ns, std::string_view name) const;
  std::vector<PodWorker*> workers() const;
  size_t size() const { return workers_.size(); }
  // Calls `run` when that container has ended or its pod is gone. The number ends it.
  uint64_t onContainerEnd(const std::string& containerId, std::function<void()> run);
  void forget(uint64_t watcher) { enders_.erase(watcher); }

 private:
  void seen(const ObjectPtr& before, const ObjectPtr& after);
  PodWorker* add(ObjectPtr pod);
  void begin(PodWorker* worker);
  void leaseLost();
  void leaseHeld();
  void over(const std::string& uid);
  void told(const runtime::Event& event);
  void containerEnded(const std::string& containerId);
  static Task<> retire(PodManager* self, std::string uid);
  static Task<> forgetPod(PodManager* self, ObjectPtr pod);
  static Task<> reconcileOnce(PodManager* self);
  void dropOldLogs();

  WorkerContext& context_;
  client::Cache& pods_;
  const int64_t maxPods_;
  const size_t oldLogs_;
  std::map<std::string, std::unique_ptr<PodWorker>> workers_;  // by uid
  struct Ender {
    std::string containerId;
    std::function<void()> run;
  };
  std::map<uint64_t, Ender> enders_;
  uint64_t nextEnder_ = 1;
  std::unique_ptr<client::Cache::Subscription> subscription_;
  Fence* fence_ = nullptr;
  std::set<std::string> held_;  // uids of pods that wait for the lease
  bool stopping_ = false;
  Gate gate_;
};

}  // namespace dhow::node
