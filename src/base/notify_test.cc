#include "base/notify.h"

#include <gtest/gtest.h>

#include <cstdlib>

#include "base/files.h"

namespace dhow {
namespace {

TEST(Notify, ReadyReachesTheSocketAndSilenceTimesOut) {
  auto dir = makeTempDir("/tmp", "dhow-notify-");
  ASSERT_TRUE(dir.ok());
  RealLoop loop;
  {
    auto socket = ReadySocket::create(*dir + "/ready");
    ASSERT_TRUE(socket.ok());
    EXPECT_FALSE(runOn(loop, socket->wait(loop, std::chrono::milliseconds(5))).ok());
    ::setenv("NOTIFY_SOCKET", socket->path().c_str(), 1);
    notifyReady();
    EXPECT_TRUE(runOn(loop, socket->wait(loop, std::chrono::seconds(10))).ok());
  }
  EXPECT_FALSE(pathExists(*dir + "/ready"));
  ASSERT_TRUE(removeTree(*dir).ok());
}

}  // namespace
}  // namespace dhow
