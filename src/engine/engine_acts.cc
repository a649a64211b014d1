// What users do to a container: kill, stop, pause, rename, remove.
#include <csignal>

#include "base/files.h"
#include "base/log.h"
#include "base/time.h"
#include "create.h"
#include "engine/engine.h"
#include "errors.h"
#include "fields.h"
#include "launch.h"

namespace dhow::engine {

Task<Result<>> Engine::kill(std::string ref, std::string name) {
  CO_ASSIGN_OR_RETURN(auto container, find(ref));
  int signal = name.empty() ? SIGKILL : signalOf(name);
  if (signal == 0) co_return Error(Code::kBadRequest, "Invalid signal: " + name);
  if (!container->state.running() || !container->sandbox)
    co_return Error(Code::kConflict,
                    fmt::format("Cannot kill container: {}: container {} is not running", ref, container->id));
  if (signal == SIGKILL || signal == signalOf(text(container->config, "StopSignal"))) container->stoppedByUser = true;
  auto sandbox = container->sandbox;
  auto sent = co_await sandbox->signal(container->id, signal);
  if (!sent.ok() && !hasEnded(sent.error())) co_return sent;
  emit(*container, "kill", {{"signal", std::to_string(signal)}});
  co_return Result<>();
}

Task<Result<>> Engine::stopContainer(std::string ref, std::string name, std::optional<int64_t> seconds) {
  CO_ASSIGN_OR_RETURN(auto container, find(ref));
  if (name.empty()) name = text(container->config, "StopSignal");
  int signal = name.empty() ? SIGTERM : signalOf(name);
  if (signal == 0) co_return Error(Code::kBadRequest, "Invalid signal: " + name);
  if (!seconds) seconds = integer(container->config, "StopTimeout", 10);
  container->stoppedByUser = true;
  container->restart.cancel();
  if (container->state.status == Status::kRestarting) {
    container->state.status = Status::kExited;
    container->changed.notify();
  }
  if (!container->state.running() || !container->sandbox)
    co_return Error(Code::kFailedPrecondition, "container is not running");
  uint64_t before = container->exits;
  auto sandbox = container->sandbox;
  if (container->state.status == Status::kPaused) {
    auto resumed = co_await sandbox->resume(container->id);
    CO_RETURN_IF_ERROR(resumed);
  }
  auto sent = co_await sandbox->signal(container->id, signal);
  if (!sent.ok() && !hasEnded(sent.error())) co_return sent;
  auto deadline = loop_.now() + boundedSeconds(*seconds);
  while (container->exits == before && !container->removed) {
    auto left = deadline - loop_.now();
    bool changed = *seconds < 0 || left > Duration{};
    if (*seconds < 0)
      co_await container->changed.wait();
    else if (changed)
      changed = co_await container->changed.waitFor(left);
    if (changed) continue;
    auto killed = co_await sandbox->signal(container->id, SIGKILL, true);
    if (!killed.ok() && !hasEnded(killed.error())) co_return killed;
    while (container->exits == before && !container->removed) co_await container->changed.wait();
  }
  emit(*container, "stop");
  co_return Result<>();
}

Task<Result<>> Engine::pause(std::string ref, bool frozen) {
  CO_ASSIGN_OR_RETURN(auto container, find(ref));
  auto turn = co_await container->turn.take();
  if (!container->state.running() || !container->sandbox)
    co_return Error(Code::kConflict, fmt::format("Container {} is not running", container->id));
  bool isFrozen = container->state.status == Status::kPaused;
  if (frozen && isFrozen)
    co_return Error(Code::kConflict, fmt::format("Container {} is already paused", container->id));
  if (!frozen && !isFrozen) co_return Error(Code::kConflict, fmt::format("Container {} is not paused", container->id));
  auto done =
      frozen ? co_await container->sandbox->pause(container->id) : co_await container->sandbox->resume(container->id);
  CO_RETURN_IF_ERROR(done);
  container->state.status = frozen ? Status::kPaused : Status::kRunning;
  saveState(*container);
  container->changed.notify();
  emit(*container, frozen ? "pause" : "unpause");
  co_return Result<>();
}

Task<Result<>> Engine::rename(std::string ref, std::string name) {
  CO_ASSIGN_OR_RETURN(auto container, find(ref));
  if (name.starts_with("/")) name.erase(0, 1);
  if (!validContainerName(name))
    co_return Error(Code::kBadRequest,
                    fmt::format("Invalid container name ({}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed", name));
  if (name == container->name)
    co_return Error(Code::kBadRequest,
                    "Error when allocating new name: renaming a container with the same name as its current name");
  if (auto it = idOfName_.find(name); it != idOfName_.end())
    co_return Error(
        Code::kConflict,
        fmt::format(
            "Error when allocating new name: Conflict. The container name \"/{}\" is already in use by container "
            "\"{}\". You have to remove (or rename) that container to be able to reuse that name.",
            name, it->second));
  auto old = std::exchange(container->name, name);
  auto saved = saveRecord(*container);
  if (!saved.ok()) {
    container->name = old;
    co_return saved;
  }
  idOfName_.erase(old);
  idOfName_[name] = container->id;
  emit(*container, "rename", {{"oldName", "/" + old}});
  co_return Result<>();
}

Task<Result<>> Engine::remove(std::string ref, bool force, bool withVolumes) {
  CO_ASSIGN_OR_RETURN(auto container, find(ref));
  if (container->state.running()) {
    if (!force) {
      const char* how = container->state.status == Status::kPaused ? "paused" : "running";
      co_return Error(
          Code::kConflict,
          fmt::format(
              "cannot remove container \"/{}\": container is {}: stop the container before removing or force remove",
              container->name, how));
    }
    container->stoppedByUser = true;
    container->restart.cancel();
    uint64_t before = container->exits;
    auto sandbox = container->sandbox;
    if (sandbox) {
      auto killed = co_await sandbox->signal(container->id, SIGKILL, true);
      while (container->exits == before && !container->removed && container->state.running() && killed.ok())
        co_await container->changed.wait();
    }
  }
  auto turn = co_await container->turn.take();
  if (container->removed) co_return Result<>();
  container->restart.cancel();
  auto removed = co_await removeLocked(container, withVolumes);
  co_return removed;
}

// The caller holds the turn and the container does not run.
Task<Result<>> Engine::removeLocked(ContainerPtr container, bool withVolumes) {
  auto before = container->state.status;
  container->state.status = Status::kRemoving;
  co_await release(container);
  auto undo = [&](Error error) {
    container->state.status = before;
    return error;
  };
  auto layer = co_await images_->removeSnapshot(container->id);
  if (!layer.ok()) co_return undo(std::move(layer).error());
  auto cleared = co_await pool_.run(loop_, [&] { return removeTree(folder(*container)); });
  if (!cleared.ok()) co_return undo(std::move(cleared).error());
  if (withVolumes) {
    for (const auto& mount : container->mounts) {
      if (mount.type != "volume") continue;
      auto volume = volumes_->get(mount.name);
      if (volume.ok() && volume->anonymous) (void)volumes_->remove(mount.name);
    }
  }
  byId_.erase(container->id);
  idOfName_.erase(container->name);
  std::erase_if(execs_, [&](const auto& entry) { return entry.second->containerId == container->id; });
  container->removed = true;
  for (auto& waiting : container->waiting) waiting->streams.emplace();
  container->waiting.clear();
  container->changed.notify();
  emit(*container, "destroy");
  co_return Result<>();
}

}  // namespace dhow::engine
