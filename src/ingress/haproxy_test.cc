// A real HAProxy, in a network namespace of the test's own.
#include "haproxy.h"

#include <gmock/gmock.h>

#include <csignal>

#include "error_pages.h"
#include "haproxy_fixture.h"
#include "metrics.h"

namespace dhow::ingress {
namespace {

TEST(Haproxy, TellsOfEachRequestWhateverItHolds) {
  apart([](const Haproxy::Options& options) {
    Backhand one("one", 8001);
    Config config = serving({{"127.0.0.1", 8001}});
    config.backends["b_shop_web_http_0123456789"] = std::exchange(config.backends["web"], {});
    config.backends.erase("web");
    config.prefixes = {{"i|a.test/", "b_shop_web_http_0123456789@Ingress/shop/front"}};
    Haproxy proxy(options);
    EXPECT_APPLIED(proxy.apply(config));
    auto pipe = openLogPipe(options.logPipe());
    ASSERT_TRUE(pipe.ok());
    EXPECT_EQ(ask("a.test\r\nno header"), "HTTP/1.1 400");
    EXPECT_EQ(ask("a.test", "/x?y='%22" + std::string(4000, 'z'), 80,
                  "User-Agent: \"},{\\\x01\xff\xc3\xa4, b\r\nReferer: " + std::string(3000, '"') + "\r\n"),
              "one");
    const auto lines = linesOf(*pipe, 2);
    ASSERT_EQ(lines.size(), 2u);
    EXPECT_EQ(lines[0].at("status").as_int64(), 400);
    const auto& line = lines[1];
    EXPECT_EQ(line.at("user_agent").as_string(), "\"},{\\\x01ä, b");
    EXPECT_EQ(line.at("referer").as_string(), std::string(512, '"'));
    EXPECT_EQ(line.at("path").as_string().size(), 1024u);
    for (const auto& [key, value] : std::map<std::string, std::string>{{"host", "a.test"},
                                                                       {"method", "GET"},
                                                                       {"protocol", "HTTP/1.1"},
                                                                       {"client", "127.0.0.1"},
                                                                       {"route", "Ingress/shop/front"},
                                                                       {"namespace", "shop"},
                                                                       {"service", "web"},
                                                                       {"server", "127.0.0.1:8001"},
                                                                       {"tls", "-"}})
      EXPECT_EQ(line.at(key).as_string(), value) << key;
    EXPECT_EQ(line.at("request_id").as_string().size(), 36u);
    EXPECT_EQ(line.at("time").as_string().size(), std::string_view("2026-01-01T00:00:00.000Z").size());
    // Nobody reads: it goes on.
    for (int i = 0; i < 2000; ++i) EXPECT_EQ(ask("a.test", "/" + std::string(2000, 'x')), "one");
    // Counts, by the names of Kubernetes.
    auto raw = readMetrics(options.metricsSocket(), options.adminSocket());
    ASSERT_TRUE(raw.ok()) << raw.error().message();
    const std::string metrics = labelledMetrics(*raw, config, [](const std::string&) { return "web-1"; });
    EXPECT_THAT(metrics, testing::HasSubstr("haproxy_backend_http_responses_total{namespace=\"shop\",service=\"web\","
                                            "port=\"http\",proxy=\"b_shop_web_http_0123456789\",code=\"2xx\"} 2001\n"));
    EXPECT_THAT(metrics, testing::ContainsRegex(
                             "haproxy_server_bytes_in_total.namespace=\"shop\",service=\"web\",port=\"http\","
                             "proxy=\"b_shop_web_http_0123456789\",server=\"127.0.0.1:8001\",pod=\"web-1\"."));
    EXPECT_THAT(metrics, testing::Not(testing::HasSubstr("proxy=\"metrics\"")));
    // The pipe is still there for an agent that comes anew, and so is the log after a reload.
    config.backends["more"] = {{"balance roundrobin"}, "", {}, "", ""};
    EXPECT_APPLIED(proxy.apply(config));
    EXPECT_EQ(proxy.reloads(), 1u);
    while (::read(pipe->get(), std::string(1 << 16, ' ').data(), 1 << 16) > 0) continue;
    EXPECT_EQ(ask("a.test"), "one");
    EXPECT_EQ(linesOf(*pipe, 1).size(), 1u);
  });
}

TEST(Haproxy, PagesStandInForErrors) {
  apart([](const Haproxy::Options& options) {
    auto map = object::Object::parse(
        R"({"metadata":{"name":"pages"},"data":{"503":"<p>soon</p>","404.json":"{}","418.txt":"tea","x":"y"}})");
    Config config = serving({});
    std::vector<std::string> problems;
    const auto pages = errorPagesOf(**map, config.files, problems);
    EXPECT_EQ(problems.size(), 1u);
    config.backends["tea"] = {{"http-request return status 418"}, "", {}, "", ""};
    for (auto& [name, backend] : config.backends) errorPageLines(backend.lines, pages);
    config.backends["none"] = {{"http-request return status 404 errorfile @" + pages[0].file}, "", {}, "", ""};
    config.prefixes["i|a.test/none/"] = "none";
    Haproxy proxy(options);
    EXPECT_APPLIED(proxy.apply(config));
    EXPECT_EQ(askWhole("a.test", "/").substr(0, 12), "HTTP/1.1 503");
    EXPECT_THAT(askWhole("a.test", "/"), testing::EndsWith("<p>soon</p>"));
    EXPECT_THAT(askWhole("a.test", "/none"),
                testing::AllOf(testing::HasSubstr("application/json"), testing::EndsWith("{}")));
  });
}

TEST(Haproxy, EndpointsAndRoutesChangeWithoutAReload) {
  apart([](const Haproxy::Options& options) {
    Backhand one("one", 8001), two("two", 8002), three("three", 8003);
    Haproxy proxy(options);
    EXPECT_APPLIED(proxy.apply(serving({{"127.0.0.1", 8001}})));
    EXPECT_EQ(ask("a.test"), "one");
    EXPECT_EQ(ask("b.test"), "HTTP/1.1 404");
    EXPECT_EQ(ask("A.test:80", "/x"), "one");
    EXPECT_EQ(ask("a.test/x", "/x"), "HTTP/1.1 404");
    EXPECT_APPLIED(proxy.apply(serving({{"127.0.0.1", 8002}})));
    EXPECT_EQ(ask("a.test"), "two");
    EXPECT_APPLIED(proxy.apply(serving({{"127.0.0.1", 8002, Server::State::kLeaving}, {"127.0.0.1", 8003}})));
    for (int i = 0; i < 4; ++i) EXPECT_EQ(ask("a.test"), "three");
    EXPECT_APPLIED(proxy.apply(serving({})));
    EXPECT_EQ(ask("a.test"), "HTTP/1.1 503");
    Config routes = serving({{"127.0.0.1", 8001}});
    routes.sites["i|*.c.test"] = "i|*.c.test";
    routes.exact["i|*.c.test/x;y"] = "web";
    // The first wildcard and the first exact path are another structure, once.
    EXPECT_EQ(proxy.reloads(), 0u);
    EXPECT_APPLIED(proxy.apply(routes));
    EXPECT_EQ(ask("a.test", "/x;y"), "one");
    EXPECT_EQ(ask("b.c.test", "/x;y"), "one");
    EXPECT_EQ(ask("b.c.test", "/"), "HTTP/1.1 404");
    EXPECT_EQ(ask("a.b.c.test", "/x;y"), "HTTP/1.1 404");
    EXPECT_APPLIED(proxy.apply(serving({{"127.0.0.1", 8001}})));
    EXPECT_EQ(ask("b.c.test", "/x;y"), "HTTP/1.1 404");
    EXPECT_APPLIED(proxy.apply(routes));
    EXPECT_EQ(ask("b.c.test", "/x;y"), "one");
    EXPECT_EQ(proxy.reloads(), 1u);
    // More servers than there is room for.
    std::vector<Server> many;
    for (uint16_t port = 8001; port <= 8009; ++port) many.push_back({"127.0.0.1", port});
    EXPECT_APPLIED(proxy.apply(serving(many)));
    EXPECT_EQ(proxy.reloads(), 2u);
  });
}

TEST(Haproxy, ServesAndIsServedByBothFamilies) {
  apart([](Haproxy::Options options) {
    options.address6 = "::1";
    Backhand one("one", 8001), six("six", 8001, true), other("other", 8002, true);
    Config config = serving({{"::1", 8001}});
    config.prefixes["i|a.test/few/"] = "few";
    config.prefixes["i|a.test/not/"] = "not";
    config.backends["few"] = {
        {"stick-table type ipv6 size 100k expire 1m store http_req_rate(5s)", "http-request track-sc0 src",
         "http-request deny deny_status 503 if { sc0_http_req_rate gt 2 }"},
        "",
        {{"127.0.0.1", 8001}},
        "",
        ""};
    config.backends["not"] = {
        {"acl denied src ::1/128", "http-request deny deny_status 403 if denied"}, "", {{"::1", 8001}}, "", ""};
    Haproxy proxy(options);
    EXPECT_APPLIED(proxy.apply(config));
    EXPECT_FALSE(proxy.portsMissing());
    for (bool family : {false, true}) EXPECT_EQ(ask("a.test", "/", 80, "", family), "six");
    EXPECT_THAT(six.last(), testing::AllOf(testing::HasSubstr("x-forwarded-for: ::1\r\n"),
                                           testing::HasSubstr("x-forwarded-port: 80\r\n")));
    EXPECT_EQ(ask("a.test", "/not/", 80, "", false), "six");
    EXPECT_EQ(ask("a.test", "/not/", 80, "", true), "HTTP/1.1 403");
    for (int i = 0; i < 3; ++i) EXPECT_EQ(ask("a.test", "/few/", 80, "", true), i < 2 ? "one" : "HTTP/1.1 503");
    EXPECT_EQ(ask("a.test", "/few/"), "one");
    // Pods change their place and family without a reload.
    Kept kept(true);
    EXPECT_EQ(kept.ask(), "six");
    for (const Server& server : {Server{"127.0.0.1", 8001}, Server{"::1", 8002}, Server{"::1", 8001}}) {
      config.backends["web"].servers = {server};
      EXPECT_APPLIED(proxy.apply(config));
      EXPECT_EQ(ask("a.test"), server.port == 8002 ? "other" : server.address == "::1" ? "six" : "one");
    }
    EXPECT_EQ(proxy.reloads(), 0u);
    auto log = openLogPipe(options.logPipe());
    ASSERT_TRUE(log.ok());
    // What a worker that goes hands over is still the client's.
    config.backends["more"] = {{"balance roundrobin"}, "", {}, "", ""};
    EXPECT_APPLIED(proxy.apply(config));
    EXPECT_EQ(proxy.reloads(), 1u);
    while (::read(log->get(), std::string(1 << 16, ' ').data(), 1 << 16) > 0) continue;
    EXPECT_EQ(kept.ask(), "six");
    EXPECT_THAT(six.last(), testing::HasSubstr("x-forwarded-for: ::1\r\n"));
    const auto lines = linesOf(*log, 1);
    ASSERT_EQ(lines.size(), 1u);
    EXPECT_EQ(lines[0].at("client").as_string(), "::1");
    EXPECT_EQ(lines[0].at("server").as_string(), "[::1]:8001");
    auto raw = readMetrics(options.metricsSocket(), options.adminSocket());
    ASSERT_TRUE(raw.ok());
    EXPECT_THAT(labelledMetrics(*raw, config, [](const std::string& address) { return "pod of " + address; }),
                testing::HasSubstr("server=\"[::1]:8001\",pod=\"pod of ::1\""));
    // Who keeps it next finds servers at their places.
    const auto slots = slotsIn(readFile(options.folder + "/haproxy.cfg", 1 << 20).valueOr(""));
    EXPECT_THAT(slots.at("web"), testing::UnorderedElementsAre(Server{"::1", 8001, Server::State::kReady, ""},
                                                               std::nullopt, std::nullopt, std::nullopt, std::nullopt,
                                                               std::nullopt, std::nullopt, std::nullopt));
  });
}

TEST(Haproxy, AnAddressThatIsNotThereKeepsNobodyFromTheOther) {
  apart([](Haproxy::Options options) {
    options.address6 = "2001:db8::1";
    Backhand one("one", 8001);
    Haproxy proxy(options);
    EXPECT_APPLIED(proxy.apply(serving({{"127.0.0.1", 8001}})));
    EXPECT_EQ(ask("a.test"), "one");
    EXPECT_TRUE(proxy.portsMissing());
    EXPECT_APPLIED(proxy.apply(serving({{"127.0.0.1", 8001}})));
    EXPECT_EQ(proxy.reloads(), 0u);
  });
}

TEST(Haproxy, APortThatSomebodyHasStopsNoOther) {
  apart([](const Haproxy::Options& options) {
    Backhand one("one", 8001);
    auto somebody = std::make_unique<Backhand>("somebody", 81);
    Haproxy proxy(options);
    Config config = serving({{"127.0.0.1", 8001}});
    EXPECT_APPLIED(proxy.apply(config));
    config.frontends[0].listeners.push_back({81, false});
    EXPECT_APPLIED(proxy.apply(config));
    EXPECT_EQ(ask("a.test"), "one");
    EXPECT_EQ(ask("a.test", "/", 81), "somebody");
    EXPECT_TRUE(proxy.portsMissing());
    const size_t reloads = proxy.reloads();
    EXPECT_APPLIED(proxy.apply(config));
    EXPECT_EQ(proxy.reloads(), reloads);
    somebody.reset();
    EXPECT_APPLIED(proxy.apply(config));
    EXPECT_EQ(ask("a.test", "/", 81), "one");
    EXPECT_FALSE(proxy.portsMissing());
  });
}

TEST(Haproxy, HoweverMuchIsWrongTheRestIsServed) {
  apart([](const Haproxy::Options& options) {
    Backhand one("one", 8001);
    Haproxy proxy(options);
    Config config = serving({{"127.0.0.1", 8001}});
    for (int i = 0; i < 120; ++i) {
      const std::string name = fmt::format("bad{}", i % 20);
      config.backends[name] = {{"http-request frobnicate"}, "", {{"127.0.0.1", 8001}}, "", ""};
      config.frontends[0].acls.push_back(fmt::format("acl a{} path -m reg '^/a[]{}'", i, i));
      config.frontends[0].afterExact.push_back(fmt::format("http-request set-var(txn.to) str({}) if a{}", name, i));
    }
    // What HAProxy only warns of is left as it is.
    config.backends["web"].lines.emplace_back("http-request set-header X 1");
    config.backends["web"].lines.emplace_back("tcp-request content accept");
    config.backends["other"] = {{"http-request auth unless { http_auth(nobodys) }"}, "", {}, "", ""};
    config.sites["i|other.test"] = "i|other.test";
    config.prefixes["i|other.test/"] = "other";
    EXPECT_APPLIED(proxy.apply(config));
    EXPECT_EQ(ask("a.test"), "one");
    EXPECT_EQ(ask("other.test"), "HTTP/1.1 503");
  });
}

TEST(Haproxy, WhatItRefusesAnswers503AndStopsNothingElse) {
  apart([](const Haproxy::Options& options) {
    Backhand one("one", 8001);
    Haproxy proxy(options);
    Config config = serving({{"127.0.0.1", 8001}});
    config.sites["i|bad.test"] = "i|bad.test";
    config.prefixes["i|bad.test/"] = "bad";
    config.backends["bad"] = {{"http-request frobnicate"}, "", {{"127.0.0.1", 8001}}, "", ""};
    // A regular expression to one, none to HAProxy.
    config.frontends[0].afterExact = {"http-request set-var(txn.to) str(bad) if { path -m reg '^/a[]' }"};
    EXPECT_APPLIED(proxy.apply(config));
    EXPECT_EQ(ask("a.test"), "one");
    EXPECT_EQ(ask("bad.test"), "HTTP/1.1 503");
    EXPECT_EQ(proxy.reloads(), 0u);
    // What was refused once is not tried again, and not kept on disk.
    Backhand two("two", 8002);
    config.backends["web"].servers = {{"127.0.0.1", 8002}};
    EXPECT_APPLIED(proxy.apply(config));
    EXPECT_EQ(proxy.reloads(), 0u);
    EXPECT_EQ(ask("a.test"), "two");
    auto pid = readFile(options.run + "/pid");
    ASSERT_TRUE(pid.ok());
    ::kill(std::stoi(*pid), SIGKILL);
    while (proxy.running()) std::this_thread::yield();
    Haproxy next(options);
    EXPECT_APPLIED(next.recover());
    EXPECT_EQ(ask("a.test"), "two");
    EXPECT_EQ(ask("bad.test"), "HTTP/1.1 503");
  });
}

}  // namespace
}  // namespace dhow::ingress
