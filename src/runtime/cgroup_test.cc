#include "cgroup.h"

#include "base/gate.h"
#include "base/process.h"
#include "capabilities.h"
#include "runtime/user.h"
#include "seccomp.h"
#include "test_world.h"

namespace dhow::runtime {
namespace {

// A version 2 tree made of plain files.
struct FakeTree {
  std::string dir = *makeTempDir("/tmp", "dhow-cgroup-");
  Cgroups cgroups{{Hierarchy{dir, {"cpuset", "cpu", "io", "memory", "pids"}, true}}};
  FakeTree() {
    (void)makeDirs(dir + "/dhow/a").ok();
    for (const char* folder : {"", "/dhow"}) (void)writeFile(dir + folder + "/cgroup.subtree_control", "").ok();
    for (const char* file :
         {"memory.max", "memory.swap.max", "memory.low", "cpu.weight", "cpu.max", "cpuset.cpus", "cpuset.mems",
          "pids.max", "io.weight", "cgroup.freeze", "cgroup.kill", "cgroup.procs", "memory.events"})
      (void)writeFile(dir + "/dhow/a/" + file, "").ok();
  }
  ~FakeTree() { (void)removeTree(dir).ok(); }
  std::string file(const std::string& name) { return readFile(dir + "/dhow/a/" + name).valueOr("?"); }
};

TEST(CgroupV2, WritesLimitsAsVersion2WantsThem) {
  FakeTree tree;
  EXPECT_EQ(tree.cgroups.version(), 2);
  Resources limits;
  limits.memory = 64 << 20;
  limits.memorySwap = 96 << 20;
  limits.memoryReservation = 32 << 20;
  limits.cpuShares = 1024;
  limits.cpuQuota = 50000;
  limits.cpusetCpus = "0-1";
  limits.pids = -1;
  limits.blkioWeight = 1000;
  auto entry = tree.cgroups.create("/dhow/a", limits, {}, false);
  ASSERT_TRUE(entry.ok()) << entry.error().message();
  EXPECT_EQ(tree.file("memory.max"), "67108864");
  EXPECT_EQ(tree.file("memory.swap.max"), "33554432");
  EXPECT_EQ(tree.file("memory.low"), "33554432");
  EXPECT_EQ(tree.file("cpu.weight"), "39");
  EXPECT_EQ(tree.file("cpu.max"), "50000 100000");
  EXPECT_EQ(tree.file("cpuset.cpus"), "0-1");
  EXPECT_EQ(tree.file("pids.max"), "max");
  EXPECT_EQ(tree.file("io.weight"), "10000");
  EXPECT_EQ(entry->v2Dir, tree.dir + "/dhow/a");
  EXPECT_EQ(entry->oomFile, tree.dir + "/dhow/a/memory.events");
  EXPECT_TRUE(entry->taskFiles.empty());
  EXPECT_TRUE(tree.cgroups.freeze("/dhow/a", true).ok());
  EXPECT_EQ(tree.file("cgroup.freeze"), "1");
  EXPECT_TRUE(tree.cgroups.kill("/dhow/a").ok());
  EXPECT_EQ(tree.file("cgroup.kill"), "1");
}

TEST(CgroupV2, ReadsUsage) {
  FakeTree tree;
  auto put = [&](const char* name, const char* text) { (void)writeFile(tree.dir + "/dhow/a/" + name, text).ok(); };
  put("memory.current", "1000\n");
  put("memory.max", "max\n");
  put("memory.stat", "anon 300\nfile 500\ninactive_file 200\n");
  put("memory.events", "low 0\noom 2\noom_kill 1\n");
  put("cpu.stat", "usage_usec 7\nuser_usec 5\nsystem_usec 2\nnr_throttled 3\n");
  put("pids.current", "4\n");
  put("io.stat", "8:0 rbytes=10 wbytes=20 rios=1 wios=2\n8:16 rbytes=5 wbytes=0 rios=1 wios=0\n");
  Stats stats = tree.cgroups.stats("/dhow/a");
  EXPECT_EQ(stats.memoryUsage, 1000u);
  EXPECT_EQ(stats.memoryWorkingSet, 800u);
  EXPECT_EQ(stats.memoryLimit, 0u);
  EXPECT_EQ(stats.oomKills, 1u);
  EXPECT_EQ(stats.cpuUsageNanos, 7000u);
  EXPECT_EQ(stats.cpuThrottledPeriods, 3u);
  EXPECT_EQ(stats.pids, 4u);
  EXPECT_EQ(stats.ioReadBytes, 15u);
  EXPECT_EQ(stats.ioWrites, 2u);
}

TEST(Cgroup, RefusesPathsThatAreNotBelowTheRoot) {
  FakeTree tree;
  for (const char* path : {"", "/", "a", "/a/../b"})
    EXPECT_FALSE(tree.cgroups.create(path, {}, {}, false).ok()) << path;
  EXPECT_FALSE(tree.cgroups.remove("/").ok());
}

TEST(Cgroup, SharesBecomeWeights) {
  EXPECT_EQ(weightOfShares(2), 1u);
  EXPECT_EQ(weightOfShares(1024), 39u);
  EXPECT_EQ(weightOfShares(262144), 10000u);
}

TEST(Cgroup, MemoryLimitKillsAndIsFlagged) {
  NEEDS_ROOT();
  World world;
  Queue<Event> events(world.loop);
  auto spec = world.shell("dd if=/dev/zero of=/dev/null bs=64M count=1; echo survived");
  spec.process.args = {"/bin/dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1"};
  spec.resources.memory = 16 << 20;
  spec.resources.memorySwap = 16 << 20;
  auto ran = world.run(spec);
  ASSERT_TRUE(ran.started) << ran.error;
  EXPECT_EQ(ran.exit.code, 137);
  EXPECT_TRUE(ran.exit.oom);
}

TEST(Cgroup, AKillInsideAContainerThatGoesOnIsToldWhileItRuns) {
  NEEDS_ROOT();
  World world;
  Queue<Event> events(world.loop);
  world.runtime->onEvent([&](const Event& event) { events.push(event); });
  auto box = world.sandbox({.id = "pod"});
  auto spec = world.shell("dd if=/dev/zero of=/dev/null bs=64M count=1; exec sleep 100");
  spec.resources.memory = 16 << 20;
  spec.resources.memorySwap = 16 << 20;
  auto started = runOn(world.loop, box->start(spec));
  ASSERT_TRUE(started.ok()) << started.error().message();
  auto event = runOn(world.loop, events.pop());
  ASSERT_TRUE(event);
  EXPECT_EQ(event->kind, Event::Kind::kOom);
  EXPECT_EQ(event->containerId, spec.id);
  EXPECT_EQ(box->container(spec.id)->state, ContainerState::kRunning);
  EXPECT_TRUE(runOn(world.loop, box->remove()).ok());
}

TEST(Cgroup, LimitsAreInTheKernelsFilesAndCanChange) {
  NEEDS_ROOT();
  World world;
  auto cgroups = Cgroups::detect();
  ASSERT_TRUE(cgroups.ok());
  if (cgroups->version() != 1) GTEST_SKIP() << "needs cgroup version 1";
  auto box = world.sandbox({.id = "pod", .resources = Resources{.memory = 128 << 20}});
  auto spec = world.shell("exec sleep 100");
  spec.resources.memory = 64 << 20;
  spec.resources.cpuQuota = 20000;
  spec.resources.cpuShares = 512;
  spec.resources.pids = 50;
  spec.resources.cpusetCpus = "0";
  auto started = runOn(world.loop, box->start(spec));
  ASSERT_TRUE(started.ok()) << started.error().message();
  std::string group = world.cgroupParent + "/pod/" + spec.id;
  auto file = [&](const std::string& name) {
    return std::string(trim(readFile("/sys/fs/cgroup/" + name).valueOr("?")));
  };
  EXPECT_EQ(file("memory" + world.cgroupParent + "/pod/memory.limit_in_bytes"), "134217728");
  EXPECT_EQ(file("memory" + group + "/memory.limit_in_bytes"), "67108864");
  EXPECT_EQ(file("cpu" + group + "/cpu.cfs_quota_us"), "20000");
  EXPECT_EQ(file("cpu" + group + "/cpu.shares"), "512");
  EXPECT_EQ(file("pids" + group + "/pids.max"), "50");
  EXPECT_EQ(file("cpuset" + group + "/cpuset.cpus"), "0");
  for (const char* controller : {"memory", "cpu", "pids", "devices", "cpuset", "cpuacct"})
    EXPECT_EQ(file(controller + group + "/cgroup.procs"), std::to_string(started->pid)) << controller;
  Resources more;
  more.memory = 96 << 20;
  EXPECT_TRUE(runOn(world.loop, box->update(spec.id, more)).ok());
  EXPECT_EQ(file("memory" + group + "/memory.limit_in_bytes"), "100663296");
  auto stats = runOn(world.loop, box->stats(spec.id));
  ASSERT_TRUE(stats.ok());
  EXPECT_EQ(stats->pids, 1u);
  EXPECT_EQ(stats->memoryLimit, 100663296u);
  EXPECT_GT(stats->memoryUsage, 0u);
  EXPECT_GT(stats->cpuUsageNanos, 0u);
  auto processes = runOn(world.loop, box->processes(spec.id));
  EXPECT_EQ(*processes, std::vector<pid_t>{started->pid});
  ASSERT_TRUE(runOn(world.loop, box->pause(spec.id)).ok());
  EXPECT_TRUE(runOn(world.loop, box->resume(spec.id)).ok());
  EXPECT_TRUE(runOn(world.loop, box->removeContainer(spec.id)).ok());
  EXPECT_FALSE(pathExists("/sys/fs/cgroup/memory" + group));
}

TEST(Cgroup, DeviceFilterLoadsOnVersion2) {
  NEEDS_ROOT();
  auto cgroups = Cgroups::detect();
  ASSERT_TRUE(cgroups.ok());
  std::string mount;
  for (const auto& hierarchy : cgroups->hierarchies()) {
    if (hierarchy.v2) mount = hierarchy.mount;
  }
  if (mount.empty()) GTEST_SKIP() << "needs a version 2 hierarchy";
  std::string group = mount + "/dhow-test-devices-" + std::to_string(::getpid());
  ASSERT_EQ(::mkdir(group.c_str(), 0755), 0);
  auto attached = attachDeviceFilter(group, defaultDeviceRules());
  // A child inside may open null and not the memory device.
  auto out = runCommand(
      {"sh", "-c", "echo 0 > " + group + "/cgroup.procs; : < /dev/null && echo null; : < /dev/kmsg && echo kmsg"});
  ::rmdir(group.c_str());
  if (!attached.ok() && attached.error().is(Code::kPermissionDenied)) GTEST_SKIP() << "may not load BPF programs";
  ASSERT_TRUE(attached.ok()) << attached.error().message();
  EXPECT_EQ(out->output, "null\n") << out->errors;
}

TEST(Capabilities, NamesAndSets) {
  EXPECT_EQ(*capabilityBit("CAP_SYS_ADMIN"), 1ull << 21);
  EXPECT_EQ(*capabilityBit("net_raw"), 1ull << 13);
  EXPECT_FALSE(capabilityBit("fly").ok());
  ProcessSpec process;
  EXPECT_EQ(*capabilitiesOf(process), 0xa80425fbull);
  process.capAdd = {"ALL"};
  process.capDrop = {"SYS_ADMIN"};
  EXPECT_EQ(*capabilitiesOf(process), ((1ull << 41) - 1) & ~(1ull << 21));
}

TEST(Seccomp, CompilesTheDefaultAndRefusesNonsense) {
  auto filter = compileSeccomp(defaultSeccomp(0xa80425fb));
  ASSERT_TRUE(filter.ok()) << filter.error().message();
  EXPECT_EQ(filter->size() % 8, 0u);
  EXPECT_GT(filter->size(), 1000u);
  EXPECT_FALSE(parseSeccomp("[]", 0).ok());
  EXPECT_FALSE(parseSeccomp("{\"syscalls\":[]}", 0).ok());
  auto profile = parseSeccomp(
      R"({"defaultAction":"SCMP_ACT_ERRNO","syscalls":[
        {"names":["a"],"action":"SCMP_ACT_ALLOW","includes":{"caps":["CAP_SYS_ADMIN"]}},
        {"names":["b"],"action":"SCMP_ACT_ALLOW","excludes":{"caps":["CAP_SYS_ADMIN"]}},
        {"names":["c"],"action":"SCMP_ACT_ALLOW","includes":{"arches":["s390x"]}}]})",
      0);
  ASSERT_TRUE(profile.ok());
  ASSERT_EQ(profile->rules.size(), 1u);
  EXPECT_EQ(profile->rules[0].names[0], "b");
  profile->rules[0].action = "SCMP_ACT_DANCE";
  EXPECT_FALSE(compileSeccomp(*profile).ok());
}

TEST(User, ResolvesNamesNumbersGroupsAndLayers) {
  std::string dir = *makeTempDir("/tmp", "dhow-user-");
  (void)makeDirs(dir + "/low/etc").ok();
  (void)makeDirs(dir + "/up/etc").ok();
  (void)writeFile(dir + "/low/etc/passwd", "root:x:0:0::/root:/bin/sh\nweb:x:33:34::/srv:/bin/sh\n").ok();
  (void)writeFile(dir + "/low/etc/group", "root:x:0:\nmore:x:77:web\n").ok();
  RootFs root;
  root.lower = {dir + "/low"};
  root.upper = dir + "/up";
  auto web = resolveUser(root, "web", {});
  ASSERT_TRUE(web.ok());
  EXPECT_EQ(web->user.uid, 33u);
  EXPECT_EQ(web->user.gid, 34u);
  EXPECT_EQ(web->user.additionalGids, std::vector<uint32_t>{77});
  EXPECT_EQ(web->home, "/srv");
  EXPECT_EQ(resolveUser(root, "", {})->home, "/root");
  EXPECT_EQ(resolveUser(root, "1000:more", {"5"})->user.gid, 77u);
  EXPECT_EQ(resolveUser(root, "1000:more", {"5"})->user.additionalGids, std::vector<uint32_t>{5});
  auto missing = resolveUser(root, "nobody", {});
  ASSERT_FALSE(missing.ok());
  EXPECT_EQ(missing.error().message(), "unable to find user nobody: no matching entries in passwd file");
  (void)writeFile(dir + "/up/etc/passwd", "web:x:99:99::/:/bin/sh\n").ok();
  EXPECT_EQ(resolveUser(root, "web", {})->user.uid, 99u);
  (void)removeTree(dir).ok();
}

}  // namespace
}  // namespace dhow::runtime
