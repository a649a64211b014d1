// The scheduler: binds pods without a node (spec.schedulerName "default-scheduler") to the node that suits them best.
// One pod at a time, on the loop's thread; the binding itself is written while the next pods are already being
// scheduled, against a state that assumes it.
#pragma once

#include <memory>
#include <string>

#include "base/loop.h"
#include "client/cache.h"
#include "client/client.h"

namespace dhow::scheduler {

struct Options {
  std::string name = "default-scheduler";
  // Of the nodes that fit, how many are enough to choose from, in percent; 0: as many as Kubernetes (50 % down to 5 %,
  // at least 100).
  int percentageOfNodesToScore = 0;
  int64_t zoneMaxSkew = 1;  // of the default soft spreading over zones
  int64_t hostnameMaxSkew = 3;
};

class Scheduler {
 public:
  Scheduler(Loop& loop, client::Client& client, client::Caches& caches, Options options);
  ~Scheduler();
  void start();
  Task<> stop();

  // Nothing ready and no binding under way.
  bool idle() const;
  size_t waiting() const;  // pods without a node
  uint64_t scheduled() const;

 private:
  struct Rep;
  std::shared_ptr<Rep> rep_;
};

}  // namespace dhow::scheduler
