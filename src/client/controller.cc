#include "client/controller.h"

#include <boost/asio/post.hpp>
#include <boost/asio/use_awaitable.hpp>

#include "base/log.h"

namespace dhow::client {

Controller::Controller(Loop& loop, Options options, Reconcile reconcile)
    : loop_(loop),
      options_(std::move(options)),
      reconcile_(std::move(reconcile)),
      queue_(loop, options_.queue),
      gate_(loop) {
  queue_.onReady([this] { pump(); });
}

Controller::~Controller() = default;

void Controller::watch(Cache& cache, KeysOf keysOf) {
  sources_.push_back({&cache, std::move(keysOf)});
}

void Controller::watchOwn(Cache& cache) {
  watch(cache, [](const ObjectPtr& before, const ObjectPtr& after, WorkQueue& queue) {
    queue.add((after ? after : before)->key());
  });
}

void Controller::start() {
  for (const Source& source : sources_) {
    caches_.push_back(source.cache);
    KeysOf keysOf = source.keysOf;
    subscriptions_.push_back(
        source.cache->subscribe([this, keysOf = std::move(keysOf)](const ObjectPtr& before, const ObjectPtr& after) {
          keysOf(before, after, queue_);
        }));
  }
  gate_.spawn(open(this));
}

Task<> Controller::open(Controller* self) {
  const std::vector<Cache*> caches = self->caches_;
  for (Cache* cache : caches) co_await cache->waitSynced();
  if (self->gate_.closed()) co_return;
  self->open_ = true;
  self->pump();
}

void Controller::pump() {
  while (open_ && running_ < options_.workers && !gate_.closed()) {
    std::optional<std::string> key = queue_.tryTake();
    if (!key) return;
    ++running_;
    gate_.spawn(work(this, std::move(*key)));
  }
}

Task<> Controller::work(Controller* self, std::string key) {
  // Never inside the handler that added the key, which may go through what a reconciliation changes.
  co_await boost::asio::post(self->loop_.executor(), boost::asio::use_awaitable);
  Result<> result = co_await self->reconcile_(key);
  if (result.ok()) {
    self->queue_.forget(key);
  } else {
    const Error& error = result.error();
    if (!error.is(Code::kConflict) && !error.is(Code::kCancelled)) {
      log::warn(self->options_.name, "{}: {}", key, error.message());
    }
    self->queue_.addRateLimited(key);
  }
  self->queue_.done(key);
  --self->running_;
  self->pump();
}

Task<> Controller::stop() {
  subscriptions_.clear();
  queue_.close();
  co_await gate_.close();
}

std::pair<std::string_view, std::string_view> splitKey(std::string_view key) {
  const size_t slash = key.find('/');
  if (slash == std::string_view::npos) return {std::string_view(), key};
  return {key.substr(0, slash), key.substr(slash + 1)};
}

}  // namespace dhow::client
