// The revisioned key-value store under the API: etcd's model, reduced to what an API server needs. Revisions
// count up with every transaction that changes something: by one in a store of our own, by at least one in etcd. What
// txn() has acknowledged is on disk, in etcd on a majority of disks.
//
// Several processes may use one etcd. Each sees every change in the same order; currentRevision() tells how far one
// must have followed in order to know all that was acknowledged to anybody.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/task.h"

namespace dhow::store {

using Revision = int64_t;

// Stored bytes, shared. `decoded` is whatever the writer attached to its put; events hand it back in the same
// process so that nobody parses what was just encoded. It is null for what came from disk or from another process.
struct Value {
  std::shared_ptr<const std::string> bytes;
  std::shared_ptr<const void> decoded;
};

struct Entry {
  std::string key;
  Value value;
  Revision created = 0;
  Revision modified = 0;
};

struct Event {
  enum class Type { kPut, kDelete };
  Type type = Type::kPut;
  Entry entry;                    // for kDelete: the last value (see watch()), modified = revision of the deletion
  std::optional<Value> previous;  // the value that a put replaced (see watch())
};

struct Compare {
  std::string key;
  Revision modified = 0;  // 0: the key must not exist
};

struct Operation {
  enum class Type { kPut, kDelete };
  Type type = Type::kPut;
  std::string key;
  Value value;
};

struct Txn {
  std::vector<Compare> compares;  // all must hold, else the txn is a kConflict error and changes nothing
  std::vector<Operation> operations;
};

struct ListResult {
  std::vector<Entry> entries;  // by key
  Revision revision = 0;       // at which it was read
  bool more = false;           // there were more than `limit`
};

// What a store holds at one revision, a piece at a time, while others write. Outlived by its store.
class Cursor {
 public:
  virtual ~Cursor() = default;
  virtual Revision revision() const = 0;
  virtual uint64_t entries() const = 0;  // of all pieces
  // By key; none at the end. kExpired when the revision has been compacted meanwhile.
  virtual Task<Result<std::vector<Entry>>> next() = 0;
};

// Events of one prefix in order of revision.
class Watcher {
 public:
  virtual ~Watcher() = default;
  // The next batch: all events of one or more revisions, never a part of one. kExpired when the revision asked for has
  // been compacted; kCancelled after close().
  struct Batch {
    std::vector<Event> events;
    Revision revision = 0;  // everything up to here has been seen
  };
  virtual Task<Result<Batch>> next() = 0;
  virtual void close() = 0;
  // Asks for a batch soon, an empty one if need be, that tells how far the store has got: for who waits for a revision
  // in which nothing of this prefix changed. Nothing to do where batches come at once.
  virtual void requestProgress() {}
};

class Store {
 public:
  virtual ~Store() = default;

  virtual Task<Result<std::optional<Entry>>> get(std::string key) = 0;
  // Keys that start with `prefix`, from `from` on when it is not empty.
  virtual Task<Result<ListResult>> list(std::string prefix, std::string from = "", size_t limit = 0) = 0;
  // Everything, as it is now.
  virtual Task<Result<std::unique_ptr<Cursor>>> read() = 0;
  // Gives the revision of the change. kConflict: a compare did not hold, nothing has changed. kUnavailable: nothing has
  // changed and cannot be now (no quorum; or a failed write to disk, until the store is reopened). kDeadlineExceeded:
  // nobody can tell whether it has been done.
  virtual Task<Result<Revision>> txn(Txn txn) = 0;
  // Events after `after`. `previous`: with the values that were replaced or removed; else they may be missing.
  virtual Result<std::unique_ptr<Watcher>> watch(std::string prefix, Revision after, bool previous = false) = 0;
  virtual Task<Result<>> compact(Revision revision) = 0;
  // The newest revision that this process has heard of.
  virtual Revision revision() const = 0;
  // Not older than any transaction that was acknowledged, to whichever process, before the call. One question to the
  // store answers all who ask at the same time. kUnavailable without a quorum.
  virtual Task<Result<Revision>> currentRevision() = 0;
  // Of an empty store that nobody watches (kFailedPrecondition otherwise): revisions go on above `atLeast`. For a store
  // that takes the place of another, so that no old revision is mistaken for a new one.
  virtual Task<Result<>> advance(Revision atLeast) = 0;
  virtual Task<> close() = 0;
};

}  // namespace dhow::store
