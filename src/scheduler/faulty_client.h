// A connection to the API that fails as networks do, for simulations.
#pragma once

#include "client/client.h"

namespace dhow::scheduler {

using namespace client;
namespace json = boost::json;

struct Faults {
  Duration delay{0};     // an event, and an answer, takes up to this long
  uint64_t refused = 0;  // one of so many requests; 0: none
  uint64_t lost = 0;     // one of so many answers to writes
  uint64_t broken = 0;   // one of so many events ends its watch
  uint64_t expired = 0;  // one of so many events ends its watch, and the history is gone
};

class FaultyWatcher final : public Watcher {
 public:
  FaultyWatcher(Loop& loop, const Faults& faults, std::unique_ptr<Watcher> watcher)
      : loop_(loop), faults_(faults), watcher_(std::move(watcher)) {}
  Task<Result<WatchEvent>> next() override {
    Result<WatchEvent> event = co_await watcher_->next();
    if (!event.ok()) co_return event;
    if (faults_.delay > Duration(0)) {
      co_await loop_.sleep(
          Duration(static_cast<int64_t>(loop_.random() % static_cast<uint64_t>(faults_.delay.count()))));
    }
    if (chance(faults_.broken)) co_return Error(Code::kUnavailable, "the connection broke");
    if (chance(faults_.expired)) co_return Error(Code::kExpired, "too old resource version");
    co_return event;
  }
  void close() override { watcher_->close(); }

 private:
  bool chance(uint64_t oneIn) { return oneIn > 0 && loop_.random() % oneIn == 0; }
  Loop& loop_;
  const Faults& faults_;
  std::unique_ptr<Watcher> watcher_;
};

class FaultyClient final : public Client {
 public:
  FaultyClient(Loop& loop, Client& client, const Faults& faults) : loop_(loop), client_(client), faults_(faults) {}

  Task<Result<ObjectPtr>> get(const Resource& resource, std::string ns, std::string name) override {
    if (refused()) co_return unavailable();
    co_return co_await answer(client_.get(resource, std::move(ns), std::move(name)), false);
  }
  Task<Result<List>> list(const Resource& resource, ListOptions options) override {
    if (refused()) co_return unavailable();
    co_return co_await answer(client_.list(resource, std::move(options)), false);
  }
  Task<Result<std::unique_ptr<Watcher>>> watch(const Resource& resource, ListOptions options,
                                               std::string resourceVersion) override {
    if (refused()) co_return unavailable();
    auto watcher = co_await client_.watch(resource, std::move(options), std::move(resourceVersion));
    if (!watcher.ok()) co_return watcher;
    std::unique_ptr<Watcher> faulty = std::make_unique<FaultyWatcher>(loop_, faults_, std::move(*watcher));
    co_return faulty;
  }
  Task<Result<ObjectPtr>> create(const Resource& resource, std::string ns, json::object body, std::string name,
                                 std::string subresource) override {
    if (refused()) co_return unavailable();
    co_return co_await answer(
        client_.create(resource, std::move(ns), std::move(body), std::move(name), std::move(subresource)), true);
  }
  Task<Result<ObjectPtr>> update(const Resource& resource, std::string ns, std::string name, std::string subresource,
                                 json::object body) override {
    if (refused()) co_return unavailable();
    co_return co_await answer(
        client_.update(resource, std::move(ns), std::move(name), std::move(subresource), std::move(body)), true);
  }
  Task<Result<ObjectPtr>> patch(const Resource& resource, std::string ns, std::string name, std::string subresource,
                                PatchType type, json::value body) override {
    if (refused()) co_return unavailable();
    co_return co_await answer(
        client_.patch(resource, std::move(ns), std::move(name), std::move(subresource), type, std::move(body)), true);
  }
  Task<Result<>> remove(const Resource& resource, std::string ns, std::string name, DeleteOptions options) override {
    if (refused()) co_return unavailable();
    co_return co_await answer(client_.remove(resource, std::move(ns), std::move(name), std::move(options)), true);
  }

 private:
  static Error unavailable() { return Error(Code::kUnavailable, "the connection broke"); }
  bool chance(uint64_t oneIn) { return oneIn > 0 && loop_.random() % oneIn == 0; }
  bool refused() { return chance(faults_.refused); }
  template <class T>
  Task<Result<T>> answer(Task<Result<T>> call, bool mayBeLost) {
    Result<T> result = co_await std::move(call);
    if (faults_.delay > Duration(0)) {
      co_await loop_.sleep(
          Duration(static_cast<int64_t>(loop_.random() % static_cast<uint64_t>(faults_.delay.count()))));
    }
    if (mayBeLost && chance(faults_.lost)) co_return unavailable();
    co_return result;
  }

  Loop& loop_;
  Client& client_;
  const Faults& faults_;
};

}  // namespace dhow::scheduler
