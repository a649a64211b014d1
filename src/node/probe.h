// Probes: when to look, and what the answers add up to. Timers on the loop; one look at a time per probe.
//
// Until a probe has succeeded for the first time it is tried again soon after a failure (5 ms, doubling up to its
// period), so that a program which takes a moment to listen is not kept waiting for a whole period; these extra looks
// count for nothing when they fail.
#pragma once

#include <functional>
#include <string>

#include "base/gate.h"
#include "json.h"

namespace dhow::node {

struct ProbeOutcome {
  bool ok = false;
  std::string message;  // of a failure: "dial tcp 10.0.0.1:80: connect: connection refused"
};

class Probe {
 public:
  enum class Kind { kStartup, kLiveness, kReadiness };
  struct Settings {
    Duration initialDelay{}, period = std::chrono::seconds(10), timeout = std::chrono::seconds(1);
    int successThreshold = 1, failureThreshold = 3;
  };
  static Settings settingsOf(const json::object& probe);

  using Look = std::function<Task<ProbeOutcome>()>;
  struct Hooks {
    // The verdict changed (for startup and liveness false means: kill). `message` of the look that decided.
    std::function<void(bool ok, const std::string& message)> verdict;
    // A counted look failed.
    std::function<void(const std::string& message)> failed;
  };
  // `startedAt`: of the container, on the loop's clock.
  Probe(Loop& loop, Gate& gate, Kind kind, Settings settings, TimePoint startedAt, Look look, Hooks hooks);
  ~Probe();
  void start();
  // No verdict comes after this.
  void stop();
  bool holds() const;
  // For one that goes on from before a restart of the agent.
  void assume(bool ok);

 private:
  struct Rep;
  std::shared_ptr<Rep> rep_;
};

std::string_view probeName(Probe::Kind kind);  // "Startup", "Liveness", "Readiness"

}  // namespace dhow::node
