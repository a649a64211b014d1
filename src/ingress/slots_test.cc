#include "slots.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace dhow::ingress {
namespace {

using State = Server::State;
using testing::ElementsAre;

std::vector<std::string> commands(Slots before, const std::vector<Server>& servers) {
  Slots after = before;
  EXPECT_TRUE(place(servers, after));
  std::vector<std::string> out;
  auto say = [&](const std::string& command, std::string_view) {
    if (command.find(" state ") != std::string::npos) out.push_back(command.substr(command.find("/") + 1));
    return Result<>();
  };
  EXPECT_TRUE(changeSlots("web", before, after, say).ok());
  return out;
}

TEST(Slots, NoMomentIsWithoutServersWhenAllAreReplacedAtOnce) {
  const Server a{"10.0.0.1", 80}, b{"10.0.0.2", 80}, c{"10.0.0.3", 80};
  Server drains = a, leaves = b;
  drains.state = State::kDraining;
  leaves.state = State::kLeaving;
  EXPECT_THAT(commands({a, b, std::nullopt}, {drains, leaves, c}),
              ElementsAre("s2 state maint", "s2 state ready", "s0 state drain", "s1 state maint"));
  Server last = a;
  last.state = State::kLast;
  EXPECT_THAT(commands({drains, b, std::nullopt}, {last}), ElementsAre("s0 state ready", "s1 state maint"));
}

TEST(Slots, AServerThatWasLeavingAndHasNoPlaceIsGone) {
  const Server ready{"10.0.0.1", 80}, draining{"10.0.0.2", 80, State::kDraining},
      leaving{"10.0.0.3", 80, State::kLeaving}, last{"10.0.0.4", 80, State::kLast};
  const Slots before{ready, draining, leaving, last, std::nullopt};
  auto gone = [&](const Slots& after, const Slots& other = {}) {
    return goneServers({{"web", before}, {"other", other}}, {{"web", after}});
  };
  EXPECT_THAT(gone(before), ElementsAre());
  EXPECT_THAT(gone(Slots(5)), ElementsAre(draining, leaving, last));
  // It may stand elsewhere, or be well again.
  const Server well{"10.0.0.2", 80}, other{"10.0.0.3", 81};
  EXPECT_THAT(gone({other, last, well}), ElementsAre(leaving));
  EXPECT_THAT(gone(Slots(5), {std::nullopt, leaving}), ElementsAre(draining, last));
}

}  // namespace
}  // namespace dhow::ingress
