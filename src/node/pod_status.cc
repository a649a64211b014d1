#include "pod_status.h"

#include "client/sessions.h"

#include "base/strings.h"

namespace dhow::node {

namespace {

using Kind = ContainerRecord::Kind;
using State = ContainerRecord::State;

bool passed(const ContainerRecord& record) {
  if (record.kind == Kind::kSidecar) return record.started;
  return record.state == State::kExited && record.ended && record.ended->code == 0;
}

std::string_view phaseOf(const PodFacts& facts) {
  if (facts.finished) return facts.failed ? "Failed" : "Succeeded";
  if (!facts.reason.empty()) return "Failed";
  if (facts.stopped) {
    for (const ContainerRecord& record : *facts.containers) {
      if (record.kind == Kind::kSidecar) continue;
      if (!record.ended || record.ended->code != 0) return "Failed";
    }
    return "Succeeded";
  }
  if (!facts.initialized) return "Pending";
  bool anyStarted = false;
  for (const ContainerRecord& record : *facts.containers) {
    if (record.kind != Kind::kApp) continue;
    if (record.attempts == 0 || (record.state == State::kWaiting && !record.last)) return "Pending";
    anyStarted = true;
  }
  return anyStarted ? "Running" : "Pending";
}

json::object waiting(std::string_view reason, std::string_view message) {
  json::object state{{"reason", reason}};
  if (!message.empty()) state["message"] = message;
  return {{"waiting", std::move(state)}};
}

json::object stateOf(const PodFacts& facts, const ContainerRecord& record) {
  switch (record.state) {
    case State::kRunning: return {{"running", json::object{{"startedAt", timeValue(record.startedAt)}}}};
    case State::kExited:
      if (record.ended && record.reason.empty()) return {{"terminated", toJson(*record.ended)}};
      break;
    case State::kWaiting:
    case State::kStarting: break;
  }
  if (!record.reason.empty()) return waiting(record.reason, record.message);
  const bool hasInit = facts.containers->front().kind != Kind::kApp;
  const bool held = hasInit && !facts.initialized;
  return waiting(held ? "PodInitializing" : "ContainerCreating", {});
}

json::object containerStatus(const PodFacts& facts, const ContainerRecord& record) {
  json::object out{{"name", record.name},
                   {"image", record.image},
                   {"imageID", record.imageId},
                   {"restartCount", record.restartCount()}};
  const bool over =
      record.kind == Kind::kInit && record.state == State::kExited && record.ended && record.ended->code == 0;
  out["ready"] = over || (record.state == State::kRunning && record.ready);
  out["started"] = record.state == State::kRunning && record.started;
  out["state"] = stateOf(facts, record);
  // While the next attempt waits, the present end is the last state.
  const bool asLast = record.state == State::kExited && !record.reason.empty();
  const std::optional<Terminated>& last = asLast ? record.ended : record.last;
  out["lastState"] = last ? json::object{{"terminated", toJson(*last)}} : json::object();
  if (!record.id.empty()) out["containerID"] = "dhow://" + record.id;
  return out;
}

struct Verdict {
  bool holds = true;
  std::string reason, message;
};

Verdict containersVerdict(const PodFacts& facts, std::string_view phase, bool init) {
  if (phase == "Succeeded") return {init, "PodCompleted", {}};
  if (phase == "Failed" && !init) return {false, "PodFailed", {}};
  std::vector<std::string> lacking;
  for (const ContainerRecord& record : *facts.containers) {
    if (init) {
      if (record.kind != Kind::kApp && !facts.initialized && !passed(record)) lacking.push_back(record.name);
    } else if (record.kind != Kind::kInit && !(record.state == State::kRunning && record.ready)) {
      lacking.push_back(record.name);
    }
  }
  if (lacking.empty()) return {};
  return {false, init ? "ContainersNotInitialized" : "ContainersNotReady",
          fmt::format("containers with {} status: [{}]", init ? "incomplete" : "unready", join(lacking, " "))};
}

Verdict readyVerdict(const PodFacts& facts, const Verdict& containers) {
  if (!containers.holds) return containers;
  if (facts.abandoned) return {false, "PodStopping", "its users are sent elsewhere, and it is about to stop"};
  std::vector<std::string> missing;
  for (const json::value& gate : array(*facts.pod, {"spec", "readinessGates"})) {
    if (!gate.is_object()) continue;
    std::string_view type = text(gate.get_object(), "conditionType");
    const json::object* found = client::condition(*facts.pod, type);
    if (found == nullptr) {
      missing.push_back(fmt::format("corresponding condition of pod readiness gate \"{}\" does not exist.", type));
    } else if (text(*found, "status") != "True") {
      missing.push_back(
          fmt::format("the status of pod readiness gate \"{}\" is not \"True\", but {}", type, text(*found, "status")));
    }
  }
  if (missing.empty()) return {};
  return {false, "ReadinessGatesNotReady", join(missing, ", ")};
}

json::object conditionOf(const PodFacts& facts, std::string_view type, const Verdict& verdict) {
  const std::string_view status = verdict.holds ? "True" : "False";
  json::object out{{"type", type}, {"status", status}, {"lastProbeTime", nullptr}};
  // Null takes away what an earlier status said.
  out["reason"] = verdict.reason.empty() ? json::value() : json::value(verdict.reason);
  out["message"] = verdict.message.empty() ? json::value() : json::value(verdict.message);
  std::optional<WallTime> since;
  if (facts.before != nullptr) {
    for (const json::value& value : array(*facts.before, {"conditions"})) {
      if (!value.is_object() || text(value.get_object(), "type") != type) continue;
      if (text(value.get_object(), "status") == status)
        since = client::time(value.get_object(), {"lastTransitionTime"});
    }
  }
  out["lastTransitionTime"] = timeValue(since.value_or(facts.now));
  if (auto generation = number(*facts.pod, {"metadata", "generation"})) out["observedGeneration"] = *generation;
  return out;
}

}  // namespace

json::object podStatus(const PodFacts& facts) {
  json::object out;
  const std::string_view phase = phaseOf(facts);
  if (auto generation = number(*facts.pod, {"metadata", "generation"})) out["observedGeneration"] = *generation;
  out["phase"] = phase;
  if (!facts.reason.empty()) out["reason"] = facts.reason;
  if (!facts.message.empty()) out["message"] = facts.message;

  const Verdict initialized = containersVerdict(facts, phase, true);
  const Verdict containers = containersVerdict(facts, phase, false);
  json::array conditions;
  conditions.push_back(conditionOf(facts, "PodReadyToStartContainers", {facts.sandboxReady, {}, {}}));
  conditions.push_back(conditionOf(facts, "Initialized", initialized));
  conditions.push_back(conditionOf(facts, "Ready", readyVerdict(facts, containers)));
  conditions.push_back(conditionOf(facts, "ContainersReady", containers));
  if (facts.sessions) {
    const PodFacts::Sessions& sessions = *facts.sessions;
    conditions.push_back(
        conditionOf(facts, client::kSessionsHeldCondition, {sessions.held, sessions.reason, sessions.message}));
  }
  out["conditions"] = std::move(conditions);

  auto tell = [&](const char* first, const char* all, const std::vector<std::string>& addresses) {
    if (addresses.empty()) return;
    json::array list;
    for (const std::string& address : addresses) list.push_back(json::object{{"ip", address}});
    out[first] = addresses.front();
    out[all] = std::move(list);
  };
  tell("hostIP", "hostIPs", facts.hostIps);
  tell("podIP", "podIPs", facts.podIps);
  out["startTime"] = timeValue(facts.startTime);
  out["qosClass"] = qosClass(object(*facts.pod, {"spec"}));

  json::array init, app;
  for (const ContainerRecord& record : *facts.containers) {
    (record.kind == Kind::kApp ? app : init).push_back(containerStatus(facts, record));
  }
  if (!init.empty()) out["initContainerStatuses"] = std::move(init);
  out["containerStatuses"] = std::move(app);
  return out;
}

bool tellsTheSame(const json::object& told, const json::object& status) {
  for (std::string_view field : {"phase", "podIP"}) {
    if (text(told, field) != text(status, field)) return false;
  }
  auto readyOf = [](const json::object& of) {
    for (const json::value& value : array(of, {"conditions"})) {
      if (value.is_object() && text(value.get_object(), "type") == "Ready") return text(value.get_object(), "status");
    }
    return std::string_view();
  };
  if (readyOf(told) != readyOf(status)) return false;
  for (std::string_view list : {"containerStatuses", "initContainerStatuses"}) {
    for (const json::value& value : array(status, {list})) {
      const json::object& container = value.get_object();
      const json::object* said = named(array(told, {list}), text(container, "name"));
      if (said == nullptr || text(*said, "containerID") != text(container, "containerID")) return false;
      if (number(*said, {"restartCount"}) != number(container, {"restartCount"})) return false;
    }
  }
  return true;
}

std::string_view qosClass(const json::object& spec) {
  bool any = false;
  bool guaranteed = true;
  for (std::string_view list : {"containers", "initContainers"}) {
    for (const json::value& entry : array(spec, {list})) {
      if (!entry.is_object()) continue;
      const json::object& container = entry.get_object();
      for (std::string_view resource : {"cpu", "memory"}) {
        auto limit = quantityMilli(text(container, {"resources", "limits", resource}));
        auto request = quantityMilli(text(container, {"resources", "requests", resource}));
        if (limit.value_or(0) > 0 || request.value_or(0) > 0) any = true;
        if (limit.value_or(0) <= 0 || (request && *request != *limit)) guaranteed = false;
      }
    }
  }
  if (!any) return "BestEffort";
  return guaranteed ? "Guaranteed" : "Burstable";
}

}  // namespace dhow::node
