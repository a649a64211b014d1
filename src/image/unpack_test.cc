#include "unpack.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#include "base/files.h"
#include "base/process.h"
#include "tar.h"

namespace dhow::image {
namespace {

using Type = TarEntry::Type;

struct Builder {
  std::string bytes;
  TarWriter writer{[this](std::string_view piece) -> Result<> {
    bytes += piece;
    return {};
  }};
  Builder& add(Type type, std::string name, std::string content = "", std::string link = "", unsigned mode = 0644) {
    TarEntry entry;
    entry.type = type;
    entry.name = std::move(name);
    entry.linkName = std::move(link);
    entry.mode = mode;
    entry.mtimeSeconds = 1700000000;
    EXPECT_TRUE((type == Type::kFile ? writer.addFile(entry, content) : writer.add(entry)).ok());
    return *this;
  }
  std::string done() {
    EXPECT_TRUE(writer.finish().ok());
    return bytes;
  }
};

class Unpack : public testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "owners, devices and whiteouts need root";
    auto made = makeTempDir(testing::TempDir(), "unpack");
    ASSERT_TRUE(made.ok());
    base = *made;
    root = base + "/root";
    ASSERT_TRUE(makeDirs(root).ok());
    ASSERT_TRUE(writeFile(base + "/secret", "untouched").ok());
  }
  void TearDown() override {
    if (!base.empty()) EXPECT_TRUE(removeTree(base).ok());
  }
  Result<Unpacked> unpack(std::string bytes) {
    auto source = decompressed(memorySource(std::move(bytes)));
    return unpackTar(*source, root);
  }
  std::string base, root;
};

TEST_F(Unpack, WritesFilesFoldersAndLinksWithTheirAttributes) {
  Builder b;
  b.add(Type::kFolder, "bin/", "", "", 01777).add(Type::kFile, "bin/a", "hello", "", 04755);
  b.add(Type::kHardLink, "bin/b", "", "bin/a").add(Type::kSymlink, "bin/c", "", "a").add(Type::kFifo, "pipe");
  auto result = unpack(b.done());
  ASSERT_TRUE(result.ok()) << result.error().message();
  EXPECT_EQ(result->size, 5u);
  EXPECT_EQ(result->implicitFolders, std::vector<std::string>{""});
  struct stat info;
  ASSERT_EQ(::lstat((root + "/bin/a").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 04755u);
  EXPECT_EQ(info.st_nlink, 2u);
  EXPECT_EQ(info.st_mtim.tv_sec, 1700000000);
  ASSERT_EQ(::lstat((root + "/bin").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 01777u);
  EXPECT_EQ(info.st_mtim.tv_sec, 1700000000);
  EXPECT_EQ(*readFile(root + "/bin/c"), "hello");
}

TEST_F(Unpack, NeverLeavesTheFolder) {
  auto refused = [&](std::string bytes) {
    auto result = unpack(std::move(bytes));
    EXPECT_FALSE(result.ok());
  };
  refused(Builder().add(Type::kFile, "../secret", "owned").done());
  refused(Builder().add(Type::kFile, "a/../../secret", "owned").done());
  refused(Builder().add(Type::kHardLink, "x", "", "../secret").done());
  refused(Builder().add(Type::kHardLink, "x", "", "nothing").done());
  refused(Builder().add(Type::kFile, ".wh...", "").done());
  refused(Builder().add(Type::kFile, ".wh.", "").done());
  TarEntry device;
  device.type = Type::kCharDevice;
  device.name = "hides";
  Builder b;
  EXPECT_TRUE(b.writer.add(device).ok());
  refused(b.done());
  // Links that point out are kept as they are, and lead nowhere outside when a later entry goes through them.
  auto through = unpack(Builder()
                            .add(Type::kSymlink, "up", "", "../..")
                            .add(Type::kSymlink, "abs", "", base)
                            .add(Type::kFile, "up/secret", "inside")
                            .done());
  ASSERT_TRUE(through.ok()) << through.error().message();
  EXPECT_EQ(*readFile(root + "/secret"), "inside");
  EXPECT_EQ(*readFile(base + "/secret"), "untouched");
  EXPECT_FALSE(unpack(Builder().add(Type::kFile, "abs/secret", "owned").done()).ok() &&
               *readFile(base + "/secret") != "untouched");
  EXPECT_EQ(*readFile(base + "/secret"), "untouched");
  // A file that replaces a link does not follow it.
  ASSERT_TRUE(
      unpack(Builder().add(Type::kSymlink, "l", "", base + "/secret").add(Type::kFile, "l", "new").done()).ok());
  EXPECT_EQ(*readFile(base + "/secret"), "untouched");
  EXPECT_EQ(*readFile(root + "/l"), "new");
}

TEST_F(Unpack, TurnsWhiteoutsIntoOverlaysForm) {
  auto result = unpack(Builder()
                           .add(Type::kFolder, "d/", "", "", 0755)
                           .add(Type::kFile, "d/.wh.gone")
                           .add(Type::kFile, "d/.wh..wh..opq")
                           .add(Type::kFile, ".wh..wh.plnk")
                           .add(Type::kFile, ".wh.again")
                           .add(Type::kFolder, "again/", "", "", 0755)
                           .add(Type::kFile, "kept", "x")
                           .add(Type::kFile, ".wh.kept")
                           .done());
  ASSERT_TRUE(result.ok()) << result.error().message();
  struct stat info;
  ASSERT_EQ(::lstat((root + "/d/gone").c_str(), &info), 0);
  EXPECT_TRUE(S_ISCHR(info.st_mode));
  EXPECT_EQ(info.st_rdev, ::makedev(0, 0));
  char value[8] = {};
  EXPECT_EQ(::getxattr((root + "/d").c_str(), "trusted.overlay.opaque", value, sizeof value), 1);
  EXPECT_EQ(value[0], 'y');
  EXPECT_EQ(::getxattr((root + "/again").c_str(), "trusted.overlay.opaque", value, sizeof value), 1);
  EXPECT_FALSE(pathExists(root + "/.wh..wh.plnk"));
  EXPECT_EQ(*readFile(root + "/kept"), "x");
}

TEST_F(Unpack, KeepsXattrsButNotThoseThatSteerOverlay) {
  TarEntry entry;
  entry.name = std::string(150, 'n');
  entry.xattrs = {{"user.note", "v"}, {"trusted.overlay.redirect", "/etc"}};
  Builder b;
  ASSERT_TRUE(b.writer.addFile(entry, "x").ok());
  ASSERT_TRUE(unpack(b.done()).ok());
  char value[16] = {};
  EXPECT_LT(::getxattr((root + "/" + entry.name).c_str(), "trusted.overlay.redirect", value, sizeof value), 0);
  auto note = ::getxattr((root + "/" + entry.name).c_str(), "user.note", value, sizeof value);
  EXPECT_TRUE(note == 1 || errno == ENOTSUP);
}

TEST_F(Unpack, ReadsWhatTarWritesInEveryForm) {
  std::string source = base + "/source";
  ASSERT_TRUE(makeDirs(source + "/" + std::string(120, 'd')).ok());
  ASSERT_TRUE(writeFile(source + "/" + std::string(120, 'd') + "/" + std::string(130, 'f'), "long").ok());
  ASSERT_TRUE(runCommand({"sh", "-c",
                          "cd " + source +
                              " && truncate -s 5M hole && printf end | dd of=hole bs=1 seek=3000000 conv=notrunc "
                              "2>/dev/null && ln hole hole2 && ln -s " +
                              std::string(140, 's') + " link"})
                  .ok());
  for (std::string form : {"--format=gnu", "--format=posix", "--format=gnu -S",
                           "--format=posix -S --sparse-version=1.0", "--format=posix -S --sparse-version=0.1",
                           "--format=posix -S --sparse-version=0.0", "--format=posix -z", "--format=gnu --zstd"}) {
    auto out = runCommand({"sh", "-c", "tar -C " + source + " -c " + form + " ."});
    ASSERT_EQ(out->status.code, 0) << out->errors;
    ASSERT_TRUE(removeTree(root).ok());
    ASSERT_TRUE(makeDirs(root).ok());
    auto result = unpack(out->output);
    ASSERT_TRUE(result.ok()) << form << ": " << result.error().message();
    auto same = runCommand({"diff", "-r", "--no-dereference", source, root});
    EXPECT_EQ(same->status.code, 0) << form << same->output;
  }
}

TEST_F(Unpack, RefusesDamagedArchives) {
  std::string good = Builder().add(Type::kFile, "a", std::string(3000, 'x')).done();
  EXPECT_FALSE(unpack(good.substr(0, 1500)).ok());
  std::string bad = good;
  bad[3] ^= 1;
  EXPECT_FALSE(unpack(bad).ok());
  auto gz = runCommand({"gzip", "-c"}, good)->output;
  EXPECT_TRUE(unpack(gz).ok());
  EXPECT_EQ(unpack(gz.substr(0, gz.size() - 9)).error().code(), Code::kDataLoss);
  gz[gz.size() / 2] ^= 0x55;
  EXPECT_FALSE(unpack(gz).ok());
  auto zst = runCommand({"zstd", "-c"}, good)->output;
  EXPECT_TRUE(unpack(zst).ok());
  EXPECT_EQ(unpack(zst.substr(0, zst.size() - 3)).error().code(), Code::kDataLoss);
}

TEST(Gzip, RoundTripsAndReadsSeveralMembers) {
  std::string text;
  for (int i = 0; i < 100000; ++i) text += std::to_string(i * 7919);
  std::string packed;
  GzipWriter writer([&](std::string_view piece) -> Result<> {
    packed += piece;
    return {};
  });
  ASSERT_TRUE(writer.write(text).ok());
  ASSERT_TRUE(writer.finish().ok());
  EXPECT_LT(packed.size(), text.size());
  EXPECT_EQ(runCommand({"gzip", "-dc"}, packed)->output, text);
  auto source = readAhead(decompressed(memorySource(packed + packed + std::string(512, '\0'))));
  std::string out;
  char buffer[5000];
  while (true) {
    auto n = source->read(buffer);
    ASSERT_TRUE(n.ok()) << n.error().message();
    if (*n == 0) break;
    out.append(buffer, *n);
  }
  EXPECT_EQ(out, text + text);
}

}  // namespace
}  // namespace dhow::image
