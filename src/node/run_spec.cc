#include "run_spec.h"

#include <sys/stat.h>

#include <csignal>

#include "base/files.h"
#include "base/strings.h"
#include "runtime/user.h"
#include "volume_files.h"

namespace dhow::node {

namespace {

constexpr std::string_view kDefaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

std::string describe(const ContainerInputs& in) {
  return fmt::format("(pod: \"{}_{}({})\", container: {})", text(*in.pod, {"metadata", "name"}),
                     text(*in.pod, {"metadata", "namespace"}), text(*in.pod, {"metadata", "uid"}),
                     text(*in.container, "name"));
}

// What the container says, else what the pod says.
const json::value* security(const ContainerInputs& in, std::string_view name) {
  const json::value* own = field(*in.container, {"securityContext", name});
  if (own != nullptr && !own->is_null()) return own;
  const json::value* pods = field(*in.pod, {"spec", "securityContext", name});
  return pods != nullptr && !pods->is_null() ? pods : nullptr;
}

bool isTrue(const json::value* value) {
  return value != nullptr && value->is_bool() && value->get_bool();
}

void setEnv(std::vector<std::string>& env, std::string_view name, std::string_view value, bool replace) {
  const std::string start = std::string(name) + "=";
  for (std::string& entry : env) {
    if (!entry.starts_with(start)) continue;
    if (replace) entry = start + std::string(value);
    return;
  }
  env.push_back(start + std::string(value));
}

Result<> setProcess(const ContainerInputs& in, runtime::ProcessSpec& process) {
  ASSIGN_OR_RETURN(EnvList env, containerEnv(*in.fields, *in.container));
  const image::RunConfig& image = in.image->config.run;
  process.env = image.env;
  setEnv(process.env, "PATH", kDefaultPath, false);
  setEnv(process.env, "HOSTNAME", hostNetworkOf(*in.pod) ? in.node->hostname : podHostname(*in.pod), false);
  for (const auto& [name, value] : env) setEnv(process.env, name, value, true);

  auto lookup = [&](std::string_view name) -> const std::string* {
    for (const auto& [known, value] : env) {
      if (known == name) return &value;
    }
    return nullptr;
  };
  std::vector<std::string> command = strings(array(*in.container, {"command"}));
  std::vector<std::string> args = strings(array(*in.container, {"args"}));
  for (std::string& word : command) word = expand(word, lookup);
  for (std::string& word : args) word = expand(word, lookup);
  if (command.empty()) {
    command = image.entrypoint;
    if (args.empty()) args = image.cmd;
  }
  process.args = std::move(command);
  process.args.insert(process.args.end(), args.begin(), args.end());
  if (process.args.empty()) return Error(Code::kNotFound, "no command specified");

  std::string_view workingDir = text(*in.container, "workingDir");
  process.cwd = !workingDir.empty() ? std::string(workingDir) : image.workingDir.empty() ? "/" : image.workingDir;
  process.terminal = flag(*in.container, {"tty"});
  if (process.terminal) setEnv(process.env, "TERM", "xterm", false);
  return {};
}

Result<> setUser(const ContainerInputs& in, const runtime::RootFs& root, runtime::ProcessSpec& process) {
  std::string user = in.image->config.run.user;
  if (const json::value* uid = security(in, "runAsUser"); uid != nullptr && uid->is_int64()) {
    user = std::to_string(uid->get_int64());
  }
  std::vector<std::string> groups;
  for (uint32_t group : supplementalGroups(object(*in.pod, {"spec"}))) groups.push_back(std::to_string(group));
  auto resolved = runtime::resolveUser(root, user, groups);
  if (!resolved.ok()) return Error(Code::kFailedPrecondition, resolved.error().message());
  process.user = resolved->user;
  if (const json::value* gid = security(in, "runAsGroup"); gid != nullptr && gid->is_int64()) {
    process.user.gid = static_cast<uint32_t>(gid->get_int64());
  }
  setEnv(process.env, "HOME", resolved->home, false);
  if (isTrue(security(in, "runAsNonRoot")) && process.user.uid == 0) {
    const bool byUser = security(in, "runAsUser") != nullptr;
    return Error(Code::kFailedPrecondition,
                 byUser ? "container's runAsUser breaks non-root policy " + describe(in)
                        : "container has runAsNonRoot and image will run as root " + describe(in));
  }
  return {};
}

Result<> setRights(const ContainerInputs& in, runtime::ContainerSpec& spec) {
  const json::object& context = object(*in.container, {"securityContext"});
  runtime::ProcessSpec& process = spec.process;
  process.privileged = flag(context, {"privileged"});
  process.noNewPrivileges = !flag(context, {"allowPrivilegeEscalation"}, true);
  process.capAdd = strings(array(context, {"capabilities", "add"}));
  process.capDrop = strings(array(context, {"capabilities", "drop"}));
  spec.root.readonly = flag(context, {"readOnlyRootFilesystem"});
  if (text(context, "procMount") == "Unmasked") {
    spec.maskedPaths.emplace();
    spec.readonlyPaths.emplace();
  }
  const json::value* profile = security(in, "seccompProfile");
  const json::object& seccomp = profile != nullptr && profile->is_object() ? profile->get_object() : context;
  std::string_view type = profile != nullptr ? text(seccomp, "type") : std::string_view();
  if (type == "Unconfined") process.seccomp.mode = runtime::Seccomp::Mode::kUnconfined;
  if (type == "Localhost") {
    std::string name(text(seccomp, "localhostProfile"));
    if (name.empty() || name.front() == '/' || name.find("..") != std::string::npos) {
      return Error(Code::kFailedPrecondition,
                   fmt::format("seccomp profile \"{}\" is not a path below the node's profiles", name));
    }
    auto content = readFile(in.node->seccompDir + "/" + name, 4 << 20);
    if (!content.ok()) return Error(Code::kFailedPrecondition, fmt::format("cannot load seccomp profile \"{}\"", name));
    process.seccomp.mode = runtime::Seccomp::Mode::kProfile;
    process.seccomp.profile = std::move(*content);
  }
  return {};
}

runtime::Mount bindMount(std::string source, std::string target, bool readonly) {
  runtime::Mount mount;
  mount.source = std::move(source);
  mount.target = std::move(target);
  mount.readonly = readonly;
  return mount;
}

Result<runtime::Mount> volumeMount(const ContainerInputs& in, const json::object& mount,
                                   const std::vector<std::string>& env) {
  std::string_view name = text(mount, "name");
  const json::object* volume = named(array(*in.pod, {"spec", "volumes"}), name);
  if (volume == nullptr) return Error(Code::kFailedPrecondition, fmt::format("volume \"{}\" is not defined", name));
  auto path = volumePath(*volume, *in.paths);
  if (!path)
    return Error(Code::kFailedPrecondition,
                 fmt::format("volume \"{}\" is of a kind that this node does not have", name));
  std::string subPath(text(mount, "subPath"));
  if (std::string_view expression = text(mount, "subPathExpr"); !expression.empty()) {
    std::string found;
    auto lookup = [&](std::string_view variable) -> const std::string* {
      for (const std::string& entry : env) {
        if (!entry.starts_with(std::string(variable) + "=")) continue;
        found = entry.substr(variable.size() + 1);
        return &found;
      }
      return nullptr;
    };
    subPath = expand(expression, lookup);
  }
  bool readonly = flag(mount, {"readOnly"});
  for (std::string_view kind : {"configMap", "secret", "downwardAPI", "projected"}) {
    if (client::has(*volume, {kind})) readonly = true;
  }
  runtime::Mount out = bindMount(*path, std::string(text(mount, "mountPath")), readonly);
  if (!out.target.starts_with('/')) out.target = "/" + out.target;
  if (!subPath.empty()) {
    RETURN_IF_ERROR(openSubPath(*path, subPath));
    out.subPath = std::move(subPath);
  }
  std::string_view propagation = text(mount, "mountPropagation");
  if (propagation == "HostToContainer") out.propagation = runtime::Mount::Propagation::kSlave;
  if (propagation == "Bidirectional") out.propagation = runtime::Mount::Propagation::kShared;
  std::string_view recursive = text(mount, "recursiveReadOnly");
  out.recursiveReadonly = readonly && (recursive == "Enabled" || recursive == "IfPossible");
  return out;
}

Result<> setMounts(const ContainerInputs& in, ContainerBuild& build) {
  runtime::ContainerSpec& spec = build.spec;
  std::vector<runtime::Mount> volumes;
  for (const json::value& entry : array(*in.container, {"volumeMounts"})) {
    if (!entry.is_object()) continue;
    ASSIGN_OR_RETURN(auto mount, volumeMount(in, entry.get_object(), spec.process.env));
    volumes.push_back(std::move(mount));
  }
  auto taken = [&](std::string_view target) {
    return std::any_of(volumes.begin(), volumes.end(),
                       [&](const runtime::Mount& mount) { return mount.target == target; });
  };
  const bool readonly = spec.root.readonly;
  if (!taken("/etc/hosts")) spec.mounts.push_back(bindMount(in.paths->hosts(), "/etc/hosts", readonly));
  if (!taken("/etc/resolv.conf"))
    spec.mounts.push_back(bindMount(in.paths->resolvConf(), "/etc/resolv.conf", readonly));
  if (!taken("/etc/hostname"))
    spec.mounts.push_back(bindMount(in.paths->root + "/hostname", "/etc/hostname", readonly));
  for (runtime::Mount& mount : volumes) spec.mounts.push_back(std::move(mount));
  std::string message(text(*in.container, "terminationMessagePath"));
  if (message.empty()) message = "/dev/termination-log";
  if (message.front() != '/') message.insert(0, "/");
  const std::string file = in.paths->terminationMessage(text(*in.container, "name"), in.attempt);
  RETURN_IF_ERROR(writeFile(file, "", 0666));
  // Every user of the image may leave a message, whatever this program's umask.
  if (::chmod(file.c_str(), 0666) != 0) return Error::fromErrno("chmod " + file);
  spec.mounts.push_back(bindMount(file, message, false));
  return {};
}

}  // namespace

std::optional<std::string> volumePath(const json::object& volume, const PodPaths& paths) {
  std::string_view name = text(volume, "name");
  for (std::string_view kind : {"emptyDir", "configMap", "secret", "downwardAPI", "projected"}) {
    const json::value* value = field(volume, {kind});
    if (value != nullptr && value->is_object()) return paths.volume(kind, name);
  }
  if (const json::value* value = field(volume, {"hostPath"}); value != nullptr && value->is_object()) {
    return std::string(text(value->get_object(), "path"));
  }
  // A volume of no kind is an emptyDir.
  if (volume.size() == 1) return paths.volume("emptyDir", name);
  return std::nullopt;
}

int signalNumber(std::string_view name) {
  if (auto digits = parseInt(name); digits && *digits > 0 && *digits < 65) return static_cast<int>(*digits);
  if (name.starts_with("SIG")) name.remove_prefix(3);
  static constexpr std::pair<std::string_view, int> kNames[] = {
      {"HUP", SIGHUP},   {"INT", SIGINT},   {"QUIT", SIGQUIT}, {"ILL", SIGILL},   {"TRAP", SIGTRAP},
      {"ABRT", SIGABRT}, {"BUS", SIGBUS},   {"FPE", SIGFPE},   {"KILL", SIGKILL}, {"USR1", SIGUSR1},
      {"SEGV", SIGSEGV}, {"USR2", SIGUSR2}, {"PIPE", SIGPIPE}, {"ALRM", SIGALRM}, {"TERM", SIGTERM},
      {"CHLD", SIGCHLD}, {"CONT", SIGCONT}, {"STOP", SIGSTOP}, {"TSTP", SIGTSTP}, {"TTIN", SIGTTIN},
      {"TTOU", SIGTTOU}, {"URG", SIGURG},   {"XCPU", SIGXCPU}, {"XFSZ", SIGXFSZ}, {"WINCH", SIGWINCH},
      {"IO", SIGIO},     {"PWR", SIGPWR},   {"SYS", SIGSYS}};
  for (const auto& [known, value] : kNames) {
    if (known == name) return value;
  }
  if (name.starts_with("RTMIN")) {
    name.remove_prefix(5);
    const auto offset = name.empty() ? std::optional<int64_t>(0) : parseInt(name.substr(name[0] == '+' ? 1 : 0));
    if (offset && *offset >= 0 && *offset <= 30) return SIGRTMIN + static_cast<int>(*offset);
  }
  return SIGTERM;
}

Result<runtime::ProcessSpec> buildProcess(const ContainerInputs& in, std::vector<std::string> command) {
  runtime::ContainerSpec spec;
  spec.root.lower = in.snapshot.lowers;
  spec.root.upper = in.snapshot.upper;
  spec.root.work = in.snapshot.work;
  RETURN_IF_ERROR(setProcess(in, spec.process));
  RETURN_IF_ERROR(setUser(in, spec.root, spec.process));
  RETURN_IF_ERROR(setRights(in, spec));
  spec.process.args = std::move(command);
  spec.process.terminal = false;
  return std::move(spec.process);
}

Result<ContainerBuild> buildContainer(const ContainerInputs& in) {
  ContainerBuild build;
  runtime::ContainerSpec& spec = build.spec;
  spec.id = in.id;
  spec.root.lower = in.snapshot.lowers;
  spec.root.upper = in.snapshot.upper;
  spec.root.work = in.snapshot.work;
  RETURN_IF_ERROR(setProcess(in, spec.process));
  RETURN_IF_ERROR(setUser(in, spec.root, spec.process));
  RETURN_IF_ERROR(setRights(in, spec));
  RETURN_IF_ERROR(setMounts(in, build));
  const json::object& podSpec = object(*in.pod, {"spec"});
  spec.resources = containerResources(*in.container);
  spec.process.oomScoreAdj = oomScoreAdj(podSpec, *in.container, in.node->memory);
  spec.stdinOpen = flag(*in.container, {"stdin"});
  const std::string name(text(*in.container, "name"));
  spec.log = {in.paths->log(name, in.attempt), in.node->logMaxSize, in.node->logMaxFiles};
  if (flag(podSpec, {"hostPID"})) spec.pid = runtime::Namespace::host();
  if (flag(podSpec, {"shareProcessNamespace"})) spec.pid = runtime::Namespace::sandbox();
  spec.annotations = {{std::string(kNoteContainer), name}, {std::string(kNoteAttempt), std::to_string(in.attempt)}};
  build.stopSignal = in.image->config.run.stopSignal;
  if (std::string_view given = text(*in.container, {"lifecycle", "stopSignal"}); !given.empty())
    build.stopSignal = given;
  return build;
}

}  // namespace dhow::node
