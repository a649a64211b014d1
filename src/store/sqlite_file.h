// The SQLite file itself: blocking calls, one thread at a time.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/fd.h"
#include "core.h"

struct sqlite3;
struct sqlite3_stmt;

namespace dhow::store {

class SqliteFile {
 public:
  static Result<std::unique_ptr<SqliteFile>> open(const std::string& path, const std::string& vfs);
  ~SqliteFile();

  struct Row {
    int64_t id = 0;
    std::string key;
    Revision created = 0;
    int64_t previous = 0;
    bool deleted = false;
  };
  Result<> scan(const std::function<void(Row)>& each);
  Result<Revision> readCompacted();

  // A full disk is kUnavailable with errnum ENOSPC: after rollback() nothing was written, and all goes on.
  Result<> begin();
  Result<> insert(const Change& change);
  Result<> erase(const std::vector<int64_t>& rows, Revision compacted);
  Result<> commit();
  void rollback();

  Result<std::shared_ptr<const std::string>> value(int64_t row);
  // Rows after that revision, at most `limit` and whole revisions only.
  Result<Watcher::Batch> history(const std::string& prefix, Revision after, size_t limit);

 private:
  SqliteFile() = default;
  Error failure(std::string_view attempted, int code) const;
  Result<> run(const char* sql);
  Result<> prepare(const char* sql, sqlite3_stmt** statement);
  Result<> step(sqlite3_stmt* statement, std::string_view attempted);

  UniqueFd lock_;
  sqlite3* db_ = nullptr;
  sqlite3_stmt* insert_ = nullptr;
  sqlite3_stmt* erase_ = nullptr;
  sqlite3_stmt* setCompacted_ = nullptr;
  sqlite3_stmt* value_ = nullptr;
  sqlite3_stmt* history_ = nullptr;
  sqlite3_stmt* begin_ = nullptr;
  sqlite3_stmt* commit_ = nullptr;
};

}  // namespace dhow::store
