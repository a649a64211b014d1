// The store of a cluster replaced by another: files renamed as the last step, so that a crash leaves one in charge.
#pragma once

#include <string>

#include "base/blocking.h"
#include "base/loop.h"
#include "base/result.h"
#include "store/etcd_store.h"
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

// Of a store in etcd that masters may be using: a content with the snapshot's entries is made under `prefix`, beside
// the one of `now`, whose state is kept as a snapshot in the folder. When it fails nothing of the new one is left.
Task<Result<ReplacedStore>> fillBeside(Loop& loop, BlockingPool& pool, store::EtcdOptions now, std::string prefix,
                                       std::string ownId, std::string clusterId, std::string snapshot,
                                       std::string folder);
// Removes a content that nobody uses any more: a failure leaves bytes, and harms nothing.
Task<> clearContent(Loop& loop, store::EtcdOptions options);
// Before anything is stopped or changed: whether the file is whole, of this cluster (unless `otherCluster`) and of a
// form that this program knows. Blocks.
Result<> checkSnapshot(const std::string& file, const std::string& ownId, bool otherCluster);
// The name of a generation that begins now (store/generation.h).
std::string generationAt(WallTime now);

// Copies the embedded store at `path`, whole, into `to`, of which nobody else writes; what is there is what an attempt
// has left that was cut short. At the end the file has another name. Gives the number of entries.
Task<Result<uint64_t>> moveStore(Loop& loop, std::string path, store::Store& to);

}  // namespace dhow::platform
