// A pod's status from what the agent knows: phase, conditions and container states, as the kubelet computes them.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "container_record.h"
#include "pod_plan.h"

namespace dhow::node {

struct PodFacts {
  const json::object* pod = nullptr;  // the whole document
  const std::vector<ContainerRecord>* containers = nullptr;
  const json::object* before = nullptr;  // the status computed last, for transition times; may be null
  bool sandboxReady = false;
  bool initialized = false;
  bool finished = false, failed = false;     // the plan's verdict
  bool stopped = false;                      // ended from outside, and nothing runs any more
  std::vector<std::string> podIps, hostIps;  // the first one is the primary
  WallTime startTime{}, now{};
  std::string reason, message;  // DeadlineExceeded, Evicted, ...
  // Of a pod that leaves: what users hold of it, or held.
  struct Sessions {
    bool held = false;
    std::string reason, message;
  };
  std::optional<Sessions> sessions;
  bool abandoned = false;  // nobody, not even a user that it has, may be sent to it any more
};

json::object podStatus(const PodFacts& facts);
// Whether the API's status says what podStatus() has: phase, address, readiness, and which containers run.
bool tellsTheSame(const json::object& told, const json::object& status);
// "Guaranteed", "Burstable" or "BestEffort".
std::string_view qosClass(const json::object& podSpec);

}  // namespace dhow::node
