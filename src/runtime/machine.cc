#include "machine.h"

#include <signal.h>
#include <sys/stat.h>

#include "base/log.h"

namespace dhow::runtime {

namespace {

constexpr const char* kContainer = "machine";
constexpr const char* kAnnotation = "dhow.io/machine";

std::string sandboxId(const std::string& name) {
  return "machine-" + name;
}

// The host's root is seen inside without the file systems mounted below it. Those that hold parts of the system are
// seen too, read-only, and so are those on the way to the machine's programs and to the targets of its mounts: a target
// cannot be made in a read-only root.
std::vector<Mount> hostMounts(const MachineSpec& machine, const std::string& shimPath) {
  std::vector<Mount> out;
  auto add = [&](const std::string& path) {
    auto same = [&](const Mount& mount) { return mount.target == path; };
    if (std::any_of(machine.mounts.begin(), machine.mounts.end(), same) || std::any_of(out.begin(), out.end(), same))
      return;
    Mount mount;
    mount.source = mount.target = path;
    mount.readonly = true;
    mount.recursive = false;
    out.push_back(std::move(mount));
  };
  // Every folder on the way to `path`, and itself, that is on another file system than the one above it.
  auto addOnWayTo = [&](const std::string& path) {
    for (const char* own : {"/proc/", "/sys/", "/dev/"}) {
      if (path.starts_with(own)) return;
    }
    struct stat status{};
    if (::stat("/", &status) != 0) return;
    dev_t above = status.st_dev;
    for (size_t end = path.find('/', 1);; end = path.find('/', end + 1)) {
      std::string folder = path.substr(0, end);
      if (folder.size() < 2 || ::lstat(folder.c_str(), &status) != 0 || !S_ISDIR(status.st_mode)) return;
      if (status.st_dev != above) add(folder);
      above = status.st_dev;
      if (end == std::string::npos) return;
    }
  };
  for (const char* path : {"/usr/local", "/etc", "/opt", "/var", "/home", "/bin", "/lib", "/lib64", "/sbin"})
    addOnWayTo(path);
  addOnWayTo(machine.args[0]);
  addOnWayTo(shimPath);
  for (const auto& mount : machine.mounts) addOnWayTo(mount.target);
  return out;
}

ContainerSpec containerOf(const MachineSpec& machine, const std::string& shimPath) {
  ContainerSpec spec;
  spec.id = kContainer;
  spec.process.args = {shimPath, "init", "--"};
  for (const auto& command : machine.beside) {
    spec.process.args.insert(spec.process.args.end(), command.begin(), command.end());
    spec.process.args.push_back("--");
  }
  spec.process.args.insert(spec.process.args.end(), machine.args.begin(), machine.args.end());
  spec.process.env = machine.env;
  spec.process.privileged = true;
  spec.root.path = "/";
  spec.root.readonly = true;
  spec.mounts = hostMounts(machine, shimPath);
  spec.mounts.insert(spec.mounts.end(), machine.mounts.begin(), machine.mounts.end());
  spec.resources = machine.resources;
  spec.inSandboxCgroup = true;
  spec.cgroupControllers = {"*"};
  spec.log = machine.log;
  return spec;
}

}  // namespace

std::shared_ptr<Sandbox> Machines::find(const std::string& name) const {
  return runtime_.sandbox(sandboxId(name));
}

Task<Result<>> Machines::create(MachineSpec spec) {
  CO_RETURN_IF_ERROR(checkId(sandboxId(spec.name), "machine"));
  if (spec.args.empty() || spec.args[0].empty() || spec.args[0][0] != '/')
    co_return Error(Code::kInvalid, "machine " + spec.name + ": the command must be an absolute path");
  std::string name = spec.name;
  specs_[name] = std::move(spec);
  co_return Result<>();
}

Task<Result<pid_t>> Machines::start(std::string name) {
  auto found = specs_.find(name);
  if (found == specs_.end()) co_return Error(Code::kNotFound, "no machine " + name);
  MachineSpec machine = found->second;
  if (auto old = find(name)) {
    auto status = old->container(kContainer);
    if (old->alive() && status && status->state == ContainerState::kRunning) co_return status->pid;
    auto removed = co_await old->remove();
    if (!removed.ok()) co_return removed.error();
  }
  SandboxSpec spec;
  spec.id = sandboxId(name);
  spec.hostname = machine.hostname.empty() ? name : machine.hostname;
  if (!machine.netPath.empty()) spec.net = Namespace::join(machine.netPath);
  spec.cgroup = machine.cgroup;
  spec.sysctls = machine.sysctls;
  spec.annotations = {{kAnnotation, name}};
  auto made = co_await runtime_.createSandbox(std::move(spec));
  if (!made.ok()) co_return made.error();
  auto sandbox = *made;
  auto started = co_await sandbox->start(containerOf(machine, core_.options.shimPath));
  if (started.ok()) co_return started->pid;
  (void)(co_await sandbox->remove()).ok();
  co_return std::move(started).error().wrap("machine " + name);
}

Task<Result<>> Machines::stop(std::string name, Duration grace) {
  auto sandbox = find(name);
  if (!sandbox) co_return Result<>();
  auto status = sandbox->container(kContainer);
  if (sandbox->alive() && status && status->state == ContainerState::kRunning) {
    (void)(co_await sandbox->signal(kContainer, SIGTERM)).ok();
    Loop& loop = core_.loop;
    Timer limit = loop.after(grace, [sandbox, &loop] {
      spawn(loop, [](std::shared_ptr<Sandbox> late) -> Task<> {
        (void)(co_await late->signal(kContainer, SIGKILL, true)).ok();
      }(sandbox));
    });
    (void)(co_await sandbox->wait(kContainer)).ok();
    limit.cancel();
  }
  co_return co_await sandbox->remove();
}

Task<Result<>> Machines::kill(std::string name) {
  auto sandbox = find(name);
  if (!sandbox) co_return Result<>();
  if (sandbox->alive()) (void)(co_await sandbox->signal(kContainer, SIGKILL, true)).ok();
  co_return co_await sandbox->remove();
}

Task<Result<>> Machines::remove(std::string name) {
  auto killed = co_await kill(name);
  if (!killed.ok()) co_return killed.error();
  specs_.erase(name);
  co_return Result<>();
}

Task<Result<std::vector<MachineStatus>>> Machines::list() {
  std::map<std::string, MachineStatus> known;
  for (const auto& [name, spec] : specs_) known[name].name = name;
  for (const auto& sandbox : runtime_.sandboxes()) {
    for (const auto& [key, name] : sandbox->annotations()) {
      if (key != kAnnotation) continue;
      auto& status = known[name];
      status.name = name;
      auto container = sandbox->container(kContainer);
      status.running = sandbox->alive() && container && container->state == ContainerState::kRunning;
      status.pid = status.running ? container->pid : 0;
    }
  }
  std::vector<MachineStatus> out;
  for (auto& [name, status] : known) out.push_back(std::move(status));
  co_return out;
}

}  // namespace dhow::runtime
