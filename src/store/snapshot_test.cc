// Snapshots between all kinds of stores.
#include "store/snapshot.h"

#include <gtest/gtest.h>

#include "store/etcd_testing.h"
#include "store/memory_store.h"
#include "store/sqlite_store.h"

namespace dhow::store {
namespace {

Operation put(std::string key, std::string value) {
  return {Operation::Type::kPut, std::move(key), {std::make_shared<const std::string>(std::move(value)), nullptr}};
}

class Snapshots : public testing::Test {
 protected:
  void SetUp() override { dir_ = makeTempDir("/tmp", "dhow-snapshot").value(); }
  void TearDown() override { EXPECT_TRUE(removeTree(dir_).ok()); }
  std::unique_ptr<Store> sqlite(const std::string& name) {
    SqliteStore::Options options;
    options.path = fmt::format("{}/{}.db", dir_, name);
    return SqliteStore::open(loop_, options).value();
  }
  void fill(Store& store) {
    for (int i = 0; i < 300; ++i) {
      std::string value = fmt::format("{} {}", i, std::string(static_cast<size_t>(i * 40), 'v'));
      ASSERT_TRUE(runOn(loop_, store.txn({{}, {put(fmt::format("/p/{:03}", i), value)}})).ok());
    }
    ASSERT_TRUE(runOn(loop_, store.txn({{}, {{Operation::Type::kDelete, "/p/007", {}}}})).ok());
    ASSERT_TRUE(runOn(loop_, store.txn({{}, {put("/empty", "")}})).ok());
  }
  std::string contentOf(Store& store) {
    std::string out;
    auto all = runOn(loop_, store.list("", "", 0));
    for (const auto& entry : all->entries) out += entry.key + "=" + *entry.value.bytes + "\n";
    return out;
  }
  SnapshotInfo save(Store& store) {
    auto saved = runOn(loop_, saveSnapshot(loop_, pool_, store, "c1", path()));
    CHECK(saved.ok(), "{}", saved.error().message());
    return *saved;
  }
  Result<SnapshotInfo> restore(Store& store, std::string cluster = "c1") {
    return runOn(loop_, restoreSnapshot(loop_, pool_, store, std::move(cluster), path()));
  }
  std::string path() const { return dir_ + "/snapshot"; }

  RealLoop loop_;
  BlockingPool pool_{1};
  std::string dir_;
};

TEST_F(Snapshots, BringEverythingBackAboveTheOldRevisions) {
  auto from = sqlite("from");
  fill(*from);
  auto info = save(*from);
  EXPECT_EQ(info.entries, 300u);
  EXPECT_EQ(info.revision, 302);
  EXPECT_EQ(inspectSnapshot(path())->cluster, "c1");
  auto to = sqlite("to");
  auto restored = restore(*to);
  ASSERT_TRUE(restored.ok()) << restored.error().message();
  EXPECT_EQ(contentOf(*to), contentOf(*from));
  EXPECT_GT(runOn(loop_, to->get("/p/000")).value()->modified, info.revision);
  EXPECT_EQ(runOn(loop_, to->get("/p/007")).value(), std::nullopt);
}

TEST_F(Snapshots, AreRefusedWhenCutShortDamagedOrOfAnotherCluster) {
  MemoryStore from(loop_);
  fill(from);
  save(from);
  auto whole = readFile(path()).value();
  MemoryStore to(loop_);
  EXPECT_EQ(restore(to, "c2").error().code(), Code::kFailedPrecondition);
  for (size_t size : {size_t{0}, size_t{10}, size_t{70}, whole.size() / 2, whole.size() - 1}) {
    ASSERT_TRUE(writeFile(path(), whole.substr(0, size)).ok());
    EXPECT_EQ(restore(to).error().code(), Code::kDataLoss) << size;
  }
  auto bad = whole;
  bad[bad.size() / 2] = static_cast<char>(bad[bad.size() / 2] ^ 1);
  ASSERT_TRUE(writeFile(path(), bad).ok());
  EXPECT_EQ(restore(to).error().code(), Code::kDataLoss);
  ASSERT_TRUE(writeFile(path(), "PK" + std::string(500, 'x')).ok());
  EXPECT_EQ(restore(to).error().code(), Code::kDataLoss);
  EXPECT_EQ(contentOf(to), "") << "nothing was changed";
  EXPECT_EQ(restore(from).error().code(), Code::kDataLoss);
  ASSERT_TRUE(writeFile(path(), whole).ok());
  EXPECT_EQ(restore(from).error().code(), Code::kFailedPrecondition) << "the store is not empty";
  EXPECT_TRUE(restore(to).ok());
}

TEST_F(Snapshots, AreRefusedAtEveryLengthAndWithEveryBitOfAByteFlipped) {
  MemoryStore from(loop_);
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(runOn(loop_, from.txn({{}, {put(fmt::format("/p/{}", i), "value")}})).ok());
  save(from);
  const auto whole = readFile(path()).value();
  for (size_t size = 0; size < whole.size(); ++size) {
    ASSERT_TRUE(writeFile(path(), whole.substr(0, size)).ok());
    EXPECT_EQ(inspectSnapshot(path()).error().code(), Code::kDataLoss) << size;
  }
  for (size_t at = 0; at < whole.size(); ++at) {
    auto bad = whole;
    bad[at] = static_cast<char>(bad[at] ^ (1 << at % 8));
    ASSERT_TRUE(writeFile(path(), bad).ok());
    EXPECT_EQ(inspectSnapshot(path()).error().code(), Code::kDataLoss) << at;
  }
  ASSERT_TRUE(writeFile(path(), whole + "0").ok());
  EXPECT_EQ(inspectSnapshot(path()).error().code(), Code::kDataLoss);
}

TEST_F(Snapshots, GoOnAboveWhateverTheReplacedStoreHasGiven) {
  MemoryStore from(loop_);
  fill(from);
  save(from);
  MemoryStore to(loop_);
  constexpr Revision kSeen = 5'000'000'000;
  auto restored = runOn(loop_, restoreSnapshot(loop_, pool_, to, "c1", path(), kSeen));
  ASSERT_TRUE(restored.ok()) << restored.error().message();
  EXPECT_GT(runOn(loop_, to.get("/p/000")).value()->modified, kSeen);
  EXPECT_EQ(to.watch("", kSeen).error().code(), Code::kExpired) << "who saw the old store reads anew";
}

TEST_F(Snapshots, LeaveNothingBehindWhenTheyAreNotFinished) {
  MemoryStore from(loop_);
  fill(from);
  auto stream = runOn(loop_, SnapshotStream::open(loop_, &pool_, from, "c1")).value();
  {
    auto writer = SnapshotWriter::create(path()).value();
    ASSERT_TRUE(writer.write(runOn(loop_, stream->next()).value()).ok());
    EXPECT_EQ(writer.finish().error().code(), Code::kDataLoss);
  }
  EXPECT_TRUE(listDir(dir_)->empty());
}

TEST_F(Snapshots, StoresAreClearedWhole) {
  auto store = sqlite("full");
  fill(*store);
  ASSERT_TRUE(runOn(loop_, clearStore(*store)).ok());
  EXPECT_EQ(contentOf(*store), "");
}

TEST_F(Snapshots, GoFromTheEmbeddedStoreToEtcdAndBack) {
  if (!haveEtcd()) GTEST_SKIP() << "etcd is not installed";
  TestEtcd etcd(1);
  auto from = sqlite("from");
  fill(*from);
  auto opened = runOn(loop_, EtcdStore::open(loop_, etcd.options("/c1")));
  ASSERT_TRUE(opened.ok()) << opened.error().message();
  auto old = runOn(loop_, copyStore(*from, **opened));
  ASSERT_TRUE(old.ok()) << old.error().message();
  EXPECT_EQ(contentOf(**opened), contentOf(*from));
  EXPECT_GT(runOn(loop_, (*opened)->get("/p/000")).value()->modified, *old);
  EXPECT_EQ(runOn(loop_, copyStore(*from, **opened)).error().code(), Code::kFailedPrecondition);
  // One that is opened later counts alike.
  auto again = runOn(loop_, EtcdStore::open(loop_, etcd.options("/c1")));
  EXPECT_EQ(runOn(loop_, (*again)->get("/p/001")).value()->modified,
            runOn(loop_, (*opened)->get("/p/001")).value()->modified);
  auto info = save(**again);
  auto back = sqlite("back");
  ASSERT_TRUE(restore(*back).ok());
  EXPECT_EQ(contentOf(*back), contentOf(*from));
  EXPECT_GT(back->revision(), info.revision);
  runOn(loop_, (*opened)->close());
  runOn(loop_, (*again)->close());
}

}  // namespace
}  // namespace dhow::store
