#include "network/address_election.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fmt/format.h>
#include <random>

namespace dhow {
namespace {

using namespace std::chrono_literals;

IpAddress ip(int last) {
  return IpAddress::parse(fmt::format("192.0.2.{}", last)).value();
}

// Nodes on a segment that may be parted, each with its election, beating every 300 ms.
class Segment {
 public:
  struct Node {
    explicit Node(std::string name) : election({.self = std::move(name)}) {}
    AddressElection election;
    bool alive = true, cut = false;
    TimePoint nextBeat{};
    std::map<IpAddress, TimePoint> since;
  };
  explicit Segment(int nodes) {
    for (int i = 0; i < nodes; i++) all_.push_back(std::make_unique<Node>(fmt::format("n{}", i)));
  }
  Node& node(int i) { return *all_.at(static_cast<size_t>(i)); }
  Node& holder(const IpAddress& address) {
    for (auto& node : all_) {
      if (node->alive && node->election.held().contains(address)) return *node;
    }
    throw std::runtime_error("nobody holds " + address.str());
  }
  size_t holders(const IpAddress& address, bool cut = false) {
    size_t out = 0;
    for (auto& node : all_) out += node->alive && node->cut == cut && node->election.held().contains(address) ? 1 : 0;
    return out;
  }
  void want(int addresses, AddressElection::Candidates candidates = {}) {
    AddressElection::Wanted wanted;
    for (int i = 0; i < addresses; i++) wanted[ip(i + 1)] = candidates;
    for (auto& node : all_) node->election.setWanted(wanted, now_);
  }
  void pass(Duration span) {
    for (const TimePoint end = now_ + span; now_ < end; now_ += 10ms) {
      for (auto& node : all_) {
        if (!node->alive) continue;
        decide(*node);
        if (node->nextBeat > now_) continue;
        node->nextBeat = now_ + 300ms;
        tell(*node);
      }
    }
  }
  void decide(Node& node) {
    const auto decision = node.election.decide(now_);
    moves_ += decision.taken.size();
    if (!decision.taken.empty() || !decision.givenUp.empty() || !decision.again.empty()) tell(node);
  }
  void tell(Node& from) {
    for (auto& to : all_) {
      if (to.get() != &from && to->alive && to->cut == from.cut) to->election.heard(from.election.beat(), now_);
    }
  }
  TimePoint now_ = TimePoint{} + 1h;
  size_t moves_ = 0;
  std::vector<std::unique_ptr<Node>> all_;
};

TEST(AddressElection, EachAddressHasOneHolderAndAllNodesTakeTheirShare) {
  Segment segment(4);
  segment.want(200);
  segment.pass(2s);
  for (int i = 1; i <= 200; i++) EXPECT_EQ(1u, segment.holders(ip(i)));
  for (int i = 0; i < 4; i++) EXPECT_GE(segment.node(i).election.held().size(), 30u);
  EXPECT_EQ(200u, segment.moves_) << "nobody took what another has";
}

TEST(AddressElection, AddressesOfADeadNodeMoveWithinThirteenTenthsAndOthersStay) {
  Segment segment(3);
  segment.want(20);
  segment.pass(3s);
  auto& dead = segment.holder(ip(1));
  const auto lost = dead.election.held().size();
  segment.moves_ = 0;
  dead.alive = false;
  segment.pass(1300ms);
  for (int i = 1; i <= 20; i++) EXPECT_EQ(1u, segment.holders(ip(i))) << i;
  EXPECT_EQ(lost, segment.moves_);
  // It comes back with nothing, and takes nothing away.
  segment.all_.push_back(std::make_unique<Segment::Node>(dead.election.beat().node));
  segment.want(20);
  segment.pass(5s);
  EXPECT_EQ(lost, segment.moves_);
}

TEST(AddressElection, APartedSegmentHasAHolderOnEachSideAndOneAgainWhenItIsWhole) {
  Segment segment(4);
  segment.want(20);
  segment.pass(3s);
  segment.node(0).cut = segment.node(1).cut = true;
  segment.pass(2s);
  for (int i = 1; i <= 20; i++) {
    EXPECT_EQ(1u, segment.holders(ip(i), false));
    EXPECT_EQ(1u, segment.holders(ip(i), true));
  }
  segment.node(0).cut = segment.node(1).cut = false;
  segment.pass(400ms);
  for (int i = 1; i <= 20; i++) EXPECT_EQ(1u, segment.holders(ip(i)));
}

TEST(AddressElection, DeadMastersMoveNothingAndACutNodeGivesWay) {
  Segment segment(3);
  segment.want(12);
  segment.pass(3s);
  segment.moves_ = 0;
  for (int i = 0; i < 3; i++) {
    segment.node(i).election.setHealth(NodeHealth::kUnsure);
    segment.pass(1s);
  }
  for (int i = 0; i < 3; i++) {
    segment.node(i).election.setHealth(NodeHealth::kCutOff);
    segment.pass(1s);
  }
  EXPECT_EQ(0u, segment.moves_);
  for (int i = 1; i <= 12; i++) EXPECT_EQ(1u, segment.holders(ip(i)));
  segment.node(0).election.setHealth(NodeHealth::kWell);
  segment.pass(1s);
  EXPECT_EQ(12u, segment.node(0).election.held().size()) << "the only one that hears a master";
}

TEST(AddressElection, OnlyCandidatesHoldAnAddress) {
  Segment segment(3);
  segment.want(5, {.any = false, .nodes = {"n1"}});
  segment.pass(3s);
  EXPECT_EQ(5u, segment.node(1).election.held().size());
  segment.want(5, {.any = false, .nodes = {"n2"}});
  segment.pass(500ms);
  EXPECT_EQ(0u, segment.node(1).election.held().size());
  EXPECT_EQ(5u, segment.node(2).election.held().size());
  segment.want(5, {.any = false, .nodes = {}});
  segment.pass(500ms);
  EXPECT_EQ(0u, segment.node(2).election.held().size());
}

TEST(AddressElection, TheNextInRankTakesWhatTheFirstDoesNotKnowOf) {
  Segment segment(2);
  AddressElection::Wanted wanted;
  for (int i = 1; i <= 20; i++) wanted[ip(i)] = {};
  segment.node(0).election.setWanted(wanted, segment.now_);
  segment.pass(2500ms);
  EXPECT_EQ(20u, segment.node(0).election.held().size());
}

TEST(AddressElection, ConvergesWhateverFails) {
  for (unsigned seed = 1; seed <= 30; seed++) {
    std::mt19937 random(seed);
    Segment segment(5);
    segment.want(15);
    for (int step = 0; step < 30; step++) {
      auto& node = segment.node(static_cast<int>(random() % 5));
      switch (random() % 4) {
        case 0: node.alive = !node.alive; break;
        case 1: node.cut = !node.cut; break;
        case 2: node.election.setHealth(static_cast<NodeHealth>(random() % 3)); break;
        default: segment.want(5 + static_cast<int>(random() % 10));
      }
      segment.pass(std::chrono::milliseconds(random() % 900));
    }
    for (auto& node : segment.all_) node->alive = true, node->cut = false;
    segment.want(15);
    segment.pass(8s);
    for (int i = 1; i <= 15; i++) EXPECT_EQ(1u, segment.holders(ip(i))) << "seed " << seed;
  }
}

}  // namespace
}  // namespace dhow
