// The store of a cluster replaced by another: files renamed as the last step, so that a crash leaves one in charge.
#pragma once

#include <string>

#include "base/blocking.h"
#include "base/loop.h"
#include "base/result.h"
#include "store/snapshot.h"

namespace dhow::platform {

struct ReplacedStore {
  store::SnapshotInfo snapshot;
  std::string kept;  // where the old file is now; empty: there was none
};
// Of an embedded store that nobody has open: a new file with the snapshot's content takes its place, above all its
// revisions. One that is damaged is replaced as well.
Task<Result<ReplacedStore>> replaceEmbedded(Loop& loop, BlockingPool& pool, std::string path, std::string clusterId,
                                            std::string snapshot);

// Copies the embedded store at `path`, whole, into `to`, of which nobody else writes; what is there is what an attempt
// has left that was cut short. At the end the file has another name. Gives the number of entries.
Task<Result<uint64_t>> moveStore(Loop& loop, std::string path, store::Store& to);

}  // namespace dhow::platform
