#include "ingress/compile.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json/parse.hpp>

#include "ingress/annotations.h"
#include "render.h"
#include "text.h"

namespace dhow::ingress {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;

ObjectPtr parse(const std::string& text) {
  return object::Object::parse(text).value();
}

std::string path(std::string_view service, std::string_view path = "/", std::string_view type = "Prefix") {
  return fmt::format(
      R"({{"path":"{}","pathType":"{}","backend":{{"service":{{"name":"{}","port":{{"number":80}}}}}}}})", path, type,
      service);
}

ObjectPtr ingress(std::string_view name, std::string_view host, const std::string& paths,
                  std::string_view annotations = "", std::string_view made = "2026-01-01T00:00:00Z",
                  std::string_view more = "") {
  return parse(fmt::format(
      R"({{"metadata":{{"name":"{}","namespace":"a","uid":"{}","creationTimestamp":"{}","annotations":{{{}}}}},"spec":{{"rules":[{{"host":"{}","http":{{"paths":[{}]}}}}]{}}}}})",
      name, name, made, annotations, host, paths, more));
}

std::string endpointThat(std::string_view address, bool ready, bool serving, bool terminating) {
  return fmt::format(R"({{"addresses":["{}"],"conditions":{{"ready":{},"serving":{},"terminating":{}}}}})", address,
                     ready, serving, terminating);
}

std::string endpoint(std::string_view address, bool ready, bool terminating = false) {
  return endpointThat(address, ready, ready || terminating, terminating);
}

ObjectPtr slice(const std::string& endpoints, std::string_view family = "IPv4") {
  return parse(fmt::format(
      R"({{"metadata":{{"name":"s","namespace":"a"}},"addressType":"{}","ports":[{{"name":"","port":8080,"protocol":"TCP"}}],"endpoints":[{}]}})",
      family, endpoints));
}

class Compile : public testing::Test {
 protected:
  Compiled run() {
    documents_.service = [](std::string_view, std::string_view name) {
      return name == "missing"
                 ? nullptr
                 : parse(
                       R"({"metadata":{"name":"web","namespace":"a"},"spec":{"clusterIP":"10.96.0.9","ports":[{"port":80}]}})");
    };
    documents_.configMap = [](std::string_view, std::string_view name) {
      return name == "pages"
                 ? parse(
                       R"({"metadata":{"name":"pages","namespace":"a"},"data":{"404":"gone","418.txt":"tea","x":"y","503.json":"{}"}})")
                 : ObjectPtr();
    };
    documents_.secret = [](std::string_view, std::string_view) { return ObjectPtr(); };
    documents_.slices = [](std::string_view, std::string_view) {
      return std::vector<ObjectPtr>{slice(endpoint("10.0.0.1", true))};
    };
    return compile(documents_);
  }
  std::vector<std::string> messages(const Compiled& compiled) {
    std::vector<std::string> out;
    for (const Problem& problem : compiled.problems) out.push_back(problem.message);
    return out;
  }
  Documents documents_;
};

TEST_F(Compile, PagesOfAConfigMapStandInForErrors) {
  documents_.ingresses = {ingress("i", "shop.test", path("web", "/x"), R"("dhow.io/error-pages":"pages")")};
  const Compiled compiled = run();
  const Config& config = compiled.config;
  ASSERT_EQ(config.files.size(), 3u);
  const auto& [name, page] = *config.files.begin();
  EXPECT_THAT(
      page, testing::AllOf(testing::StartsWith("HTTP/1.1 404 Error\r\n"), HasSubstr("Content-Length: 4\r\n\r\ngone")));
  const std::string web = config.prefixes.at("i|shop.test/x/");
  EXPECT_THAT(config.backends.at(backendOf(web)).lines,
              testing::AllOf(Contains("errorfile 404 @" + name), Contains(HasSubstr("return status 418 content-type")),
                             Contains("http-response return status 404 errorfile @" + name + " if { status 404 }")));
  // What no path is for.
  EXPECT_THAT(config.prefixes.at("i|shop.test/"), testing::StartsWith("r_"));
  EXPECT_THAT(messages(compiled), ElementsAre(HasSubstr("the key \"x\" of the config map \"pages\" is no error page")));
  documents_.ingresses = {ingress("i", "shop.test", path("web"), R"("dhow.io/error-pages":"none")")};
  EXPECT_THAT(messages(run()), ElementsAre(HasSubstr("the config map \"none\" that error-pages names is not there")));
}

TEST_F(Compile, ADefaultBackendAnswersInsteadOfErrorsAndOfPodsThatAreNotThere) {
  const std::string codes = R"("nginx.ingress.kubernetes.io/custom-http-errors":"503, 404,x,200,404")",
                    instead = R"("nginx.ingress.kubernetes.io/default-backend":"errors")";
  documents_.ingresses = {ingress("i", "shop.test", path("web"), codes + "," + instead)};
  const Compiled compiled = run();
  const Config& config = compiled.config;
  const std::string web = backendOf(config.prefixes.at("i|shop.test/"));
  EXPECT_THAT(web, testing::StartsWith("b_a_web_80_"));
  EXPECT_TRUE(config.backends.at(web).replaceable);
  EXPECT_THAT(
      config.backends.at(web).lines,
      testing::AllOf(Contains("filter spoe engine errors config @spoe_errors.conf"),
                     Contains("http-request set-var(txn.errors) str('10.96.0.9:80 a i web 80')"),
                     Contains("http-response set-var(txn.error_code) status if { status 404 503 }"),
                     Contains(HasSubstr("return status 200 content-type text/html lf-string")),
                     Contains(testing::EndsWith("if { status 404 } { var(txn.filter.error_status) -m found }"))));
  EXPECT_TRUE(config.files.contains("spoe_errors.conf"));
  EXPECT_THAT(messages(compiled), ElementsAre(HasSubstr("\"x\" is no status"), HasSubstr("\"200\" is no status")));
  // No pod is there: a request goes on as a whole.
  const Compiled missing = [&] {
    documents_.ingresses = {ingress("i", "shop.test", path("missing"), codes + "," + instead)};
    return run();
  }();
  const std::string other = backendOf(missing.config.prefixes.at("i|shop.test/"));
  EXPECT_THAT(other, testing::StartsWith("b_a_errors_80_"));
  EXPECT_THAT(missing.config.backends.at(other).lines,
              testing::AllOf(Contains("http-request set-header X-Code 503"),
                             Contains("http-request set-header X-Service-Name 'missing'"),
                             testing::Not(Contains(HasSubstr("spoe")))));
  EXPECT_EQ(missing.config.backends.at(other).servers.size(), 1u);
  documents_.ingresses = {ingress("i", "shop.test", path("web"), codes)};
  EXPECT_THAT(messages(run()), Contains(HasSubstr("default-backend, which is asked instead, is missing")));
  documents_.ingresses = {
      ingress("i", "shop.test", path("web"), R"("nginx.ingress.kubernetes.io/default-backend":"missing")")};
  EXPECT_THAT(messages(run()), ElementsAre(HasSubstr("\"missing\" that default-backend names has no address")));
}

TEST_F(Compile, CopiesGoToServicesOfTheNamespace) {
  const std::string mirror = "nginx.ingress.kubernetes.io/mirror-target";
  auto lines = [&](std::string_view target) {
    documents_.ingresses = {ingress("i", "shop.test", path("web"), fmt::format(R"("{}":"{}")", mirror, target))};
    const Compiled compiled = run();
    const std::string web = compiled.config.prefixes.at("i|shop.test/");
    return join(compiled.config.backends.at(backendOf(web)).lines, "\n") + "|" + join(messages(compiled), "\n");
  };
  for (std::string_view good : {"http://copy.a.svc.cluster.local:80/in$request_uri", "http://copy/in$request_uri"})
    EXPECT_THAT(lines(good),
                testing::AllOf(HasSubstr("set-var(txn.mirror) str('10.96.0.9:80/in*')"), testing::EndsWith("|")));
  for (std::string_view bad : {"https://copy$request_uri", "http://copy.other$request_uri", "http://copy:x/",
                               "http://a'b/", "http://copy/%[env(HOME)]$request_uri"})
    EXPECT_THAT(lines(bad),
                testing::AllOf(testing::Not(HasSubstr("txn.mirror")), HasSubstr("mirror-target is not used")))
        << bad;
  EXPECT_THAT(lines("http://copy:81$request_uri"), HasSubstr("has no address with port 81"));
}

TEST_F(Compile, BackendsAreVerifiedOrNotTalkedTo) {
  documents_.ingresses = {ingress("i", "shop.test", path("web"),
                                  R"("nginx.ingress.kubernetes.io/backend-protocol":"HTTPS",
                                     "nginx.ingress.kubernetes.io/proxy-ssl-verify":"on")")};
  const Compiled compiled = run();
  EXPECT_THAT(compiled.config.backends.begin()->second.lines, Contains("http-request deny deny_status 503"));
  EXPECT_THAT(messages(compiled), Contains(HasSubstr("nothing is served but 503")));
}

TEST_F(Compile, NothingIsServedWithoutIngresses) {
  EXPECT_TRUE(run().config.empty());
}

TEST_F(Compile, PathsOfAHostBecomeMaps) {
  documents_.ingresses = {ingress("i", "shop.test",
                                  path("web") + "," + path("web", "/foo/") + "," + path("web", "/bar", "Exact") + "," +
                                      path("web", "/raw", "ImplementationSpecific"))};
  const Config config = run().config;
  ASSERT_EQ(config.backends.size(), 1u);
  const std::string backend = config.backends.begin()->first + "@Ingress/a/i";
  EXPECT_EQ(config.sites, (std::map<std::string, std::string>{{"i|shop.test", "i|shop.test"}}));
  EXPECT_EQ(config.exact, (std::map<std::string, std::string>{{"i|shop.test/bar", backend}}));
  EXPECT_EQ(config.prefixes,
            (std::map<std::string, std::string>{
                {"i|shop.test/", backend}, {"i|shop.test/foo/", backend}, {"i|shop.test/raw", backend}}));
  EXPECT_EQ(config.backends.begin()->second.servers,
            (std::vector<Server>{{"10.0.0.1", 8080, Server::State::kReady, ""}}));
}

TEST_F(Compile, TheOlderIngressKeepsItsPath) {
  documents_.ingresses = {ingress("young", "shop.test", path("web"), R"("nginx.ingress.kubernetes.io/app-root":"/x")",
                                  "2026-02-01T00:00:00Z"),
                          ingress("old", "shop.test", path("web"))};
  const Compiled compiled = run();
  EXPECT_THAT(messages(compiled), ElementsAre(HasSubstr("served by the older Ingress \"a/old\"")));
  EXPECT_EQ(compiled.problems[0].about->name(), "young");
}

TEST_F(Compile, WhatIsWrongInOneStopsNoOther) {
  documents_.ingresses = {
      ingress("bad", "bad.test",
              path("missing") + "," + path("web", "/a[(", "ImplementationSpecific") + "," + path("web", "/x y"),
              R"("nginx.ingress.kubernetes.io/use-regex":"true","nginx.ingress.kubernetes.io/limit-rps":"many")"),
      ingress("good", "good.test", path("web"))};
  const Compiled compiled = run();
  EXPECT_TRUE(compiled.config.prefixes.contains("i|good.test/"));
  EXPECT_THAT(messages(compiled),
              testing::UnorderedElementsAre(HasSubstr("\"many\" is no number"), HasSubstr("\"missing\" is not there"),
                                            HasSubstr("no regular expression"), HasSubstr("has a blank")));
}

TEST_F(Compile, WhatProtectsIsNeverLeftOut) {
  for (std::string_view annotations :
       {R"("nginx.ingress.kubernetes.io/auth-type":"basic","nginx.ingress.kubernetes.io/auth-secret":"users")",
        R"("nginx.ingress.kubernetes.io/auth-type":"digest","nginx.ingress.kubernetes.io/auth-secret":"users")",
        R"("nginx.ingress.kubernetes.io/auth-type":"basic","nginx.ingress.kubernetes.io/auth-secret":"other/users")",
        R"("nginx.ingress.kubernetes.io/whitelist-source-range":"10.0.0.0/33")",
        R"("nginx.ingress.kubernetes.io/denylist-source-range":"everybody")",
        R"("nginx.ingress.kubernetes.io/auth-tls-secret":"a/ca")"}) {
    documents_.ingresses = {ingress("i", "shop.test", path("web"), annotations)};
    const Compiled compiled = run();
    EXPECT_THAT(compiled.config.backends.begin()->second.lines, Contains("http-request deny deny_status 503"))
        << annotations;
    EXPECT_THAT(messages(compiled), Contains(HasSubstr("nothing is served but 503"))) << annotations;
  }
}

TEST_F(Compile, CanariesShareARoute) {
  const std::string canary =
      R"("nginx.ingress.kubernetes.io/canary":"true","nginx.ingress.kubernetes.io/canary-weight":"30")";
  documents_.ingresses = {ingress("canary", "shop.test", path("other"), canary),
                          ingress("main", "shop.test", path("web"), "", "2026-03-01T00:00:00Z"),
                          ingress("alone", "alone.test", path("web"), canary)};
  const Compiled compiled = run();
  const std::string route = compiled.config.prefixes.at("i|shop.test/");
  ASSERT_TRUE(route.starts_with("split:")) << route;
  int shares = 0;
  for (const auto& [key, to] : compiled.config.splits) shares += to.starts_with("b_a_other_80") ? 1 : 0;
  EXPECT_EQ(compiled.config.splits.size(), 100u);
  EXPECT_EQ(shares, 30);
  EXPECT_THAT(messages(compiled), ElementsAre(HasSubstr("no other Ingress serves host \"alone.test\"")));
}

TEST_F(Compile, TheDefaultBackendTakesTheRest) {
  documents_.ingresses = {ingress("i", "shop.test", path("web", "/foo"), "", "2026-01-01T00:00:00Z",
                                  R"(,"defaultBackend":{"service":{"name":"rest","port":{"number":80}}})")};
  const Config config = run().config;
  EXPECT_TRUE(config.prefixes.at("i|shop.test/").starts_with("b_a_rest_80_"));
  EXPECT_TRUE(config.prefixes.at("i|*/").starts_with("b_a_rest_80_"));
}

TEST_F(Compile, NoValueLeavesItsPlaceInALine) {
  documents_.ingresses = {
      ingress("i", "shop.test", path("web"),
              R"("nginx.ingress.kubernetes.io/permanent-redirect":"/x'\n  http-request deny %[env(HOME)]",
      "nginx.ingress.kubernetes.io/upstream-vhost":"a b","nginx.ingress.kubernetes.io/x-forwarded-prefix":"/it's %[src]")")};
  const Compiled compiled = run();
  EXPECT_EQ(compiled.problems.size(), 2u);
  const Rendered rendered = renderConfig(compiled.config, {}, Layout{});
  EXPECT_THAT(rendered.config, HasSubstr(R"(X-Forwarded-Prefix '/it'\''s %%[src]')"));
  EXPECT_THAT(rendered.config, testing::Not(HasSubstr("env(HOME)")));
}

TEST_F(Compile, RetriesCompressionAndProxiesAreLines) {
  auto backend = [&](const std::string& annotations) {
    documents_.ingresses = {ingress("i", "shop.test", path("web"), annotations)};
    const Compiled compiled = run();
    const Backend& one = compiled.config.backends.begin()->second;
    return join(one.lines, "\n") + "|" + one.serverOptions + "|" + join(messages(compiled), "\n");
  };
  const std::string next = R"("nginx.ingress.kubernetes.io/proxy-next-upstream)";
  EXPECT_THAT(backend(next + R"(":"error timeout http_502 non_idempotent",)" + next + R"(-tries":"3")"),
              testing::AllOf(HasSubstr("retry-on conn-failure empty-response response-timeout 502\nretries 2|"),
                             HasSubstr("\"non_idempotent\" is not one of")));
  EXPECT_THAT(backend(next + R"(":"off")"), HasSubstr("retry-on none|"));
  EXPECT_THAT(backend(next + R"(-tries":"1",)" + next + R"(":"error")"), HasSubstr("retry-on none\nretries 0|"));
  EXPECT_THAT(backend(next + R"(-tries":"0",)" + next + R"(-timeout":"5")"),
              testing::AllOf(testing::Not(HasSubstr("retries")), HasSubstr("is bounded by proxy-next-upstream-tries")));
  EXPECT_THAT(backend(R"("dhow.io/compression":"true","dhow.io/proxy-protocol":"v1")"),
              testing::AllOf(HasSubstr("compression algo gzip\n"), HasSubstr("| send-proxy|")));
  EXPECT_THAT(backend(R"("dhow.io/proxy-protocol":"v2","nginx.ingress.kubernetes.io/backend-protocol":"HTTPS")"),
              HasSubstr("sni var(txn.host) send-proxy-v2|"));
}

TEST_F(Compile, LoadBalancersInFrontAreThoseOfOurClasses) {
  auto klass = [](std::string_view name, std::string_view controller, std::string_view ranges) {
    return parse(fmt::format(
        R"({{"metadata":{{"name":"{}","annotations":{{"dhow.io/proxy-protocol-from":"{}"}}}},"spec":{{"controller":"{}"}}}})",
        name, ranges, controller));
  };
  documents_.ingresses = {ingress("i", "shop.test", path("web"))};
  documents_.classes = {klass("a", "dhow.io/ingress", "192.0.2.1, 2001:db8::/32"),
                        klass("b", "x.test/y", "198.51.100.0/24"),
                        klass("c", "dhow.io/ingress", "203.0.113.0/24 } accept")};
  const Compiled compiled = run();
  const std::string rendered = renderConfig(compiled.config, {}, Layout{}).config;
  EXPECT_THAT(rendered, HasSubstr("  tcp-request connection expect-proxy layer4 if { src 192.0.2.1 2001:db8::/32 }\n"));
  EXPECT_THAT(rendered, testing::Not(HasSubstr("forwarder")));
  EXPECT_THAT(messages(compiled), ElementsAre(HasSubstr("proxy-protocol-from is not used")));
  EXPECT_EQ(compiled.problems[0].about->name(), "c");
  documents_.classes = {parse(
      R"({"metadata":{"name":"a","annotations":{"dhow.io/forwarded-headers-from":"10.0.0.0/8"}},"spec":{"controller":"dhow.io/ingress"}})")};
  EXPECT_THAT(renderConfig(run().config, {}, Layout{}).config, HasSubstr("  acl forwarder src 10.0.0.0/8\n"));
}

TEST_F(Compile, WhatMayLeadBackComesOnce) {
  auto lines = [&](const std::string& spec) {
    documents_.ingresses = {ingress("i", "shop.test", path("web"))};
    (void)run();
    documents_.service = [&](std::string_view, std::string_view) {
      return parse(R"({"metadata":{"name":"web","namespace":"a"},"spec":)" + spec + "}");
    };
    const Compiled compiled = compile(documents_);
    return join(compiled.config.backends.begin()->second.lines, "\n") + join(messages(compiled), "\n");
  };
  const auto guarded = testing::AllOf(HasSubstr("return status 508"), HasSubstr("add-header CDN-Loop dhow-"));
  EXPECT_THAT(lines(R"({"type":"ExternalName","externalName":"x.test"})"),
              testing::AllOf(guarded, HasSubstr("do-resolve(txn.elsewhere,cluster,ipv4) str(x.test)"),
                             HasSubstr("if { var(txn.elsewhere) -m ip -f @own_addresses }"),
                             HasSubstr("server external 0.0.0.0:80 ")));
  documents_.ipv6Alone = true;
  EXPECT_THAT(lines(R"({"type":"ExternalName","externalName":"x.test"})"),
              HasSubstr("do-resolve(txn.elsewhere,cluster,ipv6) str(x.test)"));
  EXPECT_THAT(lines(R"({"ports":[{"port":80}]})"), guarded) << "its endpoints are somebody's";
  EXPECT_THAT(lines(R"({"ports":[{"port":80}],"selector":{"app":"web"}})"), testing::Not(HasSubstr("508")));
  EXPECT_THAT(lines(R"({"type":"ExternalName","externalName":"127.0.0.1"})"),
              testing::AllOf(testing::Not(HasSubstr("server external")), HasSubstr("\"127.0.0.1\" is an address")));
}

TEST(Servers, TheLastThatLeaveAreUsed) {
  auto servers = [](const std::string& endpoints) { return serversOf({slice(endpoints)}, ""); };
  EXPECT_EQ(
      servers(endpoint("10.0.0.1", true) + "," + endpoint("10.0.0.2", false, true) + "," + endpoint("10.0.0.3", false)),
      (std::vector<Server>{{"10.0.0.1", 8080, Server::State::kReady, ""},
                           {"10.0.0.2", 8080, Server::State::kDraining, ""}}));
  EXPECT_EQ(servers(endpoint("10.0.0.2", false, true)),
            (std::vector<Server>{{"10.0.0.2", 8080, Server::State::kLast, ""}}));
  EXPECT_TRUE(servers(endpoint("10.0.0.3", false)).empty());
}

TEST(Servers, ThoseOfASilentNodeAreLeftToTheirUsers) {
  const std::string silent = endpointThat("10.0.0.2", false, true, false);
  EXPECT_EQ(serversOf({slice(endpoint("10.0.0.1", true) + "," + silent)}, ""),
            (std::vector<Server>{{"10.0.0.1", 8080, Server::State::kReady, ""},
                                 {"10.0.0.2", 8080, Server::State::kDraining, ""}}));
  EXPECT_EQ(serversOf({slice(silent)}, ""), (std::vector<Server>{{"10.0.0.2", 8080, Server::State::kLast, ""}}));
}

TEST(Servers, APodOfTwoFamiliesIsOne) {
  const ObjectPtr four = slice(endpoint("10.0.0.1", true)), six = slice(endpoint("fd00::1", true), "IPv6"),
                  none = slice(""), name = slice(endpoint("web.example", true), "FQDN");
  const std::vector<Server> byFour{{"10.0.0.1", 8080, Server::State::kReady, ""}},
      bySix{{"fd00::1", 8080, Server::State::kReady, ""}};
  EXPECT_EQ(serversOf({six, four}, ""), byFour);
  EXPECT_EQ(serversOf({none, six}, ""), bySix);
  EXPECT_EQ(serversOf({name, six}, ""), bySix);
  EXPECT_TRUE(serversOf({name}, "").empty());
}

TEST(Text, EndpointsOfBothFamilies) {
  EXPECT_EQ(endpointText("10.0.0.1", 80), "10.0.0.1:80");
  EXPECT_EQ(endpointText("fd00::1", 80), "[fd00::1]:80");
  for (std::string_view address : {"10.0.0.1", "fd00::1", "::"}) {
    const std::string text = endpointText(address, 65535);
    ASSERT_TRUE(readEndpoint(text));
    EXPECT_EQ(readEndpoint(text)->address, address);
    EXPECT_EQ(readEndpoint(text)->port, 65535);
  }
  for (std::string_view bad : {"", "x", "[::1]", "10.0.0.1:", "10.0.0.1:0", "10.0.0.1:65536", "[::1]:x"})
    EXPECT_FALSE(readEndpoint(bad)) << bad;
}

TEST(Annotations, OthersAreNotOurs) {
  auto parsed = parseAnnotations(*parse(
      R"({"metadata":{"annotations":{"cert-manager.io/issuer":"x","nginx.ingress.kubernetes.io/proxy-buffering":"on",
    "nginx.ingress.kubernetes.io/affinity":"cookie","appgw.ingress.kubernetes.io/request-timeout":"20"}}})"));
  EXPECT_THAT(parsed.problems, ElementsAre());
  EXPECT_EQ(parsed.values.affinity->name, "INGRESSCOOKIE");
  EXPECT_EQ(parsed.values.readTimeout, 20);
}

}  // namespace
}  // namespace dhow::ingress
