#include "base/file_watch.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include "base/files.h"
#include "base/loop_run.h"

namespace dhow {
namespace {

class FileWatchTest : public testing::Test {
 protected:
  void SetUp() override {
    char pattern[] = "/tmp/dhow-watch-XXXXXX";
    ASSERT_NE(::mkdtemp(pattern), nullptr);
    folder_ = pattern;
    ASSERT_TRUE(makeDirs(folder_ + "/run", 0755).ok());
  }
  void TearDown() override {
    if (watch_) runOn(loop_, watch_->stop());
    (void)removeTree(folder_);
  }
  void watch(const std::string& path) {
    auto started = FileWatch::start(loop_, path, [this, path] {
      ++told_;
      text_ = readFile(path, 100).valueOr("none");
      seen_.notify();
    });
    ASSERT_TRUE(started.ok()) << started.error().message();
    watch_ = std::move(*started);
  }
  // Waits until the file was told to hold it.
  static Task<bool> told(FileWatchTest* self, std::string text) {
    while (self->text_ != text) {
      if (!co_await self->seen_.waitFor(std::chrono::seconds(5))) co_return false;
    }
    co_return true;
  }
  bool tells(const std::string& text) { return runOn(loop_, told(this, text)); }

  RealLoop loop_;
  Signal seen_{loop_};
  std::string folder_, text_;
  int told_ = 0;
  std::unique_ptr<FileWatch> watch_;
};

TEST_F(FileWatchTest, TellsOfAFileThatIsWrittenReplacedRemovedAndMadeAnew) {
  const std::string path = folder_ + "/file";
  watch(path);
  ASSERT_TRUE(writeFile(path, "one", 0644).ok());
  EXPECT_TRUE(tells("one"));
  ASSERT_TRUE(writeFile(path + ".new", "two", 0644).ok());
  ASSERT_EQ(::rename((path + ".new").c_str(), path.c_str()), 0);
  EXPECT_TRUE(tells("two"));
  ASSERT_EQ(::unlink(path.c_str()), 0);
  EXPECT_TRUE(tells("none"));
  ASSERT_TRUE(writeFile(path, "three", 0644).ok());
  EXPECT_TRUE(tells("three"));
}

TEST_F(FileWatchTest, FollowsLinksAndTheirTargets) {
  const std::string path = folder_ + "/link";
  ASSERT_TRUE(writeFile(folder_ + "/run/a", "a", 0644).ok());
  ASSERT_TRUE(writeFile(folder_ + "/run/b", "b", 0644).ok());
  ASSERT_EQ(::symlink("run/a", path.c_str()), 0);
  watch(path);
  ASSERT_TRUE(writeFile(folder_ + "/run/new", "a again", 0644).ok());
  ASSERT_EQ(::rename((folder_ + "/run/new").c_str(), (folder_ + "/run/a").c_str()), 0);
  EXPECT_TRUE(tells("a again"));
  ASSERT_EQ(::symlink("run/b", (path + ".new").c_str()), 0);
  ASSERT_EQ(::rename((path + ".new").c_str(), path.c_str()), 0);
  EXPECT_TRUE(tells("b"));
  const int before = told_;
  ASSERT_TRUE(writeFile(folder_ + "/run/a", "nobody reads it", 0644).ok());
  ASSERT_TRUE(writeFile(folder_ + "/run/b", "b again", 0644).ok());
  EXPECT_TRUE(tells("b again"));
  EXPECT_LE(told_, before + 4) << "the other file is none of ours";
}

}  // namespace
}  // namespace dhow
