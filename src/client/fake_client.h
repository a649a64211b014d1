// An API in memory for tests: objects with resourceVersions, generations, conflicts, finalizers, a pod's grace, the
// subresources status, binding and finalize, watches, and caches that can be held back. No admission, defaulting or
// validation.
#pragma once

#include <deque>
#include <functional>
#include <map>

#include "client/cache.h"
#include "client/memory_cache.h"

namespace dhow::client {

class FakeClient final : public Client, public Caches {
 public:
  explicit FakeClient(Loop& loop) : loop_(loop) {}

  struct Action {
    std::string verb;  // create, update, patch, delete
    Resource resource;
    std::string ns;
    std::string name;
    std::string subresource;
    boost::json::value body;
    DeleteOptions options;
    // "create pods default", "update deployments/status default/web"
    std::string str() const;
  };

  // Puts an object as if it had been created; fills in uid, resourceVersion and creationTimestamp where missing.
  ObjectPtr seed(const Resource& resource, boost::json::object document);
  ObjectPtr seed(const Resource& resource, std::string_view jsonText);
  // The current object; null when there is none.
  ObjectPtr find(const Resource& resource, std::string_view ns, std::string_view name) const;
  std::vector<ObjectPtr> all(const Resource& resource, std::string_view ns = "") const;
  // Changes an object in place, as another client would.
  ObjectPtr change(const Resource& resource, std::string_view ns, std::string_view name,
                   const std::function<void(boost::json::object&)>& edit);
  void drop(const Resource& resource, std::string_view ns, std::string_view name);

  const std::vector<Action>& actions() const { return actions_; }
  std::vector<std::string> actionNames() const;
  void clearActions() { actions_.clear(); }
  // Asked before each call that writes; an Error fails the call, and nothing changes.
  std::function<std::optional<Error>(const Action&)> inject;
  // Asked before each list and watch.
  std::function<std::optional<Error>(std::string_view verb, const Resource&)> injectRead;
  // Called after each change is visible to readers.
  bool recordActions = true;

  // While held, caches show the past; release() shows them all that happened since.
  void holdCaches() { held_ = true; }
  void releaseCaches();
  // Watches from before now on get kExpired, and open ones break.
  void expireWatches();
  void breakWatches();
  size_t openWatches() const;

  Task<Result<ObjectPtr>> get(const Resource& resource, std::string ns, std::string name) override;
  Task<Result<List>> list(const Resource& resource, ListOptions options) override;
  Task<Result<std::unique_ptr<Watcher>>> watch(const Resource& resource, ListOptions options,
                                               std::string resourceVersion) override;
  Task<Result<ObjectPtr>> create(const Resource& resource, std::string ns, boost::json::object body,
                                 std::string name = "", std::string subresource = "") override;
  Task<Result<ObjectPtr>> update(const Resource& resource, std::string ns, std::string name, std::string subresource,
                                 boost::json::object body) override;
  Task<Result<ObjectPtr>> patch(const Resource& resource, std::string ns, std::string name, std::string subresource,
                                PatchType type, boost::json::value body) override;
  Task<Result<>> remove(const Resource& resource, std::string ns, std::string name, DeleteOptions options) override;
  Cache& of(const Resource& resource) override;

 private:
  class FakeWatcher;
  struct Feed;
  struct LogEntry {
    uint64_t version;
    Resource resource;
    WatchEvent event;
  };
  using Key = std::pair<std::string, std::string>;  // namespace, name

  Result<ObjectPtr> write(const Resource& resource, const ObjectPtr& before, boost::json::object after);
  Result<ObjectPtr> apply(const Resource& resource, const ObjectPtr& before, std::string_view subresource,
                          boost::json::object after);
  void publish(const Resource& resource, WatchEvent::Type type, ObjectPtr object);
  void erase(const Resource& resource, const ObjectPtr& object);
  std::optional<Error> record(Action action);
  ObjectPtr store(const Resource& resource, boost::json::object document, WatchEvent::Type type);

  Loop& loop_;
  std::map<Resource, std::map<Key, ObjectPtr>> objects_;
  std::map<Resource, std::unique_ptr<MemoryCache>> caches_;
  std::deque<LogEntry> log_;
  std::vector<std::pair<Resource, WatchEvent>> heldEvents_;
  std::vector<std::weak_ptr<Feed>> feeds_;
  std::vector<Action> actions_;
  uint64_t version_ = 0;
  uint64_t oldest_ = 0;
  uint64_t uids_ = 0;
  uint64_t names_ = 0;
  bool held_ = false;
};

// RFC 7386.
void mergePatch(boost::json::value& target, const boost::json::value& patch);

}  // namespace dhow::client
