#include "object/address_range.h"

#include <gtest/gtest.h>

namespace dhow::object {
namespace {

uint64_t sizeOf(const char* text) {
  auto range = AddressRange::parse(text);
  return range ? range->size() : 0;
}

TEST(AddressRange, ReadsPrefixesAndEnds) {
  EXPECT_EQ(254u, sizeOf("192.0.2.0/24"));
  EXPECT_EQ(2u, sizeOf("192.0.2.7/31"));
  EXPECT_EQ(1u, sizeOf("192.0.2.7/32"));
  EXPECT_EQ(11u, sizeOf("192.0.2.10-192.0.2.20"));
  EXPECT_EQ(512u, sizeOf("192.0.2.0 - 192.0.3.255"));
  EXPECT_EQ(256u, sizeOf("2001:db8::/120"));
  EXPECT_EQ(uint64_t{1} << 62, sizeOf("2001:db8::/32"));
  EXPECT_EQ(uint64_t{1} << 62, sizeOf("::/0"));
  auto range = AddressRange::parse("192.0.2.5/24").value();
  EXPECT_EQ("192.0.2.1", addressText(range.first));
  EXPECT_EQ("192.0.2.254", addressText(range.last));
  EXPECT_EQ("192.0.3.0", addressText(next(*parseAddress("192.0.2.255"))));
  EXPECT_EQ("2001:db8::1:0", addressText(next(*parseAddress("2001:db8::ffff"))));
}

TEST(AddressRange, RefusesWhatIsNone) {
  for (const char* text : {"", "192.0.2.1", "192.0.2.0/33", "192.0.2.0/", "192.0.2.9-192.0.2.1", "192.0.2.1-::1",
                           "2001:db8::/129", "::ffff:192.0.2.0/120", "a-b", "1.2.3/24", "192.0.2.0/24/24"}) {
    EXPECT_FALSE(AddressRange::parse(text)) << text;
  }
}

TEST(AddressRange, KnowsWhatItSharesWithOthers) {
  auto range = AddressRange::parse("192.0.2.10-192.0.2.20").value();
  EXPECT_TRUE(range.contains(*parseAddress("192.0.2.20")));
  EXPECT_FALSE(range.contains(*parseAddress("192.0.2.21")));
  EXPECT_FALSE(range.contains(*parseAddress("2001:db8::")));
  EXPECT_TRUE(range.overlaps(AddressRange::parse("192.0.2.0/24").value()));
  EXPECT_FALSE(range.overlaps(AddressRange::parse("192.0.2.21-192.0.2.30").value()));
}

}  // namespace
}  // namespace dhow::object
