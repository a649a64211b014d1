#include "client/leader.h"

#include "base/log.h"
#include "base/strings.h"
#include "base/time.h"
#include "client/fields.h"

namespace dhow::client {

using object::resources::kLeases;

LeaderElector::LeaderElector(Loop& loop, Client& client, Options options)
    : loop_(loop), client_(client), options_(std::move(options)), wake_(loop), gate_(loop) {}

void LeaderElector::start() {
  gate_.spawn(run(this));
}

void LeaderElector::setLeading(bool leading) {
  if (leading_ == leading) return;
  leading_ = leading;
  log::info("leader", "{} {} {}", options_.identity, leading ? "leads" : "no longer leads", options_.name);
  const auto& call = leading ? options_.onLead : options_.onLost;
  if (call) call();
}

// Until the next look at the lease: the end of another's is not slept through.
Duration LeaderElector::pause() const {
  const auto fifth = options_.retryPeriod.count() / 5;
  const Duration jitter(fifth > 0 ? static_cast<int64_t>(loop_.random() % static_cast<uint64_t>(fifth)) : 0);
  const Duration usual = options_.retryPeriod + jitter;
  const Duration left = liveUntil_ - loop_.now();
  if (leading_ || left <= Duration::zero()) return usual;
  return std::min(usual, left + jitter / 4);
}

Task<> LeaderElector::run(LeaderElector* self) {
  while (!self->stopping_) {
    const TimePoint asked = self->loop_.now();
    Result<> result = co_await self->tryAcquire();
    if (self->stopping_) break;
    // Counted from before the request: others count from when they see it, which is later.
    const Duration left = asked + self->options_.renewDeadline - self->loop_.now();
    if (result.ok() && left > Duration::zero()) {
      self->expiry_ = self->loop_.after(left, [self] { self->setLeading(false); });
      self->setLeading(true);
    } else if (self->leading_ && !result.ok()) {
      log::warn("leader", "renew {}: {}", self->options_.name, result.error().message());
      // Somebody else holds it. Any other failure may pass before the time is over.
      if (result.error().is(Code::kFailedPrecondition)) self->setLeading(false);
    }
    co_await self->wake_.waitFor(self->pause());
  }
  self->expiry_.cancel();
  if (!self->leading_) co_return;
  // Those who act as the leader end first, only then may another begin.
  self->setLeading(false);
  co_await self->release();
}

Task<> LeaderElector::stop() {
  stopping_ = true;
  wake_.notify();
  co_await gate_.close();
}

json::object LeaderElector::leaseBody(std::string_view holder, int64_t transitions,
                                      std::string_view acquireTime) const {
  const std::string now = formatTimeMicro(loop_.wallNow());
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(options_.leaseDuration).count();
  return {{"apiVersion", "coordination.k8s.io/v1"},
          {"kind", "Lease"},
          {"metadata", {{"name", options_.name}, {"namespace", options_.ns}}},
          {"spec",
           {{"holderIdentity", holder},
            {"leaseDurationSeconds", std::max<int64_t>(seconds, 1)},
            {"acquireTime", acquireTime.empty() ? std::string_view(now) : acquireTime},
            {"renewTime", now},
            {"leaseTransitions", transitions}}}};
}

void LeaderElector::note(const ObjectPtr& lease) {
  const uint64_t version = parseUint(text(lease->metadata(), "resourceVersion")).value_or(0);
  if (version <= seenVersion_) return;
  seenVersion_ = version;
  seenAt_ = loop_.now();
}

void LeaderElector::saw(const ObjectPtr& lease) {
  if (lease) note(lease);
  const bool free = !lease || text(lease->root(), {"spec", "holderIdentity"}).empty();
  if (free && !leading_) wake_.notify();
}

Task<Result<>> LeaderElector::tryAcquire() {
  Result<ObjectPtr> got = co_await client_.get(kLeases, options_.ns, options_.name);
  if (!got.ok()) {
    if (!got.error().is(Code::kNotFound)) co_return std::move(got).error();
    Result<ObjectPtr> created = co_await client_.create(kLeases, options_.ns, leaseBody(options_.identity, 0, ""));
    if (!created.ok()) co_return std::move(created).error();
    lease_ = *created;
    holder_ = options_.identity;
    co_return Result<>();
  }
  ObjectPtr lease = *got;
  note(lease);
  holder_ = text(lease->root(), {"spec", "holderIdentity"});
  const bool ours = holder_ == options_.identity;
  if (!ours && !holder_.empty()) {
    // The holder's own duration counts: it may be configured otherwise than we are.
    const std::chrono::seconds held(number(lease->root(), {"spec", "leaseDurationSeconds"}, 15));
    liveUntil_ = seenAt_ + held;
    if (loop_.now() < liveUntil_) {
      co_return Error(Code::kFailedPrecondition, fmt::format("the lease is held by {}", holder_));
    }
  }
  const int64_t transitions = number(lease->root(), {"spec", "leaseTransitions"}, 0);
  const std::string acquired(ours ? text(lease->root(), {"spec", "acquireTime"}) : std::string_view());
  json::object body = copyOf(lease);
  body["spec"] = leaseBody(options_.identity, transitions + (ours ? 0 : 1), acquired)["spec"];
  Result<ObjectPtr> updated = co_await client_.update(kLeases, options_.ns, options_.name, "", std::move(body));
  if (!updated.ok()) co_return std::move(updated).error();
  lease_ = *updated;
  holder_ = options_.identity;
  note(lease_);
  co_return Result<>();
}

Task<> LeaderElector::release() {
  if (!lease_) co_return;
  json::object body = copyOf(lease_);
  objectAt(body, "spec")["holderIdentity"] = "";
  objectAt(body, "spec")["leaseDurationSeconds"] = 1;
  Result<ObjectPtr> updated = co_await client_.update(kLeases, options_.ns, options_.name, "", std::move(body));
  if (!updated.ok()) log::warn("leader", "release {}: {}", options_.name, updated.error().message());
}

}  // namespace dhow::client
