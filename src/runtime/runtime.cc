#include "runtime/runtime.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>

#include "base/log.h"
#include "capabilities.h"
#include "machine.h"
#include "sandbox.h"
#include "seccomp.h"

namespace dhow::runtime {

using namespace std::chrono_literals;

namespace {

struct Spawned {
  UniqueFd socket, pidfd;
  pid_t pid = 0;
};

// posix_spawn shares memory with its parent until the exec: its cost does not grow with this program.
Result<Spawned> spawnShim(const std::string& shimPath, const std::string& id, UniqueFd listener, UniqueFd plan,
                          int netFd, int userFd) {
  int pair[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) != 0)
    return Error::fromErrno("socketpair");
  UniqueFd ours(pair[0]), theirs(pair[1]);
  std::vector<UniqueFd> high;
  for (int fd : {listener.get(), theirs.get(), plan.get(), netFd, userFd}) {
    if (fd < 0) continue;
    high.emplace_back(::fcntl(fd, F_DUPFD_CLOEXEC, 16));
    if (!high.back()) return Error::fromErrno("duplicate a descriptor");
  }
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawnattr_init(&attributes);
  ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSID);
  for (int fd = 0; fd < 3; ++fd) ::posix_spawn_file_actions_addopen(&actions, fd, "/dev/null", O_RDWR, 0);
  for (size_t i = 0; i < high.size(); ++i)
    ::posix_spawn_file_actions_adddup2(&actions, high[i].get(), static_cast<int>(i) + 3);
  std::string name = "dhow-shim", role = "sandbox", who = id;
  char* argv[] = {name.data(), role.data(), who.data(), nullptr};
  char* envp[] = {nullptr};
  Spawned out;
  int r = ::posix_spawn(&out.pid, shimPath.c_str(), &actions, &attributes, argv, envp);
  ::posix_spawn_file_actions_destroy(&actions);
  ::posix_spawnattr_destroy(&attributes);
  if (r != 0) return Error::fromErrno(r, "start " + shimPath);
  out.pidfd.reset(static_cast<int>(::syscall(SYS_pidfd_open, out.pid, 0)));
  out.socket = std::move(ours);
  return out;
}

struct Made {
  Spawned shim;
  std::vector<std::string> stepNames;
};

// The folder and what is in it come first: whatever happens after that, a later daemon finds and cleans it.
Result<Made> makeSandbox(const Core& core, const SandboxSpec& spec, const SandboxRecord& record, const std::string& dir,
                         const std::string& checkedFolder) {
  if (::mkdir(dir.c_str(), 0700) != 0) {
    if (errno == EEXIST) return Error(Code::kAlreadyExists, "sandbox " + spec.id + " exists");
    return Error::fromErrno("make " + dir);
  }
  auto make = [&]() -> Result<Made> {
    RETURN_IF_ERROR(saveSandbox(dir, record));
    if (spec.resources) {
      auto group = core.cgroups.create(record.cgroup, *spec.resources, {}, false);
      if (!group.ok()) return group.error();
      for (const auto& warning : group->warnings) log::debug("runtime", "sandbox {}: {}", spec.id, warning);
    }
    ASSIGN_OR_RETURN(CompiledPlan plan, checkedFolder.empty()
                                            ? compileSandbox(spec, dir, record.firstUser)
                                            : compileUsersCheck(spec, dir, *record.firstUser, checkedFolder));
    ASSIGN_OR_RETURN(UniqueFd listener, listenAt(dir));
    Made made;
    ASSIGN_OR_RETURN(made.shim, spawnShim(core.options.shimPath, spec.id, std::move(listener), std::move(plan.file),
                                          spec.netFd, spec.userFd));
    made.stepNames = std::move(plan.stepNames);
    return made;
  };
  auto made = make();
  if (!made.ok()) {
    (void)core.cgroups.remove(record.cgroup).ok();
    (void)removeTree(dir).ok();
  }
  return made;
}

class RuntimeImpl final : public Runtime {
 public:
  RuntimeImpl(Loop& loop, BlockingPool& pool, Options options, Cgroups cgroups, UniqueFd lock)
      : core_{loop, pool, options, std::move(cgroups), {}, {}, UserRanges(options.firstUser, options.userRanges)},
        lock_(std::move(lock)),
        machines_(*this, core_) {}
  ~RuntimeImpl() override {
    for (auto& [id, sandbox] : core_.sandboxes) sandbox->detach();
  }

  Task<Result<Found>> findSandboxes() override;
  Task<Result<std::shared_ptr<Sandbox>>> createSandbox(SandboxSpec spec) override { return make(std::move(spec), ""); }
  Task<Result<>> checkUserNamespaces(std::string folder) override;

  std::shared_ptr<Sandbox> sandbox(const std::string& id) const override {
    auto found = core_.sandboxes.find(id);
    return found == core_.sandboxes.end() ? nullptr : found->second;
  }
  std::vector<std::shared_ptr<Sandbox>> sandboxes() const override {
    std::vector<std::shared_ptr<Sandbox>> out;
    for (const auto& [id, sandbox] : core_.sandboxes) out.push_back(sandbox);
    return out;
  }
  void onEvent(std::function<void(const Event&)> listener) override { core_.listeners.push_back(std::move(listener)); }
  Result<> removeCgroupParent() override { return core_.cgroups.remove(core_.options.cgroupParent); }
  int cgroupVersion() const override { return core_.cgroups.version(); }

  Task<Result<>> createMachine(MachineSpec spec) override { return machines_.create(std::move(spec)); }
  Task<Result<pid_t>> startMachine(std::string name) override { return machines_.start(std::move(name)); }
  Task<Result<>> stopMachine(std::string name, Duration grace) override {
    return machines_.stop(std::move(name), grace);
  }
  Task<Result<>> killMachine(std::string name) override { return machines_.kill(std::move(name)); }
  Task<Result<>> removeMachine(std::string name) override { return machines_.remove(std::move(name)); }
  Task<Result<std::vector<MachineStatus>>> machines() override { return machines_.list(); }

  Task<> stop() override {
    auto all = std::exchange(core_.sandboxes, {});
    for (auto& [id, sandbox] : all) sandbox->detach();
    co_return;
  }

 private:
  // `checkedFolder`: as checkUserNamespaces(), and no sandbox for anything else.
  Task<Result<std::shared_ptr<Sandbox>>> make(SandboxSpec spec, std::string checkedFolder);
  Task<> discard(std::string dir);

  Core core_;
  UniqueFd lock_;
  Machines machines_;
};

Task<Result<std::shared_ptr<Sandbox>>> RuntimeImpl::make(SandboxSpec spec, std::string checkedFolder) {
  CO_RETURN_IF_ERROR(checkId(spec.id, "sandbox"));
  if (core_.sandboxes.contains(spec.id)) co_return Error(Code::kAlreadyExists, "sandbox " + spec.id + " exists");
  SandboxRecord record{spec.id, spec.cgroup.empty() ? core_.options.cgroupParent + "/" + spec.id : spec.cgroup,
                       spec.sharedPid, spec.annotations, std::nullopt};
  if (spec.ownUsers) {
    auto users = core_.users.take();
    if (!users.ok()) co_return users.error();
    record.firstUser = *users;
  }
  std::string dir = core_.options.stateDir + "/" + spec.id;
  auto made = co_await core_.pool.run(core_.loop, [&] { return makeSandbox(core_, spec, record, dir, checkedFolder); });
  if (!made.ok()) {
    if (record.firstUser) core_.users.release(*record.firstUser);
    co_return made.error();
  }
  auto sandbox = std::make_shared<SandboxImpl>(core_, record, std::move(made->shim.socket));
  sandbox->begin(std::move(made->shim.pidfd), made->shim.pid);
  core_.sandboxes[spec.id] = sandbox;
  auto up = co_await sandbox->up();
  if (up.ok() && up->error == 0) co_return std::shared_ptr<Sandbox>(sandbox);
  std::string step = up.ok() && up->step < made->stepNames.size() ? made->stepNames[up->step] : "start the shim";
  Error failure = up.ok() ? Error::fromErrno(up->error, step) : up.error();
  (void)(co_await sandbox->remove()).ok();
  co_return std::move(failure).wrap("make sandbox " + spec.id);
}

Task<Result<>> RuntimeImpl::checkUserNamespaces(std::string folder) {
  // Overlays of idmapped layers (overlayfs.rst).
  struct utsname kernel{};
  int major = 0, minor = 0;
  if (::uname(&kernel) == 0 && std::sscanf(kernel.release, "%d.%d", &major, &minor) == 2 &&
      (major < 5 || (major == 5 && minor < 19)))
    co_return Error(Code::kUnimplemented, fmt::format("Linux {} has no overlays of idmapped layers", kernel.release));
  SandboxSpec spec;
  spec.id = "users-check";
  spec.ownUsers = true;
  auto made = co_await make(std::move(spec), std::move(folder));
  if (!made.ok()) co_return made.error();
  co_return co_await (*made)->remove();
}

// A sandbox without a shim, or half made.
Task<> RuntimeImpl::discard(std::string dir) {
  auto record = co_await core_.pool.run(core_.loop, [dir] { return loadSandbox(dir); });
  if (record.ok() && record->cgroup.size() > 1) {
    std::string group = record->cgroup;
    co_await core_.pool.run(core_.loop, [this, group] { (void)core_.cgroups.kill(group).ok(); });
    auto removed = co_await removeGroup(core_, group);
    if (!removed.ok()) log::warn("runtime", "{}", removed.error().message());
  }
  auto cleaned = co_await core_.pool.run(core_.loop, [dir] { return removeTree(dir); });
  if (!cleaned.ok()) log::warn("runtime", "{}", cleaned.error().message());
}

Task<Result<Runtime::Found>> RuntimeImpl::findSandboxes() {
  std::string state = core_.options.stateDir;
  auto names = co_await core_.pool.run(core_.loop, [state] { return listDir(state); });
  if (!names.ok()) co_return names.error();
  Found found;
  for (const auto& name : *names) {
    if (name == "lock" || core_.sandboxes.contains(name)) continue;
    std::string dir = state + "/" + name;
    auto record = co_await core_.pool.run(core_.loop, [dir] { return loadSandbox(dir); });
    auto socket = record.ok() ? connectAt(dir) : Result<UniqueFd>(record.error());
    if (socket.ok() && record->id == name) {
      auto sandbox = std::make_shared<SandboxImpl>(core_, *record, std::move(*socket));
      sandbox->begin(UniqueFd(), 0);
      core_.sandboxes[name] = sandbox;
      auto recovered = co_await sandbox->recover();
      if (recovered.ok()) {
        if (record->firstUser) core_.users.found(*record->firstUser);
        found.sandboxes.push_back(sandbox);
        continue;
      }
      sandbox->detach();
      core_.sandboxes.erase(name);
      // It lives, and is another version's to mind.
      if (recovered.error().is(Code::kFailedPrecondition)) co_return std::move(recovered).error();
      log::warn("runtime", "sandbox {}: {}", name, recovered.error().message());
    }
    co_await discard(dir);
    found.lost.push_back(name);
  }
  co_return found;
}

}  // namespace

Result<std::unique_ptr<Runtime>> Runtime::create(Loop& loop, BlockingPool& pool, Options options) {
  if (::access(options.shimPath.c_str(), X_OK) != 0) return Error::fromErrno("shim " + options.shimPath);
  bool sound = options.cgroupParent.size() > 1 && options.cgroupParent[0] == '/' &&
               options.cgroupParent.find("..") == std::string::npos;
  if (!sound)
    return Error(Code::kInvalid, "cgroup parent \"" + options.cgroupParent + "\" is not a path below the root");
  RETURN_IF_ERROR(makeDirs(options.stateDir, 0700));
  ASSIGN_OR_RETURN(Cgroups cgroups, Cgroups::detect());
  ASSIGN_OR_RETURN(UniqueFd lock, lockFile(options.stateDir + "/lock"));
  // The filter that nearly all will need takes milliseconds to compile: it is ready before the first start.
  pool.post([] {
    ProcessSpec plain;
    auto caps = capabilitiesOf(plain);
    if (caps.ok()) (void)seccompFilter(plain, *caps).ok();
  });
  return std::unique_ptr<Runtime>(new RuntimeImpl(loop, pool, std::move(options), std::move(cgroups), std::move(lock)));
}

}  // namespace dhow::runtime
