#include "describe.h"

#include "base/strings.h"
#include "base/time.h"

namespace dhow::engine::docker {

namespace {

using namespace std::chrono;

constexpr const char* kNever = "0001-01-01T00:00:00Z";

std::string timeOrNever(WallTime time) {
  return time == WallTime{} ? kNever : formatTimeNano(time);
}

// Docker's wording of a length of time.
std::string human(Duration span) {
  auto s = duration_cast<seconds>(span).count();
  if (s < 1) return "Less than a second";
  if (s == 1) return "1 second";
  if (s < 60) return fmt::format("{} seconds", s);
  auto m = s / 60;
  if (m == 1) return "About a minute";
  if (m < 60) return fmt::format("{} minutes", m);
  auto h = (s + 1800) / 3600;
  if (h == 1) return "About an hour";
  if (h < 48) return fmt::format("{} hours", h);
  if (h < 24 * 7 * 2) return fmt::format("{} days", h / 24);
  if (h < 24 * 30 * 2) return fmt::format("{} weeks", h / 24 / 7);
  if (h < 24 * 365 * 2) return fmt::format("{} months", h / 24 / 30);
  return fmt::format("{} years", h / 24 / 365);
}

std::string commandLine(const Container& container) {
  auto words = texts(container.config, "Entrypoint");
  for (auto& word : texts(container.config, "Cmd")) words.push_back(std::move(word));
  for (auto& word : words) {
    if (word.empty() || word.find_first_of(" \t\n'\"\\$") != std::string::npos) {
      std::string quoted = "'";
      for (char c : word) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
      word = quoted + "'";
    }
  }
  return join(words, " ");
}

json::array portList(const Container& container) {
  json::array out;
  std::set<std::string> published;
  for (const auto& port : container.ports) {
    auto protocol = protocolName(port.protocol);
    published.insert(fmt::format("{}/{}", port.containerPort, protocol));
    out.push_back(json::object{{"IP", port.hostAddress.empty() ? "0.0.0.0" : port.hostAddress.str()},
                               {"PrivatePort", port.containerPort},
                               {"PublicPort", port.hostPort},
                               {"Type", protocol}});
  }
  for (const auto& [spec, unused] : child(container.config, "ExposedPorts")) {
    if (published.contains(std::string(spec))) continue;
    auto pair = splitOnce(spec, '/');
    auto number = parseUint(pair ? pair->first : std::string_view(spec));
    if (number) out.push_back(json::object{{"PrivatePort", *number}, {"Type", pair ? pair->second : "tcp"}});
  }
  return out;
}

json::object portMap(const Container& container) {
  json::object out;
  for (const auto& [spec, unused] : child(container.config, "ExposedPorts")) out[spec] = nullptr;
  for (const auto& port : container.ports) {
    auto& entry = out[fmt::format("{}/{}", port.containerPort, protocolName(port.protocol))];
    if (!entry.is_array()) entry = json::array();
    entry.get_array().push_back(json::object{{"HostIp", port.hostAddress.empty() ? "0.0.0.0" : port.hostAddress.str()},
                                             {"HostPort", std::to_string(port.hostPort)}});
  }
  return out;
}

json::array mountList(const Container& container) {
  json::array out;
  for (const auto& mount : container.mounts) {
    if (mount.type == "tmpfs") continue;
    json::object entry{
        {"Type", mount.type},
        {"Source", mount.source},
        {"Destination", mount.destination},
        {"Mode", mount.mode},
        {"RW", mount.writable},
        {"Propagation", mount.type == "bind" && mount.propagation.empty() ? "rprivate" : mount.propagation}};
    if (mount.type == "volume") {
      entry["Name"] = mount.name;
      entry["Driver"] = "local";
    }
    out.push_back(std::move(entry));
  }
  return out;
}

json::object networksOf(const Container& container) {
  auto mode = text(container.hostConfig, "NetworkMode");
  if (mode.starts_with("container:")) return {};
  json::object endpoint{{"IPAMConfig", nullptr},
                        {"Links", nullptr},
                        {"Aliases", nullptr},
                        {"DriverOpts", nullptr},
                        {"GwPriority", 0},
                        {"NetworkID", mode},
                        {"EndpointID", container.network ? container.id : ""},
                        {"MacAddress", ""},
                        {"Gateway", ""},
                        {"IPAddress", ""},
                        {"IPPrefixLen", 0},
                        {"IPv6Gateway", ""},
                        {"GlobalIPv6Address", ""},
                        {"GlobalIPv6PrefixLen", 0},
                        {"DNSNames", nullptr}};
  if (container.network) {
    endpoint["MacAddress"] = container.network->mac;
    endpoint["Gateway"] = container.network->gateway.str();
    endpoint["IPAddress"] = container.network->address.address.str();
    endpoint["IPPrefixLen"] = container.network->address.length;
  }
  return {{mode, std::move(endpoint)}};
}

json::object networkSettings(const Container& container) {
  json::object out{{"Bridge", ""},
                   {"SandboxID", container.sandbox ? container.id : ""},
                   {"SandboxKey", container.sandbox ? container.sandbox->netPath() : ""},
                   {"Ports", portMap(container)},
                   {"HairpinMode", false},
                   {"LinkLocalIPv6Address", ""},
                   {"LinkLocalIPv6PrefixLen", 0},
                   {"SecondaryIPAddresses", nullptr},
                   {"SecondaryIPv6Addresses", nullptr},
                   {"EndpointID", container.network ? container.id : ""},
                   {"Gateway", ""},
                   {"GlobalIPv6Address", ""},
                   {"GlobalIPv6PrefixLen", 0},
                   {"IPAddress", ""},
                   {"IPPrefixLen", 0},
                   {"IPv6Gateway", ""},
                   {"MacAddress", ""},
                   {"Networks", networksOf(container)}};
  if (container.network) {
    out["Gateway"] = container.network->gateway.str();
    out["IPAddress"] = container.network->address.address.str();
    out["IPPrefixLen"] = container.network->address.length;
    out["MacAddress"] = container.network->mac;
  }
  return out;
}

json::object healthJson(const Health& health) {
  json::array log;
  for (const auto& probe : health.log) {
    log.push_back(json::object{{"Start", formatTimeNano(probe.start)},
                               {"End", formatTimeNano(probe.end)},
                               {"ExitCode", probe.exitCode},
                               {"Output", probe.output}});
  }
  return {{"Status", healthName(health.status)}, {"FailingStreak", health.failingStreak}, {"Log", std::move(log)}};
}

}  // namespace

std::string statusLine(const Container& container, WallTime now) {
  const auto& state = container.state;
  switch (state.status) {
    case Status::kRunning: {
      std::string up = "Up " + human(now - state.startedAt);
      if (!container.health) return up;
      auto health = container.health->status;
      return up +
             (health == Health::Status::kStarting ? " (health: starting)" : fmt::format(" ({})", healthName(health)));
    }
    case Status::kPaused: return "Up " + human(now - state.startedAt) + " (Paused)";
    case Status::kRestarting:
      return fmt::format("Restarting ({}) {} ago", state.exitCode, human(now - state.finishedAt));
    case Status::kRemoving: return "Removal In Progress";
    case Status::kDead: return "Dead";
    case Status::kCreated: return "Created";
    case Status::kExited: break;
  }
  if (state.startedAt == WallTime{} && state.finishedAt == WallTime{}) return "Created";
  return fmt::format("Exited ({}) {} ago", state.exitCode, human(now - state.finishedAt));
}

json::object summaryOf(const Engine& engine, const Container& container) {
  auto image = const_cast<Engine&>(engine).images().get(container.imageId);
  return {{"Id", container.id},
          {"Names", json::array{"/" + container.name}},
          {"Image", image.ok() ? container.imageName : container.imageId},
          {"ImageID", container.imageId},
          {"Command", commandLine(container)},
          {"Created", duration_cast<seconds>(container.created.time_since_epoch()).count()},
          {"Ports", portList(container)},
          {"Labels", child(container.config, "Labels")},
          {"State", statusName(container.state.status)},
          {"Status", statusLine(container, const_cast<Engine&>(engine).loop().wallNow())},
          {"HostConfig", {{"NetworkMode", text(container.hostConfig, "NetworkMode")}}},
          {"NetworkSettings", {{"Networks", networksOf(container)}}},
          {"Mounts", mountList(container)}};
}

json::object inspectionOf(Engine& engine, const Container& container, int) {
  const auto& state = container.state;
  auto words = texts(container.config, "Entrypoint");
  auto command = texts(container.config, "Cmd");
  words.insert(words.end(), command.begin(), command.end());
  std::string path = words.empty() ? "" : words[0];
  if (!words.empty()) words.erase(words.begin());
  json::object stateJson{{"Status", statusName(state.status)},
                         {"Running", state.running() || state.status == Status::kRestarting},
                         {"Paused", state.status == Status::kPaused},
                         {"Restarting", state.status == Status::kRestarting},
                         {"OOMKilled", state.oomKilled},
                         {"Dead", state.status == Status::kDead},
                         {"Pid", state.pid},
                         {"ExitCode", state.exitCode},
                         {"Error", state.error},
                         {"StartedAt", timeOrNever(state.startedAt)},
                         {"FinishedAt", timeOrNever(state.finishedAt)}};
  if (container.health) stateJson["Health"] = healthJson(*container.health);
  json::object graph{{"Name", "overlay2"}, {"Data", nullptr}};
  if (auto snapshot = engine.images().snapshot(container.id); snapshot.ok()) {
    graph["Data"] = json::object{
        {"LowerDir", join(snapshot->lowers, ":")}, {"UpperDir", snapshot->upper}, {"WorkDir", snapshot->work}};
  }
  return {{"Id", container.id},
          {"Created", formatTimeNano(container.created)},
          {"Path", path},
          {"Args", toJson(words)},
          {"State", std::move(stateJson)},
          {"Image", container.imageId},
          {"ResolvConfPath", engine.options().root + "/containers/" + container.id + "/resolv.conf"},
          {"HostnamePath", engine.options().root + "/containers/" + container.id + "/hostname"},
          {"HostsPath", engine.options().root + "/containers/" + container.id + "/hosts"},
          {"LogPath", engine.logPath(container)},
          {"Name", "/" + container.name},
          {"RestartCount", container.restartCount},
          {"Driver", "overlay2"},
          {"Platform", "linux"},
          {"MountLabel", ""},
          {"ProcessLabel", ""},
          {"AppArmorProfile", ""},
          {"ExecIDs", nullptr},
          {"HostConfig", container.hostConfig},
          {"GraphDriver", std::move(graph)},
          {"Mounts", mountList(container)},
          {"Config", container.config},
          {"NetworkSettings", networkSettings(container)}};
}

}  // namespace dhow::engine::docker
