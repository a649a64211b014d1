#include <gtest/gtest.h>

#include "docker.h"

namespace dhow::cli::docker {
namespace {

TEST(DockerDisplay, ColumnsAreAsWideAsDockers) {
  EXPECT_EQ(table({{"A", "LONG HEADER", "C"}, {"1", "x", "3"}}),
            "A         LONG HEADER   C\n1         x             3\n");
}

TEST(DockerDisplay, SizesHaveThreeDigits) {
  EXPECT_EQ(humanSize(0), "0B");
  EXPECT_EQ(humanSize(1982362), "1.98MB");
  EXPECT_EQ(humanSize(187e6), "187MB");
}

TEST(DockerDisplay, SizesAreReadWithTheirUnits) {
  EXPECT_EQ(*parseSize("64m"), 64 << 20);
  EXPECT_EQ(*parseSize("1.5g"), 3ll << 29);
  EXPECT_EQ(*parseSize("100"), 100);
  EXPECT_EQ(*parseSize("2KB"), 2048);
  EXPECT_EQ(*parseSize("2KiB"), 2048);
  for (const char* wrong : {"", "m", "-1", "1x", "1mm", "nan"}) EXPECT_FALSE(parseSize(wrong).ok()) << wrong;
}

TEST(DockerDisplay, JsonIsIndentedByFour) {
  EXPECT_EQ(pretty(json::array{json::object{{"a", 1}, {"b", json::array{}}}}),
            "[\n    {\n        \"a\": 1,\n        \"b\": []\n    }\n]");
}

}  // namespace
}  // namespace dhow::cli::docker
