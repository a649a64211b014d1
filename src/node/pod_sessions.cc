// A pod that leaves keeps the users that it has: its containers get their stop signal when no session and no connection
// is held any more, or when the deadline has passed (client/sessions.h).
#include "base/log.h"
#include "base/time.h"
#include "pod_worker.h"

namespace dhow::node {

namespace {

constexpr Duration kMasterAway = std::chrono::seconds(3);  // who answered the drain barrier is back by then
constexpr Duration kNodesAway = std::chrono::seconds(10);  // nodes that do not tell are dead by then, or hold nothing
constexpr Duration kAskAgain = std::chrono::seconds(1);    // after an answer that is none
constexpr Duration kTellEvery = std::chrono::seconds(10);  // the API, of counts that change: each is a write
constexpr Duration kAtLeast = std::chrono::seconds(2);     // of the grace period is left to the containers
constexpr Duration kMoveLimit = std::chrono::seconds(5);   // for users to be sent elsewhere

}  // namespace

struct PodWorker::HeldAnswer {
  std::optional<Result<client::Held>> result;
};

Duration PodWorker::holdLeft() const {
  return std::max<Duration>(Duration::zero(), client::sessionDeadline(*pod_) - loop_.wallNow());
}

bool PodWorker::mayHold() const {
  return !quitting_ && !fenced_ && !removedFromApi_ && anyRuns() && holdLeft() > Duration::zero();
}

Task<> PodWorker::askHeld(PodWorker* self, client::HeldQuestion question, std::shared_ptr<HeldAnswer> answer) {
  auto held = co_await self->context_.barrier->held(std::move(question));
  answer->result.emplace(std::move(held));
  self->changed_.notify();
}

Task<> PodWorker::holdSessions(TimePoint since) {
  if (!holding_) co_return;
  // By an agent before this one.
  bool held = sessions_ && sessions_->held;
  bool sticky = held, ended = false;
  client::Held last;
  bool fresh = true;
  while (mayHold()) {
    client::HeldQuestion question{ns_, name_, uid_, std::nullopt};
    if (!fresh) question.known = {last.sessions, last.connections};
    auto answer = std::make_shared<HeldAnswer>();
    gate_.spawn(askHeld(this, std::move(question), answer));
    while (!answer->result && mayHold()) co_await changed_.waitFor(holdLeft());
    if (!answer->result) break;
    const Result<client::Held>& told = *answer->result;
    const Duration past = loop_.now() - since;
    if (told.ok()) {
      last = *told;
      sticky |= last.sticky;
      // Who does not tell within a while holds nothing.
      const bool all = last.missing.empty() || past >= kNodesAway;
      ended = !last.any() && all;
      if (ended) break;
      if (last.any()) {
        held = true;
        tellHeld(last);
      }
      fresh = !all;
      if (all) continue;
    } else {
      // Nothing is known to be held, and there is nobody who could tell; a master of before knows no such question.
      const bool away = told.error().is(Code::kUnavailable) || told.error().is(Code::kDeadlineExceeded);
      if (!held && (!away || past >= kMasterAway)) break;
      fresh = true;
    }
    co_await changed_.waitFor(std::min<Duration>(kAskAgain, holdLeft()));
  }
  if (quitting_) co_return;
  holding_ = false;
  // Whoever knew how many there are does not tell any more.
  if (!ended && !last.any()) last.missing.emplace_back("the masters");
  if (held) tellHoldOver(ended ? client::Held() : last, since);
  if (sticky && anyRuns() && !fenced_ && !removedFromApi_) {
    // A user who comes back is sent elsewhere before the pod is told to stop.
    abandoned_ = true;
    publish();
    const TimePoint end = std::min(loop_.now() + kMoveLimit, stopDeadline_);
    while ((sending_ || statusDirty_) && loop_.now() < end && !quitting_ && !removedFromApi_)
      co_await changed_.waitFor(end - loop_.now());
    co_await drain(std::min<Duration>(kMoveLimit, (stopDeadline_ - loop_.now()) / 2), true);
  }
  const TimePoint end = latestEnd();
  stopDeadline_ = std::min(stopDeadline_, end);
  if (held && !fenced_ && !removedFromApi_) stopDeadline_ = std::max(stopDeadline_, loop_.now() + kAtLeast);
}

void PodWorker::tellHeld(const client::Held& held) {
  const std::string until = formatTime(client::sessionDeadline(*pod_));
  const std::string count = client::describe(held.sessions, held.connections);
  const bool first = !sessions_ || !sessions_->held;
  if (first) {
    log::info("node", "pod {} keeps {} until {} at most", describe(), count, until);
    context_.events.normal(*pod_, "DrainingSessions",
                           fmt::format("{} held until {} at most; new users are sent elsewhere", count, until));
  }
  if (!first && loop_.now() - sessionsToldAt_ < kTellEvery) return;
  sessionsToldAt_ = loop_.now();
  sessions_ = {true, "DrainingSessions", fmt::format("{} held until {} at most", count, until)};
  publish();
}

void PodWorker::tellHoldOver(const client::Held& last, TimePoint since) {
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(loop_.now() - since).count();
  const bool cut = last.any() || !last.missing.empty();
  std::string message;
  if (cut) {
    message =
        fmt::format("{} cut after {} s: {}",
                    last.any() ? client::describe(last.sessions, last.connections) : "What was held may be", seconds,
                    removedFromApi_ ? "the pod was deleted at once"
                    : fenced_       ? "the node lost its lease"
                    : !anyRuns()    ? "its containers have ended"
                                    : "the deadline has passed");
    context_.events.warning(*pod_, "SessionsCut", message);
  } else {
    message = fmt::format("No session and no connection is held any more after {} s", seconds);
    context_.events.normal(*pod_, "SessionsEnded", message);
  }
  log::info("node", "pod {}: {}", describe(), message);
  sessions_ = {false, cut ? "SessionsCut" : "SessionsEnded", std::move(message)};
}

}  // namespace dhow::node
