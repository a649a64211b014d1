// The conditions that tell users and `kubectl wait` how zones and machines are. What controllers act on is the phase.
//
//   Zone     Ready          True while Up; Unknown while its nodes are silent and it cannot be told whether the zone or
//                           this master is cut off
//            Stable         False when it was lost more than once within the hour: it is trusted later each time
//            StandInsReady  while it is Down: whether all its machines are stood in for
//   Machine  Ready          True while Running; the reason is the phase otherwise
//            Drained        while pods are taken off it: which one stays, and which budget keeps it
#pragma once

#include "platform.h"

namespace dhow::controllers {

struct ZoneFacts {
  ZonePhase phase = ZonePhase::kUnknown;
  size_t nodes = 0, silent = 0;
  size_t machines = 0;                     // that belong to it
  size_t standIns = 0, standInsReady = 0;  // that stand in for them; of these, those that run
  size_t losses = 0;                       // within the hour
  Duration hold{0};                        // it must be heard for so long to be trusted
  bool inDoubt = false;                    // silent, and it cannot be told what is cut off
  std::string message;
  std::string unknown;         // why its provider does not know it
  std::string standInTrouble;  // why a stand-in is missing
};
void setZoneConditions(json::object& status, const ZoneFacts& facts, WallTime now);

// By `phase` and `message` of the machine's status.
void setMachineReady(json::object& status, WallTime now);
enum class DrainState { kDraining, kBlocked, kLate, kDone };
void setMachineDrained(json::object& status, DrainState state, std::string_view message, WallTime now);

}  // namespace dhow::controllers
