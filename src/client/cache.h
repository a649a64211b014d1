// A read-only view of all objects of one kind, kept current by watching. In the server process it is the API server's
// watch cache itself; elsewhere client/reflector.h fills one over HTTP. All on the loop's thread.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/loop.h"
#include "client/client.h"

namespace dhow::client {

class Cache {
 public:
  virtual ~Cache() = default;

  virtual bool synced() const = 0;
  virtual Task<> waitSynced() = 0;
  // The newest resourceVersion of its kind that it has seen; it holds every change up to there.
  virtual uint64_t revision() const = 0;
  // Null when there is none. `ns` is empty for cluster-scoped kinds.
  virtual ObjectPtr get(std::string_view ns, std::string_view name) const = 0;
  // All, or those of one namespace.
  virtual std::vector<ObjectPtr> list(std::string_view ns = "") const = 0;

  // Secondary index: `keysOf` names the index keys of an object (a pod's node, an object's owner). Register before
  // start.
  using KeysOf = std::function<void(const ObjectPtr&, std::vector<std::string>& keys)>;
  virtual void addIndex(std::string index, KeysOf keysOf) = 0;
  virtual std::vector<ObjectPtr> byIndex(std::string_view index, std::string_view key) const = 0;

  // Called for every change, after the cache holds it: before is null for a new object, after is null for a removed
  // one. Handlers only enqueue keys. A late subscriber gets every object that is there first. The handler lives as long
  // as the subscription.
  using Handler = std::function<void(const ObjectPtr& before, const ObjectPtr& after)>;
  class Subscription {
   public:
    virtual ~Subscription() = default;
  };
  [[nodiscard]] virtual std::unique_ptr<Subscription> subscribe(Handler handler) = 0;
};

// Hands out the cache of a kind, one each.
class Caches {
 public:
  virtual ~Caches() = default;
  virtual Cache& of(const Resource& resource) = 0;
};

}  // namespace dhow::client
