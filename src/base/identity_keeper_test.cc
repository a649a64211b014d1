#include "base/identity_keeper.h"

#include <gtest/gtest.h>

#include "base/files.h"

namespace dhow {
namespace {

using namespace std::chrono_literals;

constexpr Duration kLife = 24h * 365;

struct KeeperTest : testing::Test {
  KeeperTest() { authority = createAuthority("ca", loop.wallNow(), 10 * kLife).value(); }
  Identity issue(Duration life) {
    CertificateSpec spec;
    spec.commonName = "server";
    spec.server = true;
    spec.notBefore = loop.wallNow();
    spec.validity = life;
    return issueCertificate(authority, spec).value();
  }
  // A keeper of a certificate with that life; the next ones are for as long again.
  std::unique_ptr<IdentityKeeper> keeper(Duration life) {
    current = issue(life);
    IdentityKeeper::Options options;
    options.name = "the test";
    options.certificatePem = current.certificatePem;
    options.issue = [this]() { return answer(this); };
    options.take = [this](Identity identity) { return take(this, std::move(identity)); };
    auto made = std::make_unique<IdentityKeeper>(loop, std::move(options));
    made->start();
    return made;
  }
  static Task<Result<Identity>> answer(KeeperTest* self) {
    ++self->asked;
    self->askedAt.push_back(self->loop.wallNow());
    if (self->failure) co_return *self->failure;
    co_return reissueCertificate(self->authority, self->current.certificatePem, self->loop.wallNow());
  }
  static Task<Result<>> take(KeeperTest* self, Identity identity) {
    if (self->takeFailure) co_return *self->takeFailure;
    self->current = std::move(identity);
    co_return Result<>();
  }
  Duration left() { return inspectCertificate(current.certificatePem)->notAfter - loop.wallNow(); }

  SimLoop loop{7};
  Identity authority, current;
  std::optional<Error> failure, takeFailure;
  int asked = 0;
  std::vector<WallTime> askedAt;
};

TEST_F(KeeperTest, RenewsWithAThirdLeftYearAfterYear) {
  auto keeper = this->keeper(kLife);
  loop.advance(kLife / 2);
  EXPECT_EQ(asked, 0);
  Duration least = kLife;
  for (int day = 0; day < 3 * 365; ++day) {
    loop.advance(24h);
    least = std::min(least, left());
  }
  EXPECT_GE(keeper->renewals(), 4);
  EXPECT_LE(keeper->renewals(), 6);
  EXPECT_EQ(asked, keeper->renewals());
  EXPECT_GT(least, kLife / 3 - 25h);
  runOn(loop, keeper->stop());
}

TEST_F(KeeperTest, ThoseOfAClusterDoNotComeAllAtOnce) {
  std::set<int64_t> days;
  for (int i = 0; i < 10; ++i) {
    asked = 0;
    auto keeper = this->keeper(kLife);
    const WallTime began = loop.wallNow();
    loop.runUntil([this] { return asked > 0; }, kLife);
    days.insert((loop.wallNow() - began) / 24h);
    runOn(loop, keeper->stop());
  }
  EXPECT_GE(days.size(), 5u);
}

TEST_F(KeeperTest, TriesAgainWithBackOffAndFasterTowardsTheEnd) {
  failure = Error(Code::kUnavailable, "no master answers");
  auto keeper = this->keeper(kLife);
  loop.advance(kLife - 5min);
  const int tries = asked;
  EXPECT_GT(tries, 100 * 24) << "at least every hour for the last third";
  EXPECT_LT(tries, 400 * 24);
  EXPECT_GT(askedAt[10] - askedAt[9], askedAt[1] - askedAt[0]);
  loop.advance(4min);
  EXPECT_GT(asked - tries, 10);
  // It goes on after the end, and is well as soon as it can be.
  loop.advance(24h);
  failure.reset();
  loop.advance(2min);
  EXPECT_EQ(keeper->renewals(), 1);
  EXPECT_GT(left(), kLife / 2);
  runOn(loop, keeper->stop());
}

TEST_F(KeeperTest, WhatCannotBeKeptIsNotTaken) {
  auto keeper = this->keeper(1min);
  takeFailure = Error(Code::kUnavailable, "the disk is full");
  loop.advance(50s);
  EXPECT_GT(asked, 1);
  EXPECT_EQ(keeper->renewals(), 0);
  takeFailure.reset();
  loop.advance(5s);
  EXPECT_EQ(keeper->renewals(), 1);
  loop.advance(10min);
  EXPECT_GT(keeper->renewals(), 9);
  EXPECT_LT(keeper->renewals(), 25);
  runOn(loop, keeper->stop());
}

TEST_F(KeeperTest, AnEndingAuthorityCausesNoStorm) {
  authority = createAuthority("ca", loop.wallNow(), kLife + 24h).value();
  auto keeper = this->keeper(kLife);
  loop.advance(kLife + 23h);
  EXPECT_LE(left(), 1h);
  asked = 0;
  loop.advance(3h);
  EXPECT_GT(asked, 60);
  EXPECT_LT(asked, 400);
  runOn(loop, keeper->stop());
}

TEST_F(KeeperTest, AnUnreadableOneIsRenewedAtOnce) {
  IdentityKeeper::Options options;
  options.name = "the test";
  current = issue(kLife);
  options.issue = [this]() { return answer(this); };
  options.take = [this](Identity identity) { return take(this, std::move(identity)); };
  IdentityKeeper keeper(loop, std::move(options));
  keeper.start();
  loop.advance(1s);
  EXPECT_EQ(keeper.renewals(), 1);
  runOn(loop, keeper.stop());
}

TEST(IdentityFile, HoldsBothPartsOrIsRefused) {
  auto dir = makeTempDir("/tmp", "dhow-identity-").value();
  const std::string path = dir + "/node.pem";
  const WallTime now = std::chrono::system_clock::now();
  auto identity = createAuthority("a", now, 1h).value();
  EXPECT_TRUE(readIdentityFile(path).error().is(Code::kNotFound));
  ASSERT_TRUE(writeIdentityFile(path, identity).ok());
  auto read = readIdentityFile(path);
  ASSERT_TRUE(read.ok());
  EXPECT_EQ(read->certificatePem, identity.certificatePem);
  EXPECT_EQ(read->privateKeyPem, identity.privateKeyPem);
  ASSERT_TRUE(writeFile(path, identity.certificatePem).ok());
  EXPECT_TRUE(readIdentityFile(path).error().is(Code::kDataLoss));
  EXPECT_TRUE(removeTree(dir).ok());
}

TEST(IdentityFile, IsWrittenBeforeTheIdentityIsUsed) {
  auto dir = makeTempDir("/tmp", "dhow-identity-").value();
  RealLoop loop;
  BlockingPool pool(1);
  auto identity = createAuthority("a", loop.wallNow(), 1h).value();
  bool used = false;
  auto take = takeIntoFile(loop, pool, dir + "/a.pem", [&](const Identity& given) -> Result<> {
    used = readIdentityFile(dir + "/a.pem")->certificatePem == given.certificatePem;
    return {};
  });
  EXPECT_TRUE(runOn(loop, take(identity)).ok());
  EXPECT_TRUE(used);
  auto lost = takeIntoFile(loop, pool, dir + "/none/a.pem", [&](const Identity&) -> Result<> {
    ADD_FAILURE() << "used without being kept";
    return {};
  });
  EXPECT_FALSE(runOn(loop, lost(identity)).ok());
  EXPECT_TRUE(removeTree(dir).ok());
}

}  // namespace
}  // namespace dhow
