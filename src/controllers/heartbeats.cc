#include "heartbeats.h"

#include "base/log.h"
#include "client/fields.h"
#include "client/node_lease.h"

namespace dhow::controllers {

using namespace client;
using object::resources::kLeases;
using object::resources::kNodes;

namespace {
constexpr char kLeaseNamespace[] = "kube-node-lease";
constexpr Duration kHeldUp = std::chrono::seconds(1);
// One renewal that is late is no gap. Shorter than kSilentAfter - kRenewEvery: when the first node of a cut region is
// silent, all the others have a gap already.
constexpr Duration kGap = std::chrono::milliseconds(4500);
static_assert(kGap > kRenewEvery && kGap < kSilentAfter - kRenewEvery);
}  // namespace

Heartbeats::Heartbeats(Context context)
    : context_(context), nodes_(context.caches.of(kNodes)), leases_(context.caches.of(kLeases)) {}

void Heartbeats::start() {
  subscriptions_.push_back(nodes_.subscribe([this](const ObjectPtr& before, const ObjectPtr& after) {
    const std::string name((after ? after : before)->name());
    if (!after) {
      entries_.erase(name);
      tell(name);
      return;
    }
    if (entries_.try_emplace(name, Entry{context_.loop.now(), context_.loop.now()}).second) {
      if (!timer_) arm();
      tell(name);
    }
  }));
  subscriptions_.push_back(leases_.subscribe([this](const ObjectPtr& before, const ObjectPtr& after) {
    if (!after || !before || after->ns() != kLeaseNamespace) return;
    if (text(before->root(), {"spec", "renewTime"}) == text(after->root(), {"spec", "renewTime"})) return;
    renewed(std::string(after->name()));
  }));
}

void Heartbeats::stop() {
  subscriptions_.clear();
  timer_.cancel();
}

Duration Heartbeats::silence(std::string_view node) const {
  auto found = entries_.find(node);
  return found == entries_.end() ? Duration::zero() : context_.loop.now() - found->second.last;
}

bool Heartbeats::silent(std::string_view node) const {
  return silence(node) >= kSilentAfter;
}

bool Heartbeats::heard(std::string_view node) const {
  auto found = entries_.find(node);
  return found != entries_.end() && found->second.confirmed && !silent(node);
}

bool Heartbeats::steady(std::string_view node) const {
  auto found = entries_.find(node);
  if (found == entries_.end()) return false;
  const TimePoint now = context_.loop.now();
  return now - found->second.last <= kGap && now - found->second.steadySince >= kGap;
}

bool Heartbeats::fenced(std::string_view name) const {
  if (silence(name) < kFencedAfter) return false;
  ObjectPtr node = nodes_.get("", name);
  return node && node->annotation(kFencesItself) == "true";
}

TimePoint Heartbeats::last(std::string_view node) const {
  auto found = entries_.find(node);
  return found == entries_.end() ? context_.loop.now() : found->second.last;
}

void Heartbeats::renewed(const std::string& node) {
  auto found = entries_.find(node);
  if (found == entries_.end()) return;
  Entry& entry = found->second;
  if (context_.loop.now() - entry.last > kGap) entry.steadySince = context_.loop.now();
  entry.last = context_.loop.now();
  const bool news = entry.state != State::kHeard || !entry.confirmed;
  entry.state = State::kHeard;
  entry.confirmed = true;
  if (news) tell(node);
}

void Heartbeats::arm() {
  std::optional<TimePoint> next;
  for (const auto& [name, entry] : entries_) {
    if (entry.state == State::kFenced) continue;
    const TimePoint due = entry.last + (entry.state == State::kHeard ? kSilentAfter : kFencedAfter);
    next = std::min(next.value_or(due), due);
  }
  timer_.cancel();
  if (!next) return;
  due_ = std::max(*next, context_.loop.now());
  timer_ = context_.loop.after(due_ - context_.loop.now(), [this] { look(); });
}

void Heartbeats::look() {
  timer_.cancel();
  const TimePoint now = context_.loop.now();
  if (now - due_ > kHeldUp) {
    log::warn("heartbeats", "this process was held up for {} ms",
              std::chrono::duration_cast<std::chrono::milliseconds>(now - due_).count());
    for (auto& [name, entry] : entries_) entry.last = std::min(entry.last + (now - due_), now);
  }
  std::vector<std::string> changed;
  for (auto& [name, entry] : entries_) {
    const Duration silent = now - entry.last;
    const State state = silent >= kFencedAfter   ? State::kFenced
                        : silent >= kSilentAfter ? State::kSilent
                                                 : State::kHeard;
    if (state == entry.state) continue;
    if (entry.state == State::kHeard) log::warn("heartbeats", "node {} is not heard any more", name);
    entry.state = state;
    changed.push_back(name);
  }
  for (const std::string& name : changed) tell(name);
  arm();
}

void Heartbeats::tell(const std::string& node) {
  for (const Changed& listener : listeners_) listener(node);
}

}  // namespace dhow::controllers
