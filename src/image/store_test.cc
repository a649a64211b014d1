#include "image/store.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/files.h"
#include "base/process.h"
#include "test_util.h"

namespace dhow::image {
namespace {

class Store : public StoreTest {};

TEST_F(Store, AssemblesAnImageAndFindsItByNameIdAndPrefix) {
  auto image = assemble("hello:1", {{"bin/hello", "program"}});
  ASSERT_TRUE(image);
  EXPECT_EQ(image->repoTags, std::vector<std::string>{"hello:1"});
  EXPECT_EQ(image->config.run.entrypoint, std::vector<std::string>{"/bin/hello"});
  EXPECT_EQ(image->config.diffIds.size(), 1u);
  for (const std::string& name :
       {std::string("hello:1"), std::string("docker.io/library/hello:1"), image->id, image->id.substr(7, 12)}) {
    auto found = store->get(name);
    ASSERT_TRUE(found.ok()) << name;
    EXPECT_EQ((*found)->id, image->id);
  }
  EXPECT_EQ(store->get("hello").error().message(), "No such image: hello:latest");
  EXPECT_EQ(store->get("Hello").error().code(), Code::kBadRequest);
}

TEST_F(Store, KeepsImagesTagsAndSnapshotsAcrossRestarts) {
  auto image = assemble("hello:1", {{"bin/hello", "program"}});
  ASSERT_TRUE(run(store->tag("hello:1", *Reference::parse("localhost:5000/other"))).ok());
  auto snapshot = run(store->prepare("hello:1", "c1"));
  ASSERT_TRUE(snapshot.ok()) << snapshot.error().message();
  reopen();
  auto found = store->get("localhost:5000/other:latest");
  ASSERT_TRUE(found.ok());
  EXPECT_EQ((*found)->repoTags, (std::vector<std::string>{"hello:1", "localhost:5000/other:latest"}));
  auto again = store->snapshot("c1");
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->lowers, snapshot->lowers);
  EXPECT_EQ(*readFile(again->lowers[0] + "/bin/hello"), "program");
  ASSERT_TRUE(run(store->removeSnapshot("c1")).ok());
  EXPECT_FALSE(store->snapshot("c1").ok());
  EXPECT_FALSE(pathExists(snapshot->upper));
}

TEST_F(Store, RefusesASecondProcessOnOneRoot) {
  ImageStore::Options options;
  options.root = root;
  auto second = ImageStore::open(loop, pool, options);
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.error().code(), Code::kFailedPrecondition);
}

TEST_F(Store, RemovesAndPrunesAsDockerDoes) {
  auto image = assemble("hello:1", {{"a", "1"}});
  std::string id = image->id, blob = image->layers[0].digest;
  image.reset();
  RemoveOptions used;
  used.users = [](const std::string&) { return std::vector<ImageUser>{{"0123456789abcdef", true}}; };
  EXPECT_EQ(run(store->remove("hello:1", used)).error().message(),
            "conflict: unable to remove repository reference \"hello:1\" (must force) - container 0123456789ab is "
            "using its referenced image " +
                id.substr(7, 12));
  EXPECT_EQ(run(store->remove(id, used)).error().code(), Code::kConflict);
  ASSERT_TRUE(run(store->tag("hello:1", *Reference::parse("hello:2"))).ok());
  auto first = run(store->remove("hello:1", used));
  ASSERT_TRUE(first.ok());
  EXPECT_EQ(first->size(), 1u);
  EXPECT_EQ((*first)[0].untagged, "hello:1");
  auto last = run(store->remove("hello:2", {}));
  ASSERT_TRUE(last.ok());
  EXPECT_EQ((*last)[1].deleted, id);
  EXPECT_FALSE(store->content().has(blob));
  EXPECT_TRUE(store->content().list()->empty());
  EXPECT_EQ(store->layersSize(), 0u);
  EXPECT_EQ(run(store->remove("hello:2", {})).error().message(), "No such image: hello:2");

  assemble("x:1", {{"a", "1"}});
  assemble("x:1", {{"a", "2"}});
  auto pruned = run(store->prune(false, {}));
  ASSERT_TRUE(pruned.ok());
  EXPECT_EQ(pruned->removed.size(), 1u);
  EXPECT_GT(pruned->bytes, 0u);
  EXPECT_EQ(store->list().size(), 1u);
}

TEST_F(Store, LayersOfARunningContainerOutliveTheirImage) {
  assemble("x:1", {{"a", "1"}});
  auto snapshot = run(store->prepare("x:1", "c1"));
  ASSERT_TRUE(snapshot.ok());
  RemoveOptions force;
  force.force = true;
  ASSERT_TRUE(run(store->remove("x:1", force)).ok());
  EXPECT_EQ(*readFile(snapshot->lowers[0] + "/a"), "1");
  reopen();
  EXPECT_EQ(*readFile(snapshot->lowers[0] + "/a"), "1");
  ASSERT_TRUE(run(store->removeSnapshot("c1")).ok());
  ASSERT_TRUE(run(store->prune(false, {})).ok());
  EXPECT_FALSE(pathExists(snapshot->lowers[0]));
}

TEST_F(Store, SavesAndLoadsBothForms) {
  auto image = assemble("a/b:1", {{"bin/x", "content"}, {"etc/y", "more"}});
  std::string archive = base + "/saved.tar", id = image->id;
  ASSERT_TRUE(run(store->save({"a/b:1"}, archive)).ok());
  image.reset();
  ASSERT_TRUE(run(store->remove("a/b:1", {})).ok());
  auto loaded = run(store->load(archive));
  ASSERT_TRUE(loaded.ok()) << loaded.error().message();
  ASSERT_EQ(loaded->size(), 1u);
  EXPECT_EQ((*loaded)[0].name, "a/b:1");
  EXPECT_EQ((*loaded)[0].image->id, id);
  // As a plain docker-archive: without index.json, and compressed.
  ASSERT_TRUE(run(store->remove("a/b:1", {})).ok());
  loaded->clear();
  auto repacked = runCommand(
      {"sh", "-c",
       "cd " + base +
           " && mkdir t && tar -C t -xf saved.tar && rm t/index.json t/oci-layout && tar -C t -czf old.tar.gz ."});
  ASSERT_EQ(repacked->status.code, 0) << repacked->errors;
  auto old = run(store->load(base + "/old.tar.gz"));
  ASSERT_TRUE(old.ok()) << old.error().message();
  EXPECT_EQ((*old)[0].name, "a/b:1");
  EXPECT_EQ((*old)[0].image->id, id);
  auto snapshot = run(store->prepare("a/b:1", "c"));
  EXPECT_EQ(*readFile(snapshot->lowers[0] + "/bin/x"), "content");
}

TEST_F(Store, ADamagedArchiveLeavesNothing) {
  ASSERT_TRUE(writeFile(base + "/junk", "not a tar at all").ok());
  EXPECT_FALSE(run(store->load(base + "/junk")).ok());
  ASSERT_EQ(runCommand({"sh", "-c", "cd " + base + " && echo hello > f && tar -cf empty.tar f"})->status.code, 0);
  EXPECT_EQ(run(store->load(base + "/empty.tar")).error().code(), Code::kInvalid);
  EXPECT_TRUE(store->content().list()->empty());
  EXPECT_TRUE(listDir(root + "/ingest")->empty());
}

TEST_F(Store, BuildsOnABaseAndMergesItsConfig) {
  AssembleOptions options;
  options.base = assemble("base:1", {{"bin/x", "1"}})->id;
  options.config.env = {"A=2", "B=3"};
  options.config.cmd = {"serve"};
  options.tags = {"derived"};
  auto derived = run(store->assemble(options));
  ASSERT_TRUE(derived.ok()) << derived.error().message();
  EXPECT_EQ((*derived)->config.run.entrypoint, std::vector<std::string>{"/bin/hello"});
  EXPECT_EQ((*derived)->config.run.env, (std::vector<std::string>{"A=2", "B=3"}));
  EXPECT_EQ((*derived)->config.run.cmd, std::vector<std::string>{"serve"});
  EXPECT_EQ((*derived)->repoTags, std::vector<std::string>{"derived:latest"});
}

TEST_F(Store, MountsChangesAndCommitsAContainersFiles) {
  assemble("base:1", {{"etc/keep", "k"}, {"etc/gone", "g"}, {"dir/old", "o"}});
  auto snapshot = run(store->prepare("base:1", "c1"));
  ASSERT_TRUE(snapshot.ok());
  std::string merged = base + "/merged";
  ASSERT_TRUE(makeDirs(merged).ok());
  pid_t child = ::fork();
  if (child == 0) {
    std::string options =
        "lowerdir=" + snapshot->lowers[0] + ",upperdir=" + snapshot->upper + ",workdir=" + snapshot->work;
    if (::unshare(CLONE_NEWNS) != 0 || ::mount("", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) ::_exit(10);
    if (::mount("overlay", merged.c_str(), "overlay", 0, options.c_str()) != 0) ::_exit(11);
    std::string script =
        "cd " + merged + " && rm etc/gone && echo new > etc/new && rm -r dir && mkdir dir && echo n > dir/n";
    ::_exit(::system(script.c_str()) == 0 ? 0 : 12);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  ASSERT_EQ(WEXITSTATUS(status), 0);
  auto changes = run(store->changes("c1"));
  ASSERT_TRUE(changes.ok());
  std::map<std::string, int> kinds;
  for (const auto& change : *changes) kinds[change.path] = static_cast<int>(change.kind);
  EXPECT_EQ(kinds["/etc/gone"], 2);
  EXPECT_EQ(kinds["/etc/new"], 1);
  EXPECT_EQ(kinds["/etc"], 0);
  EXPECT_EQ(*run(store->snapshotSize("c1")), 6u);
  CommitOptions commit;
  commit.tags = {"committed:1"};
  auto image = run(store->commit("c1", commit));
  ASSERT_TRUE(image.ok()) << image.error().message();
  EXPECT_EQ((*image)->config.diffIds.size(), 2u);
  auto again = run(store->prepare("committed:1", "c2"));
  ASSERT_TRUE(again.ok());
  struct stat info;
  ASSERT_EQ(::lstat((again->lowers[0] + "/etc/gone").c_str(), &info), 0);
  EXPECT_TRUE(S_ISCHR(info.st_mode));
  char value = 0;
  EXPECT_EQ(::getxattr((again->lowers[0] + "/dir").c_str(), "trusted.overlay.opaque", &value, 1), 1);
}

TEST_F(Store, GivesFoldersThatALayerDoesNotListTheAttributesFromBelow) {
  std::string script = "cd " + base +
                       " && mkdir -p one/tmp two/tmp && chmod 1777 one/tmp && touch two/tmp/f && tar -C one -cf "
                       "one.tar tmp && tar -C two -cf two.tar tmp/f";
  ASSERT_EQ(runCommand({"sh", "-c", script})->status.code, 0);
  // assemble() lists parents; a layer that does not comes from outside, here through a docker-archive.
  auto digestOf = [&](const std::string& name) { return "sha256:" + sha256Hex(*readFile(base + "/" + name)); };
  std::string config = R"({"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[")" +
                       digestOf("one.tar") + "\",\"" + digestOf("two.tar") + "\"]}}";
  ASSERT_TRUE(writeFile(base + "/config.json", config).ok());
  ASSERT_TRUE(writeFile(base + "/manifest.json",
                        R"([{"Config":"config.json","RepoTags":["t:1"],"Layers":["one.tar","two.tar"]}])")
                  .ok());
  ASSERT_EQ(runCommand({"sh", "-c", "cd " + base + " && tar -cf all.tar manifest.json config.json one.tar two.tar"})
                ->status.code,
            0);
  auto loaded = run(store->load(base + "/all.tar"));
  ASSERT_TRUE(loaded.ok()) << loaded.error().message();
  auto snapshot = run(store->prepare("t:1", "c"));
  ASSERT_TRUE(snapshot.ok());
  struct stat info;
  ASSERT_EQ(::stat((snapshot->upper + "/tmp").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 01777u);
}

TEST_F(Store, UnpacksAgainWhatIsMissing) {
  auto image = assemble("x:1", {{"a", "1"}});
  image.reset();
  close();
  // As after a power failure: the layer may not have reached the disk.
  auto names = listDir(root + "/layers");
  for (const auto& name : *names) {
    if (name != "0") ASSERT_TRUE(writeFile(root + "/layers/" + name + "/layer.json", "{}").ok());
  }
  openStore();
  auto snapshot = run(store->prepare("x:1", "c"));
  ASSERT_TRUE(snapshot.ok()) << snapshot.error().message();
  EXPECT_EQ(*readFile(snapshot->lowers[0] + "/a"), "1");
}

}  // namespace
}  // namespace dhow::image
