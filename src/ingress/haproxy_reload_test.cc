// A real HAProxy over reloads, and over the ends of those who keep it, in a network namespace of the test's own.
#include "haproxy.h"

#include <gmock/gmock.h>

#include <atomic>
#include <csignal>
#include <map>
#include <thread>

#include "backend_lines.h"
#include "haproxy_fixture.h"

namespace dhow::ingress {
namespace {

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

// A backend that hears a request and says nothing, as one whose node lost its power.
class Silent {
 public:
  explicit Silent(uint16_t port) : fd_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    EXPECT_EQ(atLoopback(::bind, fd_, port, false), 0);
    EXPECT_EQ(::listen(fd_.get(), 8), 0);
  }
  // The connection on which the next request has come.
  UniqueFd asked() const {
    UniqueFd client(::accept4(fd_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    char byte = 0;
    EXPECT_EQ(::recv(client.get(), &byte, 1, 0), 1);
    return client;
  }

 private:
  UniqueFd fd_;
};

TEST(Haproxy, WhatWaitsForAPodThatIsGoneIsAskedElsewhere) {
  apart([](const Haproxy::Options& options) {
    Backhand two("two", 8002);
    Silent one(8001);
    Haproxy proxy(options);
    EXPECT_APPLIED(proxy.apply(serving({{"127.0.0.1", 8001}})));
    std::string answer;
    std::thread client([&] { answer = ask("a.test"); });
    const UniqueFd asked = one.asked();
    EXPECT_APPLIED(proxy.apply(serving({{"127.0.0.1", 8001, Server::State::kDraining}, {"127.0.0.1", 8002}})));
    EXPECT_APPLIED(proxy.apply(serving({{"127.0.0.1", 8002}})));
    client.join();
    EXPECT_EQ(answer, "two");
  });
}

TEST(Haproxy, WhoLeavesAServiceAloneAnswersWhatItWasAsked) {
  apart([](const Haproxy::Options& options) {
    Backhand two("two", 8002);
    Silent one(8001);
    Haproxy proxy(options);
    EXPECT_APPLIED(proxy.apply(serving({{"127.0.0.1", 8001}})));
    std::string answer;
    std::thread client([&] { answer = ask("a.test"); });
    const UniqueFd asked = one.asked();
    EXPECT_APPLIED(proxy.apply(serving({{"127.0.0.1", 8002}})));
    constexpr std::string_view kAnswer = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none";
    EXPECT_EQ(::send(asked.get(), kAnswer.data(), kAnswer.size(), MSG_NOSIGNAL), static_cast<ssize_t>(kAnswer.size()));
    client.join();
    EXPECT_EQ(answer, "one");
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
