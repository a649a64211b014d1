#include "client/reflector.h"

#include "base/log.h"
#include "base/strings.h"
#include "client/fields.h"

namespace dhow::client {

Reflector::Reflector(Loop& loop, Client& client, Resource resource, Options options)
    : loop_(loop),
      client_(client),
      resource_(std::move(resource)),
      options_(std::move(options)),
      cache_(loop),
      wake_(loop),
      gate_(loop) {}

Reflector::~Reflector() = default;

void Reflector::start() {
  gate_.spawn(run(this));
}

Task<> Reflector::stop() {
  stopping_ = true;
  wake_.notify();
  cache_.close();
  if (watcher_) watcher_->close();
  co_await gate_.close();
}

void Reflector::setConnected(bool connected) {
  if (connected) failures_ = 0;
  if (connected_ == connected) return;
  connected_ = connected;
  if (options_.onContact) options_.onContact(connected);
}

void Reflector::retry() {
  failures_ = 0;
  wake_.notify();
}

Task<> Reflector::run(Reflector* self) {
  while (!self->stopping_) {
    Result<> result;
    if (self->resourceVersion_.empty()) result = co_await self->listOnce();
    if (result.ok() && !self->stopping_) result = co_await self->watchOnce();
    if (self->stopping_) break;
    if (result.ok()) continue;
    // The server ended the watch in its own time: on from there at once, unless it does so again and again.
    if (result.error().is(Code::kDeadlineExceeded) && self->connected_ && self->progressed_) continue;
    if (result.error().is(Code::kExpired)) {
      // The history before is gone; at most one list per back-off, should the server expire everything at once.
      self->resourceVersion_.clear();
    } else {
      if (self->connected_) {
        log::warn("client", "watch {}: {}; keeping what is known", self->resource_.plural, result.error().message());
      }
      self->setConnected(false);
    }
    Duration delay = self->options_.firstDelay;
    for (int i = 0; i < self->failures_ && delay < self->options_.maxDelay; ++i) delay *= 2;
    delay = std::min(delay, self->options_.maxDelay);
    ++self->failures_;
    // Between half and all of it, so that clients of a server that comes back do not come all at once.
    const auto half = delay.count() / 2;
    const Duration jittered(half + static_cast<int64_t>(self->loop_.random() % static_cast<uint64_t>(half + 1)));
    co_await self->wake_.waitFor(jittered);
  }
}

Task<Result<>> Reflector::listOnce() {
  ListOptions select = options_.select;
  Result<List> listed = co_await client_.list(resource_, std::move(select));
  if (!listed.ok()) co_return std::move(listed).error();
  ++lists_;
  resourceVersion_ = listed->resourceVersion;
  // Before the changes: who is told of one may ask how far the cache has come.
  cache_.setRevision(parseUint(resourceVersion_).value_or(0));
  cache_.replaceAll(std::move(listed->items));
  cache_.setSynced();
  co_return Result<>();
}

Task<Result<>> Reflector::watchOnce() {
  ListOptions select = options_.select;
  Result<std::unique_ptr<Watcher>> opened = co_await client_.watch(resource_, std::move(select), resourceVersion_);
  if (!opened.ok()) co_return std::move(opened).error();
  std::shared_ptr<Watcher> watcher = std::move(*opened);
  watcher_ = watcher;
  progressed_ = false;
  const TimePoint openedAt = loop_.now();
  setConnected(true);
  Result<> result;
  while (!stopping_) {
    Result<WatchEvent> event = co_await watcher->next();
    if (!event.ok()) {
      result = std::move(event).error();
      break;
    }
    progressed_ = true;
    const Object& object = *event->object;
    resourceVersion_ = text(object.metadata(), "resourceVersion");
    cache_.raiseRevision(object.resourceVersion());
    switch (event->type) {
      case WatchEvent::Type::kAdded:
      case WatchEvent::Type::kModified: cache_.put(event->object); break;
      case WatchEvent::Type::kDeleted: cache_.remove(object.ns(), object.name()); break;
      case WatchEvent::Type::kBookmark: break;
    }
  }
  watcher_.reset();
  if (loop_.now() - openedAt > std::chrono::seconds(10)) progressed_ = true;
  co_return result;
}

Cache& HttpCaches::of(const Resource& resource) {
  auto& reflector = reflectors_[resource];
  if (!reflector) {
    Reflector::Options options;
    if (auto select = selects_.find(resource); select != selects_.end()) options.select = select->second;
    reflector = std::make_unique<Reflector>(loop_, client_, resource, std::move(options));
    if (started_) reflector->start();
  }
  return reflector->cache();
}

Reflector* HttpCaches::reflector(const Resource& resource) {
  auto found = reflectors_.find(resource);
  return found == reflectors_.end() ? nullptr : found->second.get();
}

void HttpCaches::start() {
  if (std::exchange(started_, true)) return;
  for (auto& [resource, reflector] : reflectors_) reflector->start();
}

void HttpCaches::retry() {
  for (auto& [resource, reflector] : reflectors_) {
    if (!reflector->connected()) reflector->retry();
  }
}

Task<> HttpCaches::stop() {
  std::vector<Reflector*> all;
  for (auto& [resource, reflector] : reflectors_) all.push_back(reflector.get());
  for (Reflector* reflector : all) co_await reflector->stop();
}

}  // namespace dhow::client
