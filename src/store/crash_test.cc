// What happens to the file when the process is killed, and when the disk fails.
#include <gtest/gtest.h>

#include <signal.h>
#include <sqlite3.h>
#include <sys/wait.h>

#include <atomic>
#include <cstring>
#include <random>
#include <thread>

#include "base/fd.h"
#include "base/files.h"
#include "base/gate.h"
#include "store/sqlite_store.h"

namespace dhow::store {
namespace {

Operation put(std::string key, std::string value) {
  return {Operation::Type::kPut, std::move(key), {std::make_shared<const std::string>(std::move(value)), nullptr}};
}

// One writer: both halves of a pair in each transaction, and each acknowledgement told through the pipe.
Task<> writePairs(Store* store, int writer, int start, int pipe) {
  for (int i = start;; ++i) {
    Txn txn;
    std::string value = fmt::format("{} {}", i, std::string(static_cast<size_t>(i * 37 % 3000), 'v'));
    txn.operations.push_back(put(fmt::format("/left/{}", writer), value));
    txn.operations.push_back(put(fmt::format("/right/{}", writer), value));
    auto written = co_await store->txn(std::move(txn));
    if (!written.ok()) co_return;
    int32_t told[2] = {writer, i};
    if (::write(pipe, told, sizeof told) != sizeof told) co_return;
  }
}

constexpr int kWriters = 4;

[[noreturn]] void child(const std::string& path, const std::array<int, kWriters>& start, int pipe) {
  RealLoop loop;
  SqliteStore::Options options;
  options.path = path;
  options.keepRevisions = 64;
  auto store = SqliteStore::open(loop, options);
  if (!store.ok()) _exit(3);
  for (int writer = 0; writer < kWriters; ++writer) {
    spawn(loop, writePairs(store->get(), writer, start[static_cast<size_t>(writer)] + 1, pipe));
  }
  loop.run();
  _exit(4);
}

Task<std::string> read(Store* store, std::string key) {
  auto entry = co_await store->get(std::move(key));
  co_return entry.ok() && *entry ? *(*entry)->value.bytes : std::string();
}

TEST(SqliteStoreCrash, KillAtAnyMomentLosesNothingAcknowledgedAndShowsNoHalfTransaction) {
  auto dir = makeTempDir("/tmp", "dhow-crash").value();
  std::string path = dir + "/state.db";
  std::mt19937 random(7);
  std::array<int, kWriters> seen{};
  int64_t acknowledgedTotal = 0;
  int rounds = 200;
  for (int round = 0; round < rounds; ++round) {
    int fds[2];
    ASSERT_EQ(::pipe2(fds, O_CLOEXEC), 0);
    UniqueFd readEnd(fds[0]);
    UniqueFd writeEnd(fds[1]);
    pid_t pid = ::fork();
    ASSERT_GE(pid, 0);
    if (pid == 0) child(path, seen, writeEnd.get());
    writeEnd.reset();
    std::array<int, kWriters> acknowledged = seen;
    // Killed after a random number of acknowledgements, and a random moment more: in the midst of what comes next.
    int wanted = static_cast<int>(random() % 24);
    int32_t told[2];
    for (int i = 0; i < wanted && ::read(readEnd.get(), told, sizeof told) == sizeof told; ++i) {
      acknowledged[static_cast<size_t>(told[0])] = told[1];
    }
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 3000));
    ::kill(pid, SIGKILL);
    while (::read(readEnd.get(), told, sizeof told) == sizeof told)
      acknowledged[static_cast<size_t>(told[0])] = told[1];
    int status = 0;
    ASSERT_EQ(::waitpid(pid, &status, 0), pid);
    ASSERT_TRUE(WIFSIGNALED(status)) << "the writer ended by itself: " << status;

    RealLoop loop;
    SqliteStore::Options options;
    options.path = path;
    auto store = SqliteStore::open(loop, options);
    ASSERT_TRUE(store.ok()) << store.error().message();
    for (size_t writer = 0; writer < kWriters; ++writer) {
      auto left = runOn(loop, read(store->get(), fmt::format("/left/{}", writer)));
      auto right = runOn(loop, read(store->get(), fmt::format("/right/{}", writer)));
      ASSERT_EQ(left, right) << "round " << round;
      int found = left.empty() ? 0 : std::stoi(left);
      ASSERT_GE(found, acknowledged[writer]) << "round " << round;
      acknowledgedTotal += acknowledged[writer] - seen[writer];
      seen[writer] = found;
    }
  }
  std::printf("%d kills, %lld acknowledged transactions, none lost\n", rounds,
              static_cast<long long>(acknowledgedTotal));
  EXPECT_TRUE(removeTree(dir).ok());
}

// A file layer that fails on request: SQLite's own, with the write and sync of each file put in front.
std::atomic<int> gFailWritesAfter{-1};  // counts down; at 0 every write and sync fails
std::atomic<bool> gFull{false};         // the disk
struct FaultyFile {
  sqlite3_file base;
  sqlite3_file* real;
};
bool failNow() {
  int left = gFailWritesAfter.load();
  if (left < 0) return false;
  if (left == 0) return true;
  gFailWritesAfter.store(left - 1);
  return false;
}
sqlite3_file* real(sqlite3_file* file) {
  return reinterpret_cast<FaultyFile*>(file)->real;
}

const sqlite3_io_methods* faultyMethods() {
  static const sqlite3_io_methods methods = [] {
    sqlite3_io_methods m;
    std::memset(&m, 0, sizeof m);
    m.iVersion = 1;  // without shared memory: enough for an exclusive WAL
    m.xClose = [](sqlite3_file* f) {
      int rc = real(f)->pMethods->xClose(real(f));
      sqlite3_free(real(f));
      return rc;
    };
    m.xRead = [](sqlite3_file* f, void* p, int n, sqlite3_int64 at) {
      return real(f)->pMethods->xRead(real(f), p, n, at);
    };
    m.xWrite = [](sqlite3_file* f, const void* p, int n, sqlite3_int64 at) {
      if (gFull) return SQLITE_FULL;
      return failNow() ? SQLITE_IOERR_WRITE : real(f)->pMethods->xWrite(real(f), p, n, at);
    };
    m.xTruncate = [](sqlite3_file* f, sqlite3_int64 n) { return real(f)->pMethods->xTruncate(real(f), n); };
    m.xSync = [](sqlite3_file* f, int flags) {
      return failNow() ? SQLITE_IOERR_FSYNC : real(f)->pMethods->xSync(real(f), flags);
    };
    m.xFileSize = [](sqlite3_file* f, sqlite3_int64* n) { return real(f)->pMethods->xFileSize(real(f), n); };
    m.xLock = [](sqlite3_file* f, int lock) { return real(f)->pMethods->xLock(real(f), lock); };
    m.xUnlock = [](sqlite3_file* f, int lock) { return real(f)->pMethods->xUnlock(real(f), lock); };
    m.xCheckReservedLock = [](sqlite3_file* f, int* out) {
      return real(f)->pMethods->xCheckReservedLock(real(f), out);
    };
    m.xFileControl = [](sqlite3_file* f, int op, void* arg) {
      return real(f)->pMethods->xFileControl(real(f), op, arg);
    };
    m.xSectorSize = [](sqlite3_file* f) { return real(f)->pMethods->xSectorSize(real(f)); };
    m.xDeviceCharacteristics = [](sqlite3_file* f) { return real(f)->pMethods->xDeviceCharacteristics(real(f)); };
    return m;
  }();
  return &methods;
}

int faultyOpen(sqlite3_vfs*, const char* name, sqlite3_file* file, int flags, int* outFlags) {
  auto* system = sqlite3_vfs_find(nullptr);
  auto* faulty = reinterpret_cast<FaultyFile*>(file);
  faulty->base.pMethods = nullptr;
  faulty->real = static_cast<sqlite3_file*>(sqlite3_malloc(system->szOsFile));
  std::memset(faulty->real, 0, static_cast<size_t>(system->szOsFile));
  int code = system->xOpen(system, name, faulty->real, flags, outFlags);
  if (code == SQLITE_OK)
    faulty->base.pMethods = faultyMethods();
  else
    sqlite3_free(faulty->real);
  return code;
}

void registerFaultyVfs() {
  static sqlite3_vfs vfs = [] {
    sqlite3_vfs v = *sqlite3_vfs_find(nullptr);
    v.zName = "faulty";
    v.szOsFile = sizeof(FaultyFile);
    v.pNext = nullptr;
    v.xOpen = faultyOpen;
    return v;
  }();
  sqlite3_vfs_register(&vfs, 0);
}

TEST(SqliteStoreFaults, AFailedWriteRefusesEveryLaterOneUntilReopened) {
  registerFaultyVfs();
  auto dir = makeTempDir("/tmp", "dhow-fault").value();
  // The failure strikes at the first, second, ... write or sync of the commit.
  for (int at = 0; at < 6; ++at) {
    RealLoop loop;
    SqliteStore::Options options;
    options.path = fmt::format("{}/state{}.db", dir, at);
    options.vfs = "faulty";
    gFailWritesAfter = -1;
    auto store = SqliteStore::open(loop, options);
    ASSERT_TRUE(store.ok()) << store.error().message();
    ASSERT_TRUE(runOn(loop, (*store)->txn({{}, {put("/a", "safe"), put("/b", "safe")}})).ok());
    gFailWritesAfter = at;
    Txn big;
    big.operations = {put("/a", std::string(20'000, 'x')), put("/b", std::string(20'000, 'x'))};
    auto failed = runOn(loop, (*store)->txn(big));
    ASSERT_FALSE(failed.ok());
    EXPECT_EQ(failed.error().code(), Code::kUnavailable);
    EXPECT_EQ((*store)->revision(), 1);
    gFailWritesAfter = -1;
    EXPECT_EQ(runOn(loop, (*store)->txn({{}, {put("/c", "late")}})).error().code(), Code::kUnavailable);
    EXPECT_EQ(runOn(loop, read(store->get(), "/a")), "safe");
    store->reset();
    auto again = SqliteStore::open(loop, options);
    ASSERT_TRUE(again.ok()) << again.error().message();
    EXPECT_EQ(runOn(loop, read(again->get(), "/a")), runOn(loop, read(again->get(), "/b")));
    EXPECT_EQ(runOn(loop, read(again->get(), "/a")), "safe");
    EXPECT_EQ(runOn(loop, (*again)->txn({{}, {put("/c", "late")}})).value(), 2);
  }
  EXPECT_TRUE(removeTree(dir).ok());
}

Task<> writeUntilFull(Store* store, int writer, int* done, int* refused) {
  // Its own key, and one that all share: what is refused stands on what was refused before.
  for (int i = 0; i < 20; ++i) {
    if (writer == 0 && i == 10) gFull = true;
    auto written =
        co_await store->txn({{}, {put(fmt::format("/own/{}", writer), std::to_string(i)), put("/all", "x")}});
    if (written.ok()) {
      ++*done;
    } else {
      EXPECT_EQ(written.error().code(), Code::kUnavailable);
      EXPECT_EQ(written.error().errnum(), ENOSPC);
      ++*refused;
    }
  }
}
Task<bool> fillDisk(Loop& loop, Store* store, int* done, int* refused) {
  Gate gate(loop);
  for (int i = 0; i < 8; ++i) gate.spawn(writeUntilFull(store, i, done, refused));
  co_await gate.close();
  co_return true;
}

TEST(SqliteStoreFaults, AFullDiskRefusesWritesUntilThereIsRoom) {
  registerFaultyVfs();
  auto dir = makeTempDir("/tmp", "dhow-full").value();
  SqliteStore::Options options;
  options.path = dir + "/state.db";
  options.vfs = "faulty";
  options.keepRevisions = 8;  // erasures are put off, too
  gFailWritesAfter = -1;
  Revision last = 0;
  {
    RealLoop loop;
    auto store = SqliteStore::open(loop, options).value();
    for (int round = 0; round < 3; ++round) {
      int done = 0, refused = 0;
      const Revision before = store->revision();
      EXPECT_TRUE(runOn(loop, fillDisk(loop, store.get(), &done, &refused)));
      EXPECT_EQ(done + refused, 160);
      EXPECT_GE(refused, 10);
      EXPECT_EQ(store->revision(), before + done);
      EXPECT_EQ(runOn(loop, read(store.get(), "/all")), "x");
      auto late = runOn(loop, store->txn({{}, {put("/late", "1")}}));
      ASSERT_FALSE(late.ok());
      gFull = false;
      auto written = runOn(loop, store->txn({{}, {put("/late", std::to_string(round))}}));
      ASSERT_TRUE(written.ok()) << written.error().message();
      EXPECT_EQ(*written, before + done + 1);
      last = *written;
    }
  }
  RealLoop loop;
  auto again = SqliteStore::open(loop, options).value();
  EXPECT_EQ(again->revision(), last);
  EXPECT_EQ(runOn(loop, read(again.get(), "/late")), "2");
  EXPECT_TRUE(removeTree(dir).ok());
}

Task<> writeMany(Store* store, int writer, int count) {
  for (int i = 0; i < count; ++i) {
    Txn txn;
    txn.operations.push_back(put(fmt::format("/bench/{}", writer), std::string(1500, 'v')));
    auto written = co_await store->txn(std::move(txn));
    CHECK(written.ok());
  }
}
Task<bool> writeAll(Loop& loop, Store* store, int writers, int count) {
  Gate gate(loop);
  for (int i = 0; i < writers; ++i) gate.spawn(writeMany(store, i, count / writers));
  co_await gate.close();
  co_return true;
}

TEST(SqliteStoreGroupCommit, ManyWritersShareOneFsync) {
  auto dir = makeTempDir("/tmp", "dhow-group").value();
  for (bool group : {false, true}) {
    for (int writers : {1, 16, 256}) {
      RealLoop loop;
      SqliteStore::Options options;
      options.path = fmt::format("{}/{}-{}.db", dir, group, writers);
      options.groupCommit = group;
      auto store = SqliteStore::open(loop, options).value();
      int count = group ? 64 * writers : std::max(64, writers);
      auto before = loop.now();
      EXPECT_TRUE(runOn(loop, writeAll(loop, store.get(), writers, count)));
      double seconds = std::chrono::duration<double>(loop.now() - before).count();
      std::printf("%s, %3d writers: %7.0f transactions/s\n", group ? "group commit" : "one fsync each", writers,
                  count / seconds);
    }
  }
  EXPECT_TRUE(removeTree(dir).ok());
}

}  // namespace
}  // namespace dhow::store
