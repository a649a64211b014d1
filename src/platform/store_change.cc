#include "platform/store_change.h"

#include <fcntl.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/files.h"
#include "base/log.h"
#include "base/strings.h"
#include "base/time.h"
#include "platform/snapshots.h"
#include "store/form.h"
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

Task<Result<ReplacedStore>> fillBeside(Loop& loop, BlockingPool& pool, store::EtcdOptions now, std::string prefix,
                                       std::string ownId, std::string clusterId, std::string snapshot,
                                       std::string folder) {
  const std::string kept = folder + "/before-restore-" + snapshotName(loop.wallNow(), false);
  CO_ASSIGN_OR_RETURN(auto present, co_await store::EtcdStore::open(loop, now));
  auto saved = co_await store::saveSnapshot(loop, pool, *present, std::move(ownId), kept);
  co_await present->close();
  CO_RETURN_IF_ERROR(saved);
  now.prefix = std::move(prefix);
  CO_ASSIGN_OR_RETURN(auto made, co_await store::EtcdStore::open(loop, now));
  auto restored =
      co_await store::restoreSnapshot(loop, pool, *made, std::move(clusterId), std::move(snapshot), saved->revision);
  co_await made->close();
  if (!restored.ok()) {
    co_await clearContent(loop, std::move(now));
    co_return std::move(restored).error();
  }
  co_return ReplacedStore{std::move(*restored), kept};
}

Task<> clearContent(Loop& loop, store::EtcdOptions options) {
  auto opened = co_await store::EtcdStore::open(loop, std::move(options));
  auto cleared = opened.ok() ? co_await store::clearStore(**opened) : Result<>(opened.error());
  if (opened.ok()) co_await (*opened)->close();
  if (!cleared.ok()) log::warn("platform", "an old content of the store is left: {}", cleared.error().message());
}

Result<> checkSnapshot(const std::string& file, const std::string& ownId, bool otherCluster) {
  auto info = store::inspectSnapshot(file);
  if (!info.ok() && info.error().is(Code::kDataLoss)) {
    return Error(Code::kDataLoss,
                 info.error().message() + "; nothing was changed. `dhow snapshot list` shows those that are whole");
  }
  RETURN_IF_ERROR(info);
  RETURN_IF_ERROR(store::checkForm(info->form, thisProgram()));
  if (otherCluster || info->cluster == ownId) return {};
  return Error(Code::kFailedPrecondition,
               fmt::format("snapshot {} is of another cluster (\"{}\"; this one is \"{}\"); nothing was changed. "
                           "--other-cluster restores it all the same",
                           file, info->cluster, ownId));
}

std::string generationAt(WallTime now) {
  std::string generation = formatTime(now);
  std::erase_if(generation, [](char c) { return c == '-' || c == ':'; });
  return generation;
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
