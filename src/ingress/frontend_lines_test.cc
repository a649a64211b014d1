// What frontends do to requests, shown by a real HAProxy.
#include "frontend_lines.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "haproxy_fixture.h"

namespace dhow::ingress {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

TEST(FrontendLines, ProxiesInFrontTellOfTheirClientAndNobodyElseDoes) {
  apart([](Haproxy::Options options) {
    Backhand one("one", 8001);
    Config config = serving({{"127.0.0.1", 8001}});
    Backend& web = config.backends["web"];
    web.lines.emplace_back("http-request deny deny_status 403 if { src 192.0.2.66 }");
    web.lines.emplace_back("http-request set-header X-Secure yes if { var(txn.tls) -m found }");
    for (int i = 0; i < 60; ++i) config.frontends[0].forwarders.push_back(fmt::format("10.0.{}.0/24", i));
    Haproxy proxy(options);
    EXPECT_APPLIED(proxy.apply(config));
    // Nobody that is known: all that a client says is overwritten.
    const std::string claims =
        "X-Forwarded-For: 192.0.2.66\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: x.test\r\nX-Forwarded-Port: "
        "7\r\n";
    EXPECT_EQ(ask("a.test", "/", 80, claims), "one");
    EXPECT_THAT(one.last(), AllOf(HasSubstr("x-forwarded-for: 127.0.0.1\r\n"), HasSubstr("x-real-ip: 127.0.0.1\r\n"),
                                  HasSubstr("x-forwarded-proto: http\r\n"), HasSubstr("x-forwarded-host: a.test\r\n"),
                                  HasSubstr("x-forwarded-port: 80\r\n"), Not(HasSubstr("x-secure"))));
    config.frontends[0].forwarders.push_back("127.0.0.0/8");
    EXPECT_APPLIED(proxy.apply(config));
    EXPECT_EQ(ask("a.test", "/", 80, claims), "HTTP/1.1 403");
    auto told = [&](const std::string& chain) {
      EXPECT_EQ(ask("a.test", "/", 80,
                    chain + "X-Forwarded-Proto: https\r\nX-Forwarded-Host: x.test\r\nX-Forwarded-Port: 7\r\n"),
                "one")
          << chain;
      return one.last();
    };
    EXPECT_THAT(told("X-Forwarded-For: 192.0.2.66, 198.51.100.7, 10.0.55.3\r\n"),
                AllOf(HasSubstr("x-forwarded-for: 192.0.2.66, 198.51.100.7, 10.0.55.3, 127.0.0.1\r\n"),
                      HasSubstr("x-real-ip: 198.51.100.7\r\n"), HasSubstr("x-forwarded-proto: https\r\n"),
                      HasSubstr("x-forwarded-host: x.test\r\n"), HasSubstr("x-forwarded-port: 7\r\n"),
                      HasSubstr("x-secure: yes\r\n")));
    // Several headers are one list; what is no address ends it, and so do too many.
    EXPECT_THAT(told("X-Forwarded-For: 2001:db8::1\r\nX-Forwarded-For: 10.0.1.1\r\n"),
                AllOf(HasSubstr("x-forwarded-for: 2001:db8::1\r\n"), HasSubstr("x-forwarded-for: 127.0.0.1\r\n"),
                      HasSubstr("x-real-ip: 2001:db8::1\r\n")));
    EXPECT_THAT(told("X-Forwarded-For: 192.0.2.66, unknown, 10.0.1.1\r\n"), HasSubstr("x-real-ip: 10.0.1.1\r\n"));
    EXPECT_THAT(told("X-Forwarded-For: 192.0.2.66, 10.0.0.6, 10.0.0.5, 10.0.0.4, 10.0.0.3, 10.0.0.2\r\n"),
                HasSubstr("x-real-ip: 10.0.0.6\r\n"));
    EXPECT_THAT(told(""), AllOf(HasSubstr("x-forwarded-for: 127.0.0.1\r\n"), HasSubstr("x-real-ip: 127.0.0.1\r\n")));
    EXPECT_EQ(ask("a.test"), "one");
    EXPECT_THAT(one.last(), AllOf(HasSubstr("x-forwarded-proto: http\r\n"), HasSubstr("x-forwarded-host: a.test\r\n")));
    // A worker that goes hands over what it was told.
    Kept kept;
    EXPECT_EQ(kept.ask(), "one");
    config.backends["more"] = {{"balance roundrobin"}, "", {}, "", ""};
    EXPECT_APPLIED(proxy.apply(config));
    EXPECT_EQ(proxy.reloads(), 2u);
    EXPECT_EQ(kept.ask("X-Forwarded-For: 192.0.2.7, 10.0.1.1\r\nX-Forwarded-Proto: https\r\n"), "one");
    EXPECT_THAT(one.last(), AllOf(HasSubstr("x-forwarded-for: 192.0.2.7, 10.0.1.1, 127.0.0.1\r\n"),
                                  HasSubstr("x-real-ip: 192.0.2.7\r\n"), HasSubstr("x-forwarded-proto: https\r\n"),
                                  HasSubstr("x-secure: yes\r\n")));
  });
}

}  // namespace
}  // namespace dhow::ingress
