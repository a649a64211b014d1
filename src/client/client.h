// The API as a controller, the scheduler or an agent sees it. Two implementations: apiserver/local_client.h, which
// calls the API server in the same process, and client/http_client.h.
#pragma once

#include <boost/json/object.hpp>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/task.h"
#include "object/object.h"
#include "object/resource.h"

namespace dhow::client {

using object::Object;
using object::ObjectPtr;
using object::Resource;

struct WatchEvent {
  enum class Type { kAdded, kModified, kDeleted, kBookmark };
  Type type = Type::kAdded;
  ObjectPtr object;  // kBookmark: only metadata.resourceVersion (and annotations) count
};

class Watcher {
 public:
  virtual ~Watcher() = default;
  // kExpired: list again. kUnavailable: the connection broke. kCancelled after close().
  virtual Task<Result<WatchEvent>> next() = 0;
  virtual void close() = 0;
};

struct ListOptions {
  std::string ns;  // empty: all
  std::string labelSelector;
  std::string fieldSelector;
  bool podAddresses = false;  // of pods: only who and where they are (apiserver/pod_address.h)
};

struct List {
  std::vector<ObjectPtr> items;
  std::string resourceVersion;
};

enum class PatchType { kJson, kMerge, kStrategicMerge, kApply };

struct DeleteOptions {
  std::optional<int64_t> gracePeriodSeconds;
  std::string propagationPolicy;  // Background, Foreground, Orphan; empty: the kind's default
  std::string uid;                // precondition
  std::string resourceVersion;    // precondition
};

// `ns` is empty for cluster-scoped kinds; `subresource` is "" or "status", "scale", "binding", "finalize", "eviction".
class Client {
 public:
  virtual ~Client() = default;
  virtual Task<Result<ObjectPtr>> get(const Resource& resource, std::string ns, std::string name) = 0;
  virtual Task<Result<List>> list(const Resource& resource, ListOptions options) = 0;
  virtual Task<Result<std::unique_ptr<Watcher>>> watch(const Resource& resource, ListOptions options,
                                                       std::string resourceVersion) = 0;
  // POST. With a subresource ("binding", "token", "eviction") `name` is the parent's.
  virtual Task<Result<ObjectPtr>> create(const Resource& resource, std::string ns, boost::json::object body,
                                         std::string name = "", std::string subresource = "") = 0;
  // PUT. kConflict when metadata.resourceVersion in `body` is not the current one.
  virtual Task<Result<ObjectPtr>> update(const Resource& resource, std::string ns, std::string name,
                                         std::string subresource, boost::json::object body) = 0;
  virtual Task<Result<ObjectPtr>> patch(const Resource& resource, std::string ns, std::string name,
                                        std::string subresource, PatchType type, boost::json::value body) = 0;
  virtual Task<Result<>> remove(const Resource& resource, std::string ns, std::string name, DeleteOptions options) = 0;
};

}  // namespace dhow::client
