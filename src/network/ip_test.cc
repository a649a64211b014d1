#include "network/ip.h"

#include <gtest/gtest.h>

#include "base/files.h"
#include "network/ipam.h"

namespace dhow {
namespace {

TEST(IpTest, ParsesAndPrintsAddresses) {
  for (const char* text : {"10.0.0.1", "255.255.255.255", "::1", "fd00::12", "0.0.0.0"}) {
    auto address = IpAddress::parse(text);
    ASSERT_TRUE(address.ok()) << text;
    EXPECT_EQ(text, address->str());
  }
  for (const char* text : {"", "10.0.0", "10.0.0.256", "1.2.3.4 ", "g::", "01.2.3.4.5"}) {
    EXPECT_FALSE(IpAddress::parse(text).ok()) << text;
  }
  EXPECT_EQ("10.1.0.0", IpAddress::parse("10.0.255.255")->plus(1).str());
  EXPECT_EQ("02:42:0a:f4:01:02", macFor(*IpAddress::parse("10.244.1.2")));
}

TEST(IpTest, PrefixesKnowWhatTheyContain) {
  auto prefix = IpPrefix::parse("10.244.1.7/20");
  ASSERT_TRUE(prefix.ok());
  EXPECT_EQ("10.244.0.0", prefix->network().str());
  EXPECT_TRUE(prefix->contains(*IpAddress::parse("10.244.15.255")));
  EXPECT_FALSE(prefix->contains(*IpAddress::parse("10.244.16.0")));
  EXPECT_FALSE(prefix->contains(*IpAddress::parse("fd00::1")));
  EXPECT_TRUE(prefix->overlaps(*IpPrefix::parse("10.0.0.0/8")));
  EXPECT_FALSE(prefix->overlaps(*IpPrefix::parse("11.0.0.0/8")));
  for (const char* text : {"10.0.0.0", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/", "/8", "x/8"}) {
    EXPECT_FALSE(IpPrefix::parse(text).ok()) << text;
  }
}

TEST(IpamTest, HandsOutEachAddressOnceAndTheLongestReleasedFirst) {
  auto ipam = Ipam::open({.range = *IpPrefix::parse("10.0.0.0/29"), .reserved = {*IpAddress::parse("10.0.0.1")}});
  ASSERT_TRUE(ipam.ok());
  std::vector<std::string> seen;
  for (int i = 0; i < 5; i++) seen.push_back((*ipam)->allocate(fmt::format("c{}", i))->str());
  EXPECT_EQ((std::vector<std::string>{"10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"}), seen);
  EXPECT_EQ(5u, (*ipam)->capacity());
  EXPECT_EQ(Code::kUnavailable, (*ipam)->allocate("more").error().code());
  (*ipam)->release("c3");
  (*ipam)->release("c1");
  EXPECT_EQ("10.0.0.5", (*ipam)->allocate("d")->str());
  EXPECT_EQ("10.0.0.3", (*ipam)->allocate("e")->str());
  EXPECT_EQ(Code::kConflict, (*ipam)->take("f", *IpAddress::parse("10.0.0.3")).error().code());
  EXPECT_EQ(Code::kInvalid, (*ipam)->take("f", *IpAddress::parse("10.0.1.3")).error().code());
  EXPECT_EQ(Code::kConflict, (*ipam)->take("f", *IpAddress::parse("10.0.0.1")).error().code());
}

TEST(IpamTest, OfIpv6TheFirstOnesAreUsedAndComeRoundAgain) {
  auto ipam = Ipam::open({.range = *IpPrefix::parse("fd00::/64"),
                          .within = {},
                          .reserved = {*IpAddress::parse("fd00::1")},
                          .journal = ""});
  ASSERT_TRUE(ipam.ok());
  EXPECT_EQ((*ipam)->allocate("a")->str(), "fd00::2");
  for (int i = 3; i <= 0x10000; ++i) {
    auto given = (*ipam)->allocate("b");
    ASSERT_TRUE(given.ok()) << i;
    (*ipam)->release("b");
  }
  EXPECT_EQ((*ipam)->allocate("b")->str(), "fd00::3") << "the one released longest ago";
  EXPECT_EQ((*ipam)->allocate("c")->str(), "fd00::4");
}

TEST(IpamTest, AssignmentsSurviveTheProcess) {
  auto dir = makeTempDir("/tmp", "ipam");
  ASSERT_TRUE(dir.ok());
  Ipam::Options options{.range = *IpPrefix::parse("10.0.0.0/24"), .journal = *dir + "/journal"};
  std::string kept;
  {
    auto ipam = Ipam::open(options);
    ASSERT_TRUE(ipam.ok());
    ASSERT_TRUE((*ipam)->allocate("gone").ok());
    kept = (*ipam)->allocate("kept")->str();
    (*ipam)->release("gone");
    for (int i = 0; i < 2000; i++) {
      ASSERT_TRUE((*ipam)->allocate("x").ok());
      (*ipam)->release("x");
    }
  }
  EXPECT_LT(readFile(options.journal)->size(), 100000u);
  auto ipam = Ipam::open(options);
  ASSERT_TRUE(ipam.ok());
  EXPECT_EQ(1u, (*ipam)->used());
  EXPECT_EQ(kept, (*ipam)->of("kept")[0].str());
  EXPECT_EQ(Code::kConflict, (*ipam)->take("other", *IpAddress::parse(kept)).error().code());
  ASSERT_TRUE(removeTree(*dir).ok());
}

}  // namespace
}  // namespace dhow
