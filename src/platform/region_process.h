// The region's process of a cluster (`dhow region`), minded by an init of its own on this machine: found by what runs,
// so that nothing has to be remembered about it.
#pragma once

#include <sys/types.h>

#include "base/loop.h"
#include "base/result.h"
#include "platform/config.h"
#include "platform/programs.h"

namespace dhow::platform {

// The init above the region's process; 0 when there is none. Blocks for milliseconds.
pid_t findRegionProcess(const ClusterPaths& paths);
// Starts it when it does not run, and returns when it serves.
Task<Result<>> startRegionProcess(Loop& loop, const ClusterConfig& config, const Programs& programs, Duration limit);
// Ends it, by force after `grace`.
Task<Result<>> stopRegionProcess(Loop& loop, const ClusterPaths& paths, Duration grace);

}  // namespace dhow::platform
