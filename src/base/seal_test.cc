#include "base/seal.h"

#include <gtest/gtest.h>

#include "base/digest.h"

namespace dhow {
namespace {

TEST(Seal, WhatIsSealedOpensWithItsKeyAndContextAlone) {
  const auto key = randomBytes(kSealKeySize), other = randomBytes(kSealKeySize);
  for (const std::string& text : {std::string(), std::string("secret"), std::string(100000, 'x')}) {
    auto sealed = seal(key, "/a", text);
    EXPECT_EQ(unseal(key, "/a", sealed).value(), text);
    EXPECT_TRUE(text.empty() || sealed.find(text) == std::string::npos);
    EXPECT_EQ(unseal(other, "/a", sealed).error().code(), Code::kDataLoss);
    EXPECT_EQ(unseal(key, "/b", sealed).error().code(), Code::kDataLoss);
  }
  EXPECT_NE(seal(key, "/a", "secret"), seal(key, "/a", "secret"));
}

TEST(Seal, EveryChangedOrMissingByteIsNoticed) {
  const auto key = randomBytes(kSealKeySize);
  const auto sealed = seal(key, "/a", "secret");
  for (size_t i = 0; i < sealed.size(); ++i) {
    auto changed = sealed;
    changed[i] = static_cast<char>(changed[i] ^ 1);
    EXPECT_FALSE(unseal(key, "/a", changed).ok()) << i;
    EXPECT_FALSE(unseal(key, "/a", std::string_view(sealed).substr(0, i)).ok()) << i;
  }
}

}  // namespace
}  // namespace dhow
