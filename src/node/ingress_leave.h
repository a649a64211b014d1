// A node that is about to be taken away lets the clients of its Ingresses go first: when its Node says so
// (client::kIngressLeavesSince) it waits until everybody has heard that nobody is to be sent here any more, and asks
// its edge to end what it has. On the loop.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "base/gate.h"
#include "client/cache.h"
#include "floors.h"

namespace dhow::node {

class IngressLeave {
 public:
  IngressLeave(Loop& loop, client::Caches& caches, Barrier& barrier, std::string node);
  // Told whether the edge is to end what it has; before start().
  std::function<void(bool leave)> onLeave;
  void start();
  Task<> stop();

 private:
  bool asked() const;
  bool listed() const;
  uint64_t revision() const;
  static Task<> run(IngressLeave* self);

  Loop& loop_;
  client::Cache& nodes_;
  client::Cache& slices_;
  Barrier& barrier_;
  const std::string node_;
  std::vector<std::unique_ptr<client::Cache::Subscription>> subscriptions_;
  bool stopping_ = false;
  Signal changed_;
  Gate gate_;
};

}  // namespace dhow::node
