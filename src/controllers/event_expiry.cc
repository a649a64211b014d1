#include "event_expiry.h"

#include "base/time.h"

namespace dhow::controllers {

using namespace client;
using object::resources::kEvents;

namespace {

constexpr char kAll[] = "all";
// Many come due one after the other: they go together.
constexpr Duration kPause = std::chrono::minutes(1);
constexpr size_t kTogether = 32;

// The API notes the time of each write; what an Event says of itself may be anything. A time to come tells nothing.
WallTime lastWritten(const Object& event, WallTime now) {
  WallTime last = parseTime(text(event.metadata(), "creationTimestamp")).value_or(WallTime());
  for (const auto& entry : array(event.metadata(), {"managedFields"})) {
    if (!entry.is_object()) continue;
    auto time = parseTime(text(entry.get_object(), "time"));
    if (time && *time <= now) last = std::max(last, *time);
  }
  return last;
}

}  // namespace

EventExpiry::EventExpiry(Context context, Duration ttl)
    : context_(context),
      ttl_(ttl),
      events_(context.caches.of(kEvents)),
      controller_(context.loop, {.name = "eventexpiry", .workers = 1},
                  [this](std::string key) { return reconcile(std::move(key)); }) {
  controller_.require(events_);
}

void EventExpiry::start() {
  controller_.start();
  controller_.queue().add(kAll);
}

Task<Result<>> EventExpiry::reconcile(std::string) {
  const WallTime now = context_.loop.wallNow();
  Duration next = ttl_;
  std::vector<Task<Result<>>> removals;
  for (const ObjectPtr& event : events_.list()) {
    const Duration left = lastWritten(*event, now) + ttl_ - now;
    if (left > Duration(0)) {
      next = std::min(next, left);
      continue;
    }
    if (removals.size() == kTogether) {
      next = Duration(0);
      break;
    }
    DeleteOptions options;
    options.uid = event->uid();
    // One that is written meanwhile stays.
    options.resourceVersion = text(event->metadata(), "resourceVersion");
    removals.push_back(
        context_.client.remove(kEvents, std::string(event->ns()), std::string(event->name()), std::move(options)));
  }
  auto removed = co_await together(context_.loop, std::move(removals));
  for (auto& one : removed) {
    if (!one.ok() && !one.error().is(Code::kNotFound) && !one.error().is(Code::kConflict)) co_return std::move(one);
  }
  controller_.queue().addAfter(kAll, next == Duration(0) ? next : std::max(next, kPause));
  co_return Result<>();
}

}  // namespace dhow::controllers
