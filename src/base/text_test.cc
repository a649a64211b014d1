#include <gtest/gtest.h>

#include "base/digest.h"
#include "base/saturate.h"
#include "base/strings.h"
#include "base/time.h"

namespace dhow {
namespace {

TEST(Strings, Base64BothAlphabetsAndRefusesOthers) {
  EXPECT_EQ(toBase64("any carnal pleas"), "YW55IGNhcm5hbCBwbGVhcw==");
  EXPECT_EQ(fromBase64("YW55IGNhcm5hbCBwbGVhcw=="), "any carnal pleas");
  EXPECT_EQ(fromBase64(toBase64Url("\xff\xfe\xfd")), "\xff\xfe\xfd");
  EXPECT_FALSE(fromBase64("a$bc"));
  EXPECT_FALSE(fromBase64("abcde"));
}

TEST(Strings, PercentDecodingRefusesCutEscapes) {
  EXPECT_EQ(percentDecode("a%20b+c"), "a b+c");
  EXPECT_EQ(percentDecode("a+b", true), "a b");
  EXPECT_EQ(percentDecode("%41"), "A");
  EXPECT_FALSE(percentDecode("%4"));
  EXPECT_FALSE(percentDecode("%zz"));
}

TEST(Time, RoundTripsAndTakesOffsets) {
  auto time = parseTime("2026-11-23T03:27:47.5+01:00");
  ASSERT_TRUE(time);
  EXPECT_EQ(formatTimeMicro(*time), "2026-11-23T02:27:47.500000Z");
  EXPECT_EQ(formatTime(*parseTime(formatTime(*time))), "2026-11-23T02:27:47Z");
  EXPECT_FALSE(parseTime("2026-13-23T03:27:47Z"));
  EXPECT_FALSE(parseTime("yesterday"));
}

TEST(Time, WhatSixtyFourBitsDoNotHoldIsBounded) {
  EXPECT_EQ(parseTime("0001-01-01T00:00:00Z"), kEarliestTime);
  EXPECT_EQ(parseTime("9999-12-31T23:59:59.999999999-99:59"), kLatestTime);
  EXPECT_EQ(formatTime(kEarliestTime), "1925-01-01T00:00:00Z");
  EXPECT_EQ(formatTime(kLatestTime), "2150-01-01T00:00:00Z");
  EXPECT_GT(kLatestTime - kEarliestTime, Duration::zero());
  EXPECT_GT(kLatestTime + boundedSeconds(INT64_MAX), kLatestTime);
  EXPECT_LT(kEarliestTime + boundedSeconds(INT64_MIN), kEarliestTime);
  EXPECT_EQ(boundedSeconds(90), std::chrono::seconds(90));
}

TEST(Time, SecondsSince1970HaveAFraction) {
  EXPECT_EQ(formatTimeNano(parseUnixTime("1767225600.25").value()), "2026-01-01T00:00:00.250000000Z");
  EXPECT_EQ(formatTime(parseUnixTime("1767225600").value()), "2026-01-01T00:00:00Z");
  EXPECT_EQ(parseUnixTime("9223372036854775807.999999999999"), kLatestTime);
  EXPECT_EQ(parseUnixTime("-9223372036854775808"), kEarliestTime);
  EXPECT_EQ(parseUnixTime("1.-1"), wallTimeOf(1));
  EXPECT_FALSE(parseUnixTime("soon"));
}

TEST(Saturate, SumsAndProductsStopAtTheEnds) {
  EXPECT_EQ(saturatingAdd(2, -5), -3);
  EXPECT_EQ(saturatingAdd(INT64_MAX, 1), INT64_MAX);
  EXPECT_EQ(saturatingAdd(INT64_MIN, -1), INT64_MIN);
  EXPECT_EQ(saturatingMultiply(-4, 5), -20);
  EXPECT_EQ(saturatingMultiply(INT64_MAX, 2), INT64_MAX);
  EXPECT_EQ(saturatingMultiply(INT64_MAX, -2), INT64_MIN);
}

TEST(Digest, KnownVector) {
  EXPECT_EQ(sha256Hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(randomUuid().size(), 36u);
}

}  // namespace
}  // namespace dhow
