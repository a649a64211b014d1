// What runs on a cluster during a drill, in a namespace of its own: a service with replicas everywhere, and pods with
// an identity (client/node_lease.h), which the drill makes again under their names when they are gone, as a StatefulSet
// would.
#pragma once

#include <functional>
#include <set>
#include <string>

#include "base/gate.h"
#include "base/loop.h"
#include "base/result.h"
#include "client/cache.h"
#include "client/client.h"

namespace dhow::platform {

inline constexpr char kDrillNamespace[] = "dhow-drill";

// Removes the namespace and all that is in it, and waits until it is gone. Missing is fine.
Task<Result<>> removeDrillNamespace(Loop& loop, client::Client& api, Duration limit);

class DrillWorkload {
 public:
  struct Options {
    std::string image;
    int replicas = 6;
    int identities = 3;
  };
  DrillWorkload(Loop& loop, client::Client& api, Options options);
  // Makes everything; `pods` is a cache of the namespace's pods, and outlives this.
  Task<Result<>> deploy(client::Cache& pods);
  // No identity is made again after it.
  Task<> stop();
  std::set<std::string> identities() const;
  // Where the service answers; waits until it has an address.
  Task<Result<std::string>> url(Duration limit);

 private:
  Task<Result<>> make(const client::Resource& resource, boost::json::object body);
  static Task<> removeIdentity(DrillWorkload* self, std::string name, std::string uid);
  static Task<> makeIdentity(DrillWorkload* self, std::string name);

  Loop& loop_;
  client::Client& api_;
  const Options options_;
  std::string ownerUid_;
  bool stopping_ = false;
  Signal stopped_;
  std::unique_ptr<client::Cache::Subscription> subscription_;
  Gate gate_;
};

}  // namespace dhow::platform
