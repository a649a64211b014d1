#include "store/memory_store.h"

#include "core.h"

namespace dhow::store {

struct MemoryStore::Rep {
  Rep(Loop& loop, Options given)
      : core(std::make_shared<Core>(loop, given.keepRevisions, size_t{256} << 20)), options(std::move(given)) {}
  std::shared_ptr<Core> core;
  Options options;
  bool broken = false;
  bool closed = false;
};

namespace {
// A previous or last value is taken from the index: the commit before has been published by now.
void fillPrevious(Core& core, Commit& commit) {
  for (auto& change : commit.changes) {
    if (change.previousRow == 0) continue;
    auto live = core.index().find(change.key);
    if (live == core.index().end()) continue;
    change.previous = live->second.value;
    if (change.type == Operation::Type::kDelete) change.value = live->second.value;
  }
}
}  // namespace

MemoryStore::MemoryStore(Loop& loop, Options options) : rep_(std::make_shared<Rep>(loop, std::move(options))) {}
MemoryStore::~MemoryStore() = default;

void MemoryStore::breakDown() {
  rep_->broken = true;
}
void MemoryStore::repair() {
  rep_->broken = false;
}

Task<Result<std::optional<Entry>>> MemoryStore::get(std::string key) {
  auto live = rep_->core->index().find(key);
  if (live == rep_->core->index().end()) co_return std::optional<Entry>();
  co_return std::optional<Entry>(Entry{key, live->second.value, live->second.created, revisionOf(live->second.row)});
}

Task<Result<ListResult>> MemoryStore::list(std::string prefix, std::string from, size_t limit) {
  ListResult result;
  result.revision = rep_->core->revision();
  const auto& index = rep_->core->index();
  for (auto at = index.lower_bound(std::max(prefix, from)); at != index.end() && at->first.starts_with(prefix); ++at) {
    if (limit != 0 && result.entries.size() == limit) {
      result.more = true;
      break;
    }
    result.entries.push_back({at->first, at->second.value, at->second.created, revisionOf(at->second.row)});
  }
  co_return result;
}

namespace {
class HeldCursor final : public Cursor {
 public:
  explicit HeldCursor(ListResult all) : all_(std::move(all)), count_(all_.entries.size()) {}
  Revision revision() const override { return all_.revision; }
  uint64_t entries() const override { return count_; }
  Task<Result<std::vector<Entry>>> next() override { co_return std::exchange(all_.entries, {}); }

 private:
  ListResult all_;
  size_t count_;
};
}  // namespace

// The values are in memory anyway.
Task<Result<std::unique_ptr<Cursor>>> MemoryStore::read() {
  CO_ASSIGN_OR_RETURN(auto all, co_await list("", "", 0));
  co_return std::unique_ptr<Cursor>(new HeldCursor(std::move(all)));
}

Task<Result<Revision>> MemoryStore::txn(Txn txn) {
  auto rep = rep_;
  if (rep->closed) co_return Error(Code::kUnavailable, "the store is closed");
  if (rep->broken) co_return Error(Code::kUnavailable, "the store has failed and must be reopened");
  Fault fault = rep->options.fault ? rep->options.fault(txn) : Fault::kNone;
  if (fault == Fault::kRefused) co_return Error(Code::kUnavailable, "the store refused the write");
  Revision pending = rep->core->pendingOf(txn);
  auto commit = rep->core->prepare(std::move(txn));
  if (!commit.ok()) {
    // The reader that is told of a conflict finds the state that conflicts.
    if (commit.error().is(Code::kConflict) && pending != 0) {
      CO_RETURN_IF_ERROR(co_await rep->core->waitFor(pending));
    }
    co_return std::move(commit).error();
  }
  if (commit->changes.empty()) co_return commit->revision;
  Revision revision = commit->revision;
  auto publish = [rep, commit = std::make_shared<Commit>(std::move(*commit))] {
    fillPrevious(*rep->core, *commit);
    rep->core->publish(*commit, true);
    auto keep = static_cast<Revision>(rep->options.keepRevisions);
    if (rep->core->revision() > rep->core->compacted() + keep + keep / 8)
      rep->core->compact(rep->core->revision() - keep);
  };
  if (rep->options.commitDelay > Duration(0)) {
    auto timer = rep->core->loop().after(rep->options.commitDelay, publish);
    auto done = co_await rep->core->waitFor(revision);
    CO_RETURN_IF_ERROR(done);
  } else {
    rep->core->loop().post(publish);
    auto done = co_await rep->core->waitFor(revision);
    CO_RETURN_IF_ERROR(done);
  }
  if (fault == Fault::kLostAnswer) co_return Error(Code::kDeadlineExceeded, "the answer of the store was lost");
  co_return revision;
}

Result<std::unique_ptr<Watcher>> MemoryStore::watch(std::string prefix, Revision after, bool) {
  return Core::watch(rep_->core, std::move(prefix), after, nullptr);
}

Task<Result<>> MemoryStore::compact(Revision revision) {
  rep_->core->compact(revision);
  co_return Result<>();
}

Revision MemoryStore::revision() const {
  return rep_->core->revision();
}

Task<Result<Revision>> MemoryStore::currentRevision() {
  co_return rep_->core->revision();
}

Task<Result<>> MemoryStore::advance(Revision atLeast) {
  co_return rep_->core->advance(atLeast);
}

Task<> MemoryStore::close() {
  rep_->closed = true;
  rep_->core->closeWatchers();
  co_return;
}

}  // namespace dhow::store
