#include "client/work_queue.h"

namespace dhow::client {

WorkQueue::WorkQueue(Loop& loop, Options options) : loop_(loop), options_(options), changed_(loop) {}
WorkQueue::~WorkQueue() = default;

void WorkQueue::push(std::string key) {
  queue_.push_back(std::move(key));
  changed_.notify();
  if (ready_) ready_();
}

void WorkQueue::add(std::string key) {
  if (closed_) return;
  delayed_.erase(key);
  if (!waiting_.insert(key).second) return;
  if (out_.contains(key)) return;
  push(std::move(key));
}

void WorkQueue::addAfter(std::string key, Duration delay) {
  if (closed_) return;
  if (delay <= Duration(0)) {
    add(std::move(key));
    return;
  }
  if (waiting_.contains(key)) return;
  const TimePoint due = loop_.now() + delay;
  auto [place, isNew] = delayed_.try_emplace(key);
  if (!isNew && place->second.due <= due) return;
  place->second.due = due;
  place->second.timer = loop_.after(delay, [this, key = std::move(key)] {
    // add() ends the timer that runs this function, so the key is copied out first.
    std::string own = key;
    add(std::move(own));
  });
}

void WorkQueue::addRateLimited(std::string key) {
  int& count = failures_[key];
  Duration delay = options_.firstDelay;
  for (int i = 0; i < count && delay < options_.maxDelay; ++i) delay *= 2;
  ++count;
  addAfter(std::move(key), std::min(delay, options_.maxDelay));
}

void WorkQueue::forget(const std::string& key) {
  failures_.erase(key);
}

int WorkQueue::failures(const std::string& key) const {
  auto found = failures_.find(key);
  return found == failures_.end() ? 0 : found->second;
}

std::optional<std::string> WorkQueue::tryTake() {
  if (queue_.empty() || closed_) return std::nullopt;
  std::string key = std::move(queue_.front());
  queue_.pop_front();
  waiting_.erase(key);
  out_.insert(key);
  return key;
}

Task<std::optional<std::string>> WorkQueue::take() {
  while (queue_.empty() && !closed_) co_await changed_.wait();
  co_return tryTake();
}

void WorkQueue::done(const std::string& key) {
  if (out_.erase(key) == 0 || closed_) return;
  if (waiting_.contains(key)) push(key);
}

void WorkQueue::close() {
  closed_ = true;
  delayed_.clear();
  queue_.clear();
  waiting_.clear();
  changed_.notify();
}

}  // namespace dhow::client
