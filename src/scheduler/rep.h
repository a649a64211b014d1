// The scheduler's inside.
#pragma once

#include <map>
#include <memory>
#include <unordered_set>

#include "base/gate.h"
#include "client/event_recorder.h"
#include "cycle.h"
#include "queue.h"
#include "scheduler/scheduler.h"

namespace dhow::scheduler {

struct Diagnosis {
  size_t nodes = 0;
  std::map<size_t, Refusal> refusals;  // by slot
};
// "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) were unschedulable."
std::string describe(size_t nodes, const std::map<std::string, int>& reasons);
std::string describe(const Diagnosis& diagnosis);

struct Preemption {
  std::string message;
  std::string node;  // empty: it does not help
  std::vector<PodInfoPtr> victims;
};

struct Scheduler::Rep : std::enable_shared_from_this<Scheduler::Rep> {
  Rep(Loop& loop, client::Client& client, client::Caches& caches, Options options);

  void onPod(const ObjectPtr& before, const ObjectPtr& after);
  void onNode(const ObjectPtr& before, const ObjectPtr& after);
  bool ours(const Object& pod) const;

  void wake();
  void run();
  void scheduleOne(const PodInfoPtr& pod);
  object::LabelSelector groupOf(const PodInfo& pod) const;
  std::vector<size_t> findNodes(Cycle& cycle, const PodInfoPtr& pod, Diagnosis& diagnosis);
  std::optional<Refusal> filter(Cycle& cycle, const PodInfoPtr& pod, size_t slot);
  size_t choose(const std::vector<size_t>& slots, const std::vector<int64_t>& scores);
  void assume(const PodInfoPtr& pod, size_t slot);
  void undo(const PodInfoPtr& pod);
  void refused(const PodInfoPtr& pod, const std::string& message, const std::string& nominate);

  // preemption.cc
  Preemption preempt(Cycle& cycle, const PodInfoPtr& pod, const Diagnosis& diagnosis);
  std::optional<std::vector<PodInfoPtr>> victimsOn(Cycle& cycle, const PodInfoPtr& pod, size_t slot, Refusal& refusal);

  static Task<> open(std::shared_ptr<Rep> self);
  static Task<> bind(std::shared_ptr<Rep> self, PodInfoPtr pod);
  static Task<> tell(std::shared_ptr<Rep> self, PodInfoPtr pod, std::string reason, std::string message,
                     std::string nominate);
  static Task<> evict(std::shared_ptr<Rep> self, PodInfoPtr pod, std::vector<PodInfoPtr> victims, std::string node);
  void flushLater();

  Loop& loop;
  client::Client& client;
  Options options;
  client::Cache& pods;
  client::Cache& nodes;
  client::Cache& services;
  client::Cache& sets;
  client::Cache& namespaces;
  client::EventRecorder events;
  State state;
  SchedulingQueue queue;
  std::vector<DefaultSpread> defaults;
  Weights weights;
  std::unordered_set<std::string> assumed;      // uids
  std::map<std::string, PodInfoPtr> nominated;  // by uid; `nominated` names the node
  std::vector<std::unique_ptr<client::Cache::Subscription>> subscriptions;
  size_t nextStart = 0;
  size_t binding = 0;
  uint64_t scheduled = 0;
  bool opened = false;
  bool woken = false;
  Timer flush;
  Gate gate;
};

}  // namespace dhow::scheduler
