#include "client/bootstrap_token.h"

#include <gtest/gtest.h>

#include "base/strings.h"
#include "client/fields.h"

namespace dhow::client {
namespace {

// As the API server stores it.
object::ObjectPtr stored(json::object secret) {
  json::object data;
  for (const auto& [key, value] : object(secret, {"stringData"})) data[key] = toBase64(std::string(value.as_string()));
  secret.erase("stringData");
  secret["data"] = std::move(data);
  return object::Object::make(std::move(secret));
}

TEST(BootstrapToken, HasSixAndSixteenLettersOrDigits) {
  auto token = BootstrapToken::parse("abcdef.0123456789abcdef");
  ASSERT_TRUE(token);
  EXPECT_EQ(token->user(), "system:bootstrap:abcdef");
  EXPECT_EQ(token->secretName(), "bootstrap-token-abcdef");
  for (const auto* wrong :
       {"", ".", "abcdef", "abcdef.", "ABCDEF.0123456789abcdef", "abcdef.0123456789abcde", "abcde.0123456789abcdef",
        "abcdef.0123456789abcdef0", "abcdef.0123456789abcde.", "abc ef.0123456789abcdef"})
    EXPECT_FALSE(BootstrapToken::parse(wrong)) << wrong;
}

TEST(BootstrapToken, GeneratedOnesCanBeParsedAndDiffer) {
  const auto one = BootstrapToken::generate(), other = BootstrapToken::generate();
  EXPECT_TRUE(BootstrapToken::parse(one.str()));
  EXPECT_NE(one.str(), other.str());
}

TEST(BootstrapToken, ASecretSaysWhatWasWritten) {
  BootstrapTokenRecord record;
  record.token = *BootstrapToken::parse("abcdef.0123456789abcdef");
  record.expires = WallTime(std::chrono::seconds(1767225600));
  record.authenticates = true;
  record.groups = {"system:bootstrappers:a", "system:bootstrappers:b"};
  record.description = "for a host";
  auto read = readBootstrapToken(*stored(bootstrapTokenSecret(record)));
  ASSERT_TRUE(read.ok()) << read.error().message();
  EXPECT_EQ(read->token.str(), "abcdef.0123456789abcdef");
  EXPECT_TRUE(read->authenticates);
  EXPECT_FALSE(read->signs);
  EXPECT_EQ(read->groups, record.groups);
  EXPECT_EQ(read->description, "for a host");
  EXPECT_FALSE(read->expired(*record.expires - std::chrono::seconds(1)));
  EXPECT_TRUE(read->expired(*record.expires));
}

TEST(BootstrapToken, WhatDoesNotFitTogetherIsRefused) {
  BootstrapTokenRecord record;
  record.token = *BootstrapToken::parse("abcdef.0123456789abcdef");
  auto with = [&](std::string_view key, std::string_view value) {
    auto secret = bootstrapTokenSecret(record);
    secret["stringData"].as_object()[key] = value;
    return readBootstrapToken(*stored(std::move(secret)));
  };
  EXPECT_TRUE(with("description", "x").ok());
  EXPECT_FALSE(with("token-id", "abcdeg").ok());
  EXPECT_FALSE(with("token-secret", "short").ok());
  EXPECT_FALSE(with("expiration", "soon").ok());
  EXPECT_FALSE(with("auth-extra-groups", "system:masters").ok());
  auto other = bootstrapTokenSecret(record);
  other["type"] = "Opaque";
  EXPECT_FALSE(readBootstrapToken(*stored(std::move(other))).ok());
}

}  // namespace
}  // namespace dhow::client
