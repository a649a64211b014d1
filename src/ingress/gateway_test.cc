#include "ingress/gateway.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>

#include "gateway_model.h"
#include "haproxy_fixture.h"
#include "patterns.h"
#include "render.h"
#include "text.h"

namespace dhow::ingress {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::StartsWith;

ObjectPtr parse(const std::string& text) {
  return object::Object::parse(text).value();
}

std::string listener(std::string_view name, int port, std::string_view protocol = "HTTP", std::string_view more = "") {
  return fmt::format(R"({{"name":"{}","port":{},"protocol":"{}"{}}})", name, port, protocol, more);
}

ObjectPtr gateway(std::string_view name, const std::string& listeners, std::string_view more = "") {
  return parse(fmt::format(
      R"({{"metadata":{{"name":"{}","namespace":"a","creationTimestamp":"2026-01-01T00:00:00Z"}},"spec":{{"listeners":[{}]{}}}}})",
      name, listeners, more));
}

ObjectPtr route(std::string_view name, const std::string& rules, std::string_view more = "",
                std::string_view made = "2026-01-01T00:00:00Z", std::string_view parent = R"({"name":"g"})") {
  return parse(fmt::format(
      R"({{"metadata":{{"name":"{}","namespace":"a","creationTimestamp":"{}"}},"spec":{{"parentRefs":[{}],"rules":[{}]{}}}}})",
      name, made, parent, rules, more));
}

std::string to(std::string_view service, std::string_view more = "") {
  return fmt::format(R"({{"name":"{}","port":80{}}})", service, more);
}

std::string rule(std::string_view backends, std::string_view matches = "", std::string_view more = "") {
  return fmt::format(R"({{"matches":[{}],"backendRefs":[{}]{}}})", matches, backends, more);
}

std::string path(std::string_view value, std::string_view type = "PathPrefix", std::string_view more = "") {
  return fmt::format(R"({{"path":{{"type":"{}","value":"{}"}}{}}})", type, value, more);
}

class Gateways : public testing::Test {
 protected:
  GatewayVerdicts run() {
    documents_.service = [this](std::string_view ns, std::string_view name) -> ObjectPtr {
      if (ns == kGatewayServiceNamespace) {
        for (size_t i = 0; i < documents_.gateways.size(); ++i)
          if (gatewayService(*documents_.gateways[i]) == name)
            return parse(fmt::format(
                R"({{"spec":{{"clusterIP":"10.96.1.{0}","ports":[{{"port":80,"targetPort":{1}}},{{"port":443,"targetPort":{2}}},{{"port":90,"targetPort":22}}]}}}})",
                i, 28000 + 2 * i, 28001 + 2 * i));
        return nullptr;
      }
      return name == "missing" ? nullptr : parse(R"({"spec":{"clusterIP":"10.96.0.9","ports":[{"port":80}]}})");
    };
    documents_.secret = [](std::string_view, std::string_view) { return ObjectPtr(); };
    documents_.configMap = [](std::string_view, std::string_view name) {
      return name == "pages"
                 ? parse(R"({"metadata":{"name":"pages"},"data":{"404":"lost","500.json":"{}","503":"soon"}})")
                 : ObjectPtr();
    };
    documents_.slices = [](std::string_view, std::string_view service) {
      auto slice = [](std::string_view address, int port) {
        return std::vector<ObjectPtr>{parse(fmt::format(
            R"({{"metadata":{{"name":"s"}},"addressType":"IPv4","ports":[{{"name":"","port":{},"protocol":"TCP"}}],
                "endpoints":[{{"addresses":["{}"],"conditions":{{"ready":true}}}}]}})",
            port, address))};
      };
      if (service == "there") return slice("127.0.0.1", 8001);
      if (service == "cluster-address") return slice("10.96.1.1", 80);
      if (service == "node-address" || service.starts_with("dhow-gateway-")) return slice("192.0.2.1", 28000);
      return std::vector<ObjectPtr>();
    };
    documents_.ns = [](std::string_view) { return ObjectPtr(); };
    config_ = {};
    return compileGateways(documents_, config_);
  }
  void serve(const ObjectPtr& object, RouteKind kind = RouteKind::kHttp) {
    documents_.routes.push_back({kind, object});
  }
  const Verdicts& verdictsOf(const GatewayVerdicts& all, std::string_view name, RouteKind kind = RouteKind::kHttp) {
    for (const AttachmentVerdict& one : all.routes[static_cast<size_t>(kind)])
      if (one.object->name() == name) return one.parents.at(0).verdicts;
    static const Verdicts kNone{{"", false, "none", ""}, {"", false, "none", ""}};
    return kNone;
  }
  std::vector<std::string> lines(const std::string& backend) { return config_.backends.at(backend).lines; }

  GatewayDocuments documents_;
  Config config_;
};

TEST(Hosts, MeetWhereOneCoversTheOther) {
  EXPECT_EQ(intersection("", "a.test"), "a.test");
  EXPECT_EQ(intersection("*.test", "a.b.test"), "a.b.test");
  EXPECT_EQ(intersection("a.b.test", "*.b.test"), "a.b.test");
  EXPECT_EQ(intersection("*.test", "*.b.test"), "*.b.test");
  EXPECT_EQ(intersection("*.b.test", "b.test"), std::nullopt);
  EXPECT_EQ(intersection("*.b.test", "ab.test"), std::nullopt);
  const std::vector<std::string> hosts{"", "*.test", "*.b.test", "a.b.test"};
  EXPECT_EQ(*bestHost(hosts, "a.b.test"), "a.b.test");
  EXPECT_EQ(*bestHost(hosts, "x.y.b.test"), "*.b.test");
  EXPECT_EQ(*bestHost(hosts, "*.c.test"), "*.test");
  EXPECT_EQ(*bestHost(hosts, "other"), "");
}

TEST(Patterns, AreThoseThatBothEnginesTake) {
  for (const char* good : {"/a[.]b", "(?i)/x", R"(/\[]x)", "/[0-9]+(/.*)?$", "/[[:alpha:]]"})
    EXPECT_TRUE(isPattern(good)) << good;
  for (const char* bad : {"/a[]", "/a[^]b", "/[[=a=]]", "/[[.a.]]", "/a[(", "/(?<=x)"})
    EXPECT_FALSE(isPattern(bad)) << bad;
}

TEST_F(Gateways, APortIsAFrontendAndAHostASite) {
  documents_.gateways = {gateway("g", listener("web", 80) + "," +
                                          listener("inner", 80, "HTTP", R"(,"hostname":"*.in.test")") + "," +
                                          listener("other", 90))};
  serve(route("r", rule(to("web")), R"(,"hostnames":["a.test","*.x.b.test","c.in.test"])", "2026-01-01T00:00:00Z",
              R"({"name":"g","sectionName":"web"})"));
  const GatewayVerdicts verdicts = run();
  ASSERT_EQ(config_.frontends.size(), 1u);  // 22 is no port of a gateway's
  const Frontend& frontend = config_.frontends[0];
  EXPECT_EQ(frontend.listeners, (std::vector<Listener>{{28000, false}}));
  EXPECT_EQ(frontend.port, 80);
  EXPECT_EQ(frontend.depths, (std::set<int>{2, 3}));
  // What is for the listener "inner" is not this route's.
  EXPECT_THAT(config_.prefixes, ElementsAre(testing::Pair("g28000|*.x.b.test/", StartsWith("b_a_web_80_")),
                                            testing::Pair("g28000|a.test/", StartsWith("b_a_web_80_"))));
  EXPECT_EQ(config_.sites.size(), 4u);
  EXPECT_EQ(verdicts.gateways[0].listeners[0].attachedRoutes, 1);
  EXPECT_EQ(verdicts.gateways[0].listeners[1].attachedRoutes, 0);
}

TEST_F(Gateways, OneGatewaysRoutesAreNotAnothers) {
  documents_.gateways = {gateway("g", listener("web", 80)), gateway("other", listener("web", 80))};
  serve(route("r", rule(to("web"))));
  run();
  EXPECT_THAT(config_.prefixes, ElementsAre(testing::Pair("g28000|*/", StartsWith("b_a_web_80"))));
}

TEST_F(Gateways, WhatNoConditionTakesGoesToTheNextBestPath) {
  documents_.gateways = {gateway("g", listener("web", 80))};
  const std::string header = R"(,"headers":[{"name":"x","value":"it's"}])";
  serve(route("r", rule(to("deep"), path("/a/b", "PathPrefix", header)) + "," +
                       rule(to("get"), path("/a", "PathPrefix", R"(,"method":"GET")")) + "," +
                       rule(to("both"), path("/a/", "PathPrefix", R"(,"method":"GET")" + header)) + "," +
                       rule(to("exact"), path("/a/b", "Exact", header)) + "," + rule(to("root"))));
  run();
  const Frontend& frontend = config_.frontends[0];
  const std::string deep = config_.prefixes.at("g28000|*/a/b/"), a = config_.prefixes.at("g28000|*/a/");
  EXPECT_THAT(deep, StartsWith("choice:"));
  EXPECT_THAT(config_.prefixes.at("g28000|*/"), StartsWith("b_a_root_80"));
  EXPECT_THAT(frontend.afterExact, ElementsAre(HasSubstr("str(b_a_exact_80"), HasSubstr("unset-var(txn.to)")));
  // The longer path first, and of one path the match that asks for more.
  EXPECT_THAT(frontend.afterPrefixes,
              ElementsAre(HasSubstr("str(b_a_deep_80"), HasSubstr(fmt::format("str({})", a)),
                          HasSubstr("str(b_a_both_80"), HasSubstr("str(b_a_get_80"), HasSubstr("str(b_a_root_80")));
  EXPECT_THAT(frontend.acls, Contains(HasSubstr(R"(req.fhdr(x) -m str -- 'it'\''s')")));
}

TEST_F(Gateways, OfEqualMatchesTheOlderRouteHasIt) {
  documents_.gateways = {gateway("g", listener("web", 80))};
  serve(route("young", rule(to("young")), "", "2026-02-01T00:00:00Z"));
  serve(route("old", rule(to("old")) + "," + rule(to("later"))));
  run();
  EXPECT_THAT(config_.prefixes.at("g28000|*/"), StartsWith("b_a_old_80"));
}

TEST_F(Gateways, EachWeightHasAShare) {
  documents_.gateways = {gateway("g", listener("web", 80))};
  serve(route("r", rule(to("most", R"(,"weight":999)") + "," + to("few", R"(,"weight":1)") + "," +
                        to("none", R"(,"weight":0)") + "," + to("missing", R"(,"weight":1)"))));
  const GatewayVerdicts verdicts = run();
  std::map<std::string, int> shares;
  for (const auto& [place, backend] : config_.splits) ++shares[backend.substr(0, backend.rfind('_'))];
  EXPECT_EQ(shares, (std::map<std::string, int>{{"b_a_few_80", 1}, {"b_a_most_80", 98}, {"broken@HTTPRoute/a/r", 1}}));
  EXPECT_EQ(verdictsOf(verdicts, "r")[1].reason, "BackendNotFound");
  // Other weights are other places of the same split: no reload.
  const Config before = config_;
  documents_.routes.clear();
  serve(route("r", rule(to("most", R"(,"weight":1)") + "," + to("few", R"(,"weight":1)") + "," +
                        to("missing", R"(,"weight":2)"))));
  run();
  EXPECT_NE(config_.splits, before.splits);
  EXPECT_EQ(config_.frontends, before.frontends);
  EXPECT_EQ(config_.prefixes, before.prefixes);
  EXPECT_EQ(config_.backends, before.backends);
  serve(route("nobody", rule(""), R"(,"hostnames":["n.test"])"));
  run();
  EXPECT_EQ(config_.prefixes.at("g28000|n.test/"), "broken@HTTPRoute/a/nobody");
}

TEST_F(Gateways, WhatIsWrongIsToldAndStopsNothingElse) {
  documents_.gateways = {
      gateway("bad", listener("a", 80) + "," + listener("b", 80)),
      gateway("g", listener("web", 80) + "," +
                       listener("tls", 443, "HTTPS", R"(,"tls":{"certificateRefs":[{"name":"x"}]})")),
      gateway("parameters", listener("a", 80), R"(,"infrastructure":{"parametersRef":{"name":"x"}})")};
  serve(route("partly",
              rule(to("web")) + "," + rule(to("web"), path("/a[(", "RegularExpression")) + "," +
                  rule(to("web"), path("/b", "PathPrefix", R"(,"headers":[{"name":"x\n y","value":"1"}])")) + "," +
                  rule(to("web"), path("/mirror"), R"(,"filters":[{"type":"ExtensionRef","extensionRef":{}}])")));
  serve(route("wholly", rule(to("web"), path("/x y", "Exact")), R"(,"hostnames":["w.test"])"));
  std::string many = listener("l", 1);
  for (int port = 2; port < 100; ++port) many += "," + listener(fmt::format("l{}", port), port);
  documents_.gateways.push_back(gateway("so-many", many));
  const GatewayVerdicts verdicts = run();
  EXPECT_EQ(verdicts.gateways[3].accepted.reason, "Invalid");
  EXPECT_FALSE(verdicts.gateways[0].accepted.status);
  EXPECT_EQ(verdicts.gateways[0].listeners[0].verdicts[1].reason, "HostnameConflict");
  EXPECT_TRUE(verdicts.gateways[1].accepted.status);
  EXPECT_EQ(verdicts.gateways[1].listeners[1].verdicts[2].reason, "InvalidCertificateRef");
  EXPECT_FALSE(verdicts.gateways[1].listeners[1].served);
  EXPECT_EQ(verdicts.gateways[2].accepted.reason, "InvalidParameters");
  const Verdicts& partly = verdictsOf(verdicts, "partly");
  ASSERT_EQ(partly.size(), 3u);
  EXPECT_EQ(partly[2].type, "PartiallyInvalid");
  EXPECT_THAT(partly[2].message, StartsWith("Dropped Rule 1: "));
  EXPECT_EQ(verdictsOf(verdicts, "wholly")[0].reason, "UnsupportedValue");
  EXPECT_THAT(config_.prefixes, ElementsAre(testing::Pair("g28002|*/", StartsWith("b_a_web_80")),
                                            testing::Pair("g28002|*/mirror/", "broken@HTTPRoute/a/partly")));
}

TEST_F(Gateways, NoValueLeavesItsPlaceInALine) {
  documents_.gateways = {gateway("g", listener("web", 80))};
  serve(route(
      "r",
      rule(
          to("web"), path("/o'd", "Exact", R"(,"queryParams":[{"name":"q","value":"a' b\n %[env(HOME)]"}])"),
          R"(,"filters":[{"type":"RequestHeaderModifier","requestHeaderModifier":{"set":[{"name":"X","value":"it's\n %[src]"}]}},
                           {"type":"URLRewrite","urlRewrite":{"path":{"type":"ReplaceFullPath","replaceFullPath":"/%[src]"}}}])")));
  run();
  const std::string rendered = renderConfig(config_, {}, Layout{}).config;
  EXPECT_THAT(rendered, HasSubstr(R"(set-header 'X' 'it'\''s  %%[src]')"));
  EXPECT_THAT(rendered, HasSubstr(R"(set-path '/%%[src]')"));
  EXPECT_THAT(rendered, HasSubstr(R"(-m str -- 'a'\'' b  %[env(HOME)]')"));
  EXPECT_TRUE(config_.exact.contains("g28000|*/o'd"));
}

TEST_F(Gateways, HttpAndGrpcDoNotShareAHost) {
  documents_.gateways = {gateway("g", listener("web", 80))};
  serve(route("http", rule(to("web")), R"(,"hostnames":["*.test"])", "2026-02-01T00:00:00Z"));
  serve(route("grpc", rule(to("web")), R"(,"hostnames":["a.test"])",
              "2026-02-01T00:00:00Z"));  // the name does not matter
  serve(
      route(
          "grpc",
          R"({"matches":[{"method":{"service":"s","method":"m"}},{"method":{"service":"s"}},{"method":{"method":"m"}}],"backendRefs":[)" +
              to("web") + "]}",
          R"(,"hostnames":["a.test"])"),
      RouteKind::kGrpc);
  const GatewayVerdicts verdicts = run();
  EXPECT_EQ(verdictsOf(verdicts, "http")[0].reason, "HostnameConflict");
  EXPECT_EQ(verdictsOf(verdicts, "grpc")[0].reason, "HostnameConflict");
  EXPECT_TRUE(verdictsOf(verdicts, "grpc", RouteKind::kGrpc)[0].status);
  EXPECT_TRUE(config_.exact.contains("g28000|a.test/s/m"));
  EXPECT_TRUE(config_.prefixes.contains("g28000|a.test/s/"));
  EXPECT_THAT(config_.frontends[0].acls, ElementsAre(HasSubstr("path -m reg -- '^(?:/[^/]+/m)$'")));
  EXPECT_EQ(config_.backends.at(backendOf(config_.exact.at("g28000|a.test/s/m"))).serverOptions, "proto h2");
}

TEST_F(Gateways, ConnectionsGoByServerNameOrByPort) {
  documents_.gateways = {
      gateway("g", listener("tls", 443, "TLS", R"(,"tls":{"mode":"Passthrough"})") + "," + listener("tcp", 80, "TCP"))};
  serve(route("tls", R"({"backendRefs":[)" + to("secure") + "]}", R"(,"hostnames":["*.a.test"])"), RouteKind::kTls);
  serve(route("tcp", R"({"backendRefs":[)" + to("plain") + "]}"), RouteKind::kTcp);
  const GatewayVerdicts verdicts = run();
  EXPECT_THAT(config_.exact, ElementsAre(testing::Pair("g28000|*", StartsWith("t_a_plain_80")),
                                         testing::Pair("g28001|*.a.test", StartsWith("t_a_secure_80"))));
  EXPECT_EQ(config_.frontends[0].mode, Frontend::Mode::kTcp);
  EXPECT_EQ(config_.frontends[1].mode, Frontend::Mode::kTls);
  EXPECT_EQ(verdicts.gateways[0].listeners[0].kinds, (std::vector<RouteKind>{RouteKind::kTls}));
}

TEST_F(Gateways, ABackendWhoseCertificateCannotBeCheckedIsNotTalkedTo) {
  documents_.gateways = {gateway("g", listener("web", 80))};
  serve(route("r", rule(to("web"))));
  documents_.backendTlsPolicies = {parse(
      R"({"metadata":{"name":"p","namespace":"a"},"spec":{"targetRefs":[{"group":"","kind":"Service","name":"web"}],
          "validation":{"hostname":"web.test","caCertificateRefs":[{"group":"","kind":"ConfigMap","name":"missing"}]}}})")};
  const GatewayVerdicts verdicts = run();
  EXPECT_EQ(config_.prefixes.at("g28000|*/"), "broken@HTTPRoute/a/r");
  ASSERT_EQ(verdicts.policies.size(), 1u);
  EXPECT_EQ(verdicts.policies[0].parents.at(0).verdicts[0].reason, "NoValidCACertificate");
  EXPECT_EQ(verdicts.policies[0].parents.at(0).verdicts[1].reason, "InvalidCACertificateRef");
}

TEST_F(Gateways, WhatMayLeadBackComesOnce) {
  documents_.gateways = {gateway("g", listener("web", 80))};
  serve(route("r", rule(to("web"))));
  (void)run();
  EXPECT_THAT(lines(backendOf(config_.prefixes.at("g28000|*/"))), Contains(HasSubstr("return status 508")))
      << "its endpoints are somebody's";
}

TEST_F(Gateways, ConnectionsDoNotGoAround) {
  documents_.gateways = {gateway("g", listener("tcp", 80, "TCP") + "," + listener("other", 443, "TCP")),
                         gateway("h", listener("tcp", 80, "TCP"))};
  auto tcp = [&](std::string_view name, std::string_view service, std::string_view parent) {
    serve(route(name, R"({"backendRefs":[)" + to(service) + "]}", "", "2026-01-01T00:00:00Z", parent), RouteKind::kTcp);
  };
  const std::string_view g = R"({"name":"g","sectionName":"tcp"})", other = R"({"name":"g","sectionName":"other"})";
  tcp("a-self", "node-address", g);  // its own port, by a node's address
  tcp("b-through", "cluster-address", other);
  tcp("c-on", "node-address", R"({"name":"h"})");
  tcp("d-around", "cluster-address", g);  // and from there back by c-on
  tcp("e-fine", "there", g);
  const GatewayVerdicts verdicts = run();
  for (std::string_view loop : {"a-self", "d-around"}) {
    const Verdict& told = verdictsOf(verdicts, loop, RouteKind::kTcp)[1];
    EXPECT_EQ(told.reason, "BackendLoop") << loop;
    EXPECT_THAT(told.message, HasSubstr("leads back to the gateway")) << loop;
  }
  for (std::string_view fine : {"b-through", "c-on", "e-fine"})
    EXPECT_TRUE(verdictsOf(verdicts, fine, RouteKind::kTcp)[1].status) << fine;
  EXPECT_THAT(config_.exact.at("g28000|*"), StartsWith("rejected@"));
  EXPECT_THAT(config_.exact.at("g28001|*"), StartsWith("t_a_cluster-address_80"));
}

TEST_F(Gateways, OfAnotherNamespaceOnlyWhatAGrantAllowsIsUsed) {
  documents_.gateways = {gateway("g", listener("web", 80))};
  serve(route("r", rule(to("web", R"(,"namespace":"b")"))));
  EXPECT_EQ(verdictsOf(run(), "r")[1].reason, "RefNotPermitted");
  documents_.grants = {parse(
      R"({"metadata":{"name":"x","namespace":"b"},"spec":{"from":[{"group":"gateway.networking.k8s.io","kind":"HTTPRoute","namespace":"a"}],
          "to":[{"group":"","kind":"Service","name":"web"}]}})")};
  EXPECT_TRUE(verdictsOf(run(), "r")[1].status);
  EXPECT_THAT(config_.prefixes.at("g28000|*/"), StartsWith("b_b_web_80"));
  // Copies, too.
  const std::string copied =
      R"(,"filters":[{"type":"RequestMirror","requestMirror":{"backendRef":{"name":"web","namespace":"b","port":80}}}])";
  documents_.routes.clear();
  serve(route("r", rule(to("own"), "", copied)));
  EXPECT_TRUE(verdictsOf(run(), "r")[1].status);
  EXPECT_THAT(lines(backendOf(config_.prefixes.at("g28000|*/"))),
              Contains(HasSubstr("txn.mirror) str('10.96.0.9:80*')")));
  documents_.grants.clear();
  EXPECT_EQ(verdictsOf(run(), "r")[1].reason, "RefNotPermitted");
  EXPECT_THAT(lines(backendOf(config_.prefixes.at("g28000|*/"))), Not(Contains(HasSubstr("txn.mirror"))));
}

ObjectPtr annotated(const ObjectPtr& object, boost::json::object annotations) {
  boost::json::object root = object->root();
  root["metadata"].as_object()["annotations"] = std::move(annotations);
  return parse(boost::json::serialize(root));
}

TEST_F(Gateways, HavePagesForErrorsAndUsersWhoStay) {
  const ObjectPtr plain = gateway("g", listener("web", 80));
  documents_.gateways = {annotated(plain, {{"dhow.io/error-pages", "pages"}})};
  serve(annotated(
      route("r", rule(to("there"), path("/web")) + "," + rule(to("none"), path("/none")) + "," +
                     rule(to("missing"), path("/broken")) + "," + rule(to("there") + "," + to("none"), path("/split"))),
      {{"nginx.ingress.kubernetes.io/affinity", "cookie"},
       {"nginx.ingress.kubernetes.io/session-cookie-name", "STICK"},
       {"nginx.ingress.kubernetes.io/session-cookie-samesite", "Never"},
       {"nginx.ingress.kubernetes.io/rewrite-target", "/is/not/for/routes"},
       {"dhow.io/session-idle", "2m"}}));
  const GatewayVerdicts verdicts = run();
  EXPECT_TRUE(verdicts.gateways[0].resolvedRefs.status) << verdicts.gateways[0].resolvedRefs.message;
  const Verdicts& told = verdictsOf(verdicts, "r");
  ASSERT_EQ(told.size(), 3u);
  EXPECT_EQ(told[2].message,
            "the annotation nginx.ingress.kubernetes.io/session-cookie-samesite is not used: \"Never\" is not one of "
            "None, Lax, Strict; rule 3 shares its requests out by weight: its users have no affinity");
  const Backend& web = config_.backends.at(backendOf(config_.prefixes.at("g28000|*/web/")));
  ASSERT_TRUE(web.sessions);
  EXPECT_EQ(web.sessions->idle, 120);
  EXPECT_THAT(web.lines, Contains(StartsWith("cookie STICK insert")));
  EXPECT_FALSE(config_.backends.at(backendOf(config_.splits.begin()->second)).sessions);
  apart([this](Haproxy::Options options) {
    Backhand there("there", 8001);
    Haproxy proxy(options);
    EXPECT_APPLIED(proxy.apply(config_));
    const std::string first = askWhole("x.test", "/web", 28000);
    EXPECT_THAT(first, testing::AllOf(HasSubstr("set-cookie: STICK="), testing::EndsWith("there")));
    EXPECT_THAT(askWhole("x.test", "/", 28000), testing::AllOf(StartsWith("HTTP/1.1 404"), testing::EndsWith("lost")));
    EXPECT_THAT(askWhole("x.test", "/none", 28000),
                testing::AllOf(StartsWith("HTTP/1.1 503"), testing::EndsWith("soon")));
    EXPECT_THAT(askWhole("x.test", "/broken", 28000),
                testing::AllOf(StartsWith("HTTP/1.1 500"), testing::EndsWith("{}")));
  });
  documents_.gateways = {
      annotated(plain, {{"dhow.io/forwarded-headers-from", "10.0.0.0/8"}}),
      annotated(gateway("h", listener("web", 80)), {{"dhow.io/forwarded-headers-from", "somewhere"}})};
  const GatewayVerdicts behind = run();
  EXPECT_THAT(config_.frontends.at(0).forwarders, ElementsAre("10.0.0.0/8"));
  EXPECT_THAT(config_.frontends.at(1).forwarders, IsEmpty());
  EXPECT_THAT(behind.gateways[1].resolvedRefs.message, HasSubstr("\"somewhere\" is no range"));
  documents_.gateways = {annotated(plain, {{"dhow.io/error-pages", "nowhere"}})};
  EXPECT_THAT(run().gateways[0].resolvedRefs.message, HasSubstr("the config map \"nowhere\""));
  EXPECT_EQ(gatewayConfigMaps(*documents_.gateways[0], {}), (std::set<std::string>{"a/nowhere"}));
}

}  // namespace
}  // namespace dhow::ingress
