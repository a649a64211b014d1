#include "network/policy.h"

#include "policy_elements.h"
#include "testing.h"

namespace dhow {
namespace {

using policies::Piece;
using policies::piecesOf;
using policies::rangesOf;

IpAddress ip(const char* text) {
  return IpAddress::parse(text).value();
}
IpPrefix prefix(const char* text) {
  return IpPrefix::parse(text).value();
}
constexpr Protocol kTcp = Protocol::kTcp, kUdp = Protocol::kUdp;

TEST(Policy, OnlyWhatARuleAllowsIsAllowed) {
  std::vector<PolicyRule> none;
  EXPECT_FALSE(allowingRule(none, ip("10.244.1.2"), nullptr, kTcp, 80));
  PolicyRule pods{.groups = {7}, .ports = {{kTcp, 80, 80}}};
  PolicyRule anyone{.everyone = true, .ports = {{kUdp, 0, 65535}}};
  std::vector<PolicyRule> rules{pods, anyone};
  PolicyPeer member{.groups = {3, 7}}, other{.groups = {3}};
  EXPECT_EQ(allowingRule(rules, ip("10.244.1.2"), &member, kTcp, 80), 0U);
  EXPECT_FALSE(allowingRule(rules, ip("10.244.1.2"), &member, kTcp, 81));
  EXPECT_FALSE(allowingRule(rules, ip("10.244.1.2"), &other, kTcp, 80));
  EXPECT_FALSE(allowingRule(rules, ip("10.244.1.2"), nullptr, kTcp, 80));
  EXPECT_EQ(allowingRule(rules, ip("10.244.1.2"), &other, kUdp, 53), 1U);
  EXPECT_EQ(allowingRule(rules, ip("192.0.2.9"), nullptr, kUdp, 65535), 1U);
}

TEST(Policy, BlocksHaveHolesAndKnowPodsToo) {
  std::vector<PolicyRule> rules{
      {.blocks = {{prefix("10.0.0.0/8"), {prefix("10.244.0.0/16")}}, {prefix("2001:db8::/32"), {}}},
       .everyPort = true}};
  PolicyPeer pod;
  EXPECT_TRUE(allowingRule(rules, ip("10.1.2.3"), nullptr, kTcp, 1));
  EXPECT_TRUE(allowingRule(rules, ip("10.1.2.3"), &pod, kTcp, 1));
  EXPECT_FALSE(allowingRule(rules, ip("10.244.1.2"), &pod, kTcp, 1));
  EXPECT_FALSE(allowingRule(rules, ip("11.0.0.1"), nullptr, kTcp, 1));
  EXPECT_TRUE(allowingRule(rules, ip("2001:db8::1"), nullptr, kTcp, 1));
  EXPECT_FALSE(allowingRule(rules, ip("2001:db9::1"), nullptr, kTcp, 1));
}

TEST(Policy, NamesOfPortsAreTheDestinations) {
  const std::vector<NamedPort> own{{"http", kTcp, 8080}, {"http", kUdp, 8081}, {"dns", kUdp, 53}};
  std::vector<PolicyRule> rules{{.everyone = true, .names = {{"http", kTcp, 0}}},
                                {.everyone = true, .names = {{"no", kTcp, 0}}}};
  auto ingress = resolveNames(rules, own);
  ASSERT_EQ(ingress.size(), 2U);
  EXPECT_EQ(allowingRule(ingress, ip("192.0.2.1"), nullptr, kTcp, 8080), 0U);
  EXPECT_FALSE(allowingRule(ingress, ip("192.0.2.1"), nullptr, kUdp, 8081));
  // What names nothing allows nothing, rather than everything.
  EXPECT_TRUE(ingress[1].ports.empty());
  EXPECT_FALSE(allowingRule({ingress[1]}, ip("192.0.2.1"), nullptr, kTcp, 8080));
  PolicyPeer pod{.ports = {{"http", kTcp, 9090}}};
  EXPECT_TRUE(allowingRule(rules, ip("10.244.1.2"), &pod, kTcp, 9090));
  EXPECT_FALSE(allowingRule(rules, ip("10.244.1.2"), &pod, kTcp, 8080));
  EXPECT_FALSE(allowingRule(rules, ip("192.0.2.1"), nullptr, kTcp, 9090));
}

TEST(Policy, BlocksCutAddressesIntoPieces) {
  std::vector<PolicyRule> rules{
      {.blocks = {{prefix("0.0.0.0/0"), {prefix("10.0.0.0/8")}}, {prefix("10.1.0.0/16"), {}}}},
      {.blocks = {{prefix("fd00::/8"), {}}}}};
  EXPECT_THAT(piecesOf({&rules}),
              testing::ElementsAre(Piece{ip("0.0.0.0"), ip("9.255.255.255")}, Piece{ip("10.1.0.0"), ip("10.1.255.255")},
                                   Piece{ip("11.0.0.0"), ip("255.255.255.255")},
                                   Piece{ip("fd00::"), ip("fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")}));
}

TEST(Policy, RangesCutEachOther) {
  std::vector<PolicyRule> rules{
      {.ports = {{kTcp, 0, 65535}, {kTcp, 80, 90}, {kTcp, 85, 100}, {kTcp, 8080, 8080}, {kUdp, 5, 6}}}};
  EXPECT_THAT(rangesOf({&rules}),
              testing::ElementsAre(PortRange{kTcp, 0, 79}, PortRange{kTcp, 80, 84}, PortRange{kTcp, 85, 90},
                                   PortRange{kTcp, 91, 100}, PortRange{kTcp, 101, 65535}, PortRange{kUdp, 5, 6}));
}

}  // namespace
}  // namespace dhow
