#include "host/config.h"

#include <gtest/gtest.h>

#include "base/files.h"

namespace dhow::host {
namespace {

JoinRequest goodJoin() {
  JoinRequest request;
  request.server = "https://host-a:6443";
  request.token = "abcdef.0123456789abcdef";
  request.caHashes = {"sha256:" + std::string(64, 'a')};
  request.zone = "east-2";
  return request;
}

TEST(ServerRequest, RangesMustBeRangesAndApart) {
  ServerRequest request;
  EXPECT_TRUE(validate(request).ok());
  auto said = [](const ServerRequest& wrong) {
    auto done = validate(wrong);
    return done.ok() ? std::string() : done.error().message();
  };
  auto overlapping = request;
  overlapping.serviceRange = "10.244.128.0/20";
  EXPECT_EQ(said(overlapping), "--pod-range 10.244.0.0/16 and --service-range 10.244.128.0/20 overlap");
  for (const auto* range :
       {"10.244.0.0", "10.244.0.1/16", "10.0.0.0/4", "10.244.0.0/28", "fd00::/64", "fd00::/56", "x/16", ""}) {
    auto wrong = request;
    wrong.podRange = range;
    EXPECT_NE(said(wrong).find("--pod-range"), std::string::npos) << range;
  }
  auto balanced = request;
  balanced.loadBalancerRange = "10.96.1.0/24";
  EXPECT_NE(said(balanced).find("--load-balancer-range"), std::string::npos);
  balanced.loadBalancerRange = "192.168.7.200/29";
  EXPECT_TRUE(validate(balanced).ok());
}

TEST(ServerRequest, RangesMayBeOfTwoFamilies) {
  ServerRequest request;
  request.podRange = "10.244.0.0/16,fd00:10:244::/56";
  request.serviceRange = "10.96.0.0/16, fd00:10:96::/108";
  request.loadBalancerRange = "192.0.2.0/28,2001:db8::/112";
  ASSERT_TRUE(validate(request).ok()) << validate(request).error().message();
  HostConfig config;
  takeRanges(request, config);
  EXPECT_EQ(config.podRange, "10.244.0.0/16");
  EXPECT_EQ(config.podRange6, "fd00:10:244::/56");
  EXPECT_EQ(config.serviceRange6, "fd00:10:96::/108");
  for (const auto* pods :
       {"10.244.0.0/16", "fd00:10:244::/56", "fd00:10:244::/56,10.244.0.0/16", "10.244.0.0/16,fd00::/64",
        "10.244.0.0/16,10.245.0.0/16", "10.244.0.0/16,fd00:10:244::/56,fd01::/56", "10.244.0.0/16,",
        "10.244.0.0/16,fd00:10:244::1/56", "10.244.0.0/16,fd00:10::/32,fd01::/56"}) {
    auto wrong = request;
    wrong.podRange = pods;
    auto done = validate(wrong);
    ASSERT_FALSE(done.ok()) << pods;
    EXPECT_NE(done.error().message().find("--pod-range"), std::string::npos) << done.error().message();
  }
  auto wide = request;
  wide.serviceRange = "10.96.0.0/16,fd00:10:96::/64";
  EXPECT_FALSE(validate(wide).ok());
}

TEST(ServerRequest, TheFirstFamilyMayBeIpv6) {
  ServerRequest request;
  request.podRange = "fd00:10:244::/56";
  request.serviceRange = "fd00:10:96::/108";
  request.loadBalancerRange = "2001:db8::/112";
  request.advertise = "2001:db8:1::1";
  ASSERT_TRUE(validate(request).ok()) << validate(request).error().message();
  HostConfig config;
  takeRanges(request, config);
  EXPECT_TRUE(config.ipv6First);
  EXPECT_EQ(config.podRange, "");
  EXPECT_EQ(config.podRange6, "fd00:10:244::/56");
  EXPECT_EQ(config.firstServiceRange(), "fd00:10:96::/108");
  config.address = "2001:db8:1::1";
  EXPECT_EQ(config.apiUrl(), "https://[2001:db8:1::1]:6443");
  auto said = [](const ServerRequest& wrong) {
    auto done = validate(wrong);
    return done.ok() ? std::string() : done.error().message();
  };
  auto wrong = request;
  wrong.serviceRange = "10.96.0.0/16";
  EXPECT_EQ(said(wrong),
            "--pod-range fd00:10:244::/56 is of IPv6 and --service-range 10.96.0.0/16 of IPv4: give both ranges of the "
            "same families, in the same order");
  wrong = request;
  wrong.loadBalancerRange = "192.0.2.0/28";
  EXPECT_EQ(said(wrong), "--load-balancer-range 192.0.2.0/28: the cluster has addresses of IPv6 alone");
  wrong = request;
  wrong.advertise = "192.0.2.1";
  EXPECT_EQ(said(wrong), "--advertise 192.0.2.1: give an IPv6 address, which is the first family of --pod-range");
  wrong = request;
  wrong.podRange = "fd00:10:244::/56,fd01::/56";
  EXPECT_EQ(
      said(wrong),
      "--pod-range fd00:10:244::/56,fd01::/56: give one range, or one of IPv4 and one of IPv6, with a comma between");
  wrong = request;
  wrong.podRange = "fd00:10:244::/64";
  EXPECT_EQ(
      said(wrong),
      "--pod-range fd00:10:244::/64: give an IPv6 range, from /32 to /60, as fd00:10:244::/56; for two families one "
      "of each, with a comma between");
  wrong.podRange = "fd00::/16";
  EXPECT_NE(said(wrong).find("from /32 to /60"), std::string::npos);

  request.podRange = "fd00:10:244::/56,10.244.0.0/16";
  EXPECT_NE(said(request), "") << "services have one family";
  request.serviceRange = "fd00:10:96::/108,10.96.0.0/16";
  ASSERT_EQ(said(request), "");
  takeRanges(request, config);
  EXPECT_TRUE(config.ipv6First);
  EXPECT_EQ(config.podRange, "10.244.0.0/16");
  request.advertise = "";
  request.podRange = "10.244.0.0/16,fd00:10:244::/56";
  EXPECT_NE(said(request).find("in the same order"), std::string::npos);
}

TEST(ServerRequest, NamesTheOptionThatIsWrong) {
  auto wrong = [](auto change, std::string_view option) {
    ServerRequest request;
    change(request);
    auto done = validate(request);
    EXPECT_FALSE(done.ok()) << option;
    if (!done.ok()) EXPECT_NE(done.error().message().find(option), std::string::npos) << done.error().message();
  };
  wrong([](ServerRequest& r) { r.cluster = "Not a name"; }, "--name");
  wrong([](ServerRequest& r) { r.zone = "-"; }, "--zone");
  wrong([](ServerRequest& r) { r.advertise = "127.0.0.1"; }, "--advertise");
  wrong([](ServerRequest& r) { r.store = "files"; }, "--store");
  wrong([](ServerRequest& r) { r.datastore = "10.0.0.1"; }, "--datastore");
  wrong([](ServerRequest& r) { r.sensitivity = "secret"; }, "--sensitivity");
  wrong([](ServerRequest& r) { r.dataDir = "here"; }, "--data");
  wrong([](ServerRequest& r) { r.certificateSeconds = 5; }, "--certificate-seconds");
}

TEST(JoinRequest, NamesTheOptionThatIsWrong) {
  EXPECT_TRUE(validate(goodJoin()).ok());
  auto wrong = [](auto change, std::string_view said) {
    auto request = goodJoin();
    change(request);
    auto done = validate(request);
    EXPECT_FALSE(done.ok()) << said;
    if (!done.ok()) EXPECT_NE(done.error().message().find(said), std::string::npos) << done.error().message();
  };
  for (const auto* server : {"", "host-a", "http://host-a:6443", "https://", "https://host-a/x", "https://u@host-a"})
    wrong([&](JoinRequest& r) { r.server = server; }, "https://<host>:6443");
  wrong([](JoinRequest& r) { r.token = "abc"; }, "--token");
  wrong([](JoinRequest& r) { r.caHashes.clear(); }, "--ca-hash");
  wrong([](JoinRequest& r) { r.caHashes = {"sha256:abc"}; }, "--ca-hash");
  wrong([](JoinRequest& r) { r.caHashes = {std::string(64, 'a')}; }, "--ca-hash");
  wrong([](JoinRequest& r) { r.address = "0.0.0.0"; }, "--address");
  wrong([](JoinRequest& r) { r.hostName = "UPPER"; }, "--node-name");
}

TEST(Taints, AreReadAsKubectlWritesThem) {
  auto taint = parseTaint("dedicated=infra:NoSchedule");
  ASSERT_TRUE(taint.ok());
  EXPECT_EQ(taint->key, "dedicated");
  EXPECT_EQ(taint->value, "infra");
  EXPECT_EQ(taint->effect, "NoSchedule");
  EXPECT_EQ(parseTaint("dedicated:NoExecute")->value, "");
  for (const auto* wrong : {"", "dedicated", "dedicated=infra", ":NoSchedule", "a:Nothing"})
    EXPECT_FALSE(parseTaint(wrong).ok());
  EXPECT_EQ(parseLabel("a/b=c=d")->second, "c=d");
  EXPECT_FALSE(parseLabel("a").ok());
}

TEST(HostConfig, IsReadAsItWasWritten) {
  auto dir = makeTempDir("/tmp", "dhow-host-");
  ASSERT_TRUE(dir.ok());
  EXPECT_EQ(loadHost(*dir).error().code(), Code::kNotFound);
  HostConfig config;
  config.dataDir = *dir;
  config.name = "host-a";
  config.cluster = "c";
  config.region = "east";
  config.zone = "east-1";
  config.address = "10.0.0.1";
  config.podRange = "10.244.0.0/16";
  config.serviceRange = "10.96.0.0/16";
  config.master = config.node = true;
  config.settings = {{"net/ipv4/ip_forward", "0"}};
  ASSERT_TRUE(makeDirs(config.paths().root).ok());
  ASSERT_TRUE(saveHost(config).ok());
  auto read = loadHost(*dir);
  ASSERT_TRUE(read.ok()) << read.error().message();
  EXPECT_EQ(read->apiUrl(), "https://10.0.0.1:6443");
  EXPECT_TRUE(read->master && read->node && !read->member);
  EXPECT_EQ(read->settings, config.settings);
  ASSERT_TRUE(writeFile(config.paths().config(), R"({"name":"host-a"})").ok());
  EXPECT_EQ(loadHost(*dir).error().code(), Code::kDataLoss);
  EXPECT_TRUE(removeTree(*dir).ok());
}

}  // namespace
}  // namespace dhow::host
