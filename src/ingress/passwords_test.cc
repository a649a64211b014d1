#include "passwords.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json/parse.hpp>

#include "base/strings.h"
#include "credentials.h"
#include "password_hash.h"

namespace dhow::ingress {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr const char* kHashes[] = {
    "$apr1$abcdefgh$h9FWgUz3n9YxylKLlR5SQ/",
    "$apr1$x$12YdXEY0/hH4rDNkmZupO0",
    "{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=",
    "{SSHA}gVK8WC9YyFT1gMsQHTGCgT3sSv5zYWx0",
    "{PLAIN}secret",
    "$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a",
    "$y$j9T$abcdefgh$IUWJt2doU4Kf6E/JP1UkAT3S5O3Q7SSA8SJirXIlEu9",
    "$6$abc$IdWKNKTJEb8LxY7CGg8YBXlvtfZzFw7Mp/r6niK9YB2mdvgY..TKjv1T..8RadRt2qvUHYRLr/TsVArtr91iR1",
    "$5$rounds=2000$abc$vrlxR7o0DfB5s354U61LJz8WOm8rZtSjUNqI5mJH45A",
    "$1$abc$iCQ2D3nhptRYi27fDYv2s1",
    "abNANd1rDfiNc",
};

TEST(PasswordHash, TakesWhatPeopleHave) {
  for (const char* hash : kHashes) {
    EXPECT_TRUE(isPasswordHash(hash)) << hash;
    EXPECT_TRUE(passwordMatches("secret", hash)) << hash;
    for (std::string_view wrong : {"", "secret1", "Secret", "secre"})
      EXPECT_FALSE(passwordMatches(wrong, hash)) << hash;
    EXPECT_FALSE(passwordMatches(std::string_view("secret\0", 7), hash)) << hash;
  }
  EXPECT_TRUE(passwordMatches("", "$apr1$abcdefgh$L.PT565ESX4Tp2bqNs7Ie."));
  EXPECT_TRUE(
      passwordMatches("a much longer password than sixteen bytes, with ünïcode", "$apr1$x$hn4KCEVcB1OFZWuEAp14s1"));
  EXPECT_FALSE(passwordMatches(std::string(513, 'x'), "{PLAIN}" + std::string(513, 'x')));
}

TEST(PasswordHash, RefusesWhatItCannotCheckOrWouldPayTooMuchFor) {
  for (std::string_view hash : {"",
                                "secret",
                                "{PLAIN}",
                                "{SHA}AAAA",
                                "{SSHA}5en6G6MezRroT3XKqkdPOmY/BfQ=",
                                "{MD5}x",
                                "$apr1$",
                                "$apr1$abc",
                                "$apr1$muchtoolong$h9FWgUz3n9YxylKLlR5SQ/",
                                "$apr1$x$12YdXEY0/hH4rDNkmZupO",
                                "$2y$15$abcdefghijklmnopqrstuu",
                                "$2y$xx$abcdefghijklmnopqrstuu",
                                "$6$rounds=1000001$abc$x",
                                "$6$rounds=99999999999999999999$abc$x",
                                "$y$jFT$abcdefgh$x",
                                "$y$j9.$abcdefgh$x",
                                "$y$",
                                "$7$CU..../....abc$x",
                                "$md5,rounds=9999999$x$y",
                                "*",
                                "!",
                                "*abcdefghijkl",
                                "$1$a:b$x"}) {
    EXPECT_FALSE(isPasswordHash(hash)) << hash;
    EXPECT_FALSE(passwordMatches("secret", hash)) << hash;
  }
}

TEST(Credentials, UsersAreReadAsNginxReadsThem) {
  const std::string file =
      "# who: may\nann:$apr1$x$12YdXEY0/hH4rDNkmZupO0:a comment\r\n\nbob:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=\n"
      "eve:secret\n nobody \na b:{PLAIN}x\n";
  auto secret = object::Object::parse(fmt::format(R"({{"data":{{"auth":"{}"}}}})", toBase64(file))).value();
  std::vector<std::string> problems;
  auto users = usersOf(*secret, false, problems);
  ASSERT_TRUE(users.ok());
  EXPECT_EQ(*users, "ann:$apr1$x$12YdXEY0/hH4rDNkmZupO0\nbob:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=\n");
  EXPECT_THAT(problems,
              ElementsAre(HasSubstr("the user \"eve\" is left out"), HasSubstr("the user \"a b\" is left out")));
  EXPECT_EQ(hashOf(*users, "bob"), "{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=");
  EXPECT_EQ(hashOf(*users, "an"), "");
  EXPECT_EQ(hashOf(*users, ""), "");
  auto map = object::Object::parse(fmt::format(R"({{"data":{{"ann":"{}","eve":"{}"}}}})", toBase64("{PLAIN}x:y\n"),
                                               toBase64("{PLAIN}x\nroot:{PLAIN}y")))
                 .value();
  problems.clear();
  users = usersOf(*map, true, problems);
  ASSERT_TRUE(users.ok());
  EXPECT_EQ(*users, "ann:{PLAIN}x:y\n");
  EXPECT_EQ(problems.size(), 1u);
  auto none = object::Object::parse(fmt::format(R"({{"data":{{"auth":"{}"}}}})", toBase64("eve:secret\n"))).value();
  EXPECT_FALSE(usersOf(*none, false, problems).ok());
}

TEST(Credentials, AreReadOfTheHeader) {
  EXPECT_EQ(basicCredentials("Basic YW5uOnNlY3JldA=="), "ann:secret");
  EXPECT_EQ(basicCredentials("basic  YW5uOnNlY3JldA== "), "ann:secret");
  EXPECT_EQ(basicCredentials("BASIC YW5uOmE6Yg"), "ann:a:b");
  for (std::string_view other :
       {"", "Basic", "Basic ", "Basic !", "Basic YW5u", "Bearer YW5uOnNlY3JldA==", "BasicYW5uOnNlY3JldA=="})
    EXPECT_FALSE(basicCredentials(other)) << other;
}

std::string shown(std::string_view user, std::string_view password) {
  return "Basic " + toBase64(fmt::format("{}:{}", user, password));
}

TEST(Passwords, WhatWasRightIsRemembered) {
  RealLoop loop;
  Passwords passwords(loop, [](const std::string& list) -> Result<std::string> {
    if (list == "gone") return Error(Code::kNotFound, "it is not there");
    return fmt::format("ann:{}\nbob:{}\nann:{{PLAIN}}other\n", kHashes[0], list == "one" ? kHashes[2] : kHashes[9]);
  });
  auto check = [&](const std::string& list, const std::string& header) {
    return runOn(loop, passwords.check(list, header));
  };
  EXPECT_TRUE(*check("one", shown("ann", "secret")));
  EXPECT_TRUE(*check("one", shown("ann", "secret")));
  EXPECT_TRUE(*check("one", shown("bob", "secret")));
  EXPECT_EQ(passwords.computed(), 2u);
  // Of one list, of one user, of one password.
  EXPECT_TRUE(*check("two", shown("bob", "secret")));
  EXPECT_FALSE(*check("one", shown("eve", "secret")));
  EXPECT_FALSE(*check("one", shown("ann", "other")));
  EXPECT_FALSE(*check("one", shown("ann", "other")));
  EXPECT_FALSE(*check("one", shown("", "")));
  EXPECT_EQ(passwords.computed(), 7u);
  EXPECT_FALSE(*check("one", "Bearer x"));
  EXPECT_EQ(passwords.computed(), 7u);
  EXPECT_FALSE(check("gone", shown("ann", "secret")).ok());
}

Task<> ask(Passwords* passwords, std::string header, std::vector<Result<bool>>* out) {
  auto said = co_await passwords->check("one", std::move(header));
  out->push_back(std::move(said));
}

TEST(Passwords, AListIsAskedOneAtATimeAndNotByTooMany) {
  RealLoop loop;
  int now = 0, most = 0;
  Passwords passwords(loop, [&](const std::string&) -> Result<std::string> {
    most = std::max(most, ++now);
    std::this_thread::yield();
    --now;
    return fmt::format("ann:{}\n", kHashes[7]);
  });
  std::vector<Result<bool>> out;
  {
    Gate gate(loop);
    for (int i = 0; i < 40; ++i) gate.spawn(ask(&passwords, shown("ann", "secret"), &out));
    for (int i = 0; i < 30; ++i) gate.spawn(ask(&passwords, shown("ann", fmt::format("{}", i)), &out));
    runOn(loop, gate.close());
  }
  EXPECT_EQ(most, 1);
  ASSERT_EQ(out.size(), 70u);
  EXPECT_EQ(std::count_if(out.begin(), out.end(), [](const auto& one) { return one.ok() && *one; }), 40);
  EXPECT_EQ(std::count_if(out.begin(), out.end(), [](const auto& one) { return !one.ok(); }), 6);
  EXPECT_EQ(passwords.computed(), 1u + 24u);
}

}  // namespace
}  // namespace dhow::ingress
