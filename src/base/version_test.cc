#include "base/version.h"

#include <gtest/gtest.h>

namespace dhow {

TEST(Version, IsThreeNumbersAndWhatFollowsIsNoPartOfIt) {
  EXPECT_EQ(parseVersion("1.20.3")->text(), "1.20.3");
  EXPECT_EQ(parseVersion("0.1.0-3f2a9c1b77de")->text(), "0.1.0");
  EXPECT_EQ(parseVersion("0.1.0+local")->text(), "0.1.0");
  for (const char* wrong : {"", "1", "1.2", "1.2.3.4", "a.b.c", "1.-2.3", "-1.2.3", "1.2.99999999999"})
    EXPECT_FALSE(parseVersion(wrong)) << wrong;
  EXPECT_LT(*parseVersion("0.9.9"), *parseVersion("0.10.0"));
}

TEST(Version, OneMinorApartWorkTogether) {
  auto together = [](const char* a, const char* b) {
    const bool one = workTogether(*parseVersion(a), *parseVersion(b));
    EXPECT_EQ(one, workTogether(*parseVersion(b), *parseVersion(a)));
    return one;
  };
  EXPECT_TRUE(together("0.1.0", "0.1.7"));
  EXPECT_TRUE(together("0.1.9", "0.2.0"));
  EXPECT_FALSE(together("0.1.0", "0.3.0"));
  EXPECT_FALSE(together("0.2.0", "1.2.0"));
}

TEST(Version, StampTellsVersionAndForms) {
  auto info = parseStamp(std::string_view("dhow 0.2.1 store 1 2\0\0\0", 23));
  ASSERT_TRUE(info);
  EXPECT_EQ(info->version.text(), "0.2.1");
  EXPECT_EQ(info->store.writes, 1);
  EXPECT_EQ(info->store.reads, 2);
  // What it writes it can read.
  for (const char* wrong :
       {"", "dhow", "dhow 0.1.0", "dhow 0.1 store 1 1", "dhow 0.1.0 store 2 1", "dhow 0.1.0 store 0 1"})
    EXPECT_FALSE(parseStamp(wrong)) << wrong;
}

TEST(Version, ThisProgramHasBoth) {
  const auto& info = thisProgram();
  EXPECT_EQ(info.build.size(), 12u);
  EXPECT_GE(info.version, (Version{0, 1, 0}));
  EXPECT_LE(info.store.writes, info.store.reads);
}

}  // namespace dhow
