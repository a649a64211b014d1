// Keys that wait for work. A key that is added many times is worked on once; one that is added while it is worked on
// comes again afterwards; the same key is never out twice. On the loop's thread.
#pragma once

#include <deque>
#include <functional>
#include <optional>
#include <string>
#include <unordered_map>
#include <unordered_set>

#include "base/gate.h"
#include "base/loop.h"

namespace dhow::client {

class WorkQueue {
 public:
  struct Options {
    Duration firstDelay = std::chrono::milliseconds(5);  // doubles with each failure in a row
    Duration maxDelay = std::chrono::seconds(60);
  };
  explicit WorkQueue(Loop& loop) : WorkQueue(loop, Options()) {}
  WorkQueue(Loop& loop, Options options);
  ~WorkQueue();

  void add(std::string key);
  // Added after `delay`; of several delays for one key the soonest counts.
  void addAfter(std::string key, Duration delay);
  // Added after the back-off of the key, which this call lengthens.
  void addRateLimited(std::string key);
  // The key succeeded: its back-off starts anew.
  void forget(const std::string& key);
  int failures(const std::string& key) const;

  // A key to work on; whoever took it calls done(). Nothing when there is none now.
  std::optional<std::string> tryTake();
  // Waits; nothing after close().
  Task<std::optional<std::string>> take();
  void done(const std::string& key);
  // Called (at once, not nested in a take) when a key became ready.
  void onReady(std::function<void()> ready) { ready_ = std::move(ready); }

  void close();
  bool closed() const { return closed_; }
  size_t ready() const { return queue_.size(); }
  // Ready, delayed or out.
  size_t pending() const { return queue_.size() + delayed_.size() + out_.size(); }

 private:
  struct Delayed {
    TimePoint due;
    Timer timer;
  };
  void push(std::string key);

  Loop& loop_;
  Options options_;
  std::deque<std::string> queue_;
  std::unordered_set<std::string> waiting_;  // in queue_, or out and added again
  std::unordered_set<std::string> out_;
  std::unordered_map<std::string, Delayed> delayed_;
  std::unordered_map<std::string, int> failures_;
  std::function<void()> ready_;
  Signal changed_;
  bool closed_ = false;
};

}  // namespace dhow::client
