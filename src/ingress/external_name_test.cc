// A real HAProxy that asks a name server of the test's own.
#include "external_name.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/strings.h"
#include "haproxy_fixture.h"

namespace dhow::ingress {
namespace {

// Answers each question for an IPv4 address with the one that the name is given, and others with nothing.
class NameServer {
 public:
  explicit NameServer(std::map<std::string, std::string> names)
      : names_(std::move(names)), fd_(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)) {
    EXPECT_EQ(atLoopback(::bind, fd_, 53, false), 0);
    thread_ = std::thread([this] {
      char packet[512];
      sockaddr_in from{};
      socklen_t size = sizeof from;
      while (true) {
        const ssize_t count =
            ::recvfrom(fd_.get(), packet, sizeof packet, 0, reinterpret_cast<sockaddr*>(&from), &size);
        if (count <= 0) return;
        const std::string answer = answerTo(std::string(packet, static_cast<size_t>(count)));
        (void)::sendto(fd_.get(), answer.data(), answer.size(), 0, reinterpret_cast<sockaddr*>(&from), size);
      }
    });
  }
  ~NameServer() {
    ::shutdown(fd_.get(), SHUT_RDWR);
    thread_.join();
  }

 private:
  // RFC 1035, section 4: a head of twelve bytes, the question, records.
  std::string answerTo(const std::string& question) const {
    std::string name;
    size_t at = 12;
    for (; question.at(at) != 0; at += static_cast<uint8_t>(question[at]) + 1U)
      name += (name.empty() ? "" : ".") + question.substr(at + 1, static_cast<uint8_t>(question[at]));
    const bool four = question.at(at + 2) == 1;
    const auto found = names_.find(name);
    const bool answered = four && found != names_.end();
    std::string out = question.substr(0, 2) + std::string("\x81\x80\0\1\0", 5) + (answered ? '\1' : '\0') +
                      std::string(4, '\0') + question.substr(12, at + 5 - 12);
    if (!answered) return out;
    in_addr address{};
    EXPECT_EQ(::inet_pton(AF_INET, found->second.c_str(), &address), 1);
    return out + std::string("\xc0\x0c\0\1\0\1\0\0\0\5\0\4", 12) +
           std::string(reinterpret_cast<const char*>(&address), sizeof address);
  }

  const std::map<std::string, std::string> names_;
  UniqueFd fd_;
  std::thread thread_;
};

TEST(ExternalName, LeadsToNoAddressOfTheNodeItself) {
  apart([](Haproxy::Options options) {
    Backhand one("one", 8001);
    NameServer names({{"near.test", "127.0.0.1"},
                      {"own.test", "127.0.0.1"},
                      {"link.test", "169.254.169.254"},
                      {"far.test", "192.0.2.7"}});
    options.dnsAddress = "127.0.0.1";
    Config config = serving({});
    for (const char* name : {"near.test", "own.test", "link.test", "far.test"}) {
      config.prefixes[fmt::format("i|{}/", name)] = name;
      // As the DNS writes it.
      externalNameLines(config.backends[name].lines, fmt::format("{}.", name), 8001, "ipv4", "", config.files);
    }
    // Nothing else than this network's own addresses could answer here.
    const std::string always = config.files[kOwnAddresses];
    config.files[kOwnAddresses] = "192.0.2.1\n";
    Haproxy proxy(options);
    EXPECT_APPLIED(proxy.apply(config));
    EXPECT_EQ(ask("near.test"), "one");
    config.files[kOwnAddresses] = always;
    EXPECT_TRUE(proxy.apply(config).ok());
    for (const char* name : {"own.test", "link.test"})
      EXPECT_THAT(askWhole(name), testing::AllOf(testing::StartsWith("HTTP/1.1 503"),
                                                 testing::EndsWith("the name leads to the node itself")))
          << name;
    EXPECT_THAT(askWhole("far.test"), testing::Not(testing::HasSubstr("itself"))) << "there is only no way to it here";
    EXPECT_EQ(one.requests(), 1u);
    addOwnAddresses(config.files);
    EXPECT_THAT(split(config.files[kOwnAddresses], '\n'),
                testing::IsSupersetOf({"127.0.0.1", "::1", "169.254.0.0/16"}));
    EXPECT_TRUE(proxy.apply(config).ok());
    EXPECT_EQ(ask("own.test"), "HTTP/1.1 503");
    EXPECT_EQ(one.requests(), 1u);
  });
}

}  // namespace
}  // namespace dhow::ingress
