#include <gtest/gtest.h>

#include "base/digest.h"
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

TEST(Digest, KnownVector) {
  EXPECT_EQ(sha256Hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(randomUuid().size(), 36u);
}

}  // namespace
}  // namespace dhow
