// A container's probes and what their verdicts do.
#include "base/log.h"
#include "base/time.h"
#include "pod_worker.h"

namespace dhow::node {

namespace {
using State = ContainerRecord::State;
}

HandlerTarget PodWorker::targetOf(size_t i) {
  HandlerTarget target;
  target.container = specOf(i);
  target.podIp = hostNetworkOf(pod_->root()) ? context_.node.addresses.front() : address_;
  target.exec = [this, i](std::vector<std::string> command, Duration limit) {
    return execIn(this, i, std::move(command), limit);
  };
  return target;
}

Task<Result<ExecOutcome>> PodWorker::execIn(PodWorker* self, size_t i, std::vector<std::string> command,
                                            Duration limit) {
  const std::string container = self->rec(i).name;
  auto process = co_await self->processFor(container, std::move(command));
  if (!process.ok()) co_return std::move(process).error();
  if (!self->sandbox_) co_return Error(Code::kUnavailable, "the pod's sandbox is gone");
  auto outcome =
      co_await runExec(self->loop_, self->gate_, self->sandbox_, self->rec(i).id, std::move(*process), limit);
  co_return outcome;
}

std::unique_ptr<Probe> PodWorker::makeProbe(size_t i, Probe::Kind kind, TimePoint startedAt) {
  const char* name = kind == Probe::Kind::kStartup    ? "startupProbe"
                     : kind == Probe::Kind::kLiveness ? "livenessProbe"
                                                      : "readinessProbe";
  const json::value* value = field(specOf(i), {name});
  if (value == nullptr || !value->is_object()) return nullptr;
  Probe::Hooks hooks;
  hooks.verdict = [this, i, kind](bool ok, const std::string& message) { probeVerdict(i, kind, ok, message); };
  hooks.failed = [this, i, kind](const std::string& message) {
    eventFor(i, "Warning", "Unhealthy", fmt::format("{} probe failed: {}", probeName(kind), message));
  };
  auto see = [this, i, probe = value->get_object()]() { return look(context_.connector, targetOf(i), probe); };
  return std::make_unique<Probe>(loop_, gate_, kind, Probe::settingsOf(value->get_object()), startedAt, see,
                                 std::move(hooks));
}

void PodWorker::startProbes(size_t i) {
  ContainerRecord& record = rec(i);
  const TimePoint startedAt = loop_.now() - std::max<Duration>(Duration::zero(), loop_.wallNow() - record.startedAt);
  Probes& probes = probes_[i];
  if (!record.started) {
    if (!probes.startup) probes.startup = makeProbe(i, Probe::Kind::kStartup, startedAt);
    if (probes.startup) {
      probes.startup->start();
      return;
    }
    markStarted(i);
  }
  probes.liveness = makeProbe(i, Probe::Kind::kLiveness, startedAt);
  probes.readiness = makeProbe(i, Probe::Kind::kReadiness, startedAt);
  if (probes.readiness && record.ready) probes.readiness->assume(true);
  if (probes.readiness) probes.readiness->start();
  if (probes.liveness) probes.liveness->start();
}

void PodWorker::stopProbes(size_t i) {
  for (std::unique_ptr<Probe>* probe : {&probes_[i].startup, &probes_[i].liveness, &probes_[i].readiness}) {
    if (*probe) (*probe)->stop();
    probe->reset();
  }
}

void PodWorker::probeVerdict(size_t i, Probe::Kind kind, bool ok, const std::string&) {
  ContainerRecord& record = rec(i);
  if (over_ || quitting_ || record.state != State::kRunning || record.stopping) return;
  if (kind == Probe::Kind::kReadiness) {
    record.ready = ok;
    step();
    return;
  }
  if (ok) {
    if (kind == Probe::Kind::kStartup) {
      record.started = true;
      if (!client::has(specOf(i), {"readinessProbe"})) record.ready = true;
      startProbes(i);
      step();
    }
    return;
  }
  Duration grace = graceOf();
  const char* name = kind == Probe::Kind::kStartup ? "startupProbe" : "livenessProbe";
  if (auto own = number(specOf(i), {name, "terminationGracePeriodSeconds"}))
    grace = boundedSeconds(std::max<int64_t>(1, *own));
  gate_.spawn(stopContainer(this, i, grace,
                            fmt::format("Container {} failed {} probe, will be restarted", record.name,
                                        kind == Probe::Kind::kStartup ? "startup" : "liveness")));
}

}  // namespace dhow::node
