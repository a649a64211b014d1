#include "store/sqlite_store.h"

#include <condition_variable>
#include <mutex>
#include <thread>

#include "base/log.h"
#include "sqlite_file.h"

namespace dhow::store {

namespace {
constexpr size_t kHistoryRows = 1000;
// Of a cursor's piece.
constexpr size_t kPieceBytes = 256 << 10;

struct Job {
  std::optional<Commit> commit;
  uint64_t epoch = 0;            // of the commit
  std::vector<int64_t> garbage;  // rows to erase, with `compacted`
  Revision compacted = 0;
  std::function<void(SqliteFile&)> read;
};
}  // namespace

struct SqliteStore::Rep : std::enable_shared_from_this<SqliteStore::Rep> {
  Rep(Loop& loop, Options given)
      : core(std::make_shared<Core>(loop, given.windowEvents, given.windowBytes)), options(std::move(given)) {}

  std::shared_ptr<Core> core;
  Options options;
  std::unique_ptr<SqliteFile> file;  // the thread's
  std::thread thread;
  bool closed = false;
  bool full = false;  // the disk, when it was last written to

  std::mutex mutex;
  std::condition_variable changed;
  std::deque<Job> queue;
  bool stopping = false;

  void push(Job job) {
    {
      std::lock_guard lock(mutex);
      queue.push_back(std::move(job));
    }
    changed.notify_one();
  }
  void stop() {
    {
      std::lock_guard lock(mutex);
      stopping = true;
    }
    changed.notify_one();
    if (thread.joinable()) thread.join();
    file.reset();
  }

  void work();
  Result<> write(std::vector<Job>& jobs);
  void refuse(uint64_t epoch, Error error);
  Result<> fillPrevious(Commit& commit);
  void published(std::vector<Job> jobs);
  template <class T>
  static Task<Result<T>> read(std::shared_ptr<Rep> rep, std::function<Result<T>(SqliteFile&)> run);
};

// The thread: takes all that is queued, reads first, then commits all transactions together.
void SqliteStore::Rep::work() {
  std::optional<Error> broken;
  std::optional<uint64_t> refused;  // commits of this epoch and before stand on what was not written
  std::vector<Job> owed;            // erasures that a full disk has put off
  while (true) {
    std::vector<Job> writes;
    std::vector<Job> reads;
    {
      std::unique_lock lock(mutex);
      changed.wait(lock, [this] { return stopping || !queue.empty(); });
      if (queue.empty()) return;
      while (!queue.empty()) {
        auto& into = queue.front().read ? reads : writes;
        into.push_back(std::move(queue.front()));
        queue.pop_front();
        if (!options.groupCommit && writes.size() == 1) break;
      }
    }
    for (auto& job : reads) job.read(*file);
    if (refused) std::erase_if(writes, [&](const Job& job) { return job.commit && job.epoch <= *refused; });
    if (writes.empty()) continue;
    writes.insert(writes.begin(), std::make_move_iterator(owed.begin()), std::make_move_iterator(owed.end()));
    owed.clear();
    if (!broken) {
      auto done = write(writes);
      if (!done.ok()) {
        file->rollback();
        if (done.error().errnum() == ENOSPC) {
          bool waited = false;
          for (auto& job : writes) {
            if (!job.commit) {
              owed.push_back(std::move(job));
              continue;
            }
            waited = true;
            refused = std::max(refused.value_or(0), job.epoch);
          }
          // Erasures alone have nobody who waits for them.
          if (!waited) continue;
          core->loop().post([self = weak_from_this(), epoch = *refused, error = done.error()] {
            if (auto rep = self.lock()) rep->refuse(epoch, error);
          });
          continue;
        }
        broken = std::move(done).error();
      }
    }
    auto self = weak_from_this();
    auto jobs = std::make_shared<std::vector<Job>>(std::move(writes));
    core->loop().post([self, jobs, broken] {
      auto rep = self.lock();
      if (!rep) return;
      if (!broken) return rep->published(std::move(*jobs));
      if (!rep->core->failure())
        log::error("store", "writes are refused until the store is reopened: {}", broken->message());
      rep->core->fail(Error(Code::kUnavailable, "the store has failed and must be reopened: " + broken->message()));
    });
  }
}

Result<> SqliteStore::Rep::write(std::vector<Job>& jobs) {
  RETURN_IF_ERROR(file->begin());
  for (auto& job : jobs) {
    if (job.commit) {
      for (auto& change : job.commit->changes) RETURN_IF_ERROR(file->insert(change));
      RETURN_IF_ERROR(fillPrevious(*job.commit));
    }
    if (job.compacted != 0) RETURN_IF_ERROR(file->erase(job.garbage, job.compacted));
  }
  return file->commit();
}

Result<> SqliteStore::Rep::fillPrevious(Commit& commit) {
  for (auto& change : commit.changes) {
    if (change.previousRow == 0) continue;
    ASSIGN_OR_RETURN(change.previous.bytes, file->value(change.previousRow));
    if (change.type == Operation::Type::kDelete) change.value = change.previous;
  }
  return {};
}

void SqliteStore::Rep::refuse(uint64_t epoch, Error error) {
  if (!full) log::error("store", "writes are refused while the disk is full: {}", error.message());
  full = true;
  if (epoch < core->epoch()) return;
  core->abort(Error(Code::kUnavailable, "the store's disk is full: " + error.message(), ENOSPC));
}

void SqliteStore::Rep::published(std::vector<Job> jobs) {
  if (full) log::info("store", "the disk has room again");
  full = false;
  for (auto& job : jobs) {
    if (job.commit) core->publish(*job.commit, false);
  }
  auto keep = static_cast<Revision>(options.keepRevisions);
  if (core->revision() > core->compacted() + keep + keep / 8) {
    Job job;
    job.garbage = core->compact(core->revision() - keep);
    job.compacted = core->compacted();
    push(std::move(job));
  }
}

template <class T>
Task<Result<T>> SqliteStore::Rep::read(std::shared_ptr<Rep> rep, std::function<Result<T>(SqliteFile&)> run) {
  if (rep->closed) co_return Error(Code::kUnavailable, "the store is closed");
  struct State {
    explicit State(Loop& loop) : done(loop) {}
    Signal done;
    std::optional<Result<T>> result;
  };
  auto state = std::make_shared<State>(rep->core->loop());
  Job job;
  Loop& loop = rep->core->loop();
  job.read = [state, run = std::move(run), &loop](SqliteFile& file) {
    auto result = std::make_shared<Result<T>>(run(file));
    loop.post([state, result] {
      state->result.emplace(std::move(*result));
      state->done.notify();
    });
  };
  rep->push(std::move(job));
  while (!state->result) co_await state->done.wait();
  co_return std::move(*state->result);
}

SqliteStore::SqliteStore(std::shared_ptr<Rep> rep) : rep_(std::move(rep)) {}

SqliteStore::~SqliteStore() {
  rep_->closed = true;
  rep_->core->closeWatchers();
  rep_->stop();
}

Result<std::unique_ptr<SqliteStore>> SqliteStore::open(Loop& loop, Options options) {
  auto rep = std::make_shared<Rep>(loop, std::move(options));
  ASSIGN_OR_RETURN(rep->file, SqliteFile::open(rep->options.path, rep->options.vfs));
  ASSIGN_OR_RETURN(Revision compacted, rep->file->readCompacted());
  Core& core = *rep->core;
  Revision newest = compacted;
  auto restore = [&core, &newest](SqliteFile::Row row) {
    newest = std::max(newest, revisionOf(row.id));
    if (row.previous != 0) core.restoreGarbage(revisionOf(row.id), row.previous);
    if (row.deleted) {
      core.restoreGarbage(revisionOf(row.id), row.id);
      core.index().erase(row.key);
    } else {
      core.restore(std::move(row.key), {row.created, row.id, {}});
    }
  };
  RETURN_IF_ERROR(rep->file->scan(restore));
  core.restoreRevision(newest, compacted);
  rep->thread = std::thread([raw = rep.get()] { raw->work(); });
  return std::unique_ptr<SqliteStore>(new SqliteStore(std::move(rep)));
}

Task<Result<std::optional<Entry>>> SqliteStore::get(std::string key) {
  auto rep = rep_;
  auto live = rep->core->index().find(key);
  if (live == rep->core->index().end()) co_return std::optional<Entry>();
  Entry entry{key, {}, live->second.created, revisionOf(live->second.row)};
  int64_t row = live->second.row;
  using Bytes = std::shared_ptr<const std::string>;
  std::function<Result<Bytes>(SqliteFile&)> run = [row](SqliteFile& file) { return file.value(row); };
  auto bytes = co_await Rep::read<Bytes>(rep, std::move(run));
  CO_ASSIGN_OR_RETURN(entry.value.bytes, std::move(bytes));
  co_return std::optional<Entry>(std::move(entry));
}

Task<Result<ListResult>> SqliteStore::list(std::string prefix, std::string from, size_t limit) {
  auto rep = rep_;
  ListResult result;
  result.revision = rep->core->revision();
  auto rows = std::make_shared<std::vector<int64_t>>();
  const auto& index = rep->core->index();
  for (auto at = index.lower_bound(std::max(prefix, from)); at != index.end() && at->first.starts_with(prefix); ++at) {
    if (limit != 0 && rows->size() == limit) {
      result.more = true;
      break;
    }
    result.entries.push_back({at->first, {}, at->second.created, revisionOf(at->second.row)});
    rows->push_back(at->second.row);
  }
  using Values = std::vector<std::shared_ptr<const std::string>>;
  std::function<Result<Values>(SqliteFile&)> run = [rows](SqliteFile& file) -> Result<Values> {
    Values values;
    values.reserve(rows->size());
    for (int64_t row : *rows) {
      ASSIGN_OR_RETURN(auto value, file.value(row));
      values.push_back(std::move(value));
    }
    return values;
  };
  auto values = co_await Rep::read<Values>(rep, std::move(run));
  if (!values.ok()) co_return std::move(values).error();
  for (size_t i = 0; i < result.entries.size(); ++i) result.entries[i].value.bytes = std::move((*values)[i]);
  co_return result;
}

// The index as it was, without values: a row says what was written once, for as long as it is kept.
class SqliteStore::FileCursor final : public Cursor {
 public:
  explicit FileCursor(std::shared_ptr<Rep> rep) : rep_(std::move(rep)), revision_(rep_->core->revision()) {
    const auto& index = rep_->core->index();
    entries_.reserve(index.size());
    for (const auto& [key, meta] : index) entries_.push_back({{key, {}, meta.created, revisionOf(meta.row)}, meta.row});
  }
  Revision revision() const override { return revision_; }
  uint64_t entries() const override { return entries_.size(); }

  Task<Result<std::vector<Entry>>> next() override {
    std::function<Result<std::vector<Entry>>(SqliteFile&)> run = [this](SqliteFile& file) { return piece(file); };
    auto read = co_await Rep::read<std::vector<Entry>>(rep_, std::move(run));
    if (!read.ok() && revision_ < rep_->core->compacted()) {
      co_return Error(Code::kExpired, fmt::format("revision {} has been compacted; the oldest is {}", revision_,
                                                  rep_->core->compacted()));
    }
    co_return read;
  }

 private:
  struct Place {
    Entry entry;
    int64_t row;
  };
  // On the store's thread, while the loop waits for it.
  Result<std::vector<Entry>> piece(SqliteFile& file) {
    std::vector<Entry> out;
    for (size_t bytes = 0; at_ < entries_.size() && bytes < kPieceBytes; ++at_) {
      auto& [entry, row] = entries_[at_];
      ASSIGN_OR_RETURN(entry.value.bytes, file.value(row));
      bytes += entry.key.size() + entry.value.bytes->size();
      out.push_back(std::move(entry));
    }
    return out;
  }

  std::shared_ptr<Rep> rep_;
  const Revision revision_;
  std::vector<Place> entries_;
  size_t at_ = 0;
};

Task<Result<std::unique_ptr<Cursor>>> SqliteStore::read() {
  if (rep_->closed) co_return Error(Code::kUnavailable, "the store is closed");
  co_return std::unique_ptr<Cursor>(new FileCursor(rep_));
}

Task<Result<Revision>> SqliteStore::txn(Txn txn) {
  auto rep = rep_;
  if (rep->closed) co_return Error(Code::kUnavailable, "the store is closed");
  Revision pending = rep->core->pendingOf(txn);
  auto commit = rep->core->prepare(std::move(txn));
  if (!commit.ok()) {
    // The reader that is told of a conflict finds the state that conflicts.
    if (commit.error().is(Code::kConflict) && pending != 0) {
      CO_RETURN_IF_ERROR(co_await rep->core->waitFor(pending));
    }
    co_return std::move(commit).error();
  }
  Revision revision = commit->revision;
  if (!commit->changes.empty()) {
    Job job;
    job.commit = std::move(*commit);
    job.epoch = rep->core->epoch();
    rep->push(std::move(job));
  }
  CO_RETURN_IF_ERROR(co_await rep->core->waitFor(revision));
  co_return revision;
}

namespace {
Result<Watcher::Batch> readHistory(const std::string& prefix, Revision after, SqliteFile& file) {
  return file.history(prefix, after, kHistoryRows);
}
}  // namespace

Result<std::unique_ptr<Watcher>> SqliteStore::watch(std::string prefix, Revision after, bool) {
  if (rep_->closed) return Error(Code::kUnavailable, "the store is closed");
  auto history = [weak = std::weak_ptr(rep_)](std::string of, Revision from) -> Task<Result<Watcher::Batch>> {
    using namespace std::placeholders;
    auto rep = weak.lock();
    std::function<Result<Watcher::Batch>(SqliteFile&)> run = std::bind(readHistory, std::move(of), from, _1);
    return Rep::read<Watcher::Batch>(std::move(rep), std::move(run));
  };
  return Core::watch(rep_->core, std::move(prefix), after, std::move(history));
}

Task<Result<>> SqliteStore::compact(Revision revision) {
  auto rep = rep_;
  if (rep->closed) co_return Error(Code::kUnavailable, "the store is closed");
  Job job;
  job.garbage = rep->core->compact(revision);
  job.compacted = rep->core->compacted();
  rep->push(std::move(job));
  co_return Result<>();
}

Revision SqliteStore::revision() const {
  return rep_->core->revision();
}

Task<Result<Revision>> SqliteStore::currentRevision() {
  co_return rep_->core->revision();
}

Task<Result<>> SqliteStore::advance(Revision atLeast) {
  auto rep = rep_;
  if (rep->closed) co_return Error(Code::kUnavailable, "the store is closed");
  CO_RETURN_IF_ERROR(rep->core->advance(atLeast));
  Job job;
  job.garbage = rep->core->compact(rep->core->revision());
  job.compacted = rep->core->compacted();
  rep->push(std::move(job));
  // A read passes through the queue behind it.
  std::function<Result<bool>(SqliteFile&)> nothing = [](SqliteFile&) -> Result<bool> { return true; };
  CO_RETURN_IF_ERROR(co_await Rep::read<bool>(rep, std::move(nothing)));
  co_return Result<>();
}

Task<> SqliteStore::close() {
  auto rep = rep_;
  if (rep->closed) co_return;
  // A read passes through the queue behind what is in flight.
  std::function<Result<bool>(SqliteFile&)> nothing = [](SqliteFile&) -> Result<bool> { return true; };
  auto drained = co_await Rep::read<bool>(rep, std::move(nothing));
  rep->closed = true;
  rep->core->closeWatchers();
  rep->stop();
}

}  // namespace dhow::store
