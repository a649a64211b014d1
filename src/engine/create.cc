#include "create.h"

#include <array>

#include "base/files.h"
#include "base/strings.h"
#include "fields.h"

namespace dhow::engine {

namespace {

Error bad(std::string message) {
  return Error(Code::kBadRequest, std::move(message));
}

json::array environment(const image::RunConfig& image, const std::vector<std::string>& asked) {
  std::vector<std::string> merged;
  auto nameOf = [](const std::string& entry) { return entry.substr(0, entry.find('=')); };
  auto put = [&](const std::string& entry) {
    auto same =
        std::find_if(merged.begin(), merged.end(), [&](const auto& have) { return nameOf(have) == nameOf(entry); });
    if (same == merged.end())
      merged.push_back(entry);
    else
      *same = entry;
  };
  for (const auto& entry : image.env) put(entry);
  for (const auto& entry : asked) {
    // "NAME" without a value takes the variable away.
    if (entry.find('=') == std::string::npos)
      std::erase_if(merged, [&](const auto& have) { return nameOf(have) == entry; });
    else
      put(entry);
  }
  return toJson(merged);
}

// An entrypoint of one's own drops the image's command as well.
void mergeCommand(json::object& config, const image::RunConfig& image) {
  auto entrypoint = texts(config, "Entrypoint");
  auto command = texts(config, "Cmd");
  auto* asked = field(config, "Entrypoint");
  bool ownEntrypoint = asked && !asked->is_null();
  // [""] is how a client says: none at all.
  if (entrypoint.size() == 1 && entrypoint[0].empty()) entrypoint.clear();
  if (!ownEntrypoint) {
    entrypoint = image.entrypoint;
    if (command.empty()) command = image.cmd;
  }
  config["Entrypoint"] = entrypoint.empty() ? json::value(nullptr) : json::value(toJson(entrypoint));
  config["Cmd"] = command.empty() ? json::value(nullptr) : json::value(toJson(command));
}

// What the client leaves open of a health check is as the image has it.
Result<> mergeHealth(json::object& config, const image::RunConfig& image) {
  json::object check = child(config, "Healthcheck");
  for (const char* name : {"Interval", "Timeout", "StartPeriod", "StartInterval"}) {
    auto span = integer(check, name);
    if (span != 0 && span < 1000000) return bad(fmt::format("{} in Healthcheck cannot be less than 1ms", name));
  }
  if (integer(check, "Retries") < 0) return bad("Retries in Healthcheck cannot be negative");
  if (image.healthcheck) {
    const auto& given = *image.healthcheck;
    if (texts(check, "Test").empty()) check["Test"] = toJson(given.test);
    auto inherit = [&](const char* name, int64_t value) {
      if (integer(check, name) == 0 && value > 0) check[name] = value;
    };
    inherit("Interval", given.interval.count());
    inherit("Timeout", given.timeout.count());
    inherit("StartPeriod", given.startPeriod.count());
    inherit("StartInterval", given.startInterval.count());
    inherit("Retries", given.retries);
  }
  if (!check.empty()) config["Healthcheck"] = std::move(check);
  return {};
}

void mergeConfig(Container& container, const image::RunConfig& image) {
  auto& config = container.config;
  config["Env"] = environment(image, texts(config, "Env"));
  mergeCommand(config, image);
  if (text(config, "User").empty()) config["User"] = image.user;
  if (text(config, "WorkingDir").empty()) config["WorkingDir"] = image.workingDir;
  if (text(config, "StopSignal").empty() && !image.stopSignal.empty()) config["StopSignal"] = image.stopSignal;
  if (texts(config, "Shell").empty() && !image.shell.empty()) config["Shell"] = toJson(image.shell);
  if (text(config, "Hostname").empty() && text(container.hostConfig, "UTSMode") != "host")
    config["Hostname"] = container.id.substr(0, 12);
  json::object labels;
  for (const auto& [key, value] : image.labels) labels[key] = value;
  for (const auto& [key, value] : child(config, "Labels")) labels[key] = value;
  config["Labels"] = std::move(labels);
  json::object exposed = child(config, "ExposedPorts");
  for (const auto& port : image.exposedPorts) {
    if (!exposed.contains(port)) exposed[port] = json::object();
  }
  if (!exposed.empty()) config["ExposedPorts"] = std::move(exposed);
  for (const auto* flag : {"AttachStdin", "AttachStdout", "AttachStderr", "Tty", "OpenStdin", "StdinOnce"})
    config[flag] = boolean(config, flag);
}

}  // namespace

Result<> checkLimits(const json::object& host, std::vector<std::string>& warnings) {
  int64_t memory = integer(host, "Memory");
  if (memory != 0 && memory < (6 << 20)) return bad("Minimum memory limit allowed is 6MB");
  int64_t swap = integer(host, "MemorySwap");
  if (memory == 0 && swap > 0)
    return bad("You should always set the Memory limit when using Memoryswap limit, see usage");
  if (memory > 0 && swap > 0 && swap < memory)
    return bad("Minimum memoryswap limit should be larger than memory limit, see usage");
  int64_t nano = integer(host, "NanoCpus");
  if (nano < 0) return bad("NanoCPUs must be a positive value");
  if (nano > 0 && (integer(host, "CpuQuota") > 0 || integer(host, "CpuPeriod") > 0))
    return bad("Conflicting options: Nano CPUs and CPU Period cannot both be set");
  if (integer(host, "ShmSize") < 0) return bad("SHM size can not be less than 0");
  auto driver = text(child(host, "LogConfig"), "Type");
  if (driver != "json-file" && driver != "local")
    return bad("logger: no log driver named '" + driver + "' is registered");
  auto policy = text(child(host, "RestartPolicy"), "Name");
  if (!policy.empty() && policy != "no" && policy != "always" && policy != "on-failure" && policy != "unless-stopped")
    return bad("invalid restart policy: unknown policy '" + policy +
               "'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'");
  if (boolean(host, "AutoRemove") && !policy.empty() && policy != "no")
    return bad("can't create 'AutoRemove' container with restart policy");
  if (boolean(host, "OomKillDisable") && memory == 0)
    warnings.push_back(
        "OOM killer is disabled for the container, but no memory limit is set, this can result in the system running "
        "out of resources.");
  return {};
}

namespace {

// What Docker's daemon fills in; its clients read it back.
void fillDefaults(json::object& host) {
  json::object log = child(host, "LogConfig");
  if (text(log, "Type").empty()) log["Type"] = "json-file";
  if (child(log, "Config").empty()) log["Config"] = json::object();
  host["LogConfig"] = std::move(log);
  if (integer(host, "ShmSize") == 0) host["ShmSize"] = 64 << 20;
  if (text(host, "IpcMode").empty()) host["IpcMode"] = "private";
  if (text(host, "CgroupnsMode").empty()) host["CgroupnsMode"] = "private";
}

Result<std::string> cleanTarget(const std::string& target) {
  if (target.empty() || target[0] != '/')
    return bad("invalid mount config for type \"bind\": invalid mount path: '" + target +
               "' mount path must be absolute");
  std::string out;
  for (const auto& part : split(target, '/')) {
    if (part.empty() || part == ".") continue;
    if (part == "..") return bad("invalid mount path: '" + target + "'");
    out += "/" + part;
  }
  if (out.empty()) return bad("invalid volume specification: destination can't be '/'");
  return out;
}

class MountCollector {
 public:
  MountCollector(Container& container, const image::Snapshot& snapshot, Volumes& volumes)
      : container_(container), snapshot_(snapshot), volumes_(volumes) {}

  Result<> collect(const image::RunConfig& image) {
    for (const auto& bind : texts(container_.hostConfig, "Binds")) RETURN_IF_ERROR(addBind(bind));
    for (const auto& mount : list(container_.hostConfig, "Mounts")) {
      if (mount.is_object()) RETURN_IF_ERROR(addMount(mount.get_object()));
    }
    for (const auto& [target, options] : child(container_.hostConfig, "Tmpfs"))
      RETURN_IF_ERROR(addTmpfs(std::string(target), options.is_string() ? std::string(options.get_string()) : ""));
    for (const auto& [target, unused] : child(container_.config, "Volumes"))
      RETURN_IF_ERROR(addAnonymous(std::string(target)));
    for (const auto& target : image.volumes) RETURN_IF_ERROR(addAnonymous(target));
    return {};
  }

 private:
  bool taken(const std::string& target) const {
    return std::any_of(container_.mounts.begin(), container_.mounts.end(),
                       [&](const auto& m) { return m.destination == target; });
  }

  Result<> add(MountPoint mount) {
    ASSIGN_OR_RETURN(mount.destination, cleanTarget(mount.destination));
    if (taken(mount.destination)) return bad("Duplicate mount point: " + mount.destination);
    container_.mounts.push_back(std::move(mount));
    return {};
  }

  Result<> addVolume(MountPoint mount, bool copy) {
    ASSIGN_OR_RETURN(mount.destination, cleanTarget(mount.destination));
    bool made = false;
    ASSIGN_OR_RETURN(auto volume, volumes_.create(mount.name, {}, {}, container_.created, &made));
    if (made) container_.newVolumes.push_back(volume.name);
    mount.type = "volume";
    mount.name = volume.name;
    mount.source = volume.mountpoint;
    if (copy) RETURN_IF_ERROR(Volumes::copyUp(snapshot_, mount.destination, volume));
    return add(std::move(mount));
  }

  // "/host:/inside[:options]", "name:/inside[:options]" or "/inside".
  Result<> addBind(const std::string& bind) {
    auto parts = split(bind, ':');
    if (parts.size() > 3) return bad("invalid volume specification: '" + bind + "'");
    if (parts.size() == 1) return addAnonymous(parts[0]);
    MountPoint mount;
    mount.source = parts[0];
    mount.destination = parts[1];
    mount.mode = parts.size() == 3 ? parts[2] : "";
    bool copy = true;
    for (const auto& option : split(mount.mode, ',')) {
      if (option == "ro")
        mount.writable = false;
      else if (option == "nocopy")
        copy = false;
      else if (option == "rshared" || option == "shared" || option == "rslave" || option == "slave" ||
               option == "rprivate" || option == "private")
        mount.propagation = option;
      else if (!option.empty() && option != "rw" && option != "z" && option != "Z" && option != "cached" &&
               option != "delegated" && option != "consistent")
        return bad("invalid mode: " + mount.mode);
    }
    if (mount.source.empty()) return bad("invalid volume specification: '" + bind + "': empty section between colons");
    if (mount.source[0] != '/') {
      mount.name = mount.source;
      return addVolume(std::move(mount), copy);
    }
    mount.type = "bind";
    // -v makes a missing folder; --mount does not.
    if (!pathExists(mount.source)) RETURN_IF_ERROR(makeDirs(mount.source));
    return add(std::move(mount));
  }

  Result<> addMount(const json::object& asked) {
    MountPoint mount;
    auto type = text(asked, "Type");
    mount.source = text(asked, "Source");
    mount.destination = text(asked, "Target");
    mount.writable = !boolean(asked, "ReadOnly");
    if (type == "volume") {
      mount.name = mount.source;
      return addVolume(std::move(mount), !boolean(child(asked, "VolumeOptions"), "NoCopy"));
    }
    if (type == "tmpfs") {
      const auto& options = child(asked, "TmpfsOptions");
      std::string words;
      if (auto size = integer(options, "SizeBytes")) words += ",size=" + std::to_string(size);
      if (auto mode = integer(options, "Mode")) words += fmt::format(",mode={:o}", mode);
      return addTmpfs(mount.destination, words);
    }
    if (type != "bind") return bad("mount type unknown: \"" + type + "\"");
    if (mount.source.empty() || mount.source[0] != '/')
      return bad("invalid mount config for type \"bind\": invalid mount path: '" + mount.source +
                 "' mount path must be absolute");
    if (!pathExists(mount.source)) {
      if (!boolean(child(asked, "BindOptions"), "CreateMountpoint"))
        return bad("invalid mount config for type \"bind\": bind source path does not exist: " + mount.source);
      RETURN_IF_ERROR(makeDirs(mount.source));
    }
    mount.type = "bind";
    mount.propagation = text(child(asked, "BindOptions"), "Propagation");
    return add(std::move(mount));
  }

  Result<> addTmpfs(std::string target, const std::string& options) {
    MountPoint mount;
    mount.type = "tmpfs";
    mount.destination = std::move(target);
    for (const auto& option : split(options, ',')) {
      if (option.empty() || option == "rw") continue;
      if (option == "ro") {
        mount.writable = false;
        continue;
      }
      auto pair = splitOnce(option, '=');
      mount.options.emplace_back(pair ? std::string(pair->first) : option, pair ? std::string(pair->second) : "");
    }
    return add(std::move(mount));
  }

  Result<> addAnonymous(const std::string& target) {
    ASSIGN_OR_RETURN(auto clean, cleanTarget(target));
    if (taken(clean)) return {};
    MountPoint mount;
    mount.destination = clean;
    return addVolume(std::move(mount), true);
  }

  Container& container_;
  const image::Snapshot& snapshot_;
  Volumes& volumes_;
};

}  // namespace

Result<> configure(Container& container, const json::object& body, const image::Image& image,
                   const image::Snapshot& snapshot, Volumes& volumes, std::vector<std::string>& warnings) {
  container.hostConfig = child(body, "HostConfig");
  container.config = body;
  container.config.erase("HostConfig");
  container.config.erase("NetworkingConfig");
  if (auto users = text(container.hostConfig, "UsernsMode"); !users.empty() && users != "host")
    return bad("invalid user namespace mode: " + std::string(users));
  auto mode = text(container.hostConfig, "NetworkMode");
  if (mode.empty() || mode == "default") container.hostConfig["NetworkMode"] = mode = "bridge";
  if (text(child(container.hostConfig, "RestartPolicy"), "Name").empty())
    container.hostConfig["RestartPolicy"] = json::object{{"Name", "no"}, {"MaximumRetryCount", 0}};
  fillDefaults(container.hostConfig);
  RETURN_IF_ERROR(checkLimits(container.hostConfig, warnings));
  mergeConfig(container, image.config.run);
  RETURN_IF_ERROR(mergeHealth(container.config, image.config.run));
  if (texts(container.config, "Entrypoint").empty() && texts(container.config, "Cmd").empty())
    return bad("no command specified");
  RETURN_IF_ERROR(wantedPorts(container));
  auto directory = text(container.config, "WorkingDir");
  if (!directory.empty() && directory[0] != '/')
    return bad("the working directory '" + directory + "' is invalid, it needs to be an absolute path");
  return MountCollector(container, snapshot, volumes).collect(image.config.run);
}

Result<std::vector<PublishedPort>> wantedPorts(const Container& container) {
  std::vector<PublishedPort> ports;
  auto parsePort = [](std::string_view spec) -> Result<PublishedPort> {
    auto pair = splitOnce(spec, '/');
    auto number = parseUint(pair ? pair->first : spec);
    auto protocol = parseProtocol(pair ? pair->second : "tcp");
    if (!number || *number == 0 || *number > 65535) return bad(fmt::format("invalid port specification: \"{}\"", spec));
    if (!protocol.ok()) return bad(fmt::format("invalid port specification: \"{}\"", spec));
    PublishedPort port;
    port.containerPort = static_cast<uint16_t>(*number);
    port.protocol = *protocol;
    return port;
  };
  const auto& bindings = child(container.hostConfig, "PortBindings");
  for (const auto& [spec, hosts] : bindings) {
    ASSIGN_OR_RETURN(auto port, parsePort(spec));
    if (!hosts.is_array()) continue;
    for (const auto& host : hosts.get_array()) {
      if (!host.is_object()) continue;
      auto address = text(host.get_object(), "HostIp");
      port.hostAddress = {};
      if (!address.empty()) {
        auto parsed = IpAddress::parse(address);
        if (!parsed.ok()) return bad("invalid IP address in port binding: " + address);
        port.hostAddress = *parsed;
      }
      auto number = text(host.get_object(), "HostPort");
      auto value = number.empty() ? std::optional<uint64_t>(0) : parseUint(number);
      if (!value || *value > 65535) return bad("invalid port specification: \"" + number + "\"");
      port.hostPort = static_cast<uint16_t>(*value);
      ports.push_back(port);
    }
  }
  if (boolean(container.hostConfig, "PublishAllPorts")) {
    for (const auto& [spec, unused] : child(container.config, "ExposedPorts")) {
      if (bindings.contains(spec)) continue;
      ASSIGN_OR_RETURN(auto port, parsePort(spec));
      ports.push_back(port);
    }
  }
  return ports;
}

bool validContainerName(std::string_view name) {
  if (name.size() < 2 || !std::isalnum(static_cast<unsigned char>(name[0]))) return false;
  return std::all_of(name.begin(), name.end(),
                     [](unsigned char c) { return std::isalnum(c) || c == '_' || c == '.' || c == '-'; });
}

std::string randomName(uint64_t random) {
  static constexpr std::array kHow = {"able",   "bold",   "brave", "bright", "brisk",  "calm",   "clever", "daring",
                                      "eager",  "fair",   "fleet", "gentle", "happy",  "hardy",  "jolly",  "keen",
                                      "kind",   "lively", "lucky", "merry",  "mighty", "nimble", "noble",  "patient",
                                      "proud",  "quick",  "quiet", "ready",  "serene", "sharp",  "steady", "swift",
                                      "trusty", "warm",   "wise",  "zesty"};
  static constexpr std::array kWho = {"amundsen",   "baret",    "battuta", "bering",    "bligh",    "cabot",
                                      "columbus",   "cook",     "dacosta", "dias",      "drake",    "erikson",
                                      "flinders",   "gama",     "hanno",   "heyerdahl", "hudson",   "ibnmajid",
                                      "kupe",       "magellan", "nansen",  "polo",      "pytheas",  "ross",
                                      "shackleton", "sindbad",  "slocum",  "tasman",    "vespucci", "zhenghe"};
  return fmt::format("{}_{}", kHow[random % kHow.size()], kWho[(random / kHow.size()) % kWho.size()]);
}

}  // namespace dhow::engine
