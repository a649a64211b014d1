// A real HAProxy that asks a real filter, in a network namespace of the test's own.
#include "ingress/edge_filter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <thread>

#include "access_log.h"
#include "base/files.h"
#include "base/strings.h"
#include "filter_lines.h"
#include "haproxy.h"
#include "haproxy_fixture.h"

namespace dhow::ingress {
namespace {

// The filter on a thread of its own, as long as it lives.
class Filter {
 public:
  Filter(const Haproxy::Options& options, int findings)
      : thread_([this, options, findings] {
          BlockingPool pool(2);
          EdgeFilter filter(loop_, pool, {options.filterSocket, options.folder + "/files", "", findings});
          auto opened = filter.open();
          EXPECT_TRUE(opened.ok()) << opened.error().message();
          ::chmod(options.filterSocket.c_str(), 0666);
          filter.start();
          filter_ = &filter;
          ready_ = true;
          loop_.run();
        }) {
    while (!ready_) std::this_thread::yield();
  }
  ~Filter() {
    loop_.post([this] { spawn(loop_, end(this)); });
    thread_.join();
  }

 private:
  static Task<> end(Filter* self) {
    co_await self->filter_->stop();
    self->loop_.stop();
  }
  RealLoop loop_;
  EdgeFilter* filter_ = nullptr;
  std::atomic<bool> ready_{false};
  std::thread thread_;
};

// HAProxy finds a filter by its checks. Each request has its line in the log before the next one is sent.
void awaitFilter(const UniqueFd& log, const std::function<bool()>& answers) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  for (bool there = false; !there;) {
    there = answers();
    ASSERT_EQ(linesOf(log, 1).size(), 1u);
    ASSERT_LT(std::chrono::steady_clock::now(), end);
  }
}

TEST(EdgeFilter, JudgesAndCopiesRequests) {
  if (!pathExists("/etc/modsecurity/crs/crs-setup.conf")) GTEST_SKIP() << "modsecurity-crs is not installed";
  apart([](Haproxy::Options options) {
    Backhand one("one", 8001), copy("copy", 8002);
    Config config = serving({{"127.0.0.1", 8001}});
    auto route = [&](const std::string& path, std::vector<std::string> lines) {
      const std::string name = "to" + path;
      config.prefixes[fmt::format("i|a.test/{}/", path)] = name;
      config.backends[name] = {std::move(lines), "", {{"127.0.0.1", 8001}}, "", ""};
    };
    auto judged = [&](WafPolicy policy) {
      std::vector<std::string> lines;
      wafLines(lines, policy, config.files);
      return lines;
    };
    route("prevent", judged({.prevent = true}));
    route("detect", judged({.failOpen = true}));
    route("lenient", judged({.prevent = true, .failOpen = true}));
    std::vector<std::string> mirrored;
    mirrorLines(mirrored, {.address = "127.0.0.1:8002", .path = "/in"}, config.files);
    route("mirrored", mirrored);
    Haproxy proxy(options);
    EXPECT_APPLIED(proxy.apply(config));
    const std::string attack = "?id=1%27%20OR%20%271%27=%271";
    // Nobody judges: what the route says of that, and, once it is known, at once.
    const auto begun = std::chrono::steady_clock::now();
    EXPECT_EQ(ask("a.test", "/prevent/"), "HTTP/1.1 503");
    EXPECT_EQ(ask("a.test", "/lenient/"), "one");
    EXPECT_EQ(ask("a.test", "/detect/" + attack), "one");
    EXPECT_EQ(ask("a.test", "/mirrored/x"), "one");
    EXPECT_EQ(copy.requests(), 0u);
    EXPECT_LT(std::chrono::steady_clock::now() - begun, std::chrono::seconds(8));
    auto log = openLogPipe(options.logPipe()), findings = openLogPipe(options.findingsPipe());
    ASSERT_TRUE(log.ok() && findings.ok());
    EXPECT_EQ(linesOf(*log, 4).size(), 4u);
    {
      Filter filter(options, findings->get());
      awaitFilter(*log, [] { return ask("a.test", "/prevent/") == "one"; });
      EXPECT_EQ(ask("a.test", "/prevent/?q=shoes"), "one");
      EXPECT_EQ(ask("a.test", "/prevent/" + attack), "HTTP/1.1 403");
      EXPECT_EQ(ask("a.test", "/detect/" + attack), "one");
      EXPECT_EQ(ask("a.test", "/" + attack), "one");
      EXPECT_EQ(ask("a.test", "/prevent/", 80, "X: " + std::string(17000, 'x') + "\r\n"), "HTTP/1.1 400");
      EXPECT_EQ(ask("a.test", "/prevent/", 80, "Content-Length: 70000\r\n"), "HTTP/1.1 413");
      const auto lines = linesOf(*log, 6);
      ASSERT_EQ(lines.size(), 6u);
      EXPECT_EQ(lines[0].at("waf").as_string(), "-");
      EXPECT_THAT(std::string(lines[1].at("waf").as_string()), testing::HasSubstr("942100"));
      EXPECT_THAT(std::string(lines[2].at("waf").as_string()), testing::HasSubstr("942100"));
      const auto found = linesOf(*findings, 2);
      ASSERT_EQ(found.size(), 2u);
      EXPECT_EQ(found[0].at("host").as_string(), "a.test");
      EXPECT_EQ(found[0].at("matches").as_array()[0].as_object().at("rule").as_string(), "942100");
      EXPECT_EQ(ask("a.test", "/mirrored/x?y=1", 80, "X-Mine: 1\r\n"), "one");
      EXPECT_EQ(copy.await(1), 1u);
      EXPECT_THAT(copy.last(), testing::StartsWith("GET /in/mirrored/x?y=1 HTTP/1.1\r\n"));
      EXPECT_THAT(copy.last(), testing::HasSubstr("x-mine: 1\r\n"));
      // Another one takes its place; no question is lost, and none of those that are on the way.
      auto next = std::make_unique<Filter>(options, findings->get());
      EXPECT_EQ(ask("a.test", "/prevent/?q=shoes"), "one");
      // It waits for its connections, which HAProxy keeps for two minutes.
      EXPECT_TRUE(proxy.apply({}).ok());
    }
  });
}

TEST(EdgeFilter, AsksSomebodyElseForErrors) {
  apart([](Haproxy::Options options) {
    Backhand gone("gone", 8001, false, "404 Not Found"), broken("broken", 8002, false, "500 Internal Server Error"),
        page("<p>100% sorry</p>", 8003, false, "404 Not Found\r\nContent-Type: text/x\r\nCache-Control: max-age=7"),
        long_(std::string(20'000, 'x'), 8004);
    Config config = serving({{"127.0.0.1", 8001}});
    auto route = [&](const std::string& path, uint16_t port, const std::string& instead) {
      Backend& out = config.backends["to" + path];
      config.prefixes[fmt::format("i|a.test/{}/", path)] = "to" + path;
      out.servers = {{"127.0.0.1", port}};
      customErrorLines(out.lines, {{404, 500}, instead, "ns", "ing", "svc", "http"}, config.files);
      out.lines.emplace_back("http-request set-path /rewritten");
    };
    route("gone", 8001, "127.0.0.1:8003");
    route("broken", 8002, "127.0.0.1:8003");
    route("long", 8001, "127.0.0.1:8004");
    route("nobody", 8001, "127.0.0.1:9");
    Haproxy proxy(options);
    EXPECT_APPLIED(proxy.apply(config));
    auto log = openLogPipe(options.logPipe());
    ASSERT_TRUE(log.ok());
    // Nobody can ask: the error stands.
    EXPECT_THAT(askWhole("a.test", "/gone/"), testing::EndsWith("\r\n\r\ngone"));
    EXPECT_EQ(linesOf(*log, 1).size(), 1u);
    {
      Filter filter(options, -1);
      awaitFilter(*log, [] { return askWhole("a.test", "/gone/").ends_with("<p>100% sorry</p>"); });
      const std::string answer =
          askWhole("a.test", "/gone/x?y=1", 80, "Accept: text/html,*/*\r\nX-Request-ID: id-7\r\n");
      EXPECT_THAT(answer,
                  testing::AllOf(testing::StartsWith("HTTP/1.1 404"), testing::HasSubstr("content-type: text/x\r\n"),
                                 testing::HasSubstr("cache-control: max-age=7\r\n"),
                                 testing::EndsWith("\r\n\r\n<p>100% sorry</p>")));
      EXPECT_THAT(page.last(), testing::StartsWith("GET / HTTP/1.1\r\n"));
      for (std::string_view header :
           {"X-Code: 404", "X-Format: text/html,*/*", "X-Original-URI: /gone/x?y=1", "X-Namespace: ns",
            "X-Ingress-Name: ing", "X-Service-Name: svc", "X-Service-Port: http", "X-Request-ID: id-7", "Host: a.test"})
        EXPECT_THAT(page.last(), testing::HasSubstr(fmt::format("{}\r\n", header)));
      // Its status counts where it is one of the route's.
      EXPECT_THAT(askWhole("a.test", "/broken/"),
                  testing::AllOf(testing::StartsWith("HTTP/1.1 404"), testing::HasSubstr("sorry")));
      EXPECT_THAT(page.last(), testing::HasSubstr("X-Code: 500\r\n"));
      for (const char* path : {"/long/", "/nobody/"})
        EXPECT_THAT(askWhole("a.test", path), testing::EndsWith("\r\n\r\ngone"));
      EXPECT_TRUE(proxy.apply({}).ok());
    }
  });
}

TEST(EdgeFilter, LetsUsersInWhomHaproxyCouldNotTellApart) {
  apart([](Haproxy::Options options) {
    Backhand one("one", 8001);
    Config config = serving({{"127.0.0.1", 8001}});
    config.files["users_x"] = "ann:$apr1$abcdefgh$h9FWgUz3n9YxylKLlR5SQ/\nbob:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=\n";
    config.backends["web"].lines.clear();
    usersLines(config.backends["web"].lines, "users_x", "'it'\\''s me'", config.files);
    Haproxy proxy(options);
    EXPECT_APPLIED(proxy.apply(config));
    auto user = [](std::string_view name, std::string_view password) {
      return fmt::format("Authorization: Basic {}\r\n", toBase64(fmt::format("{}:{}", name, password)));
    };
    // Nobody tells, nobody comes in.
    EXPECT_EQ(ask("a.test", "/", 80, user("ann", "secret")), "HTTP/1.1 503");
    auto log = openLogPipe(options.logPipe());
    ASSERT_TRUE(log.ok());
    EXPECT_EQ(linesOf(*log, 1).size(), 1u);
    {
      Filter filter(options, -1);
      awaitFilter(*log, [&] { return ask("a.test", "/", 80, user("ann", "secret")) == "one"; });
      EXPECT_EQ(ask("a.test", "/", 80, user("ann", "secret")), "one");
      EXPECT_EQ(ask("a.test", "/", 80, user("bob", "secret")), "one");
      EXPECT_THAT(askWhole("a.test"),
                  testing::AllOf(testing::StartsWith("HTTP/1.1 401"),
                                 testing::HasSubstr("www-authenticate: Basic realm=\"it's me\"\r\n")));
      for (const std::string& wrong : {user("ann", "wrong"), user("eve", "secret"), user("ann", std::string(4000, 'x')),
                                       std::string("Authorization: Bearer x\r\n"), std::string("Authorization: \r\n")})
        EXPECT_EQ(ask("a.test", "/", 80, wrong), "HTTP/1.1 401") << wrong;
      // A list that is not there opens nothing.
      Backend& other = config.backends["other"];
      other.servers = config.backends["web"].servers;
      usersLines(other.lines, "users_y", "x", config.files);
      config.prefixes["i|a.test/"] = "other";
      EXPECT_TRUE(proxy.apply(config).ok());
      EXPECT_EQ(ask("a.test", "/", 80, user("ann", "secret")), "HTTP/1.1 503");
      EXPECT_TRUE(proxy.apply({}).ok());
    }
  });
}

}  // namespace
}  // namespace dhow::ingress
