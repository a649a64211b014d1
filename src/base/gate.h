// Gate: keeps count of a component's background tasks so that its stop() can wait for the last of them.
// Signal: what one task waits for and another sets. Queue: values handed from one task to another.
// All belong to one loop's thread.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <optional>

#include "base/loop.h"

namespace dhow {

// An edge that tasks wait for: notify() wakes all that wait at that moment.
class Signal {
 public:
  explicit Signal(Loop& loop) : loop_(&loop) {}
  ~Signal();
  Signal(const Signal&) = delete;
  Signal& operator=(const Signal&) = delete;

  void notify();
  Task<> wait();
  // Waits at most `limit`; false when the time ran out.
  Task<bool> waitFor(Duration limit);

 private:
  struct Waiter;
  Loop* loop_;
  std::vector<std::shared_ptr<Waiter>> waiters_;
};

class Gate {
 public:
  explicit Gate(Loop& loop) : loop_(loop), empty_(loop) {}
  ~Gate();

  // Runs `task` on the loop, counted. After close() the task is dropped unrun.
  void spawn(Task<> task);
  bool closed() const { return closed_; }
  // Lets nothing more in and returns when all have left.
  Task<> close();

 private:
  static Task<> enter(Gate* gate, Task<> task);
  Loop& loop_;
  Signal empty_;
  size_t inside_ = 0;
  bool closed_ = false;
};

// First in, first out. pop() waits; after close() it drains what is left and then gives nothing.
template <class T>
class Queue {
 public:
  explicit Queue(Loop& loop) : changed_(loop) {}

  void push(T value) {
    if (closed_) return;
    values_.push_back(std::move(value));
    changed_.notify();
  }
  Task<std::optional<T>> pop() {
    while (values_.empty() && !closed_) co_await changed_.wait();
    if (values_.empty()) co_return std::nullopt;
    std::optional<T> value(std::move(values_.front()));
    values_.pop_front();
    co_return value;
  }
  std::optional<T> tryPop() {
    if (values_.empty()) return std::nullopt;
    std::optional<T> value(std::move(values_.front()));
    values_.pop_front();
    return value;
  }
  void close() {
    closed_ = true;
    changed_.notify();
  }
  bool closed() const { return closed_; }
  size_t size() const { return values_.size(); }

 private:
  Signal changed_;
  std::deque<T> values_;
  bool closed_ = false;
};

}  // namespace dhow
