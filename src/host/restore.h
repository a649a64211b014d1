// `dhow snapshot restore` on a master of separate hosts.
#pragma once

#include <string>

#include "base/blocking.h"
#include "base/loop.h"
#include "host/config.h"
#include "platform/store_change.h"

namespace dhow::host {

// Of the embedded store while the master does not run (kFailedPrecondition), since only its host knows how it is
// stopped and started. Of an etcd while masters run: each starts anew with the restored content, the one here before
// this returns. A file that is not whole (kDataLoss) or, unless `otherCluster`, of another cluster changes nothing.
Task<Result<platform::ReplacedStore>> restore(Loop& loop, BlockingPool& pool, HostConfig config, std::string file,
                                              bool otherCluster);

}  // namespace dhow::host
