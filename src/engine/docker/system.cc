// version, info, events, df.
#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <boost/json/serialize.hpp>

#include "../launch.h"
#include "api.h"
#include "base/files.h"
#include "base/strings.h"
#include "base/time.h"

namespace dhow::engine::docker {

namespace {

constexpr std::string_view kVersion = "28.5.2-dhow";

std::string architecture() {
  return image::Platform::host().architecture;
}

Task<Result<>> version(Call& call) {
  utsname system{};
  ::uname(&system);
  json::object component{{"Name", "Engine"},
                         {"Version", kVersion},
                         {"Details",
                          {{"ApiVersion", fmt::format("1.{}", kMaxVersion)},
                           {"MinAPIVersion", fmt::format("1.{}", kMinVersion)},
                           {"Os", "linux"},
                           {"Arch", architecture()},
                           {"KernelVersion", system.release},
                           {"Experimental", "false"},
                           {"GitCommit", ""},
                           {"GoVersion", ""},
                           {"BuildTime", ""}}}};
  json::object out{{"Platform", {{"Name", "Dhow"}}},
                   {"Components", json::array{std::move(component)}},
                   {"Version", kVersion},
                   {"ApiVersion", fmt::format("1.{}", kMaxVersion)},
                   {"MinAPIVersion", fmt::format("1.{}", kMinVersion)},
                   {"GitCommit", ""},
                   {"GoVersion", ""},
                   {"Os", "linux"},
                   {"Arch", architecture()},
                   {"KernelVersion", system.release},
                   {"BuildTime", ""}};
  return call.reply(200, std::move(out));
}

std::string operatingSystem() {
  auto release = readFile("/etc/os-release", 1 << 16);
  for (const auto& line : split(release.ok() ? *release : "", '\n')) {
    if (!line.starts_with("PRETTY_NAME=")) continue;
    auto name = line.substr(12);
    std::erase(name, '"');
    return name;
  }
  return "Linux";
}

Task<Result<>> info(Call& call) {
  utsname system{};
  ::uname(&system);
  struct sysinfo memory{};
  ::sysinfo(&memory);
  int running = 0, paused = 0, stopped = 0;
  auto containers = call.engine.containers();
  for (const auto& container : containers) {
    if (container->state.status == Status::kPaused)
      ++paused;
    else if (container->state.running())
      ++running;
    else
      ++stopped;
  }
  int cgroups = call.engine.runtime().cgroupVersion();
  // One inside the other by hand: as initializers they would collapse into one.
  json::array driverStatus;
  driverStatus.push_back(json::array{"Backing Filesystem", "extfs"});
  json::object runtime{{"path", call.engine.options().shimPath}};
  json::object out{{"ID", call.engine.id()},
                   {"Containers", containers.size()},
                   {"ContainersRunning", running},
                   {"ContainersPaused", paused},
                   {"ContainersStopped", stopped},
                   {"Images", call.engine.images().list().size()},
                   {"Driver", "overlay2"},
                   {"DriverStatus", std::move(driverStatus)},
                   {"Plugins",
                    {{"Volume", json::array{"local"}},
                     {"Network", json::array{"bridge", "host", "null"}},
                     {"Authorization", nullptr},
                     {"Log", json::array{"json-file", "local"}}}},
                   {"MemoryLimit", true},
                   {"SwapLimit", true},
                   {"CpuCfsPeriod", true},
                   {"CpuCfsQuota", true},
                   {"CPUShares", true},
                   {"CPUSet", true},
                   {"PidsLimit", true},
                   {"IPv4Forwarding", true},
                   {"Debug", false},
                   {"NFd", 0},
                   {"OomKillDisable", cgroups == 1},
                   {"NGoroutines", 0},
                   {"SystemTime", formatTimeNano(call.engine.loop().wallNow())},
                   {"LoggingDriver", "json-file"},
                   {"CgroupDriver", "cgroupfs"},
                   {"CgroupVersion", std::to_string(cgroups)},
                   {"NEventsListener", 0},
                   {"KernelVersion", system.release},
                   {"OperatingSystem", operatingSystem()},
                   {"OSVersion", ""},
                   {"OSType", "linux"},
                   {"Architecture", system.machine},
                   {"NCPU", ::sysconf(_SC_NPROCESSORS_ONLN)},
                   {"MemTotal", static_cast<int64_t>(memory.totalram) * memory.mem_unit},
                   {"IndexServerAddress", "https://index.docker.io/v1/"},
                   {"RegistryConfig",
                    {{"InsecureRegistryCIDRs", json::array{"127.0.0.0/8"}},
                     {"IndexConfigs", json::object()},
                     {"Mirrors", json::array()}}},
                   {"DockerRootDir", call.engine.options().root},
                   {"HttpProxy", ""},
                   {"HttpsProxy", ""},
                   {"NoProxy", ""},
                   {"Name", system.nodename},
                   {"Labels", json::array()},
                   {"ExperimentalBuild", false},
                   {"ServerVersion", kVersion},
                   {"Runtimes", {{"dhow", runtime}}},
                   {"DefaultRuntime", "dhow"},
                   {"Swarm",
                    {{"NodeID", ""},
                     {"NodeAddr", ""},
                     {"LocalNodeState", "inactive"},
                     {"ControlAvailable", false},
                     {"Error", ""},
                     {"RemoteManagers", nullptr}}},
                   {"LiveRestoreEnabled", true},
                   {"Isolation", ""},
                   {"InitBinary", "dhow-shim"},
                   {"SecurityOptions", json::array{"name=seccomp,profile=builtin", "name=cgroupns"}},
                   {"FirewallBackend", {{"Driver", "nftables"}}},
                   {"Warnings", nullptr}};
  return call.reply(200, std::move(out));
}

json::object eventJson(const EngineEvent& event) {
  auto nanos = event.time.time_since_epoch().count();
  json::object out{{"Type", event.type},
                   {"Action", event.action},
                   {"Actor", {{"ID", event.actorId}, {"Attributes", event.attributes}}},
                   {"scope", "local"},
                   {"time", nanos / 1'000'000'000},
                   {"timeNano", nanos}};
  if (event.type == "container") {
    out["status"] = event.action;
    out["id"] = event.actorId;
    out["from"] = text(event.attributes, "image");
  }
  return out;
}

bool passes(const Filters& filters, const EngineEvent& event) {
  auto among = [&](std::string_view name, std::initializer_list<std::string_view> values) {
    const auto& wanted = filters.of(name);
    if (wanted.empty()) return true;
    return std::any_of(wanted.begin(), wanted.end(), [&](const auto& want) {
      return std::any_of(values.begin(), values.end(), [&](auto value) { return value == want; });
    });
  };
  auto name = text(event.attributes, "name");
  return among("type", {event.type}) && among("event", {event.action}) && filters.labelsMatch(event.attributes) &&
         (!filters.has("container") ||
          (event.type == "container" && among("container", {event.actorId, event.actorId.substr(0, 12), name}))) &&
         (!filters.has("image") || among("image", {text(event.attributes, "image"), name}));
}

Task<Result<>> events(Call& call) {
  static constexpr std::string_view kKnown[] = {"type",   "event", "container", "image", "label",   "volume", "network",
                                                "daemon", "scope", "plugin",    "node",  "service", "secret", "config"};
  auto parsed = Filters::parse(call.request.query.get("filters"), kKnown);
  CO_RETURN_IF_ERROR(parsed);
  const Filters& filters = *parsed;
  auto since = call.time("since");
  auto until = call.time("until");
  http::Headers headers;
  headers.set("Content-Type", "application/json");
  auto queue = std::make_shared<Queue<EngineEvent>>(call.engine.loop());
  if (since) {
    for (const auto& event : call.engine.recentEvents()) {
      if (event.time >= *since) queue->push(event);
    }
  }
  auto listener = call.engine.listen([queue](const EngineEvent& event) { queue->push(event); });
  call.writer.onClose([queue] { queue->close(); });
  Timer end;
  if (until) end = call.engine.loop().after(*until - call.engine.loop().wallNow(), [queue] { queue->close(); });
  auto started = co_await call.writer.start(200, std::move(headers));
  CO_RETURN_IF_ERROR(started);
  while (auto event = co_await queue->pop()) {
    if (until && event->time > *until) break;
    if (!passes(filters, *event)) continue;
    auto line = json::serialize(eventJson(*event)) + "\n";
    auto written = co_await call.writer.write(line);
    CO_RETURN_IF_ERROR(written);
  }
  auto finished = co_await call.writer.finish();
  co_return finished;
}

Task<Result<>> auth(Call& call) {
  auto body = co_await call.body();
  CO_RETURN_IF_ERROR(body);
  image::Credentials credentials;
  credentials.username = text(*body, "username");
  credentials.password = text(*body, "password");
  credentials.identityToken = text(*body, "identitytoken");
  auto server = text(*body, "serveraddress");
  auto done = co_await call.engine.images().login(server, std::move(credentials));
  CO_RETURN_IF_ERROR(done);
  auto replied = co_await call.reply(200, json::object{{"Status", "Login Succeeded"}, {"IdentityToken", ""}});
  co_return replied;
}

Task<Result<>> plugins(Call& call) {
  return call.reply(200, json::array());
}

Task<Result<>> diskUsage(Call& call) {
  json::array images, containers, volumes;
  for (const auto& image : call.engine.images().list()) {
    images.push_back(json::object{{"Id", image->id},
                                  {"RepoTags", toJson(image->repoTags)},
                                  {"Size", image->size},
                                  {"SharedSize", 0},
                                  {"Containers", call.engine.usersOf(image->id).size()}});
  }
  for (const auto& container : call.engine.containers()) {
    auto size = co_await call.engine.images().snapshotSize(container->id);
    containers.push_back(json::object{{"Id", container->id},
                                      {"Names", json::array{"/" + container->name}},
                                      {"Image", container->imageName},
                                      {"SizeRw", size.ok() ? *size : 0},
                                      {"State", statusName(container->state.status)}});
  }
  for (const auto& volume : call.engine.volumes().list()) {
    volumes.push_back(json::object{{"Name", volume.name},
                                   {"Driver", "local"},
                                   {"Mountpoint", volume.mountpoint},
                                   {"Scope", "local"},
                                   {"Labels", volume.labels},
                                   {"UsageData", {{"Size", -1}, {"RefCount", -1}}}});
  }
  json::object out{{"LayersSize", call.engine.images().layersSize()},
                   {"Images", images},
                   {"Containers", containers},
                   {"Volumes", volumes},
                   {"BuildCache", json::array()}};
  auto replied = co_await call.reply(200, std::move(out));
  co_return replied;
}

constexpr Route kRoutes[] = {{"GET", "/version", version}, {"GET", "/info", info},
                             {"GET", "/events", events},   {"POST", "/auth", auth},
                             {"GET", "/plugins", plugins}, {"GET", "/system/df", diskUsage}};

}  // namespace

std::span<const Route> systemRoutes() {
  return kRoutes;
}

}  // namespace dhow::engine::docker
