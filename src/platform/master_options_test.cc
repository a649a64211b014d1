#include "platform/master_options.h"

#include <gtest/gtest.h>
#include <boost/json/serialize.hpp>

namespace dhow::platform {
namespace {

MasterOptions whole() {
  MasterOptions options;
  options.name = "a";
  options.cluster = "c";
  options.region = "r";
  options.zones = {"r-1", "r-2"};
  options.nodes = 3;
  options.address = "10.0.0.1";
  options.port = 6443;
  options.advertise = "10.0.0.9";
  options.podRange = options.serviceRange = options.loadBalancerRange = "10.1.0.0/16";
  options.caFile = options.caKeyFile = options.certFile = options.keyFile = options.serviceAccountKeyFile = "/f";
  options.regionUrl = "https://10.0.0.9:7443";
  options.store = "/store.db";
  return options;
}

std::string refusal(const MasterOptions& options) {
  auto parsed = parseMasterOptions(boost::json::serialize(toJson(options)));
  return parsed.ok() ? "" : parsed.error().message();
}

TEST(MasterOptions, WhatIsWrittenReadsTheSame) {
  auto options = whole();
  options.store.clear();
  options.etcd = {"https://10.0.0.1:2379", "https://10.0.0.2:2379"};
  options.storeFrom = "/store.db";
  options.snapshots = "/snapshots";
  options.snapshotEvery = 3600;
  options.certificateSeconds = 45;
  options.adminFile = "/admin.pem";
  options.kubeconfigFile = "/kubeconfig";
  options.member = "/etcd";
  options.peers = {{"a", "10.0.0.1"}, {"b", "10.0.0.2"}};
  const auto text = boost::json::serialize(toJson(options));
  auto parsed = parseMasterOptions(text);
  ASSERT_TRUE(parsed.ok()) << parsed.error().message();
  EXPECT_EQ(boost::json::serialize(toJson(*parsed)), text);
  EXPECT_EQ(parsed->etcd, options.etcd);
  EXPECT_EQ(parsed->peers, options.peers);
  EXPECT_EQ(parsed->zones, options.zones);
}

TEST(MasterOptions, RangesAreInTheOrderOfTheFamilies) {
  auto options = whole();
  options.podRange6 = "fd00::/56";
  EXPECT_EQ(options.podRanges(), (std::vector<std::string>{"10.1.0.0/16", "fd00::/56"}));
  options.serviceRange6 = "fd01::/108";
  options.ipv6First = true;
  auto read = parseMasterOptions(boost::json::serialize(toJson(options)));
  ASSERT_TRUE(read.ok()) << read.error().message();
  EXPECT_EQ(read->podRanges(), (std::vector<std::string>{"fd00::/56", "10.1.0.0/16"}));
  options.podRange = options.serviceRange = "";
  EXPECT_EQ(options.serviceRanges(), std::vector<std::string>{"fd01::/108"});
  EXPECT_EQ(refusal(options), "");
  options.serviceRange6 = "";
  EXPECT_NE(refusal(options).find("serviceRange"), std::string::npos);
}

TEST(MasterOptions, WhatIsWrongIsNamed) {
  EXPECT_EQ(refusal(whole()), "");
  auto options = whole();
  options.address.clear();
  EXPECT_NE(refusal(options).find("address"), std::string::npos);
  options = whole();
  options.etcd = {"https://10.0.0.1:2379"};
  EXPECT_NE(refusal(options).find("store"), std::string::npos);
  options = whole();
  options.store.clear();
  EXPECT_NE(refusal(options).find("store"), std::string::npos);
  options = whole();
  options.member = "/etcd";
  EXPECT_NE(refusal(options).find("peers"), std::string::npos);
  options = whole();
  options.storeFrom = "/store.db";
  EXPECT_NE(refusal(options).find("storeFrom"), std::string::npos);
  options = whole();
  options.snapshotEvery = 5;
  EXPECT_NE(refusal(options).find("snapshots"), std::string::npos);
  EXPECT_FALSE(parseMasterOptions("{\"surprise\": 1}").ok());
  EXPECT_FALSE(parseMasterOptions("[]").ok());
}

}  // namespace
}  // namespace dhow::platform
