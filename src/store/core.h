// What both stores share: the index of live keys, the order of revisions, the window of recent events and the
// watchers. Where values last elsewhere the window holds only what a watcher has yet to see. It knows nothing of where
// values last. All on the loop's thread.
//
// A transaction passes through twice: prepare() checks it against everything accepted so far and gives it its
// revision; publish() makes it visible once it is durable.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <unordered_map>
#include <unordered_set>

#include "base/gate.h"
#include "store/store.h"

namespace dhow::store {

// A row of history is named by its revision and its place in the transaction.
inline constexpr int kPlaceBits = 10;
inline constexpr size_t kMaxOperations = size_t{1} << kPlaceBits;
constexpr Revision revisionOf(int64_t row) {
  return row >> kPlaceBits;
}
constexpr int64_t rowOf(Revision revision, size_t place) {
  return (revision << kPlaceBits) | static_cast<int64_t>(place);
}

struct Change {
  Operation::Type type = Operation::Type::kPut;
  std::string key;
  Value value;  // of a delete: filled with the last value before it is published
  Revision created = 0;
  int64_t row = 0;
  int64_t previousRow = 0;  // 0: the key is new
  Value previous;
};

struct Commit {
  Revision revision = 0;
  std::vector<Change> changes;
};

// kInvalid: too many operations, a key that is empty or changed twice, a put without a value.
Result<> checkTxn(const Txn& txn);

class CoreWatcher;

class Core {
 public:
  struct Meta {
    Revision created = 0;
    int64_t row = 0;
    Value value;  // only where values live in memory
  };
  // Where events older than the window come from; null: nowhere, they are expired.
  using History = std::function<Task<Result<Watcher::Batch>>(std::string prefix, Revision after)>;

  Core(Loop& loop, size_t windowEvents, size_t windowBytes)
      : loop_(loop), maxEvents_(windowEvents), maxBytes_(windowBytes) {}

  Loop& loop() { return loop_; }
  void restore(std::string key, Meta meta) { index_[std::move(key)] = std::move(meta); }
  void restoreRevision(Revision revision, Revision compacted);

  // kConflict, kInvalid, or a commit; one without changes needs no publish.
  Result<Commit> prepare(Txn txn);
  // Of an empty store: goes on after `atLeast`.
  Result<> advance(Revision atLeast);
  // The newest accepted revision that touches a key of this transaction and is not yet durable, or 0.
  Revision pendingOf(const Txn& txn) const;
  void publish(const Commit& commit, bool keepValues);
  // Waits until everything up to `revision` is published, or the store has failed.
  Task<Result<>> waitFor(Revision revision);

  // What was accepted and is not published never happened: whoever waits for it gets the error, and the store goes on
  // from what is published.
  void abort(Error error);
  // Counts the calls of abort(): a commit belongs to the epoch in which it was prepared.
  uint64_t epoch() const { return epoch_->number; }
  // For good.
  void fail(Error error);
  const std::optional<Error>& failure() const { return failure_; }
  void closeWatchers();

  Revision revision() const { return durable_; }
  Revision compacted() const { return compacted_; }
  // Forgets history up to `revision` and gives the rows that nobody can read any more.
  std::vector<int64_t> compact(Revision revision);
  const std::map<std::string, Meta>& index() const { return index_; }
  std::map<std::string, Meta>& index() { return index_; }
  void restoreGarbage(Revision since, int64_t row) { garbage_.push_back({since, row}); }

  static Result<std::unique_ptr<Watcher>> watch(std::shared_ptr<Core> core, std::string prefix, Revision after,
                                                History history);

 private:
  friend class CoreWatcher;
  void dropOldest();
  // What every watcher has seen.
  void dropSeen();
  struct Overlay {
    Revision revision = 0;
    bool exists = false;
    Revision created = 0;
    int64_t row = 0;
  };
  struct Garbage {
    Revision since = 0;  // the revision that replaced the row
    int64_t row = 0;
  };
  struct Epoch {
    uint64_t number = 0;
    std::optional<Error> aborted;
    Revision durable = 0;  // when it was aborted
  };
  struct Windowed {
    Revision revision = 0;
    std::vector<Event> events;
    size_t bytes = 0;
  };

  Loop& loop_;
  const size_t maxEvents_;
  const size_t maxBytes_;
  std::map<std::string, Meta> index_;
  std::unordered_map<std::string, Overlay> overlay_;
  std::deque<Garbage> garbage_;
  std::deque<Windowed> window_;
  size_t windowEvents_ = 0;
  size_t windowBytes_ = 0;
  Revision windowAfter_ = 0;  // the window holds everything after this
  Revision assigned_ = 0;
  Revision durable_ = 0;
  Revision compacted_ = 0;
  std::shared_ptr<Epoch> epoch_ = std::make_shared<Epoch>();
  std::optional<Error> failure_;
  std::unordered_set<CoreWatcher*> watchers_;
  Signal published_{loop_};
};

}  // namespace dhow::store
