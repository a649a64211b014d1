#include "options.h"

#include <gtest/gtest.h>

#include <boost/json/serialize.hpp>

namespace dhow::node {
namespace {

NodeOptions sample() {
  NodeOptions o;
  o.name = "n1";
  o.zone = "z1";
  o.servers = {"https://10.0.0.1:6443"};
  o.caFile = "/ca";
  o.certFile = "/crt";
  o.keyFile = "/key";
  o.dataDir = "/data";
  o.runDir = "/run/n1";
  o.address = "10.0.0.2";
  o.labels = {{"a", "b"}};
  o.taints = {{"k", "", "NoSchedule"}};
  return o;
}

TEST(NodeOptions, ReadsWhatItWrites) {
  auto read = parseNodeOptions(boost::json::serialize(toJson(sample())));
  ASSERT_TRUE(read.ok()) << read.error().message();
  EXPECT_EQ(read->name, "n1");
  EXPECT_EQ(read->servers, sample().servers);
  EXPECT_EQ(read->labels, sample().labels);
  ASSERT_EQ(read->taints.size(), 1u);
  EXPECT_EQ(read->taints[0].effect, "NoSchedule");
  EXPECT_EQ(read->maxPods, 110);
}

TEST(NodeOptions, PassesOverWhatAnotherVersionWrote) {
  auto document = toJson(sample());
  document["newerThanThis"] = boost::json::object{{"a", 1}};
  auto read = parseNodeOptions(boost::json::serialize(document));
  ASSERT_TRUE(read.ok()) << read.error().message();
  EXPECT_EQ(read->name, "n1");
}

TEST(NodeOptions, NamesTheFieldThatIsWrong) {
  EXPECT_EQ(parseNodeOptions("{").error().code(), Code::kInvalid);
  auto missing = sample();
  missing.servers.clear();
  EXPECT_EQ(parseNodeOptions(boost::json::serialize(toJson(missing))).error().message(),
            "node configuration: servers: is needed");
  auto plain = sample();
  plain.servers = {"http://10.0.0.1"};
  EXPECT_FALSE(parseNodeOptions(boost::json::serialize(toJson(plain))).ok());
}

TEST(NodeOptions, NamesAreAnsweredByEachFamily) {
  auto one = sample();
  EXPECT_EQ(dnsAddressesOf(one).value(), std::vector{*IpAddress::parse("10.96.0.10")});
  one.serviceRange6 = "fd00:10:96::/108";
  EXPECT_EQ(dnsAddressesOf(one).value(),
            (std::vector{*IpAddress::parse("10.96.0.10"), *IpAddress::parse("fd00:10:96::a")}));
  one.dnsAddress = "fd00:10:96::a";
  EXPECT_EQ(dnsAddressesOf(one).value(),
            (std::vector{*IpAddress::parse("fd00:10:96::a"), *IpAddress::parse("10.96.0.10")}));
  one.serviceRange = "";
  EXPECT_EQ(dnsAddressesOf(one).value(), std::vector{*IpAddress::parse("fd00:10:96::a")});
  one.dnsAddress = "10.96.0.10";
  one.serviceRange6 = "fd00:10:96::";
  EXPECT_TRUE(dnsAddressesOf(one).error().is(Code::kInvalid));
}

TEST(NodeOptions, TheNodeHasAddressesOfTheClustersFamiliesInTheirOrder) {
  using Texts = std::vector<std::string>;
  auto o = sample();
  EXPECT_EQ(nodeAddressesOf(o), Texts{"10.0.0.2"});
  o.address6 = "2001:db8::2";
  o.podRange6 = "fd00:10:244::/56";
  EXPECT_EQ(nodeAddressesOf(o), (Texts{"10.0.0.2", "2001:db8::2"}));
  o.ipv6First = true;
  auto read = parseNodeOptions(boost::json::serialize(toJson(o)));
  ASSERT_TRUE(read.ok());
  EXPECT_EQ(nodeAddressesOf(*read), (Texts{"2001:db8::2", "10.0.0.2"}));
  o.podRange = "";
  EXPECT_EQ(nodeAddressesOf(o), Texts{"2001:db8::2"}) << "that of IPv4 is the machine's alone";
  EXPECT_TRUE(parseNodeOptions(boost::json::serialize(toJson(o))).ok());
  o.address6 = "";
  EXPECT_EQ(parseNodeOptions(boost::json::serialize(toJson(o))).error().message(),
            "node configuration: address6: is needed");
  o.podRange6 = "";
  EXPECT_FALSE(parseNodeOptions(boost::json::serialize(toJson(o))).ok());
}

}  // namespace
}  // namespace dhow::node
