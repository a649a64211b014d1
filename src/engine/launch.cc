#include "launch.h"

#include <csignal>
#include <cstring>

#include "base/files.h"
#include "base/saturate.h"
#include "base/strings.h"
#include "fields.h"
#include "runtime/user.h"

namespace dhow::engine {

namespace {

constexpr uint64_t kLogSize = 20 << 20;
constexpr uint32_t kLogFiles = 5;

runtime::Namespace namespaceOf(const std::string& mode, runtime::Namespace usual) {
  if (mode == "host") return runtime::Namespace::host();
  return usual;
}

runtime::RootFs rootOf(const image::Snapshot& snapshot, bool readonly) {
  runtime::RootFs root;
  root.lower = snapshot.lowers;
  root.upper = snapshot.upper;
  root.work = snapshot.work;
  root.readonly = readonly;
  return root;
}

runtime::Seccomp seccompOf(const json::object& host) {
  runtime::Seccomp seccomp;
  for (const auto& option : texts(host, "SecurityOpt")) {
    auto pair = splitOnce(option, option.find('=') != std::string::npos ? '=' : ':');
    if (!pair || pair->first != "seccomp") continue;
    if (pair->second == "unconfined") {
      seccomp.mode = runtime::Seccomp::Mode::kUnconfined;
    } else if (pair->second != "builtin") {
      seccomp.mode = runtime::Seccomp::Mode::kProfile;
      seccomp.profile = std::string(pair->second);
    }
  }
  return seccomp;
}

bool noNewPrivileges(const json::object& host) {
  for (const auto& option : texts(host, "SecurityOpt")) {
    if (option == "no-new-privileges" || option == "no-new-privileges:true" || option == "no-new-privileges=true")
      return true;
  }
  return false;
}

std::optional<int64_t> positive(const json::object& object, std::string_view name) {
  auto value = integer(object, name);
  return value > 0 ? std::optional(value) : std::nullopt;
}

}  // namespace

runtime::Resources resourcesOf(const json::object& host) {
  runtime::Resources out;
  out.memory = positive(host, "Memory");
  if (auto swap = integer(host, "MemorySwap"))
    out.memorySwap = swap;
  else if (out.memory)
    out.memorySwap = saturatingMultiply(*out.memory, 2);
  out.memoryReservation = positive(host, "MemoryReservation");
  if (auto* value = field(host, "MemorySwappiness"); value && value->is_int64() && value->get_int64() >= 0)
    out.memorySwappiness = value->get_int64();
  out.oomKillDisable = boolean(host, "OomKillDisable");
  if (auto shares = positive(host, "CpuShares")) out.cpuShares = static_cast<uint64_t>(*shares);
  if (auto period = positive(host, "CpuPeriod")) out.cpuPeriod = static_cast<uint64_t>(*period);
  out.cpuQuota = positive(host, "CpuQuota");
  if (auto nano = positive(host, "NanoCpus")) {
    out.cpuPeriod = 100000;
    out.cpuQuota = *nano / 10000;  // billionths of a processor over 100 ms
  }
  out.cpusetCpus = text(host, "CpusetCpus");
  out.cpusetMems = text(host, "CpusetMems");
  out.pids = positive(host, "PidsLimit");
  if (auto weight = positive(host, "BlkioWeight")) out.blkioWeight = static_cast<uint64_t>(*weight);
  return out;
}

namespace {

runtime::Mount mountOf(const MountPoint& point) {
  runtime::Mount mount;
  mount.type = point.type == "tmpfs" ? "tmpfs" : "bind";
  mount.source = point.type == "tmpfs" ? "tmpfs" : point.source;
  mount.target = point.destination;
  mount.readonly = !point.writable;
  if (point.type == "tmpfs") {
    mount.nosuid = mount.nodev = mount.noexec = true;
    for (const auto& [key, value] : point.options) {
      if (key == "exec")
        mount.noexec = false;
      else if (key == "suid")
        mount.nosuid = false;
      else if (key == "dev")
        mount.nodev = false;
      else if (key != "noexec" && key != "nosuid" && key != "nodev")
        mount.options.emplace_back(key, value);
    }
  }
  if (point.propagation.find("shared") != std::string::npos) mount.propagation = runtime::Mount::Propagation::kShared;
  if (point.propagation.find("slave") != std::string::npos) mount.propagation = runtime::Mount::Propagation::kSlave;
  return mount;
}

std::string hostsOf(const Container& container) {
  std::string out =
      "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\nff00::\tip6-mcastprefix\n"
      "ff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n";
  for (const auto& extra : texts(container.hostConfig, "ExtraHosts")) {
    auto at = extra.find_first_of(":=");
    if (at == std::string::npos) continue;
    auto address = extra.substr(at + 1);
    if (address == "host-gateway" && container.network) address = container.network->gateway.str();
    out += address + "\t" + extra.substr(0, at) + "\n";
  }
  if (container.network)
    out += container.network->address.address.str() + "\t" + text(container.config, "Hostname") + "\n";
  return out;
}

// The machine's own, without nameservers that only the machine can reach.
std::string resolvConfOf(const Container& container) {
  std::string out;
  for (const auto& server : texts(container.hostConfig, "Dns")) out += "nameserver " + server + "\n";
  for (const auto& domain : texts(container.hostConfig, "DnsSearch")) out += "search " + domain + "\n";
  auto options = texts(container.hostConfig, "DnsOptions");
  if (!options.empty()) out += "options " + join(options, " ") + "\n";
  if (out.find("nameserver") != std::string::npos) return out;
  auto machine = readFile("/etc/resolv.conf", 1 << 16);
  for (const auto& line : split(machine.ok() ? *machine : "", '\n')) {
    if (container.network && (line.find("nameserver 127.") == 0 || line.find("nameserver ::1") == 0)) continue;
    if (!trim(line).empty()) out += line + "\n";
  }
  return out;
}

Result<> writeEtc(const Container& container, const std::string& folder, std::vector<runtime::Mount>& mounts) {
  auto own = [&](const std::string& file, const std::string& target, const std::string& content) -> Result<> {
    RETURN_IF_ERROR(writeFile(folder + "/" + file, content));
    runtime::Mount mount;
    mount.source = folder + "/" + file;
    mount.target = target;
    mounts.push_back(mount);
    return {};
  };
  // host shares the machine's files; container:<id> those of the container that it joins would differ only in names.
  RETURN_IF_ERROR(own("hostname", "/etc/hostname", text(container.config, "Hostname") + "\n"));
  RETURN_IF_ERROR(own("hosts", "/etc/hosts", hostsOf(container)));
  return own("resolv.conf", "/etc/resolv.conf", resolvConfOf(container));
}

Result<> setUser(runtime::ProcessSpec& process, const runtime::RootFs& root, const std::string& user,
                 const std::vector<std::string>& groups) {
  ASSIGN_OR_RETURN(auto resolved, runtime::resolveUser(root, user, groups));
  process.user = resolved.user;
  // The main group counts among the others too, or a file that it may not read could be read by dropping it
  // (CVE-2022-36109).
  auto& gids = process.user.additionalGids;
  if (std::find(gids.begin(), gids.end(), process.user.gid) == gids.end()) gids.insert(gids.begin(), process.user.gid);
  bool hasHome =
      std::any_of(process.env.begin(), process.env.end(), [](const auto& e) { return e.starts_with("HOME="); });
  if (!hasHome) process.env.push_back("HOME=" + resolved.home);
  return {};
}

void setRights(runtime::ProcessSpec& process, const json::object& host) {
  process.privileged = boolean(host, "Privileged");
  process.capAdd = texts(host, "CapAdd");
  process.capDrop = texts(host, "CapDrop");
  process.seccomp = seccompOf(host);
  process.noNewPrivileges = noNewPrivileges(host);
}

void addDefaultEnv(std::vector<std::string>& env, const Container& container, bool tty) {
  auto missing = [&](std::string_view name) {
    return std::none_of(env.begin(), env.end(), [&](const auto& e) { return e.starts_with(name); });
  };
  std::vector<std::string> first;
  if (missing("PATH=")) first.push_back("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
  if (missing("HOSTNAME=")) first.push_back("HOSTNAME=" + text(container.config, "Hostname"));
  if (tty && missing("TERM=")) first.push_back("TERM=xterm");
  env.insert(env.begin(), first.begin(), first.end());
}

}  // namespace

Result<runtime::ContainerSpec> containerSpec(const Container& container, const image::Snapshot& snapshot,
                                             const LaunchPaths& paths) {
  const auto& config = container.config;
  const auto& host = container.hostConfig;
  runtime::ContainerSpec spec;
  spec.id = container.id;
  spec.root = rootOf(snapshot, boolean(host, "ReadonlyRootfs"));
  auto& process = spec.process;
  process.args = texts(config, "Entrypoint");
  for (auto& word : texts(config, "Cmd")) process.args.push_back(std::move(word));
  process.env = texts(config, "Env");
  process.terminal = container.tty();
  addDefaultEnv(process.env, container, process.terminal);
  if (auto directory = text(config, "WorkingDir"); !directory.empty()) process.cwd = directory;
  RETURN_IF_ERROR(setUser(process, spec.root, text(config, "User"), texts(host, "GroupAdd")));
  setRights(process, host);
  if (auto* score = field(host, "OomScoreAdj"); score && score->is_int64() && score->get_int64() != 0)
    process.oomScoreAdj = static_cast<int>(score->get_int64());
  for (const auto& item : list(host, "Ulimits")) {
    if (!item.is_object()) continue;
    const auto& limit = item.get_object();
    process.rlimits.push_back({text(limit, "Name"), static_cast<uint64_t>(integer(limit, "Soft")),
                               static_cast<uint64_t>(integer(limit, "Hard"))});
  }
  if (auto* size = field(host, "ConsoleSize"); size && size->is_array() && size->get_array().size() == 2) {
    const auto& pair = size->get_array();
    if (pair[0].is_int64() && pair[1].is_int64()) {
      process.rows = static_cast<uint16_t>(pair[0].get_int64());
      process.columns = static_cast<uint16_t>(pair[1].get_int64());
    }
  }
  for (const auto& point : container.mounts) spec.mounts.push_back(mountOf(point));
  RETURN_IF_ERROR(writeEtc(container, paths.folder, spec.mounts));
  for (const auto& item : list(host, "Devices")) {
    if (!item.is_object()) continue;
    const auto& device = item.get_object();
    spec.devices.push_back(
        {text(device, "PathOnHost"), text(device, "PathInContainer"), text(device, "CgroupPermissions")});
  }
  if (auto size = integer(host, "ShmSize"); size > 0) spec.shmSize = static_cast<uint64_t>(size);
  spec.resources = resourcesOf(host);
  spec.inSandboxCgroup = true;
  spec.stdinOpen = boolean(config, "OpenStdin");
  spec.log = {paths.log, kLogSize, kLogFiles};
  spec.pid = namespaceOf(text(host, "PidMode"), runtime::Namespace::own());
  spec.cgroup = namespaceOf(text(host, "CgroupnsMode"), runtime::Namespace::own());
  spec.init = boolean(host, "Init");
  return spec;
}

runtime::SandboxSpec sandboxSpec(const Container& container) {
  const auto& host = container.hostConfig;
  runtime::SandboxSpec spec;
  spec.id = container.id;
  spec.hostname = text(container.config, "Hostname");
  spec.domainname = text(container.config, "Domainname");
  spec.ipc = namespaceOf(text(host, "IpcMode"), runtime::Namespace::own());
  spec.uts = namespaceOf(text(host, "UTSMode"), runtime::Namespace::own());
  if (text(host, "NetworkMode") == "host") spec.net = runtime::Namespace::host();
  for (const auto& [key, value] : child(host, "Sysctls")) {
    if (value.is_string()) spec.sysctls.emplace_back(key, value.get_string());
  }
  return spec;
}

Result<runtime::ProcessSpec> execSpec(const Container& container, const image::Snapshot& snapshot,
                                      const json::object& exec) {
  runtime::ProcessSpec process;
  process.args = texts(exec, "Cmd");
  if (process.args.empty()) return Error(Code::kBadRequest, "No exec command specified");
  process.env = texts(container.config, "Env");
  process.terminal = boolean(exec, "Tty");
  addDefaultEnv(process.env, container, process.terminal);
  for (auto& entry : texts(exec, "Env")) {
    auto name = entry.substr(0, entry.find('=') + 1);
    std::erase_if(process.env, [&](const auto& have) { return have.starts_with(name); });
    process.env.push_back(std::move(entry));
  }
  process.cwd = text(exec, "WorkingDir");
  if (process.cwd.empty()) process.cwd = text(container.config, "WorkingDir");
  if (process.cwd.empty()) process.cwd = "/";
  auto user = text(exec, "User");
  if (user.empty()) user = text(container.config, "User");
  RETURN_IF_ERROR(setUser(process, rootOf(snapshot, false), user, texts(container.hostConfig, "GroupAdd")));
  setRights(process, container.hostConfig);
  process.privileged = process.privileged || boolean(exec, "Privileged");
  return process;
}

int signalOf(std::string_view name) {
  if (auto number = parseInt(name)) return *number > 0 && *number <= SIGRTMAX ? static_cast<int>(*number) : 0;
  std::string upper;
  for (char c : name) upper += static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  if (upper.starts_with("SIG")) upper.erase(0, 3);
  for (int signal = 1; signal < SIGRTMIN; ++signal) {
    const char* known = ::sigabbrev_np(signal);
    if (known && upper == known) return signal;
  }
  return 0;
}

}  // namespace dhow::engine
