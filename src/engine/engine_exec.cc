// Clients beside a container's first process: attached ones, and processes run by exec.
#include <csignal>

#include "base/digest.h"
#include "engine/engine.h"
#include "errors.h"
#include "fields.h"
#include "launch.h"

namespace dhow::engine {

namespace {

constexpr size_t kExecsKept = 1024;

}  // namespace

Task<Result<runtime::Streams>> Engine::attach(ContainerPtr container, runtime::StreamOptions streams) {
  if (container->state.running() && container->sandbox) {
    auto sandbox = container->sandbox;
    auto attached = co_await sandbox->attach(container->id, streams);
    co_return attached;
  }
  auto waiting = std::make_shared<Container::Waiting>();
  waiting->options = streams;
  container->waiting.push_back(waiting);
  while (!waiting->streams && !container->removed) co_await container->changed.wait();
  if (!waiting->streams) co_return runtime::Streams();
  co_return std::move(*waiting->streams);
}

Task<Result<ExecPtr>> Engine::createExec(std::string ref, json::object config) {
  CO_ASSIGN_OR_RETURN(auto container, find(ref));
  if (container->state.status == Status::kPaused)
    co_return Error(Code::kConflict,
                    fmt::format("container {} is paused, unpause the container before exec", container->id));
  if (!container->state.running())
    co_return Error(Code::kConflict, fmt::format("container {} is not running", container->id));
  if (texts(config, "Cmd").empty()) co_return Error(Code::kBadRequest, "No exec command specified");
  // Records of ended processes are for their clients' last question; a bound keeps them from growing without end.
  if (execs_.size() >= kExecsKept)
    std::erase_if(execs_, [](const auto& entry) { return entry.second->exit.has_value(); });
  auto session = std::make_shared<ExecSession>();
  session->id = randomHex(64);
  session->containerId = container->id;
  session->config = std::move(config);
  execs_[session->id] = session;
  co_return session;
}

Result<ExecPtr> Engine::findExec(std::string_view id) const {
  auto it = execs_.find(std::string(id));
  if (it == execs_.end()) return Error(Code::kNotFound, fmt::format("No such exec instance: {}", id));
  return it->second;
}

namespace {
Task<> awaitExec(ExecPtr session) {
  auto exit = co_await session->exec->wait();
  session->exit = exit.ok() ? *exit : runtime::ExitInfo{137, SIGKILL, false, {}};
}
}  // namespace

Task<Result<>> Engine::startExec(ExecPtr session, runtime::StreamOptions streams, uint16_t rows, uint16_t columns) {
  if (session->started) co_return Error(Code::kConflict, "exec " + session->id + " has already run");
  CO_ASSIGN_OR_RETURN(auto container, find(session->containerId));
  if (!container->state.running() || !container->sandbox)
    co_return Error(Code::kConflict, fmt::format("container {} is not running", container->id));
  CO_ASSIGN_OR_RETURN(auto snapshot, images_->snapshot(container->id));
  CO_ASSIGN_OR_RETURN(auto process, execSpec(*container, snapshot, session->config));
  process.rows = rows;
  process.columns = columns;
  auto sandbox = container->sandbox;
  session->started = true;
  auto exec = co_await sandbox->exec(container->id, std::move(process), streams);
  if (!exec.ok()) {
    session->exit = runtime::ExitInfo{exec.error().is(Code::kNotFound) ? 127 : 126, 0, false, loop_.wallNow()};
    co_return std::move(exec).error();
  }
  session->exec = std::move(*exec);
  gate_.spawn(awaitExec(session));
  co_return Result<>();
}

}  // namespace dhow::engine
