#include "platform/programs.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/files.h"

namespace dhow::platform {
namespace {

// Tells its version as dhow does.
std::string script(const std::string& version, const std::string& build) {
  return "#!/bin/sh\necho '{\"version\":\"" + version + "\",\"build\":\"" + build +
         "\",\"storeForm\":{\"writes\":1,\"reads\":2},\"new\":{}}'\n";
}

struct ProgramsTest : testing::Test {
  ProgramsTest() : folder(*makeTempDir("/tmp", "dhow-programs-")), paths(folder, "c") {}
  ~ProgramsTest() override { (void)removeTree(folder).ok(); }
  std::string build(const std::string& name, const std::string& content, const std::string& shim = "shim") {
    const std::string made = folder + "/" + name;
    EXPECT_TRUE(makeDirs(made).ok());
    EXPECT_TRUE(writeFile(made + "/dhow", content, 0755).ok());
    EXPECT_TRUE(writeFile(made + "/dhow-shim", shim, 0755).ok());
    return made;
  }
  std::string folder;
  ClusterPaths paths;
};

TEST_F(ProgramsTest, BuildsOfOneVersionDiffer) {
  auto one = Programs::at(build("one", script("0.1.0", "aaaaaaaaaaaa")));
  ASSERT_TRUE(one.ok()) << one.error().message();
  EXPECT_EQ(one->info.version.text(), "0.1.0");
  EXPECT_EQ(one->info.store.reads, 2);
  EXPECT_EQ(versionOf(one->id), one->info.version);
  auto same = Programs::at(build("same", script("0.1.0", "aaaaaaaaaaaa")) + "/dhow");
  auto two = Programs::at(build("two", script("0.1.0", "bbbbbbbbbbbb")));
  auto shim = Programs::at(build("three", script("0.1.0", "aaaaaaaaaaaa"), "another shim"));
  ASSERT_TRUE(same.ok() && two.ok() && shim.ok());
  EXPECT_EQ(one->id, same->id);
  EXPECT_NE(one->id, two->id);
  EXPECT_NE(one->id, shim->id);
}

TEST_F(ProgramsTest, WhatDoesNotRunIsRefused) {
  for (const char* content : {"", "#!/bin/sh\nexit 3\n", "#!/bin/sh\necho hello\n", "#!/nowhere\n",
                              "#!/bin/sh\necho '{\"version\":\"1\",\"build\":\"x\"}'\n"}) {
    auto refused = Programs::at(build("bad", content));
    EXPECT_TRUE(!refused.ok() && refused.error().is(Code::kInvalid)) << content;
  }
  ASSERT_TRUE(removeTree(build("bad", script("0.1.0", "a")) + "/dhow-shim").ok());
  EXPECT_TRUE(Programs::at(folder + "/bad").error().is(Code::kNotFound));
  EXPECT_TRUE(Programs::at(folder + "/nothing").error().is(Code::kNotFound));
}

TEST_F(ProgramsTest, AreInstalledWithoutASecondCopyAndLinked) {
  auto built = Programs::at(build("one", script("0.1.0", "aaaaaaaaaaaa")));
  ASSERT_TRUE(built.ok());
  auto own = installPrograms(paths, *built);
  ASSERT_TRUE(own.ok()) << own.error().message();
  EXPECT_EQ(own->folder(), paths.program(built->id));
  EXPECT_EQ(installedIds(paths), std::vector<std::string>{built->id});
  struct stat status{};
  ASSERT_EQ(::stat(own->dhow.c_str(), &status), 0);
  EXPECT_TRUE(status.st_mode & S_IXUSR);
  ASSERT_TRUE(installPrograms(paths, *built).ok());

  EXPECT_EQ(linkedProgram(paths, "c-node-1"), "");
  EXPECT_TRUE(linkProgram(paths, "c-node-1", "0.9.0-nothing").error().is(Code::kNotFound));
  ASSERT_TRUE(ensureLinked(paths, "c-node-1", built->id).ok());
  EXPECT_EQ(linkedProgram(paths, "c-node-1"), built->id);
  EXPECT_EQ(*readFile(paths.linkedDhow("c-node-1")), *readFile(own->dhow));

  auto next = Programs::at(build("two", script("0.2.0", "bbbbbbbbbbbb")));
  ASSERT_TRUE(next.ok() && installPrograms(paths, *next).ok());
  ASSERT_TRUE(ensureLinked(paths, "c-node-1", next->id).ok());
  EXPECT_EQ(linkedProgram(paths, "c-node-1"), built->id);
  removeOtherPrograms(paths, {next->id});
  EXPECT_EQ(installedIds(paths).size(), 2u);  // one has a link
  ASSERT_TRUE(linkProgram(paths, "c-node-1", next->id).ok());
  removeOtherPrograms(paths, {next->id});
  EXPECT_EQ(installedIds(paths), std::vector<std::string>{next->id});
}

TEST_F(ProgramsTest, ThoseThatWereChangedInPlaceAreFoundOut) {
  auto built = Programs::at(build("one", script("0.1.0", "aaaaaaaaaaaa")));
  ASSERT_TRUE(built.ok() && installPrograms(paths, *built).ok());
  EXPECT_EQ(installedPrograms(paths, built->id)->id, built->id);
  ASSERT_TRUE(writeFile(paths.program(built->id) + "/dhow", script("0.1.0", "cccccccccccc"), 0755).ok());
  EXPECT_TRUE(installedPrograms(paths, built->id).error().is(Code::kDataLoss));
  EXPECT_TRUE(installedPrograms(paths, "0.1.0-none").error().is(Code::kNotFound));
}

TEST_F(ProgramsTest, ARunningProcessTellsWhatItWasStartedFrom) {
  EXPECT_EQ(runningProgram(paths, ::getpid()), "");
  EXPECT_EQ(findRole(0, {"x"}), 0);
  EXPECT_EQ(findRole(::getpid(), {"nothing-like-it"}), 0);
}

}  // namespace
}  // namespace dhow::platform
