// Bringing one container to life, and what follows its end.
#include <cstdio>

#include "base/digest.h"
#include "base/files.h"
#include "base/log.h"
#include "base/strings.h"
#include "pod_worker.h"
#include "runtime/log_reader.h"

namespace dhow::node {

namespace {

using State = ContainerRecord::State;

constexpr size_t kMessageLimit = 4096;
constexpr size_t kMessageFromLog = 2048;
constexpr uint64_t kMessageLines = 80;

image::PullPolicy policyOf(const json::object& container) {
  std::string_view policy = text(container, "imagePullPolicy");
  if (policy == "Always") return image::PullPolicy::kAlways;
  if (policy == "Never") return image::PullPolicy::kNever;
  if (policy == "IfNotPresent") return image::PullPolicy::kIfNotPresent;
  auto reference = image::Reference::parse(text(container, "image"));
  const bool latest =
      reference.ok() && reference->digest.empty() && (reference->tag.empty() || reference->tag == "latest");
  return latest ? image::PullPolicy::kAlways : image::PullPolicy::kIfNotPresent;
}

// "1.234s", "12ms": as Go prints durations.
std::string durationText(Duration duration) {
  const auto micros = std::chrono::duration_cast<std::chrono::microseconds>(duration).count();
  if (micros < 1000) return fmt::format("{}µs", micros);
  if (micros < 1000000) return fmt::format("{}ms", (micros + 500) / 1000);
  return fmt::format("{:.3f}s", static_cast<double>(micros) / 1e6);
}

}  // namespace

void PodWorker::failWaiting(size_t i, std::string reason, std::string message) {
  ContainerRecord& record = rec(i);
  record.state = State::kWaiting;
  record.reason = std::move(reason);
  record.message = std::move(message);
  record.failedAt = loop_.now();
}

Task<image::ImagePtr> PodWorker::fetchImage(size_t i) {
  const json::object container = specOf(i);
  const std::string reference(text(container, "image"));
  const image::PullPolicy policy = policyOf(container);
  const bool present = context_.images.present(reference);
  if (policy == image::PullPolicy::kNever && !present) {
    const std::string message =
        fmt::format("Container image \"{}\" is not present with pull policy of Never", reference);
    eventFor(i, "Warning", "ErrImageNeverPull", message);
    failWaiting(i, "ErrImageNeverPull", message);
    rec(i).pullFailed = true;
    rec(i).pulls.next(loop_.now());
    co_return nullptr;
  }
  image::Keyring secrets;
  for (const json::value& entry : array(podSpec(), {"imagePullSecrets"})) {
    if (!entry.is_object()) continue;
    ObjectPtr secret = context_.objects.find({"secrets", ns_, std::string(text(entry.get_object(), "name"))});
    if (!secret) continue;
    for (std::string_view key : {".dockerconfigjson", ".dockercfg"}) {
      auto config = entryOf(*secret, key);
      if (config && !secrets.addDockerConfig(*config).ok())
        log::warn("node", "pod {}: secret {} cannot be read", describe(), secret->name());
    }
  }
  const bool pull = policy == image::PullPolicy::kAlways || !present;
  if (pull) eventFor(i, "Normal", "Pulling", fmt::format("Pulling image \"{}\"", reference));
  const TimePoint began = loop_.now();
  auto image = co_await context_.images.ensure(reference, policy, std::move(secrets));
  if (quitting_) co_return nullptr;
  if (!image.ok()) {
    const bool bad = image.error().is(Code::kBadRequest) && !image::Reference::parse(reference).ok();
    if (bad) {
      const std::string message = fmt::format("Failed to apply default image tag \"{}\": couldn't parse image name: {}",
                                              reference, image.error().message());
      eventFor(i, "Warning", "InspectFailed", message);
      failWaiting(i, "InvalidImageName", message);
    } else {
      eventFor(i, "Warning", "Failed",
               fmt::format("Failed to pull image \"{}\": {}", reference, image.error().message()));
      eventFor(i, "Warning", "Failed", "Error: ErrImagePull");
      failWaiting(i, "ErrImagePull", image.error().message());
    }
    rec(i).pullFailed = true;
    rec(i).pulls.next(loop_.now());
    co_return nullptr;
  }
  rec(i).pullFailed = false;
  rec(i).pulls.reset();
  if (pull) {
    const std::string took = durationText(loop_.now() - began);
    eventFor(i, "Normal", "Pulled",
             fmt::format("Successfully pulled image \"{}\" in {} ({} including waiting). Image size: {} bytes.",
                         reference, took, took, (*image)->contentSize));
  } else {
    eventFor(i, "Normal", "Pulled", fmt::format("Container image \"{}\" already present on machine", reference));
  }
  rec(i).imageId = (*image)->repoDigests.empty() ? (*image)->id : (*image)->repoDigests.front();
  co_return std::move(*image);
}

Task<bool> PodWorker::untilSetUp(size_t i) {
  while (!leaving() && !(sandboxReady_ && volumesReady_)) co_await changed_.wait();
  if (!leaving()) co_return true;
  // Given up on the way: its last end is its present one again.
  ContainerRecord& record = rec(i);
  record.state = record.last ? State::kExited : State::kWaiting;
  if (record.last) record.ended = std::exchange(record.last, std::nullopt);
  co_return false;
}

Task<> PodWorker::startOne(PodWorker* self, size_t i) {
  {
    ContainerRecord& record = self->rec(i);
    if (record.ended) record.last = std::exchange(record.ended, std::nullopt);
    record.replaced = false;
    record.ready = record.started = record.hookDone = false;
    // What it waits for is told until it is known to be otherwise; a crash loop is over now.
    if (record.reason == "CrashLoopBackOff") {
      record.reason.clear();
      record.message.clear();
    }
  }
  image::ImagePtr image = co_await self->fetchImage(i);
  if (image) {
    // The container's files are made ready while the sandbox and the volumes are.
    const std::string id = randomHex(64);
    ++self->busy_;
    auto snapshot = co_await self->context_.images.prepare(image->id, id);
    --self->busy_;
    self->changed_.notify();
    const bool go = co_await self->untilSetUp(i);
    if (go) {
      co_await self->launch(i, std::move(image), id, std::move(snapshot));
    } else if (snapshot.ok()) {
      ++self->busy_;
      (void)co_await self->context_.images.removeSnapshot(id);
      --self->busy_;
    }
  }
  ContainerRecord& record = self->rec(i);
  if (record.state == State::kStarting) record.state = State::kWaiting;
  self->changed_.notify();
  self->step();
}

Task<> PodWorker::launch(size_t i, image::ImagePtr image, std::string id, Result<image::Snapshot> snapshot) {
  ++busy_;
  const std::shared_ptr<runtime::Sandbox> sandbox = sandbox_;
  const json::object container = specOf(i);
  if (!snapshot.ok()) {
    --busy_;
    const Error& error = snapshot.error();
    eventFor(i, "Warning", "Failed", "Error: " + error.message());
    failWaiting(i, "CreateContainerError", error.message());
    rec(i).pullFailed = true;
    rec(i).pulls.next(loop_.now());
    co_return;
  }
  FieldContext fields = fieldContext();
  ContainerInputs inputs;
  inputs.pod = &pod_->root();
  inputs.container = &container;
  inputs.node = &context_.node;
  inputs.paths = &paths_;
  inputs.fields = &fields;
  inputs.image = image.get();
  inputs.snapshot = *snapshot;
  inputs.id = id;
  inputs.attempt = rec(i).attempts;
  Result<ContainerBuild> build = Error(Code::kInternal, "");
  auto made = makeDirs(paths_.container(rec(i).name), 0755);
  if (made.ok()) {
    build = buildContainer(inputs);
  } else {
    build = made.error();
  }
  if (!build.ok() && !build.error().is(Code::kNotFound)) {
    (void)co_await context_.images.removeSnapshot(id);
    --busy_;
    const Error& error = build.error();
    eventFor(i, "Warning", "Failed", "Error: " + error.message());
    failWaiting(i, error.is(Code::kFailedPrecondition) ? "CreateContainerConfigError" : "CreateContainerError",
                error.message());
    rec(i).configFailed = error.is(Code::kFailedPrecondition);
    rec(i).pullFailed = !rec(i).configFailed;
    rec(i).pulls.next(loop_.now());
    co_return;
  }
  rec(i).id = id;
  if (++rec(i).attempts > 1) rec(i).restarts.next(loop_.now());
  Result<runtime::Started> started = Error(Code::kNotFound, "no command specified");
  if (build.ok()) {
    stopSignals_[i] = build->stopSignal;
    processes_[i] = std::make_shared<runtime::ProcessSpec>(build->spec.process);
    eventFor(i, "Normal", "Created", "Created container: " + rec(i).name);
    started = co_await sandbox->start(std::move(build->spec));
  }
  --busy_;
  if (!started.ok()) {
    (void)co_await context_.images.removeSnapshot(id);
    startFailed(i, started.error());
    co_return;
  }
  dropOldLogs(i);
  running(i, *started);
}

void PodWorker::startFailed(size_t i, const Error& error) {
  ContainerRecord& record = rec(i);
  eventFor(i, "Warning", "Failed", "Error: " + error.message());
  Terminated end;
  end.code = 128;
  end.reason = "StartError";
  end.message = error.message();
  end.startedAt = WallTime();
  end.finishedAt = loop_.wallNow();
  end.containerId = record.id;
  record.state = State::kExited;
  record.ended = std::move(end);
  record.reason = "RunContainerError";
  record.message = error.message();
  record.failedAt = loop_.now();
  record.restarts.settle(record.failedAt);
}

void PodWorker::running(size_t i, const runtime::Started& started) {
  ContainerRecord& record = rec(i);
  record.state = State::kRunning;
  record.startedAt = started.startedAt;
  record.reason.clear();
  record.message.clear();
  eventFor(i, "Normal", "Started", "Started container " + record.name);
  for (const std::string& warning : started.warnings)
    log::warn("node", "pod {} container {}: {}", describe(), record.name, warning);
  for (const auto& [id, exit] : std::exchange(earlyExits_, {})) {
    if (id == record.id) {
      ended(i, exit);
    } else {
      earlyExits_.emplace_back(id, exit);
    }
  }
  if (record.state != State::kRunning) return;
  if (client::has(specOf(i), {"lifecycle", "postStart"})) {
    gate_.spawn(postStart(this, i, record.attempts));
  } else {
    record.hookDone = true;
    startProbes(i);
  }
}

Task<> PodWorker::postStart(PodWorker* self, size_t i, int64_t attempt) {
  const json::object hook = object(self->specOf(i), {"lifecycle", "postStart"});
  auto done = co_await runHook(self->loop_, self->context_.connector, self->targetOf(i), hook, std::chrono::hours(24));
  ContainerRecord& record = self->rec(i);
  if (self->quitting_ || record.attempts != attempt || record.state != State::kRunning || record.stopping) co_return;
  if (!done.ok()) {
    self->eventFor(i, "Warning", "FailedPostStartHook", "PostStartHook failed: " + done.error().message());
    self->gate_.spawn(stopContainer(self, i, self->graceOf(), "FailedPostStartHook"));
    co_return;
  }
  record.hookDone = true;
  self->startProbes(i);
  self->step();
}

void PodWorker::markStarted(size_t i) {
  rec(i).started = true;
  if (!client::has(specOf(i), {"readinessProbe"})) rec(i).ready = true;
}

std::string PodWorker::terminationMessage(size_t i, bool failed) const {
  const ContainerRecord& record = records_[i];
  const std::string path = paths_.terminationMessage(record.name, record.attempts - 1);
  std::string message;
  if (std::FILE* file = std::fopen(path.c_str(), "re")) {
    message.resize(kMessageLimit);
    message.resize(std::fread(message.data(), 1, kMessageLimit, file));
    std::fclose(file);
  }
  if (!message.empty() || !failed || text(specOf(i), "terminationMessagePolicy") != "FallbackToLogsOnError")
    return message;
  auto reader =
      runtime::LogReader::open(loop_, {paths_.log(record.name, record.attempts - 1), false, kMessageLines, {}, {}});
  if (!reader.ok()) return message;
  while (true) {
    auto entry = (*reader)->tryNext();
    if (!entry.ok() || !*entry) break;
    message += (*entry)->text;
    if (!(*entry)->partial) message += '\n';
  }
  if (message.size() > kMessageFromLog) message.erase(0, message.size() - kMessageFromLog);
  return message;
}

void PodWorker::ended(size_t i, const runtime::ExitInfo& exit) {
  ContainerRecord& record = rec(i);
  stopProbes(i);
  Terminated end;
  end.code = exit.code;
  end.signal = exit.signal;
  end.reason = exit.oom ? "OOMKilled" : exit.code == 0 ? "Completed" : "Error";
  end.message = terminationMessage(i, exit.code != 0);
  end.startedAt = record.startedAt;
  end.finishedAt = exit.time;
  end.containerId = record.id;
  record.state = State::kExited;
  record.ended = std::move(end);
  record.reason.clear();
  record.message.clear();
  record.ready = record.started = record.stopping = false;
  record.failedAt = loop_.now();
  record.restarts.settle(record.failedAt);
  processes_[i].reset();
  if (context_.ended) context_.ended(record.id);
  if (sandbox_) gate_.spawn(forget(this, sandbox_, record.id));
}

void PodWorker::onExit(const std::string& containerId, const runtime::ExitInfo& exit) {
  if (over_) return;
  for (size_t i = 0; i < records_.size(); ++i) {
    if (rec(i).id != containerId) continue;
    if (rec(i).state == State::kStarting) {
      earlyExits_.emplace_back(containerId, exit);
      return;
    }
    if (rec(i).state != State::kRunning) return;
    ended(i, exit);
    changed_.notify();
    step();
    return;
  }
}

Task<> PodWorker::forget(PodWorker* self, std::shared_ptr<runtime::Sandbox> sandbox, std::string containerId) {
  // On disk first: after this the runtime no longer tells how it ended.
  self->publish();
  self->keepStatus();
  ++self->busy_;
  auto removed = co_await sandbox->removeContainer(containerId);
  if (removed.ok()) removed = co_await self->context_.images.removeSnapshot(containerId);
  --self->busy_;
  self->changed_.notify();
  if (!removed.ok() && sandbox->alive()) log::warn("node", "pod {}: {}", self->describe(), removed.error().message());
}

void PodWorker::dropOldLogs(size_t i) {
  const int64_t old = rec(i).attempts - 3;
  if (old < 0) return;
  const std::string folder = paths_.container(rec(i).name);
  auto names = listDir(folder);
  if (!names.ok()) return;
  for (const std::string& name : *names) {
    auto attempt = parseInt(name.substr(0, name.find('.')));
    if (attempt && *attempt <= old) std::remove((folder + "/" + name).c_str());
  }
}

Task<Result<runtime::ProcessSpec>> PodWorker::processFor(std::string container, std::vector<std::string> command) {
  auto i = indexOf(container);
  if (!i) co_return Error(Code::kNotFound, fmt::format("container {} is not valid for pod {}", container, name_));
  if (rec(*i).state != State::kRunning)
    co_return Error(Code::kConflict, fmt::format("container {} is not running", container));
  if (processes_[*i]) {
    runtime::ProcessSpec process = *processes_[*i];
    process.args = std::move(command);
    process.terminal = false;
    co_return process;
  }
  // Started by an earlier agent: made again from the documents.
  const json::object spec = specOf(*i);
  const std::string id = rec(*i).id;
  auto image = co_await context_.images.ensure(std::string(text(spec, "image")), image::PullPolicy::kNever, {});
  if (!image.ok()) co_return std::move(image).error();
  auto snapshot = co_await context_.images.prepare((*image)->id, id);
  if (!snapshot.ok()) co_return std::move(snapshot).error();
  FieldContext fields = fieldContext();
  ContainerInputs inputs;
  inputs.pod = &pod_->root();
  inputs.container = &spec;
  inputs.node = &context_.node;
  inputs.paths = &paths_;
  inputs.fields = &fields;
  inputs.image = image->get();
  inputs.snapshot = *snapshot;
  co_return buildProcess(inputs, std::move(command));
}

}  // namespace dhow::node
