#include "platform/snapshots.h"

#include <gtest/gtest.h>

#include "base/files.h"
#include "base/time.h"

namespace dhow::platform {
namespace {

using namespace std::chrono_literals;

WallTime at(const char* text) {
  return parseTime(text).value();
}

TEST(Snapshots, NamesTellWhenTheScheduleTookThem) {
  const auto time = at("2026-03-04T05:06:07Z");
  EXPECT_EQ(snapshotName(time, true), "auto-20260304T050607Z.snapshot");
  EXPECT_EQ(scheduledTime(snapshotName(time, true)), time);
  EXPECT_EQ(scheduledTime(snapshotName(time, false)), std::nullopt);
  EXPECT_EQ(scheduledTime("auto-2026.snapshot"), std::nullopt);
  EXPECT_EQ(scheduledTime("auto-20261304T050607Z.snapshot"), std::nullopt);
}

TEST(Snapshots, TheNewestDayAndOneOfEachOfSevenDaysAreKept) {
  std::vector<std::string> names = {snapshotName(at("2020-01-01T00:00:00Z"), false), "mine.snapshot"};
  const auto end = at("2026-01-20T23:30:00Z");
  for (int hour = 0; hour < 20 * 24; ++hour) names.push_back(snapshotName(end - std::chrono::hours(hour), true));
  auto outdated = outdatedSnapshots(names);
  EXPECT_EQ(outdated.size(), size_t{20 * 24 - 24 - 6});
  for (const auto& name : outdated) {
    EXPECT_TRUE(scheduledTime(name).has_value()) << name;
    std::erase(names, name);
  }
  EXPECT_TRUE(outdatedSnapshots(names).empty());
  EXPECT_NE(std::find(names.begin(), names.end(), "auto-20260114T233000Z.snapshot"), names.end());
}

class Keeper : public testing::Test {
 protected:
  void SetUp() override { dir_ = makeTempDir("/tmp", "dhow-keeper-").value(); }
  void TearDown() override { EXPECT_TRUE(removeTree(dir_).ok()); }
  static Task<Result<>> save(Keeper* self, std::string path) {
    ++self->asked_;
    if (self->failing_) co_return Error(Code::kUnavailable, "no quorum");
    co_return writeFile(path, "");
  }
  std::unique_ptr<SnapshotKeeper> keeper(Duration every) {
    SnapshotKeeper::Options options;
    options.every = every;
    options.folder = dir_;
    options.save = [this](std::string path) { return save(this, std::move(path)); };
    auto made = std::make_unique<SnapshotKeeper>(loop_, std::move(options));
    made->start();
    return made;
  }
  size_t count() const { return listDir(dir_)->size(); }

  SimLoop loop_;
  std::string dir_;
  int asked_ = 0;
  bool failing_ = false;
};

TEST_F(Keeper, SavesTheFirstSoonAndOneEachHourAndRemovesOldOnes) {
  auto first = keeper(1h);
  loop_.advance(2min);
  EXPECT_EQ(count(), 1u);
  loop_.advance(3h);
  EXPECT_EQ(count(), 4u);
  runOn(loop_, first->stop());
  // Another master goes on where this one was.
  auto second = keeper(1h);
  loop_.advance(50min);
  EXPECT_EQ(count(), 4u);
  loop_.advance(10min);
  EXPECT_EQ(count(), 5u);
  loop_.advance(240h);
  EXPECT_LE(count(), size_t{24 + 7});
  EXPECT_GE(count(), size_t{24 + 5});
  runOn(loop_, second->stop());
}

TEST_F(Keeper, TriesAgainWhenSavingFailed) {
  failing_ = true;
  auto one = keeper(1h);
  loop_.advance(5min);
  EXPECT_GE(asked_, 3);
  EXPECT_EQ(count(), 0u);
  failing_ = false;
  loop_.advance(2min);
  EXPECT_EQ(count(), 1u);
  runOn(loop_, one->stop());
}

TEST_F(Keeper, SavesNothingWhenItIsOff) {
  auto one = keeper(0s);
  loop_.advance(48h);
  EXPECT_EQ(asked_, 0);
  runOn(loop_, one->stop());
}

TEST_F(Keeper, ListsWhatIsThereAndTellsWhatIsDamaged) {
  ASSERT_TRUE(writeFile(dir_ + "/a.snapshot", "dhow").ok());
  ASSERT_TRUE(writeFile(dir_ + "/b.snapshot.partial", "dhow").ok());
  auto files = listSnapshots(dir_);
  ASSERT_TRUE(files.ok());
  ASSERT_EQ(files->size(), 1u);
  EXPECT_EQ(files->front().damage->code(), Code::kDataLoss);
  EXPECT_TRUE(listSnapshots(dir_ + "/none")->empty());
}

TEST(Snapshots, ClustersDifferByNameAndAuthority) {
  EXPECT_EQ(clusterIdOf("a", "PEM\n"), clusterIdOf("a", "PEM"));
  EXPECT_NE(clusterIdOf("a", "PEM"), clusterIdOf("b", "PEM"));
  EXPECT_NE(clusterIdOf("a", "PEM"), clusterIdOf("a", "OTHER"));
}

}  // namespace
}  // namespace dhow::platform
