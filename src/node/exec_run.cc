#include "exec_run.h"

#include <csignal>

#include "http/stream.h"

namespace dhow::node {

namespace {

constexpr size_t kOutputLimit = 10 << 10;

struct State {
  explicit State(Loop& loop) : changed(loop) {}
  std::shared_ptr<runtime::Exec> exec;
  Signal changed;
  std::string output;
  int readers = 0;
  std::optional<Result<runtime::ExitInfo>> ended;
};

Task<> readAll(Loop& loop, std::shared_ptr<State> state, int fd) {
  auto stream = http::adoptFd(loop, fd);
  char buffer[4096];
  while (true) {
    auto count = co_await stream->read(buffer);
    if (!count.ok() || *count == 0) break;
    const size_t room = kOutputLimit - std::min(kOutputLimit, state->output.size());
    state->output.append(buffer, std::min(room, *count));
  }
  --state->readers;
  state->changed.notify();
}

Task<> awaitExit(std::shared_ptr<State> state) {
  auto exit = co_await state->exec->wait();
  state->ended.emplace(std::move(exit));
  state->changed.notify();
}

}  // namespace

Task<Result<ExecOutcome>> runExec(Loop& loop, Gate& gate, std::shared_ptr<runtime::Sandbox> sandbox,
                                  std::string containerId, runtime::ProcessSpec process, Duration limit) {
  const TimePoint deadline = loop.now() + limit;
  runtime::StreamOptions streams;
  streams.out = streams.err = true;
  auto exec = co_await sandbox->exec(std::move(containerId), std::move(process), streams);
  if (!exec.ok()) co_return std::move(exec).error();
  auto state = std::make_shared<State>(loop);
  state->exec = std::move(*exec);
  for (UniqueFd* fd : {&state->exec->streams.out, &state->exec->streams.err}) {
    if (!*fd) continue;
    ++state->readers;
    gate.spawn(readAll(loop, state, fd->release()));
  }
  gate.spawn(awaitExit(state));
  ExecOutcome out;
  while (!state->ended) {
    const Duration left = deadline - loop.now();
    if (left <= Duration::zero()) break;
    co_await state->changed.waitFor(left);
  }
  if (!state->ended) {
    out.timedOut = true;
    (void)co_await state->exec->signal(SIGKILL);
    co_return out;
  }
  if (!state->ended->ok()) co_return state->ended->error();
  out.exit = **state->ended;
  // What it wrote last may still be on its way; a child that keeps the pipe open is not waited for.
  const TimePoint patience = loop.now() + std::chrono::milliseconds(100);
  while (state->readers > 0 && loop.now() < patience) co_await state->changed.waitFor(patience - loop.now());
  out.output = state->output;
  co_return out;
}

}  // namespace dhow::node
