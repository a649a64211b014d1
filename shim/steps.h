// Executes a plan's steps in the calling process (src/runtime/wire.h). System calls only.
#pragma once

#include "runtime/wire.h"

// What a step may need from the one who started it.
struct StepContext {
  int sync = -1;  // SEQPACKET socket to the shim: StepReport each, a terminal's master with it
  int stdio[3] = {-1, -1, -1};
  int targetPidfd = -1;  // exec: the container's first process
  int targetPid = 0;
  int userNs = -1;  // the sandbox's, if it has one of its own
};

struct StepReport {
  enum Kind : uint32_t { kFailed, kWarned, kReadyToExec, kTerminal, kMountNs } kind;
  uint32_t step;
  int32_t error;
};

// Runs steps in order. Returns 0 when the list ends without an exec, else -errno with `*failed` set; failures
// of kWarnOnly steps are sent to context.sync and passed over.
long runSteps(const dhow::runtime::wire::Plan* plan, StepContext& context, uint32_t* failed);

// PID 1 of a container or of a shared pid namespace: reaps, forwards signals to `child` (0: none), ends as it.
[[noreturn]] void tinyInit(int child);
void unblockSignals();
