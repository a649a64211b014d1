#include "apiserver/watch_cache.h"

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>

#include <algorithm>

#include "base/log.h"

namespace dhow::apiserver {

namespace {

constexpr std::string_view kRoot = "/registry/";
// Of the window. Decoded objects take several times their encoded bytes; whoever is further behind reads from disk.
constexpr size_t kWindowChanges = 512;
constexpr size_t kWindowBytes = 512 << 10;
constexpr Duration kWindowAge = std::chrono::seconds(10);
constexpr size_t kBatch = 256;
constexpr Duration kCatchUpLimit = std::chrono::seconds(5);
// How long a revision is waited for before the store is asked how far it has got.
constexpr Duration kNudgeAfter = std::chrono::milliseconds(20);
constexpr Duration kReadAgain = std::chrono::milliseconds(250);

void setRevision(json::object& document, Revision revision) {
  auto& metadata = document["metadata"];
  if (!metadata.is_object()) metadata.emplace_object();
  metadata.get_object()["resourceVersion"] = std::to_string(revision);
}

Result<ObjectPtr> decodeBytes(std::string_view bytes, Revision modified) {
  boost::system::error_code error;
  auto value = json::parse(bytes, error);
  if (error || !value.is_object()) return Error(Code::kDataLoss, "it is damaged");
  setRevision(value.get_object(), modified);
  return object::Object::make(std::move(value.get_object()));
}

Result<ObjectPtr> decodeStored(const store::Entry& entry, const ValueCipher* cipher) {
  if (!isEncrypted(*entry.value.bytes)) return decodeBytes(*entry.value.bytes, entry.modified);
  if (!cipher) return Error(Code::kDataLoss, "it is encrypted, and no key is configured");
  ASSIGN_OR_RETURN(auto plain, cipher->open(entry.key, *entry.value.bytes));
  return decodeBytes(plain, entry.modified);
}

constexpr std::string_view kPacked = "packed";

// An object in its encoded form, with what a cache has to know of it.
ObjectPtr pack(const ObjectPtr& object) {
  json::object metadata{{"name", object->name()},
                        {"namespace", object->ns()},
                        {"uid", object->uid()},
                        {"resourceVersion", std::to_string(object->resourceVersion())}};
  return object::Object::make({{"metadata", std::move(metadata)}, {kPacked, object->bytes()}});
}

ObjectPtr unpack(const ObjectPtr& packed) {
  if (!packed) return nullptr;
  auto object = decodeBytes(packed->root().at(kPacked).as_string(), static_cast<Revision>(packed->resourceVersion()));
  CHECK(object.ok(), "a packed object cannot be read: {}", object.error().message());
  return std::move(*object);
}

Error tooOld(Revision asked, Revision oldest) {
  return Error(Code::kExpired, fmt::format("too old resource version: {} ({})", asked, oldest));
}

}  // namespace

ObjectPtr Draft::at(Revision revision) const {
  if (!made_) {
    setRevision(document_, revision);
    made_ = object::Object::make(std::move(document_));
  }
  if (made_->resourceVersion() != static_cast<uint64_t>(revision)) return atRevision(made_, revision);
  return made_;
}

std::string Draft::encode() const {
  return json::serialize(document_);
}

ObjectPtr atRevision(const ObjectPtr& object, Revision revision) {
  json::object document = object->root();
  setRevision(document, revision);
  return object::Object::make(std::move(document));
}

std::string storePrefix(const Resource& resource) {
  return resource.group.empty() ? fmt::format("{}{}/", kRoot, resource.plural)
                                : fmt::format("{}{}/{}/", kRoot, resource.group, resource.plural);
}

std::string storeKey(const Resource& resource, std::string_view ns, std::string_view name) {
  std::string key = storePrefix(resource);
  if (!ns.empty()) key.append(ns).append("/");
  return key.append(name);
}

KindCache::~KindCache() {
  for (auto* watch : watches_) watch->cache_ = nullptr;
}

void KindCache::startAt(Revision revision) {
  windowAfter_ = revision;
  objects_.setSynced();
}

void KindCache::expireBefore(Revision revision) {
  window_.clear();
  windowBytes_ = 0;
  windowAfter_ = lostBefore_ = revision;
}

void KindCache::dropOldest() {
  windowBytes_ -= window_.front().bytes;
  windowAfter_ = window_.front().revision;
  window_.pop_front();
}

void KindCache::prune(TimePoint oldest) {
  while (!window_.empty() && window_.front().at < oldest) dropOldest();
}

std::optional<KindCache::Change> KindCache::recall(const store::Event& event) const {
  const Revision revision = event.entry.modified;
  // What cannot be read was never shown.
  auto read = [&](const store::Value& value, Revision at) -> ObjectPtr {
    auto object = decodeStored({event.entry.key, value, 0, at}, cipher_);
    return object.ok() ? std::move(*object) : nullptr;
  };
  Change change;
  change.revision = revision;
  if (event.type == store::Event::Type::kDelete) {
    if (!event.entry.value.bytes) return std::nullopt;
    change.before = read(event.entry.value, revision);
    return change;
  }
  if (event.entry.created != revision && (!event.previous || !event.previous->bytes)) return std::nullopt;
  change.after = read(event.entry.value, revision);
  if (event.previous && event.previous->bytes) change.before = read(*event.previous, revision);
  return change;
}

ObjectPtr KindCache::decode(const store::Entry& entry) {
  const bool encrypts = cipher_ && cipher_->covers(entry.key);
  auto rest = [&] { return entry.key.substr(storePrefix(resource_).size()); };
  if (!unreadable_.empty()) unreadable_.erase(rest());
  if (!stale_.empty()) stale_.erase(rest());
  if (entry.value.decoded) return std::static_pointer_cast<const Draft>(entry.value.decoded)->at(entry.modified);
  auto object = decodeStored(entry, cipher_);
  if (!object.ok()) {
    log::error("apiserver", "the stored object {} cannot be read: {}", entry.key, object.error().message());
    unreadable_[rest()] = object.error().message();
    return nullptr;
  }
  if (encrypts && cipher_->stale(entry.key, *entry.value.bytes)) stale_.insert(rest());
  return std::move(*object);
}

ObjectPtr KindCache::get(std::string_view ns, std::string_view name) const {
  auto object = objects_.get(ns, name);
  return packs_ ? unpack(object) : object;
}

std::vector<ObjectPtr> KindCache::given(std::vector<ObjectPtr> kept) const {
  if (packs_) std::transform(kept.begin(), kept.end(), kept.begin(), unpack);
  return kept;
}

std::vector<ObjectPtr> KindCache::list(std::string_view ns) const {
  return given(objects_.list(ns));
}

std::vector<ObjectPtr> KindCache::byIndex(std::string_view index, std::string_view key) const {
  return given(objects_.byIndex(index, key));
}

void KindCache::addIndex(std::string index, KeysOf keysOf) {
  if (packs_) {
    keysOf = [keysOf = std::move(keysOf)](const ObjectPtr& object, std::vector<std::string>& keys) {
      keysOf(unpack(object), keys);
    };
  }
  objects_.addIndex(std::move(index), std::move(keysOf));
}

std::unique_ptr<client::Cache::Subscription> KindCache::subscribe(Handler handler) {
  if (packs_) {
    handler = [handler = std::move(handler)](const ObjectPtr& before, const ObjectPtr& after) {
      handler(unpack(before), unpack(after));
    };
  }
  return objects_.subscribe(std::move(handler));
}

void KindCache::put(const ObjectPtr& object) {
  objects_.put(packs_ ? pack(object) : object);
}

void KindCache::restore(const store::Entry& entry) {
  if (auto object = decode(entry)) put(object);
}

void KindCache::apply(const store::Event& event, TimePoint now) {
  Change change;
  change.revision = event.entry.modified;
  change.at = now;
  std::string_view rest = std::string_view(event.entry.key).substr(storePrefix(resource_).size());
  auto slash = rest.find('/');
  std::string_view ns = slash == rest.npos ? std::string_view() : rest.substr(0, slash);
  std::string_view name = slash == rest.npos ? rest : rest.substr(slash + 1);
  auto old = get(ns, name);
  if (event.type == store::Event::Type::kPut) {
    change.after = decode(event.entry);
    change.bytes = event.entry.value.bytes->size() + 256;
    if (change.after) {
      change.before = std::move(old);
      put(change.after);
    } else {
      // Nobody goes on with what was there before.
      if (!old) return;
      change.before = atRevision(old, change.revision);
      objects_.remove(ns, name);
    }
  } else {
    if (!unreadable_.empty()) unreadable_.erase(std::string(rest));
    if (!stale_.empty()) stale_.erase(std::string(rest));
    if (!old) return;
    change.before = atRevision(old, change.revision);
    change.bytes = 1024;
    objects_.raiseRevision(static_cast<uint64_t>(change.revision));
    objects_.remove(ns, name);
  }
  windowBytes_ += change.bytes;
  window_.push_back(std::move(change));
  while (window_.size() > 1 && (window_.size() > kWindowChanges || windowBytes_ > kWindowBytes)) dropOldest();
}

void KindCache::wake() {
  for (auto* watch : watches_) watch->changed_.notify();
}

WatchCache::WatchCache(Loop& loop, store::Store& store, const ValueCipher* cipher)
    : loop_(loop), store_(store), cipher_(cipher), moved_(loop), gate_(loop), stopping_(loop) {}
WatchCache::~WatchCache() = default;

void WatchCache::add(const Resource& resource) {
  auto& kind = kinds_[storePrefix(resource)];
  if (!kind) kind = std::make_unique<KindCache>(loop_, resource, cipher_);
}

KindCache& WatchCache::of(const Resource& resource) {
  auto found = kinds_.find(storePrefix(resource));
  CHECK(found != kinds_.end(), "no cache of {} {}", resource.apiVersion(), resource.plural);
  return *found->second;
}

KindCache* WatchCache::find(std::string_view group, std::string_view plural) {
  auto found = kinds_.find(storePrefix({std::string(group), "", std::string(plural)}));
  return found == kinds_.end() ? nullptr : found->second.get();
}

Task<Result<>> WatchCache::start() {
  auto all = co_await store_.list(std::string(kRoot));
  if (!all.ok()) co_return std::move(all).error().wrap("read the store");
  for (auto& entry : all->entries) {
    for (auto& [prefix, kind] : kinds_) {
      if (!entry.key.starts_with(prefix)) continue;
      kind->restore(entry);
      break;
    }
    entry.value = {};
  }
  revision_ = all->revision;
  auto watcher = store_.watch(std::string(kRoot), revision_);
  if (!watcher.ok()) co_return std::move(watcher).error();
  for (auto& [prefix, kind] : kinds_) kind->startAt(revision_);
  gate_.spawn(feed(std::move(*watcher)));
  co_return Result<>();
}

Task<> WatchCache::stop() {
  stopped_ = true;
  if (watcher_) watcher_->close();
  stopping_.notify();
  moved_.notify();
  for (auto& [prefix, kind] : kinds_) {
    for (auto* watch : kind->watches_) watch->close();
  }
  co_await gate_.close();
}

Task<> WatchCache::feed(std::unique_ptr<store::Watcher> watcher) {
  watcher_ = watcher.get();
  while (!stopped_) {
    auto batch = co_await watcher->next();
    if (!batch.ok()) {
      if (batch.error().is(Code::kCancelled)) {
        stopped_ = true;
      } else if (batch.error().is(Code::kExpired) && !stopped_) {
        log::warn("apiserver", "the store is read anew: {}", batch.error().message());
        watcher_ = nullptr;
        auto from = co_await readAnew();
        auto again = from.ok() ? store_.watch(std::string(kRoot), *from) : std::move(from).error();
        if (again.ok()) {
          watcher = std::move(*again);
          watcher_ = watcher.get();
          if (!stopped_) continue;
        } else if (!stopped_) {
          failure_ = again.error();
        }
      } else if (!stopped_) {
        log::error("apiserver", "the watch of the store ended: {}", batch.error().message());
        failure_ = batch.error();
      }
      break;
    }
    apply(*batch);
  }
  watcher_ = nullptr;
  moved_.notify();
}

void WatchCache::apply(const store::Watcher::Batch& batch) {
  std::vector<KindCache*> touched;
  const TimePoint now = loop_.now();
  for (const auto& event : batch.events) {
    // The prefix that sorts last before the key is its own.
    auto kind = kinds_.upper_bound(event.entry.key);
    if (kind == kinds_.begin()) continue;
    --kind;
    if (!event.entry.key.starts_with(kind->first)) continue;
    kind->second->apply(event, now);
    if (touched.empty() || touched.back() != kind->second.get()) touched.push_back(kind->second.get());
  }
  revision_ = batch.revision;
  for (auto* kind : touched) kind->wake();
  for (auto& [prefix, kind] : kinds_) kind->prune(now - kWindowAge);
  moved_.notify();
}

Task<Result<Revision>> WatchCache::readAnew() {
  while (true) {
    auto all = co_await store_.list(std::string(kRoot));
    if (stopped_) co_return Error(Code::kCancelled, "the server is stopping");
    if (all.ok()) {
      Revision revision = all->revision;
      applyAll(std::move(*all));
      co_return revision;
    }
    log::warn("apiserver", "the store cannot be read: {}", all.error().message());
    (void)co_await stopping_.waitFor(kReadAgain);
    if (stopped_) co_return Error(Code::kCancelled, "the server is stopping");
  }
}

void WatchCache::applyAll(store::ListResult all) {
  store::Watcher::Batch batch;
  batch.revision = all.revision;
  std::map<std::string_view, const store::Entry*> present;
  for (const auto& entry : all.entries) present[entry.key] = &entry;
  auto remove = [&](std::string key) {
    store::Event event;
    event.type = store::Event::Type::kDelete;
    event.entry = {std::move(key), {}, 0, all.revision};
    batch.events.push_back(std::move(event));
  };
  for (const auto& [prefix, kind] : kinds_) {
    // Those that are still there come with what is put.
    kind->unreadable_.clear();
    for (const auto& object : kind->objects_.list("")) {
      auto version = static_cast<Revision>(object->resourceVersion());
      auto key = storeKey(kind->resource_, object->ns(), object->name());
      auto found = present.find(key);
      if (found == present.end()) {
        remove(std::move(key));
      } else if (found->second->modified == version) {
        present.erase(found);
      } else if (found->second->created > version) {
        remove(std::move(key));  // another object of that name
      }
    }
  }
  for (const auto& [key, entry] : present) {
    store::Event event;
    event.entry = *entry;
    batch.events.push_back(std::move(event));
  }
  apply(batch);
  for (const auto& [prefix, kind] : kinds_) {
    kind->expireBefore(all.revision);
    kind->wake();
  }
}

Task<Result<>> WatchCache::catchUp() {
  CO_ASSIGN_OR_RETURN(Revision current, co_await store_.currentRevision());
  co_return co_await waitFor(current);
}

Task<Result<>> WatchCache::catchUpIfPossible(std::vector<std::string>* warnings) {
  auto done = co_await catchUp();
  if (done.ok() || !done.error().is(Code::kUnavailable) || stopped_) co_return done;
  if (warnings) {
    warnings->push_back(
        fmt::format("this may be out of date, the store cannot be asked for newer: {}", done.error().message()));
  }
  co_return Result<>();
}

// One question in that time, however many wait.
void WatchCache::nudge() {
  if (!watcher_ || loop_.now() - nudged_ < kNudgeAfter) return;
  nudged_ = loop_.now();
  watcher_->requestProgress();
}

Task<Result<>> WatchCache::waitFor(Revision revision) {
  TimePoint end = loop_.now() + kCatchUpLimit;
  while (revision_ < revision) {
    if (failure_) co_return Error(Code::kUnavailable, failure_->message());
    if (stopped_) co_return Error(Code::kUnavailable, "the server is stopping");
    Duration left = end - loop_.now();
    if (left <= Duration(0)) {
      co_return Error(
          Code::kDeadlineExceeded,
          fmt::format("this server has seen the store up to revision {}, and {} is asked for", revision_, revision))
          .withRetryAfter(1);
    }
    bool moved = co_await moved_.waitFor(std::min(left, kNudgeAfter));
    if (!moved) nudge();
  }
  co_return Result<>();
}

KindWatch::KindWatch(Loop& loop, WatchCache& caches, KindCache& cache, Options options)
    : caches_(&caches), cache_(&cache), options_(std::move(options)), changed_(loop) {
  cache_->watches_.push_back(this);
}

KindWatch::~KindWatch() {
  if (cache_) std::erase(cache_->watches_, this);
}

Result<std::unique_ptr<KindWatch>> KindWatch::open(Loop& loop, WatchCache& caches, KindCache& cache, Options options) {
  std::unique_ptr<KindWatch> watch(new KindWatch(loop, caches, cache, std::move(options)));
  if (watch->options_.sendInitial) {
    watch->initial_ = cache.list(watch->options_.ns);
    watch->sendingInitial_ = true;
    watch->after_ = caches.revision();
    return watch;
  }
  watch->after_ = watch->options_.after;
  if (watch->after_ < cache.windowAfter_) RETURN_IF_ERROR(watch->openHistory());
  return watch;
}

Result<> KindWatch::openHistory() {
  if (after_ < cache_->lostBefore_) return tooOld(after_, cache_->lostBefore_);
  auto opened = caches_->store_.watch(storePrefix(cache_->resource_), after_, true);
  if (!opened.ok()) return opened.error().is(Code::kExpired) ? tooOld(after_, cache_->windowAfter_) : opened.error();
  history_ = std::move(*opened);
  // Where nothing of this kind has changed since, it says so.
  history_->requestProgress();
  return {};
}

// What the store's history tells next, which may be nothing that concerns this watch.
Task<Result<KindWatch::Batch>> KindWatch::nextOld() {
  if (!history_) CO_RETURN_IF_ERROR(openHistory());
  auto told = co_await history_->next();
  if (closed_ || !cache_) co_return Error(Code::kCancelled, "the watch is closed");
  if (!told.ok()) {
    if (told.error().is(Code::kExpired)) co_return tooOld(after_, cache_->windowAfter_);
    co_return std::move(told).error();
  }
  Batch batch;
  for (const auto& event : told->events) {
    // The rest is in the window, or comes into it.
    if (event.entry.modified > cache_->windowAfter_) break;
    auto change = cache_->recall(event);
    if (!change) co_return tooOld(after_, cache_->windowAfter_);
    collect(*change, batch.events);
  }
  after_ = batch.revision = std::min(told->revision, cache_->windowAfter_);
  if (after_ == cache_->windowAfter_) history_.reset();
  co_return batch;
}

bool KindWatch::matches(const ObjectPtr& object) const {
  if (!object || (!options_.ns.empty() && object->ns() != options_.ns)) return false;
  return !options_.filter || options_.filter(*object);
}

void KindWatch::give(client::WatchEvent::Type type, const ObjectPtr& object,
                     std::vector<client::WatchEvent>& events) const {
  events.push_back({type, options_.convert ? options_.convert(object) : object});
}

void KindWatch::collect(const KindCache::Change& change, std::vector<client::WatchEvent>& events) const {
  using Type = client::WatchEvent::Type;
  bool before = matches(change.before);
  bool after = matches(change.after);
  if (after) {
    give(before ? Type::kModified : Type::kAdded, change.after, events);
  } else if (before) {
    give(Type::kDeleted, change.after ? atRevision(change.before, change.revision) : change.before, events);
  }
}

Task<Result<KindWatch::Batch>> KindWatch::next(std::optional<Duration> limit) {
  while (true) {
    if (closed_ || !cache_) co_return Error(Code::kCancelled, "the watch is closed");
    Batch batch;
    if (sendingInitial_) {
      for (; initialAt_ < initial_.size() && batch.events.size() < kBatch; ++initialAt_) {
        if (matches(initial_[initialAt_])) give(client::WatchEvent::Type::kAdded, initial_[initialAt_], batch.events);
      }
      batch.revision = after_;
      if (initialAt_ == initial_.size()) {
        sendingInitial_ = false;
        batch.initialEnd = true;
        initial_.clear();
        initial_.shrink_to_fit();
      }
      co_return batch;
    }
    if (after_ < cache_->windowAfter_) {
      auto old = co_await nextOld();
      if (!old.ok() || !old->events.empty()) co_return old;
      continue;
    }
    const auto& window = cache_->window_;
    auto at = std::upper_bound(window.begin(), window.end(), after_,
                               [](Revision revision, const KindCache::Change& one) { return revision < one.revision; });
    while (at != window.end()) {
      Revision revision = at->revision;
      for (; at != window.end() && at->revision == revision; ++at) collect(*at, batch.events);
      after_ = revision;
      if (batch.events.size() >= kBatch) break;
    }
    batch.revision = after_;
    if (!batch.events.empty()) co_return batch;
    after_ = std::max(after_, caches_->revision());
    batch.revision = after_;
    if (!limit) {
      co_await changed_.wait();
    } else {
      bool notified = co_await changed_.waitFor(*limit);
      if (!notified && !closed_) {
        if (cache_ && (cache_->window_.empty() || cache_->window_.back().revision <= after_)) {
          batch.revision = after_ = std::max(after_, caches_->revision());
          co_return batch;
        }
      }
    }
  }
}

void KindWatch::close() {
  closed_ = true;
  if (history_) history_->close();
  changed_.notify();
}

}  // namespace dhow::apiserver
