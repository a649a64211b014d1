// EtcdStore and EtcdAdmin against real members that are killed, frozen, added and removed.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <random>

#include "base/gate.h"
#include "store/datastore.h"
#include "store/etcd_admin.h"
#include "store/etcd_testing.h"

namespace dhow::store {
namespace {

using namespace std::chrono_literals;

Operation put(std::string key, std::string value) {
  return {Operation::Type::kPut, std::move(key), {std::make_shared<const std::string>(std::move(value)), nullptr}};
}

class EtcdCluster3 : public testing::Test {
 protected:
  void SetUp() override {
    if (!haveEtcd()) GTEST_SKIP() << "etcd is not installed";
    etcd_ = std::make_unique<TestEtcd>(3, true);
    open(etcd_->options("/test"));
  }
  void open(EtcdOptions options) {
    auto opened = runOn(loop_, EtcdStore::open(loop_, std::move(options)));
    ASSERT_TRUE(opened.ok()) << opened.error().message();
    store_ = std::move(*opened);
  }
  void TearDown() override {
    if (store_) runOn(loop_, store_->close());
    store_.reset();
    etcd_.reset();
  }
  // With a compare, so that it may be repeated when an answer is lost.
  Result<Revision> put1(std::string key, std::string value) {
    auto written = runOn(loop_, store_->txn({{{key, at_[key]}}, {put(key, std::move(value))}}));
    if (written.ok()) at_[key] = *written;
    return written;
  }
  std::string valueOf(std::string key) {
    auto entry = runOn(loop_, store_->get(std::move(key)));
    if (!entry.ok()) return entry.error().message();
    return *entry ? *(*entry)->value.bytes : "(none)";
  }
  double secondsOf(const std::function<void()>& act) {
    auto before = loop_.now();
    act();
    return std::chrono::duration<double>(loop_.now() - before).count();
  }

  RealLoop loop_;
  std::unique_ptr<TestEtcd> etcd_;
  std::unique_ptr<EtcdStore> store_;
  std::map<std::string, Revision> at_;
};

TEST_F(EtcdCluster3, RefusesStrangersAndWrongAddressesWhenItIsOpened) {
  auto options = etcd_->options();
  options.timeout = 2s;
  options.patience = 1s;
  auto stranger = etcd_->foreignIdentity();
  options.certificatePem = stranger.certificatePem;
  options.privateKeyPem = stranger.privateKeyPem;
  EXPECT_FALSE(runOn(loop_, EtcdStore::open(loop_, options)).ok());
  options = etcd_->options();
  options.timeout = 2s;
  options.patience = 1s;
  options.caPem = stranger.certificatePem;
  EXPECT_FALSE(runOn(loop_, EtcdStore::open(loop_, options)).ok());
  options.endpoints = {"http://127.0.0.1:1"};
  EXPECT_EQ(runOn(loop_, EtcdStore::open(loop_, options)).error().code(), Code::kUnavailable);
  options.endpoints = {"ftp://127.0.0.1:1"};
  EXPECT_EQ(runOn(loop_, EtcdStore::open(loop_, options)).error().code(), Code::kInvalid);
  // One that others renew is taken up with the next connection.
  http::TlsClient::Options before;
  before.caPem = etcd_->options().caPem;
  before.keyPair = http::KeyPair{stranger.certificatePem, stranger.privateKeyPem};
  options = etcd_->options();
  auto shown = http::TlsClient::create(std::move(before));
  ASSERT_TRUE(shown.ok());
  options.tls = *shown;
  options.beforeDial = [tls = *shown, good = etcd_->options()] {
    EXPECT_TRUE(tls->replace({good.certificatePem, good.privateKeyPem}).ok());
  };
  EXPECT_TRUE(runOn(loop_, EtcdStore::open(loop_, options)).ok());
  // A replaced identity serves at once.
  options = etcd_->options();
  options.timeout = 2s;
  options.patience = 1s;
  http::TlsClient::Options tls;
  tls.caPem = options.caPem;
  tls.keyPair = http::KeyPair{stranger.certificatePem, stranger.privateKeyPem};
  options.tls = http::TlsClient::create(std::move(tls)).value();
  EXPECT_FALSE(runOn(loop_, EtcdStore::open(loop_, options)).ok());
  ASSERT_TRUE(options.tls->replace({options.certificatePem, options.privateKeyPem}).ok());
  auto renewed = runOn(loop_, EtcdStore::open(loop_, options));
  ASSERT_TRUE(renewed.ok()) << renewed.error().message();
  runOn(loop_, (*renewed)->close());
  EXPECT_TRUE(put1("/a", "1").ok());
}

TEST_F(EtcdCluster3, WithoutAQuorumWritesFailAtOnceAndGoOnWhenItIsBack) {
  runOn(loop_, store_->close());
  auto options = etcd_->options("/test");
  options.timeout = 6s;
  options.patience = 2s;
  ASSERT_TRUE(etcd_->waitReady(loop_));
  open(options);
  ASSERT_TRUE(put1("/a", "1").ok());
  auto watcher = store_->watch("/", 0).value();
  etcd_->kill(0);
  etcd_->kill(1);
  auto first = put1("/a", "2");
  ASSERT_FALSE(first.ok());
  EXPECT_TRUE(first.error().is(Code::kUnavailable) || first.error().is(Code::kDeadlineExceeded));
  // Whatever became of the first, now it is known.
  while (!store_->outage()) (void)put1("/b", "2");
  double seconds = secondsOf([&] {
    auto refused = put1("/c", "2");
    EXPECT_EQ(refused.error().code(), Code::kUnavailable);
    EXPECT_EQ(runOn(loop_, store_->currentRevision()).error().code(), Code::kUnavailable);
  });
  EXPECT_LT(seconds, 1.0);
  etcd_->start(0);
  ASSERT_TRUE(etcd_->waitReady(loop_));
  while (store_->outage()) runOn(loop_, loop_.sleep(50ms));
  EXPECT_EQ(valueOf("/c"), "(none)") << "what was refused was not done";
  Revision last = put1("/d", "3").value();
  Revision seen = 0;
  while (seen < last) {
    auto batch = runOn(loop_, watcher->next());
    ASSERT_TRUE(batch.ok()) << batch.error().message();
    EXPECT_GT(batch->revision, seen);
    seen = batch->revision;
  }
}

// Frozen members hold their connections and answer nothing, as those of machines that have lost their power.
TEST_F(EtcdCluster3, TheFirstWriteWithoutAQuorumFailsSoonAndAnElectionIsWaitedFor) {
  runOn(loop_, store_->close());
  auto options = etcd_->options("/test");
  options.allMembers = true;
  ASSERT_TRUE(etcd_->waitReady(loop_));
  open(options);
  ASSERT_TRUE(put1("/a", "1").ok());
  for (size_t i = 0; i < 3; ++i) {
    // Whoever leads among them: the others elect another.
    etcd_->freeze(i, true);
    auto written = put1("/b", std::to_string(i));
    EXPECT_TRUE(written.ok()) << written.error().message();
    etcd_->freeze(i, false);
    ASSERT_TRUE(etcd_->waitReady(loop_));
  }
  EXPECT_FALSE(store_->outage());
  etcd_->freeze(0, true);
  etcd_->freeze(1, true);
  double seconds = secondsOf([&] {
    auto refused = put1("/c", "1");
    ASSERT_FALSE(refused.ok());
    EXPECT_TRUE(refused.error().is(Code::kUnavailable) || refused.error().is(Code::kDeadlineExceeded));
    EXPECT_THAT(refused.error().message(), testing::HasSubstr("1 of its 3 members answer"));
  });
  EXPECT_LT(seconds, 4.0) << "1.5 s, where the machine is not loaded; without a look at the members 12";
  EXPECT_TRUE(store_->outage());
  etcd_->freeze(0, false);
  etcd_->freeze(1, false);
  while (store_->outage()) runOn(loop_, loop_.sleep(50ms));
  EXPECT_TRUE(put1("/d", "1").ok());
}

TEST_F(EtcdCluster3, AFrozenMemberIsLeftForAnother) {
  ASSERT_TRUE(put1("/a", "1").ok());
  ASSERT_TRUE(etcd_->waitReady(loop_));
  auto watcher = store_->watch("/", 0).value();
  ASSERT_TRUE(runOn(loop_, watcher->next()).ok());
  etcd_->freeze(0, true);
  auto written = put1("/b", "1");
  ASSERT_TRUE(written.ok()) << written.error().message();
  EXPECT_EQ(valueOf("/b"), "1");
  Revision seen = 0;
  while (seen < *written) {
    auto batch = runOn(loop_, watcher->next());
    ASSERT_TRUE(batch.ok());
    seen = batch->revision;
  }
  etcd_->freeze(0, false);
}

// What a writer was told, and what it must therefore find.
struct Told {
  std::map<int, int> acknowledged;
  int total = 0, unknown = 0, refused = 0;
  bool stop = false;
};

Task<> writePairs(EtcdStore* store, Loop* loop, int writer, Told* told) {
  int next = 1;
  Revision at = 0;  // of /left
  while (!told->stop) {
    Txn txn;
    std::string left = fmt::format("/left/{}", writer);
    txn.compares.push_back({left, at});
    txn.operations.push_back(put(left, std::to_string(next)));
    txn.operations.push_back(put(fmt::format("/right/{}", writer), std::to_string(next)));
    auto written = co_await store->txn(std::move(txn));
    if (written.ok()) {
      at = *written;
      told->acknowledged[writer] = next++;
      ++told->total;
      continue;
    }
    EXPECT_FALSE(written.error().is(Code::kConflict)) << "nobody else writes this: " << written.error().message();
    bool unknown = written.error().is(Code::kDeadlineExceeded);
    ++(unknown ? told->unknown : told->refused);
    while (true) {
      auto found = co_await store->get(left);
      if (!found.ok()) {
        co_await loop->sleep(20ms);
        continue;
      }
      int value = *found ? std::stoi(*(*found)->value.bytes) : 0;
      if (!unknown) EXPECT_LT(value, next) << "a refused write was done";
      at = *found ? (*found)->modified : 0;
      next = value + 1;
      break;
    }
  }
}

Task<> follow(Watcher* watcher, std::vector<std::pair<Revision, std::string>>* seen, Revision* reached) {
  while (true) {
    auto batch = co_await watcher->next();
    if (!batch.ok()) co_return;
    for (const auto& event : batch->events) seen->emplace_back(event.entry.modified, event.entry.key);
    *reached = batch->revision;
  }
}

Task<> killMembers(TestEtcd* etcd, Loop* loop, int rounds, Told* told) {
  std::mt19937 random(11);
  for (int round = 0; round < rounds; ++round) {
    int before = told->total;
    size_t victim = random() % 3;
    co_await loop->sleep(std::chrono::milliseconds(random() % 150));
    etcd->kill(victim);
    size_t second = (victim + 1) % 3;
    bool both = round % 3 == 2;  // and now and then the quorum goes
    if (both) {
      co_await loop->sleep(std::chrono::milliseconds(random() % 300));
      etcd->kill(second);
      co_await loop->sleep(200ms);
      etcd->start(second);
    }
    // Writes go on with two of three, before the third is back.
    for (int i = 0; i < 600 && told->total < before + 20; ++i) co_await loop->sleep(50ms);
    EXPECT_GE(told->total, before + 20) << "round " << round;
    etcd->start(victim);
    auto back = co_await etcd->memberReady(*loop, victim);
    EXPECT_TRUE(back);
  }
  told->stop = true;
}

TEST_F(EtcdCluster3, KilledMembersLoseNothingAcknowledgedAndWatchersMissNothing) {
  ASSERT_TRUE(etcd_->waitReady(loop_));
  Told told;
  Gate gate(loop_);
  std::vector<std::pair<Revision, std::string>> seen;
  Revision reached = 0;
  auto watcher = store_->watch("/", 0).value();
  Gate watching(loop_);
  watching.spawn(follow(watcher.get(), &seen, &reached));
  for (int writer = 0; writer < 4; ++writer) gate.spawn(writePairs(store_.get(), &loop_, writer, &told));
  gate.spawn(killMembers(etcd_.get(), &loop_, 6, &told));
  runOn(loop_, gate.close());
  for (const auto& [writer, value] : told.acknowledged) {
    auto left = valueOf(fmt::format("/left/{}", writer));
    EXPECT_EQ(left, valueOf(fmt::format("/right/{}", writer)));
    EXPECT_GE(std::stoi(left), value);
  }
  Revision last = put1("/left/end", "x").value();
  auto until = [](Loop* loop, Revision* reached, Revision last) -> Task<> {
    while (*reached < last) co_await loop->sleep(10ms);
  };
  runOn(loop_, until(&loop_, &reached, last));
  watcher->close();
  runOn(loop_, watching.close());
  // Every revision twice, left and right, in order, and none again.
  std::map<std::string, int> counts;
  for (size_t i = 0; i < seen.size(); ++i) {
    if (i > 0) EXPECT_GE(seen[i].first, seen[i - 1].first);
    ++counts[fmt::format("{} {}", seen[i].first, seen[i].second)];
  }
  for (const auto& [event, count] : counts) EXPECT_EQ(count, 1) << event;
  EXPECT_GE(static_cast<int>(seen.size()), 2 * told.total);
  std::printf("%d transactions acknowledged, %d refused, %d of unknown outcome, none lost\n", told.total, told.refused,
              told.unknown);
}

TEST_F(EtcdCluster3, MembersComeAndGo) {
  ASSERT_TRUE(etcd_->waitReady(loop_));
  EtcdAdmin admin(loop_, etcd_->options());
  auto before = runOn(loop_, admin.members());
  ASSERT_TRUE(before.ok()) << before.error().message();
  ASSERT_EQ(before->size(), 3u);
  EXPECT_FALSE(before->front().clientUrls.empty());
  auto lost = std::find_if(before->begin(), before->end(), [](const auto& one) { return one.name == "m2"; });
  ASSERT_NE(lost, before->end());
  etcd_->kill(2);
  // Refused until an election is over and the others have been well for a while.
  Result<> removed = Error(Code::kUnknown, "");
  for (int i = 0; i < 300 && !removed.ok() && !removed.error().is(Code::kNotFound); ++i) {
    removed = runOn(loop_, admin.removeMember(lost->id));
    if (!removed.ok()) runOn(loop_, loop_.sleep(100ms));
  }
  EXPECT_EQ(runOn(loop_, admin.removeMember(lost->id)).error().code(), Code::kNotFound);
  Result<EtcdAdmin::Member> added = Error(Code::kFailedPrecondition, "");
  for (int i = 0; i < 300 && !added.ok() && added.error().is(Code::kFailedPrecondition); ++i) {
    added = runOn(loop_, admin.addMember({etcd_->peerUrl(3)}));
    if (!added.ok()) runOn(loop_, loop_.sleep(100ms));
  }
  ASSERT_TRUE(added.ok()) << added.error().message();
  EXPECT_TRUE(added->learner);
  EXPECT_EQ(runOn(loop_, admin.promoteMember(added->id)).error().code(), Code::kFailedPrecondition)
      << "it has not even started";
  etcd_->start(3, fmt::format("m0={},m1={},m3={}", etcd_->peerUrl(0), etcd_->peerUrl(1), etcd_->peerUrl(3)));
  Result<> promoted = Error(Code::kUnknown, "");
  for (int i = 0; i < 300 && !promoted.ok(); ++i) {
    runOn(loop_, loop_.sleep(100ms));
    promoted = runOn(loop_, admin.promoteMember(added->id));
  }
  ASSERT_TRUE(promoted.ok()) << promoted.error().message();
  auto after = runOn(loop_, admin.members());
  ASSERT_EQ(after->size(), 3u);
  for (const auto& one : *after) EXPECT_FALSE(one.learner);
  EXPECT_TRUE(put1("/a", "1").ok());
}

TEST_F(EtcdCluster3, UpkeepCompactsDefragmentsAndSavesTheDatabase) {
  ASSERT_TRUE(etcd_->waitReady(loop_));
  EtcdAdmin admin(loop_, etcd_->options());
  std::string large(200'000, 'x');
  for (int i = 0; i < 40; ++i) ASSERT_TRUE(put1("/a", large + std::to_string(i)).ok());
  auto behind = store_->currentRevision();
  ASSERT_TRUE(runOn(loop_, admin.maintain()).ok());
  ASSERT_TRUE(runOn(loop_, admin.maintain()).ok()) << "compacts what was current before";
  auto expired = store_->watch("/", 1).value();
  EXPECT_EQ(runOn(loop_, expired->next()).error().code(), Code::kExpired);
  // Compaction is done a moment later than it is acknowledged.
  Result<size_t> done = size_t{0};
  for (int i = 0; i < 100 && done.ok() && *done < 3; ++i) {
    // What is free is counted when something is written.
    ASSERT_TRUE(put1("/b", std::to_string(i)).ok());
    done = runOn(loop_, admin.defragmentAll(0, 0.3));
    if (done.ok() && *done > 0) break;
    runOn(loop_, loop_.sleep(100ms));
  }
  ASSERT_TRUE(done.ok()) << done.error().message();
  EXPECT_GT(*done, 0u);
  EXPECT_EQ(valueOf("/a"), large + "39");
  auto about = runOn(loop_, admin.status(etcd_->urls()[0]));
  ASSERT_TRUE(about.ok());
  EXPECT_TRUE(about->version.starts_with("3."));
  EXPECT_NE(about->leaderId, 0u);
  EXPECT_TRUE(runOn(loop_, admin.alarms())->empty());
  BlockingPool pool(1);
  std::string path = etcd_->dir() + "/saved.db";
  auto saved = runOn(loop_, admin.saveDatabase(pool, etcd_->urls()[1], path));
  ASSERT_TRUE(saved.ok()) << saved.error().message();
  EXPECT_GT(readFile(path).value().size(), 200'000u);
  EXPECT_FALSE(pathExists(path + ".partial"));
}

TEST(Datastore, SaysWhatIsWrongWithItsText) {
  EXPECT_EQ(parseDatastore("", "/x")->sqlitePath, "/x");
  EXPECT_EQ(parseDatastore("sqlite=/y", "/x")->sqlitePath, "/y");
  auto two = parseDatastore("etcd=https://a:2379, http://10.0.0.1:1", "");
  ASSERT_TRUE(two.ok()) << two.error().message();
  EXPECT_EQ(two->etcd.endpoints, (std::vector<std::string>{"https://a:2379", "http://10.0.0.1:1"}));
  for (auto bad :
       {"etcd", "etcd=", "etcd=a:1", "etcd=https://", "etcd=https://a:0", "etcd=https://a:1,", "mysql=x", "sqlite="}) {
    EXPECT_EQ(parseDatastore(bad, "").error().code(), Code::kInvalid) << bad;
  }
  EXPECT_EQ(parseDatastore("etcd=https://a:1", "", "", "/cert", "").error().code(), Code::kInvalid);
  EXPECT_EQ(parseDatastore("etcd=http://a:1", "", "", "/cert", "/key").error().code(), Code::kInvalid);
  EXPECT_FALSE(parseDatastore("etcd=https://a:1", "", "/does-not-exist").ok());
}

}  // namespace
}  // namespace dhow::store
