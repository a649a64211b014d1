#include "heartbeats.h"

#include "base/log.h"
#include "client/fields.h"
#include "client/node_lease.h"
#include "platform.h"

namespace dhow::controllers {

using namespace client;
using object::resources::kLeases;
using object::resources::kNodes;

namespace {
constexpr char kLeaseNamespace[] = "kube-node-lease";
constexpr char kQuorumNamespace[] = "kube-system";
constexpr Duration kHeldUp = std::chrono::seconds(1);
// One renewal that is late is no gap. Shorter than kSilentAfter - kRenewEvery: when the first node of a cut region is
// silent, all the others have a gap already.
constexpr Duration kGap = std::chrono::milliseconds(4500);
static_assert(kGap > kRenewEvery && kGap < kSilentAfter - kRenewEvery);
// The lease is renewed every half second, and lost after two.
constexpr Duration kQuorumGap = std::chrono::seconds(2);
}  // namespace

struct Heartbeats::Listeners {
  std::map<uint64_t, Changed> all;
  uint64_t next = 0;
};

Heartbeats::Subscription::~Subscription() {
  if (auto listeners = listeners_.lock()) listeners->all.erase(id_);
}

Heartbeats::Heartbeats(Loop& loop, client::Caches& caches, std::string quorumLease)
    : loop_(loop),
      quorumLease_(std::move(quorumLease)),
      nodes_(caches.of(kNodes)),
      leases_(caches.of(kLeases)),
      listeners_(std::make_shared<Listeners>()) {}
Heartbeats::~Heartbeats() = default;

std::unique_ptr<Heartbeats::Subscription> Heartbeats::onChange(Changed changed) {
  const uint64_t id = listeners_->next++;
  listeners_->all[id] = std::move(changed);
  return std::make_unique<Subscription>(listeners_, id);
}

void Heartbeats::start() {
  lastOfAny_ = loop_.now();
  subscriptions_.push_back(nodes_.subscribe([this](const ObjectPtr& before, const ObjectPtr& after) {
    const std::string name((after ? after : before)->name());
    if (!after) {
      entries_.erase(name);
      tell(name);
      return;
    }
    if (entries_.try_emplace(name, Entry{loop_.now(), loop_.now()}).second) {
      if (!timer_) arm();
      tell(name);
    }
    // One that comes back may say so before it renews its lease.
    if (before && !nodeReady(*before) && nodeReady(*after)) renewed(name);
  }));
  subscriptions_.push_back(leases_.subscribe([this](const ObjectPtr& before, const ObjectPtr& after) {
    if (!after || !before) return;
    if (text(before->root(), {"spec", "renewTime"}) == text(after->root(), {"spec", "renewTime"})) return;
    if (after->ns() == kLeaseNamespace) renewed(std::string(after->name()));
    if (!quorumLease_.empty() && after->ns() == kQuorumNamespace && after->name() == quorumLease_)
      quorumSeen_ = loop_.now();
  }));
}

void Heartbeats::stop() {
  subscriptions_.clear();
  timer_.cancel();
}

bool Heartbeats::quorate() const {
  return quorumSeen_ && loop_.now() - *quorumSeen_ <= kQuorumGap;
}

Duration Heartbeats::silence(std::string_view node) const {
  auto found = entries_.find(node);
  return found == entries_.end() ? Duration::zero() : loop_.now() - found->second.last;
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
  const TimePoint now = loop_.now();
  return now - found->second.last <= kGap && now - found->second.steadySince >= kGap;
}

bool Heartbeats::fenced(std::string_view name) const {
  if (silence(name) < kFencedAfter) return false;
  ObjectPtr node = nodes_.get("", name);
  return node && node->annotation(kFencesItself) == "true";
}

TimePoint Heartbeats::last(std::string_view node) const {
  auto found = entries_.find(node);
  return found == entries_.end() ? loop_.now() : found->second.last;
}

void Heartbeats::restarted(std::string_view node) {
  if (auto found = entries_.find(node); found != entries_.end()) found->second.confirmed = false;
}

void Heartbeats::renewed(const std::string& node) {
  auto found = entries_.find(node);
  if (found == entries_.end()) return;
  const bool deaf = loop_.now() - lastOfAny_ >= kSilentAfter;
  const TimePoint heardUntil = std::exchange(lastOfAny_, loop_.now());
  if (deaf) discount(heardUntil);
  Entry& entry = found->second;
  if (loop_.now() - entry.last > kGap) entry.steadySince = loop_.now();
  entry.last = loop_.now();
  const bool news = entry.state != State::kHeard || !entry.confirmed;
  entry.state = State::kHeard;
  entry.confirmed = true;
  if (news) tell(node);
}

void Heartbeats::discount(TimePoint since) {
  const TimePoint now = loop_.now();
  for (auto& [name, entry] : entries_) {
    if (now - entry.last < kSilentAfter || now <= since) continue;
    entry.last += now - std::max(entry.last, since);
    entry.steadySince = now;
    entry.confirmed = false;
  }
  look();
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
  due_ = std::max(*next, loop_.now());
  timer_ = loop_.after(due_ - loop_.now(), [this] {
    const Duration late = loop_.now() - due_;
    if (late > kHeldUp) {
      log::warn("heartbeats", "this process was held up for {} ms", late / std::chrono::milliseconds(1));
      for (auto& [name, entry] : entries_) entry.last = std::min(entry.last + late, loop_.now());
    }
    look();
  });
}

void Heartbeats::look() {
  timer_.cancel();
  const TimePoint now = loop_.now();
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
  auto all = listeners_->all;
  for (const auto& [id, listener] : all) listener(node);
}

}  // namespace dhow::controllers
