// Services of clusters with one family and with two, as the registry keeps them.
#include "service_families.h"

#include <gtest/gtest.h>

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>

#include "apiserver/local_client.h"
#include "apiserver/registry.h"
#include "base/strings.h"
#include "client/fields.h"
#include "store/memory_store.h"

namespace dhow::apiserver {
namespace {

using client::text;
namespace resources = object::resources;

class ServiceFamiliesTest : public testing::Test {
 protected:
  using Texts = std::vector<std::string>;
  ServiceFamiliesTest() { open(true); }
  ~ServiceFamiliesTest() override { close(); }

  void open(bool dual) { open(dual ? Texts{"10.96.0.0/16", "fd00:10:96::/108"} : Texts{"10.96.0.0/16"}); }
  void open(std::vector<std::string> ranges) {
    caches_ = std::make_unique<WatchCache>(loop_, store_);
    for (const auto& kind : kinds_.all()) {
      if (kind.stored && !kind.plural.empty() && kind.storedAsKind.empty()) caches_->add(kind.resource());
    }
    StrategyOptions options;
    options.serviceRanges = std::move(ranges);
    registry_ = std::make_unique<Registry>(loop_, store_, *caches_, kinds_, options);
    client_ = std::make_unique<LocalClient>(*registry_, systemCaller("tester"));
    EXPECT_TRUE(runOn(loop_, caches_->start()).ok());
    auto made = runOn(loop_, client_->create(resources::kNamespaces, "",
                                             json::parse(R"({"metadata":{"name":"default"}})").as_object(), "", ""));
    EXPECT_TRUE(made.ok() || made.error().is(Code::kAlreadyExists));
  }
  void close() {
    runOn(loop_, caches_->stop());
    client_.reset();
    registry_.reset();
    caches_.reset();
  }
  Result<ObjectPtr> make(std::string name, std::string_view spec) {
    json::object body{{"metadata", json::object{{"name", name}}}, {"spec", json::parse(spec)}};
    return runOn(loop_, client_->create(resources::kServices, "default", std::move(body), "", ""));
  }
  Result<ObjectPtr> patch(std::string name, std::string_view spec) {
    return runOn(loop_, client_->patch(resources::kServices, "default", std::move(name), "", PatchType::kMerge,
                                       json::object{{"spec", json::parse(spec)}}));
  }
  std::string refused(const Result<ObjectPtr>& result) { return result.ok() ? "taken" : result.error().message(); }
  static std::vector<std::string> list(const ObjectPtr& service, std::string_view field) {
    return client::strings(client::array(service->root(), {"spec", field}));
  }
  static bool inRange6(const std::string& address) { return address.starts_with("fd00:10:96::"); }

  SimLoop loop_;
  store::MemoryStore store_{loop_};
  const object::Kinds& kinds_ = object::Kinds::builtin();
  std::unique_ptr<WatchCache> caches_;
  std::unique_ptr<Registry> registry_;
  std::unique_ptr<LocalClient> client_;
};

TEST_F(ServiceFamiliesTest, DefaultsFollowThePolicy) {
  auto single = make("single", R"({"ports":[{"port":80}]})").value();
  EXPECT_EQ(text(single->root(), {"spec", "ipFamilyPolicy"}), "SingleStack");
  EXPECT_EQ(list(single, "ipFamilies"), Texts{"IPv4"});
  EXPECT_EQ(list(single, "clusterIPs"), Texts{std::string(text(single->root(), {"spec", "clusterIP"}))});
  for (std::string policy : {"PreferDualStack", "RequireDualStack"}) {
    auto both = make(toLower(policy), fmt::format(R"({{"ipFamilyPolicy":"{}","ports":[{{"port":80}}]}})", policy));
    ASSERT_TRUE(both.ok()) << both.error().message();
    EXPECT_EQ(list(*both, "ipFamilies"), (Texts{"IPv4", "IPv6"}));
    auto addresses = list(*both, "clusterIPs");
    ASSERT_EQ(addresses.size(), 2u);
    EXPECT_EQ(text((*both)->root(), {"spec", "clusterIP"}), addresses[0]);
    EXPECT_TRUE(addresses[0].starts_with("10.96."));
    EXPECT_TRUE(inRange6(addresses[1])) << addresses[1];
  }
  auto six = make("six", R"({"ipFamilies":["IPv6"],"ports":[{"port":80}]})").value();
  EXPECT_TRUE(inRange6(std::string(text(six->root(), {"spec", "clusterIP"}))));
  EXPECT_EQ(text(six->root(), {"spec", "ipFamilyPolicy"}), "SingleStack");
  auto given = make("given", R"({"clusterIP":"fd00:10:96::77","ports":[{"port":80}]})").value();
  EXPECT_EQ(list(given, "ipFamilies"), Texts{"IPv6"});
  auto second = make("second", R"({"clusterIP":"fd00:10:96::78","ipFamilyPolicy":"RequireDualStack",
                                   "ports":[{"port":80}]})")
                    .value();
  EXPECT_EQ(list(second, "ipFamilies"), (Texts{"IPv6", "IPv4"}));
  EXPECT_EQ(list(second, "clusterIPs")[0], "fd00:10:96::78");
  auto headless = make("headless", R"({"clusterIP":"None","selector":{"a":"b"},"ipFamilyPolicy":"PreferDualStack"})");
  EXPECT_EQ(list(headless.value(), "ipFamilies"), (Texts{"IPv4", "IPv6"}));
  EXPECT_EQ(list(*headless, "clusterIPs"), Texts{"None"});
  auto own = make("own", R"({"clusterIP":"None"})").value();
  EXPECT_EQ(text(own->root(), {"spec", "ipFamilyPolicy"}), "RequireDualStack");
}

TEST_F(ServiceFamiliesTest, RefusalsSayWhatKubernetesSays) {
  const std::pair<const char*, const char*> cases[] = {
      {R"({"clusterIP":"10.96.0.9","clusterIPs":["10.96.0.8"],"ports":[{"port":80}]})",
       "spec.clusterIPs: Invalid value: [\"10.96.0.8\"]: first value must match `clusterIP`"},
      {R"({"clusterIPs":["10.96.0.8"],"ports":[{"port":80}]})",
       "spec.clusterIPs: Invalid value: [\"10.96.0.8\"]: must be empty when `clusterIP` is not specified"},
      {R"({"clusterIP":"10.96.0.8","clusterIPs":["10.96.0.8","10.96.0.9"],"ports":[{"port":80}]})",
       "may specify no more than one IP for each IP family"},
      {R"({"clusterIP":"None","clusterIPs":["None","10.96.0.9"],"ports":[{"port":80}]})",
       "'None' must be the first and only value"},
      {R"({"clusterIP":"fd00::zz","ports":[{"port":80}]})",
       "spec.clusterIPs[0]: Invalid value: \"fd00::zz\": must be "},
      {R"({"ipFamilies":["IPv5"],"ports":[{"port":80}]})",
       "spec.ipFamilies[0]: Unsupported value: \"IPv5\": supported values: \"IPv4\", \"IPv6\""},
      {R"({"ipFamilies":["IPv4","IPv4"],"ports":[{"port":80}]})", "spec.ipFamilies[1]: Duplicate value: \"IPv4\""},
      {R"({"ipFamilies":["IPv4","IPv6"],"ports":[{"port":80}]})",
       "spec.ipFamilyPolicy: Invalid value: \"SingleStack\": must be 'RequireDualStack' or 'PreferDualStack' when "
       "multiple IP families are specified"},
      {R"({"ipFamilies":["IPv6"],"clusterIP":"10.96.0.8","ports":[{"port":80}]})",
       "spec.clusterIPs[0]: Invalid value: \"10.96.0.8\": expected an IPv6 value as indicated by `ipFamilies[0]`"},
      {R"({"clusterIP":"fd00:10:97::1","ports":[{"port":80}]})",
       "failed to allocate IP fd00:10:97::1: the provided IP is not in the valid range. The range of valid IPs is "
       "fd00:10:96::/108"}};
  for (const auto& [spec, message] : cases) {
    const std::string said = refused(make("x", spec));
    EXPECT_NE(said.find(message), std::string::npos) << spec << "\n" << said;
  }
  ASSERT_TRUE(make("a", R"({"clusterIP":"fd00:10:96::a","ports":[{"port":80}]})").ok());
  EXPECT_NE(refused(make("b", R"({"clusterIP":"FD00:10:96:0::A","ports":[{"port":80}]})")).find("already allocated"),
            std::string::npos)
      << "another spelling of the same";
}

TEST_F(ServiceFamiliesTest, TheSecondaryFamilyComesAndGoes) {
  auto before = make("web", R"({"ports":[{"port":80}]})").value();
  const std::string first(text(before->root(), {"spec", "clusterIP"}));
  auto both = patch("web", R"({"ipFamilyPolicy":"PreferDualStack"})");
  ASSERT_TRUE(both.ok()) << both.error().message();
  auto addresses = list(*both, "clusterIPs");
  ASSERT_EQ(addresses.size(), 2u);
  EXPECT_EQ(addresses[0], first);
  EXPECT_EQ(list(*both, "ipFamilies"), (Texts{"IPv4", "IPv6"}));

  // A client that knows nothing of families replaces it.
  json::object plain = (*both)->root();
  for (auto field : {"clusterIPs", "ipFamilies", "ipFamilyPolicy", "clusterIP"}) plain["spec"].as_object().erase(field);
  auto replaced = runOn(loop_, client_->update(resources::kServices, "default", "web", "", plain));
  ASSERT_TRUE(replaced.ok()) << replaced.error().message();
  EXPECT_EQ(list(*replaced, "clusterIPs"), addresses);
  EXPECT_EQ(list(*replaced, "ipFamilies"), (Texts{"IPv4", "IPv6"}));

  EXPECT_NE(refused(patch("web", fmt::format(R"({{"clusterIPs":["{}"]}})", first)))
                .find("spec.ipFamilyPolicy: Invalid value: \"PreferDualStack\": must be 'SingleStack' to release the "
                      "secondary cluster IP"),
            std::string::npos);
  const std::string other =
      fmt::format(R"({{"clusterIP":"10.96.0.99","clusterIPs":["10.96.0.99","{}"]}})", addresses[1]);
  EXPECT_NE(refused(patch("web", other)).find("spec.clusterIPs[0]: Invalid value: [\"10.96.0.99\","), std::string::npos)
      << refused(patch("web", other));
  EXPECT_NE(refused(patch("web", R"({"ipFamilies":["IPv6","IPv4"]})")).find("expected an IPv6 value"),
            std::string::npos);
  auto alone = patch("web", R"({"ipFamilyPolicy":"SingleStack"})");
  ASSERT_TRUE(alone.ok()) << alone.error().message();
  EXPECT_EQ(list(*alone, "clusterIPs"), Texts{first});
  EXPECT_EQ(list(*alone, "ipFamilies"), Texts{"IPv4"});
  EXPECT_TRUE(make("next", fmt::format(R"({{"clusterIP":"{}","ports":[{{"port":80}}]}})", addresses[1])).ok())
      << "what was released is free";
}

TEST_F(ServiceFamiliesTest, TheFirstFamilyMayBeIpv6) {
  close();
  open(Texts{"fd00:10:96::/108", "10.96.0.0/16"});
  auto single = make("single", R"({"ports":[{"port":80}]})").value();
  EXPECT_EQ(list(single, "ipFamilies"), Texts{"IPv6"});
  EXPECT_TRUE(inRange6(list(single, "clusterIPs")[0]));
  auto both = make("both", R"({"ipFamilyPolicy":"PreferDualStack","ports":[{"port":80}]})").value();
  EXPECT_EQ(list(both, "ipFamilies"), (Texts{"IPv6", "IPv4"}));
  EXPECT_TRUE(list(both, "clusterIPs")[1].starts_with("10.96."));
  auto bare = make("bare", R"({"clusterIP":"None","ports":[{"port":80}]})").value();
  EXPECT_EQ(list(bare, "ipFamilies"), (Texts{"IPv6", "IPv4"}));
  close();
  open(Texts{"fd00:10:96::/108"});
  auto only = make("only", R"({"ipFamilyPolicy":"PreferDualStack","ports":[{"port":80}]})").value();
  EXPECT_EQ(list(only, "ipFamilies"), Texts{"IPv6"});
  EXPECT_NE(refused(make("x", R"({"ipFamilies":["IPv4"],"ports":[{"port":80}]})"))
                .find("spec.ipFamilies[0]: Invalid value: \"IPv4\": not configured on this cluster"),
            std::string::npos);
  EXPECT_NE(refused(make("x", R"({"clusterIP":"10.96.0.7","ports":[{"port":80}]})"))
                .find("IPv4 is not configured on this cluster"),
            std::string::npos);
}

TEST_F(ServiceFamiliesTest, ClustersOfOneFamilyGiveOne) {
  close();
  open(false);
  auto preferred = make("preferred", R"({"ipFamilyPolicy":"PreferDualStack","ports":[{"port":80}]})").value();
  EXPECT_EQ(list(preferred, "ipFamilies"), Texts{"IPv4"});
  EXPECT_EQ(list(preferred, "clusterIPs").size(), 1u);
  EXPECT_NE(refused(make("x", R"({"ipFamilyPolicy":"RequireDualStack","ports":[{"port":80}]})"))
                .find("this cluster is not configured for dual-stack services"),
            std::string::npos);
  EXPECT_NE(refused(make("x", R"({"ipFamilies":["IPv6"],"ports":[{"port":80}]})"))
                .find("spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured on this cluster"),
            std::string::npos);
  EXPECT_NE(refused(make("x", R"({"clusterIP":"fd00:10:96::1","ports":[{"port":80}]})"))
                .find("IPv6 is not configured on this cluster"),
            std::string::npos);
  // The cluster gets a second range; what prefers two families stays as it is until it is touched on purpose.
  close();
  open(true);
  auto touched = patch("preferred", R"({"sessionAffinity":"ClientIP"})");
  ASSERT_TRUE(touched.ok()) << touched.error().message();
  EXPECT_EQ(list(*touched, "clusterIPs").size(), 1u);
}

}  // namespace
}  // namespace dhow::apiserver
