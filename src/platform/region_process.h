// The region's process of a cluster (`dhow region`), minded by an init of its own on this machine: found by what runs,
// so that nothing has to be remembered about it.
#pragma once

#include <sys/types.h>

#include "base/loop.h"
#include "base/result.h"
#include "platform/config.h"

namespace dhow::platform {

// The init above the region's process; 0 when there is none. Blocks for milliseconds.
pid_t findRegionProcess(const ClusterPaths& paths);
// What it runs; empty while it does not.
std::string regionProgram(const ClusterPaths& paths);
// Starts it from its link (programs.h) when it does not run, and returns when it serves.
Task<Result<>> startRegionProcess(Loop& loop, const ClusterConfig& config, Duration limit);
// Lets the process go on with another program, and returns when that serves: the API's address and the connections
// through it are handed over. What does not serve within `limit` is an error; the init starts it again and again then.
Task<Result<>> replaceRegionProcess(Loop& loop, const ClusterConfig& config, std::string program, Duration limit);
// Ends it, by force after `grace`.
Task<Result<>> stopRegionProcess(Loop& loop, const ClusterPaths& paths, Duration grace);

}  // namespace dhow::platform
