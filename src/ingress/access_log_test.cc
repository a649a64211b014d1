#include "access_log.h"

#include <gtest/gtest.h>

#include "base/files.h"

namespace dhow::ingress {
namespace {

TEST(AccessLog, TakesWholeRecordsAlone) {
  EXPECT_EQ(recordsIn("{\"time\":1}\n{\"time\":2\n{\"time\":3}{\nx\n{\"time\":4}"), "{\"time\":1}\n{\"time\":4}\n");
  EXPECT_EQ(recordsIn(""), "");
}

Task<> readAll(RealLoop* loop, AccessLog* log, std::string file, std::string wanted, std::string* got) {
  log->start();
  for (int i = 0; i < 1000 && *got != wanted; ++i) {
    Signal none(*loop);
    co_await none.waitFor(std::chrono::milliseconds(5));
    auto content = readFile(file);
    if (content.ok()) *got = *content;
  }
  co_await log->stop();
  loop->stop();
}

TEST(AccessLog, FindsWhatCameWhileNobodyRead) {
  auto folder = makeTempDir("/tmp", "access-log-test-");
  ASSERT_TRUE(folder.ok());
  const std::string pipe = *folder + "/pipe", file = *folder + "/access.log";
  auto writer = openLogPipe(pipe);
  ASSERT_TRUE(writer.ok());
  std::string wanted;
  for (std::string line : {"{\"time\":1}\n", "{\"time\":2}\n"}) {
    ASSERT_TRUE(writeAll(writer->get(), line, pipe).ok());
    wanted += line;
    RealLoop loop;
    BlockingPool pool(1);
    AccessLog log(loop, pool, pipe, file);
    std::string got;
    spawn(loop, readAll(&loop, &log, file, wanted, &got));
    loop.run();
    EXPECT_EQ(got, wanted);
  }
  EXPECT_TRUE(removeTree(*folder).ok());
}

}  // namespace
}  // namespace dhow::ingress
