// Pods that wait to be scheduled: ready ones by priority and age, those that back off, and those that nothing has
// changed for since they did not fit.
#pragma once

#include <functional>
#include <map>
#include <set>
#include <string>
#include <unordered_map>

#include "base/loop.h"
#include "pod_info.h"

namespace dhow::scheduler {

class SchedulingQueue {
 public:
  explicit SchedulingQueue(Loop& loop) : loop_(loop) {}

  void onReady(std::function<void()> ready) { onReady_ = std::move(ready); }
  // A new pod, or a new version of one that waits. `retry`: the change may make it fit.
  void put(PodInfoPtr pod, bool retry);
  void remove(const std::string& uid);
  // The next pod; it stays known until remove(), failed() or put().
  PodInfoPtr pop();
  // It did not fit: waits for moveAll(), at least its back-off.
  void unschedulable(const PodInfoPtr& pod);
  // It failed for another reason: tried again after its back-off.
  void failed(const PodInfoPtr& pod);
  // Something changed: those that did not fit and for which `may` holds are tried again, after their back-off.
  void moveAll(const std::function<bool(const PodInfo&)>& may = nullptr);
  // Retries what has not fitted for five minutes, whatever the events said.
  void flushOld();

  size_t ready() const { return active_.size(); }
  size_t waiting() const { return entries_.size(); }

 private:
  enum class Place { kOut, kActive, kBackoff, kUnschedulable };
  struct Entry {
    PodInfoPtr pod;
    Place place = Place::kOut;
    int attempts = 0;
    uint64_t age = 0;
    TimePoint since{};
    TimePoint due{};  // end of the back-off
  };
  using Rank = std::tuple<int64_t, uint64_t, std::string>;  // priority reversed, age, uid
  static Rank rankOf(const Entry& entry) { return {-entry.pod->priority, entry.age, entry.pod->uid}; }
  void leave(Entry& entry);
  void activate(Entry& entry);
  void backOff(Entry& entry);
  void arm();

  Loop& loop_;
  std::unordered_map<std::string, Entry> entries_;
  std::set<Rank> active_;
  std::set<std::pair<TimePoint, std::string>> backoff_;
  std::set<std::string> unschedulable_;
  std::function<void()> onReady_;
  Timer timer_;
  TimePoint armed_{};
  uint64_t ages_ = 0;
};

}  // namespace dhow::scheduler
