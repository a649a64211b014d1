// Containers as their processes see them.
#include "test_world.h"

namespace dhow::runtime {
namespace {

using testing::Test;

TEST(Container, ReportsTheExitCode) {
  NEEDS_ROOT();
  World world;
  auto ran = world.run(world.shell("echo hello; echo oops >&2; exit 7"));
  ASSERT_TRUE(ran.started) << ran.error;
  EXPECT_EQ(ran.out, "hello\n");
  EXPECT_EQ(ran.err, "oops\n");
  EXPECT_EQ(ran.exit.code, 7);
  EXPECT_EQ(ran.exit.signal, 0);
}

TEST(Container, ReportsTheSignalThatEndedIt) {
  NEEDS_ROOT();
  World world;
  auto box = world.sandbox();
  auto spec = world.shell("exec sleep 100");
  ASSERT_TRUE(runOn(world.loop, box->start(spec)).ok());
  ASSERT_TRUE(runOn(world.loop, box->signal(spec.id, SIGKILL)).ok());
  auto exit = runOn(world.loop, box->wait(spec.id));
  ASSERT_TRUE(exit.ok());
  EXPECT_EQ(exit->code, 137);
  EXPECT_EQ(exit->signal, SIGKILL);
  EXPECT_FALSE(exit->oom);
  EXPECT_EQ(runOn(world.loop, box->signal(spec.id, SIGKILL)).error().code(), Code::kFailedPrecondition);
}

TEST(Container, MissingCommandIsNotFoundAndLeavesNothing) {
  NEEDS_ROOT();
  World world;
  auto box = world.sandbox();
  auto spec = world.shell("");
  spec.process.args = {"no-such-program"};
  auto started = runOn(world.loop, box->start(spec));
  ASSERT_FALSE(started.ok());
  EXPECT_EQ(started.error().code(), Code::kNotFound);
  EXPECT_EQ(started.error().message(),
            "start container: exec: \"no-such-program\": executable file not found in $PATH");
  EXPECT_TRUE(box->containers().empty());
  spec.process.args = {"/etc/passwd"};
  started = runOn(world.loop, box->start(spec));
  ASSERT_FALSE(started.ok());
  EXPECT_EQ(started.error().code(), Code::kPermissionDenied);
  EXPECT_FALSE(pathExists("/sys/fs/cgroup/memory" + world.cgroupParent + "/" + box->id() + "/" + spec.id));
}

TEST(Container, HasItsEnvironmentFolderAndUser) {
  NEEDS_ROOT();
  World world;
  auto spec = world.shell("echo $COLOUR; pwd; id -u; id -g; id -G; touch /dev/null; echo out > /dev/stdout");
  spec.process.env.push_back("COLOUR=blue");
  spec.process.cwd = "/made/here";
  spec.process.user = {33, 34, {77, 78}, {}};
  auto ran = world.run(spec);
  EXPECT_EQ(ran.out, "blue\n/made/here\n33\n34\n34 77 78\nout\n") << ran.error << ran.err;
}

TEST(Container, HasDockersCapabilities) {
  NEEDS_ROOT();
  World world;
  std::string caps = world.output("grep Cap /proc/self/status");
  EXPECT_NE(caps.find("CapEff:\t00000000a80425fb"), std::string::npos) << caps;
  EXPECT_NE(caps.find("CapBnd:\t00000000a80425fb"), std::string::npos) << caps;
  EXPECT_NE(caps.find("CapInh:\t0000000000000000"), std::string::npos) << caps;
  auto spec = world.shell("grep CapEff /proc/self/status");
  spec.process.capDrop = {"ALL"};
  spec.process.capAdd = {"net_bind_service"};
  EXPECT_EQ(world.run(spec).out, "CapEff:\t0000000000000400\n");
  auto user = world.shell("grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status");
  user.process.user.uid = 1000;
  user.process.noNewPrivileges = true;
  EXPECT_EQ(world.run(user).out, "CapEff:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n");
}

TEST(Container, SeccompRefusesNamespacesUnlessUnconfined) {
  NEEDS_ROOT();
  World world;
  auto spec = world.shell("unshare -U true && echo made");
  auto ran = world.run(spec);
  EXPECT_NE(ran.err.find("Operation not permitted"), std::string::npos) << ran.err << ran.out;
  spec = world.shell("unshare -U true && echo made");
  spec.process.seccomp.mode = Seccomp::Mode::kUnconfined;
  EXPECT_EQ(world.run(spec).out, "made\n");
  spec = world.shell("mkdir /x || echo refused");
  spec.process.seccomp = {
      Seccomp::Mode::kProfile,
      R"({"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO"}]})"};
  EXPECT_EQ(world.run(spec).out, "refused\n");
  spec.process.seccomp.profile = "{}";
  EXPECT_EQ(world.run(spec).code, Code::kInvalid);
}

TEST(Container, HidesAndProtectsKernelFiles) {
  NEEDS_ROOT();
  World world;
  std::string seen = world.output(
      "wc -c < /proc/timer_list; echo x > /proc/sys/kernel/hostname || echo ro; mkdir /proc/bus/x || echo ro2;"
      "mkdir /sys/x || echo ro3; ls /sys/firmware | wc -l;");
  EXPECT_NE(seen.find("0\nro\nro2\nro3\n0\n"), std::string::npos) << seen;
}

TEST(Container, DevicesAreThereAndNoOthers) {
  NEEDS_ROOT();
  World world;
  std::string seen = world.output(
      "ls /dev; head -c 4 /dev/zero | od -An -tx1; mknod /tmp/disk b 254 0 && cat /tmp/disk; mount | grep -c ' "
      "/dev/shm '; readlink /dev/fd");
  EXPECT_NE(seen.find("fd\nfull\nmqueue\nnull\nptmx\npts\nrandom\nshm\nstderr\nstdin\nstdout\ntty\nurandom\nzero\n"),
            std::string::npos)
      << seen;
  EXPECT_NE(seen.find("can't open '/tmp/disk': Operation not permitted"), std::string::npos) << seen;
  EXPECT_NE(seen.find("1\n/proc/self/fd"), std::string::npos) << seen;
}

TEST(Container, ReadOnlyRootTmpfsAndBinds) {
  NEEDS_ROOT();
  World world;
  auto spec = world.shell(
      "touch /file || echo ro; touch /scratch/a && echo rw; stat -c %a /scratch; cat /data/in; echo new > /data/out; "
      "touch /fixed/x || echo fixed; cat /one");
  (void)makeDirs(world.dir + "/data").ok();
  (void)writeFile(world.dir + "/data/in", "given\n").ok();
  spec.root.readonly = true;
  Mount scratch{.type = "tmpfs", .target = "/scratch", .options = {{"mode", "1777"}, {"size", "1m"}}};
  Mount data{.source = world.dir + "/data", .target = "/data"};
  Mount fixed{.source = world.dir + "/data", .target = "/fixed", .readonly = true};
  Mount one{.source = world.dir + "/data/in", .target = "/one", .readonly = true};
  spec.mounts = {scratch, data, fixed, one};
  auto ran = world.run(spec);
  EXPECT_EQ(ran.out, "ro\nrw\n1777\ngiven\nfixed\ngiven\n") << ran.error << ran.err;
  EXPECT_EQ(readFile(world.dir + "/data/out").valueOr(""), "new\n");
  spec.mounts[1].source = "/no/such/folder";
  auto missing = world.run(spec);
  EXPECT_EQ(missing.code, Code::kNotFound);
}

TEST(Container, LinksInTheImageDoNotLeadMountsOutside) {
  NEEDS_ROOT();
  World world;
  std::filesystem::create_symlink(world.dir + "/outside", world.dir + "/root/link");
  auto spec = world.shell("cat /link/in");
  (void)makeDirs(world.dir + "/data").ok();
  (void)writeFile(world.dir + "/data/in", "given\n").ok();
  spec.mounts = {Mount{.source = world.dir + "/data", .target = "/link/deep"}};
  (void)world.run(spec);
  EXPECT_FALSE(pathExists(world.dir + "/outside"));
  std::filesystem::remove(world.dir + "/root/proc");
  std::filesystem::create_symlink("/tmp", world.dir + "/root/proc");
  EXPECT_FALSE(world.run(world.shell("true")).started) << "a /proc that is a link must be refused";
}

TEST(Container, PartsOfASourceStayInsideIt) {
  NEEDS_ROOT();
  World world;
  (void)makeDirs(world.dir + "/data/a/b").ok();
  (void)writeFile(world.dir + "/data/a/b/in", "given\n").ok();
  (void)makeDirs(world.dir + "/secret").ok();
  std::filesystem::create_symlink("/a", world.dir + "/data/link");
  std::filesystem::create_symlink("../secret", world.dir + "/data/out");
  auto spec = world.shell("cat /folder/in /file; ls /linked");
  spec.mounts = {Mount{.source = world.dir + "/data", .subPath = "a/b", .target = "/folder"},
                 Mount{.source = world.dir + "/data", .subPath = "a/b/in", .target = "/file"},
                 Mount{.source = world.dir + "/data", .subPath = "link", .target = "/linked"}};
  auto ran = world.run(spec);
  EXPECT_EQ(ran.out, "given\ngiven\nb\n") << ran.error << ran.err;
  spec.mounts = {Mount{.source = world.dir + "/data", .subPath = "out", .target = "/out"}};
  EXPECT_EQ(world.run(spec).code, Code::kNotFound);
}

TEST(Container, OwnNamespacesAndHostname) {
  NEEDS_ROOT();
  World world;
  auto box = world.sandbox({.id = "named", .hostname = "pod-1", .sysctls = {{"net.ipv4.ip_forward", "1"}}});
  auto ran = world.run(world.shell("hostname; echo $$; ip link | grep -c UP; cat /proc/sys/net/ipv4/ip_forward; ps | "
                                   "wc -l; cat /proc/self/cgroup | grep memory"),
                       box);
  EXPECT_EQ(ran.out.substr(0, 14), "pod-1\n1\n1\n1\n4\n") << ran.out << ran.err;
  EXPECT_NE(ran.out.find(":memory:/\n"), std::string::npos) << ran.out;
}

TEST(Container, SharedPidNamespaceShowsTheNeighbours) {
  NEEDS_ROOT();
  World world;
  auto box = world.sandbox({.id = "shared", .sharedPid = true});
  auto first = world.shell("exec sleep 100");
  first.pid = Namespace::sandbox();
  ASSERT_TRUE(runOn(world.loop, box->start(first)).ok());
  auto second = world.shell("ps");
  second.pid = Namespace::sandbox();
  auto ran = world.run(second, box);
  EXPECT_NE(ran.out.find("sleep 100"), std::string::npos) << ran.out << ran.error;
  EXPECT_NE(ran.out.find("dhow-init"), std::string::npos) << ran.out;
}

TEST(Container, InitReapsAndForwardsSignals) {
  NEEDS_ROOT();
  World world;
  auto box = world.sandbox();
  auto spec = world.shell("trap 'echo got; exit 5' USR1; echo $$; while :; do sleep 0.05; done");
  spec.init = true;
  auto started = runOn(world.loop, box->start(spec, {{false, true, false}}));
  ASSERT_TRUE(started.ok()) << started.error().message();
  char buffer[16] = {};
  pollfd polled{started->streams[0].out.get(), POLLIN, 0};
  ASSERT_EQ(::poll(&polled, 1, 10000), 1);
  ASSERT_GT(::read(polled.fd, buffer, sizeof buffer), 0);
  EXPECT_STREQ(buffer, "2\n");
  ASSERT_TRUE(runOn(world.loop, box->signal(spec.id, SIGUSR1)).ok());
  EXPECT_EQ(World::drain(polled.fd), "got\n");
  auto exit = runOn(world.loop, box->wait(spec.id));
  EXPECT_EQ(exit->code, 5);
}

TEST(Container, BadSpecsAreRefusedByName) {
  NEEDS_ROOT();
  World world;
  auto check = [&](auto change, Code code) {
    auto spec = world.shell("true");
    change(spec);
    auto ran = world.run(spec);
    EXPECT_FALSE(ran.started);
    EXPECT_EQ(ran.code, code) << ran.error;
  };
  check([](ContainerSpec& s) { s.process.args.clear(); }, Code::kInvalid);
  check([](ContainerSpec& s) { s.process.cwd = "relative"; }, Code::kInvalid);
  check([](ContainerSpec& s) { s.process.capAdd = {"fly"}; }, Code::kInvalid);
  check([](ContainerSpec& s) { s.process.rlimits = {{"wings", 1, 1}}; }, Code::kInvalid);
  check([](ContainerSpec& s) { s.mounts = {Mount{.source = "/tmp", .target = "x"}}; }, Code::kInvalid);
  check([](ContainerSpec& s) { s.sysctls = {{"../../x", "1"}}; }, Code::kInvalid);
  check([](ContainerSpec& s) { s.process.env = {std::string(5 << 20, 'x')}; }, Code::kTooLarge);
}

}  // namespace
}  // namespace dhow::runtime
