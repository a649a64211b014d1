// A whole store in one file, the same for the embedded store and etcd, and the way back. The file begins with a header
// (cluster, revision, number of entries) and ends with a digest of everything before; one that is cut short, damaged or
// of another cluster is refused before anything is changed.
#pragma once

#include "base/blocking.h"
#include "store/store.h"

namespace dhow::store {

struct SnapshotInfo {
  std::string cluster;  // the cluster's id: restore() asks that it matches
  Revision revision = 0;
  uint64_t entries = 0;
  uint64_t bytes = 0;  // of the file
  WallTime taken{};
};

// Reads the store at one revision, page by page, and writes the file durably.
Task<Result<SnapshotInfo>> saveSnapshot(Loop& loop, BlockingPool& pool, Store& store, std::string cluster,
                                        std::string path);
// Reads the file to its end and checks it. kDataLoss when it is not whole. Blocks.
Result<SnapshotInfo> inspectSnapshot(const std::string& path);
// Fills an empty store (kFailedPrecondition otherwise) with the file's entries; `cluster` empty takes any. The store's
// revisions go on above the snapshot's (see Store::advance), so that no client mistakes new for old.
Task<Result<SnapshotInfo>> restoreSnapshot(Loop& loop, BlockingPool& pool, Store& store, std::string cluster,
                                           std::string path);
// Copies every entry of one store, at one revision, into another that is empty. Nothing may write to `from` meanwhile.
Task<Result<Revision>> copyStore(Store& from, Store& to);

}  // namespace dhow::store
