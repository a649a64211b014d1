// The Cache that somebody fills: client/reflector.h from the API, client/fake_client.h in tests.
#pragma once

#include <map>

#include "base/gate.h"
#include "client/cache.h"

namespace dhow::client {

class MemoryCache final : public Cache {
 public:
  explicit MemoryCache(Loop& loop) : syncedSignal_(loop) {}

  // Puts, or does nothing when the cache holds that version already.
  void put(ObjectPtr object);
  void remove(std::string_view ns, std::string_view name);
  // Makes the cache hold exactly these, with one notification per difference.
  void replaceAll(std::vector<ObjectPtr> objects);
  void setSynced();
  // What put() does not tell of revision(): removals and bookmarks raise it, a list sets it.
  void raiseRevision(uint64_t revision) { revision_ = std::max(revision_, revision); }
  void setRevision(uint64_t revision) { revision_ = revision; }
  // It will never be synced: whoever waits for that goes on.
  void close();

  bool synced() const override { return synced_; }
  Task<> waitSynced() override;
  uint64_t revision() const override { return revision_; }
  ObjectPtr get(std::string_view ns, std::string_view name) const override;
  std::vector<ObjectPtr> list(std::string_view ns = "") const override;
  // May come late: what is there is indexed at once. The same index twice counts once.
  void addIndex(std::string index, KeysOf keysOf) override;
  std::vector<ObjectPtr> byIndex(std::string_view index, std::string_view key) const override;
  std::unique_ptr<Subscription> subscribe(Handler handler) override;
  size_t size() const;

 private:
  using ByName = std::map<std::string, ObjectPtr, std::less<>>;
  struct Index {
    KeysOf keysOf;
    std::map<std::string, ByName, std::less<>> entries;  // index key -> object key -> object
  };
  struct Handlers;
  class Entry;

  void change(const ObjectPtr& before, const ObjectPtr& after);
  static void updateIndex(Index& index, const ObjectPtr& before, const ObjectPtr& after);

  std::map<std::string, ByName, std::less<>> objects_;  // namespace -> name -> object
  std::map<std::string, Index, std::less<>> indexes_;
  std::shared_ptr<Handlers> handlers_;
  Signal syncedSignal_;
  uint64_t revision_ = 0;
  bool synced_ = false;
  bool closed_ = false;
};

}  // namespace dhow::client
