// The API server's view of the store: every object of every kind, decoded once, with its resourceVersion in it, and a
// window of the newest changes that watches follow; what is older a watch reads from the store's history. Reads are
// served from here. One watch of the store feeds all kinds, so they stand at the same revision. All on the loop's
// thread.
//
// Others may write to the same store. catchUp() makes the caches as new as anything acknowledged to anybody; when the
// store's watch has lost its place, everything is read anew and the watches of clients expire.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <vector>

#include "apiserver/value_cipher.h"
#include "base/gate.h"
#include "client/cache.h"
#include "client/memory_cache.h"
#include "store/store.h"

namespace dhow::apiserver {

namespace json = boost::json;
using object::ObjectPtr;
using object::Resource;
using store::Revision;

// What a writer attaches to a put: the document without resourceVersion. The first to learn the revision makes the
// object, and everyone shares it.
class Draft {
 public:
  explicit Draft(json::object document) : document_(std::move(document)) {}
  ObjectPtr at(Revision revision) const;
  std::string encode() const;  // before at()

 private:
  mutable json::object document_;  // given away when the object is made
  mutable ObjectPtr made_;
};

// A copy of the object that says it is of this revision.
ObjectPtr atRevision(const ObjectPtr& object, Revision revision);

// "/registry/pods/default/web": the group only where it is not the core's.
std::string storePrefix(const Resource& resource);
std::string storeKey(const Resource& resource, std::string_view ns, std::string_view name);

class KindWatch;

class KindCache final : public client::Cache {
 public:
  KindCache(Loop& loop, Resource resource, const ValueCipher* cipher)
      : resource_(std::move(resource)),
        cipher_(cipher),
        packs_(resource_ == object::resources::kEvents),
        objects_(loop) {}
  ~KindCache() override;

  bool synced() const override { return objects_.synced(); }
  Task<> waitSynced() override { return objects_.waitSynced(); }
  uint64_t revision() const override { return objects_.revision(); }
  ObjectPtr get(std::string_view ns, std::string_view name) const override;
  std::vector<ObjectPtr> list(std::string_view ns = "") const override;
  void addIndex(std::string index, KeysOf keysOf) override;
  std::vector<ObjectPtr> byIndex(std::string_view index, std::string_view key) const override;
  std::unique_ptr<Subscription> subscribe(Handler handler) override;
  size_t size() const { return objects_.size(); }
  const Resource& resource() const { return resource_; }
  // What is in the store and cannot be read, by "ns/name", and why.
  const std::map<std::string, std::string, std::less<>>& unreadable() const { return unreadable_; }
  // What is stored in plain text or with an old key, by "ns/name".
  const std::set<std::string, std::less<>>& stale() const { return stale_; }

 private:
  friend class WatchCache;
  friend class KindWatch;
  struct Change {
    Revision revision = 0;
    TimePoint at{};
    ObjectPtr before;
    ObjectPtr after;  // null: removed; then `before` says the revision of its removal
    size_t bytes = 0;
  };
  void restore(const store::Entry& entry);
  void put(const ObjectPtr& object);
  std::vector<ObjectPtr> given(std::vector<ObjectPtr> kept) const;
  // Null when it cannot be read; that is kept in unreadable_.
  ObjectPtr decode(const store::Entry& entry);
  // The same change as the store's history tells it; null when the history lacks what was there before.
  std::optional<Change> recall(const store::Event& event) const;
  void startAt(Revision revision);
  // Watches that have not come so far expire.
  void expireBefore(Revision revision);
  void apply(const store::Event& event, TimePoint now);
  void dropOldest();
  // Takes what came before `oldest` out of the window.
  void prune(TimePoint oldest);
  void wake();

  const Resource resource_;
  const ValueCipher* const cipher_;
  // Of Events there are many, and they are seldom read: they are kept encoded, at a quarter of the memory.
  const bool packs_;
  client::MemoryCache objects_;
  std::map<std::string, std::string, std::less<>> unreadable_;
  std::set<std::string, std::less<>> stale_;
  std::deque<Change> window_;
  size_t windowBytes_ = 0;
  Revision windowAfter_ = 0;         // the window holds every change after this
  Revision lostBefore_ = 0;          // the store's history does not tell what the caches showed before this
  std::vector<KindWatch*> watches_;  // in the order in which they were opened, so that a seed replays
};

class WatchCache final : public client::Caches {
 public:
  // `cipher` reads what is encrypted in the store; null: nothing is.
  WatchCache(Loop& loop, store::Store& store, const ValueCipher* cipher = nullptr);
  ~WatchCache() override;

  // Before start().
  void add(const Resource& resource);
  Task<Result<>> start();
  Task<> stop();

  // CHECKs that the kind was added; any version of the group will do.
  KindCache& of(const Resource& resource) override;
  KindCache* find(std::string_view group, std::string_view plural);

  Revision revision() const { return revision_; }
  const ValueCipher* cipher() const { return cipher_; }
  // Waits until the caches hold everything that the store had acknowledged, to whichever process, when this was called.
  // kUnavailable when the store cannot tell (no quorum), kDeadlineExceeded when the caches do not get there in time.
  Task<Result<>> catchUp();
  // For reads that had rather be old than refused: where catchUp() is kUnavailable the caches will do, and `warnings`
  // says so.
  Task<Result<>> catchUpIfPossible(std::vector<std::string>* warnings = nullptr);
  Task<Result<>> waitFor(Revision revision);
  // Set when the store has failed for good.
  const std::optional<Error>& failure() const { return failure_; }

 private:
  friend class KindWatch;
  Task<> feed(std::unique_ptr<store::Watcher> watcher);
  void apply(const store::Watcher::Batch& batch);
  // After the store's watch has lost its place: what is there now, as changes to what was.
  Task<Result<Revision>> readAnew();
  void applyAll(store::ListResult all);
  void nudge();

  Loop& loop_;
  store::Store& store_;
  const ValueCipher* const cipher_;
  std::map<std::string, std::unique_ptr<KindCache>, std::less<>> kinds_;  // by store prefix
  Revision revision_ = 0;
  std::optional<Error> failure_;
  Signal moved_;
  Gate gate_;
  store::Watcher* watcher_ = nullptr;
  TimePoint nudged_{};
  Signal stopping_;
  bool stopped_ = false;
};

// One watch of one kind: what is there at first when asked for, then every change that concerns its filter.
class KindWatch {
 public:
  using Filter = std::function<bool(const object::Object&)>;
  struct Options {
    std::string ns;                                      // empty: all
    Filter filter;                                       // null: everything
    std::function<ObjectPtr(const ObjectPtr&)> convert;  // to the form that is asked for; null: as it is stored
    bool sendInitial = false;                            // what is there now, as kAdded
    Revision after = 0;                                  // changes after this; without sendInitial
  };
  struct Batch {
    std::vector<client::WatchEvent> events;
    Revision revision = 0;    // everything up to here has been seen
    bool initialEnd = false;  // the last of the initial events is in this batch
  };
  // kExpired when neither the window nor the store's history reaches back that far.
  static Result<std::unique_ptr<KindWatch>> open(Loop& loop, WatchCache& caches, KindCache& cache, Options options);
  ~KindWatch();

  // Waits for events, at most `limit`: then the batch is empty. kExpired when it fell behind, kCancelled after close().
  Task<Result<Batch>> next(std::optional<Duration> limit = std::nullopt);
  void close();

 private:
  friend class KindCache;
  KindWatch(Loop& loop, WatchCache& caches, KindCache& cache, Options options);
  Result<> openHistory();
  Task<Result<Batch>> nextOld();
  void collect(const KindCache::Change& change, std::vector<client::WatchEvent>& events) const;
  void give(client::WatchEvent::Type type, const ObjectPtr& object, std::vector<client::WatchEvent>& events) const;
  bool matches(const ObjectPtr& object) const;

  WatchCache* caches_;
  KindCache* cache_;  // null once the cache has gone
  Options options_;
  std::vector<ObjectPtr> initial_;
  size_t initialAt_ = 0;
  bool sendingInitial_ = false;
  Revision after_ = 0;
  std::unique_ptr<store::Watcher> history_;  // while it is behind the window
  bool closed_ = false;
  Signal changed_;
};

}  // namespace dhow::apiserver
