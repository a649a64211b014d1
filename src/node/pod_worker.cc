#include "pod_worker.h"

#include <boost/json/parse.hpp>

#include "base/files.h"
#include "base/log.h"
#include "base/time.h"
#include "client/node_lease.h"

namespace dhow::node {

namespace {

// Whether two copies of a pod differ in what their user or the API's users wrote; a status of our own that comes back
// is no news.
bool sameDefinition(const json::object& a, const json::object& b) {
  if (object(a, {"spec"}) != object(b, {"spec"})) return false;
  json::object left = object(a, {"metadata"}), right = object(b, {"metadata"});
  for (json::object* metadata : {&left, &right}) {
    metadata->erase("resourceVersion");
    metadata->erase("managedFields");
  }
  return left == right;
}

std::vector<ContainerRecord> recordsOf(const json::object& spec) {
  std::vector<ContainerRecord> out;
  for (std::string_view list : {"initContainers", "containers"}) {
    for (const json::value& entry : array(spec, {list})) {
      if (!entry.is_object()) continue;
      const json::object& container = entry.get_object();
      ContainerRecord record;
      record.name = text(container, "name");
      record.image = text(container, "image");
      if (list == "initContainers") {
        record.kind = text(container, "restartPolicy") == "Always" ? ContainerRecord::Kind::kSidecar
                                                                   : ContainerRecord::Kind::kInit;
      }
      out.push_back(std::move(record));
    }
  }
  return out;
}

}  // namespace

PodWorker::PodWorker(WorkerContext& context, ObjectPtr pod, std::function<void()> onOver)
    : context_(context),
      loop_(context.loop),
      pod_(std::move(pod)),
      uid_(pod_->uid()),
      ns_(pod_->ns()),
      name_(pod_->name()),
      paths_(context.paths, ns_, name_, uid_),
      onOver_(std::move(onOver)),
      policy_(restartPolicyOf(podSpec())),
      records_(recordsOf(podSpec())),
      probes_(records_.size()),
      processes_(records_.size()),
      stopSignals_(records_.size()),
      changed_(loop_),
      gate_(loop_) {
  startTime_ = client::time(pod_->root(), {"status", "startTime"}).value_or(loop_.wallNow());
}

PodWorker::~PodWorker() = default;

const json::object& PodWorker::specOf(size_t i) const {
  const json::object& spec = podSpec();
  const json::object* found =
      named(array(spec, {records_[i].kind == ContainerRecord::Kind::kApp ? "containers" : "initContainers"}),
            records_[i].name);
  static const json::object kNone;
  return found != nullptr ? *found : kNone;
}

std::optional<size_t> PodWorker::indexOf(std::string_view name) const {
  for (size_t i = 0; i < records_.size(); ++i) {
    if (records_[i].name == name) return i;
  }
  return std::nullopt;
}

std::string PodWorker::describe() const {
  return fmt::format("{}_{}({})", name_, ns_, uid_);
}

Duration PodWorker::graceOf() const {
  if (fenced_) return Duration::zero();
  auto given = number(pod_->root(), {"metadata", "deletionGracePeriodSeconds"});
  const int64_t seconds = given.value_or(number(podSpec(), {"terminationGracePeriodSeconds"}, 30));
  // Even a forced deletion gives the processes a moment.
  return std::chrono::seconds(std::clamp<int64_t>(seconds, 1, int64_t{1} << 32));
}

void PodWorker::eventFor(size_t i, std::string_view type, std::string_view reason, std::string message) {
  const char* list = rec(i).kind == ContainerRecord::Kind::kApp ? "containers" : "initContainers";
  context_.events.event(*pod_, type, reason, std::move(message), fmt::format("spec.{}{{{}}}", list, rec(i).name));
}

std::vector<std::string> PodWorker::hostIps() const {
  return context_.node.addresses;
}

std::vector<std::string> PodWorker::podIps() const {
  return hostNetworkOf(pod_->root()) ? hostIps() : withoutEmpty({address_, second_});
}

FieldContext PodWorker::fieldContext() {
  FieldContext out;
  out.pod = &pod_->root();
  out.podIps = podIps();
  out.hostIps = hostIps();
  out.allocatable = context_.node.allocatable;
  out.find = [this](std::string_view kind, std::string_view name) {
    return context_.objects.find({std::string(kind), ns_, std::string(name)});
  };
  out.services = serviceEnv(context_.services.services(ns_), ns_, flag(podSpec(), {"enableServiceLinks"}, true));
  return out;
}

void PodWorker::restoreFromDisk() {
  seedObjects();
  seedTokens();
  json::object from;
  auto bytes = readFile(paths_.status(), 4 << 20);
  if (bytes.ok()) {
    boost::system::error_code failed;
    json::value parsed = json::parse(*bytes, failed);
    if (!failed && parsed.is_object()) from = std::move(parsed.get_object());
  }
  // The API's copy serves when the disk has none.
  if (from.empty()) from = object(pod_->root(), {"status"});
  if (from.empty()) return;
  status_ = from;
  startTime_ = client::time(from, {"startTime"}).value_or(startTime_);
  for (ContainerRecord& record : records_) {
    const char* list = record.kind == ContainerRecord::Kind::kApp ? "containerStatuses" : "initContainerStatuses";
    const json::object* found = named(array(from, {list}), record.name);
    if (found != nullptr) restore(record, *found);
  }
  for (const json::value& one : array(from, {"conditions"})) {
    if (!one.is_object() || text(one.get_object(), "type") != client::kSessionsHeldCondition) continue;
    const json::object& held = one.get_object();
    sessions_ = {text(held, "status") == "True", std::string(text(held, "reason")), std::string(text(held, "message"))};
  }
  std::string_view phase = text(from, "phase");
  if (phase == "Succeeded" || phase == "Failed") {
    finished_ = true;
    failed_ = phase == "Failed";
    failReason_ = text(from, "reason");
    failMessage_ = text(from, "message");
  }
}

void PodWorker::adopt(std::shared_ptr<runtime::Sandbox> sandbox) {
  sandbox_ = std::move(sandbox);
  address_ = noteOf(sandbox_->annotations(), kNoteAddress);
  second_ = noteOf(sandbox_->annotations(), kNoteSecondAddress);
  link_ = noteOf(sandbox_->annotations(), kNoteLink);
  if (!address_.empty() && !link_.empty()) {
    auto adopted = context_.network.adopt(uid_, address_, link_);
    if (adopted.ok() && !hostPorts().empty()) adopted = context_.network.publish(uid_, podIps(), hostPorts());
    if (!adopted.ok()) log::warn("node", "pod {}: {}", describe(), adopted.error().message());
  }
  tellAddresses(true);
  if (!address_.empty() && context_.policies != nullptr) context_.policies->adopt(pod_, podIps());
  sandboxReady_ = true;
  setUpBegun_ = true;
  volumesReady_ = true;
  for (const runtime::ContainerStatus& container : sandbox_->containers()) {
    auto i = indexOf(noteOf(container.annotations, kNoteContainer));
    if (!i) {
      gate_.spawn(forget(this, sandbox_, container.id));
      continue;
    }
    ContainerRecord& record = rec(*i);
    const int64_t attempt = std::atoll(noteOf(container.annotations, kNoteAttempt).c_str());
    const bool current = record.id == container.id;
    // An earlier attempt whose end is known already.
    if (!current && attempt + 1 < record.attempts) {
      gate_.spawn(forget(this, sandbox_, container.id));
      continue;
    }
    if (current && record.state == ContainerRecord::State::kExited) {
      gate_.spawn(forget(this, sandbox_, container.id));
      continue;
    }
    if (!current) {
      // It was started after the status was last kept.
      if (record.state == ContainerRecord::State::kExited) record.last = record.ended;
      record.ended.reset();
      record.ready = record.started = false;
      record.id = container.id;
    }
    record.attempts = attempt + 1;
    record.state = ContainerRecord::State::kRunning;
    record.startedAt = container.startedAt;
    record.hookDone = true;
    if (container.state == runtime::ContainerState::kExited && container.exit) ended(*i, *container.exit);
  }
  // Init containers are through when one of the others has ever run in this sandbox.
  for (const ContainerRecord& record : records_) {
    if (record.kind == ContainerRecord::Kind::kApp && record.attempts > 0) initialized_ = true;
  }
}

void PodWorker::start() {
  keepPod();
  // What the status says is running but is not was lost with its sandbox.
  for (size_t i = 0; i < records_.size(); ++i) {
    ContainerRecord& record = rec(i);
    const bool there = sandbox_ && sandbox_->container(record.id).has_value();
    if (record.state == ContainerRecord::State::kRunning && !there) {
      runtime::ExitInfo lost;
      lost.code = 137;
      lost.time = loop_.wallNow();
      ended(i, lost);
      rec(i).ended->reason = "ContainerStatusUnknown";
      rec(i).ended->message = "The container could not be located when the pod was looked at";
    }
  }
  if (sandbox_ && !finished_) {
    for (size_t i = 0; i < records_.size(); ++i) {
      if (rec(i).state == ContainerRecord::State::kRunning) startProbes(i);
    }
    context_.objects.use(uid_, referencedObjects(pod_->root()), [this] { objectsChanged(); });
    refreshVolumes();
  }
  if (auto seconds = number(podSpec(), {"activeDeadlineSeconds"})) {
    const Duration left = startTime_ + boundedSeconds(*seconds) - loop_.wallNow();
    deadlineTimer_ = loop_.after(std::max(Duration::zero(), left), [this] {
      fail("DeadlineExceeded", "Pod was active on the node longer than the specified deadline");
    });
  }
  applyDeletion();
  if (finished_ && !stopWanted_) gate_.spawn(finishPod(this));
  step();
}

Task<> PodWorker::stop() {
  quitting_ = true;
  context_.objects.use(uid_, {}, {});
  for (size_t i = 0; i < records_.size(); ++i) stopProbes(i);
  for (Timer* timer : {&sandboxRetry_, &volumeRetry_, &tokenRefresh_, &volumeComplaint_, &stepTimer_, &deadlineTimer_})
    timer->cancel();
  changed_.notify();
  co_await gate_.close();
}

void PodWorker::update(ObjectPtr pod) {
  if (over_ || pod->uid() != uid_) return;
  const bool statusOnly = sameDefinition(pod->root(), pod_->root());
  ObjectPtr before = std::exchange(pod_, std::move(pod));
  if (context_.policies != nullptr) context_.policies->update(pod_);
  // The master took this node for lost and says so of its pods: it is told anew how they are.
  const json::object* ready = client::condition(pod_->root(), "Ready");
  if (ready != nullptr && text(*ready, "status") == "False" && text(*ready, "reason") == client::kNodeNotReady)
    status_.clear();
  tellAgain();
  // A readiness gate's condition may have changed.
  if (!statusOnly) {
    checkDefinitions();
    keepPod();
    if (!finished_ && !stopWanted_) {
      context_.objects.use(uid_, referencedObjects(pod_->root()), [this] { objectsChanged(); });
      if (object(before->root(), {"metadata", "labels"}) != object(pod_->root(), {"metadata", "labels"}) ||
          object(before->root(), {"metadata", "annotations"}) != object(pod_->root(), {"metadata", "annotations"})) {
        refreshVolumes();
      }
    }
    for (ContainerRecord& record : records_) record.configFailed = false;
  }
  applyDeletion();
  step();
}

void PodWorker::checkDefinitions() {
  for (size_t i = 0; i < records_.size(); ++i) {
    std::string image(text(specOf(i), "image"));
    if (image.empty() || image == rec(i).image) continue;
    rec(i).image = image;
    rec(i).pulls.reset();
    if (rec(i).kind == ContainerRecord::Kind::kInit) continue;
    if (rec(i).state == ContainerRecord::State::kRunning) {
      rec(i).replaced = true;
      gate_.spawn(stopContainer(this, i, graceOf(),
                                fmt::format("Container {} definition changed, will be restarted", rec(i).name)));
    }
  }
}

void PodWorker::applyDeletion() {
  if (!pod_->deleting()) return;
  stopWanted_ = true;
  if (stopping_) {
    const TimePoint deadline = latestEnd();
    auto asked = client::time(pod_->root(), {"metadata", "deletionTimestamp"});
    // A shorter grace period brings the end nearer; nothing takes it farther away.
    if (asked && deadline < stopDeadline_) {
      stopDeadline_ = deadline;
      changed_.notify();
    }
  }
}

void PodWorker::removed() {
  if (over_) return;
  removedFromApi_ = true;
  stopWanted_ = true;
  statusOff_ = true;
  changed_.notify();
  step();
}

void PodWorker::fail(std::string reason, std::string message) {
  if (over_ || finished_ || stopWanted_) return;
  failReason_ = std::move(reason);
  failMessage_ = std::move(message);
  finished_ = failed_ = true;
  context_.events.warning(*pod_, failReason_, failMessage_);
  changed_.notify();
  gate_.spawn(finishPod(this));
  step();
}

void PodWorker::fence() {
  if (over_ || std::exchange(fenced_, true)) return;
  stopDeadline_ = loop_.now();
  changed_.notify();  // a stop that is under way has no more time
  fail("Fenced", "The node lost its lease: the pod may be given to another node.");
}

void PodWorker::lookAgain(Duration delay) {
  stepTimer_ = loop_.after(delay, [this] { step(); });
}

void PodWorker::markWaiting(const PodPlan& plan) {
  for (size_t i : plan.waiting) {
    ContainerRecord& record = rec(i);
    const TimePoint now = loop_.now();
    if (record.state == ContainerRecord::State::kExited) {
      if (record.reason == "CrashLoopBackOff") continue;
      const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(record.restarts.current()).count();
      record.reason = "CrashLoopBackOff";
      record.message =
          fmt::format("back-off {} restarting failed container={} pod={}",
                      seconds < 60 ? fmt::format("{}s", seconds) : fmt::format("{}m{}s", seconds / 60, seconds % 60),
                      record.name, describe());
      eventFor(i, "Warning", "BackOff",
               fmt::format("Back-off restarting failed container {} in pod {}", record.name, describe()));
    } else if (record.pullFailed && record.reason == "ErrImagePull" &&
               now - record.failedAt >= std::chrono::seconds(1)) {
      record.reason = "ImagePullBackOff";
      record.message = fmt::format("Back-off pulling image \"{}\": ErrImagePull: {}", record.image, record.message);
      eventFor(i, "Normal", "BackOff", fmt::format("Back-off pulling image \"{}\"", record.image));
      eventFor(i, "Warning", "Failed", "Error: ImagePullBackOff");
    }
  }
}

void PodWorker::step() {
  if (over_ || quitting_) return;
  if (stepping_) {
    stepAgain_ = true;
    return;
  }
  stepping_ = true;
  do {
    stepAgain_ = false;
    if (stopWanted_) {
      if (!stopping_) {
        stopping_ = true;
        stepTimer_.cancel();
        gate_.spawn(stopPod(this));
      }
    } else if (!finished_) {
      if (!setUpBegun_) beginSetUp();
      PodPlan plan = planPod(records_, policy_, initialized_, loop_.now());
      if (plan.initialized) initialized_ = true;
      if (plan.finished) {
        finished_ = true;
        failed_ = plan.failed;
        gate_.spawn(finishPod(this));
      } else {
        markWaiting(plan);
        for (size_t i : plan.start) {
          rec(i).state = ContainerRecord::State::kStarting;
          gate_.spawn(startOne(this, i));
        }
        stepTimer_.cancel();
        if (plan.lookAgain) {
          bool fresh = false;
          for (size_t i : plan.waiting) fresh = fresh || rec(i).reason == "ErrImagePull";
          lookAgain(fresh ? std::min<Duration>(*plan.lookAgain, std::chrono::seconds(1)) : *plan.lookAgain);
        }
      }
    }
  } while (stepAgain_);
  stepping_ = false;
  changed_.notify();
  publish();
}

json::object PodWorker::computeStatus() {
  PodFacts facts;
  facts.pod = &pod_->root();
  facts.containers = &records_;
  facts.before = &status_;
  facts.sandboxReady = sandboxReady_;
  facts.initialized = initialized_;
  facts.finished = finished_ && tornDown_;
  facts.failed = failed_;
  facts.stopped = stopped_;
  facts.podIps = podIps();
  facts.hostIps = hostIps();
  facts.startTime = startTime_;
  facts.now = loop_.wallNow();
  facts.sessions = sessions_;
  facts.abandoned = abandoned_;
  if (tornDown_) {
    facts.reason = failReason_;
    facts.message = failMessage_;
  }
  return podStatus(facts);
}

void PodWorker::publish() {
  if (over_ || quitting_ || records_.empty()) return;
  json::object fresh = computeStatus();
  if (fresh == status_) return;
  status_ = std::move(fresh);
  statusDirty_ = true;
  if (sending_ || statusOff_) {
    if (statusOff_) keepStatus();
    return;
  }
  sending_ = true;
  gate_.spawn(sendStatus(this));
}

bool PodWorker::comingUp() const {
  if (stopWanted_ || quitting_ || finished_ || volumeFailures_ > 0 || sandboxFailures_ > 0 || loop_.now() >= settledAt_)
    return false;
  bool ready = true;
  for (const ContainerRecord& record : records_) {
    if (record.state == ContainerRecord::State::kExited || !record.reason.empty() || record.attempts > 1) return false;
    if (record.kind == ContainerRecord::Kind::kApp) ready = ready && record.ready;
  }
  return !ready;
}

// A store that was brought back to an earlier state says of the pod what was true then.
void PodWorker::tellAgain() {
  if (status_.empty() || sending_ || statusDirty_ || statusOff_ || quitting_ || over_) return;
  if (pod_->resourceVersion() <= sentAt_ || tellsTheSame(object(pod_->root(), {"status"}), status_)) return;
  statusDirty_ = sending_ = true;
  gate_.spawn(sendStatus(this));
}

Task<> PodWorker::sendStatus(PodWorker* self) {
  Duration delay = std::chrono::milliseconds(200);
  while (self->statusDirty_ && !self->statusOff_ && !self->quitting_) {
    // Most pods are ready before anyone could read that they are being made: one write then tells all of it.
    while (self->comingUp()) co_await self->changed_.waitFor(self->settledAt_ - self->loop_.now());
    if (self->statusOff_ || self->quitting_) break;
    self->statusDirty_ = false;
    json::object body{{"metadata", json::object{{"uid", self->uid_}}},
                      {"status", replacing(self->status_, {"podIPs", "hostIPs"})}};
    auto sent = co_await self->context_.client.patch(dhow::object::resources::kPods, self->ns_, self->name_, "status",
                                                     client::PatchType::kStrategicMerge, std::move(body));
    self->keepStatus();
    if (sent.ok()) {
      self->sentAt_ = (*sent)->resourceVersion();
      delay = std::chrono::milliseconds(200);
      continue;
    }
    if (sent.error().is(Code::kNotFound)) break;
    if (!sent.error().is(Code::kConflict)) {
      log::warn("node", "pod {}: status not written: {}", self->describe(), sent.error().message());
    }
    self->statusDirty_ = true;
    co_await self->changed_.waitFor(delay);
    delay = std::min<Duration>(delay * 2, std::chrono::seconds(10));
  }
  self->sending_ = false;
  self->changed_.notify();
}

void PodWorker::keepStatus() {
  if (over_) return;
  auto written = makeDirs(paths_.root, 0755);
  if (written.ok()) written = writeFile(paths_.status(), json::serialize(status_), 0600);
  if (!written.ok()) log::warn("node", "pod {}: {}", describe(), written.error().message());
}

void PodWorker::keepPod() {
  podDirty_ = true;
  if (writingPod_) return;
  writingPod_ = true;
  gate_.spawn(writePod(this));
}

Task<> PodWorker::writePod(PodWorker* self) {
  while (self->podDirty_ && !self->over_) {
    self->podDirty_ = false;
    auto result = std::make_shared<Result<>>();
    ObjectPtr pod = self->pod_;
    PodPaths paths = self->paths_;
    co_await self->context_.offload.run([result, pod, paths] {
      *result = makeDirs(paths.root, 0755);
      if (result->ok()) *result = writeFileDurably(paths.pod(), pod->bytes(), 0600);
    });
    if (!result->ok()) log::warn("node", "pod {}: {}", self->describe(), result->error().message());
  }
  self->writingPod_ = false;
  self->changed_.notify();
}

void PodWorker::tellAddresses(bool has) {
  if (!context_.addressed) return;
  for (const std::string& address : withoutEmpty({address_, second_})) context_.addressed(address, ns_, has);
}

void PodWorker::releaseAddress() {
  tellAddresses(false);
  if (context_.policies != nullptr) context_.policies->release(uid_);
  context_.network.release(uid_);
}

void PodWorker::over() {
  if (over_) return;
  over_ = true;
  deadlineTimer_.cancel();
  context_.objects.use(uid_, {}, {});
  onOver_();
}

}  // namespace dhow::node
