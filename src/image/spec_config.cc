// The image config document.
#include <algorithm>

#include "image/reference.h"
#include "image/spec.h"
#include "json_read.h"

namespace dhow::image {

namespace json = boost::json;
using namespace jsonread;

namespace {

std::vector<std::string> keysAt(const json::object& object, std::string_view key) {
  std::vector<std::string> out;
  if (const auto* map = objectAt(object, key)) {
    for (const auto& [name, value] : *map) out.emplace_back(name);
  }
  std::sort(out.begin(), out.end());
  return out;
}

// Entrypoint and Cmd were plain strings in very old images.
std::vector<std::string> commandAt(const json::object& object, std::string_view key) {
  if (auto text = stringAt(object, key); !text.empty()) return {text};
  return stringsAt(object, key);
}

std::optional<HealthCheck> readHealthCheck(const json::object& config) {
  const auto* h = objectAt(config, "Healthcheck");
  if (!h) return std::nullopt;
  HealthCheck out;
  out.test = stringsAt(*h, "Test");
  out.interval = Duration(intAt(*h, "Interval", 0));
  out.timeout = Duration(intAt(*h, "Timeout", 0));
  out.startPeriod = Duration(intAt(*h, "StartPeriod", 0));
  out.startInterval = Duration(intAt(*h, "StartInterval", 0));
  out.retries = static_cast<int>(intAt(*h, "Retries", 0));
  return out;
}

RunConfig readRun(const json::object& c) {
  RunConfig out;
  out.user = stringAt(c, "User");
  out.exposedPorts = keysAt(c, "ExposedPorts");
  out.env = stringsAt(c, "Env");
  out.entrypoint = commandAt(c, "Entrypoint");
  out.cmd = commandAt(c, "Cmd");
  out.volumes = keysAt(c, "Volumes");
  out.workingDir = stringAt(c, "WorkingDir");
  out.labels = stringMapAt(c, "Labels");
  out.stopSignal = stringAt(c, "StopSignal");
  out.healthcheck = readHealthCheck(c);
  out.shell = stringsAt(c, "Shell");
  out.onBuild = stringsAt(c, "OnBuild");
  return out;
}

json::object setOf(const std::vector<std::string>& names) {
  json::object out;
  for (const auto& name : names) out[name] = json::object();
  return out;
}

json::object writeRun(const RunConfig& run) {
  json::object c;
  if (!run.user.empty()) c["User"] = run.user;
  if (!run.exposedPorts.empty()) c["ExposedPorts"] = setOf(run.exposedPorts);
  if (!run.env.empty()) c["Env"] = toArray(run.env);
  if (!run.entrypoint.empty()) c["Entrypoint"] = toArray(run.entrypoint);
  if (!run.cmd.empty()) c["Cmd"] = toArray(run.cmd);
  if (!run.volumes.empty()) c["Volumes"] = setOf(run.volumes);
  if (!run.workingDir.empty()) c["WorkingDir"] = run.workingDir;
  if (!run.labels.empty()) c["Labels"] = toObject(run.labels);
  if (!run.stopSignal.empty()) c["StopSignal"] = run.stopSignal;
  if (!run.shell.empty()) c["Shell"] = toArray(run.shell);
  if (!run.onBuild.empty()) c["OnBuild"] = toArray(run.onBuild);
  if (run.healthcheck) {
    json::object h;
    h["Test"] = toArray(run.healthcheck->test);
    if (run.healthcheck->interval.count()) h["Interval"] = run.healthcheck->interval.count();
    if (run.healthcheck->timeout.count()) h["Timeout"] = run.healthcheck->timeout.count();
    if (run.healthcheck->startPeriod.count()) h["StartPeriod"] = run.healthcheck->startPeriod.count();
    if (run.healthcheck->startInterval.count()) h["StartInterval"] = run.healthcheck->startInterval.count();
    if (run.healthcheck->retries) h["Retries"] = run.healthcheck->retries;
    c["Healthcheck"] = std::move(h);
  }
  return c;
}

}  // namespace

Result<ImageConfig> parseImageConfig(std::string_view text) {
  if (text.size() > kMaxDocument) return Error(Code::kTooLarge, "image config is larger than 4 MiB");
  ASSIGN_OR_RETURN(auto object, parseObject(text, "image config"));
  ImageConfig out;
  out.platform = Platform{stringAt(object, "os"), stringAt(object, "architecture"), stringAt(object, "variant"),
                          stringAt(object, "os.version")};
  if (out.platform.os.empty()) out.platform.os = "linux";
  if (out.platform.architecture.empty()) out.platform.architecture = Platform::host().architecture;
  out.created = stringAt(object, "created");
  out.author = stringAt(object, "author");
  out.comment = stringAt(object, "comment");
  if (const auto* config = objectAt(object, "config")) out.run = readRun(*config);
  if (const auto* rootfs = objectAt(object, "rootfs")) out.diffIds = stringsAt(*rootfs, "diff_ids");
  if (out.diffIds.size() > 1024) return Error(Code::kInvalid, "image config has more than 1024 layers");
  for (const auto& id : out.diffIds) {
    if (!isDigest(id)) return Error(Code::kInvalid, "image config has a bad layer id \"" + id.substr(0, 80) + "\"");
  }
  if (const auto* history = arrayAt(object, "history")) {
    for (const auto& entry : *history) {
      if (!entry.is_object()) continue;
      const auto& h = entry.get_object();
      out.history.push_back(History{stringAt(h, "created"), stringAt(h, "created_by"), stringAt(h, "author"),
                                    stringAt(h, "comment"), boolAt(h, "empty_layer")});
    }
  }
  return out;
}

std::string toJson(const ImageConfig& config) {
  json::object out{{"architecture", config.platform.architecture}};
  if (!config.platform.variant.empty()) out["variant"] = config.platform.variant;
  if (!config.author.empty()) out["author"] = config.author;
  if (!config.comment.empty()) out["comment"] = config.comment;
  out["config"] = writeRun(config.run);
  if (!config.created.empty()) out["created"] = config.created;
  json::array history;
  for (const auto& h : config.history) {
    json::object entry;
    if (!h.created.empty()) entry["created"] = h.created;
    if (!h.createdBy.empty()) entry["created_by"] = h.createdBy;
    if (!h.author.empty()) entry["author"] = h.author;
    if (!h.comment.empty()) entry["comment"] = h.comment;
    if (h.emptyLayer) entry["empty_layer"] = true;
    history.push_back(std::move(entry));
  }
  out["history"] = std::move(history);
  out["os"] = config.platform.os;
  if (!config.platform.osVersion.empty()) out["os.version"] = config.platform.osVersion;
  out["rootfs"] = json::object{{"type", "layers"}, {"diff_ids", toArray(config.diffIds)}};
  return json::serialize(out);
}

}  // namespace dhow::image
