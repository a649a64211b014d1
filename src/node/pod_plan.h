// What a pod's containers need next, decided from what they are. A pure function: the worker acts on it.
#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "container_record.h"

namespace dhow::node {

enum class RestartPolicy { kAlways, kOnFailure, kNever };
RestartPolicy restartPolicyOf(const json::object& podSpec);

struct PodPlan {
  std::vector<size_t> start;          // containers to start now
  std::vector<size_t> waiting;        // containers that wait for their back-off (CrashLoopBackOff, ImagePullBackOff)
  std::optional<Duration> lookAgain;  // when the first of them may start
  bool initialized = false;           // init containers are through
  bool finished = false;              // nothing runs and nothing will: the pod has ended
  bool failed = false;                // with finished: not all ended well
};

// `records`: init containers (and sidecars) in order, then the others. `initialized`: the init containers were through
// before in this sandbox.
PodPlan planPod(const std::vector<ContainerRecord>& records, RestartPolicy policy, bool initialized, TimePoint now);

}  // namespace dhow::node
