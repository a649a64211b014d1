// Breaks one thing of a running cluster under load, puts it back, and tells what came of it. Only a whole cluster is
// broken, one drill at a time; whatever ends a drill, the thing is put back and the load is removed.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "base/blocking.h"
#include "base/loop.h"
#include "base/result.h"
#include "platform/config.h"
#include "platform/drill_report.h"
#include "platform/programs.h"

namespace dhow::platform {

struct DrillRequest {
  DrillKind kind = DrillKind::kZone;
  std::string target;  // empty: the drill's choice
  Duration span = std::chrono::seconds(30);
};

class Drill {
 public:
  Drill(Loop& loop, BlockingPool& pool, const ClusterConfig& config, Programs programs);
  ~Drill();

  // Told as it happens: events of the report, and before the first of them what is prepared.
  std::function<void(const std::string& step)> onStep;
  std::function<void(const DrillEvent& event)> onEvent;

  // kFailedPrecondition with what is not whole. A report tells by itself whether the drill was passed.
  Task<Result<DrillReport>> run(DrillRequest request);
  // Puts back and ends soon; twice: without waiting for the cluster to heal.
  void interrupt();

 private:
  struct Rep;
  std::unique_ptr<Rep> rep_;
};

}  // namespace dhow::platform
