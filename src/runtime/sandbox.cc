#include "sandbox.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>

#include "base/log.h"
#include "base/version.h"

namespace dhow::runtime {

using namespace std::chrono_literals;

WallTime wallTime(int64_t nanos) {
  return WallTime(Duration(nanos));
}

ExitInfo exitOf(const wire::Message& message) {
  ExitInfo out;
  out.signal = WIFSIGNALED(message.status) ? WTERMSIG(message.status) : 0;
  out.code = out.signal ? 128 + out.signal : WEXITSTATUS(message.status);
  out.oom = message.oom != 0;
  out.time = wallTime(message.exitedNanos);
  return out;
}

wire::Message request(wire::Type type, const std::string& id, int64_t a, int64_t b) {
  wire::Message message{};
  message.type = type;
  message.a = a;
  message.b = b;
  id.copy(message.id, wire::kMaxId);
  return message;
}

Error planError(const wire::Message& message, const CompiledPlan& plan, const std::string& command) {
  if (message.step == plan.execStep) {
    bool plain = command.find('/') == std::string::npos;
    if (message.error == ENOENT && plain)
      return Error(Code::kNotFound, "exec: \"" + command + "\": executable file not found in $PATH", ENOENT);
    // Clients look for these two texts, in lower case, to tell 126 from 127.
    if (message.error == ENOENT)
      return Error(Code::kNotFound, "exec: \"" + command + "\": stat " + command + ": no such file or directory",
                   ENOENT);
    if (message.error == EACCES)
      return Error(Code::kPermissionDenied, "exec: \"" + command + "\": permission denied", EACCES);
    return Error::fromErrno(message.error, "exec: \"" + command + "\"");
  }
  if (message.step < plan.stepNames.size()) return Error::fromErrno(message.error, plan.stepNames[message.step]);
  if (message.error == EPROTO)
    return Error(Code::kFailedPrecondition,
                 "the sandbox's shim is of an older version, which cannot do this; a new sandbox can", EPROTO);
  if (message.error == EINTR)
    return Error(Code::kInternal, "the process was killed before it could run its command", EINTR);
  return Error::fromErrno(message.error, "shim");
}

// Not the one that was free last: whatever of it may have stayed somewhere is nobody's for a while.
Result<uint32_t> UserRanges::take() {
  for (uint32_t tried = 0; tried < count_; ++tried) {
    uint32_t range = first_ + next_;
    next_ = (next_ + 1) % count_;
    if (taken_.insert(range).second) return range * kUsersPerSandbox;
  }
  return Error(Code::kTooManyRequests, "could not find an empty slot to allocate a user namespace");
}

Task<Result<>> removeGroup(Core& core, std::string path) {
  Duration pause = 1ms;
  for (int attempt = 0;; ++attempt) {
    auto removed = co_await core.pool.run(core.loop, [&core, &path] { return core.cgroups.remove(path); });
    if (removed.ok() || !removed.error().is(Code::kConflict) || attempt >= 12) co_return removed;
    // Somebody still lives there, or is just about to be buried. The kernel tells version 1 groups nothing.
    co_await core.pool.run(core.loop, [&core, &path] { (void)core.cgroups.kill(path).ok(); });
    co_await core.loop.sleep(pause);
    pause = std::min<Duration>(pause * 2, 500ms);
  }
}

SandboxImpl::SandboxImpl(Core& core, SandboxRecord record, UniqueFd socket)
    : core_(core), record_(std::move(record)), link_(std::make_shared<ShimLink>(core.loop, std::move(socket))) {}

void SandboxImpl::begin(UniqueFd pidfd, pid_t pid) {
  shimPid_ = pid;
  auto weak = weak_from_this();
  link_->start(
      [weak](const wire::Message& message) {
        if (auto self = weak.lock()) self->received(message);
      },
      [weak] {
        if (auto self = weak.lock()) self->linkEnded();
      });
  if (!pidfd) return;
  watch_ = std::make_unique<ProcessWatch>(core_.loop, std::move(pidfd), [weak] {
    if (auto self = weak.lock()) self->shimGone();
  });
}

void SandboxImpl::detach() {
  detached_ = true;
  if (watch_) watch_->cancel();
  for (auto& [id, record] : containers_) record->changed.notify();
  for (auto& [id, state] : std::exchange(execs_, {})) {
    state->gone = true;
    state->changed.notify();
  }
  link_->close();
}

Task<Result<>> SandboxImpl::recover() {
  auto self = shared_from_this();
  auto reply = co_await link_->call(request(wire::Type::kHello, "", wire::kMagic, wire::kProtocol), {});
  if (!reply.ok()) co_return reply.error();
  const auto speaks = static_cast<uint32_t>(reply->message.status);
  if (reply->message.error == EPROTO || (!reply->message.error && speaks < wire::kOldestProtocol))
    co_return Error(Code::kFailedPrecondition,
                    fmt::format("the shim of sandbox {} and this program (dhow {}, protocol {}) are too far apart to "
                                "understand each other; the versions between them do",
                                record_.id, thisProgram().version.text(), wire::kProtocol));
  if (reply->message.error) co_return Error::fromErrno(reply->message.error, "greet the shim");
  shimPid_ = reply->message.pid;
  if (watch_) co_return Result<>();
  UniqueFd pidfd(static_cast<int>(::syscall(SYS_pidfd_open, shimPid_, 0)));
  if (!pidfd) co_return Error::fromErrno("open the shim's process");
  watch_ = std::make_unique<ProcessWatch>(core_.loop, std::move(pidfd), [weak = weak_from_this()] {
    if (auto alive = weak.lock()) alive->shimGone();
  });
  co_return Result<>();
}

void SandboxImpl::received(const wire::Message& message) {
  std::string id = message.id;
  if (message.type == wire::Type::kExited) return exited(message);
  if (message.type != wire::Type::kRecord) return;
  auto& record = containers_[id];
  if (!record) record = std::make_shared<ContainerRecord>(core_.loop);
  record->starting = false;
  if (record->status.id.empty() && !loadContainer(dir(), id, *record).ok()) {
    record->status.id = id;
    record->cgroup = record_.cgroup + "/" + id;
  }
  record->status.startedAt = wallTime(message.startedNanos);
  record->status.pid = message.exitedNanos ? 0 : message.pid;
  record->status.state = message.exitedNanos ? ContainerState::kExited : ContainerState::kRunning;
  bool news = message.exitedNanos && !record->status.exit;
  if (news) record->status.exit = exitOf(message);
  if (news) record->changed.notify();
  if (!record->oom) watchOom(record, core_.cgroups.watchOom(record->cgroup));
}

void SandboxImpl::exited(const wire::Message& message) {
  std::string id = message.id;
  auto run = execs_.find(id);
  if (run != execs_.end()) {
    auto state = run->second;
    execs_.erase(run);
    state->exit = exitOf(message);
    state->changed.notify();
    return;
  }
  auto found = containers_.find(id);
  if (found == containers_.end()) return;
  auto record = found->second;
  record->starting = false;
  record->status.pid = 0;
  record->status.state = ContainerState::kExited;
  record->status.startedAt = wallTime(message.startedNanos);
  record->status.exit = exitOf(message);
  record->changed.notify();
  Event event{Event::Kind::kExited, record_.id, id, *record->status.exit};
  record->oom.reset();
  // Without a watch, or faster than it, the exit is what tells.
  if (event.exit.oom && !record->oomTold) core_.emit({Event::Kind::kOom, record_.id, id, event.exit});
  core_.emit(event);
}

void SandboxImpl::oomHappened(const std::shared_ptr<ContainerRecord>& record) {
  if (record->status.exit || removing_ || detached_) return;
  if (!core_.cgroups.oomStruck(record->cgroup, record->oomKills)) return;
  record->oomKills = core_.cgroups.oomKills(record->cgroup);
  record->oomTold = true;
  core_.emit({Event::Kind::kOom, record_.id, record->status.id, {}});
}

void SandboxImpl::watchOom(const std::shared_ptr<ContainerRecord>& record, UniqueFd fd) {
  if (!fd || record->status.exit) return;
  record->oomKills = core_.cgroups.oomKills(record->cgroup);
  record->oom =
      std::make_unique<OomWatch>(core_.loop, std::move(fd), [self = weak_from_this(), which = std::weak_ptr(record)] {
        auto sandbox = self.lock();
        auto record = which.lock();
        if (sandbox && record) sandbox->oomHappened(record);
      });
}

// The connection alone may be lost (a shim drops a daemon that does not read); then it is made again.
void SandboxImpl::linkEnded() {
  if (removing_ || detached_ || !alive_) return;
  auto socket = connectAt(dir());
  if (!socket.ok()) {
    if (!watch_) shimGone();
    return;
  }
  link_ = std::make_shared<ShimLink>(core_.loop, std::move(*socket));
  auto weak = weak_from_this();
  link_->start(
      [weak](const wire::Message& message) {
        if (auto self = weak.lock()) self->received(message);
      },
      [weak] {
        if (auto self = weak.lock()) self->linkEnded();
      });
  spawn(core_.loop, [](std::shared_ptr<SandboxImpl> self) -> Task<> {
    auto recovered = co_await self->recover();
    if (!recovered.ok()) log::warn("runtime", "sandbox {}: {}", self->id(), recovered.error().message());
  }(shared_from_this()));
}

void SandboxImpl::shimGone() {
  if (!alive_) return;
  alive_ = false;
  link_->close();
  for (auto& [id, state] : std::exchange(execs_, {})) {
    state->gone = true;
    state->changed.notify();
  }
  for (auto& [id, record] : containers_) record->changed.notify();
  if (removing_ || detached_) return;
  log::warn("runtime", "sandbox {}: the shim (process {}) died; its containers are killed", record_.id, shimPid_);
  spawn(core_.loop,
        [](std::shared_ptr<SandboxImpl> self) -> Task<> { co_await self->cleanAfterShim(); }(shared_from_this()));
}

Task<> SandboxImpl::cleanAfterShim() {
  auto self = shared_from_this();
  co_await core_.pool.run(core_.loop, [this] { (void)core_.cgroups.kill(record_.cgroup).ok(); });
  if (!detached_) core_.emit({Event::Kind::kShimGone, record_.id, "", {}});
}

Result<std::shared_ptr<ContainerRecord>> SandboxImpl::find(const std::string& containerId) const {
  auto found = containers_.find(containerId);
  if (found == containers_.end())
    return Error(Code::kNotFound, "no container " + containerId + " in sandbox " + record_.id);
  return found->second;
}

Result<std::shared_ptr<ContainerRecord>> SandboxImpl::findRunning(const std::string& containerId) const {
  ASSIGN_OR_RETURN(auto record, find(containerId));
  if (!alive_) return Error(Code::kUnavailable, "the shim of sandbox " + record_.id + " is gone");
  if (record->starting || record->status.state != ContainerState::kRunning)
    return Error(Code::kFailedPrecondition, "container " + containerId + " is not running");
  return record;
}

Task<Result<>> SandboxImpl::simple(wire::Type type, std::string containerId, int64_t a, int64_t b) {
  auto self = shared_from_this();
  auto record = findRunning(containerId);
  if (!record.ok()) co_return record.error();
  auto reply = co_await link_->call(request(type, containerId, a, b), {});
  if (!reply.ok()) co_return reply.error();
  if (reply->message.error == ESRCH) co_return Error(Code::kNotFound, "container " + containerId + " has ended", ESRCH);
  if (reply->message.error) co_return Error::fromErrno(reply->message.error, "container " + containerId);
  co_return Result<>();
}

Task<Result<>> SandboxImpl::closeStdin(std::string containerId) {
  return simple(wire::Type::kCloseStdin, std::move(containerId), 0, 0);
}
Task<Result<>> SandboxImpl::reopenLog(std::string containerId) {
  return simple(wire::Type::kReopenLog, std::move(containerId), 0, 0);
}
Task<Result<>> SandboxImpl::resize(std::string containerId, uint16_t rows, uint16_t columns) {
  return simple(wire::Type::kResize, std::move(containerId), rows, columns);
}

Task<Result<>> SandboxImpl::signal(std::string containerId, int signal, bool all) {
  auto self = shared_from_this();
  if (signal < 0 || signal > 64) co_return Error(Code::kInvalid, "invalid signal " + std::to_string(signal));
  if (all) {
    auto record = findRunning(containerId);
    if (!record.ok()) co_return record.error();
    std::string group = (*record)->cgroup;
    co_return co_await core_.pool.run(core_.loop, [this, group, signal] {
      return signal == SIGKILL ? core_.cgroups.kill(group) : core_.cgroups.signal(group, signal);
    });
  }
  co_return co_await simple(wire::Type::kSignal, std::move(containerId), signal, 0);
}

Task<Result<ExitInfo>> SandboxImpl::wait(std::string containerId) {
  auto self = shared_from_this();
  auto record = find(containerId);
  if (!record.ok()) co_return record.error();
  auto held = *record;
  while (!held->status.exit) {
    if (!alive_) co_return Error(Code::kUnavailable, "the shim of sandbox " + record_.id + " is gone");
    if (detached_) co_return Error(Code::kCancelled, "the runtime stops");
    co_await held->changed.wait();
  }
  co_return *held->status.exit;
}

Task<Result<>> SandboxImpl::freezeContainer(std::string containerId, bool frozen) {
  auto self = shared_from_this();
  auto record = findRunning(containerId);
  if (!record.ok()) co_return record.error();
  std::string group = (*record)->cgroup;
  co_return co_await core_.pool.run(core_.loop, [this, group, frozen] { return core_.cgroups.freeze(group, frozen); });
}
Task<Result<>> SandboxImpl::pause(std::string containerId) {
  return freezeContainer(std::move(containerId), true);
}
Task<Result<>> SandboxImpl::resume(std::string containerId) {
  return freezeContainer(std::move(containerId), false);
}

Task<Result<>> SandboxImpl::update(std::string containerId, Resources resources) {
  auto self = shared_from_this();
  auto record = findRunning(containerId);
  if (!record.ok()) co_return record.error();
  std::string group = (*record)->cgroup;
  auto updated =
      co_await core_.pool.run(core_.loop, [this, group, &resources] { return core_.cgroups.update(group, resources); });
  if (!updated.ok()) co_return updated.error();
  // Someone asked for just this: what the kernel refused is the answer.
  if (!updated->empty()) co_return Error(Code::kInvalid, updated->front());
  co_return Result<>();
}

Task<Result<Stats>> SandboxImpl::stats(std::string containerId) {
  auto self = shared_from_this();
  auto record = find(containerId);
  if (!record.ok()) co_return record.error();
  std::string group = (*record)->cgroup;
  co_return co_await core_.pool.run(core_.loop, [this, group] { return Result<Stats>(core_.cgroups.stats(group)); });
}

Task<Result<Stats>> SandboxImpl::stats() {
  auto self = shared_from_this();
  co_return co_await core_.pool.run(core_.loop, [this] { return Result<Stats>(core_.cgroups.stats(record_.cgroup)); });
}

Task<Result<std::vector<pid_t>>> SandboxImpl::processes(std::string containerId) {
  auto self = shared_from_this();
  auto record = find(containerId);
  if (!record.ok()) co_return record.error();
  std::string group = (*record)->cgroup;
  co_return co_await core_.pool.run(
      core_.loop, [this, group] { return Result<std::vector<pid_t>>(core_.cgroups.processes(group)); });
}

std::vector<ContainerStatus> SandboxImpl::containers() const {
  std::vector<ContainerStatus> out;
  for (const auto& [id, record] : containers_) {
    if (!record->starting) out.push_back(record->status);
  }
  return out;
}

std::optional<ContainerStatus> SandboxImpl::container(const std::string& id) const {
  auto found = containers_.find(id);
  if (found == containers_.end() || found->second->starting) return std::nullopt;
  return found->second->status;
}

Task<Result<>> SandboxImpl::removeContainer(std::string containerId) {
  auto self = shared_from_this();
  auto found = find(containerId);
  if (!found.ok()) co_return Result<>();
  auto record = *found;
  if (record->starting) co_return Error(Code::kConflict, "container " + containerId + " is being started");
  if (alive_ && !record->status.exit) {
    std::string group = record->cgroup;
    co_await core_.pool.run(core_.loop, [this, group] { (void)core_.cgroups.kill(group).ok(); });
    (void)(co_await simple(wire::Type::kSignal, containerId, SIGKILL, 0)).ok();
    while (alive_ && !record->status.exit) co_await record->changed.wait();
  }
  if (alive_) (void)(co_await link_->call(request(wire::Type::kForget, containerId), {})).ok();
  auto current = containers_.find(containerId);
  if (current != containers_.end() && current->second == record) containers_.erase(current);
  auto removed = co_await removeGroup(core_, record->cgroup);
  std::string folder = dir();
  co_await core_.pool.run(core_.loop, [folder, containerId] {
    ::unlink(containerFile(folder, containerId).c_str());
    ::unlink((folder + "/" + containerId + ".exit").c_str());
  });
  co_return removed;
}

Task<Result<>> SandboxImpl::remove() {
  auto self = shared_from_this();
  if (removing_) co_return Result<>();
  removing_ = true;
  if (alive_) {
    // A shim that was stopped or hangs does not answer: then it goes the hard way.
    Timer limit = core_.loop.after(10s, [weak = weak_from_this()] {
      auto late = weak.lock();
      if (late && late->watch_) late->watch_->kill();
    });
    auto reply = co_await link_->call(request(wire::Type::kShutdown, ""), {});
    limit.cancel();
    if (!reply.ok() && watch_) watch_->kill();
  }
  auto removed = co_await removeGroup(core_, record_.cgroup);
  std::string folder = dir();
  auto cleaned = co_await core_.pool.run(core_.loop, [folder] { return removeTree(folder); });
  auto found = core_.sandboxes.find(record_.id);
  if (found != core_.sandboxes.end() && found->second == self) core_.sandboxes.erase(found);
  if (!removed.ok()) co_return removed.error();
  if (record_.firstUser) core_.users.release(*record_.firstUser);
  co_return cleaned;
}

}  // namespace dhow::runtime
