#include "core.h"

#include <algorithm>

namespace dhow::store {

namespace {
constexpr size_t kBatchEvents = 1000;
}

// Reads the window from where it stands; falls back on history when it is too far behind.
class CoreWatcher final : public Watcher {
 public:
  CoreWatcher(std::shared_ptr<Core> core, std::string prefix, Revision after, Core::History history)
      : core_(std::move(core)),
        prefix_(std::move(prefix)),
        after_(after),
        history_(std::move(history)),
        changed_(core_->loop_) {
    core_->watchers_.insert(this);
  }
  ~CoreWatcher() override { core_->watchers_.erase(this); }

  Task<Result<Batch>> next() override {
    while (true) {
      if (closed_) co_return Error(Code::kCancelled, "the watch is closed");
      if (after_ < core_->compacted_) {
        co_return Error(Code::kExpired,
                        fmt::format("revision {} has been compacted; the oldest is {}", after_, core_->compacted_));
      }
      if (after_ < core_->windowAfter_) {
        auto old = co_await history_(prefix_, after_);
        if (closed_ || !old.ok()) co_return old;
        after_ = old->revision;
        co_return old;
      }
      if (after_ < core_->durable_) co_return fromWindow();
      if (core_->failure_) co_return *core_->failure_;
      co_await changed_.wait();
    }
  }
  void close() override {
    closed_ = true;
    changed_.notify();
  }
  void wake() { changed_.notify(); }

 private:
  Batch fromWindow() {
    Batch batch;
    auto at = std::upper_bound(core_->window_.begin(), core_->window_.end(), after_,
                               [](Revision revision, const Core::Windowed& one) { return revision < one.revision; });
    for (; at != core_->window_.end() && batch.events.size() < kBatchEvents; ++at) {
      for (const auto& event : at->events) {
        if (event.entry.key.starts_with(prefix_)) batch.events.push_back(event);
      }
      after_ = at->revision;
    }
    batch.revision = after_;
    if (history_) core_->dropSeen();
    return batch;
  }

  friend class Core;
  std::shared_ptr<Core> core_;
  const std::string prefix_;
  Revision after_;
  Core::History history_;
  Signal changed_;
  bool closed_ = false;
};

void Core::restoreRevision(Revision revision, Revision compacted) {
  assigned_ = durable_ = windowAfter_ = revision;
  compacted_ = compacted;
}

Result<> checkTxn(const Txn& txn) {
  if (txn.operations.size() > kMaxOperations) return Error(Code::kInvalid, "too many operations in a transaction");
  std::unordered_set<std::string_view> seen;
  for (const auto& operation : txn.operations) {
    if (operation.key.empty()) return Error(Code::kInvalid, "a transaction names an empty key");
    if (!seen.insert(operation.key).second)
      return Error(Code::kInvalid, fmt::format("{} is changed twice in a transaction", operation.key));
    if (operation.type == Operation::Type::kPut && !operation.value.bytes)
      return Error(Code::kInvalid, "a put without a value");
  }
  return {};
}

Result<> Core::advance(Revision atLeast) {
  if (!index_.empty() || !overlay_.empty()) return Error(Code::kFailedPrecondition, "the store is not empty");
  if (atLeast <= durable_) return {};
  compact(durable_);
  restoreRevision(atLeast, atLeast);
  return {};
}

Result<Commit> Core::prepare(Txn txn) {
  if (failure_) return *failure_;
  RETURN_IF_ERROR(checkTxn(txn));
  auto current = [&](const std::string& key) -> Overlay {
    if (auto pending = overlay_.find(key); pending != overlay_.end()) return pending->second;
    auto live = index_.find(key);
    if (live == index_.end()) return {};
    return {revisionOf(live->second.row), true, live->second.created, live->second.row};
  };
  for (const auto& compare : txn.compares) {
    auto now = current(compare.key);
    Revision modified = now.exists ? now.revision : 0;
    if (modified != compare.modified) {
      return Error(Code::kConflict,
                   fmt::format("{} is at revision {}, not {}", compare.key, modified, compare.modified));
    }
  }
  Commit commit;
  commit.revision = assigned_ + 1;
  for (auto& operation : txn.operations) {
    auto now = current(operation.key);
    if (operation.type == Operation::Type::kDelete && !now.exists) continue;
    Change change;
    change.type = operation.type;
    change.row = rowOf(commit.revision, commit.changes.size());
    change.previousRow = now.exists ? now.row : 0;
    change.created = now.exists ? now.created : commit.revision;
    if (operation.type == Operation::Type::kPut) change.value = std::move(operation.value);
    change.key = std::move(operation.key);
    commit.changes.push_back(std::move(change));
  }
  if (commit.changes.empty()) {
    commit.revision = assigned_;
    return commit;
  }
  assigned_ = commit.revision;
  for (const auto& change : commit.changes) {
    overlay_[change.key] = {commit.revision, change.type == Operation::Type::kPut, change.created, change.row};
  }
  return commit;
}

Revision Core::pendingOf(const Txn& txn) const {
  Revision newest = 0;
  for (const auto& compare : txn.compares) {
    if (auto pending = overlay_.find(compare.key); pending != overlay_.end())
      newest = std::max(newest, pending->second.revision);
  }
  return newest;
}

void Core::publish(const Commit& commit, bool keepValues) {
  Windowed entry;
  entry.revision = commit.revision;
  for (const auto& change : commit.changes) {
    if (auto pending = overlay_.find(change.key);
        pending != overlay_.end() && pending->second.revision == commit.revision) {
      overlay_.erase(pending);
    }
    Event event;
    event.entry = {change.key, change.value, change.created, commit.revision};
    if (change.previousRow != 0) garbage_.push_back({commit.revision, change.previousRow});
    if (change.type == Operation::Type::kPut) {
      event.type = Event::Type::kPut;
      if (change.previousRow != 0) event.previous = change.previous;
      auto& meta = index_[change.key];
      meta.created = change.created;
      meta.row = change.row;
      if (keepValues) meta.value = change.value;
    } else {
      event.type = Event::Type::kDelete;
      index_.erase(change.key);
      garbage_.push_back({commit.revision, change.row});
    }
    entry.bytes += (event.entry.value.bytes ? event.entry.value.bytes->size() : 0) + 200;
    entry.events.push_back(std::move(event));
  }
  durable_ = commit.revision;
  windowEvents_ += entry.events.size();
  windowBytes_ += entry.bytes;
  window_.push_back(std::move(entry));
  while (window_.size() > 1 && (windowEvents_ > maxEvents_ || windowBytes_ > maxBytes_)) dropOldest();
  published_.notify();
  for (auto* watcher : watchers_) watcher->wake();
}

void Core::dropOldest() {
  windowEvents_ -= window_.front().events.size();
  windowBytes_ -= window_.front().bytes;
  windowAfter_ = window_.front().revision;
  window_.pop_front();
}

void Core::dropSeen() {
  Revision seen = durable_;
  for (const auto* watcher : watchers_) seen = std::min(seen, watcher->after_);
  while (!window_.empty() && window_.front().revision <= seen) dropOldest();
}

Task<Result<>> Core::waitFor(Revision revision) {
  const std::shared_ptr<Epoch> epoch = epoch_;
  while (durable_ < revision && !failure_ && !epoch->aborted) co_await published_.wait();
  // The number of an aborted revision is given again, to another.
  if (epoch->aborted) {
    if (epoch->durable < revision) co_return *epoch->aborted;
  } else if (durable_ < revision) {
    co_return *failure_;
  }
  co_return Result<>();
}

void Core::abort(Error error) {
  overlay_.clear();
  assigned_ = durable_;
  epoch_->aborted = std::move(error);
  epoch_->durable = durable_;
  auto next = std::make_shared<Epoch>();
  next->number = epoch_->number + 1;
  epoch_ = std::move(next);
  published_.notify();
}

void Core::fail(Error error) {
  if (failure_) return;
  failure_ = std::move(error);
  published_.notify();
  for (auto* watcher : watchers_) watcher->wake();
}

void Core::closeWatchers() {
  for (auto* watcher : watchers_) watcher->close();
}

std::vector<int64_t> Core::compact(Revision revision) {
  std::vector<int64_t> rows;
  revision = std::min(revision, durable_);
  if (revision <= compacted_) return rows;
  compacted_ = revision;
  while (!garbage_.empty() && garbage_.front().since <= revision) {
    rows.push_back(garbage_.front().row);
    garbage_.pop_front();
  }
  while (!window_.empty() && window_.front().revision <= revision) dropOldest();
  return rows;
}

Result<std::unique_ptr<Watcher>> Core::watch(std::shared_ptr<Core> core, std::string prefix, Revision after,
                                             History history) {
  if (core->failure_) return *core->failure_;
  if (after < core->compacted_ || (!history && after < core->windowAfter_)) {
    return Error(Code::kExpired,
                 fmt::format("revision {} has been compacted; the oldest is {}", after, core->compacted_));
  }
  std::unique_ptr<Watcher> watcher =
      std::make_unique<CoreWatcher>(std::move(core), std::move(prefix), after, std::move(history));
  return watcher;
}

}  // namespace dhow::store
