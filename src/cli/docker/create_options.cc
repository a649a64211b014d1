#include "create_options.h"

#include <unistd.h>

#include <cmath>

#include "base/files.h"
#include "base/strings.h"

namespace dhow::cli::docker {

namespace {

Error invalid(std::string message) {
  return Error(Code::kInvalid, std::move(message));
}

json::array toJson(const std::vector<std::string>& values) {
  json::array out;
  for (const auto& value : values) out.emplace_back(value);
  return out;
}

// "NAME" takes the value from here; lines of files with "#" are comments.
Result<json::array> environment(const CreateOptions& options) {
  json::array out;
  auto add = [&](const std::string& entry) {
    if (entry.find('=') != std::string::npos)
      out.emplace_back(entry);
    else if (auto* value = std::getenv(entry.c_str()))
      out.emplace_back(entry + "=" + value);
  };
  for (const auto& path : options.envFiles) {
    auto content = readFile(path, 1 << 20);
    if (!content.ok()) return invalid("open " + path + ": " + content.error().message());
    for (const auto& line : split(*content, '\n')) {
      if (!trim(line).empty() && line[0] != '#') add(line);
    }
  }
  for (const auto& entry : options.env) add(entry);
  return out;
}

struct Ports {
  json::object bindings, exposed;
};

// "[[address:]host:]container[/protocol]"; host and container may be ranges of the same length.
Result<> addPort(Ports& ports, const std::string& text) {
  auto protocolAt = text.find('/');
  auto protocol = protocolAt == std::string::npos ? "tcp" : text.substr(protocolAt + 1);
  auto rest = text.substr(0, protocolAt);
  auto parts = split(rest, ':');
  auto bad = [&] { return invalid("invalid publish opts format (should be name=value but got '" + text + "')"); };
  if (parts.empty() || parts.size() > 3) return bad();
  auto range = [](const std::string& part) -> std::optional<std::pair<uint64_t, uint64_t>> {
    auto pair = splitOnce(part, '-');
    auto from = parseUint(pair ? pair->first : std::string_view(part));
    auto to = pair ? parseUint(pair->second) : from;
    if (!from || !to || *from > *to || *to > 65535) return std::nullopt;
    return std::pair(*from, *to);
  };
  auto inside = range(parts.back());
  if (!inside) return invalid("invalid containerPort: " + parts.back());
  std::string hostText = parts.size() > 1 ? parts[parts.size() - 2] : "";
  auto outside = hostText.empty() ? inside : range(hostText);
  if (!outside) return invalid("invalid hostPort: " + hostText);
  if (outside->second - outside->first != inside->second - inside->first)
    return invalid("invalid ranges specified for container and host Ports: " + text);
  for (uint64_t i = 0; i <= inside->second - inside->first; ++i) {
    auto key = fmt::format("{}/{}", inside->first + i, protocol);
    ports.exposed[key] = json::object();
    auto& entry = ports.bindings[key];
    if (!entry.is_array()) entry = json::array();
    entry.get_array().push_back(json::object{{"HostIp", parts.size() == 3 ? parts[0] : ""},
                                             {"HostPort", hostText.empty() ? "" : std::to_string(outside->first + i)}});
  }
  return {};
}

// A relative folder is one of this machine.
std::string absolute(const std::string& bind) {
  if (!bind.starts_with(".")) return bind;
  char folder[4096];
  return ::getcwd(folder, sizeof folder) ? std::string(folder) + "/" + bind : bind;
}

Result<> setResources(const CreateOptions& options, json::object& host) {
  if (!options.memory.empty()) {
    ASSIGN_OR_RETURN(auto bytes, parseSize(options.memory));
    host["Memory"] = bytes;
  }
  if (options.memorySwap == "-1") {
    host["MemorySwap"] = -1;
  } else if (!options.memorySwap.empty()) {
    ASSIGN_OR_RETURN(auto bytes, parseSize(options.memorySwap));
    host["MemorySwap"] = bytes;
  }
  if (!options.shmSize.empty()) {
    ASSIGN_OR_RETURN(auto bytes, parseSize(options.shmSize));
    host["ShmSize"] = bytes;
  }
  if (!options.cpus.empty()) {
    char* end = nullptr;
    double count = std::strtod(options.cpus.c_str(), &end);
    if (*end || !std::isfinite(count) || count < 0 || count > 1e6)
      return invalid("invalid argument \"" + options.cpus + "\" for \"--cpus\" flag: failed to parse " + options.cpus +
                     " as a rational number");
    host["NanoCpus"] = static_cast<int64_t>(std::llround(count * 1e9));
  }
  auto number = [&](const std::string& text, const char* flag, const char* field) -> Result<> {
    if (text.empty()) return {};
    auto value = parseInt(text);
    if (!value) return invalid(fmt::format("invalid argument \"{}\" for \"{}\" flag", text, flag));
    host[field] = *value;
    return {};
  };
  RETURN_IF_ERROR(number(options.cpuShares, "--cpu-shares", "CpuShares"));
  RETURN_IF_ERROR(number(options.pids, "--pids-limit", "PidsLimit"));
  if (!options.cpuset.empty()) host["CpusetCpus"] = options.cpuset;
  return {};
}

}  // namespace

void addTo(CLI::App& app, CreateOptions& o) {
  // -h is the host's name here.
  app.set_help_flag("--help", "print this help");
  app.add_flag("-d,--detach", o.detach, "run in the background and print the id");
  app.add_flag("-i,--interactive", o.interactive, "keep standard input open");
  app.add_flag("-t,--tty", o.tty, "allocate a terminal");
  app.add_flag("--rm", o.remove, "remove the container when it has ended");
  app.add_option("--name", o.name, "the container's name");
  addMany(&app, "-p,--publish", o.publish, "[address:][host:]container[/protocol]");
  app.add_flag("-P,--publish-all", o.publishAll, "publish all exposed ports on free ones");
  addMany(&app, "--expose", o.expose, "port[/protocol]");
  addMany(&app, "-v,--volume", o.volumes, "source:target[:options]");
  addMany(&app, "--tmpfs", o.tmpfs, "target[:options]");
  addMany(&app, "-e,--env", o.env, "NAME=value, or NAME to pass it on");
  addMany(&app, "--env-file", o.envFiles, "file of NAME=value lines");
  app.add_option("-w,--workdir", o.workdir, "working directory");
  app.add_option("-u,--user", o.user, "name|uid[:group|gid]");
  addMany(&app, "--group-add", o.groupAdd, "further groups");
  app.add_option("-h,--hostname", o.hostname, "the container's host name");
  app.add_option("-m,--memory", o.memory, "memory limit, like 64m");
  app.add_option("--memory-swap", o.memorySwap, "limit of memory and swap together; -1 for none");
  app.add_option("--cpus", o.cpus, "number of processors, like 0.5");
  app.add_option("-c,--cpu-shares", o.cpuShares, "relative weight");
  app.add_option("--cpuset-cpus", o.cpuset, "processors that may be used, like 0-3");
  app.add_option("--pids-limit", o.pids, "most processes");
  app.add_option("--shm-size", o.shmSize, "size of /dev/shm");
  app.add_flag("--read-only", o.readOnly, "mount the root read-only");
  app.add_flag("--privileged", o.privileged, "all capabilities and devices");
  app.add_flag("--init", o.init, "an init that reaps processes as the first one");
  addMany(&app, "--cap-add", o.capAdd, "capability to add");
  addMany(&app, "--cap-drop", o.capDrop, "capability to drop");
  addMany(&app, "--security-opt", o.securityOpt, "seccomp=..., no-new-privileges");
  addMany(&app, "--device", o.devices, "host[:container[:rwm]]");
  addMany(&app, "--sysctl", o.sysctls, "name=value");
  addMany(&app, "--add-host", o.addHost, "name:address");
  addMany(&app, "--dns", o.dns, "name server");
  addMany(&app, "-l,--label", o.labels, "key=value");
  addMany(&app, "-a,--attach", o.attach, "stdin, stdout, stderr");
  app.add_option("--network,--net", o.network, "bridge, host, none, container:ID");
  app.add_option("--pid", o.pidMode, "host");
  app.add_option("--ipc", o.ipcMode, "private, host");
  app.add_option("--restart", o.restart, "no, on-failure[:times], always, unless-stopped");
  app.add_option("--stop-signal", o.stopSignal, "signal that ends it");
  app.add_option("--stop-timeout", o.stopTimeout, "seconds until it is killed");
  app.add_option("--platform", o.platform, "os/arch[/variant]");
  app.add_option("--pull", o.pull, "always, missing, never")->check(CLI::IsMember({"always", "missing", "never"}));
  app.add_flag("-q,--quiet", o.quiet, "no progress of a pull");
  o.entrypointOption = app.add_option("--entrypoint", o.entrypoint, "command instead of the image's entrypoint");
  app.prefix_command();
}

Result<json::object> createBody(const CreateOptions& options, const std::vector<std::string>& words) {
  json::object host, body;
  body["Image"] = words[0];
  if (words.size() > 1) body["Cmd"] = toJson({words.begin() + 1, words.end()});
  if (options.entrypointOption->count() > 0) body["Entrypoint"] = json::array{options.entrypoint};
  ASSIGN_OR_RETURN(body["Env"], environment(options));
  body["Hostname"] = options.hostname;
  body["User"] = options.user;
  body["WorkingDir"] = options.workdir;
  body["Tty"] = options.tty;
  body["OpenStdin"] = options.interactive;
  body["AttachStdin"] = options.interactive && !options.detach;
  body["StdinOnce"] = options.interactive && !options.detach;
  body["AttachStdout"] = body["AttachStderr"] = !options.detach;
  if (!options.stopSignal.empty()) body["StopSignal"] = options.stopSignal;
  if (options.stopTimeout >= 0) body["StopTimeout"] = options.stopTimeout;
  json::object labels;
  for (const auto& label : options.labels) {
    auto pair = splitOnce(label, '=');
    labels[pair ? pair->first : std::string_view(label)] = pair ? std::string(pair->second) : "";
  }
  body["Labels"] = std::move(labels);
  Ports ports;
  for (const auto& port : options.publish) RETURN_IF_ERROR(addPort(ports, port));
  for (const auto& port : options.expose)
    ports.exposed[port.find('/') == std::string::npos ? port + "/tcp" : port] = json::object();
  body["ExposedPorts"] = std::move(ports.exposed);
  host["PortBindings"] = std::move(ports.bindings);
  host["PublishAllPorts"] = options.publishAll;
  json::array binds;
  json::object anonymous, tmpfs, sysctls;
  for (const auto& volume : options.volumes) {
    if (volume.find(':') == std::string::npos)
      anonymous[volume] = json::object();
    else
      binds.emplace_back(absolute(volume));
  }
  body["Volumes"] = std::move(anonymous);
  host["Binds"] = std::move(binds);
  for (const auto& mount : options.tmpfs) {
    auto pair = splitOnce(mount, ':');
    tmpfs[pair ? pair->first : std::string_view(mount)] = pair ? std::string(pair->second) : "";
  }
  host["Tmpfs"] = std::move(tmpfs);
  for (const auto& sysctl : options.sysctls) {
    auto pair = splitOnce(sysctl, '=');
    if (pair) sysctls[pair->first] = std::string(pair->second);
  }
  host["Sysctls"] = std::move(sysctls);
  json::array devices;
  for (const auto& device : options.devices) {
    auto parts = split(device, ':');
    devices.push_back(json::object{{"PathOnHost", parts[0]},
                                   {"PathInContainer", parts.size() > 1 ? parts[1] : parts[0]},
                                   {"CgroupPermissions", parts.size() > 2 ? parts[2] : "rwm"}});
  }
  host["Devices"] = std::move(devices);
  for (const auto& [field, values] : std::initializer_list<std::pair<const char*, const std::vector<std::string>*>>{
           {"CapAdd", &options.capAdd},
           {"CapDrop", &options.capDrop},
           {"SecurityOpt", &options.securityOpt},
           {"ExtraHosts", &options.addHost},
           {"Dns", &options.dns},
           {"GroupAdd", &options.groupAdd}})
    host[field] = toJson(*values);
  if (!options.restart.empty()) {
    auto pair = splitOnce(options.restart, ':');
    auto times = pair ? parseInt(pair->second) : std::optional<int64_t>(0);
    if (!times) return invalid("invalid restart policy format: maximum retry count must be an integer");
    host["RestartPolicy"] =
        json::object{{"Name", pair ? std::string(pair->first) : options.restart}, {"MaximumRetryCount", *times}};
  }
  RETURN_IF_ERROR(setResources(options, host));
  host["NetworkMode"] = options.network;
  host["PidMode"] = options.pidMode;
  host["IpcMode"] = options.ipcMode;
  host["AutoRemove"] = options.remove;
  host["ReadonlyRootfs"] = options.readOnly;
  host["Privileged"] = options.privileged;
  host["Init"] = options.init;
  body["HostConfig"] = std::move(host);
  return body;
}

}  // namespace dhow::cli::docker
