#include "platform/store_change.h"

#include <fcntl.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/files.h"
#include "base/log.h"
#include "base/strings.h"
#include "store/sqlite_store.h"

namespace dhow::platform {

namespace {

// Beside the store's file while a new one is made.
constexpr const char* kNew = ".restoring";
constexpr const char* kBefore = ".before-restore";
constexpr const char* kMoved = ".moved-to-etcd";
constexpr const char* kBeside[] = {"-wal", "-shm", "-journal", ".lock"};

Result<> syncFolderOf(const std::string& path) {
  UniqueFd folder(::open(path.substr(0, path.rfind('/')).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!folder || ::fsync(folder.get()) != 0) return Error::fromErrno("fsync the folder of " + path);
  return {};
}

Result<> removeStoreFile(const std::string& path) {
  RETURN_IF_ERROR(removeTree(path));
  for (const char* beside : kBeside) RETURN_IF_ERROR(removeTree(path + beside));
  return {};
}

Result<> renameFile(const std::string& from, const std::string& to) {
  if (::rename(from.c_str(), to.c_str()) != 0) return Error::fromErrno("rename " + from);
  return {};
}

Result<std::unique_ptr<store::SqliteStore>> openFile(Loop& loop, const std::string& path) {
  store::SqliteStore::Options options;
  options.path = path;
  return store::SqliteStore::open(loop, std::move(options));
}

// The newest revision of the file; 0 when there is none, or it cannot be read any more. Its log is in it then.
Task<Result<store::Revision>> lastRevision(Loop& loop, std::string path) {
  if (!pathExists(path)) co_return store::Revision{0};
  auto opened = openFile(loop, path);
  if (!opened.ok() && opened.error().is(Code::kDataLoss)) {
    log::warn("platform", "the store is damaged and is replaced: {}", opened.error().message());
    co_return store::Revision{0};
  }
  CO_RETURN_IF_ERROR(opened);
  const store::Revision revision = (*opened)->revision();
  co_await (*opened)->close();
  co_return revision;
}

Result<std::string> putInPlace(const std::string& path) {
  std::string kept;
  if (pathExists(path)) {
    kept = path + kBefore;
    RETURN_IF_ERROR(removeStoreFile(kept));
    // Linked, so that at every moment there is a store under its name.
    if (::link(path.c_str(), kept.c_str()) != 0) return Error::fromErrno("link " + kept);
    // Left by one that is damaged only.
    for (const char* beside : {"-wal", "-shm"}) {
      if (pathExists(path + beside)) RETURN_IF_ERROR(renameFile(path + beside, kept + beside));
    }
  }
  RETURN_IF_ERROR(renameFile(path + kNew, path));
  RETURN_IF_ERROR(syncFolderOf(path));
  RETURN_IF_ERROR(removeTree(path + kNew + ".lock"));
  return kept;
}

}  // namespace

Task<Result<ReplacedStore>> replaceEmbedded(Loop& loop, BlockingPool& pool, std::string path, std::string clusterId,
                                            std::string snapshot) {
  CO_ASSIGN_OR_RETURN(const store::Revision above, co_await lastRevision(loop, path));
  CO_RETURN_IF_ERROR(removeStoreFile(path + kNew));
  CO_ASSIGN_OR_RETURN(auto made, openFile(loop, path + kNew));
  auto restored = co_await store::restoreSnapshot(loop, pool, *made, std::move(clusterId), std::move(snapshot), above);
  co_await made->close();
  made.reset();
  if (restored.ok() && pathExists(path + kNew + "-wal"))
    restored = Error(Code::kUnavailable, fmt::format("{}{} could not be completed", path, kNew));
  if (!restored.ok()) {
    (void)removeStoreFile(path + kNew).ok();
    co_return std::move(restored).error();
  }
  CO_ASSIGN_OR_RETURN(auto kept, putInPlace(path));
  co_return ReplacedStore{std::move(*restored), std::move(kept)};
}

Task<Result<uint64_t>> moveStore(Loop& loop, std::string path, store::Store& to) {
  CO_ASSIGN_OR_RETURN(auto from, openFile(loop, path));
  auto cleared = co_await store::clearStore(to);
  CO_RETURN_IF_ERROR(cleared);
  auto copied = co_await store::copyStore(*from, to);
  CO_RETURN_IF_ERROR(copied);
  CO_ASSIGN_OR_RETURN(auto now, co_await to.list("", "", 0));
  co_await from->close();
  from.reset();
  // From here on the new one is in charge.
  CO_RETURN_IF_ERROR(renameFile(path, path + kMoved));
  CO_RETURN_IF_ERROR(syncFolderOf(path));
  CO_RETURN_IF_ERROR(removeTree(path + ".lock"));
  co_return now.entries.size();
}

}  // namespace dhow::platform
