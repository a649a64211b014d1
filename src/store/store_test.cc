// The contract of store.h, against every store.
#include <gtest/gtest.h>

#include "base/files.h"
#include "base/gate.h"
#include "store/etcd_testing.h"
#include "store/memory_store.h"
#include "store/sqlite_store.h"

namespace dhow::store {
namespace {

Operation put(std::string key, std::string value) {
  return {Operation::Type::kPut, std::move(key), {std::make_shared<const std::string>(std::move(value)), nullptr}};
}
Operation erase(std::string key) {
  return {Operation::Type::kDelete, std::move(key), {}};
}

enum class Kind { kMemory, kSqlite, kEtcd };

class StoreContract : public testing::TestWithParam<Kind> {
 protected:
  static void TearDownTestSuite() { etcd_.reset(); }
  void SetUp() override {
    if (GetParam() == Kind::kSqlite) {
      dir_ = makeTempDir("/tmp", "dhow-store").value();
      reopen(10'000);
    } else if (GetParam() == Kind::kEtcd) {
      if (!haveEtcd()) GTEST_SKIP() << "etcd is not installed";
      if (!etcd_) etcd_ = std::make_unique<TestEtcd>(1);
      static int prefixes = 0;
      auto opened = runOn(loop_, EtcdStore::open(loop_, etcd_->options(fmt::format("/test{}", ++prefixes))));
      ASSERT_TRUE(opened.ok()) << opened.error().message();
      store_ = std::move(*opened);
    } else {
      store_ = std::make_unique<MemoryStore>(loop_);
    }
    start_ = store_->revision();
  }
  void reopen(size_t windowEvents) {
    store_.reset();
    SqliteStore::Options options;
    options.path = dir_ + "/state.db";
    options.windowEvents = windowEvents;
    auto opened = SqliteStore::open(loop_, options);
    ASSERT_TRUE(opened.ok()) << opened.error().message();
    store_ = std::move(*opened);
  }
  void TearDown() override {
    if (store_) runOn(loop_, store_->close());
    store_.reset();
    if (!dir_.empty()) EXPECT_TRUE(removeTree(dir_).ok());
  }
  Result<Revision> write(Txn txn) { return runOn(loop_, store_->txn(std::move(txn))); }
  Revision put1(std::string key, std::string value) {
    return write({{}, {put(std::move(key), std::move(value))}}).value();
  }
  std::string valueOf(std::string key) {
    auto entry = runOn(loop_, store_->get(std::move(key)));
    return entry.value() ? *(*entry)->value.bytes : "(none)";
  }
  // The events up to that revision.
  std::vector<Event> eventsUntil(Watcher& watcher, Revision until) {
    std::vector<Event> events;
    for (Revision seen = 0; seen < until;) {
      auto batch = runOn(loop_, watcher.next());
      EXPECT_TRUE(batch.ok());
      if (!batch.ok()) break;
      for (auto& event : batch->events) events.push_back(event);
      seen = batch->revision;
    }
    return events;
  }
  // What a watch from there ends with before it gives anything.
  std::optional<Code> refusal(Revision after) {
    auto watcher = store_->watch("/", after);
    if (!watcher.ok()) return watcher.error().code();
    auto batch = runOn(loop_, (*watcher)->next());
    return batch.ok() ? std::nullopt : std::optional(batch.error().code());
  }

  static inline std::unique_ptr<TestEtcd> etcd_;
  Revision start_ = 0;
  RealLoop loop_;
  std::string dir_;
  std::unique_ptr<Store> store_;
};

TEST_P(StoreContract, CountsRevisionsUpByOneAndReadsBackWhatWasWritten) {
  EXPECT_EQ(put1("/a", "1"), start_ + 1);
  EXPECT_EQ(put1("/b", "2"), start_ + 2);
  EXPECT_EQ(put1("/a", "3"), start_ + 3);
  auto entry = runOn(loop_, store_->get("/a"));
  ASSERT_TRUE(entry.ok() && *entry);
  EXPECT_EQ(*(*entry)->value.bytes, "3");
  EXPECT_EQ((*entry)->created, start_ + 1);
  EXPECT_EQ((*entry)->modified, start_ + 3);
  EXPECT_EQ(write({{}, {erase("/a")}}).value(), start_ + 4);
  EXPECT_EQ(valueOf("/a"), "(none)");
  EXPECT_EQ(runOn(loop_, store_->currentRevision()).value(), start_ + 4);
}

TEST_P(StoreContract, RefusesAWriteWhoseCompareDoesNotHoldAndChangesNothing) {
  Revision first = put1("/a", "1");
  auto taken = write({{{"/a", 0}}, {put("/a", "2"), put("/b", "2")}});
  ASSERT_FALSE(taken.ok());
  EXPECT_EQ(taken.error().code(), Code::kConflict);
  EXPECT_EQ(valueOf("/b"), "(none)");
  EXPECT_EQ(store_->revision(), first);
  EXPECT_TRUE(write({{{"/a", first}, {"/b", 0}}, {put("/a", "2")}}).ok());
  EXPECT_EQ(write({{{"/a", first}}, {put("/a", "3")}}).error().code(), Code::kConflict);
}

TEST_P(StoreContract, RefusesMalformedTransactions) {
  EXPECT_EQ(write({{}, {put("/a", "1"), erase("/a")}}).error().code(), Code::kInvalid);
  EXPECT_EQ(write({{}, {put("", "1")}}).error().code(), Code::kInvalid);
  EXPECT_EQ(write({{}, {{Operation::Type::kPut, "/a", {}}}}).error().code(), Code::kInvalid);
  EXPECT_EQ(write({{}, {erase("/missing")}}).value(), start_);
  EXPECT_EQ(store_->revision(), start_);
}

TEST_P(StoreContract, ListsByPrefixInOrderWithLimitAndContinuation) {
  for (auto key : {"/p/c", "/p/a", "/q/x", "/p/b"}) put1(key, key);
  auto page = runOn(loop_, store_->list("/p/", "", 2));
  ASSERT_TRUE(page.ok());
  ASSERT_EQ(page->entries.size(), 2u);
  EXPECT_TRUE(page->more);
  EXPECT_EQ(page->entries[1].key, "/p/b");
  EXPECT_EQ(page->revision, start_ + 4);
  auto rest = runOn(loop_, store_->list("/p/", "/p/b/", 2));
  ASSERT_EQ(rest->entries.size(), 1u);
  EXPECT_EQ(*rest->entries[0].value.bytes, "/p/c");
  EXPECT_FALSE(rest->more);
  EXPECT_FALSE(runOn(loop_, store_->list("/p/", "", 3))->more);
}

TEST_P(StoreContract, ListsThousandsOfKeysAtOneRevision) {
  for (int from = 0; from < 1200; from += 100) {
    Txn txn;
    for (int i = from; i < from + 100; ++i) txn.operations.push_back(put(fmt::format("/p/{:05}", i), "v"));
    ASSERT_TRUE(write(std::move(txn)).ok());
  }
  auto all = runOn(loop_, store_->list("/p/", "", 0));
  ASSERT_TRUE(all.ok());
  ASSERT_EQ(all->entries.size(), 1200u);
  EXPECT_EQ(all->entries.back().key, "/p/01199");
  EXPECT_EQ(all->revision, start_ + 12);
}

TEST_P(StoreContract, WatchGivesWholeRevisionsInOrderFromWhereItWasAsked) {
  Revision first = put1("/p/a", "1");
  auto watcher = store_->watch("/p/", first, true).value();
  write({{}, {put("/p/a", "2"), put("/p/b", "2"), put("/q/c", "2")}}).value();
  Revision last = write({{}, {erase("/p/b")}}).value();
  auto events = eventsUntil(*watcher, last);
  ASSERT_EQ(events.size(), 3u);
  EXPECT_EQ(events[0].entry.key, "/p/a");
  EXPECT_EQ(events[0].entry.created, first);
  ASSERT_TRUE(events[0].previous);
  EXPECT_EQ(*events[0].previous->bytes, "1");
  EXPECT_FALSE(events[1].previous);
  EXPECT_EQ(events[2].type, Event::Type::kDelete);
  EXPECT_EQ(*events[2].entry.value.bytes, "2");
  EXPECT_EQ(events[2].entry.modified, last);
}

TEST_P(StoreContract, WatchCatchesUpWithAMegabyteOfEvents) {
  std::string large(100'000, 'x');
  for (int i = 0; i < 30; ++i) {
    ASSERT_TRUE(write({{}, {put(fmt::format("/p/{}", i), large), put(fmt::format("/p/{}b", i), large)}}).ok());
  }
  auto watcher = store_->watch("/p/", start_).value();
  Revision seen = start_;
  size_t count = 0;
  while (seen < start_ + 30) {
    auto batch = runOn(loop_, watcher->next());
    ASSERT_TRUE(batch.ok());
    EXPECT_EQ(batch->events.size() % 2, 0u) << "a part of a revision";
    for (const auto& event : batch->events) EXPECT_GT(event.entry.modified, seen);
    count += batch->events.size();
    seen = batch->revision;
  }
  EXPECT_EQ(count, 60u);
}

TEST_P(StoreContract, AWatcherThatAsksLearnsOfRevisionsThatDoNotConcernIt) {
  auto watcher = store_->watch("/p/", start_).value();
  Revision last = put1("/q/a", "1");
  Revision seen = start_;
  while (seen < last) {
    watcher->requestProgress();
    auto batch = runOn(loop_, watcher->next());
    ASSERT_TRUE(batch.ok());
    EXPECT_TRUE(batch->events.empty());
    seen = batch->revision;
  }
}

TEST_P(StoreContract, EventsHandBackWhatTheWriterDecoded) {
  auto watcher = store_->watch("/", start_).value();
  auto operation = put("/a", "1");
  auto decoded = std::make_shared<const int>(7);
  operation.value.decoded = decoded;
  write({{}, {operation}}).value();
  auto batch = runOn(loop_, watcher->next());
  ASSERT_TRUE(batch.ok());
  EXPECT_EQ(batch->events.at(0).entry.value.decoded, decoded);
}

TEST_P(StoreContract, CompactedRevisionsAreExpired) {
  for (int i = 0; i < 5; ++i) put1("/a", std::to_string(i));
  EXPECT_TRUE(runOn(loop_, store_->compact(start_ + 3)).ok());
  EXPECT_EQ(refusal(start_ + 1), Code::kExpired);
  EXPECT_TRUE(runOn(loop_, store_->compact(start_ + 3)).ok()) << "once more does no harm";
  auto watcher = store_->watch("/", start_ + 3).value();
  EXPECT_EQ(eventsUntil(*watcher, start_ + 5).size(), 2u);
  EXPECT_EQ(valueOf("/a"), "4");
}

TEST_P(StoreContract, ACursorReadsOneRevisionWhileOthersWrite) {
  const std::string big(20'000, 'v');
  for (int i = 0; i < 100; ++i) put1(fmt::format("/k/{:03}", i), fmt::format("{}{}", i, big));
  write({{}, {erase("/k/050")}}).value();
  const Revision now = put1("/k/007", "changed");
  auto cursor = runOn(loop_, store_->read()).value();
  EXPECT_EQ(cursor->revision(), now);
  EXPECT_EQ(cursor->entries(), 99u);
  std::map<std::string, std::string> seen;
  size_t pieces = 0;
  while (true) {
    auto piece = runOn(loop_, cursor->next());
    ASSERT_TRUE(piece.ok()) << piece.error().message();
    if (piece->empty()) break;
    for (auto& entry : *piece) {
      EXPECT_LE(entry.modified, now);
      EXPECT_TRUE(seen.emplace(entry.key, *entry.value.bytes).second) << entry.key;
    }
    ++pieces;
    put1("/k/099", "later");
    put1(fmt::format("/k/later{}", pieces), "later");
    write({{}, {erase("/k/098")}}).value();
  }
  EXPECT_EQ(seen.size(), 99u);
  EXPECT_EQ(seen["/k/007"], "changed");
  EXPECT_EQ(seen["/k/098"], "98" + big);
  EXPECT_EQ(seen["/k/099"], "99" + big);
  if (GetParam() != Kind::kMemory) EXPECT_GT(pieces, 1u);
  EXPECT_TRUE(runOn(loop_, cursor->next())->empty());
}

TEST_P(StoreContract, ACursorOfNothingIsEmpty) {
  auto cursor = runOn(loop_, store_->read()).value();
  EXPECT_EQ(cursor->entries(), 0u);
  EXPECT_TRUE(runOn(loop_, cursor->next())->empty());
}

Task<> closeLater(Loop& loop, Watcher* watcher) {
  co_await loop.sleep(std::chrono::milliseconds(1));
  watcher->close();
}

TEST_P(StoreContract, AClosedWatchEndsWithCancelled) {
  auto watcher = store_->watch("/", start_).value();
  spawn(loop_, closeLater(loop_, watcher.get()));
  EXPECT_EQ(runOn(loop_, watcher->next()).error().code(), Code::kCancelled);
}

Task<> increment(Store* store, int rounds, int* conflicts) {
  for (int done = 0; done < rounds;) {
    auto entry = co_await store->get("/counter");
    CHECK(entry.ok());
    int value = *entry ? std::stoi(*(*entry)->value.bytes) : 0;
    Txn txn;
    txn.compares.push_back({"/counter", *entry ? (*entry)->modified : 0});
    txn.operations.push_back(put("/counter", std::to_string(value + 1)));
    auto written = co_await store->txn(std::move(txn));
    if (written.ok())
      ++done;
    else
      ++*conflicts;
  }
}

Task<bool> incrementAll(Loop& loop, Store* store, int* conflicts) {
  Gate gate(loop);
  for (int i = 0; i < 8; ++i) gate.spawn(increment(store, 20, conflicts));
  co_await gate.close();
  co_return true;
}

TEST_P(StoreContract, CompareAndSwapLosesNoUpdateAmongManyWriters) {
  int conflicts = 0;
  EXPECT_TRUE(runOn(loop_, incrementAll(loop_, store_.get(), &conflicts)));
  EXPECT_EQ(valueOf("/counter"), "160");
  EXPECT_EQ(store_->revision(), start_ + 160);
}

Task<> askOften(Store* store, int* answers) {
  for (int i = 0; i < 50; ++i) {
    Txn txn;
    txn.operations.push_back(put("/asked", std::to_string(i)));
    auto written = co_await store->txn(std::move(txn));
    auto current = co_await store->currentRevision();
    if (written.ok() && current.ok() && *current >= *written) ++*answers;
  }
}

Task<bool> askTogether(Loop& loop, Store* store, int* answers) {
  Gate gate(loop);
  for (int i = 0; i < 8; ++i) gate.spawn(askOften(store, answers));
  co_await gate.close();
  co_return true;
}

TEST_P(StoreContract, TheCurrentRevisionIsNeverOlderThanAnAcknowledgedWrite) {
  int answers = 0;
  EXPECT_TRUE(runOn(loop_, askTogether(loop_, store_.get(), &answers)));
  EXPECT_EQ(answers, 400);
}

TEST_P(StoreContract, AnEmptyStoreGoesOnAboveTheRevisionsOfAnother) {
  Revision above = start_ + 5000;
  ASSERT_TRUE(runOn(loop_, store_->advance(above)).ok());
  EXPECT_GE(runOn(loop_, store_->currentRevision()).value(), above);
  Revision first = put1("/a", "1");
  EXPECT_GT(first, above);
  auto entry = runOn(loop_, store_->get("/a"));
  EXPECT_EQ((*entry)->modified, first);
  EXPECT_TRUE(write({{{"/a", first}}, {put("/a", "2")}}).ok());
  auto watcher = store_->watch("/", first).value();
  EXPECT_EQ(eventsUntil(*watcher, first + 1).size(), 1u);
  EXPECT_EQ(runOn(loop_, store_->advance(above + 10)).error().code(), Code::kFailedPrecondition);
}

TEST_P(StoreContract, RefusesWritesAfterClose) {
  put1("/a", "1");
  runOn(loop_, store_->close());
  EXPECT_EQ(write({{}, {put("/a", "2")}}).error().code(), Code::kUnavailable);
}

INSTANTIATE_TEST_SUITE_P(Stores, StoreContract, testing::Values(Kind::kMemory, Kind::kSqlite, Kind::kEtcd),
                         [](const auto& info) {
                           return info.param == Kind::kMemory   ? "Memory"
                                  : info.param == Kind::kSqlite ? "Sqlite"
                                                                : "Etcd";
                         });

class SqliteOnly : public StoreContract {};
INSTANTIATE_TEST_SUITE_P(Stores, SqliteOnly, testing::Values(Kind::kSqlite));

TEST_P(SqliteOnly, ReopeningFindsEverything) {
  put1("/a", "1");
  put1("/b", "2");
  put1("/a", "3");
  write({{}, {erase("/b")}}).value();
  reopen(10);
  EXPECT_EQ(store_->revision(), 4);
  EXPECT_EQ(valueOf("/a"), "3");
  EXPECT_EQ(valueOf("/b"), "(none)");
  auto entry = runOn(loop_, store_->get("/a"));
  EXPECT_EQ((*entry)->created, 1);
  auto watcher = store_->watch("/", 0).value();
  auto batch = runOn(loop_, watcher->next());
  ASSERT_TRUE(batch.ok());
  ASSERT_EQ(batch->events.size(), 4u) << "history is read from the file";
  EXPECT_EQ(*batch->events[3].entry.value.bytes, "2");
  EXPECT_EQ(put1("/c", "4"), 5);
  EXPECT_EQ(runOn(loop_, watcher->next())->events.size(), 1u);
}

TEST_P(SqliteOnly, CompactionSurvivesReopening) {
  for (int i = 0; i < 5; ++i) put1("/a", std::to_string(i));
  EXPECT_TRUE(runOn(loop_, store_->compact(4)).ok());
  runOn(loop_, store_->close());
  reopen(10);
  EXPECT_EQ(store_->revision(), 5);
  EXPECT_EQ(store_->watch("/", 3).error().code(), Code::kExpired);
  EXPECT_EQ(valueOf("/a"), "4");
}

TEST_P(SqliteOnly, AWatchThatWasOvertakenByACompactionIsExpired) {
  for (int i = 0; i < 5; ++i) put1("/a", std::to_string(i));
  auto behind = store_->watch("/", 1).value();
  EXPECT_TRUE(runOn(loop_, store_->compact(3)).ok());
  EXPECT_EQ(runOn(loop_, behind->next()).error().code(), Code::kExpired);
}

TEST_P(SqliteOnly, ACursorThatWasOvertakenByACompactionIsExpired) {
  put1("/a", "1");
  auto cursor = runOn(loop_, store_->read()).value();
  put1("/a", "2");
  EXPECT_TRUE(runOn(loop_, store_->compact(2)).ok());
  // The erasure waits for the writer.
  put1("/b", "1");
  EXPECT_EQ(runOn(loop_, cursor->next()).error().code(), Code::kExpired);
}

TEST_P(SqliteOnly, WhatAWatchHasSeenIsReadFromTheFileByTheNext) {
  auto first = store_->watch("/", 0).value();
  for (int i = 0; i < 5; ++i) put1("/a", std::to_string(i));
  EXPECT_EQ(eventsUntil(*first, 5).size(), 5u);
  auto second = store_->watch("/", 2).value();
  auto events = eventsUntil(*second, 5);
  ASSERT_EQ(events.size(), 3u);
  EXPECT_EQ(*events[0].entry.value.bytes, "2");
  EXPECT_EQ(*events[0].previous->bytes, "1");
}

TEST_P(SqliteOnly, AdvancedRevisionsSurviveReopening) {
  ASSERT_TRUE(runOn(loop_, store_->advance(700)).ok());
  reopen(10);
  EXPECT_EQ(store_->revision(), 700);
  EXPECT_EQ(put1("/a", "1"), 701);
}

TEST_P(SqliteOnly, ASecondProcessIsKeptOut) {
  SqliteStore::Options options;
  options.path = dir_ + "/state.db";
  EXPECT_EQ(SqliteStore::open(loop_, options).error().code(), Code::kFailedPrecondition);
}

TEST_P(SqliteOnly, ADamagedFileIsNamed) {
  store_.reset();
  ASSERT_TRUE(writeFile(dir_ + "/bad.db", std::string(8192, 'x')).ok());
  SqliteStore::Options options;
  options.path = dir_ + "/bad.db";
  auto opened = SqliteStore::open(loop_, options);
  ASSERT_FALSE(opened.ok());
  EXPECT_EQ(opened.error().code(), Code::kDataLoss);
}

TEST_P(SqliteOnly, KeepsAWindowOfHistory) {
  store_.reset();
  SqliteStore::Options options;
  options.path = dir_ + "/state.db";
  options.keepRevisions = 16;
  options.windowEvents = 4;
  store_ = SqliteStore::open(loop_, options).value();
  for (int i = 0; i < 40; ++i) put1("/a", std::to_string(i));
  EXPECT_EQ(store_->watch("/", 10).error().code(), Code::kExpired);
  auto watcher = store_->watch("/", 30).value();
  size_t count = 0;
  while (count < 10) count += runOn(loop_, watcher->next())->events.size();
  EXPECT_EQ(count, 10u);
}

TEST(MemoryStore, FaultsAreWhatTheTestAsksFor) {
  SimLoop loop;
  MemoryStore::Options options;
  int asked = 0;
  options.commitDelay = std::chrono::milliseconds(3);
  options.fault = [&](const Txn&) {
    ++asked;
    return asked == 1   ? MemoryStore::Fault::kRefused
           : asked == 2 ? MemoryStore::Fault::kLostAnswer
                        : MemoryStore::Fault::kNone;
  };
  MemoryStore store(loop, options);
  EXPECT_EQ(runOn(loop, store.txn({{}, {put("/a", "1")}})).error().code(), Code::kUnavailable);
  EXPECT_EQ(store.revision(), 0);
  EXPECT_EQ(runOn(loop, store.txn({{}, {put("/a", "1")}})).error().code(), Code::kDeadlineExceeded);
  EXPECT_EQ(store.revision(), 1);
  EXPECT_TRUE(runOn(loop, store.txn({{}, {put("/a", "2")}})).ok());
  store.breakDown();
  EXPECT_FALSE(runOn(loop, store.txn({{}, {put("/a", "3")}})).ok());
  store.repair();
  EXPECT_EQ(runOn(loop, store.txn({{}, {put("/a", "3")}})).value(), 3);
}

}  // namespace
}  // namespace dhow::store
