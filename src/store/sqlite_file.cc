#include "sqlite_file.h"

#include <sqlite3.h>

#include <cerrno>

#include "base/files.h"

namespace dhow::store {

Result<std::unique_ptr<SqliteFile>> SqliteFile::open(const std::string& path, const std::string& vfs) {
  std::unique_ptr<SqliteFile> file(new SqliteFile);
  auto lock = lockFile(path + ".lock");
  if (!lock.ok()) return std::move(lock).error().wrap("open store " + path);
  file->lock_ = std::move(*lock);
  int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX;
  int code = sqlite3_open_v2(path.c_str(), &file->db_, flags, vfs.empty() ? nullptr : vfs.c_str());
  if (code != SQLITE_OK) return file->failure("open store " + path, code);
  sqlite3_extended_result_codes(file->db_, 1);
  // The lock file keeps other processes away, so the WAL's index can live in this process' memory.
  for (const char* sql :
       {"PRAGMA locking_mode=EXCLUSIVE", "PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL",
        "PRAGMA cache_size=-1024", "PRAGMA journal_size_limit=8388608",
        "CREATE TABLE IF NOT EXISTS changes(id INTEGER PRIMARY KEY, key TEXT NOT NULL, created INTEGER NOT NULL,"
        " previous INTEGER NOT NULL, deleted INTEGER NOT NULL, value BLOB)",
        "CREATE TABLE IF NOT EXISTS meta(name TEXT PRIMARY KEY, value INTEGER) WITHOUT ROWID"}) {
    auto done = file->run(sql);
    if (!done.ok()) return std::move(done).error().wrap("open store " + path);
  }
  RETURN_IF_ERROR(file->prepare("INSERT INTO changes(id, key, created, previous, deleted, value) VALUES(?,?,?,?,?,?)",
                                &file->insert_));
  RETURN_IF_ERROR(file->prepare("DELETE FROM changes WHERE id=?", &file->erase_));
  RETURN_IF_ERROR(
      file->prepare("INSERT OR REPLACE INTO meta(name, value) VALUES('compacted', ?)", &file->setCompacted_));
  RETURN_IF_ERROR(file->prepare("SELECT value FROM changes WHERE id=?", &file->value_));
  RETURN_IF_ERROR(
      file->prepare("SELECT c.id, c.key, c.created, c.previous, c.deleted, c.value, p.value FROM changes c"
                    " LEFT JOIN changes p ON p.id=c.previous WHERE c.id>=? ORDER BY c.id",
                    &file->history_));
  RETURN_IF_ERROR(file->prepare("BEGIN IMMEDIATE", &file->begin_));
  RETURN_IF_ERROR(file->prepare("COMMIT", &file->commit_));
  return file;
}

SqliteFile::~SqliteFile() {
  for (auto* statement : {insert_, erase_, setCompacted_, value_, history_, begin_, commit_})
    sqlite3_finalize(statement);
  sqlite3_close_v2(db_);
}

Error SqliteFile::failure(std::string_view attempted, int code) const {
  std::string text = fmt::format("{}: {}", attempted, db_ ? sqlite3_errmsg(db_) : sqlite3_errstr(code));
  switch (code & 0xff) {
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB: return Error(Code::kDataLoss, std::move(text));
    case SQLITE_FULL: return Error(Code::kUnavailable, std::move(text), ENOSPC);
    case SQLITE_CANTOPEN: return Error(Code::kNotFound, std::move(text));
    default: return Error(Code::kUnavailable, std::move(text));
  }
}

Result<> SqliteFile::run(const char* sql) {
  int code = sqlite3_exec(db_, sql, nullptr, nullptr, nullptr);
  if (code != SQLITE_OK) return failure(sql, code);
  return {};
}

Result<> SqliteFile::prepare(const char* sql, sqlite3_stmt** statement) {
  int code = sqlite3_prepare_v3(db_, sql, -1, SQLITE_PREPARE_PERSISTENT, statement, nullptr);
  if (code != SQLITE_OK) return failure("prepare", code);
  return {};
}

Result<> SqliteFile::step(sqlite3_stmt* statement, std::string_view attempted) {
  int code = sqlite3_step(statement);
  std::optional<Error> error;
  if (code != SQLITE_DONE && code != SQLITE_ROW) error = failure(attempted, code);
  sqlite3_reset(statement);
  if (error) return *error;
  return {};
}

namespace {
std::string text(sqlite3_stmt* statement, int column) {
  const auto* bytes = static_cast<const char*>(sqlite3_column_blob(statement, column));
  return bytes ? std::string(bytes, static_cast<size_t>(sqlite3_column_bytes(statement, column))) : std::string();
}
}  // namespace

Result<> SqliteFile::scan(const std::function<void(Row)>& each) {
  sqlite3_stmt* statement = nullptr;
  RETURN_IF_ERROR(prepare("SELECT id, key, created, previous, deleted FROM changes ORDER BY id", &statement));
  int code = SQLITE_OK;
  while ((code = sqlite3_step(statement)) == SQLITE_ROW) {
    each({sqlite3_column_int64(statement, 0), text(statement, 1), sqlite3_column_int64(statement, 2),
          sqlite3_column_int64(statement, 3), sqlite3_column_int(statement, 4) != 0});
  }
  std::optional<Error> error;
  if (code != SQLITE_DONE) error = failure("read the index", code);
  sqlite3_finalize(statement);
  if (error) return *error;
  return {};
}

Result<Revision> SqliteFile::readCompacted() {
  sqlite3_stmt* statement = nullptr;
  RETURN_IF_ERROR(prepare("SELECT value FROM meta WHERE name='compacted'", &statement));
  int code = sqlite3_step(statement);
  Revision revision = code == SQLITE_ROW ? sqlite3_column_int64(statement, 0) : 0;
  std::optional<Error> error;
  if (code != SQLITE_ROW && code != SQLITE_DONE) error = failure("read the index", code);
  sqlite3_finalize(statement);
  if (error) return *error;
  return revision;
}

Result<> SqliteFile::begin() {
  return step(begin_, "begin");
}
Result<> SqliteFile::commit() {
  return step(commit_, "commit");
}

void SqliteFile::rollback() {
  if (sqlite3_get_autocommit(db_) == 0) sqlite3_exec(db_, "ROLLBACK", nullptr, nullptr, nullptr);
}

Result<> SqliteFile::insert(const Change& change) {
  bool deleted = change.type == Operation::Type::kDelete;
  sqlite3_bind_int64(insert_, 1, change.row);
  sqlite3_bind_text(insert_, 2, change.key.data(), static_cast<int>(change.key.size()), SQLITE_STATIC);
  sqlite3_bind_int64(insert_, 3, change.created);
  sqlite3_bind_int64(insert_, 4, change.previousRow);
  sqlite3_bind_int(insert_, 5, deleted ? 1 : 0);
  if (deleted)
    sqlite3_bind_null(insert_, 6);
  else
    sqlite3_bind_blob64(insert_, 6, change.value.bytes->data(), change.value.bytes->size(), SQLITE_STATIC);
  return step(insert_, "write " + change.key);
}

Result<> SqliteFile::erase(const std::vector<int64_t>& rows, Revision compacted) {
  for (int64_t row : rows) {
    sqlite3_bind_int64(erase_, 1, row);
    RETURN_IF_ERROR(step(erase_, "compact"));
  }
  sqlite3_bind_int64(setCompacted_, 1, compacted);
  return step(setCompacted_, "compact");
}

Result<std::shared_ptr<const std::string>> SqliteFile::value(int64_t row) {
  sqlite3_bind_int64(value_, 1, row);
  int code = sqlite3_step(value_);
  if (code != SQLITE_ROW) {
    auto error = code == SQLITE_DONE ? Error(Code::kDataLoss, fmt::format("row {} of the store is missing", row))
                                     : failure("read", code);
    sqlite3_reset(value_);
    return error;
  }
  auto bytes = std::make_shared<const std::string>(text(value_, 0));
  sqlite3_reset(value_);
  return bytes;
}

Result<Watcher::Batch> SqliteFile::history(const std::string& prefix, Revision after, size_t limit) {
  Watcher::Batch batch;
  batch.revision = after;
  sqlite3_bind_int64(history_, 1, rowOf(after + 1, 0));
  int code = SQLITE_OK;
  size_t rows = 0;
  while ((code = sqlite3_step(history_)) == SQLITE_ROW) {
    int64_t id = sqlite3_column_int64(history_, 0);
    if (rows >= limit && revisionOf(id) != batch.revision) break;
    ++rows;
    batch.revision = revisionOf(id);
    Event event;
    event.entry.key = text(history_, 1);
    if (!event.entry.key.starts_with(prefix)) continue;
    event.entry.created = sqlite3_column_int64(history_, 2);
    event.entry.modified = revisionOf(id);
    bool hasPrevious = sqlite3_column_int64(history_, 3) != 0;
    if (sqlite3_column_int(history_, 4) != 0) {
      event.type = Event::Type::kDelete;
      event.entry.value.bytes = std::make_shared<const std::string>(text(history_, 6));
    } else {
      event.entry.value.bytes = std::make_shared<const std::string>(text(history_, 5));
      if (hasPrevious) event.previous = Value{std::make_shared<const std::string>(text(history_, 6)), nullptr};
    }
    batch.events.push_back(std::move(event));
  }
  std::optional<Error> error;
  if (code != SQLITE_ROW && code != SQLITE_DONE) error = failure("read history", code);
  sqlite3_reset(history_);
  if (error) return *error;
  return batch;
}

}  // namespace dhow::store
