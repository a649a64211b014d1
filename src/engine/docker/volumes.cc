// volume ls, create, inspect, rm, prune.
#include "api.h"
#include "base/strings.h"
#include "base/time.h"

namespace dhow::engine::docker {

namespace {

json::object volumeJson(const Volume& volume) {
  return {{"CreatedAt", formatTime(volume.created)},
          {"Driver", "local"},
          {"Labels", volume.labels.empty() ? json::value(nullptr) : json::value(volume.labels)},
          {"Mountpoint", volume.mountpoint},
          {"Name", volume.name},
          {"Options", volume.options.empty() ? json::value(nullptr) : json::value(volume.options)},
          {"Scope", "local"}};
}

bool inUse(const Engine& engine, const std::string& name, std::string* by = nullptr) {
  for (const auto& container : engine.containers()) {
    for (const auto& mount : container->mounts) {
      if (mount.type != "volume" || mount.name != name) continue;
      if (by) *by = container->id;
      return true;
    }
  }
  return false;
}

Task<Result<>> listVolumes(Call& call) {
  static constexpr std::string_view kFilters[] = {"dangling", "driver", "label", "name"};
  CO_ASSIGN_OR_RETURN(auto filters, Filters::parse(call.request.query.get("filters"), kFilters));
  json::array out;
  for (const auto& volume : call.engine.volumes().list()) {
    const auto& names = filters.of("name");
    if (!names.empty() && std::none_of(names.begin(), names.end(),
                                       [&](const auto& n) { return volume.name.find(n) != std::string::npos; }))
      continue;
    if (!filters.labelsMatch(volume.labels)) continue;
    if (filters.has("dangling") &&
        (filters.of("dangling")[0] == "true" || filters.of("dangling")[0] == "1") == inUse(call.engine, volume.name))
      continue;
    out.push_back(volumeJson(volume));
  }
  auto replied = co_await call.reply(200, json::object{{"Volumes", std::move(out)}, {"Warnings", nullptr}});
  co_return replied;
}

Task<Result<>> createVolume(Call& call) {
  auto body = co_await call.body();
  CO_RETURN_IF_ERROR(body);
  auto driver = text(*body, "Driver");
  if (!driver.empty() && driver != "local")
    co_return Error(Code::kNotFound,
                    fmt::format("create {}: error looking up volume plugin {}: plugin \"{}\" not found",
                                text(*body, "Name"), driver, driver));
  CO_ASSIGN_OR_RETURN(
      auto volume, call.engine.volumes().create(text(*body, "Name"), child(*body, "Labels"), child(*body, "DriverOpts"),
                                                call.engine.loop().wallNow()));
  auto replied = co_await call.reply(201, volumeJson(volume));
  co_return replied;
}

Task<Result<>> inspectVolume(Call& call) {
  CO_ASSIGN_OR_RETURN(auto volume, call.engine.volumes().get(call.args[0]));
  auto replied = co_await call.reply(200, volumeJson(volume));
  co_return replied;
}

Task<Result<>> removeVolume(Call& call) {
  std::string user;
  if (inUse(call.engine, call.args[0], &user))
    co_return Error(Code::kConflict, fmt::format("remove {}: volume is in use - [{}]", call.args[0], user));
  auto name = call.args[0];
  auto removed =
      co_await call.engine.pool().run(call.engine.loop(), [&] { return call.engine.volumes().remove(name); });
  if (!removed.ok() && !(call.flag("force") && removed.error().is(Code::kNotFound))) co_return removed;
  auto replied = co_await call.reply(204);
  co_return replied;
}

Task<Result<>> pruneVolumes(Call& call) {
  static constexpr std::string_view kFilters[] = {"label", "label!", "all"};
  CO_ASSIGN_OR_RETURN(auto filters, Filters::parse(call.request.query.get("filters"), kFilters));
  bool all =
      call.version < 42 || (filters.has("all") && (filters.of("all")[0] == "true" || filters.of("all")[0] == "1"));
  json::array deleted;
  for (const auto& volume : call.engine.volumes().list()) {
    if ((!all && !volume.anonymous) || inUse(call.engine, volume.name) || !filters.labelsMatch(volume.labels)) continue;
    if (call.engine.volumes().remove(volume.name).ok()) deleted.emplace_back(volume.name);
  }
  auto replied = co_await call.reply(200, json::object{{"VolumesDeleted", deleted}, {"SpaceReclaimed", 0}});
  co_return replied;
}

constexpr Route kRoutes[] = {{"GET", "/volumes", listVolumes},
                             {"POST", "/volumes/create", createVolume},
                             {"POST", "/volumes/prune", pruneVolumes},
                             {"GET", "/volumes/{}", inspectVolume},
                             {"DELETE", "/volumes/{}", removeVolume}};

}  // namespace

std::span<const Route> volumeRoutes() {
  return kRoutes;
}

}  // namespace dhow::engine::docker
