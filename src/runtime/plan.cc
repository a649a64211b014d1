#include "plan.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstring>

#include "base/files.h"
#include "base/strings.h"
#include "capabilities.h"
#include "seccomp.h"

namespace dhow::runtime {

namespace {

using wire::Op;

Result<int> rlimitNumber(std::string_view type) {
  static constexpr std::pair<std::string_view, int> kNames[] = {
      {"cpu", RLIMIT_CPU},           {"fsize", RLIMIT_FSIZE},
      {"data", RLIMIT_DATA},         {"stack", RLIMIT_STACK},
      {"core", RLIMIT_CORE},         {"rss", RLIMIT_RSS},
      {"nproc", RLIMIT_NPROC},       {"nofile", RLIMIT_NOFILE},
      {"memlock", RLIMIT_MEMLOCK},   {"as", RLIMIT_AS},
      {"locks", RLIMIT_LOCKS},       {"sigpending", RLIMIT_SIGPENDING},
      {"msgqueue", RLIMIT_MSGQUEUE}, {"nice", RLIMIT_NICE},
      {"rtprio", RLIMIT_RTPRIO},     {"rttime", RLIMIT_RTTIME}};
  std::string lower = toLower(type);
  std::string_view plain = lower;
  if (plain.starts_with("rlimit_")) plain.remove_prefix(7);
  for (const auto& [name, number] : kNames) {
    if (name == plain) return number;
  }
  return Error(Code::kInvalid, "invalid ulimit type: " + std::string(type));
}

std::string block(const std::vector<std::string>& strings) {
  std::string out;
  for (const auto& s : strings) {
    out += s;
    out += '\0';
  }
  return out;
}

Result<> checkStrings(const std::vector<std::string>& strings, std::string_view what) {
  if (strings.size() > 32768) return Error(Code::kTooLarge, std::string(what) + ": more than 32768 entries");
  for (const auto& s : strings) {
    if (s.find('\0') != std::string::npos) return Error(Code::kInvalid, std::string(what) + " has a NUL byte inside");
  }
  return {};
}

Result<std::string> sysctlPath(const std::string& key) {
  std::string path = "/proc/sys/";
  if (key.empty() || key.find("..") != std::string::npos || key[0] == '/')
    return Error(Code::kInvalid, "invalid sysctl \"" + key + "\"");
  bool slashes = key.find('/') != std::string::npos;
  for (char c : key) path += !slashes && c == '.' ? '/' : c;
  return path;
}

Result<> addSysctls(PlanWriter& writer, const std::vector<std::pair<std::string, std::string>>& sysctls) {
  for (const auto& [key, value] : sysctls) {
    ASSIGN_OR_RETURN(std::string path, sysctlPath(key));
    writer.add(Op::kWriteFile, path).text = writer.text(value);
  }
  return {};
}

void addJoin(PlanWriter& writer, const GroupEntry& group) {
  for (const auto& file : group.taskFiles) writer.add(Op::kJoinTasks, file);
  writer.head().cgroupFd = writer.text(group.v2Dir);
  writer.head().cgroupKill = writer.text(group.killFile);
  writer.head().oomFile = writer.text(group.oomFile);
}

// What a failing step is called towards people.
std::string_view opName(Op op) {
  switch (op) {
    case Op::kJoinTasks: return "join cgroup";
    case Op::kWriteFile: return "write";
    case Op::kSetns: return "join namespace";
    case Op::kSetnsTarget: return "join the container's namespaces";
    case Op::kUnshare: return "make namespaces";
    case Op::kUserNamespace: return "make user namespace";
    case Op::kFileIds: return "take the ids of files";
    case Op::kEnterUsers: return "enter user namespace";
    case Op::kIdmap: return "map the ids (its file system has to support idmapped mounts) of";
    case Op::kIdmapFolder: return "map the ids (its file system has to support idmapped mounts) of";
    case Op::kHostname: return "set host name";
    case Op::kDomainname: return "set domain name";
    case Op::kLoopbackUp: return "set loopback up";
    case Op::kPropagation: return "set mount propagation of";
    case Op::kOpenTree: return "bind mount source";
    case Op::kNewFs: return "make file system";
    case Op::kNewOverlay: return "mount overlay at";
    case Op::kPivot: return "change root to";
    case Op::kMakeDir: return "make folder";
    case Op::kAttach: return "mount";
    case Op::kMakeNode: return "make device";
    case Op::kBindSelf: return "make read-only";
    case Op::kSymlink: return "make link";
    case Op::kSetAttr: return "set mount attributes of";
    case Op::kMask: return "mask";
    case Op::kPty: return "make terminal";
    case Op::kStdio: return "set standard streams";
    case Op::kSession: return "start session";
    case Op::kRlimit: return "set rlimit";
    case Op::kKeepCaps: return "keep capabilities";
    case Op::kBounding: return "drop capabilities";
    case Op::kUser: return "change user";
    case Op::kCapset: return "set capabilities";
    case Op::kChdir: return "chdir to cwd";
    case Op::kNoNewPrivs: return "set no_new_privs";
    case Op::kSeccomp: return "load seccomp filter";
    case Op::kInit: return "start init";
    case Op::kExec: return "exec";
    default: return "step";
  }
}

}  // namespace

PlanWriter::PlanWriter() {
  plan_.magic = wire::kMagic;
}

uint32_t PlanWriter::text(std::string_view text) {
  if (text.empty()) return 0;
  auto offset = static_cast<uint32_t>(data_.size());
  data_ += text;
  data_ += '\0';
  return offset + 1;  // 0 is "none"; seal() takes the 1 off again
}

uint32_t PlanWriter::blob(std::string_view bytes) {
  while (data_.size() % 8) data_ += '\0';
  return text(bytes);
}

wire::Step& PlanWriter::add(Op op, uint32_t flags) {
  return add(op, "", flags);
}

wire::Step& PlanWriter::add(Op op, std::string_view path, uint32_t flags) {
  wire::Step step{};
  step.op = op;
  step.flags = flags;
  step.path = text(path);
  steps_.push_back(step);
  names_.push_back(std::string(opName(op)) + (path.empty() ? "" : " " + std::string(path)));
  return steps_.back();
}

Result<UniqueFd> PlanWriter::seal(std::vector<std::string>* names) {
  size_t start = sizeof plan_ + steps_.size() * sizeof(wire::Step);
  start = (start + 7) & ~size_t{7};
  size_t size = start + data_.size();
  if (size > wire::kMaxPlan)
    return Error(Code::kTooLarge, "arguments, environment and mounts together are larger than 4 MiB");
  auto fix = [&](uint32_t& offset) {
    if (offset) offset += static_cast<uint32_t>(start) - 1;
  };
  plan_.protocol = 1;
  for (auto& step : steps_) {
    plan_.protocol = std::max(plan_.protocol, wire::protocolOf(step));
    fix(step.path);
    fix(step.text);
    fix(step.more);
  }
  for (uint32_t* offset : {&plan_.pidPath, &plan_.id, &plan_.target, &plan_.stateDir, &plan_.cgroupFd,
                           &plan_.cgroupKill, &plan_.oomFile, &plan_.logPath})
    fix(*offset);
  plan_.size = static_cast<uint32_t>(size);
  plan_.stepCount = static_cast<uint32_t>(steps_.size());
  std::string bytes(size, '\0');
  std::memcpy(bytes.data(), &plan_, sizeof plan_);
  std::memcpy(bytes.data() + sizeof plan_, steps_.data(), steps_.size() * sizeof(wire::Step));
  std::memcpy(bytes.data() + start, data_.data(), data_.size());
  UniqueFd file(::memfd_create("plan", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!file) return Error::fromErrno("memory file");
  if (::write(file.get(), bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size()))
    return Error::fromErrno("write a plan");
  ::fcntl(file.get(), F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW);
  if (names) *names = names_;
  return file;
}

Result<> checkId(std::string_view id, std::string_view what) {
  auto letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9'); };
  bool good = !id.empty() && id.size() <= wire::kMaxId && letter(id[0]) &&
              std::all_of(id.begin(), id.end(), [&](char c) { return letter(c) || c == '_' || c == '.' || c == '-'; });
  if (good) return {};
  return Error(Code::kInvalid,
               std::string(what) + " id \"" + std::string(id) + "\" must match [a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}");
}

namespace {

Result<> checkUsers(const SandboxSpec& spec) {
  auto host = [](const Namespace& ns) { return ns.mode == Namespace::Mode::kHost; };
  if (host(spec.net) || host(spec.ipc) || host(spec.uts))
    return Error(Code::kInvalid, "a sandbox with a user namespace of its own cannot have the host's namespaces");
  if (spec.userFd >= 0 && spec.netFd < 0)
    return Error(Code::kInvalid, "a user namespace is given without its network namespace");
  return {};
}

void addUserNamespace(PlanWriter& writer, bool given, uint32_t first, uint64_t owned) {
  auto& step = writer.add(Op::kUserNamespace, given ? "/proc/self/fd/7" : "");
  step.a = first;
  step.b = kUsersPerSandbox;
  step.c = owned;
}

}  // namespace

Result<CompiledPlan> compileUsersCheck(const SandboxSpec& spec, const std::string& stateDir, uint32_t firstUser,
                                       const std::string& folder) {
  PlanWriter writer;
  writer.head().id = writer.text(spec.id);
  writer.head().stateDir = writer.text(stateDir);
  addUserNamespace(writer, false, firstUser, 0);
  writer.add(Op::kOpenTree, folder).a = 1;
  writer.add(Op::kIdmap, folder).a = 1;
  CompiledPlan plan;
  ASSIGN_OR_RETURN(plan.file, writer.seal(&plan.stepNames));
  return plan;
}

Result<CompiledPlan> compileSandbox(const SandboxSpec& spec, const std::string& stateDir,
                                    std::optional<uint32_t> firstUser) {
  if (firstUser) RETURN_IF_ERROR(checkUsers(spec));
  PlanWriter writer;
  writer.head().id = writer.text(spec.id);
  writer.head().stateDir = writer.text(stateDir);
  if (spec.sharedPid) writer.head().flags |= wire::kSharedPid;
  uint64_t fresh = 0;
  auto place = [&](const Namespace& ns, uint64_t flag) {
    if (ns.mode == Namespace::Mode::kNew || ns.mode == Namespace::Mode::kSandbox) fresh |= flag;
    if (ns.mode == Namespace::Mode::kPath) writer.add(Op::kSetns, ns.path).a = flag;
  };
  if (spec.netFd >= 0)
    writer.add(Op::kSetns, "/proc/self/fd/6").a = CLONE_NEWNET;
  else
    place(spec.net, CLONE_NEWNET);
  place(spec.ipc, CLONE_NEWIPC);
  place(spec.uts, CLONE_NEWUTS);
  if (firstUser)
    addUserNamespace(writer, spec.userFd >= 0, *firstUser, fresh);
  else if (fresh)
    writer.add(Op::kUnshare).a = fresh;
  if (fresh & CLONE_NEWNET) writer.add(Op::kLoopbackUp);
  bool ownUts = spec.uts.mode != Namespace::Mode::kHost;
  if (ownUts && !spec.hostname.empty()) writer.add(Op::kHostname, spec.hostname);
  if (ownUts && !spec.domainname.empty()) writer.add(Op::kDomainname, spec.domainname);
  RETURN_IF_ERROR(addSysctls(writer, spec.sysctls));
  // The shim should be among the last that the kernel kills for memory.
  writer.add(Op::kWriteFile, "/proc/self/oom_score_adj", wire::kWarnOnly).text = writer.text("-998");
  CompiledPlan plan;
  ASSIGN_OR_RETURN(plan.file, writer.seal(&plan.stepNames));
  return plan;
}

namespace {

Result<> checkIds(const User& user) {
  auto outside = [](uint32_t id) { return id >= kUsersPerSandbox; };
  auto wrong = [](const char* what, uint32_t id) {
    return Error(Code::kInvalid,
                 fmt::format("{} {} is not among the {} of the user namespace", what, id, kUsersPerSandbox));
  };
  if (outside(user.uid)) return wrong("user", user.uid);
  if (outside(user.gid)) return wrong("group", user.gid);
  for (uint32_t gid : user.additionalGids) {
    if (outside(gid)) return wrong("group", gid);
  }
  return {};
}

}  // namespace

Result<> addProcess(PlanWriter& writer, const ProcessSpec& process, bool init, const std::optional<EnterUsers>& users,
                    std::vector<std::string>& warnings) {
  if (process.args.empty() || process.args[0].empty()) return Error(Code::kInvalid, "no command specified");
  RETURN_IF_ERROR(checkStrings(process.args, "arguments"));
  RETURN_IF_ERROR(checkStrings(process.env, "environment"));
  if (process.cwd.empty() || process.cwd[0] != '/')
    return Error(Code::kInvalid,
                 "the working directory '" + process.cwd + "' is invalid, it needs to be an absolute path");
  ASSIGN_OR_RETURN(uint64_t wanted, capabilitiesOf(process));
  uint64_t caps = wanted & permittedCapabilities();
  ASSIGN_OR_RETURN(std::string filter, seccompFilter(process, wanted));
  for (const auto& limit : process.rlimits) {
    ASSIGN_OR_RETURN(int number, rlimitNumber(limit.type));
    if (limit.soft > limit.hard)
      return Error(Code::kInvalid, "ulimit " + limit.type + ": the soft limit is above the hard one");
    auto& step = writer.add(Op::kRlimit, limit.type, wire::kWarnOnly);
    step.a = static_cast<uint64_t>(number);
    step.b = limit.soft;
    step.c = limit.hard;
  }
  if (users) {
    RETURN_IF_ERROR(checkIds(process.user));
    // Limits and scores are set by now: what is above them is the initial namespace's to give. Whoever may not mount
    // stays in a mount namespace of the initial one's.
    bool mounts = users->ownMounts && caps >> CAP_SYS_ADMIN & 1;
    auto& step = writer.add(Op::kEnterUsers);
    step.a = users->fresh | (mounts ? CLONE_NEWNS : 0);
    step.b = users->first;
  }
  auto addFilter = [&] {
    if (filter.empty()) return;
    uint32_t code = writer.blob(filter);
    auto& step = writer.add(Op::kSeccomp);
    step.text = code;
    step.n = static_cast<uint32_t>(filter.size() / 8);
  };
  if (process.user.uid != 0) writer.add(Op::kKeepCaps);
  writer.add(Op::kBounding).a = caps;
  if (process.noNewPrivileges) writer.add(Op::kNoNewPrivs);
  writer.add(Op::kReady);
  // Without no_new_privs a filter may only be loaded while CAP_SYS_ADMIN is still there.
  if (!process.noNewPrivileges) addFilter();
  {
    const auto& gids = process.user.additionalGids;
    if (gids.size() > 65536) return Error(Code::kTooLarge, "more than 65536 groups");
    uint32_t list = writer.blob(std::string_view(reinterpret_cast<const char*>(gids.data()), gids.size() * 4));
    auto& step = writer.add(Op::kUser);
    step.a = process.user.uid;
    step.b = process.user.gid;
    step.c = process.user.umask.value_or(022);
    step.text = list;
    step.n = static_cast<uint32_t>(gids.size());
  }
  writer.add(Op::kCapset).a = caps;
  writer.add(Op::kChdir, process.cwd).b = 1;
  if (process.noNewPrivileges) addFilter();
  if (init) writer.add(Op::kInit);
  std::string path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
  for (const auto& variable : process.env) {
    if (variable.starts_with("PATH=")) path = variable.substr(5);
  }
  uint32_t args = writer.text(block(process.args)), env = writer.text(block(process.env)), search = writer.text(path);
  auto& step = writer.add(Op::kExec);
  step.text = args;
  step.n = static_cast<uint32_t>(process.args.size());
  step.more = env;
  step.a = process.env.size();
  step.path = search;
  if (caps != wanted && !process.privileged) warnings.push_back("some capabilities are not this program's to give");
  return {};
}

Result<CompiledPlan> compileContainer(const ContainerSpec& spec, const ContainerContext& context) {
  RETURN_IF_ERROR(checkId(spec.id, "container"));
  CompiledPlan plan;
  PlanWriter writer;
  auto& head = writer.head();
  head.id = writer.text(spec.id);
  head.flags |= (spec.process.terminal ? wire::kTerminal : 0u) | (spec.stdinOpen ? wire::kStdinOpen : 0u);
  head.logPath = writer.text(spec.log.path);
  head.logSize = spec.log.maxSize;
  head.logFiles = std::max(1u, spec.log.maxFiles);
  if (spec.log.path.size() >= 1000) return Error(Code::kInvalid, "log path is longer than 1000 bytes");
  head.cloneFlags = CLONE_NEWNS;
  switch (spec.pid.mode) {
    case Namespace::Mode::kNew: head.cloneFlags |= CLONE_NEWPID; break;
    case Namespace::Mode::kHost: break;
    case Namespace::Mode::kPath:
      head.pidMode = wire::PidMode::kPath;
      head.pidPath = writer.text(spec.pid.path);
      break;
    case Namespace::Mode::kSandbox:
      if (context.sharedPid)
        head.pidMode = wire::PidMode::kSandbox;
      else
        head.cloneFlags |= CLONE_NEWPID;
      break;
  }
  if (!(head.cloneFlags & CLONE_NEWPID)) head.flags |= wire::kKillGroup;
  addJoin(writer, context.group);
  uint64_t fresh = spec.cgroup.mode == Namespace::Mode::kHost ? 0 : CLONE_NEWCGROUP;
  std::optional<EnterUsers> users;
  if (context.firstUser) users = EnterUsers{*context.firstUser, std::exchange(fresh, 0), true};
  auto place = [&](const Namespace& ns, uint64_t flag, const char* name) {
    if (ns.mode == Namespace::Mode::kNew) fresh |= flag;
    if (ns.mode == Namespace::Mode::kPath) writer.add(Op::kSetns, ns.path).a = flag;
    if (ns.mode == Namespace::Mode::kHost) writer.add(Op::kSetns, std::string("/proc/1/ns/") + name).a = flag;
  };
  place(spec.ipc, CLONE_NEWIPC, "ipc");
  place(spec.uts, CLONE_NEWUTS, "uts");
  place(spec.net, CLONE_NEWNET, "net");
  if (fresh) writer.add(Op::kUnshare).a = fresh;
  if (fresh & CLONE_NEWNET) writer.add(Op::kLoopbackUp);
  if (fresh & CLONE_NEWUTS && !spec.hostname.empty()) writer.add(Op::kHostname, spec.hostname);
  RETURN_IF_ERROR(addSysctls(writer, spec.sysctls));
  // Always written: the shim's own value must not be inherited.
  std::string score = std::to_string(spec.process.oomScoreAdj.value_or(0));
  writer.add(Op::kWriteFile, "/proc/self/oom_score_adj", wire::kWarnOnly).text = writer.text(score);
  if (users) writer.add(Op::kFileIds).a = users->first;
  RETURN_IF_ERROR(addFileSystem(writer, spec, context));
  RETURN_IF_ERROR(addProcess(writer, spec.process, spec.init, users, plan.warnings));
  plan.execStep = writer.names().size() - 1;
  ASSIGN_OR_RETURN(plan.file, writer.seal(&plan.stepNames));
  return plan;
}

Result<CompiledPlan> compileExec(const ProcessSpec& process, const std::string& containerId, const std::string& execId,
                                 const GroupEntry& group, std::optional<uint32_t> firstUser) {
  CompiledPlan plan;
  PlanWriter writer;
  auto& head = writer.head();
  head.id = writer.text(execId);
  head.target = writer.text(containerId);
  head.flags = wire::kIsExec | (process.terminal ? wire::kTerminal : 0u);
  head.pidMode = wire::PidMode::kTarget;
  addJoin(writer, group);
  std::string score = std::to_string(process.oomScoreAdj.value_or(0));
  writer.add(Op::kWriteFile, "/proc/self/oom_score_adj", wire::kWarnOnly).text = writer.text(score);
  writer.add(Op::kSetnsTarget).a = CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNET | CLONE_NEWCGROUP;
  std::optional<EnterUsers> users;
  if (firstUser) {
    users = EnterUsers{*firstUser};
    writer.add(Op::kFileIds).a = *firstUser;
  }
  if (process.terminal) {
    auto& step = writer.add(Op::kPty);
    step.a = process.rows;
    step.b = process.columns;
  } else {
    writer.add(Op::kStdio);
  }
  writer.add(Op::kSession).a = process.terminal;
  RETURN_IF_ERROR(addProcess(writer, process, false, users, plan.warnings));
  plan.execStep = writer.names().size() - 1;
  ASSIGN_OR_RETURN(plan.file, writer.seal(&plan.stepNames));
  return plan;
}

}  // namespace dhow::runtime
