#include "platform/config.h"

#include <gtest/gtest.h>

#include "base/files.h"

namespace dhow::platform {
namespace {

TEST(Config, NodesGoRoundTheZonesAndAddressesDiffer) {
  ClusterRequest request;
  request.nodes = 7;
  auto plans = configFor(request, 0).nodePlans();
  ASSERT_EQ(plans.size(), 7u);
  EXPECT_EQ(plans[0].zone, "local-east-1");
  EXPECT_EQ(plans[2].zone, "local-east-3");
  EXPECT_EQ(plans[3].zone, "local-east-1");
  std::set<std::string> addresses;
  for (const auto& plan : plans) addresses.insert(plan.address);
  EXPECT_EQ(addresses.size(), 7u);
}

TEST(Config, MastersStandInDifferentZonesOverOneStore) {
  ClusterRequest request;
  request.masters = 3;
  auto config = configFor(request, 0);
  auto plans = config.masterPlans();
  ASSERT_EQ(plans.size(), 3u);
  EXPECT_EQ(plans[0].name, "dhow-master-1");
  EXPECT_EQ(plans[1].zone, "local-east-2");
  EXPECT_EQ(plans[2].address, "10.89.3.5");
  EXPECT_EQ(config.storeEndpoints(),
            (std::vector<std::string>{"https://10.89.1.3:2379", "https://10.89.2.4:2379", "https://10.89.3.5:2379"}));
  EXPECT_TRUE(configFor({}, 0).storeEndpoints().empty());
  request.datastore = "etcd=https://a:2379";
  EXPECT_EQ(configFor(request, 0).storeEndpoints(), std::vector<std::string>{"https://a:2379"});
}

TEST(Config, ClustersOfDifferentIndexShareNoRangeOrPort) {
  std::set<std::string> seen;
  for (int i = 0; i < kMaxClusters; ++i) {
    ClusterRequest request;
    request.ipFamilies = "IPv4,IPv6";
    auto config = configFor(request, i);
    for (const auto& range :
         {config.podRange6, config.serviceRange6, config.allSegments6(), config.loadBalancerRange6(), config.podRange,
          config.serviceRange, config.allSegments(), std::to_string(config.apiPort)})
      EXPECT_TRUE(seen.insert(range).second) << range;
  }
}

TEST(Config, SavedConfigurationLoadsTheSame) {
  auto dir = makeTempDir("/tmp", "dhow-config-");
  ASSERT_TRUE(dir.ok());
  ClusterRequest request;
  request.name = "other";
  request.dataDir = *dir;
  request.nodes = 5;
  request.sensitivity = kRestricted;
  request.movedToEtcd = true;
  request.storeGeneration = "g";
  request.snapshotEvery = "30m";
  auto config = configFor(request, 3);
  ASSERT_TRUE(makeDirs(config.paths().root).ok());
  ASSERT_TRUE(saveConfig(config).ok());
  auto loaded = loadConfig(config.paths());
  ASSERT_TRUE(loaded.ok()) << loaded.error().message();
  EXPECT_EQ(loaded->request.nodes, 5);
  EXPECT_TRUE(loaded->request.restricted());
  auto found = clustersIn(*dir);
  ASSERT_TRUE(found.ok());
  ASSERT_EQ(found->size(), 1u);
  EXPECT_EQ(found->front().root, config.paths().root);
  EXPECT_TRUE(loaded->request.ownMembers());
  EXPECT_EQ(loaded->request.storeGeneration, "g");
  EXPECT_EQ(loaded->request.snapshotEvery, "30m");
  EXPECT_EQ(loaded->podRange, config.podRange);
  EXPECT_FALSE(loaded->ipv6());
  EXPECT_EQ(loaded->request.ipFamilies, "IPv4");
  EXPECT_EQ(loaded->nodePlans()[0].address6, "");
  request.ipFamilies = "IPv4,IPv6";
  ASSERT_TRUE(removeTree(config.paths().config()).ok());
  ASSERT_TRUE(saveConfig(configFor(request, 3)).ok());
  loaded = loadConfig(config.paths());
  ASSERT_TRUE(loaded.ok());
  EXPECT_TRUE(loaded->ipv6() && !loaded->ipv6First);
  EXPECT_EQ(loaded->request.ipFamilies, "IPv4,IPv6");
  EXPECT_EQ(loaded->dnsAddress(), "10.99.0.10");
  EXPECT_EQ(loaded->podRange6, "fd00:10:241::/56");
  EXPECT_EQ(loaded->serviceRange6, "fd00:10:99::/108");
  EXPECT_EQ(loaded->nodePlans()[0].address6, "fd00:10:89:19::10");
  EXPECT_EQ(loaded->zoneSubnet6(1), "fd00:10:89:19::/64");
  EXPECT_EQ(loaded->apiPort, config.apiPort);
  ASSERT_TRUE(writeFileDurably(config.paths().config(), "{\"name\":\"x\"}").ok());
  EXPECT_EQ(loadConfig(config.paths()).error().code(), Code::kDataLoss);
  ASSERT_TRUE(removeTree(*dir).ok());
}

TEST(Config, ClustersWhoseFirstFamilyIsIpv6HaveWhatComesFirstInIt) {
  auto dir = makeTempDir("/tmp", "dhow-config-");
  ASSERT_TRUE(dir.ok());
  ClusterRequest request;
  request.dataDir = *dir;
  for (const char* families : {"IPv6", "IPv6,IPv4"}) {
    request.ipFamilies = families;
    const auto config = configFor(request, 0);
    ASSERT_TRUE(makeDirs(config.paths().root).ok());
    ASSERT_TRUE(removeTree(config.paths().config()).ok());
    ASSERT_TRUE(saveConfig(config).ok());
    EXPECT_NE(readFile(config.paths().config()).value().find("\"form\":2"), std::string::npos)
        << "older programs stay away";
    auto loaded = loadConfig(config.paths());
    ASSERT_TRUE(loaded.ok()) << loaded.error().message();
    EXPECT_EQ(loaded->request.ipFamilies, families);
    EXPECT_TRUE(loaded->ipv6First);
    EXPECT_EQ(loaded->ipv4(), std::string(families) != "IPv6");
    EXPECT_EQ(loaded->kubernetesServiceAddress(), "fd00:10:96::1");
    EXPECT_EQ(loaded->dnsAddress(), "fd00:10:96::a");
    EXPECT_EQ(loaded->advertiseAddress(), "fd00:10:89::1");
    EXPECT_EQ(loaded->nodePlans()[0].address, "10.89.1.10") << "machines have IPv4 in any case";
    EXPECT_EQ(loaded->nodePlans()[0].address6, "fd00:10:89:1::10");
  }
  for (const char* wrong : {"IPv5", "ipv6", "IPv6,IPv6", "IPv4,IPv6,IPv4", "IPv6, IPv4", ","}) {
    request.ipFamilies = wrong;
    auto done = validateRequest(request);
    ASSERT_FALSE(done.ok()) << wrong;
    EXPECT_NE(done.error().message().find("--ip-families"), std::string::npos);
  }
  ASSERT_TRUE(removeTree(*dir).ok());
}

TEST(Config, ClustersAreInternalUnlessSaidOtherwise) {
  EXPECT_EQ(configFor({}, 0).request.sensitivity, kInternal);
  auto dir = makeTempDir("/tmp", "dhow-config-");
  ASSERT_TRUE(dir.ok());
  ClusterRequest request;
  request.dataDir = *dir;
  auto config = configFor(request, 0);
  ASSERT_TRUE(makeDirs(config.paths().root).ok());
  ASSERT_TRUE(saveConfig(config).ok());
  auto text = readFile(config.paths().config()).value();
  const std::string field = "\"sensitivity\":\"internal\",";
  ASSERT_NE(text.find(field), std::string::npos);
  text.erase(text.find(field), field.size());
  ASSERT_TRUE(writeFileDurably(config.paths().config(), text).ok());
  EXPECT_EQ(loadConfig(config.paths()).value().request.sensitivity, kInternal);
  ASSERT_TRUE(removeTree(*dir).ok());
}

TEST(Config, WhatAnotherVersionHasWrittenStaysAndANewerFormIsRefused) {
  auto dir = makeTempDir("/tmp", "dhow-config-");
  ASSERT_TRUE(dir.ok());
  ClusterRequest request;
  request.dataDir = *dir;
  auto config = configFor(request, 0);
  config.program = "0.1.0-aaaaaaaaaaaa";
  config.storeForm = 2;
  ASSERT_TRUE(makeDirs(config.paths().root).ok());
  ASSERT_TRUE(saveConfig(config).ok());
  auto text = readFile(config.paths().config()).value();
  text.insert(1, R"("ofANewerVersion":{"a":[1]},)");
  ASSERT_TRUE(writeFileDurably(config.paths().config(), text).ok());
  auto loaded = loadConfig(config.paths());
  ASSERT_TRUE(loaded.ok());
  EXPECT_EQ(loaded->program, config.program);
  EXPECT_EQ(loaded->storeForm, 2);
  loaded->program = "0.2.0-bbbbbbbbbbbb";
  ASSERT_TRUE(saveConfig(*loaded).ok());
  text = readFile(config.paths().config()).value();
  EXPECT_NE(text.find(R"("ofANewerVersion":{"a":[1]})"), std::string::npos);
  EXPECT_EQ(loadConfig(config.paths())->program, "0.2.0-bbbbbbbbbbbb");

  const std::string form = "\"form\":1";
  ASSERT_NE(text.find(form), std::string::npos);
  text.replace(text.find(form), form.size(), "\"form\":3");
  ASSERT_TRUE(writeFileDurably(config.paths().config(), text).ok());
  auto refused = loadConfig(config.paths());
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code(), Code::kFailedPrecondition);
  EXPECT_NE(refused.error().message().find("0.2.0"), std::string::npos);
  ASSERT_TRUE(removeTree(*dir).ok());
}

TEST(Config, IntervalsAreSecondsToDays) {
  EXPECT_EQ(parseInterval("off")->count(), 0);
  EXPECT_EQ(parseInterval("90s")->count(), 90);
  EXPECT_EQ(parseInterval("2h")->count(), 7200);
  for (const char* wrong : {"", "h", "0h", "-1h", "1", "1w", "1.5h", "367d", "99999999999999999999h"})
    EXPECT_EQ(parseInterval(wrong).error().code(), Code::kInvalid) << wrong;
}

TEST(Config, ImpossibleRequestsAreRefusedByName) {
  auto refused = [](auto change) {
    ClusterRequest request;
    change(request);
    auto result = validateRequest(request);
    return result.ok() ? std::string() : result.error().message();
  };
  EXPECT_NE(refused([](auto& r) { r.name = "Upper"; }).find("--name"), std::string::npos);
  EXPECT_NE(refused([](auto& r) { r.nodes = 0; }).find("--nodes"), std::string::npos);
  EXPECT_NE(refused([](auto& r) { r.zones = 4; }).find("more zones than nodes"), std::string::npos);
  EXPECT_NE(refused([](auto& r) { r.masters = 2; }).find("odd"), std::string::npos);
  EXPECT_NE(refused([](auto& r) { r.masters = 9; }).find("--masters"), std::string::npos);
  EXPECT_NE(refused([](auto& r) { r.datastore = "mysql=x"; }).find("--datastore"), std::string::npos);
  EXPECT_NE(refused([](auto& r) { r.datastore = "etcd=10.0.0.1:2379"; }).find("--datastore"), std::string::npos);
  EXPECT_NE(refused([](auto& r) { r.sensitivity = "secret"; }).find("--sensitivity"), std::string::npos);
  EXPECT_EQ(refused([](auto& r) { r.masters = 3; }), "");
  EXPECT_EQ(refused([](auto& r) {
              r.masters = 2;
              r.datastore = "etcd=https://10.0.0.1:2379,https://10.0.0.2:2379";
            }),
            "");
  EXPECT_EQ(refused([](auto&) {}), "");
}

}  // namespace
}  // namespace dhow::platform
