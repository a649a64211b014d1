// A real HAProxy, in a network namespace of the test's own.
#include "haproxy.h"

#include <gmock/gmock.h>

#include <atomic>
#include <csignal>
#include <map>
#include <thread>

#include "backend_lines.h"
#include "error_pages.h"
#include "haproxy_fixture.h"
#include "metrics.h"

namespace dhow::ingress {
namespace {

// A connection that stays, as browsers keep theirs.
class Kept {
 public:
  explicit Kept(bool six = false) : fd_(::socket(six ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    EXPECT_EQ(atLoopback(::connect, fd_, 80, six), 0);
  }
  // The body, or the status where it is not 200.
  std::string ask() {
    const std::string_view request = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";
    (void)::send(fd_.get(), request.data(), request.size(), MSG_NOSIGNAL);
    std::string answer;
    char buffer[4096];
    size_t body = std::string::npos;
    while (body == std::string::npos || answer.size() == body) {
      const ssize_t count = ::recv(fd_.get(), buffer, sizeof buffer, 0);
      if (count <= 0) break;
      answer.append(buffer, static_cast<size_t>(count));
      if (body = answer.find("\r\n\r\n"); body != std::string::npos) body += 4;
    }
    return answer.starts_with("HTTP/1.1 200") ? answer.substr(body) : answer.substr(0, 12);
  }

 private:
  UniqueFd fd_;
};

#define EXPECT_APPLIED(expression)                          \
  do {                                                      \
    auto applied = (expression);                            \
    EXPECT_TRUE(applied.ok()) << applied.error().message(); \
  } while (false)

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

TEST(Haproxy, OutlivesItsKeeperAndComesBackWithWhatWasInForce) {
  apart([](const Haproxy::Options& options) {
    Backhand one("one", 8001), two("two", 8002);
    {
      Haproxy proxy(options);
      EXPECT_APPLIED(proxy.apply(serving({{"127.0.0.1", 8001}})));
      EXPECT_APPLIED(proxy.apply(serving({{"127.0.0.1", 8002}})));
    }
    EXPECT_EQ(ask("a.test"), "two");
    Haproxy next(options);
    EXPECT_APPLIED(next.recover());
    EXPECT_TRUE(next.running());
    EXPECT_APPLIED(next.apply(serving({{"127.0.0.1", 8001}})));
    EXPECT_EQ(ask("a.test"), "one");
    auto pid = readFile(options.run + "/pid");
    ASSERT_TRUE(pid.ok());
    ::kill(std::stoi(*pid), SIGKILL);
    while (next.running()) std::this_thread::yield();
    Haproxy third(options);
    EXPECT_APPLIED(third.recover());
    EXPECT_EQ(ask("a.test"), "one");
  });
}

TEST(Haproxy, ServersKeepTheirPlacesWhenItsKeeperIsAnother) {
  // The worker that runs knows servers by their places.
  apart([](const Haproxy::Options& options) {
    auto places = [&] { return readFile(options.folder + "/haproxy.cfg").valueOr(""); };
    {
      Haproxy proxy(options);
      EXPECT_APPLIED(proxy.apply(serving({{"127.0.0.1", 8001}, {"127.0.0.1", 8002}})));
      EXPECT_APPLIED(proxy.apply(serving({{"127.0.0.1", 8002}, {"127.0.0.1", 8003}})));
    }
    EXPECT_NE(places().find("s2 127.0.0.1:8003 "), std::string::npos);
    Haproxy next(options);
    EXPECT_APPLIED(next.recover());
    EXPECT_APPLIED(next.apply(serving({{"127.0.0.1", 8002, Server::State::kLeaving}, {"127.0.0.1", 8003}})));
    EXPECT_NE(places().find("s2 127.0.0.1:8003 "), std::string::npos);
    EXPECT_NE(places().find("s1 127.0.0.1:8002 "), std::string::npos);
  });
}

TEST(Haproxy, AWorkerThatGoesHandsOverWhatItIsAskedWhenServersAreOthers) {
  // In a rollout there are more pods than before for a moment: HAProxy is reloaded, and the idle connections of clients
  // stay with the worker that goes for one more request each.
  apart([](const Haproxy::Options& options) {
    Backhand one("one", 8001), six("six", 8006);
    Haproxy proxy(options);
    EXPECT_APPLIED(proxy.apply(serving({{"127.0.0.1", 8001}})));
    Kept first, second;
    EXPECT_EQ(first.ask(), "one");
    EXPECT_EQ(second.ask(), "one");
    std::vector<Server> all;
    for (uint16_t port = 8001; port <= 8009; ++port)
      all.push_back({"127.0.0.1", port, port == 8001 ? Server::State::kReady : Server::State::kLeaving});
    EXPECT_APPLIED(proxy.apply(serving(all)));
    EXPECT_EQ(proxy.reloads(), 1u);
    EXPECT_APPLIED(proxy.apply(serving({{"127.0.0.1", 8006}})));
    EXPECT_EQ(first.ask(), "six");
    // One that a next agent finds.
    Haproxy next(options);
    EXPECT_APPLIED(next.recover());
    EXPECT_APPLIED(next.apply(serving({{"127.0.0.1", 8006}})));
    Backhand seven("seven", 8007);
    EXPECT_APPLIED(next.apply(serving({{"127.0.0.1", 8006, Server::State::kLeaving}, {"127.0.0.1", 8007}})));
    EXPECT_EQ(second.ask(), "seven");
  });
}

TEST(Haproxy, AWorkerThatGoesHandsOverWhatItIsAskedWhenItsSectionIsNoMore) {
  apart([](const Haproxy::Options& options) {
    Backhand one("one", 8001), two("two", 8002);
    Haproxy proxy(options);
    Config before = serving({{"127.0.0.1", 8001}});
    EXPECT_APPLIED(proxy.apply(before));
    Kept kept;
    EXPECT_EQ(kept.ask(), "one");
    // An annotation changes: the same service has another section.
    Config after = before;
    after.prefixes = {{"i|a.test/", "other"}};
    after.backends = {{"other", before.backends["web"]}};
    after.backends["other"].lines = {"balance leastconn"};
    EXPECT_APPLIED(proxy.apply(after));
    EXPECT_EQ(proxy.reloads(), 1u);
    after.backends["other"].servers = {{"127.0.0.1", 8002}};
    EXPECT_APPLIED(proxy.apply(after));
    EXPECT_EQ(kept.ask(), "two");
  });
}

TEST(Haproxy, ConnectionsAreEndedInPeace) {
  apart([](const Haproxy::Options& options) {
    Backhand one("one", 8001), two("two", 8002);
    Haproxy proxy(options);
    EXPECT_APPLIED(proxy.apply(serving({{"127.0.0.1", 8001}})));
    auto idle = std::make_unique<Kept>();
    EXPECT_EQ(idle->ask(), "one");
    EXPECT_TRUE(proxy.replaced().empty());
    EXPECT_APPLIED(proxy.endConnections());
    std::vector<UniqueFd> left = proxy.replaced();
    ASSERT_EQ(left.size(), 1u);
    // Pods may come and go meanwhile.
    EXPECT_APPLIED(proxy.apply(serving({{"127.0.0.1", 8002}})));
    EXPECT_EQ(idle->ask(), "two");
    idle.reset();
    struct pollfd ended{left[0].get(), POLLIN, 0};
    EXPECT_EQ(::poll(&ended, 1, 10'000), 1);
    EXPECT_TRUE(proxy.replaced().empty());
    EXPECT_TRUE(proxy.running());
    proxy.stop();
    EXPECT_FALSE(proxy.running());
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

TEST(Haproxy, OnlyAWorkerSpeaksForClients) {
  apart([](const Haproxy::Options& options) {
    Backhand one("one", 8001);
    Haproxy proxy(options);
    EXPECT_APPLIED(proxy.apply(serving({{"127.0.0.1", 8001}})));
    auto secret = readFile(options.folder + "/handover.secret", 256);
    ASSERT_TRUE(secret.ok());
    auto asks = [](const std::string& said) {
      UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
      auto address = loopback(80);
      ::inet_pton(AF_INET, "127.0.14.1", &address.sin_addr);
      EXPECT_EQ(::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
      const std::string request =
          "PROXY TCP4 192.0.2.1 192.0.2.2 1 80\r\nGET / HTTP/1.1\r\nHost: a.test\r\n" + said + "\r\n";
      (void)::send(fd.get(), request.data(), request.size(), MSG_NOSIGNAL);
      char answer[12] = {};
      (void)::recv(fd.get(), answer, sizeof answer, MSG_WAITALL);
      return std::string(answer + 9, 3);
    };
    EXPECT_EQ(asks(""), "403");
    EXPECT_EQ(asks("X-Dhow-Handover: x\r\n"), "403");
    EXPECT_EQ(asks("X-Dhow-Handover: " + *secret + "\r\n"), "200");
  });
}

TEST(Haproxy, NoMomentIsWithoutServersWhenRoutesMoveOrAllServersChange) {
  apart([](const Haproxy::Options& options) {
    Backhand one("one", 8001), two("two", 8002);
    Haproxy proxy(options);
    Config config = serving({{"127.0.0.1", 8001}});
    config.backends["other"] = {{"balance roundrobin"}, "", {{"127.0.0.1", 8002}}, "", ""};
    EXPECT_APPLIED(proxy.apply(config));
    std::atomic<bool> ended = false;
    std::map<std::string, int> answers;
    std::thread client([&] {
      while (!ended) ++answers[ask("a.test")];
    });
    for (int i = 0; i < 40; ++i) {
      const bool other = i % 2 == 0;
      Config moved = config;
      moved.prefixes["i|a.test/"] = other ? "other" : "web";
      moved.backends.erase(other ? "web" : "other");
      EXPECT_APPLIED(proxy.apply(moved));
    }
    for (uint16_t i = 0; i < 40; ++i)
      EXPECT_APPLIED(proxy.apply(serving({{"127.0.0.1", static_cast<uint16_t>(8002 - i % 2)}})));
    ended = true;
    client.join();
    EXPECT_EQ(proxy.reloads(), 0u);
    EXPECT_EQ(answers.size(), 2u) << answers.begin()->first << " " << answers.rbegin()->first;
    EXPECT_GT(answers["one"], 0);
    EXPECT_GT(answers["two"], 0);
  });
}

Config sticky(std::vector<Server> servers, const std::string& more = "") {
  Config config = serving(servers);
  Annotations::Affinity cookie;
  cookie.name = "STICK";
  Backend& backend = config.backends["web"];
  backend.sessions = {"sessions_web", 300};
  backend.lines.push_back("cookie STICK insert indirect nocache dynamic");
  backend.lines.push_back("dynamic-cookie-key 0123456789");
  for (const std::string& line : sessionLines(cookie, "sessions_web")) backend.lines.push_back(line);
  if (!more.empty()) config.frontends[0].acls.push_back(more);
  return config;
}

// Whom a browser without a cookie is sent to, and its cookie.
std::pair<std::string, std::string> browser() {
  const std::string answer = askWhole("a.test");
  const size_t begin = answer.find("STICK="), end = answer.find(';', begin);
  if (begin == answer.npos) return {};
  return {answer.substr(answer.find("\r\n\r\n") + 4),
          "Cookie: a=b; " + answer.substr(begin, end - begin) + "; c=d\r\n"};
}

TEST(Haproxy, AServerThatDrainsKeepsItsUsersOverReloadsAndKeepers) {
  apart([](const Haproxy::Options& options) {
    using State = Server::State;
    Backhand one("one", 8001), two("two", 8002);
    const Server drains{"127.0.0.1", 8001, State::kDraining, "pod-one"},
        stays{"127.0.0.1", 8002, State::kReady, "pod-two"};
    auto users = [](Haproxy& proxy, const std::string& pod) -> uint64_t {
      auto counted = proxy.count();
      if (!counted.ok()) ADD_FAILURE() << counted.error().message();
      return counted.ok() && counted->contains(pod) ? counted->at(pod).users.count() : 99;
    };
    std::string ann;
    {
      Haproxy proxy(options);
      EXPECT_APPLIED(proxy.apply(sticky({{"127.0.0.1", 8001, State::kReady, "pod-one"}, stays})));
      std::string name;
      while (name != "one") std::tie(name, ann) = browser();
      EXPECT_EQ(users(proxy, "pod-one"), 1U);
      EXPECT_APPLIED(proxy.apply(sticky({drains, stays})));
      EXPECT_EQ(proxy.reloads(), 0U);
      for (int i = 0; i < 4; ++i) {
        EXPECT_EQ(ask("a.test", "/", 80, ann), "one");
        EXPECT_EQ(browser().first, "two");
      }
      EXPECT_EQ(users(proxy, "pod-one"), 1U);
      const uint64_t others = users(proxy, "pod-two");
      EXPECT_GE(others, 4U);
      // Two reloads, one right after the other: no worker has time to learn from the one before.
      EXPECT_APPLIED(proxy.apply(sticky({drains, stays}, "acl x path /x")));
      EXPECT_APPLIED(proxy.apply(sticky({drains, stays}, "acl y path /y")));
      EXPECT_EQ(proxy.reloads(), 2U);
      EXPECT_EQ(ask("a.test", "/", 80, ann), "one");
      EXPECT_EQ(browser().first, "two");
      EXPECT_EQ(users(proxy, "pod-one"), 1U);
      EXPECT_EQ(users(proxy, "pod-two"), others + 1);
    }
    Haproxy next(options);
    EXPECT_APPLIED(next.recover());
    EXPECT_APPLIED(next.apply(sticky({drains, stays})));
    EXPECT_EQ(ask("a.test", "/", 80, ann), "one");
    EXPECT_EQ(browser().first, "two");
    EXPECT_EQ(users(next, "pod-one"), 1U);
    // Its end: who comes back gets another pod, and its users are not those of the pod that gets its address.
    EXPECT_APPLIED(next.apply(sticky({{"127.0.0.1", 8001, State::kLeaving, "pod-one"}, stays})));
    EXPECT_EQ(ask("a.test", "/", 80, ann), "two");
    EXPECT_APPLIED(next.apply(sticky({{"127.0.0.1", 8001, State::kReady, "pod-three"}, stays})));
    EXPECT_EQ(users(next, "pod-three"), 0U);
    std::string name;
    for (int i = 0; i < 10 && name != "one"; ++i) std::tie(name, ann) = browser();
    EXPECT_EQ(name, "one");  // its weight is one again
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

TEST(Haproxy, AReloadThatFailsIsToldAndLeavesWhatWasInForce) {
  apart([](Haproxy::Options options) {
    // Somebody takes a port after it was looked at and before HAProxy takes it.
    const std::string gap = options.folder + "-gap", asked = options.folder + "-asked",
                      taken = options.folder + "-taken";
    ASSERT_EQ(::mkfifo(asked.c_str(), 0600), 0);
    ASSERT_EQ(::mkfifo(taken.c_str(), 0600), 0);
    const std::string script = fmt::format(
        "#!/bin/sh\n"
        "case $1 in -c) [ -e {0} ] && rm {0} && echo > {1} && read x < {2};; esac\n"
        "exec /usr/sbin/haproxy \"$@\"\n",
        gap, asked, taken);
    options.program = options.folder + "-program";
    ASSERT_TRUE(writeFile(options.program, script, 0700).ok());
    Backhand one("one", 8001), two("two", 8002);
    Haproxy proxy(options);
    Config config = serving({{"127.0.0.1", 8001}});
    EXPECT_APPLIED(proxy.apply(config));
    const auto before = readFile(options.folder + "/haproxy.cfg");
    config.frontends[0].listeners.push_back({81, false});
    std::unique_ptr<Backhand> somebody;
    ASSERT_TRUE(writeFile(gap, "").ok());
    std::thread taker([&] {
      UniqueFd question(::open(asked.c_str(), O_RDONLY | O_CLOEXEC)),
          answer(::open(taken.c_str(), O_WRONLY | O_CLOEXEC));
      somebody = std::make_unique<Backhand>("somebody", 81);
      EXPECT_EQ(::write(answer.get(), "\n", 1), 1);
    });
    auto applied = proxy.apply(config);
    taker.join();
    ASSERT_FALSE(applied.ok());
    EXPECT_NE(applied.error().message().find("127.0.0.1:81"), std::string::npos) << applied.error().message();
    EXPECT_EQ(readFile(options.folder + "/haproxy.cfg").valueOr(""), *before);
    EXPECT_EQ(ask("a.test"), "one");
    config.backends["web"].servers = {{"127.0.0.1", 8002}};
    EXPECT_APPLIED(proxy.apply(config));
    EXPECT_EQ(ask("a.test"), "two");
    EXPECT_TRUE(proxy.portsMissing());
    somebody.reset();
    EXPECT_APPLIED(proxy.apply(config));
    EXPECT_EQ(ask("a.test", "/", 81), "two");
  });
}

TEST(Haproxy, NoKeyStaysThatNothingNeeds) {
  apart([](const Haproxy::Options& options) {
    const std::string old = options.folder + "/certificates/old.pem";
    Haproxy proxy(options);
    Config config = serving({});
    config.files["ca.pem"] = "x";
    EXPECT_APPLIED(proxy.apply(config));
    EXPECT_TRUE(pathExists(options.folder + "/files/ca.pem"));
    // An agent that was killed has left it.
    EXPECT_TRUE(writeFile(old, "key", 0600).ok());
    config.files.clear();
    EXPECT_APPLIED(proxy.apply(config));
    EXPECT_FALSE(pathExists(old));
    EXPECT_FALSE(pathExists(options.folder + "/files/ca.pem"));
    EXPECT_TRUE(writeFile(old, "key", 0600).ok());
    EXPECT_APPLIED(proxy.apply({}));
    EXPECT_FALSE(pathExists(old));
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

TEST(Haproxy, EndsWithTheNodeThatLeaves) {
  apart([](const Haproxy::Options& options) {
    Haproxy proxy(options);
    EXPECT_APPLIED(proxy.apply(serving({})));
    EXPECT_TRUE(proxy.running());
    endKept(options.pidFile(), std::chrono::seconds(5));
    EXPECT_FALSE(proxy.running());
    EXPECT_FALSE(findKept(options.pidFile()).has_value());
  });
}

}  // namespace
}  // namespace dhow::ingress
