#include "waf.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json/parse.hpp>

#include "base/files.h"
#include "waf_policy.h"

namespace dhow::ingress {
namespace {

using testing::HasSubstr;
using testing::Not;

boost::json::object annotations(std::initializer_list<std::pair<std::string, std::string>> all) {
  boost::json::object out;
  for (const auto& [name, value] : all) out[name] = value;
  return out;
}
const std::string kNginx = "nginx.ingress.kubernetes.io/";

TEST(WafPolicy, IsWhatAnnotationsSay) {
  EXPECT_FALSE(wafPolicyOf({})->has_value());
  EXPECT_FALSE(wafPolicyOf(annotations({{"dhow.io/waf", "off"}}))->has_value());
  EXPECT_FALSE(wafPolicyOf(annotations({{kNginx + "enable-owasp-core-rules", "true"}}))->has_value());
  WafPolicy one = **wafPolicyOf(annotations({{"dhow.io/waf", "prevent"}}));
  EXPECT_TRUE(one.prevent && one.coreRules && !one.failOpen);
  one = **wafPolicyOf(annotations({{"dhow.io/waf", "detect"}}));
  EXPECT_TRUE(!one.prevent && one.coreRules && one.failOpen);
  one = **wafPolicyOf(
      annotations({{"dhow.io/waf", "prevent"}, {"dhow.io/waf-failure", "open"}, {"dhow.io/waf-paranoia", "2"}}));
  EXPECT_TRUE(one.prevent && one.failOpen);
  EXPECT_THAT(wafRules(one), HasSubstr("tx.paranoia_level=2"));
  // As ingress-nginx: it detects until a snippet says otherwise.
  one = **wafPolicyOf(annotations({{kNginx + "enable-modsecurity", "true"}}));
  EXPECT_TRUE(!one.prevent && !one.coreRules);
  EXPECT_THAT(wafRules(one), Not(HasSubstr("Include")));
  one = **wafPolicyOf(annotations({{kNginx + "enable-modsecurity", "true"},
                                   {kNginx + "enable-owasp-core-rules", "true"},
                                   {kNginx + "modsecurity-snippet",
                                    "# ours\nSecRuleEngine On\n  SecRuleRemoveById 942100 941000-941999\n"
                                    "SecRuleUpdateTargetById 942100 \"!ARGS:q\"\nSecAuditEngine RelevantOnly\n"}}));
  EXPECT_TRUE(one.prevent && one.coreRules && !one.failOpen);
  EXPECT_THAT(one.exclusions, testing::ElementsAre("SecRuleRemoveById 942100 941000-941999",
                                                   "SecRuleUpdateTargetById 942100 \"!ARGS:q\""));
  EXPECT_FALSE(wafPolicyOf(annotations({{kNginx + "enable-modsecurity", "true"},
                                        {kNginx + "modsecurity-snippet", "SecRuleEngine Off"}}))
                   ->has_value());
}

TEST(WafPolicy, WhatCannotBeUnderstoodIsNotServed) {
  for (const auto& wrong : {annotations({{"dhow.io/waf", "on"}}),
                            annotations({{"dhow.io/waf", "prevent"}, {"dhow.io/waf-failure", "maybe"}}),
                            annotations({{"dhow.io/waf", "prevent"}, {"dhow.io/waf-paranoia", "5"}}),
                            annotations({{kNginx + "enable-modsecurity", "yes"}})})
    EXPECT_FALSE(wafPolicyOf(wrong).ok());
  for (const char* directive :
       {"SecRule ARGS \"x\" \"id:1,deny\"", "Include /etc/shadow", "SecRuleRemoveById 1\\", "SecRuleEngine Maybe",
        "SecRuleUpdateTargetById 1 \"!ARGS:q\" \"exec:/bin/sh\" ;", "SecDataDir /tmp", "SecRuleScript /tmp/x.lua"})
    EXPECT_FALSE(
        wafPolicyOf(annotations({{"dhow.io/waf", "detect"}, {kNginx + "modsecurity-snippet", directive}})).ok())
        << directive;
}

class CoreRules : public testing::Test {
 protected:
  void SetUp() override {
    if (!pathExists("/etc/modsecurity/crs/crs-setup.conf")) GTEST_SKIP() << "modsecurity-crs is not installed";
    auto loaded = Waf::load();
    if (!loaded.ok()) GTEST_SKIP() << loaded.error().message();
    waf_ = std::move(*loaded);
  }
  WafVerdict judge(std::string_view uri, std::string_view body = "", std::string_view type = "") {
    WafRequest request;
    request.client = "192.0.2.1";
    request.port = 1;
    request.method = body.empty() ? "GET" : "POST";
    request.uri = uri;
    request.version = "1.1";
    request.headers = {{"host", "shop.test"}, {"user-agent", "curl/8"}, {"accept", "*/*"}};
    const std::string length = std::to_string(body.size());
    if (!body.empty())
      request.headers.insert(request.headers.end(), {{"content-type", type}, {"content-length", length}});
    request.body = body;
    auto verdict = waf_->inspect(wafRules(policy_), request);
    EXPECT_TRUE(verdict.ok()) << verdict.error().message();
    return verdict.ok() ? *verdict : WafVerdict();
  }
  bool matched(const WafVerdict& verdict, std::string_view rule) {
    return std::any_of(verdict.matches.begin(), verdict.matches.end(),
                       [&](const WafVerdict::Match& match) { return match.rule == rule; });
  }
  WafPolicy policy_;
  std::unique_ptr<Waf> waf_;
};

TEST_F(CoreRules, AttacksAreFoundAndRequestsAreNot) {
  constexpr std::string_view form = "application/x-www-form-urlencoded", json = "application/json";
  for (const auto& verdict :
       {judge("/"), judge("/shop?item=12&q=blue%20shoes"), judge("/", "name=Ann&city=Berlin", form),
        judge("/", R"({"name":"Ann","items":[1,2]})", json)}) {
    EXPECT_FALSE(verdict.blocked);
    EXPECT_TRUE(verdict.matches.empty()) << verdict.matches[0].rule;
  }
  const auto query = judge("/?id=1%27%20OR%20%271%27=%271");
  EXPECT_TRUE(query.blocked && matched(query, "942100"));
  EXPECT_THAT(query.matches[0].message, HasSubstr("SQL Injection"));
  EXPECT_TRUE(judge("/", "id=1' UNION SELECT password FROM users--", form).blocked);
  EXPECT_TRUE(judge("/", R"({"id":"1' OR '1'='1"})", json).blocked);
  EXPECT_TRUE(judge("/?q=%3Cscript%3Ealert(1)%3C/script%3E").blocked);
  EXPECT_TRUE(judge("/?file=../../../../etc/passwd").blocked);
  policy_.exclusions = {"SecRuleRemoveById 942000-942999"};
  EXPECT_FALSE(judge("/?id=1%27%20OR%20%271%27=%271").blocked);
  policy_ = {.readsBody = false};
  EXPECT_FALSE(judge("/", "id=1' UNION SELECT password FROM users--", form).blocked);
}

TEST_F(CoreRules, RulesThatCannotBeReadAreTold) {
  auto judged = waf_->inspect("SecRule nonsense", {"192.0.2.1", 1, "GET", "/", "1.1", {}, ""});
  ASSERT_FALSE(judged.ok());
  EXPECT_THAT(judged.error().message(), HasSubstr("ModSecurity refuses the rules"));
}

}  // namespace
}  // namespace dhow::ingress
