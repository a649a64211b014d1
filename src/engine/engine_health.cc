// Health checks: a command that is run inside a container every so often, and what its exit codes say.
#include <csignal>

#include "engine/engine.h"
#include "errors.h"
#include "fields.h"
#include "http/stream.h"
#include "launch.h"

namespace dhow::engine {

using namespace std::chrono_literals;

// One run of the command.
struct HealthProbe {
  explicit HealthProbe(Loop& loop) : changed(loop) {}
  Signal changed;
  std::unique_ptr<runtime::Exec> exec;
  std::vector<std::shared_ptr<http::Stream>> streams;
  size_t open = 0;  // of the streams
  std::string output;
  bool ended = false;  // the process
  bool late = false;
  bool abandoned = false;  // the container ends, or the engine stops
};

namespace {

constexpr size_t kMaxOutput = 4096, kMaxLog = 5;
constexpr Duration kShortestPause = 1ms;

Duration spanOf(const json::object& check, std::string_view name, Duration missing) {
  auto nanos = integer(check, name);
  return nanos > 0 ? Duration(nanos) : missing;
}

// "500ms", "3s", "1.5s"
std::string shown(Duration span) {
  auto millis = std::chrono::duration_cast<std::chrono::milliseconds>(span).count();
  return millis < 1000 ? fmt::format("{}ms", millis) : fmt::format("{}s", static_cast<double>(millis) / 1000);
}

HealthPlan planOf(const Container& container) {
  const auto& check = child(container.config, "Healthcheck");
  HealthPlan plan;
  auto test = texts(check, "Test");
  if (test.size() < 2) return plan;  // none, or {"NONE"}
  plan.command.assign(test.begin() + 1, test.end());
  if (test[0] == "CMD-SHELL") {
    plan.command = texts(container.config, "Shell");
    if (plan.command.empty()) plan.command = {"/bin/sh", "-c"};
    plan.command.push_back(test[1]);
  } else if (test[0] != "CMD") {
    plan.command.clear();
  }
  plan.interval = spanOf(check, "Interval", 30s);
  plan.timeout = spanOf(check, "Timeout", 30s);
  plan.startPeriod = spanOf(check, "StartPeriod", Duration{});
  plan.startInterval = spanOf(check, "StartInterval", 5s);
  plan.retries = integer(check, "Retries");
  if (plan.retries <= 0) plan.retries = 3;
  return plan;
}

Task<> collect(std::shared_ptr<HealthProbe> probe, std::shared_ptr<http::Stream> stream) {
  char buffer[1024];
  while (true) {
    auto n = co_await stream->read(buffer);
    if (!n.ok() || *n == 0) break;
    // The rest is read over, so that the command is not held up.
    probe->output.append(buffer, std::min(*n, kMaxOutput - probe->output.size()));
  }
  --probe->open;
  probe->changed.notify();
}

Task<> awaitEnd(std::shared_ptr<HealthProbe> probe) {
  (void)(co_await probe->exec->wait()).ok();
  probe->ended = true;
  probe->changed.notify();
}

// Until the process has ended and its output is read, or the time is over.
Task<> run(Loop& loop, Gate& gate, std::shared_ptr<HealthProbe> probe, Duration timeout) {
  for (auto* fd : {&probe->exec->streams.out, &probe->exec->streams.err}) {
    if (!*fd) continue;
    probe->streams.push_back(http::adoptFd(loop, fd->release()));
    ++probe->open;
  }
  for (const auto& stream : probe->streams) gate.spawn(collect(probe, stream));
  gate.spawn(awaitEnd(probe));
  Timer limit = loop.after(timeout, [weak = std::weak_ptr(probe)] {
    auto probe = weak.lock();
    if (!probe) return;
    probe->late = true;
    probe->changed.notify();
  });
  while (!(probe->ended && probe->open == 0) && !probe->late && !probe->abandoned) co_await probe->changed.wait();
  if (!probe->ended) (void)(co_await probe->exec->signal(SIGKILL)).ok();
  for (const auto& stream : probe->streams) stream->close();
}

}  // namespace

std::string_view healthName(Health::Status status) {
  switch (status) {
    case Health::Status::kStarting: return "starting";
    case Health::Status::kHealthy: return "healthy";
    case Health::Status::kUnhealthy: break;
  }
  return "unhealthy";
}

void Engine::watchHealth(ContainerPtr container) {
  auto plan = planOf(*container);
  container->health.reset();
  if (plan.command.empty()) return;
  container->health = std::make_unique<Health>();
  container->health->plan = std::move(plan);
  scheduleProbe(container);
}

void Engine::scheduleProbe(ContainerPtr container) {
  auto& health = *container->health;
  bool young = loop_.wallNow() - container->state.startedAt < health.plan.startPeriod;
  bool starting = health.status == Health::Status::kStarting && young;
  auto pause = std::max(starting ? health.plan.startInterval : health.plan.interval, kShortestPause);
  health.next = loop_.after(pause, [this, weak = std::weak_ptr(container), exits = container->exits] {
    auto container = weak.lock();
    if (container && !stopping_) gate_.spawn(probeHealth(container, exits));
  });
}

Task<> Engine::probeHealth(ContainerPtr container, uint64_t exits) {
  auto runs = [&] {
    return !stopping_ && !container->removed && container->exits == exits && container->health &&
           container->state.running() && container->sandbox;
  };
  if (!runs()) co_return;
  if (container->state.status == Status::kPaused) {
    scheduleProbe(container);
    co_return;
  }
  Health::Probe result;
  result.start = loop_.wallNow();
  auto probe = std::make_shared<HealthProbe>(loop_);
  container->health->running = probe;
  auto timeout = container->health->plan.timeout;
  auto sandbox = container->sandbox;
  auto snapshot = images_->snapshot(container->id);
  auto process = snapshot.ok()
                     ? execSpec(*container, *snapshot, json::object{{"Cmd", toJson(container->health->plan.command)}})
                     : Result<runtime::ProcessSpec>(snapshot.error());
  if (process.ok()) {
    auto exec = co_await sandbox->exec(container->id, std::move(*process), {.out = true, .err = true});
    if (exec.ok()) {
      probe->exec = std::move(*exec);
      co_await run(loop_, gate_, probe, timeout);
      auto exit = probe->exec->exit();
      result.exitCode = probe->late || !exit ? -1 : exit->code;
      result.output = std::move(probe->output);
      if (probe->late) result.output = fmt::format("Health check exceeded timeout ({})", shown(timeout));
    } else {
      result.exitCode = -1;
      result.output = exec.error().message();
    }
  } else {
    result.exitCode = -1;
    result.output = process.error().message();
  }
  if (!runs() || probe->abandoned) co_return;
  container->health->running.reset();
  result.end = loop_.wallNow();
  judge(*container, std::move(result));
  scheduleProbe(container);
}

// As Docker judges: failures of the start period do not count, a success ends it.
void Engine::judge(Container& container, Health::Probe probe) {
  auto& health = *container.health;
  auto before = health.status;
  bool young = probe.start - container.state.startedAt < health.plan.startPeriod;
  if (probe.exitCode == 0) {
    health.failingStreak = 0;
    health.status = Health::Status::kHealthy;
  } else if (health.status != Health::Status::kStarting || !young) {
    if (++health.failingStreak >= health.plan.retries) health.status = Health::Status::kUnhealthy;
  }
  health.log.push_back(std::move(probe));
  if (health.log.size() > kMaxLog) health.log.pop_front();
  if (health.status != before) emit(container, fmt::format("health_status: {}", healthName(health.status)));
  container.changed.notify();
}

// What is known stays readable; nothing more is probed.
void Engine::endHealth(Container& container) {
  if (!container.health) return;
  container.health->next.cancel();
  if (auto probe = std::exchange(container.health->running, nullptr)) {
    probe->abandoned = true;
    probe->changed.notify();
  }
}

}  // namespace dhow::engine
