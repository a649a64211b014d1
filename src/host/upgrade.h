// `dhow upgrade` on a host: its own programs replaced, service by service; containers go on. Masters come first, one
// host after the other, then nodes: what each host needs to know of the others it asks the API.
#pragma once

#include "base/blocking.h"
#include "base/loop.h"
#include "host/config.h"
#include "platform/programs.h"
#include "platform/progress.h"

namespace dhow::host {

// By what runs `to`: a folder, a program, one that the host has by its id; empty: `own`. kFailedPrecondition where the
// versions are too far apart, a node would be newer than a master, the store's form is not known to them, or something
// is not well: nothing has changed then. A service that does not come up goes back to what it ran before. Cut short at
// any moment, it is completed by the next.
Task<Result<platform::Upgraded>> upgrade(Loop& loop, BlockingPool& pool, HostConfig config, platform::Programs own,
                                         std::string to, platform::Progress progress);

}  // namespace dhow::host
