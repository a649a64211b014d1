// Runs a command in a container to its end, or to a time limit.
#pragma once

#include <memory>
#include <string>

#include "base/gate.h"
#include "runtime/runtime.h"

namespace dhow::node {

struct ExecOutcome {
  runtime::ExitInfo exit;
  std::string output;  // standard output and error, the first 10 KiB
  bool timedOut = false;
};

// Killed when the limit passes. The gate holds what still reads its output.
Task<Result<ExecOutcome>> runExec(Loop& loop, Gate& gate, std::shared_ptr<runtime::Sandbox> sandbox,
                                  std::string containerId, runtime::ProcessSpec process, Duration limit);

}  // namespace dhow::node
