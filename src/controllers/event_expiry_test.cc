#include "event_expiry.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/time.h"
#include "client/fake_client.h"

namespace dhow::controllers {
namespace {

using namespace std::chrono_literals;
using object::resources::kEvents;

struct EventExpiryTest : testing::Test {
  EventExpiryTest() { api.of(kEvents); }
  void TearDown() override { runOn(loop, expiry.stop()); }
  void seed(std::string_view name, Duration bornAgo, Duration writtenAgo) {
    auto at = [&](Duration ago) { return formatTime(loop.wallNow() - ago); };
    api.seed(kEvents, fmt::format(R"({{"metadata":{{"name":"{}","namespace":"default","uid":"uid-{}",
      "creationTimestamp":"{}","managedFields":[{{"manager":"kubelet","time":"{}"}}]}},"reason":"Pulled"}})",
                                  name, name, at(bornAgo), at(writtenAgo)));
  }
  std::vector<std::string> names() {
    std::vector<std::string> out;
    for (const auto& event : api.all(kEvents)) out.emplace_back(event->name());
    return out;
  }
  SimLoop loop;
  client::FakeClient api{loop};
  EventExpiry expiry{{loop, api, api}, 1h};
};

TEST_F(EventExpiryTest, EventsGoAnHourAfterTheyWereLastWritten) {
  seed("old", 2h, 61min);
  seed("repeated", 2h, 30min);
  seed("young", 50min, 50min);
  expiry.start();
  loop.advance(1s);
  EXPECT_THAT(names(), testing::ElementsAre("repeated", "young"));
  loop.advance(12min);
  EXPECT_THAT(names(), testing::ElementsAre("repeated"));
  seed("late", 0s, 0s);
  loop.advance(20min);
  EXPECT_THAT(names(), testing::ElementsAre("late"));
  loop.advance(35min);
  EXPECT_THAT(names(), testing::ElementsAre("late"));
  loop.advance(1h);
  EXPECT_THAT(names(), testing::IsEmpty());
}

TEST_F(EventExpiryTest, ManyGoInTurns) {
  for (int i = 0; i < 100; ++i) seed(fmt::format("e{}", i), 2h, 2h);
  expiry.start();
  loop.advance(1s);
  EXPECT_THAT(names(), testing::IsEmpty());
}

TEST_F(EventExpiryTest, WhatCannotBeRemovedIsTriedAgain) {
  seed("old", 2h, 2h);
  seed("pretender", 2h, -10h);
  api.inject = [](const auto&) { return Error(Code::kUnavailable, "no leader"); };
  expiry.start();
  loop.advance(10s);
  EXPECT_THAT(names(), testing::ElementsAre("old", "pretender"));
  api.inject = nullptr;
  loop.advance(2min);
  EXPECT_THAT(names(), testing::IsEmpty());
}

}  // namespace
}  // namespace dhow::controllers
