// A whole store in one file, the same for the embedded store and etcd, and the way back. The file begins with a header
// (cluster, revision, number of entries) and ends with a digest of everything before; one that is cut short, damaged or
// of another cluster is refused before anything is changed.
#pragma once

#include "base/blocking.h"
#include "base/fd.h"
#include "store/form.h"
#include "store/store.h"

namespace dhow::store {

struct SnapshotInfo {
  std::string cluster;  // the cluster's id: restore() asks that it matches
  Revision revision = 0;
  uint64_t entries = 0;
  uint64_t bytes = 0;  // of the file
  FormMark form;       // of the content
  WallTime taken{};
};

// The bytes of a snapshot of the store at one revision, a block at a time. The pool hashes them; without one the loop.
class SnapshotStream {
 public:
  static Task<Result<std::unique_ptr<SnapshotStream>>> open(Loop& loop, BlockingPool* pool, Store& store,
                                                            std::string cluster);
  ~SnapshotStream();
  Task<Result<std::string>> next();  // empty at the end

 private:
  struct Rep;
  explicit SnapshotStream(std::unique_ptr<Rep> rep);
  std::unique_ptr<Rep> rep_;
};

// A snapshot that arrives piece by piece: beside its place until it is whole, checked and on disk. Blocks.
class SnapshotWriter {
 public:
  static Result<SnapshotWriter> create(std::string path);
  SnapshotWriter(SnapshotWriter&& other) noexcept = default;
  SnapshotWriter& operator=(SnapshotWriter&& other) = delete;
  ~SnapshotWriter();  // removes what was not finished
  Result<> write(std::string_view bytes);
  Result<SnapshotInfo> finish();

 private:
  SnapshotWriter() = default;
  std::string path_, partial_;
  UniqueFd file_;
};

// Reads the store at one revision and writes the file durably.
Task<Result<SnapshotInfo>> saveSnapshot(Loop& loop, BlockingPool& pool, Store& store, std::string cluster,
                                        std::string path);
// Reads the file to its end and checks it. kDataLoss when it is not whole. Blocks.
Result<SnapshotInfo> inspectSnapshot(const std::string& path);
// Fills an empty store (kFailedPrecondition otherwise; so is content of a form that this program does not know) with
// the file's entries; `cluster` empty takes any. The store's revisions go on far above the snapshot's and `above`, the
// last that is known of the store that it replaces (see Store::advance), so that no client mistakes new for old.
Task<Result<SnapshotInfo>> restoreSnapshot(Loop& loop, BlockingPool& pool, Store& store, std::string cluster,
                                           std::string path, Revision above = 0);
// Removes every entry. Nobody else may write meanwhile.
Task<Result<>> clearStore(Store& store);
// Copies every entry of one store, at one revision, into another that is empty. Nothing may write to `from` meanwhile.
Task<Result<Revision>> copyStore(Store& from, Store& to);

}  // namespace dhow::store
