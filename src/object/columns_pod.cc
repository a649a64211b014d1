// READY, STATUS and RESTARTS of pods, as `kubectl get pods` shows them.
#include "columns.h"
#include "object/views/core.h"

namespace dhow::object::columns {
namespace {

namespace json = boost::json;

bool isSidecar(const api::PodSpec& spec, std::string_view name) {
  for (api::Container container : spec.initContainers())
    if (container.name() == name) return container.restartPolicy() == "Always";
  return false;
}

struct Summary {
  std::string status;
  int64_t total = 0, ready = 0, restarts = 0, sidecarRestarts = 0;
  std::optional<WallTime> lastRestart;
};

std::string terminatedText(const api::ContainerStateTerminated& ended) {
  if (!ended.reason().empty()) return std::string(ended.reason());
  if (ended.signal() != 0) return fmt::format("Signal:{}", ended.signal());
  return fmt::format("ExitCode:{}", ended.exitCode());
}

void noteRestart(Summary& out, const api::ContainerStatus& status) {
  auto at = status.lastState().terminated().finishedAt();
  if (at && (!out.lastRestart || *out.lastRestart < *at)) out.lastRestart = at;
}

// The first init container that is not done decides the status. False when all are done.
bool initializing(const api::Pod& pod, Summary& out) {
  size_t i = 0, total = pod.spec().initContainers().size();
  for (api::ContainerStatus status : pod.status().initContainerStatuses()) {
    out.restarts += status.restartCount();
    noteRestart(out, status);
    bool sidecar = isSidecar(pod.spec(), status.name());
    if (sidecar) {
      out.sidecarRestarts += status.restartCount();
      if (status.ready()) ++out.ready;
    }
    api::ContainerState state = status.state();
    ++i;
    if (state.terminated() && state.terminated().exitCode() == 0) continue;
    if (sidecar && status.started()) continue;
    if (state.terminated()) {
      out.status = "Init:" + terminatedText(state.terminated());
    } else if (state.waiting() && !state.waiting().reason().empty() && state.waiting().reason() != "PodInitializing") {
      out.status = "Init:" + std::string(state.waiting().reason());
    } else {
      out.status = fmt::format("Init:{}/{}", i - 1, total);
    }
    return true;
  }
  return false;
}

bool conditionHolds(const api::Pod& pod, std::string_view type) {
  for (api::PodCondition condition : pod.status().conditions())
    if (condition.type() == type) return condition.status() == "True";
  return false;
}

void running(const api::Pod& pod, Summary& out) {
  bool hasRunning = false;
  auto statuses = pod.status().containerStatuses();
  out.restarts = out.sidecarRestarts;
  for (size_t n = statuses.size(); n-- > 0;) {
    api::ContainerStatus status = statuses[n];
    out.restarts += status.restartCount();
    noteRestart(out, status);
    api::ContainerState state = status.state();
    if (state.waiting() && !state.waiting().reason().empty()) {
      out.status = state.waiting().reason();
    } else if (state.terminated()) {
      out.status = terminatedText(state.terminated());
    } else if (status.ready() && state.running()) {
      hasRunning = true;
      ++out.ready;
    }
  }
  if (out.status == "Completed" && hasRunning) out.status = conditionHolds(pod, "Ready") ? "Running" : "NotReady";
}

Summary summarize(const Object& object) {
  api::Pod pod(object);
  Summary out;
  out.total = static_cast<int64_t>(pod.spec().containers().size());
  for (api::Container container : pod.spec().initContainers()) out.total += container.restartPolicy() == "Always";
  out.status = pod.status().reason().empty() ? pod.status().phase() : pod.status().reason();
  for (api::PodCondition condition : pod.status().conditions())
    if (condition.type() == "PodScheduled" && condition.reason() == "SchedulingGated") out.status = "SchedulingGated";
  bool init = initializing(pod, out);
  if (!init || conditionHolds(pod, "Initialized")) running(pod, out);
  bool over = pod.status().phase() == "Succeeded" || pod.status().phase() == "Failed";
  if (object.deleting() && pod.status().reason() == "NodeLost")
    out.status = "Unknown";
  else if (object.deleting() && !over)
    out.status = "Terminating";
  return out;
}

json::value podReady(const Object& object, WallTime) {
  Summary s = summarize(object);
  return json::value(fmt::format("{}/{}", s.ready, s.total));
}

json::value podStatus(const Object& object, WallTime) {
  return json::value(summarize(object).status);
}

json::value podRestarts(const Object& object, WallTime now) {
  Summary s = summarize(object);
  if (s.restarts == 0 || !s.lastRestart) return json::value(std::to_string(s.restarts));
  return json::value(fmt::format("{} ({} ago)", s.restarts, humanDuration(now - *s.lastRestart)));
}

json::value podReadinessGates(const Object& object, WallTime) {
  api::Pod pod(object);
  size_t met = 0, total = pod.spec().readinessGates().size();
  if (total == 0) return "<none>";
  for (api::PodReadinessGate gate : pod.spec().readinessGates()) met += conditionHolds(pod, gate.conditionType());
  return json::value(fmt::format("{}/{}", met, total));
}

json::value podSessions(const Object&, WallTime) {
  return "<none>";
}

// Of PodSessions.
json::value sessions(const Object& object, WallTime) {
  const json::value* count = object.root().if_contains("sessions");
  return count && count->is_int64() ? json::value(std::to_string(count->get_int64())) : json::value("<none>");
}

constexpr Entry kColumns[] = {{"podReady", podReady},       {"podStatus", podStatus},
                              {"podRestarts", podRestarts}, {"podReadinessGates", podReadinessGates},
                              {kPodSessions, podSessions},  {"sessions", sessions}};

}  // namespace

std::span<const Entry> podColumns() {
  return kColumns;
}

Function find(std::string_view name) {
  for (auto entries : {podColumns(), otherColumns()})
    for (const Entry& entry : entries)
      if (entry.name == name) return entry.function;
  return nullptr;
}

}  // namespace dhow::object::columns
