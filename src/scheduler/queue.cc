#include "queue.h"

namespace dhow::scheduler {

namespace {
constexpr Duration kFirstBackoff = std::chrono::seconds(1);
constexpr Duration kLongestBackoff = std::chrono::seconds(10);
constexpr Duration kOld = std::chrono::minutes(5);
}  // namespace

void SchedulingQueue::leave(Entry& entry) {
  switch (entry.place) {
    case Place::kActive: active_.erase(rankOf(entry)); break;
    case Place::kBackoff: backoff_.erase({entry.due, entry.pod->uid}); break;
    case Place::kUnschedulable: unschedulable_.erase(entry.pod->uid); break;
    case Place::kOut: break;
  }
  entry.place = Place::kOut;
}

void SchedulingQueue::activate(Entry& entry) {
  entry.place = Place::kActive;
  active_.insert(rankOf(entry));
  if (onReady_) onReady_();
}

void SchedulingQueue::backOff(Entry& entry) {
  if (entry.due <= loop_.now()) {
    activate(entry);
    return;
  }
  entry.place = Place::kBackoff;
  backoff_.insert({entry.due, entry.pod->uid});
  arm();
}

void SchedulingQueue::arm() {
  if (backoff_.empty()) return;
  const TimePoint first = backoff_.begin()->first;
  if (timer_ && armed_ <= first) return;
  armed_ = first;
  timer_ = loop_.after(std::max(first - loop_.now(), Duration(0)), [this] {
    timer_.cancel();
    while (!backoff_.empty() && backoff_.begin()->first <= loop_.now()) {
      Entry& entry = entries_.at(backoff_.begin()->second);
      leave(entry);
      activate(entry);
    }
    arm();
  });
}

void SchedulingQueue::put(PodInfoPtr pod, bool retry) {
  const std::string uid = pod->uid;
  auto [place, isNew] = entries_.try_emplace(uid);
  Entry& entry = place->second;
  if (isNew) {
    entry.pod = std::move(pod);
    entry.age = ++ages_;
    activate(entry);
    return;
  }
  const Place was = entry.place;
  if (was == Place::kOut) {
    entry.pod = std::move(pod);
    return;
  }
  leave(entry);
  entry.pod = std::move(pod);
  if (was == Place::kActive) {
    activate(entry);
  } else if (was == Place::kBackoff || retry) {
    backOff(entry);
  } else {
    entry.place = Place::kUnschedulable;
    unschedulable_.insert(uid);
  }
}

void SchedulingQueue::remove(const std::string& uid) {
  auto found = entries_.find(uid);
  if (found == entries_.end()) return;
  leave(found->second);
  entries_.erase(found);
}

PodInfoPtr SchedulingQueue::pop() {
  if (active_.empty()) return nullptr;
  Entry& entry = entries_.at(std::get<2>(*active_.begin()));
  leave(entry);
  ++entry.attempts;
  return entry.pod;
}

void SchedulingQueue::unschedulable(const PodInfoPtr& pod) {
  auto found = entries_.find(pod->uid);
  if (found == entries_.end()) return;
  Entry& entry = found->second;
  leave(entry);
  entry.since = loop_.now();
  Duration delay = kFirstBackoff;
  for (int i = 1; i < entry.attempts && delay < kLongestBackoff; ++i) delay *= 2;
  entry.due = loop_.now() + std::min(delay, kLongestBackoff);
  entry.place = Place::kUnschedulable;
  unschedulable_.insert(pod->uid);
}

void SchedulingQueue::failed(const PodInfoPtr& pod) {
  unschedulable(pod);
  auto found = entries_.find(pod->uid);
  if (found == entries_.end()) return;
  leave(found->second);
  backOff(found->second);
}

void SchedulingQueue::moveAll(const std::function<bool(const PodInfo&)>& may) {
  if (unschedulable_.empty()) return;
  std::vector<std::string> moved;
  for (const std::string& uid : unschedulable_) {
    if (!may || may(*entries_.at(uid).pod)) moved.push_back(uid);
  }
  for (const std::string& uid : moved) {
    Entry& entry = entries_.at(uid);
    leave(entry);
    backOff(entry);
  }
}

void SchedulingQueue::flushOld() {
  std::vector<std::string> old;
  for (const std::string& uid : unschedulable_) {
    if (loop_.now() - entries_.at(uid).since >= kOld) old.push_back(uid);
  }
  for (const std::string& uid : old) {
    Entry& entry = entries_.at(uid);
    leave(entry);
    activate(entry);
  }
}

}  // namespace dhow::scheduler
