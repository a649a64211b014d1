// A process that is killed in the middle of its work leaves a store that opens and is consistent.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/wait.h>

#include <sched.h>

#include "base/process.h"
#include "http/server.h"
#include "image/registry_server.h"
#include "test_util.h"

namespace dhow::image {
namespace {

using namespace std::chrono_literals;

std::string noise(size_t size, unsigned seed) {
  std::string out(size, '\0');
  for (auto& c : out) {
    seed = seed * 1664525 + 1013904223;
    c = static_cast<char>(seed >> 24);
  }
  return out;
}

class Crash : public StoreTest {
 protected:
  void SetUp() override {
#if __has_feature(thread_sanitizer)
    GTEST_SKIP() << "the thread sanitizer does not know threads that begin in a forked child";
#endif
    StoreTest::SetUp();
  }
  // A registry in a child of its own, with an image of several layers.
  uint16_t startRegistry() {
    int fds[2];
    EXPECT_EQ(::pipe(fds), 0);
    registry_ = ::fork();
    if (registry_ == 0) {
      RealLoop own;
      BlockingPool ownPool(2);
      RegistryServer::Options options;
      options.root = base + "/registry";
      auto opened = RegistryServer::open(own, ownPool, options);
      if (!opened.ok()) ::_exit(1);
      http::Server server(own, {}, (*opened)->handler());
      auto port = server.listenTcp("127.0.0.1", 0);
      if (!port.ok() || ::write(fds[1], &*port, sizeof *port) != sizeof *port) ::_exit(2);
      own.run();
      ::_exit(0);
    }
    uint16_t port = 0;
    EXPECT_EQ(::read(fds[0], &port, sizeof port), static_cast<ssize_t>(sizeof port));
    ::close(fds[0]);
    ::close(fds[1]);
    return port;
  }
  void TearDown() override {
    if (registry_ > 0) {
      ::kill(registry_, SIGKILL);
      ::waitpid(registry_, nullptr, 0);
    }
    StoreTest::TearDown();
  }
  pid_t registry_ = -1;
};

TEST_F(Crash, KilledPullsLeaveAConsistentStore) {
  close();
  uint16_t port = startRegistry();
  openStore();
  std::string name = "localhost:" + std::to_string(port) + "/big:1", previous;
  for (int i = 0; i < 3; ++i) {
    std::string file = base + "/noise" + std::to_string(i);
    ASSERT_TRUE(writeFile(file, noise(3 << 20, static_cast<unsigned>(i) + 1)).ok());
    AssembleOptions options;
    options.base = previous;
    Addition one;
    one.source = file;
    one.target = "/data/" + std::to_string(i);
    options.additions = {one};
    options.tags = {name};
    auto image = run(store->assemble(options));
    ASSERT_TRUE(image.ok()) << image.error().message();
    previous = (*image)->id;
  }
  ASSERT_TRUE(run(store->push(*Reference::parse(name), {})).ok());
  close();
  ASSERT_TRUE(removeTree(root).ok());

  for (int round = 0; round < 20; ++round) {
    pid_t child = ::fork();
    if (child == 0) {
      RealLoop own;
      BlockingPool ownPool(3);
      ImageStore::Options options;
      options.root = root;
      auto opened = ImageStore::open(own, ownPool, options);
      if (!opened.ok()) ::_exit(1);
      auto image = runOn(own, (*opened)->pull(*Reference::parse(name), {}));
      ::_exit(image.ok() ? 0 : 2);
    }
    // The longer it may run, the later it is struck.
    ::usleep(static_cast<useconds_t>(round) * 6000);
    ::kill(child, SIGKILL);
    int status = 0;
    ::waitpid(child, &status, 0);
    openStore();
    auto image = store->get(name);
    auto blobs = store->content().list();
    ASSERT_TRUE(blobs.ok());
    for (const auto& digest : *blobs)
      EXPECT_EQ("sha256:" + sha256Hex(*store->content().read(digest, 64 << 20)), digest);
    EXPECT_TRUE(listDir(root + "/ingest")->empty());
    if (image.ok()) {
      auto snapshot = run(store->prepare(name, "c" + std::to_string(round)));
      ASSERT_TRUE(snapshot.ok()) << snapshot.error().message();
      for (int i = 0; i < 3; ++i)
        EXPECT_EQ(*readFile(snapshot->lowers[static_cast<size_t>(2 - i)] + "/data/" + std::to_string(i)),
                  noise(3 << 20, static_cast<unsigned>(i) + 1));
      ASSERT_TRUE(run(store->removeSnapshot("c" + std::to_string(round))).ok());
      RemoveOptions force;
      force.force = true;
      image = Error(Code::kUnknown, "");
      ASSERT_TRUE(run(store->remove(name, force)).ok());
    } else {
      EXPECT_TRUE(blobs->empty()) << "nothing names these blobs";
    }
    close();
  }
  openStore();
  EXPECT_TRUE(run(store->pull(*Reference::parse(name), {})).ok());
}

// On a small file system of its own, in a mount namespace of its own.
TEST_F(Crash, AFullDiskFailsThePullAndLeavesNothing) {
  close();
  uint16_t port = startRegistry();
  openStore();
  std::string name = "localhost:" + std::to_string(port) + "/big:1";
  assemble(name, {{"big", noise(6 << 20, 7)}});
  ASSERT_TRUE(run(store->push(*Reference::parse(name), {})).ok());
  close();
  std::string small = base + "/small";
  ASSERT_TRUE(makeDirs(small).ok());
  pid_t child = ::fork();
  if (child == 0) {
    if (::unshare(CLONE_NEWNS) != 0 || ::mount("", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) ::_exit(10);
    if (::mount("tmpfs", small.c_str(), "tmpfs", 0, "size=8m") != 0) ::_exit(11);
    RealLoop own;
    BlockingPool ownPool(3);
    ImageStore::Options options;
    options.root = small;
    options.retryDelay = 1ms;
    auto opened = ImageStore::open(own, ownPool, options);
    if (!opened.ok()) ::_exit(12);
    auto image = runOn(own, (*opened)->pull(*Reference::parse(name), {}));
    if (image.ok()) ::_exit(13);
    if (image.error().message().find("No space left on device") == std::string::npos) ::_exit(14);
    if (!(*opened)->content().list()->empty() || !listDir(small + "/ingest")->empty() ||
        listDir(small + "/layers")->size() != 1)
      ::_exit(15);
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
  openStore();
}

// The registry's disk, too, is a small one here; smaller images fit again after the failure.
TEST_F(Crash, AFullDiskFailsThePushAndLeavesNothingInTheRegistry) {
  std::string small = base + "/registry";
  ASSERT_TRUE(makeDirs(small).ok());
  close();
  pid_t child = ::fork();
  if (child == 0) {
    if (::unshare(CLONE_NEWNS) != 0 || ::mount("", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) ::_exit(10);
    if (::mount("tmpfs", small.c_str(), "tmpfs", 0, "size=8m") != 0) ::_exit(11);
    RealLoop own;
    BlockingPool ownPool(3);
    RegistryServer::Options serving;
    serving.root = small;
    auto registry = RegistryServer::open(own, ownPool, serving);
    if (!registry.ok()) ::_exit(12);
    http::Server server(own, {}, (*registry)->handler());
    auto port = server.listenTcp("127.0.0.1", 0);
    if (!port.ok()) ::_exit(13);
    ImageStore::Options storing;
    storing.root = root;
    storing.retryDelay = 1ms;
    auto opened = ImageStore::open(own, ownPool, storing);
    if (!opened.ok()) ::_exit(14);
    auto push = [&](const std::string& name, size_t size) -> Result<Pushed> {
      std::string file = base + "/" + name, tag = fmt::format("localhost:{}/{}:1", *port, name);
      RETURN_IF_ERROR(writeFile(file, noise(size, static_cast<unsigned>(size))));
      AssembleOptions image;
      image.additions = {{file, "/file"}};
      image.tags = {tag};
      auto made = runOn(own, (*opened)->assemble(image));
      if (!made.ok()) return std::move(made).error();
      return runOn(own, (*opened)->push(*Reference::parse(tag), {}));
    };
    auto big = push("big", 9 << 20);
    if (big.ok()) ::_exit(15);
    if (big.error().message().find("No space left on device") == std::string::npos) ::_exit(16);
    if (!listDir(small + "/blobs/sha256")->empty() || !listDir(small + "/ingest")->empty()) ::_exit(17);
    if (!push("small", 1 << 20).ok()) ::_exit(18);
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
  openStore();
}

}  // namespace
}  // namespace dhow::image
