#include "host/living_masters.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "client/fake_client.h"

namespace dhow::host {
namespace {

using namespace std::chrono_literals;
using testing::UnorderedElementsAre;

Task<Result<>> keep(std::vector<std::string>* into, std::vector<std::string> addresses) {
  *into = std::move(addresses);
  co_return Result<>();
}

TEST(LivingMasters, AreThoseWhoseLeasesAreRenewed) {
  SimLoop loop;
  client::FakeClient api(loop);
  std::vector<std::string> published;
  MasterHeartbeat one(loop, api, "a", "10.0.0.1");
  auto other = std::make_unique<MasterHeartbeat>(loop, api, "b", "10.0.0.2");
  LivingMasters living(loop, api.of(object::resources::kLeases),
                       [&](std::vector<std::string> addresses) { return keep(&published, std::move(addresses)); });
  one.start();
  other->start();
  living.start();
  loop.advance(10s);
  EXPECT_THAT(published, UnorderedElementsAre("10.0.0.1", "10.0.0.2"));
  // One that falls silent: its writes fail.
  api.inject = [](const client::FakeClient::Action& action) -> std::optional<Error> {
    if (action.name == "apiserver-b") return Error(Code::kUnavailable, "cut off");
    return std::nullopt;
  };
  loop.advance(kMasterDeadAfter - kMasterRenewEvery - 1s);
  EXPECT_THAT(published, UnorderedElementsAre("10.0.0.1", "10.0.0.2"));
  loop.advance(kMasterRenewEvery + 2s);
  EXPECT_THAT(published, UnorderedElementsAre("10.0.0.1"));
  api.inject = nullptr;
  loop.advance(kMasterRenewEvery);
  EXPECT_THAT(published, UnorderedElementsAre("10.0.0.1", "10.0.0.2"));
  // One that stops says so.
  runOn(loop, other->stop());
  loop.advance(1s);
  EXPECT_THAT(published, UnorderedElementsAre("10.0.0.1"));
  runOn(loop, one.stop());
  runOn(loop, living.stop());
}

}  // namespace
}  // namespace dhow::host
