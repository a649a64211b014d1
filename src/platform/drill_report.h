// What a drill (platform/drill.h) found out: when what happened, what became of requests, writes and identities, and
// whether the cluster kept its promises.
#pragma once

#include <boost/json/object.hpp>

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/loop.h"

namespace dhow::platform {

enum class DrillKind { kZone, kNode, kMaster, kLink, kStore };
std::string_view drillName(DrillKind kind);
std::optional<DrillKind> drillNamed(std::string_view name);

// What stands in the timeline. kNone: told for the reader, nothing is concluded from it.
enum class DrillMark { kNone, kBroken, kDetected, kHealed, kRestored, kReturned };
std::string_view markName(DrillMark mark);

struct DrillEvent {
  Duration at{0};  // since it was broken
  DrillMark mark = DrillMark::kNone;
  std::string text;
};

// A request or write that was not answered as it should have been; `at`: when it was sent, since the break.
struct DrillLoss {
  Duration at{0};
  std::string why;
};

struct DrillReport {
  DrillKind kind = DrillKind::kZone;
  std::string target;
  Duration span{0};
  bool interrupted = false;
  std::vector<DrillEvent> events;

  size_t requestsSent = 0;
  std::vector<DrillLoss> requestsLost;

  size_t writesAcknowledged = 0;
  std::vector<DrillLoss> writesFailed;  // refused, or of unknown outcome: the client knew
  Duration longestPause{0};             // between two acknowledged writes
  std::vector<std::string> writesMissing;
  std::string writesUnread;  // why they could not be read back; empty as a rule

  size_t identities = 0;
  size_t processes = 0;  // of them that were seen
  std::vector<std::string> doubled;

  // The first event of that kind.
  std::optional<Duration> when(DrillMark mark) const;
  // Promises that were broken, in words; empty when the drill was passed.
  std::vector<std::string> failures() const;
  std::string summary() const;
  boost::json::object toJson() const;
};

// "+8.42 s", aligned.
std::string eventLine(const DrillEvent& event);

}  // namespace dhow::platform
