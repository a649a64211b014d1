#include "client/sessions.h"

#include <gtest/gtest.h>

#include "base/time.h"

namespace dhow::client {
namespace {

using namespace std::chrono_literals;

TEST(UserSample, CountsTheSameUserOnceAndManyAboutRight) {
  UserSample here, there;
  for (uint64_t i = 0; i < 300; ++i) here.add(i << 8);
  for (uint64_t i = 200; i < 500; ++i) there.add(i << 8);
  here.merge(there);
  EXPECT_EQ(here.count(), 500U);
  here.remove(there);
  EXPECT_EQ(here.count(), 200U);
  uint64_t x = 1;
  UserSample many, more;
  for (int i = 0; i < 100'000; ++i) {
    x ^= x << 13, x ^= x >> 7, x ^= x << 17;
    (i % 2 == 0 ? many : more).add(x);
  }
  EXPECT_LE(many.hashes().size(), 512U);
  many.merge(more);
  EXPECT_NEAR(static_cast<double>(many.count()), 100'000, 20'000);
}

TEST(Sessions, ReportsAndAnswersComeBackAsTheyWent) {
  SessionReport report;
  report.change = 17;
  report.all = {"a", "b"};
  PodUse use;
  use.sticky = true;
  use.connections = 3;
  use.users.add(0xffffffffffffffff);
  use.users.add(5);
  use.ended.add(5);
  report.changed.emplace("a", std::pair(uint64_t{17}, use));
  auto back = decodeSessions(encodeSessions(report));
  ASSERT_TRUE(back.ok());
  EXPECT_EQ(back->change, 17U);
  EXPECT_EQ(back->all, report.all);
  EXPECT_EQ(back->changed, report.changed);
  EXPECT_FALSE(decodeSessions("[]").ok());
  const Held held{true, true, 2, 1, {"n1"}};
  EXPECT_EQ(*decodeHeld(encodeHeld(held)), held);
  EXPECT_EQ(describe(1, 0), "1 session");
  EXPECT_EQ(describe(0, 2), "2 connections");
  EXPECT_EQ(describe(2, 1), "2 sessions and 1 connection");
}

TEST(Sessions, TimesAreThoseOfGo) {
  EXPECT_EQ(sessionTime("2h"), 2h);
  EXPECT_EQ(sessionTime("1h30m5s"), 1h + 30min + 5s);
  for (const char* wrong : {"", "2", "h", "5m1h", "1d", "-1s", "0s", "200h", "99999999999999999999s", "1.5h"})
    EXPECT_FALSE(sessionTime(wrong)) << wrong;
}

TEST(Sessions, TheDeadlineLiesInTheGracePeriodOrBeforeIt) {
  auto deadline = [](std::string_view annotations, int grace, int own) {
    auto pod = object::Object::parse(fmt::format(
        R"({{"metadata":{{"deletionTimestamp":"2026-01-01T00:10:00Z","deletionGracePeriodSeconds":{},"annotations":{}}},
           "spec":{{"terminationGracePeriodSeconds":{}}}}})",
        grace, annotations, own));
    return sessionDeadline(**pod) - *parseTime("2026-01-01T00:10:00Z");
  };
  EXPECT_EQ(deadline("{}", 30, 30), -2s);
  EXPECT_EQ(deadline("{}", 1, 1), -500ms);
  // It counts from the deletion.
  EXPECT_EQ(deadline(R"({"dhow.io/session-deadline":"2h"})", 30, 30), 2h - 30s);
  // Who asks for less time than the pod's own means it.
  EXPECT_EQ(deadline(R"({"dhow.io/session-deadline":"2h"})", 5, 30), -2s);
  EXPECT_EQ(deadline(R"({"dhow.io/session-deadline":"soon"})", 30, 30), -2s);
}

}  // namespace
}  // namespace dhow::client
