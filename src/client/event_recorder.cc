#include "client/event_recorder.h"

#include "base/log.h"
#include "base/time.h"
#include "client/fields.h"

namespace dhow::client {

using object::resources::kEvents;

namespace {
constexpr Duration kSameEventWithin = std::chrono::minutes(10);
constexpr size_t kMessageLimit = 1024;
}  // namespace

EventRecorder::EventRecorder(Loop& loop, Client& client, Options options)
    : loop_(loop), client_(client), options_(std::move(options)), ending_(loop), gate_(loop) {}

bool EventRecorder::allowed(const std::string& source) {
  // Forgetting everything now and then bounds the table and errs on the side of writing.
  if (buckets_.size() > options_.remembered) buckets_.clear();
  auto [place, isNew] = buckets_.try_emplace(source);
  Bucket& bucket = place->second;
  const TimePoint now = loop_.now();
  if (isNew) {
    bucket.tokens = options_.burst;
  } else {
    const double refilled =
        std::chrono::duration<double>(now - bucket.filled) / std::chrono::duration<double>(options_.refill);
    bucket.tokens = std::min<double>(options_.burst, bucket.tokens + refilled);
  }
  bucket.filled = now;
  if (bucket.tokens < 1) return false;
  bucket.tokens -= 1;
  return true;
}

void EventRecorder::event(const Object& about, std::string_view type, std::string_view reason, std::string message,
                          std::string_view fieldPath) {
  if (gate_.closed()) return;
  const std::string source = fmt::format("{}/{}", about.kind(), about.uid().empty() ? about.key() : about.uid());
  if (queue_.size() >= options_.queueLimit || !allowed(source)) {
    ++dropped_;
    return;
  }
  if (message.size() > kMessageLimit) message.resize(kMessageLimit);
  const WallTime wall = loop_.wallNow();
  const std::string now = formatTime(wall);
  const std::string ns(about.ns().empty() ? std::string_view("default") : about.ns());
  json::object reference{
      {"apiVersion", about.apiVersion()}, {"kind", about.kind()}, {"name", about.name()}, {"uid", about.uid()}};
  if (!about.ns().empty()) reference["namespace"] = about.ns();
  const std::string_view version = text(about.metadata(), "resourceVersion");
  if (!version.empty()) reference["resourceVersion"] = version;
  if (!fieldPath.empty()) reference["fieldPath"] = fieldPath;
  json::object origin{{"component", options_.component}};
  if (!options_.host.empty()) origin["host"] = options_.host;
  // The sequence keeps names apart that are made at one instant of a virtual clock.
  const auto nanos = static_cast<uint64_t>(wall.time_since_epoch().count()) + sequence_++;
  Item item;
  item.key = fmt::format("{}|{}|{}|{}|{}", source, fieldPath, type, reason, message);
  item.body = {{"apiVersion", "v1"},
               {"kind", "Event"},
               {"metadata", {{"name", fmt::format("{}.{:x}", about.name(), nanos)}, {"namespace", ns}}},
               {"involvedObject", std::move(reference)},
               {"reason", reason},
               {"message", message},
               {"source", std::move(origin)},
               {"firstTimestamp", now},
               {"lastTimestamp", now},
               {"count", 1},
               {"type", type},
               {"reportingComponent", options_.component},
               {"reportingInstance", options_.host}};
  queue_.push_back(std::move(item));
  if (std::exchange(draining_, true)) return;
  gate_.spawn(drain(this));
}

void EventRecorder::remember(const std::string& key, std::string name, int64_t count) {
  auto [place, isNew] = known_.try_emplace(key);
  Known& known = place->second;
  if (isNew) {
    known.age = ages_.insert(ages_.end(), &place->first);
  } else {
    ages_.splice(ages_.end(), ages_, known.age);
  }
  known.name = std::move(name);
  known.count = count;
  known.last = loop_.now();
  while (!ages_.empty()) {
    const auto oldest = known_.find(*ages_.front());
    if (known_.size() <= options_.remembered && loop_.now() - oldest->second.last < kSameEventWithin) return;
    ages_.pop_front();
    known_.erase(oldest);
  }
}

Task<> EventRecorder::drain(EventRecorder* self) {
  const TimePoint from = self->loop_.now() + self->options_.hold;
  while (!self->gate_.closed() && self->loop_.now() < from) co_await self->ending_.waitFor(from - self->loop_.now());
  while (!self->queue_.empty()) {
    Item item = std::move(self->queue_.front());
    self->queue_.pop_front();
    co_await self->write(std::move(item));
  }
  self->draining_ = false;
}

Task<> EventRecorder::write(Item item) {
  std::string ns(text(item.body, {"metadata", "namespace"}));
  auto found = known_.find(item.key);
  if (found != known_.end() && loop_.now() - found->second.last < kSameEventWithin) {
    json::object change{{"count", found->second.count + 1}, {"lastTimestamp", item.body["lastTimestamp"]}};
    std::string name = found->second.name;
    const int64_t count = found->second.count + 1;
    Result<ObjectPtr> patched = co_await client_.patch(kEvents, ns, name, "", PatchType::kMerge, std::move(change));
    if (patched.ok()) {
      remember(item.key, std::move(name), count);
      co_return;
    }
    // It has been removed meanwhile: the event starts anew.
    if (!patched.error().is(Code::kNotFound)) {
      ++dropped_;
      co_return;
    }
  }
  std::string name(text(item.body, {"metadata", "name"}));
  Result<ObjectPtr> created = co_await client_.create(kEvents, ns, std::move(item.body));
  if (!created.ok()) {
    ++dropped_;
    log::debug("events", "{}/{}: {}", ns, name, created.error().message());
    co_return;
  }
  remember(item.key, std::move(name), 1);
}

Task<> EventRecorder::stop() {
  ending_.notify();
  co_await gate_.close();
}

}  // namespace dhow::client
