// Runs reconcile(key) for the keys of a work queue, at most `workers` at once, never two for the same key. An error
// puts the key back with a growing delay; a conflict or a lost race is not logged, as it heals by itself.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/gate.h"
#include "client/cache.h"
#include "client/work_queue.h"

namespace dhow::client {

class Controller {
 public:
  using Reconcile = std::function<Task<Result<>>(std::string key)>;
  using KeysOf = std::function<void(const ObjectPtr& before, const ObjectPtr& after, WorkQueue& queue)>;
  struct Options {
    std::string name;
    size_t workers = 8;
    WorkQueue::Options queue;
  };
  Controller(Loop& loop, Options options, Reconcile reconcile);
  ~Controller();

  // From start() on every change of the cache goes to `keysOf`, which adds keys. Work waits until the cache is synced.
  void watch(Cache& cache, KeysOf keysOf);
  // watch() that adds the object's own key.
  void watchOwn(Cache& cache);
  // Further caches to wait for.
  void require(Cache& cache) { caches_.push_back(&cache); }

  WorkQueue& queue() { return queue_; }
  void start();
  Task<> stop();
  bool idle() const { return queue_.ready() == 0 && running_ == 0; }

 private:
  struct Source {
    Cache* cache;
    KeysOf keysOf;
  };
  static Task<> open(Controller* self);
  static Task<> work(Controller* self, std::string key);
  void pump();

  Loop& loop_;
  Options options_;
  Reconcile reconcile_;
  WorkQueue queue_;
  std::vector<Source> sources_;
  std::vector<Cache*> caches_;
  std::vector<std::unique_ptr<Cache::Subscription>> subscriptions_;
  size_t running_ = 0;
  bool open_ = false;
  Gate gate_;
};

// "ns/name" or "name".
std::pair<std::string_view, std::string_view> splitKey(std::string_view key);

}  // namespace dhow::client
