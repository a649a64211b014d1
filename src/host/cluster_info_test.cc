#include "host/cluster_info.h"

#include <gtest/gtest.h>

#include "base/pki.h"
#include "base/strings.h"
#include "client/fake_client.h"
#include "client/fields.h"
#include "host/tokens.h"

namespace dhow::host {
namespace {

namespace kinds = object::resources;
using client::text;

ClusterInfo sample(std::string authorityPem) {
  ClusterInfo info;
  info.cluster = "c";
  info.region = "east";
  info.podRange = "10.244.0.0/16";
  info.serviceRange = "10.96.0.0/16";
  info.domain = "cluster.local";
  info.server = "https://10.0.0.1:6443";
  info.authorityPem = std::move(authorityPem);
  return info;
}

std::string authority(const std::string& name) {
  return createAuthority(name, std::chrono::system_clock::now(), std::chrono::hours(1))->certificatePem;
}

TEST(ClusterInfo, IsReadAsItWasPublished) {
  SimLoop loop;
  client::FakeClient api(loop);
  const auto pem = authority("a");
  ASSERT_TRUE(runOn(loop, publish(api, sample(pem))).ok());
  auto claimed = authorityIn(*api.find(kinds::kConfigMaps, "kube-public", kClusterInfo));
  ASSERT_TRUE(claimed.ok());
  EXPECT_EQ(*claimed, pem);
  auto read = clusterOf(*api.find(kinds::kConfigMaps, "kube-system", kDhowConfig));
  ASSERT_TRUE(read.ok());
  EXPECT_EQ(read->serviceRange, "10.96.0.0/16");
  EXPECT_FALSE(read->memberOnEach);
  // Again, with nothing new: nothing is written.
  api.clearActions();
  ASSERT_TRUE(runOn(loop, publish(api, sample(pem))).ok());
  EXPECT_TRUE(api.actions().empty()) << api.actions()[0].str();
  // Somebody has changed a rule.
  api.change(kinds::kRoles, "kube-public", "kubeadm:bootstrap-signer-clusterinfo",
             [](boost::json::object& role) { role["rules"] = boost::json::array(); });
  ASSERT_TRUE(runOn(loop, publish(api, sample(pem))).ok());
  EXPECT_EQ(api.actions().size(), 1u);
}

TEST(ClusterInfo, TellsTheFamiliesInTheirOrder) {
  for (const auto& [v4, v6, first] : {std::tuple("10.244.0.0/16", "fd00:10:244::/56", false),
                                      {"10.244.0.0/16", "fd00:10:244::/56", true},
                                      {"", "fd00:10:244::/56", true}}) {
    SimLoop loop;
    client::FakeClient api(loop);
    auto info = sample(authority("a"));
    info.podRange = info.serviceRange = v4;
    info.podRange6 = info.serviceRange6 = v6;
    info.ipv6First = first;
    ASSERT_TRUE(runOn(loop, publish(api, info)).ok());
    const auto config = api.find(kinds::kConfigMaps, "kube-system", kDhowConfig);
    auto read = clusterOf(*config);
    ASSERT_TRUE(read.ok()) << read.error().message();
    EXPECT_EQ(read->podRange, v4);
    EXPECT_EQ(read->serviceRange6, v6);
    EXPECT_EQ(read->ipv6First, first);
    EXPECT_EQ(text(config->root(), {"data", "podRange6"}), first ? "" : v6);
  }
}

TEST(ClusterInfo, OnlyAPinnedAuthorityIsTrusted) {
  const auto one = authority("a"), other = authority("b");
  auto trusted = pinnedAuthority(one + other, {pinOf(other).value()});
  ASSERT_TRUE(trusted.ok());
  EXPECT_EQ(*trusted, other);
  auto refused = pinnedAuthority(one, {pinOf(other).value()});
  ASSERT_FALSE(refused.ok());
  EXPECT_NE(refused.error().message().find(pinOf(one).value()), std::string::npos);
}

TEST(ClusterInfo, WhatAStrangerSendsIsChecked) {
  auto map = [](const std::string& kubeconfig) {
    return object::Object::make(
        {{"kind", "ConfigMap"}, {"metadata", {{"name", "x"}}}, {"data", {{"kubeconfig", kubeconfig}}}});
  };
  for (const auto* wrong :
       {"", "[]", "clusters: 5", "clusters: [5]", "clusters: [{cluster: {certificate-authority-data: '!'}}]",
        "clusters: [{cluster: {certificate-authority-data: eA==}}]", "a: &a [*a]"})
    EXPECT_FALSE(authorityIn(*map(wrong)).ok()) << wrong;
  auto config = object::Object::make({{"kind", "ConfigMap"},
                                      {"metadata", {{"name", "x"}}},
                                      {"data",
                                       {{"cluster", "c"},
                                        {"region", "r"},
                                        {"podRange", "everything"},
                                        {"serviceRange", "10.96.0.0/16"},
                                        {"domain", "cluster.local"}}}});
  EXPECT_FALSE(clusterOf(*config).ok());
}

TEST(Tokens, AreMadeListedAndDeleted) {
  SimLoop loop;
  client::FakeClient api(loop);
  auto made = runOn(loop, createToken(loop, api, {.description = "for b"}));
  ASSERT_TRUE(made.ok());
  auto secret = api.find(kinds::kSecrets, "kube-system", made->record.token.secretName());
  ASSERT_TRUE(secret);
  EXPECT_EQ(text(secret->root(), {"stringData", "usage-bootstrap-authentication"}), "true");
  EXPECT_EQ(runOn(loop, deleteToken(api, "zzzzzz")).error().code(), Code::kNotFound);
  EXPECT_EQ(runOn(loop, deleteToken(api, "not a token")).error().code(), Code::kInvalid);
  EXPECT_TRUE(runOn(loop, deleteToken(api, made->record.token.str())).ok());
  EXPECT_TRUE(api.all(kinds::kSecrets, "kube-system").empty());
  const auto pem = authority("a");
  EXPECT_EQ(joinCommand("https://10.0.0.1:6443", made->record.token, pem),
            fmt::format("dhow join https://10.0.0.1:6443 --token {} --ca-hash {}", made->record.token.str(),
                        pinOf(pem).value()));
}

}  // namespace
}  // namespace dhow::host
