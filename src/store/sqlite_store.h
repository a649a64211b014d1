// The embedded Store: one SQLite file in WAL mode with synchronous=FULL. A thread of its own commits all transactions
// in flight together, with one fsync. In memory are the index (key -> revisions) and the newest events; values are read
// from the file.
//
//   changes(id, key, created, previous, deleted, value)   id = revision << 10 | place in the transaction;
//                                                         previous = id of the row that it replaces, or 0
//   meta(name, value)                                     "compacted"
#pragma once

#include "base/loop.h"
#include "store/store.h"

namespace dhow::store {

class SqliteStore final : public Store {
 public:
  struct Options {
    std::string path;  // of the file; its folder must exist
    size_t keepRevisions = 10'000;
    size_t windowEvents = 256;  // in memory; older ones are read from the file
    size_t windowBytes = 1 << 20;
    bool groupCommit = true;  // false: one commit per transaction, for comparison
    std::string vfs;          // SQLite's file layer; empty: the system's
  };
  // Blocks while it reads the index. kFailedPrecondition when another process has the file, kDataLoss when it is
  // damaged.
  static Result<std::unique_ptr<SqliteStore>> open(Loop& loop, Options options);
  ~SqliteStore() override;  // waits for the thread; what was not acknowledged may or may not last

  Task<Result<std::optional<Entry>>> get(std::string key) override;
  Task<Result<ListResult>> list(std::string prefix, std::string from, size_t limit) override;
  Task<Result<std::unique_ptr<Cursor>>> read() override;
  Task<Result<Revision>> txn(Txn txn) override;
  Result<std::unique_ptr<Watcher>> watch(std::string prefix, Revision after, bool previous = false) override;
  Task<Result<>> compact(Revision revision) override;
  Revision revision() const override;
  Task<Result<Revision>> currentRevision() override;
  Task<Result<>> advance(Revision atLeast) override;
  Task<> close() override;  // after the transactions in flight

 private:
  class FileCursor;
  struct Rep;
  explicit SqliteStore(std::shared_ptr<Rep> rep);
  std::shared_ptr<Rep> rep_;
};

}  // namespace dhow::store
