// A store in a folder of its own, for the tests.
#pragma once

#include <gtest/gtest.h>
#include <sys/xattr.h>

#include "base/digest.h"
#include "base/files.h"
#include "image/store.h"

namespace dhow::image {

class StoreTest : public testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "layers need root";
    auto made = makeTempDir(testing::TempDir(), "images");
    ASSERT_TRUE(made.ok());
    base = *made;
    root = base + "/store";
    openStore();
  }
  void TearDown() override {
    if (store) close();
    if (!base.empty()) EXPECT_TRUE(removeTree(base).ok());
  }

  void openStore() {
    ImageStore::Options options;
    options.root = root;
    options.hosts = hosts;
    options.retryDelay = retryDelay;
    auto opened = ImageStore::open(loop, pool, options);
    ASSERT_TRUE(opened.ok()) << opened.error().message();
    store = std::move(*opened);
  }
  void close() {
    run(store->stop());
    store.reset();
  }
  void reopen() {
    close();
    openStore();
  }

  template <class T>
  T run(Task<T> task) {
    return runOn(loop, std::move(task));
  }

  // An image of one layer with these files.
  ImagePtr assemble(const std::string& tag, const std::map<std::string, std::string>& files) {
    std::string folder = base + "/files" + std::to_string(count++);
    for (const auto& [name, content] : files) {
      std::string path = folder + "/" + name;
      EXPECT_TRUE(makeDirs(path.substr(0, path.rfind('/'))).ok());
      EXPECT_TRUE(writeFile(path, content, 0755).ok());
    }
    AssembleOptions options;
    Addition all;
    all.source = folder;
    all.target = "/";
    options.additions = {all};
    options.config.entrypoint = {"/bin/hello"};
    options.config.env = {"A=1"};
    options.tags = {tag};
    auto image = run(store->assemble(options));
    EXPECT_TRUE(image.ok()) << (image.ok() ? "" : image.error().message());
    return image.ok() ? *image : nullptr;
  }

  RealLoop loop;
  BlockingPool pool{3};
  std::string base, root;
  RegistryHosts hosts;
  Duration retryDelay = std::chrono::milliseconds(1);
  std::unique_ptr<ImageStore> store;
  int count = 0;
};

}  // namespace dhow::image
