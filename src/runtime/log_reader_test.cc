#include "runtime/log_reader.h"

#include <gtest/gtest.h>

#include <cstdio>

#include "base/files.h"
#include "base/gate.h"
#include "base/time.h"

namespace dhow::runtime {
namespace {

class LogReaderTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = *makeTempDir("/tmp", "dhow-log-");
    path_ = folder_ + "/log";
  }
  void TearDown() override { ASSERT_TRUE(removeTree(folder_).ok()); }

  void append(const std::string& text, const char* stream = "stdout", const char* tag = "F") {
    FILE* file = std::fopen(path_.c_str(), "a");
    auto time = WallTime(std::chrono::seconds(1700000000 + seconds_++));
    std::fprintf(file, "%s %s %s %s\n", formatTimeNano(time).c_str(), stream, tag, text.c_str());
    std::fclose(file);
  }
  void rotate() {
    std::rename((path_ + ".1").c_str(), (path_ + ".2").c_str());
    std::rename(path_.c_str(), (path_ + ".1").c_str());
  }
  std::string readAll(LogQuery query) {
    query.path = path_;
    auto reader = LogReader::open(loop_, query);
    EXPECT_TRUE(reader.ok());
    std::string out;
    while (true) {
      auto entry = (*reader)->tryNext();
      EXPECT_TRUE(entry.ok());
      if (!*entry) return out;
      out += (*entry)->text + ((*entry)->partial ? "+" : ";");
    }
  }

  RealLoop loop_;
  std::string folder_, path_;
  int seconds_ = 0;
};

TEST_F(LogReaderTest, ReadsRotatedFilesOldestFirst) {
  append("a");
  rotate();
  append("b");
  rotate();
  append("c", "stderr");
  EXPECT_EQ(readAll({}), "a;b;c;");
}

TEST_F(LogReaderTest, TailCountsLinesOverFilesAndPiecesOnce) {
  append("a");
  append("b");
  rotate();
  append("long", "stdout", "P");
  append("line");
  append("c");
  LogQuery query;
  query.tail = 2;
  EXPECT_EQ(readAll(query), "long+line;c;");
  query.tail = 3;
  EXPECT_EQ(readAll(query), "b;long+line;c;");
  query.tail = 0;
  EXPECT_EQ(readAll(query), "");
  query.tail = 100;
  EXPECT_EQ(readAll(query), "a;b;long+line;c;");
}

TEST_F(LogReaderTest, SinceAndUntilCutBothEnds) {
  for (int i = 0; i < 5; ++i) append(std::to_string(i));
  LogQuery query;
  query.since = WallTime(std::chrono::seconds(1700000001));
  query.until = WallTime(std::chrono::seconds(1700000003));
  EXPECT_EQ(readAll(query), "1;2;3;");
}

TEST_F(LogReaderTest, AMissingFileIsEmptyAndGarbageIsSkipped) {
  EXPECT_EQ(readAll({}), "");
  ASSERT_TRUE(writeFile(path_, "garbage\n\n2026 stdout F x\n").ok());
  append("a");
  EXPECT_EQ(readAll({}), "a;");
}

Task<std::string> collect(LogReader& reader) {
  std::string out;
  while (true) {
    auto entry = co_await reader.next();
    if (!entry.ok() || !*entry) co_return out;
    out += (*entry)->text + ";";
  }
}

TEST_F(LogReaderTest, FollowSeesNewLinesThroughRotationsUntilFinished) {
  append("a");
  LogQuery query;
  query.path = path_;
  query.follow = true;
  auto reader = LogReader::open(loop_, query);
  ASSERT_TRUE(reader.ok());
  auto write = loop_.after(std::chrono::milliseconds(5), [&] {
    append("b");
    rotate();
    append("c");
    rotate();
    append("d");
  });
  auto end = loop_.after(std::chrono::milliseconds(10), [&] { (*reader)->finish(); });
  EXPECT_EQ(runOn(loop_, collect(**reader)), "a;b;c;d;");
}

}  // namespace
}  // namespace dhow::runtime
