// create, ps, inspect, start, stop, kill, rm and their like.
#include <boost/json/serialize.hpp>

#include "../launch.h"
#include "api.h"
#include "base/files.h"
#include "base/strings.h"
#include "base/time.h"
#include "describe.h"

namespace dhow::engine::docker {

namespace {

constexpr std::string_view kFilters[] = {"ancestor", "before",    "expose",  "exited", "health",
                                         "id",       "isolation", "is-task", "label",  "name",
                                         "network",  "publish",   "since",   "status", "volume"};

bool matchesAny(const std::vector<std::string>& wanted, const std::function<bool(const std::string&)>& test) {
  return wanted.empty() || std::any_of(wanted.begin(), wanted.end(), test);
}

bool passes(Engine& engine, const Filters& filters, const Container& container) {
  auto ancestorId = [&](const std::string& name) {
    auto image = engine.images().get(name);
    return image.ok() && (*image)->id == container.imageId;
  };
  auto relative = [&](std::string_view filter, bool before) {
    for (const auto& ref : filters.of(filter)) {
      auto other = engine.find(ref);
      if (!other.ok()) return false;
      if (before ? container.created >= (*other)->created : container.created <= (*other)->created) return false;
    }
    return true;
  };
  return matchesAny(filters.of("id"), [&](const auto& id) { return container.id.starts_with(id); }) &&
         matchesAny(filters.of("name"),
                    [&](const auto& name) {
                      auto wanted = name.starts_with("/") ? name.substr(1) : name;
                      bool exact = wanted.starts_with("^") && wanted.ends_with("$");
                      if (exact)
                        return container.name == wanted.substr(wanted.starts_with("^/") ? 2 : 1,
                                                               wanted.size() - (wanted.starts_with("^/") ? 3 : 2));
                      return container.name.find(wanted) != std::string::npos;
                    }) &&
         matchesAny(filters.of("status"),
                    [&](const auto& status) { return status == statusName(container.state.status); }) &&
         matchesAny(filters.of("exited"),
                    [&](const auto& code) {
                      return container.state.status == Status::kExited &&
                             code == std::to_string(container.state.exitCode);
                    }) &&
         matchesAny(filters.of("ancestor"), ancestorId) &&
         matchesAny(filters.of("network"),
                    [&](const auto& network) { return text(container.hostConfig, "NetworkMode") == network; }) &&
         matchesAny(filters.of("volume"),
                    [&](const auto& volume) {
                      return std::any_of(container.mounts.begin(), container.mounts.end(),
                                         [&](const auto& m) { return m.name == volume || m.destination == volume; });
                    }) &&
         matchesAny(filters.of("health"),
                    [&](const auto& health) {
                      return health == (container.health ? healthName(container.health->status) : "none");
                    }) &&
         filters.labelsMatch(child(container.config, "Labels")) && relative("before", true) && relative("since", false);
}

Task<Result<>> listContainers(Call& call) {
  CO_ASSIGN_OR_RETURN(auto filters, Filters::parse(call.request.query.get("filters"), kFilters));
  bool all = call.flag("all") || filters.has("status") || filters.has("exited");
  auto limit = parseInt(call.query("limit")).value_or(0);
  if (limit > 0) all = true;
  json::array out;
  for (const auto& container : call.engine.containers()) {
    if (!all && !container->state.running() && container->state.status != Status::kRestarting) continue;
    if (!passes(call.engine, filters, *container)) continue;
    auto summary = summaryOf(call.engine, *container);
    if (call.flag("size")) {
      auto size = co_await call.engine.images().snapshotSize(container->id);
      if (size.ok()) summary["SizeRw"] = *size;
    }
    out.push_back(std::move(summary));
    if (limit > 0 && static_cast<int64_t>(out.size()) >= limit) break;
  }
  auto replied = co_await call.reply(200, std::move(out));
  co_return replied;
}

Task<Result<>> createContainer(Call& call) {
  auto body = co_await call.body();
  CO_RETURN_IF_ERROR(body);
  if (text(*body, "Image").empty()) co_return Error(Code::kBadRequest, "no image specified");
  image::Platform platform;
  if (auto wanted = call.query("platform"); !wanted.empty()) {
    CO_ASSIGN_OR_RETURN(platform, image::Platform::parse(wanted));
  }
  auto created = co_await call.engine.create(call.query("name"), std::move(*body), std::move(platform));
  CO_RETURN_IF_ERROR(created);
  auto replied = co_await call.reply(201, json::object{{"Id", created->id}, {"Warnings", toJson(created->warnings)}});
  co_return replied;
}

Task<Result<>> inspectContainer(Call& call) {
  CO_ASSIGN_OR_RETURN(auto container, call.engine.find(call.args[0]));
  auto out = inspectionOf(call.engine, *container, call.version);
  if (call.flag("size")) {
    auto size = co_await call.engine.images().snapshotSize(container->id);
    if (size.ok()) out["SizeRw"] = *size;
  }
  auto replied = co_await call.reply(200, std::move(out));
  co_return replied;
}

// 204 when it was done, 304 when there was nothing to do.
Task<Result<>> replyDone(Call& call, Result<> done) {
  if (!done.ok() && done.error().is(Code::kFailedPrecondition))
    done = co_await call.reply(304);
  else if (done.ok())
    done = co_await call.reply(204);
  co_return done;
}

// The runtime tells which step failed; clients look into its words to choose 126 or 127.
Error startError(const Error& error) {
  constexpr std::string_view kStep = "start container: ";
  std::string_view message = error.message();
  if (!message.starts_with(kStep)) return error;
  bool command = error.is(Code::kNotFound) || error.is(Code::kPermissionDenied);
  return Error(
      command ? Code::kBadRequest : error.code(),
      fmt::format(
          "failed to create task for container: unable to start container process: error during container init: {}",
          message.substr(kStep.size())));
}

Task<Result<>> startContainer(Call& call) {
  auto done = co_await call.engine.startContainer(call.args[0]);
  if (!done.ok() && !done.error().is(Code::kFailedPrecondition)) co_return startError(done.error());
  auto replied = co_await replyDone(call, std::move(done));
  co_return replied;
}

std::optional<int64_t> seconds(Call& call) {
  return parseInt(call.query("t"));
}

Task<Result<>> stopContainer(Call& call) {
  auto done = co_await call.engine.stopContainer(call.args[0], call.query("signal"), seconds(call));
  auto replied = co_await replyDone(call, std::move(done));
  co_return replied;
}

Task<Result<>> restartContainer(Call& call) {
  auto stopped = co_await call.engine.stopContainer(call.args[0], call.query("signal"), seconds(call));
  if (!stopped.ok() && !stopped.error().is(Code::kFailedPrecondition)) co_return stopped;
  auto done = co_await call.engine.startContainer(call.args[0]);
  auto replied = co_await replyDone(call, std::move(done));
  co_return replied;
}

Task<Result<>> killContainer(Call& call) {
  auto done = co_await call.engine.kill(call.args[0], call.query("signal"));
  auto replied = co_await replyDone(call, std::move(done));
  co_return replied;
}

Task<Result<>> pauseContainer(Call& call) {
  auto done = co_await call.engine.pause(call.args[0], true);
  auto replied = co_await replyDone(call, std::move(done));
  co_return replied;
}

Task<Result<>> unpauseContainer(Call& call) {
  auto done = co_await call.engine.pause(call.args[0], false);
  auto replied = co_await replyDone(call, std::move(done));
  co_return replied;
}

Task<Result<>> renameContainer(Call& call) {
  auto done = co_await call.engine.rename(call.args[0], call.query("name"));
  auto replied = co_await replyDone(call, std::move(done));
  co_return replied;
}

Task<Result<>> removeContainer(Call& call) {
  auto done = co_await call.engine.remove(call.args[0], call.flag("force"), call.flag("v"));
  auto replied = co_await replyDone(call, std::move(done));
  co_return replied;
}

Task<Result<>> resizeContainer(Call& call) {
  CO_ASSIGN_OR_RETURN(auto container, call.engine.find(call.args[0]));
  auto rows = parseUint(call.query("h")), columns = parseUint(call.query("w"));
  if (!rows || !columns || *rows > 65535 || *columns > 65535)
    co_return Error(Code::kBadRequest, "invalid resize height or width");
  if (!container->sandbox) co_return Error(Code::kConflict, fmt::format("Container {} is not running", container->id));
  auto sandbox = container->sandbox;
  auto done = co_await sandbox->resize(container->id, static_cast<uint16_t>(*rows), static_cast<uint16_t>(*columns));
  CO_RETURN_IF_ERROR(done);
  auto replied = co_await call.reply(200);
  co_return replied;
}

Task<Result<>> top(Call& call) {
  CO_ASSIGN_OR_RETURN(auto container, call.engine.find(call.args[0]));
  if (!container->state.running() || !container->sandbox)
    co_return Error(Code::kConflict, fmt::format("container {} is not running", container->id));
  auto sandbox = container->sandbox;
  auto pids = co_await sandbox->processes(container->id);
  CO_RETURN_IF_ERROR(pids);
  json::array rows;
  for (pid_t pid : *pids) {
    auto status = readFile(fmt::format("/proc/{}/status", pid), 1 << 16);
    auto command = readFile(fmt::format("/proc/{}/cmdline", pid), 1 << 16);
    if (!status.ok() || !command.ok()) continue;
    std::string uid, parent;
    for (const auto& line : split(*status, '\n')) {
      if (line.starts_with("Uid:")) uid = split(std::string(trim(line.substr(4))), '\t')[0];
      if (line.starts_with("PPid:")) parent = std::string(trim(line.substr(5)));
    }
    std::replace(command->begin(), command->end(), '\0', ' ');
    rows.push_back(
        json::array{uid, std::to_string(pid), parent, "0", "-", "?", "00:00:00", std::string(trim(*command))});
  }
  auto replied = co_await call.reply(
      200, json::object{{"Titles", json::array{"UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"}},
                        {"Processes", rows}});
  co_return replied;
}

Task<Result<>> changes(Call& call) {
  CO_ASSIGN_OR_RETURN(auto container, call.engine.find(call.args[0]));
  auto found = co_await call.engine.images().changes(container->id);
  CO_RETURN_IF_ERROR(found);
  json::array out;
  for (const auto& change : *found)
    out.push_back(json::object{{"Path", change.path}, {"Kind", static_cast<int>(change.kind)}});
  auto replied = co_await call.reply(200, std::move(out));
  co_return replied;
}

Task<Result<>> prune(Call& call) {
  static constexpr std::string_view kPruneFilters[] = {"label", "label!", "until"};
  CO_ASSIGN_OR_RETURN(auto filters, Filters::parse(call.request.query.get("filters"), kPruneFilters));
  json::array deleted;
  uint64_t bytes = 0;
  for (const auto& container : call.engine.containers()) {
    bool idle = container->state.status == Status::kCreated || container->state.status == Status::kExited ||
                container->state.status == Status::kDead;
    if (!idle || !filters.labelsMatch(child(container->config, "Labels"))) continue;
    auto size = co_await call.engine.images().snapshotSize(container->id);
    auto removed = co_await call.engine.remove(container->id, false, false);
    if (!removed.ok()) continue;
    bytes += size.ok() ? *size : 0;
    deleted.emplace_back(container->id);
  }
  auto replied = co_await call.reply(200, json::object{{"ContainersDeleted", deleted}, {"SpaceReclaimed", bytes}});
  co_return replied;
}

Task<Result<>> updateContainer(Call& call) {
  CO_ASSIGN_OR_RETURN(auto body, co_await call.body());
  CO_ASSIGN_OR_RETURN(auto warnings, co_await call.engine.update(call.args[0], std::move(body)));
  auto replied = co_await call.reply(200, json::object{{"Warnings", toJson(warnings)}});
  co_return replied;
}

constexpr Route kRoutes[] = {
    {"POST", "/containers/{}/update", updateContainer},   {"GET", "/containers/json", listContainers},
    {"POST", "/containers/create", createContainer},      {"POST", "/containers/prune", prune},
    {"GET", "/containers/{}/json", inspectContainer},     {"POST", "/containers/{}/start", startContainer},
    {"POST", "/containers/{}/stop", stopContainer},       {"POST", "/containers/{}/restart", restartContainer},
    {"POST", "/containers/{}/kill", killContainer},       {"POST", "/containers/{}/pause", pauseContainer},
    {"POST", "/containers/{}/unpause", unpauseContainer}, {"POST", "/containers/{}/rename", renameContainer},
    {"POST", "/containers/{}/resize", resizeContainer},   {"GET", "/containers/{}/top", top},
    {"GET", "/containers/{}/changes", changes},           {"DELETE", "/containers/{}", removeContainer},
};

}  // namespace

std::span<const Route> containerRoutes() {
  return kRoutes;
}

}  // namespace dhow::engine::docker
