// How containers and pods end.
#include <csignal>

#include "base/files.h"
#include "base/log.h"
#include "pod_worker.h"
#include "volume_files.h"

namespace dhow::node {

namespace {

using Kind = ContainerRecord::Kind;
using State = ContainerRecord::State;

constexpr Duration kAfterHook = std::chrono::seconds(2);  // what a stop signal gets at least, after a pre-stop hook
// The barrier has bounds of its own, of seconds; this is for a master that has died with the question.
constexpr Duration kDrainLimit = std::chrono::seconds(15);
// Without any master nobody learns that the pod ends. One that restarts, or a leader that changes, is waited for.
constexpr Duration kMasterAway = std::chrono::seconds(3);
constexpr Duration kAskAgain = std::chrono::milliseconds(100);

}  // namespace

Task<> PodWorker::preStop(PodWorker* self, size_t i, Duration grace, std::shared_ptr<bool> done) {
  const json::object hook = object(self->specOf(i), {"lifecycle", "preStop"});
  auto result = co_await runHook(self->loop_, self->context_.connector, self->targetOf(i), hook, grace);
  if (!result.ok() && !self->quitting_) {
    self->eventFor(i, "Warning", "FailedPreStopHook", "PreStopHook failed: " + result.error().message());
  }
  *done = true;
  self->changed_.notify();
}

Task<> PodWorker::stopContainer(PodWorker* self, size_t i, Duration grace, std::string why) {
  if (self->rec(i).state != State::kRunning || self->rec(i).stopping || !self->sandbox_) co_return;
  const std::string id = self->rec(i).id;
  const std::shared_ptr<runtime::Sandbox> sandbox = self->sandbox_;
  self->rec(i).stopping = true;
  // It takes no new work from now on.
  self->stopProbes(i);
  self->eventFor(i, "Normal", "Killing", std::move(why));
  TimePoint deadline = self->loop_.now() + grace;
  auto runs = [self, i, &id] {
    return self->rec(i).state == State::kRunning && self->rec(i).id == id && !self->quitting_;
  };

  if (grace > Duration::zero() && client::has(self->specOf(i), {"lifecycle", "preStop"})) {
    auto done = std::make_shared<bool>(false);
    self->gate_.spawn(preStop(self, i, grace, done));
    while (!*done && runs()) {
      const Duration left = std::min(deadline, self->stopDeadline_) - self->loop_.now();
      if (left <= Duration::zero()) break;
      co_await self->changed_.waitFor(left);
    }
    deadline = std::max(deadline, self->loop_.now() + kAfterHook);
  }
  if (runs()) {
    const std::string& name = self->stopSignals_[i];
    auto sent = co_await sandbox->signal(id, name.empty() ? SIGTERM : signalNumber(name));
    if (!sent.ok() && !sent.error().is(Code::kNotFound))
      log::warn("node", "pod {}: {}", self->describe(), sent.error().message());
  }
  while (runs()) {
    const Duration left = std::min(deadline, self->stopDeadline_) - self->loop_.now();
    if (left <= Duration::zero()) break;
    co_await self->changed_.waitFor(left);
  }
  if (runs()) (void)co_await sandbox->signal(id, SIGKILL, true);
  while (runs() && sandbox->alive()) co_await self->changed_.wait();
}

Task<> PodWorker::stopAll(Duration grace) {
  const TimePoint deadline = loop_.now() + grace;
  auto anyRuns = [this](bool sidecars) {
    for (const ContainerRecord& record : records_) {
      if (record.state == State::kRunning && (record.kind == Kind::kSidecar) == sidecars) return true;
    }
    return false;
  };
  for (size_t i = 0; i < records_.size(); ++i) {
    if (rec(i).kind != Kind::kSidecar) gate_.spawn(stopContainer(this, i, grace, "Stopping container " + rec(i).name));
  }
  while (anyRuns(false) && sandboxReady_ && !quitting_) co_await changed_.wait();
  // Sidecars outlive those that they serve, and go in the reverse of the order in which they came.
  for (size_t i = records_.size(); i-- > 0;) {
    if (rec(i).kind != Kind::kSidecar || rec(i).state != State::kRunning) continue;
    const Duration left = std::max<Duration>(std::chrono::seconds(1), deadline - loop_.now());
    std::string why = "Stopping container " + rec(i).name;
    co_await stopContainer(this, i, left, std::move(why));
    while (rec(i).state == State::kRunning && sandboxReady_ && !quitting_) co_await changed_.wait();
  }
}

bool PodWorker::anyRuns() const {
  return std::any_of(records_.begin(), records_.end(),
                     [](const ContainerRecord& record) { return record.state == State::kRunning; });
}

TimePoint PodWorker::latestEnd() const {
  return loop_.now() + graceOf() + (holding_ && client::ownSessionDeadline(*pod_) ? holdLeft() : Duration::zero());
}

Task<> PodWorker::drain(Duration limit, bool over) {
  if (context_.barrier == nullptr || !anyRuns()) co_return;
  const TimePoint end = loop_.now() + std::min(limit, kDrainLimit);
  auto done = std::make_shared<bool>(false);
  gate_.spawn(passBarrier(this, done, over));
  while (!*done && !quitting_ && !fenced_ && !removedFromApi_) {
    const Duration left = std::min(end, stopDeadline_) - loop_.now();
    if (left <= Duration::zero()) {
      log::warn("node", "pod {} ends undrained: no answer in time", describe());
      break;
    }
    co_await changed_.waitFor(left);
  }
  *done = true;
}

// `done`: nobody waits for it any more.
Task<> PodWorker::passBarrier(PodWorker* self, std::shared_ptr<bool> done, bool over) {
  const TimePoint until = self->loop_.now() + kMasterAway;
  std::string complaint;
  while (!*done && !self->quitting_) {
    const uint64_t revision = std::max(self->pod_->resourceVersion(), self->sentAt_);
    auto drained = co_await self->context_.barrier->pass({self->ns_, self->name_, self->uid_, revision, over});
    complaint = drained.ok() ? drained->complaint() : drained.error().message();
    const bool away =
        !drained.ok() && (drained.error().is(Code::kUnavailable) || drained.error().is(Code::kDeadlineExceeded));
    if (!away || self->loop_.now() >= until) break;
    co_await self->changed_.waitFor(kAskAgain);
  }
  if (*done || self->quitting_) co_return;
  if (!complaint.empty()) {
    log::warn("node", "pod {} ends undrained: {}", self->describe(), complaint);
    self->context_.events.warning(*self->pod_, "Undrained",
                                  "Stopping although requests may still be sent to this pod: " + complaint);
  }
  *done = true;
  self->changed_.notify();
}

Task<> PodWorker::stopPod(PodWorker* self) {
  // A container that is about to run is let run, then stopped: no step is cut in the middle.
  while (self->busy_ > 0 && !self->quitting_) co_await self->changed_.wait();
  if (self->quitting_) co_return;
  const TimePoint since = self->loop_.now();
  self->holding_ = self->context_.barrier != nullptr && self->pod_->deleting();
  self->stopDeadline_ = std::min(self->stopDeadline_, self->latestEnd());
  self->publish();
  // The wait is part of the grace period, and leaves the containers time of their own.
  co_await self->drain(self->graceOf() / 2, false);
  if (self->quitting_) co_return;
  co_await self->holdSessions(since);
  if (self->quitting_) co_return;
  co_await self->stopAll(self->graceOf());
  if (self->quitting_) co_return;
  co_await self->tearDown();
  if (self->quitting_) co_return;
  if (!self->removedFromApi_) co_await self->tellDeleted();
  if (self->quitting_) co_return;
  const std::string root = self->paths_.root;
  while (self->writingPod_ || self->sending_) co_await self->changed_.wait();
  // The logs stay for a while; the node's store of old logs takes them.
  for (const std::string& file :
       {self->paths_.pod(), self->paths_.status(), self->paths_.objects(), self->paths_.tokens(), self->paths_.hosts(),
        self->paths_.resolvConf(), root + "/hostname"}) {
    (void)removeTree(file);
  }
  self->over();
}

Task<> PodWorker::finishPod(PodWorker* self) {
  while (self->busy_ > 0 && !self->quitting_) co_await self->changed_.wait();
  if (self->quitting_) co_return;
  co_await self->stopAll(self->graceOf());
  if (self->quitting_) co_return;
  co_await self->tearDown();
  self->step();
}

Task<> PodWorker::tearDown() {
  while (tearing_ && !tornDown_ && !quitting_) co_await changed_.wait();
  if (tornDown_ || quitting_) co_return;
  tearing_ = true;
  for (size_t i = 0; i < records_.size(); ++i) stopProbes(i);
  for (Timer* timer : {&sandboxRetry_, &volumeRetry_, &tokenRefresh_, &volumeComplaint_, &deadlineTimer_, &stepTimer_})
    timer->cancel();
  while (busy_ > 0 && !quitting_) co_await changed_.wait();
  if (quitting_) co_return;
  context_.objects.use(uid_, {}, {});
  if (sandbox_) {
    auto removed = co_await sandbox_->remove();
    if (!removed.ok()) log::warn("node", "pod {}: {}", describe(), removed.error().message());
    for (const ContainerRecord& record : std::vector<ContainerRecord>(records_)) {
      if (!record.id.empty()) (void)co_await context_.images.removeSnapshot(record.id);
    }
    sandbox_.reset();
  }
  releaseAddress();
  sandboxReady_ = false;
  const std::string volumes = paths_.volumes();
  co_await context_.offload.run([volumes] {
    auto unmounted = unmountBelow(volumes);
    // What is still mounted must not be emptied by the removal.
    if (unmounted.ok()) unmounted = removeTree(volumes);
    if (!unmounted.ok()) log::warn("node", "{}", unmounted.error().message());
  });
  tornDown_ = true;
  stopped_ = stopWanted_;
  changed_.notify();
}

Task<> PodWorker::tellDeleted() {
  stopped_ = true;
  publish();
  while ((sending_ && statusDirty_) && !quitting_ && !removedFromApi_) co_await changed_.wait();
  while (sending_ && !quitting_ && !removedFromApi_) co_await changed_.wait();
  statusOff_ = true;
  Duration delay = std::chrono::milliseconds(200);
  while (!quitting_ && !removedFromApi_) {
    client::DeleteOptions options;
    options.gracePeriodSeconds = 0;
    options.uid = uid_;
    auto gone = co_await context_.client.remove(dhow::object::resources::kPods, ns_, name_, std::move(options));
    // Another pod has the name already, or nobody has.
    if (gone.ok() || gone.error().is(Code::kNotFound) || gone.error().is(Code::kConflict)) break;
    log::warn("node", "pod {}: not deleted at the API: {}", describe(), gone.error().message());
    co_await changed_.waitFor(delay);
    delay = std::min<Duration>(delay * 2, std::chrono::seconds(10));
  }
}

void PodWorker::onSandboxGone() {
  if (over_ || !sandbox_ || tearing_) return;
  std::shared_ptr<runtime::Sandbox> gone = std::exchange(sandbox_, nullptr);
  sandboxReady_ = false;
  for (size_t i = 0; i < records_.size(); ++i) {
    if (rec(i).state != State::kRunning) continue;
    runtime::ExitInfo lost;
    lost.code = 137;
    lost.signal = SIGKILL;
    lost.time = loop_.wallNow();
    ended(i, lost);
  }
  gate_.spawn(dropSandbox(this, std::move(gone)));
  changed_.notify();
  if (stopWanted_ || finished_) return;
  // Init containers run again in the new one.
  initialized_ = false;
  for (ContainerRecord& record : records_) {
    if (record.kind != Kind::kInit || record.state != State::kExited) continue;
    if (policy_ == RestartPolicy::kNever) continue;
    record.last = std::exchange(record.ended, std::nullopt);
    record.state = State::kWaiting;
  }
  context_.events.normal(*pod_, "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.");
  step();
}

Task<> PodWorker::dropSandbox(PodWorker* self, std::shared_ptr<runtime::Sandbox> sandbox) {
  (void)co_await sandbox->remove();
  for (const ContainerRecord& record : std::vector<ContainerRecord>(self->records_)) {
    if (!record.id.empty()) (void)co_await self->context_.images.removeSnapshot(record.id);
  }
  self->releaseAddress();
  if (!self->leaving() && !self->sandboxRunning_) {
    self->sandboxRunning_ = true;
    self->gate_.spawn(setUpSandbox(self));
  }
}

}  // namespace dhow::node
