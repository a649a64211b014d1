#include "platform/contexts.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/files.h"
#include "client/kubeconfig.h"
#include "platform/identities.h"

namespace dhow::platform {
namespace {

class ContextsTest : public testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root: clusters of this machine are locked under /run";
    data_ = makeTempDir("/tmp", "dhow-contexts-").value();
  }
  void TearDown() override {
    if (!data_.empty()) {
      EXPECT_TRUE(removeTree(data_).ok());
    }
  }
  ClusterConfig cluster(const std::string& name, int index) {
    ClusterRequest request;
    request.name = name;
    request.dataDir = data_;
    auto config = configFor(request, index);
    EXPECT_TRUE(makeDirs(config.paths().root).ok());
    EXPECT_TRUE(ensureIdentities(config, std::chrono::system_clock::now()).ok());
    return config;
  }
  std::string serverOf(const std::string& context) {
    auto loaded = client::loadKubeconfig(sharedKubeconfig(data_), context);
    return loaded.ok() ? loaded->server : loaded.error().message();
  }
  std::string data_;
};

TEST_F(ContextsTest, EachClusterIsAContextAndTheNewestIsCurrent) {
  auto a = cluster("a", 0), b = cluster("b", 1);
  ASSERT_TRUE(refreshContext(a).ok());
  EXPECT_FALSE(pathExists(sharedKubeconfig(a.request.dataDir))) << "there was nothing to refresh";
  ASSERT_TRUE(addContext(a).ok());
  ASSERT_TRUE(addContext(b).ok());
  EXPECT_EQ(serverOf("a"), a.apiUrl());
  EXPECT_EQ(serverOf("b"), b.apiUrl());
  EXPECT_EQ(serverOf(""), b.apiUrl());
  // A second `up` switches nothing.
  ASSERT_TRUE(addContext(a).ok());
  EXPECT_EQ(serverOf(""), b.apiUrl());
  struct stat info{};
  ASSERT_EQ(::stat(sharedKubeconfig(data_).c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  ASSERT_TRUE(removeContext(b.paths()).ok());
  EXPECT_EQ(serverOf("a"), a.apiUrl());
  EXPECT_NE(serverOf(""), a.apiUrl());
  ASSERT_TRUE(removeContext(a.paths()).ok());
  EXPECT_FALSE(pathExists(sharedKubeconfig(data_)));
}

TEST_F(ContextsTest, EntriesOfOthersStay) {
  auto a = cluster("a", 0);
  ASSERT_TRUE(writeFile(sharedKubeconfig(data_),
                        "clusters:\n- name: mine\n  cluster: {server: 'https://10.0.0.1:6443'}\nusers:\n- name: me\n"
                        "  user: {token: abc}\ncontexts:\n- name: mine\n  context: {cluster: mine, user: me}\n"
                        "current-context: mine\npreferences: {colors: true}\n")
                  .ok());
  ASSERT_TRUE(addContext(a).ok());
  EXPECT_EQ(serverOf("mine"), "https://10.0.0.1:6443");
  EXPECT_EQ(serverOf(""), a.apiUrl());
  ASSERT_TRUE(removeContext(a.paths()).ok());
  EXPECT_EQ(serverOf("mine"), "https://10.0.0.1:6443");
  EXPECT_NE(readFile(sharedKubeconfig(data_)).value().find("colors"), std::string::npos);
}

TEST_F(ContextsTest, AnEntryOfThatNameOrADamagedFileIsLeftAsItIs) {
  auto a = cluster("a", 0);
  for (std::string text : {"clusters:\n- name: a\n  cluster: {server: 'https://10.0.0.1:6443'}\n", "{{{", "[]"}) {
    ASSERT_TRUE(writeFile(sharedKubeconfig(data_), text).ok());
    auto added = addContext(a);
    ASSERT_FALSE(added.ok()) << text;
    EXPECT_NE(added.error().message().find(sharedKubeconfig(data_)), std::string::npos);
    EXPECT_EQ(readFile(sharedKubeconfig(data_)).value(), text);
  }
}

}  // namespace
}  // namespace dhow::platform
