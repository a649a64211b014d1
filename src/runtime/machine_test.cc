// A machine: PID 1 is ours, one command is kept running, and a runtime inside works as outside.
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>

#include "test_world.h"

namespace dhow::runtime {
namespace {

std::string waitFor(const std::string& file, const std::string& text) {
  for (int i = 0; i < 5000; ++i) {
    auto content = readFile(file);
    if (content.ok() && content->find(text) != std::string::npos) return *content;
    ::usleep(2000);
  }
  return readFile(file).valueOr("(none)");
}

MachineSpec machine(World& world, const std::string& command) {
  MachineSpec spec;
  spec.name = "n1";
  spec.args = {"/bin/sh", "-c", command};
  spec.env = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin"};
  spec.hostname = "node-1";
  // Not over /tmp: the programs under test may lie there.
  (void)makeDirs(world.dir + "/tmp").ok();
  Mount tmp{.source = world.dir + "/tmp", .target = "/mnt"};
  Mount data{.source = world.dir, .target = world.dir};
  Mount run{.type = "tmpfs", .target = "/run"};
  spec.mounts = {tmp, data, run};
  spec.log.path = world.dir + "/machine.log";
  return spec;
}

TEST(Machine, RunsItsCommandAgainAndReapsOrphans) {
  NEEDS_ROOT();
  World world;
  auto spec =
      machine(world,
              "(sleep 1000 &) ; echo start-$$ >> /mnt/starts; hostname > /mnt/name; cat /proc/1/comm > /mnt/init;"
              "touch /usr/x 2>/dev/null || echo ro > /mnt/ro; mkdir /sys/fs/cgroup/memory/sub && echo cg > /mnt/cg;"
              "cat /proc/self/cgroup > /mnt/groups; [ $(wc -l < /mnt/starts) -ge 3 ] && exec sleep 1000");
  ASSERT_TRUE(runOn(world.loop, world.runtime->createMachine(spec)).ok());
  auto pid = runOn(world.loop, world.runtime->startMachine("n1"));
  ASSERT_TRUE(pid.ok()) << pid.error().message();
  std::string starts = waitFor(world.dir + "/tmp/groups", ":memory:/\n");
  for (int i = 0; i < 3000 && split(readFile(world.dir + "/tmp/starts").valueOr(""), '\n').size() < 4; ++i)
    ::usleep(2000);
  EXPECT_EQ(split(readFile(world.dir + "/tmp/starts").valueOr(""), '\n').size(), 4u)
      << readFile(spec.log.path).valueOr("");
  EXPECT_EQ(waitFor(world.dir + "/tmp/name", "node"), "node-1\n");
  EXPECT_EQ(waitFor(world.dir + "/tmp/init", "dhow"), "dhow-machine\n");
  EXPECT_EQ(waitFor(world.dir + "/tmp/ro", "ro"), "ro\n");
  EXPECT_EQ(readFile(world.dir + "/tmp/cg").valueOr(""), "cg\n");
  EXPECT_NE(starts.find(":memory:/\n"), std::string::npos) << starts;
  auto list = runOn(world.loop, world.runtime->machines());
  ASSERT_EQ(list->size(), 1u);
  EXPECT_TRUE(list->at(0).running);
  EXPECT_EQ(*runOn(world.loop, world.runtime->startMachine("n1")), *pid);
  EXPECT_TRUE(runOn(world.loop, world.runtime->stopMachine("n1", std::chrono::seconds(5))).ok());
  EXPECT_NE(::kill(*pid, 0), 0);
  EXPECT_FALSE(runOn(world.loop, world.runtime->machines())->at(0).running);
  ASSERT_TRUE(runOn(world.loop, world.runtime->startMachine("n1")).ok());
  EXPECT_TRUE(runOn(world.loop, world.runtime->killMachine("n1")).ok());
  EXPECT_TRUE(runOn(world.loop, world.runtime->removeMachine("n1")).ok());
  EXPECT_TRUE(runOn(world.loop, world.runtime->machines())->empty());
}

TEST(Machine, OnlyACommandThatFailsIsStartedLessAndLessOften) {
  NEEDS_ROOT();
  World world;
  auto spec = machine(world, "echo >> /mnt/failed; exit 1");
  spec.args.insert(spec.args.end(), {"--", "/bin/sh", "-c", "echo >> /mnt/well"});
  ASSERT_TRUE(runOn(world.loop, world.runtime->createMachine(spec)).ok());
  ASSERT_TRUE(runOn(world.loop, world.runtime->startMachine("n1")).ok());
  waitFor(world.dir + "/tmp/well", std::string(20, '\n'));
  const auto failed = readFile(world.dir + "/tmp/failed").valueOr("");
  EXPECT_GE(readFile(world.dir + "/tmp/well").valueOr("").size(), 20u);
  EXPECT_GE(failed.size(), 1u);
  EXPECT_LT(failed.size(), 10u);
  EXPECT_TRUE(runOn(world.loop, world.runtime->killMachine("n1")).ok());
  EXPECT_TRUE(runOn(world.loop, world.runtime->removeMachine("n1")).ok());
}

TEST(Machine, ARuntimeWorksInsideAndItsContainersOutliveTheCommand) {
  NEEDS_ROOT();
  World world;
  std::string self = std::filesystem::read_symlink("/proc/self/exe");
  // The inner part is the test below, run by this same program inside the machine.
  auto spec =
      machine(world, "TMPDIR=" + world.dir + " DHOW_INSIDE=" + world.dir + " " + self + " --gtest_filter=Inside.* > " +
                         world.dir + "/inside.log 2>&1; echo code-$? >> " + world.dir + "/inside.log; sleep 1000");
  ASSERT_TRUE(runOn(world.loop, world.runtime->createMachine(spec)).ok());
  auto pid = runOn(world.loop, world.runtime->startMachine("n1"));
  ASSERT_TRUE(pid.ok()) << pid.error().message();
  std::string log = waitFor(world.dir + "/inside.log", "code-");
  EXPECT_NE(log.find("code-0"), std::string::npos) << log;
  EXPECT_TRUE(runOn(world.loop, world.runtime->removeMachine("n1")).ok());
}

TEST(Inside, RunsAContainer) {
  if (!::getenv("DHOW_INSIDE")) GTEST_SKIP() << "runs inside a machine only";
  World world;
  auto spec = world.shell("echo hello from inside; exit 6");
  spec.resources.memory = 32 << 20;
  auto ran = world.run(spec);
  ASSERT_TRUE(ran.started) << ran.error;
  EXPECT_EQ(ran.out, "hello from inside\n");
  EXPECT_EQ(ran.exit.code, 6);
}

TEST(Machine, MountsReachTargetsOnFileSystemsOfTheirOwn) {
  NEEDS_ROOT();
  // In a mount namespace of this test: as /run is on most machines.
  if (::unshare(CLONE_NEWNS) != 0) GTEST_SKIP() << "no mount namespace of one's own here";
  ASSERT_EQ(::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr), 0);
  ASSERT_EQ(::mount("tmpfs", "/mnt", "tmpfs", 0, nullptr), 0);
  {
    World world;
    ASSERT_TRUE(makeDirs("/mnt/a/b").ok());
    ASSERT_TRUE(makeDirs("/mnt/other").ok());
    MachineSpec spec;
    spec.name = "n1";
    spec.args = {"/bin/sh", "-c", "echo in > /mnt/a/b/x; touch /mnt/other/y || echo ro > /mnt/a/b/ro; exec sleep 1000"};
    spec.env = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin"};
    spec.mounts = {Mount{.source = "/mnt/a/b", .target = "/mnt/a/b"}};
    spec.log.path = world.dir + "/machine.log";
    ASSERT_TRUE(runOn(world.loop, world.runtime->createMachine(spec)).ok());
    auto pid = runOn(world.loop, world.runtime->startMachine("n1"));
    ASSERT_TRUE(pid.ok()) << pid.error().message();
    EXPECT_EQ(waitFor("/mnt/a/b/ro", "ro"), "ro\n");
    EXPECT_EQ(readFile("/mnt/a/b/x").valueOr(""), "in\n");
    EXPECT_TRUE(runOn(world.loop, world.runtime->removeMachine("n1")).ok());
  }
  ::umount2("/mnt", MNT_DETACH);
}

}  // namespace
}  // namespace dhow::runtime
