// A container's run: from its start to its end, and again as its restart policy says.
#include <csignal>

#include "base/log.h"
#include "create.h"
#include "engine/engine.h"
#include "errors.h"
#include "fields.h"
#include "launch.h"

namespace dhow::engine {

using namespace std::chrono_literals;

namespace {

constexpr Duration kFirstRestartDelay = 100ms;
constexpr Duration kLongestRestartDelay = 1min;
constexpr Duration kHealthyAfter = 10s;

}  // namespace

Task<Result<>> Engine::startContainer(std::string ref) {
  CO_ASSIGN_OR_RETURN(auto container, find(ref));
  auto turn = co_await container->turn.take();
  if (container->removed) co_return noSuchContainer(ref);
  if (container->state.status == Status::kPaused)
    co_return Error(Code::kConflict, "cannot start a paused container, try unpause instead");
  if (container->state.running())
    co_return Error(Code::kFailedPrecondition, "container " + container->id + " is already running");
  container->restart.cancel();
  container->restartDelay = {};
  container->stoppedByUser = false;
  auto launched = co_await launch(container);
  if (!launched.ok() && container->autoRemove()) {
    auto removed = co_await removeLocked(container, true);
    if (!removed.ok()) log::warn("engine", "remove {}: {}", container->name, removed.error().message());
  }
  co_return launched;
}

// Network, sandbox, process. A failure undoes what was done, and is kept in the container's state.
Task<Result<>> Engine::launch(ContainerPtr container) {
  auto before = container->state;
  auto done = co_await tryLaunch(container);
  auto& state = container->state;
  if (!done.ok()) {
    co_await release(container);
    const auto& error = done.error();
    state = before;
    state.status = before.startedAt == WallTime{} ? Status::kCreated : Status::kExited;
    state.error = error.message();
    state.exitCode = error.is(Code::kNotFound) ? 127 : error.is(Code::kPermissionDenied) ? 126 : 128;
    state.finishedAt = loop_.wallNow();
    ++container->failedStarts;
    for (auto& waiting : container->waiting) waiting->streams.emplace();
    container->waiting.clear();
  }
  if (!done.ok() && !container->autoRemove()) saveState(*container);
  container->changed.notify();
  if (done.ok()) emit(*container, "start");
  if (done.ok() && container->state.running()) watchHealth(container);
  co_return done;
}

// Puts the sandbox on the network that the container asked for. `netns` keeps a namespace alive until the sandbox holds
// it.
Result<> Engine::joinNetwork(Container& container, runtime::SandboxSpec& sandbox, Netns& netns) {
  auto mode = text(container.hostConfig, "NetworkMode");
  if (mode == "bridge") {
    ASSIGN_OR_RETURN(auto acquired, bridge_->acquire(container.id));
    netns = std::move(acquired.netns);
    container.network = std::move(acquired.attachment);
    sandbox.netFd = netns.fd();
  } else if (mode.starts_with("container:")) {
    ASSIGN_OR_RETURN(auto other, find(mode.substr(10)));
    if (!other->sandbox || !other->state.running())
      return Error(Code::kConflict, "cannot join network of a non running container: " + other->id);
    sandbox.net = runtime::Namespace::join(other->sandbox->netPath());
  } else if (mode != "none" && mode != "host") {
    return Error(Code::kNotFound, "failed to set up container networking: network " + mode + " not found");
  }
  return {};
}

Result<> Engine::publishPorts(Container& container) {
  if (!container.network) return {};
  ASSIGN_OR_RETURN(auto wanted, wantedPorts(container));
  if (wanted.empty()) return {};
  for (auto& port : wanted) port.containerAddress = container.network->address.address;
  auto published = nat_->publish(container.id, wanted);
  if (!published.ok())
    return Error(
        published.error().code(),
        fmt::format("failed to set up container networking: driver failed programming external connectivity on "
                    "endpoint {} ({}): {}",
                    container.name, container.id, published.error().message()));
  container.ports = std::move(*published);
  return {};
}

Task<Result<>> Engine::tryLaunch(ContainerPtr container) {
  CO_ASSIGN_OR_RETURN(auto snapshot, images_->snapshot(container->id));
  auto sandbox = sandboxSpec(*container);
  Netns netns;
  CO_RETURN_IF_ERROR(joinNetwork(*container, sandbox, netns));
  CO_RETURN_IF_ERROR(publishPorts(*container));
  // What a later engine needs to take it over is kept before anything runs.
  State running;
  running.status = Status::kRunning;
  running.startedAt = loop_.wallNow();
  auto spec = co_await pool_.run(loop_, [&]() -> Result<runtime::ContainerSpec> {
    RETURN_IF_ERROR(writeState(*container, running));
    return containerSpec(*container, snapshot, {folder(*container), logPath(*container)});
  });
  CO_RETURN_IF_ERROR(spec);
  auto made = co_await runtime_->createSandbox(std::move(sandbox));
  CO_RETURN_IF_ERROR(made);
  container->sandbox = *made;
  std::vector<runtime::StreamOptions> attach;
  auto clients = std::exchange(container->waiting, {});
  for (const auto& client : clients) attach.push_back(client->options);
  // Set before the start: the exit of a short process may be reported before start() returns.
  container->state = {};
  container->state.status = Status::kRunning;
  auto started = co_await container->sandbox->start(std::move(*spec), std::move(attach));
  if (!started.ok()) {
    container->waiting.insert(container->waiting.end(), clients.begin(), clients.end());
    co_return std::move(started).error();
  }
  container->state.pid = started->pid;
  container->state.startedAt = started->startedAt;
  for (size_t i = 0; i < clients.size(); ++i) clients[i]->streams = std::move(started->streams[i]);
  for (const auto& warning : started->warnings) log::warn("engine", "container {}: {}", container->name, warning);
  co_return Result<>();
}

// Takes away what a run needed: ports, network, sandbox. What fails is logged; the next start of the engine tries
// again.
Task<> Engine::release(ContainerPtr container) {
  endHealth(*container);
  auto unpublished = nat_->unpublish(container->id);
  if (!unpublished.ok()) log::warn("engine", "ports of {}: {}", container->name, unpublished.error().message());
  container->ports.clear();
  if (auto sandbox = std::exchange(container->sandbox, nullptr)) {
    auto removed = co_await sandbox->remove();
    if (!removed.ok()) log::warn("engine", "sandbox of {}: {}", container->name, removed.error().message());
  }
  if (container->network) bridge_->detach(container->id);
  container->network.reset();
  container->state.pid = 0;
}

void Engine::onRuntimeEvent(const runtime::Event& event) {
  auto it = byId_.find(event.sandboxId);
  if (it == byId_.end()) return;
  auto& container = it->second;
  if (event.kind == runtime::Event::Kind::kOom) {
    container->state.oomKilled = true;
    emit(*container, "oom");
    return;
  }
  runtime::ExitInfo exit = event.exit;
  if (event.kind == runtime::Event::Kind::kShimGone) exit = {137, SIGKILL, false, loop_.wallNow()};
  gate_.spawn(afterExit(container, exit));
}

Task<> Engine::afterExit(ContainerPtr container, runtime::ExitInfo exit) {
  auto turn = co_await container->turn.take();
  if (container->removed || !container->state.running()) co_return;
  auto& state = container->state;
  state.status = Status::kExited;
  state.exitCode = exit.code;
  state.oomKilled = state.oomKilled || exit.oom;
  state.finishedAt = exit.time;

  const auto& policy = child(container->hostConfig, "RestartPolicy");
  auto name = text(policy, "Name");
  auto most = integer(policy, "MaximumRetryCount");
  bool again = !stopping_ && !container->stoppedByUser &&
               (name == "always" || name == "unless-stopped" ||
                (name == "on-failure" && exit.code != 0 && (most == 0 || container->restartCount < most)));
  if (again) {
    bool healthy = state.finishedAt - state.startedAt >= kHealthyAfter;
    container->restartDelay = healthy || container->restartDelay == Duration{}
                                  ? kFirstRestartDelay
                                  : std::min(container->restartDelay * 2, kLongestRestartDelay);
    state.status = Status::kRestarting;
    container->restart = loop_.after(container->restartDelay, [this, weak = std::weak_ptr(container)] {
      if (auto container = weak.lock()) gate_.spawn(launchAgain(container));
    });
  }
  // The exit is kept before the runtime, which knows it too, forgets it.
  if (!container->autoRemove() || again) saveState(*container);
  co_await release(container);
  emit(*container, "die", {{"exitCode", std::to_string(exit.code)}});
  ++container->exits;
  container->changed.notify();
  if (container->autoRemove() && !again) {
    auto removed = co_await removeLocked(container, true);
    if (!removed.ok()) log::warn("engine", "remove {}: {}", container->name, removed.error().message());
  }
}

Task<> Engine::launchAgain(ContainerPtr container) {
  auto turn = co_await container->turn.take();
  if (container->removed || container->state.status != Status::kRestarting) co_return;
  ++container->restartCount;
  auto launched = co_await launch(container);
  if (!launched.ok()) log::warn("engine", "restart {}: {}", container->name, launched.error().message());
}

}  // namespace dhow::engine
