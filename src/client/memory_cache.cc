#include "client/memory_cache.h"

#include <set>

namespace dhow::client {

struct MemoryCache::Handlers {
  std::map<uint64_t, Handler> byId;
  uint64_t next = 0;
};

class MemoryCache::Entry final : public Cache::Subscription {
 public:
  Entry(std::weak_ptr<Handlers> handlers, uint64_t id) : handlers_(std::move(handlers)), id_(id) {}
  ~Entry() override {
    if (auto handlers = handlers_.lock()) handlers->byId.erase(id_);
  }

 private:
  std::weak_ptr<Handlers> handlers_;
  uint64_t id_;
};

void MemoryCache::updateIndex(Index& index, const ObjectPtr& before, const ObjectPtr& after) {
  std::vector<std::string> keys;
  if (before) {
    index.keysOf(before, keys);
    const std::string objectKey = before->key();
    for (const std::string& key : keys) {
      auto entry = index.entries.find(key);
      if (entry == index.entries.end()) continue;
      entry->second.erase(objectKey);
      if (entry->second.empty()) index.entries.erase(entry);
    }
  }
  if (after) {
    keys.clear();
    index.keysOf(after, keys);
    for (std::string& key : keys) index.entries[std::move(key)].insert_or_assign(after->key(), after);
  }
}

void MemoryCache::change(const ObjectPtr& before, const ObjectPtr& after) {
  for (auto& [name, index] : indexes_) updateIndex(index, before, after);
  if (!handlers_) return;
  auto handlers = handlers_;
  // By id, as a handler may end a subscription.
  for (auto entry = handlers->byId.begin(); entry != handlers->byId.end();) {
    const uint64_t id = entry->first;
    Handler handler = entry->second;
    handler(before, after);
    entry = handlers->byId.upper_bound(id);
  }
}

void MemoryCache::put(ObjectPtr object) {
  raiseRevision(object->resourceVersion());
  ByName& names = objects_[std::string(object->ns())];
  auto [place, isNew] = names.try_emplace(std::string(object->name()), object);
  ObjectPtr before;
  if (!isNew) {
    if (place->second->uid() == object->uid() && place->second->resourceVersion() == object->resourceVersion() &&
        object->resourceVersion() != 0) {
      return;
    }
    before = std::exchange(place->second, object);
  }
  change(before, object);
}

void MemoryCache::remove(std::string_view ns, std::string_view name) {
  auto names = objects_.find(ns);
  if (names == objects_.end()) return;
  auto place = names->second.find(name);
  if (place == names->second.end()) return;
  ObjectPtr before = std::move(place->second);
  names->second.erase(place);
  if (names->second.empty()) objects_.erase(names);
  change(before, nullptr);
}

void MemoryCache::replaceAll(std::vector<ObjectPtr> objects) {
  std::set<std::string> kept;
  for (const ObjectPtr& object : objects) kept.insert(object->key());
  for (const ObjectPtr& old : list()) {
    if (!kept.contains(old->key())) remove(old->ns(), old->name());
  }
  for (ObjectPtr& object : objects) put(std::move(object));
}

void MemoryCache::setSynced() {
  synced_ = true;
  syncedSignal_.notify();
}

void MemoryCache::close() {
  closed_ = true;
  syncedSignal_.notify();
}

Task<> MemoryCache::waitSynced() {
  while (!synced_ && !closed_) co_await syncedSignal_.wait();
}

ObjectPtr MemoryCache::get(std::string_view ns, std::string_view name) const {
  auto names = objects_.find(ns);
  if (names == objects_.end()) return nullptr;
  auto place = names->second.find(name);
  return place == names->second.end() ? nullptr : place->second;
}

std::vector<ObjectPtr> MemoryCache::list(std::string_view ns) const {
  std::vector<ObjectPtr> out;
  if (!ns.empty()) {
    auto names = objects_.find(ns);
    if (names == objects_.end()) return out;
    out.reserve(names->second.size());
    for (const auto& [name, object] : names->second) out.push_back(object);
    return out;
  }
  out.reserve(size());
  for (const auto& [space, names] : objects_) {
    for (const auto& [name, object] : names) out.push_back(object);
  }
  return out;
}

size_t MemoryCache::size() const {
  size_t count = 0;
  for (const auto& [space, names] : objects_) count += names.size();
  return count;
}

void MemoryCache::addIndex(std::string name, KeysOf keysOf) {
  auto [place, isNew] = indexes_.try_emplace(std::move(name));
  if (!isNew) return;
  place->second.keysOf = std::move(keysOf);
  for (const auto& [space, names] : objects_) {
    for (const auto& [objectName, object] : names) updateIndex(place->second, nullptr, object);
  }
}

std::vector<ObjectPtr> MemoryCache::byIndex(std::string_view name, std::string_view key) const {
  std::vector<ObjectPtr> out;
  auto index = indexes_.find(name);
  CHECK(index != indexes_.end(), "no index {}", name);
  auto entry = index->second.entries.find(key);
  if (entry == index->second.entries.end()) return out;
  out.reserve(entry->second.size());
  for (const auto& [objectKey, object] : entry->second) out.push_back(object);
  return out;
}

std::unique_ptr<Cache::Subscription> MemoryCache::subscribe(Handler handler) {
  if (!handlers_) handlers_ = std::make_shared<Handlers>();
  const uint64_t id = handlers_->next++;
  handlers_->byId.emplace(id, handler);
  for (const ObjectPtr& object : list()) handler(nullptr, object);
  return std::make_unique<Entry>(handlers_, id);
}

}  // namespace dhow::client
