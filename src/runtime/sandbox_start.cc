// Starting containers and processes inside them, and joining their streams.
#include <fcntl.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <termios.h>
#include <unistd.h>

#include "base/log.h"
#include "base/strings.h"
#include "sandbox.h"

namespace dhow::runtime {

namespace {

uint32_t bitsOf(const StreamOptions& options) {
  return (options.in ? wire::kIn : 0u) | (options.out ? wire::kOut : 0u) | (options.err ? wire::kErr : 0u);
}

// A pipe of which the caller keeps `mine` (non-blocking) and the shim gets the other end.
Result<> addPipe(UniqueFd& mine, bool reading, bool bothNonBlocking, std::vector<UniqueFd>& theirs) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC | (bothNonBlocking ? O_NONBLOCK : 0)) != 0) return Error::fromErrno("pipe");
  mine.reset(ends[reading ? 0 : 1]);
  theirs.emplace_back(ends[reading ? 1 : 0]);
  if (!bothNonBlocking) ::fcntl(mine.get(), F_SETFL, O_NONBLOCK);
  return {};
}

// For clients of a container: the shim writes to them without ever waiting.
Result<Streams> clientStreams(const StreamOptions& options, std::vector<UniqueFd>& theirs) {
  Streams out;
  if (options.out) RETURN_IF_ERROR(addPipe(out.out, true, true, theirs));
  if (options.err) RETURN_IF_ERROR(addPipe(out.err, true, true, theirs));
  return out;
}

// For processes inside: their ends are the process' own.
Result<Streams> processStreams(const StreamOptions& options, std::vector<UniqueFd>& theirs) {
  Streams out;
  if (options.in) RETURN_IF_ERROR(addPipe(out.in, false, false, theirs));
  if (options.out) RETURN_IF_ERROR(addPipe(out.out, true, false, theirs));
  if (options.err) RETURN_IF_ERROR(addPipe(out.err, true, false, theirs));
  return out;
}

void addWarnings(const std::vector<wire::Message>& messages, const CompiledPlan& plan, std::vector<std::string>& into) {
  for (const auto& message : messages) {
    auto step = static_cast<size_t>(message.b);
    std::string name = step < plan.stepNames.size() ? plan.stepNames[step] : "a step";
    into.push_back(Error::fromErrno(static_cast<int>(message.a), name).message());
  }
}

struct Prepared {
  CompiledPlan plan;
  UniqueFd oom;  // tells of the memory killer; nothing to tell without a limit
  std::vector<std::string> warnings;
};

Result<Prepared> prepareContainer(const Cgroups& cgroups, const ContainerSpec& spec, const ContainerRecord& record,
                                  const std::string& dir, const SandboxRecord& sandbox) {
  Prepared out;
  Resources resources = spec.resources;
  for (const auto& device : spec.devices) {
    struct stat status{};
    if (::stat(device.hostPath.c_str(), &status) != 0 || (!S_ISCHR(status.st_mode) && !S_ISBLK(status.st_mode)))
      continue;
    resources.devices.push_back(
        {true, S_ISBLK(status.st_mode) ? 'b' : 'c', major(status.st_rdev), minor(status.st_rdev), device.access});
  }
  bool restrictDevices = !spec.process.privileged;
  ASSIGN_OR_RETURN(GroupEntry group, cgroups.create(record.cgroup, resources, spec.cgroupControllers, restrictDevices));
  out.warnings = group.warnings;
  ContainerContext context{dir, std::move(group), sandbox.sharedPid, sandbox.firstUser};
  auto plan = compileContainer(spec, context);
  if (!plan.ok()) {
    (void)cgroups.remove(record.cgroup).ok();
    return std::move(plan).error();
  }
  out.plan = std::move(*plan);
  out.warnings.insert(out.warnings.end(), out.plan.warnings.begin(), out.plan.warnings.end());
  auto saved = saveContainer(dir, record);
  if (!saved.ok()) {
    (void)cgroups.remove(record.cgroup).ok();
    return std::move(saved).error();
  }
  if (resources.memory) out.oom = cgroups.watchOom(record.cgroup);
  return out;
}

}  // namespace

Task<Result<Started>> SandboxImpl::start(ContainerSpec spec, std::vector<StreamOptions> attach) {
  auto self = shared_from_this();
  CO_RETURN_IF_ERROR(checkId(spec.id, "container"));
  if (!alive_ || removing_) co_return Error(Code::kUnavailable, "sandbox " + record_.id + " is gone");
  if (attach.size() > wire::kMaxAttach)
    co_return Error(Code::kTooLarge, "more than " + std::to_string(wire::kMaxAttach) + " attached clients");
  auto existing = containers_.find(spec.id);
  if (existing != containers_.end() && !existing->second->status.exit)
    co_return Error(Code::kAlreadyExists, "container " + spec.id + " is already running");
  auto record = std::make_shared<ContainerRecord>(core_.loop);
  record->status.id = spec.id;
  record->status.annotations = spec.annotations;
  record->cgroup = spec.inSandboxCgroup ? record_.cgroup : record_.cgroup + "/" + spec.id;
  containers_[spec.id] = record;
  std::string folder = dir();
  auto prepared = co_await core_.pool.run(core_.loop, [this, &spec, &record, &folder] {
    return prepareContainer(core_.cgroups, spec, *record, folder, record_);
  });
  Started started;
  std::vector<UniqueFd> fds;
  wire::Message message = request(wire::Type::kStart, spec.id);
  Result<> ready;
  if (prepared.ok())
    fds.push_back(std::move(prepared->plan.file));
  else
    ready = prepared.error();
  for (const auto& options : attach) {
    if (!ready.ok()) break;
    auto streams = clientStreams(options, fds);
    if (!streams.ok()) {
      ready = std::move(streams).error();
      break;
    }
    message.streams[message.streamCount++] = bitsOf(options);
    started.streams.push_back(std::move(*streams));
  }
  std::optional<Error> failure;
  std::vector<UniqueFd> inputs;
  if (!ready.ok()) {
    failure = ready.error();
  } else {
    auto reply = co_await link_->call(message, std::move(fds));
    if (!reply.ok()) {
      failure = reply.error();
    } else if (reply->message.error) {
      failure = planError(reply->message, prepared->plan, spec.process.args[0]);
    } else {
      started.pid = reply->message.pid;
      started.startedAt = wallTime(reply->message.startedNanos);
      started.warnings = std::move(prepared->warnings);
      addWarnings(reply->warnings, prepared->plan, started.warnings);
      inputs = std::move(reply->fds);
    }
  }
  if (failure) {
    auto current = containers_.find(spec.id);
    if (current != containers_.end() && current->second == record) containers_.erase(current);
    bool kept = prepared.ok();
    if (kept) (void)(co_await removeGroup(core_, record->cgroup)).ok();
    ::unlink(containerFile(folder, spec.id).c_str());
    co_return std::move(*failure).wrap("start container");
  }
  size_t nextInput = 0;
  for (size_t i = 0; i < attach.size() && nextInput < inputs.size(); ++i) {
    if (attach[i].in) started.streams[i].in = std::move(inputs[nextInput++]);
  }
  // It may have ended already; then the event has filled the record.
  record->starting = false;
  record->status.startedAt = started.startedAt;
  if (!record->status.exit) record->status.pid = started.pid;
  watchOom(record, std::move(prepared->oom));
  for (const auto& warning : started.warnings) log::debug("runtime", "container {}: {}", spec.id, warning);
  co_return started;
}

Task<Result<Streams>> SandboxImpl::attach(std::string containerId, StreamOptions options) {
  auto self = shared_from_this();
  CO_RETURN_IF_ERROR(findRunning(containerId));
  std::vector<UniqueFd> fds;
  auto streams = clientStreams(options, fds);
  if (!streams.ok()) co_return streams.error();
  wire::Message message = request(wire::Type::kAttach, containerId);
  message.streamCount = 1;
  message.streams[0] = bitsOf(options);
  auto reply = co_await link_->call(message, std::move(fds));
  if (!reply.ok()) co_return reply.error();
  if (reply->message.error == EAGAIN)
    co_return Error(Code::kTooManyRequests, "container " + containerId + " has too many attached clients");
  if (reply->message.error) co_return Error::fromErrno(reply->message.error, "attach to container " + containerId);
  if (!reply->fds.empty()) streams->in = std::move(reply->fds[0]);
  co_return std::move(*streams);
}

class ExecImpl final : public Exec {
 public:
  ExecImpl(std::shared_ptr<SandboxImpl> sandbox, std::shared_ptr<ExecState> state, UniqueFd master)
      : sandbox_(std::move(sandbox)), state_(std::move(state)), master_(std::move(master)) {}

  pid_t pid() const override { return state_->pid; }
  std::optional<ExitInfo> exit() const override { return state_->exit; }

  Task<Result<ExitInfo>> wait() override {
    auto state = state_;
    while (!state->exit && !state->gone) co_await state->changed.wait();
    if (!state->exit) co_return Error(Code::kUnavailable, "the shim is gone");
    co_return *state->exit;
  }

  Task<Result<>> signal(int number) override {
    auto state = state_;
    auto sandbox = sandbox_;
    if (state->exit || state->gone) co_return Error(Code::kNotFound, "the process has ended");
    auto reply = co_await sandbox->link_->call(request(wire::Type::kSignal, state->id, number), {});
    if (!reply.ok()) co_return reply.error();
    if (reply->message.error == ESRCH) co_return Error(Code::kNotFound, "the process has ended");
    if (reply->message.error) co_return Error::fromErrno(reply->message.error, "signal");
    co_return Result<>();
  }

  Result<> resize(uint16_t rows, uint16_t columns) override {
    if (!master_) return Error(Code::kFailedPrecondition, "the process has no terminal");
    winsize size{rows, columns, 0, 0};
    if (::ioctl(master_.get(), TIOCSWINSZ, &size) != 0) return Error::fromErrno("resize");
    return {};
  }

 private:
  std::shared_ptr<SandboxImpl> sandbox_;
  std::shared_ptr<ExecState> state_;
  UniqueFd master_;
};

Task<Result<std::unique_ptr<Exec>>> SandboxImpl::exec(std::string containerId, ProcessSpec process,
                                                      StreamOptions options) {
  auto self = shared_from_this();
  auto found = findRunning(containerId);
  if (!found.ok()) co_return found.error();
  auto record = std::move(*found);
  auto state = std::make_shared<ExecState>(core_.loop);
  uint64_t number = core_.loop.random();
  state->id = "exec-" + toHex(std::string_view(reinterpret_cast<const char*>(&number), sizeof number));
  std::string group = record->cgroup;
  auto plan = co_await core_.pool.run(core_.loop, [this, &process, &containerId, &state, &group] {
    return compileExec(process, containerId, state->id, core_.cgroups.entry(group), record_.firstUser);
  });
  if (!plan.ok()) co_return plan.error();
  std::vector<UniqueFd> fds;
  fds.push_back(std::move(plan->file));
  Streams streams;
  wire::Message message = request(wire::Type::kExec, state->id);
  if (!process.terminal) {
    auto made = processStreams(options, fds);
    if (!made.ok()) co_return made.error();
    streams = std::move(*made);
    message.streamCount = 1;
    message.streams[0] = bitsOf(options);
  }
  execs_[state->id] = state;
  auto reply = co_await link_->call(message, std::move(fds));
  std::optional<Error> failure;
  if (!reply.ok())
    failure = reply.error();
  else if (reply->message.error == ESRCH)
    failure = Error(Code::kFailedPrecondition, "container " + containerId + " is not running");
  else if (reply->message.error)
    failure = planError(reply->message, *plan, process.args[0]);
  if (failure) {
    execs_.erase(state->id);
    co_return std::move(*failure);
  }
  state->pid = reply->message.pid;
  UniqueFd master;
  if (process.terminal && !reply->fds.empty()) {
    master = std::move(reply->fds[0]);
    if (options.in) streams.in.reset(::fcntl(master.get(), F_DUPFD_CLOEXEC, 0));
    if (options.out) streams.out.reset(::fcntl(master.get(), F_DUPFD_CLOEXEC, 0));
  }
  auto running = std::make_unique<ExecImpl>(self, state, std::move(master));
  running->streams = std::move(streams);
  co_return std::unique_ptr<Exec>(std::move(running));
}

}  // namespace dhow::runtime
