#include "platform_conditions.h"

namespace dhow::controllers {

using namespace client;

namespace {

void setZoneReady(json::object& status, const ZoneFacts& facts, WallTime now) {
  auto ready = [&](std::string_view value, std::string_view reason, std::string_view message) {
    setCondition(status, "Ready", value, reason, message, now);
  };
  const std::string count = fmt::format("{} of {} nodes are heard", facts.nodes - facts.silent, facts.nodes);
  if (!facts.unknown.empty()) return ready("False", "NotProvided", facts.unknown);
  switch (facts.phase) {
    case ZonePhase::kDown: return ready("False", "NodesSilent", facts.message);
    case ZonePhase::kReturning: return ready("False", "Returning", facts.message);
    case ZonePhase::kUp:
    case ZonePhase::kUnknown: break;
  }
  if (facts.inDoubt) {
    return ready("Unknown", "MasterCut",
                 fmt::format("{}, and most zones are silent: the master is taken to be cut off", count));
  }
  if (facts.nodes == 0) return ready("True", "NoNodes", "it has no nodes");
  ready("True", facts.silent == 0 ? "NodesHeard" : "SomeNodesSilent", count);
}

}  // namespace

void setZoneConditions(json::object& status, const ZoneFacts& facts, WallTime now) {
  setZoneReady(status, facts, now);
  if (facts.losses < 2) {
    setCondition(status, "Stable", "True", "Stable", "", now);
  } else {
    setCondition(status, "Stable", "False", "Flapping",
                 fmt::format("it was lost {} times within the hour: it counts as returned when its nodes have been "
                             "heard for {} s",
                             facts.losses, facts.hold / std::chrono::seconds(1)),
                 now);
  }
  if (facts.phase != ZonePhase::kDown) {
    removeCondition(status, "StandInsReady");
    return;
  }
  const bool all = facts.standInsReady >= facts.machines;
  std::string message = fmt::format("{} of {} machines are stood in for", facts.standInsReady, facts.machines);
  if (!all && !facts.standInTrouble.empty()) message += ": " + facts.standInTrouble;
  setCondition(status, "StandInsReady", all ? "True" : "False",
               all                            ? "Complete"
               : facts.standInTrouble.empty() ? "Creating"
                                              : "NoRoom",
               message, now);
}

void setMachineReady(json::object& status, WallTime now) {
  // Copies: a new member of `status` moves what it holds.
  const std::string phase(text(status, "phase")), message(text(status, "message"));
  const bool ready = phase == "Running";
  setCondition(status, "Ready", ready ? "True" : "False", phase.empty() ? "Pending" : phase, message, now);
  if (ready) removeCondition(status, "Drained");
}

void setMachineDrained(json::object& status, DrainState state, std::string_view message, WallTime now) {
  constexpr std::string_view kReasons[] = {"Draining", "Blocked", "DeadlineExceeded", "NoPodsLeft"};
  setCondition(status, "Drained", state == DrainState::kDone ? "True" : "False", kReasons[static_cast<size_t>(state)],
               message, now);
}

}  // namespace dhow::controllers
