// Sandboxes with a user namespace of their own, seen from inside and outside.
#include <fcntl.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/sysmacros.h>

#include "test_world.h"

namespace dhow::runtime {
namespace {

#define NEEDS_USER_NAMESPACES(world)                                                          \
  if (auto can = runOn(world.loop, world.runtime->checkUserNamespaces(world.dir)); !can.ok()) \
  GTEST_SKIP() << can.error().message()

std::shared_ptr<Sandbox> userBox(World& world, SandboxSpec spec = {}) {
  spec.ownUsers = true;
  return world.sandbox(std::move(spec));
}

// "0 131072 65536" as numbers: the id outside.
uint32_t rootOutside(pid_t pid) {
  std::string map = readFile("/proc/" + std::to_string(pid) + "/uid_map").valueOr("");
  unsigned inside = 1, outside = 0, count = 0;
  EXPECT_EQ(std::sscanf(map.c_str(), "%u %u %u", &inside, &outside, &count), 3) << map;
  EXPECT_EQ(inside, 0u);
  EXPECT_EQ(count, 65536u);
  EXPECT_EQ(readFile("/proc/" + std::to_string(pid) + "/gid_map").valueOr(""), map);
  return outside;
}

std::string statusLine(pid_t pid, const std::string& name) {
  for (const auto& line : split(readFile("/proc/" + std::to_string(pid) + "/status").valueOr(""), '\n')) {
    if (line.starts_with(name + ":\t")) return line.substr(name.size() + 2);
  }
  return {};
}

std::string ownerOf(const std::string& path) {
  struct stat status{};
  if (::lstat(path.c_str(), &status) != 0) return "missing";
  return std::to_string(status.st_uid) + ":" + std::to_string(status.st_gid);
}

TEST(UserNamespace, RootInsideIsNobodyOutsideAndEachSandboxHasItsOwnRange) {
  NEEDS_ROOT();
  World world;
  NEEDS_USER_NAMESPACES(world);
  std::set<uint32_t> roots;
  std::vector<std::shared_ptr<Sandbox>> boxes;
  for (int i = 0; i < 3; ++i) {
    auto box = userBox(world);
    ASSERT_TRUE(box);
    auto spec = world.shell("exec sleep 100");
    if (i == 1) spec.process.user = {33, 34, {77}, {}};
    auto started = runOn(world.loop, box->start(spec));
    ASSERT_TRUE(started.ok()) << started.error().message();
    uint32_t root = rootOutside(started->pid);
    EXPECT_GE(root, 65536u);
    EXPECT_EQ(root % 65536, 0u);
    roots.insert(root);
    std::string uid = std::to_string(root + (i == 1 ? 33 : 0)), gid = std::to_string(root + (i == 1 ? 34 : 0));
    EXPECT_EQ(statusLine(started->pid, "Uid"), uid + "\t" + uid + "\t" + uid + "\t" + uid);
    EXPECT_EQ(statusLine(started->pid, "Gid"), gid + "\t" + gid + "\t" + gid + "\t" + gid);
    if (i == 1) EXPECT_EQ(statusLine(started->pid, "Groups"), std::to_string(root + 77) + " ");
    boxes.push_back(box);
  }
  EXPECT_EQ(roots.size(), 3u);
  // The shim itself stays where it was.
  EXPECT_EQ(*readFile("/proc/" + std::to_string(boxes[0]->shimPid()) + "/uid_map"), *readFile("/proc/self/uid_map"));
}

TEST(UserNamespace, FilesAreRootsInsideAndOnDisk) {
  NEEDS_ROOT();
  World world;
  NEEDS_USER_NAMESPACES(world);
  (void)makeDirs(world.dir + "/data").ok();
  (void)writeFile(world.dir + "/data/secret", "given\n", 0600).ok();
  ASSERT_EQ(::chown((world.dir + "/data").c_str(), 0, 500), 0);
  (void)writeFile(world.dir + "/hosts", "127.0.0.1 localhost\n").ok();
  auto spec = world.shell(
      "cat /data/secret /etc/hosts; stat -c '%u:%g %n' / /etc/passwd /data /data/secret /etc/hosts /dev /dev/null "
      "/dev/shm "
      "/scratch /proc/self/; touch /file /data/file /dev/shm/file /scratch/file /etc/passwd; stat -c '%u:%g %n' /file "
      "/data/file /dev/shm/file /scratch/file; echo more >> /etc/hosts; echo out > /dev/stdout");
  spec.mounts = {Mount{.source = world.dir + "/data", .target = "/data"},
                 Mount{.source = world.dir + "/hosts", .target = "/etc/hosts"},
                 Mount{.type = "tmpfs", .target = "/scratch", .options = {{"mode", "1777"}}}};
  std::string upper = spec.root.upper;
  auto box = userBox(world);
  auto ran = world.run(spec, box);
  ASSERT_TRUE(ran.started) << ran.error;
  EXPECT_EQ(ran.err, "");
  EXPECT_EQ(
      ran.out,
      "given\n127.0.0.1 localhost\n0:0 /\n0:0 /etc/passwd\n0:500 /data\n0:0 /data/secret\n0:0 /etc/hosts\n0:0 /dev\n"
      "0:0 /dev/null\n0:0 /dev/shm\n0:0 /scratch\n0:0 /proc/self/\n0:0 /file\n0:0 /data/file\n0:0 /dev/shm/file\n0:0 "
      "/scratch/file\nout\n");
  EXPECT_EQ(ownerOf(upper + "/file"), "0:0");
  EXPECT_EQ(ownerOf(upper + "/etc/passwd"), "0:0") << "copied up from the layer";
  EXPECT_EQ(ownerOf(world.dir + "/data/file"), "0:0");
  EXPECT_EQ(*readFile(world.dir + "/hosts"), "127.0.0.1 localhost\nmore\n");
  auto user =
      world.shell("id -u; echo out > /dev/stdout; echo gone > /dev/null; touch /tmp/mine && stat -c '%u:%g' /tmp/mine");
  user.process.user = {33, 34, {}, {}};
  std::filesystem::permissions(world.dir + "/root/tmp", std::filesystem::perms::all);
  ran = world.run(user, box);
  EXPECT_EQ(ran.out, "33\nout\n33:34\n") << ran.error << ran.err;
  EXPECT_EQ(ownerOf(user.root.upper + "/tmp/mine"), "33:34");
  // A file system of the host's that is not shown by an idmapped mount knows the ids outside: here the tmpfs of a
  // container that is looked at from outside.
  auto held = world.shell("touch /scratch/file; exec sleep 100");
  held.mounts = {Mount{.type = "tmpfs", .target = "/scratch", .options = {{"mode", "1777"}}}};
  auto started = runOn(world.loop, box->start(held, {{false, true, false}}));
  ASSERT_TRUE(started.ok());
  std::string root = "/proc/" + std::to_string(started->pid) + "/root";
  for (int i = 0; i < 1000 && !pathExists(root + "/scratch/file"); ++i)
    runOn(world.loop, world.loop.sleep(std::chrono::milliseconds(5)));
  std::string id = std::to_string(rootOutside(started->pid));
  EXPECT_EQ(ownerOf(root + "/scratch/file"), id + ":" + id);
}

TEST(UserNamespace, OwnsItsNamespacesAndHasItsCapabilitiesThereOnly) {
  NEEDS_ROOT();
  World world;
  NEEDS_USER_NAMESPACES(world);
  auto box = userBox(world, {.hostname = "pod-1", .sysctls = {{"net.ipv4.ip_forward", "1"}}});
  auto spec = world.shell(
      "hostname; grep -E 'Cap(Eff|Bnd)|Seccomp:' /proc/self/status; cat /proc/sys/net/ipv4/ip_forward; ip link set lo "
      "mtu "
      "1400 && ip link | grep -c 'lo:.*mtu 1400'; mount -t tmpfs x /tmp 2>/dev/null || echo no mount; unshare -U true "
      "2>/dev/null || echo no namespace; mkdir /sys/x 2>/dev/null || echo ro; wc -c < /proc/timer_list; mknod /tmp/n c "
      "1 3 "
      "2>/dev/null || echo no device; chown 33:34 /tmp && stat -c %u:%g /tmp; ls /sys/fs/cgroup | head -1 | wc -l");
  spec.process.capAdd = {"net_admin"};
  auto ran = world.run(spec, box);
  ASSERT_TRUE(ran.started) << ran.error;
  EXPECT_EQ(
      ran.out,
      "pod-1\nCapEff:\t00000000a80435fb\nCapBnd:\t00000000a80435fb\nSeccomp:\t2\n1\n1\nno mount\nno namespace\nro\n0\n"
      "no device\n33:34\n1\n")
      << ran.err;
  // Privileged is privileged inside: it mounts, names its host, sets its network, and cannot touch the machine's
  // settings or take away what is read-only or hidden from it.
  (void)makeDirs(world.dir + "/fixed").ok();
  auto strong = world.shell(
      "mount -t tmpfs x /tmp && echo mounted; hostname other && hostname; mount -o remount,rw,bind /fixed 2>/dev/null "
      "|| "
      "echo locked; touch /fixed/x 2>/dev/null || echo fixed; echo 1 > /proc/sys/vm/drop_caches || echo refused; echo "
      "0 > "
      "/proc/sys/net/ipv4/ip_forward && cat /proc/sys/net/ipv4/ip_forward; stat -c '%u %a' /dev/disk; head -c 1 "
      "/dev/disk "
      "2>/dev/null || echo no disk");
  strong.process.privileged = true;
  // A disk of the machine's, by its number.
  ASSERT_EQ(::mknod((world.dir + "/disk").c_str(), S_IFBLK | 0600, makedev(254, 0)), 0);
  strong.devices = {{world.dir + "/disk", "/dev/disk"}};
  strong.mounts = {Mount{.source = world.dir + "/fixed", .target = "/fixed", .readonly = true}};
  ran = world.run(strong, box);
  ASSERT_TRUE(ran.started) << ran.error;
  EXPECT_EQ(ran.out, "mounted\nother\nlocked\nfixed\nrefused\n0\n65534 600\nno disk\n") << ran.err;
}

TEST(UserNamespace, SetuidFileOnASharedVolumeMakesNobodyRootOutside) {
  NEEDS_ROOT();
  World world;
  NEEDS_USER_NAMESPACES(world);
  std::string shared = world.dir + "/shared";
  ASSERT_TRUE(makeDirs(shared).ok());
  // Root of the first sandbox leaves a setuid program behind; a plain user of the second runs it. (busybox would not
  // keep the rights.)
  auto leave = world.shell("cat /program > /shared/run && chmod 4755 /shared/run && stat -c '%u %a' /shared/run");
  leave.mounts = {Mount{.source = shared, .target = "/shared"},
                  Mount{.source = std::string(DHOW_BINARY_DIR) + "/dhow-shim", .target = "/program"}};
  EXPECT_EQ(world.run(leave, userBox(world)).out, "0 4755\n");
  auto box = userBox(world);
  auto use = world.shell("");
  use.process.args = {"/shared/run", "init", "--", "/bin/sleep", "100"};
  use.process.user = {1000, 1000, {}, {}};
  use.mounts = leave.mounts;
  auto started = runOn(world.loop, box->start(use));
  ASSERT_TRUE(started.ok()) << started.error().message();
  // It is root among its own, and only there.
  auto ids = split(statusLine(started->pid, "Uid"), '\t');
  uint32_t root = rootOutside(started->pid);
  ASSERT_EQ(ids.size(), 4u);
  EXPECT_EQ(ids[0], std::to_string(root + 1000));
  EXPECT_EQ(ids[1], std::to_string(root));
  // Where privileges may not grow it does not even become that.
  ASSERT_TRUE(runOn(world.loop, box->signal(use.id, SIGKILL)).ok());
  ASSERT_TRUE(runOn(world.loop, box->wait(use.id)).ok());
  use.process.noNewPrivileges = true;
  started = runOn(world.loop, box->start(use));
  ASSERT_TRUE(started.ok()) << started.error().message();
  EXPECT_EQ(split(statusLine(started->pid, "Uid"), '\t')[1], std::to_string(root + 1000));
}

TEST(UserNamespace, ExecTerminalAndSharedPids) {
  NEEDS_ROOT();
  World world;
  NEEDS_USER_NAMESPACES(world);
  auto box = userBox(world, {.sharedPid = true});
  auto first = world.shell("exec sleep 100");
  first.pid = Namespace::sandbox();
  auto started = runOn(world.loop, box->start(first));
  ASSERT_TRUE(started.ok()) << started.error().message();
  uint32_t root = rootOutside(started->pid);
  ProcessSpec process;
  process.args = {
      "/bin/sh", "-c",
      "cat /proc/self/uid_map | tr -s ' '; id -u; grep CapEff /proc/self/status; echo out > /dev/stdout; kill -0 1 "
      "&& echo signals; ps | grep -c 'sleep 10[0]'"};
  process.env = {"PATH=/bin"};
  auto exec = runOn(world.loop, box->exec(first.id, process, {false, true, true}));
  ASSERT_TRUE(exec.ok()) << exec.error().message();
  EXPECT_EQ(World::drain((*exec)->streams.out.get()),
            " 0 " + std::to_string(root) + " 65536\n0\nCapEff:\t00000000a80425fb\nout\nsignals\n1\n");
  process.terminal = true;
  process.user.uid = 33;
  process.args[2] = "stat -c '%u:%g' $(readlink /proc/self/fd/0); echo typed > /dev/tty; id -u";
  exec = runOn(world.loop, box->exec(first.id, process, {true, true, false}));
  ASSERT_TRUE(exec.ok()) << exec.error().message();
  EXPECT_EQ(World::drain((*exec)->streams.out.get()), "33:5\r\ntyped\r\n33\r\n");
  auto second = world.shell("stat -c '%u:%g' /dev/console; tty=$(readlink /proc/self/fd/0); stat -c '%u:%g' $tty");
  second.process.terminal = true;
  second.pid = Namespace::sandbox();
  auto ran = world.run(second, box);
  EXPECT_EQ(ran.out, "0:5\r\n0:5\r\n") << ran.error;
}

TEST(UserNamespace, WhatCannotBeIsRefusedByName) {
  NEEDS_ROOT();
  World world;
  NEEDS_USER_NAMESPACES(world);
  auto box = userBox(world);
  auto spec = world.shell("true");
  spec.mounts = {Mount{.source = "/proc", .target = "/machine", .recursive = false}};
  auto ran = world.run(spec, box);
  EXPECT_FALSE(ran.started);
  EXPECT_EQ(ran.error,
            "start container: map the ids (its file system has to support idmapped mounts) of /proc: Invalid argument");
  spec = world.shell("true");
  spec.process.user.uid = 70000;
  ran = world.run(spec, box);
  EXPECT_EQ(ran.code, Code::kInvalid);
  EXPECT_EQ(ran.error, "start container: user 70000 is not among the 65536 of the user namespace");
  auto host =
      runOn(world.loop, world.runtime->createSandbox({.id = "host", .net = Namespace::host(), .ownUsers = true}));
  ASSERT_FALSE(host.ok());
  EXPECT_EQ(host.error().code(), Code::kInvalid);
}

TEST(UserNamespace, RangesAreHeldThroughARestartAndGivenOutOnce) {
  NEEDS_ROOT();
  World world;
  NEEDS_USER_NAMESPACES(world);
  world.runtime.reset();
  world.userRanges = 2;
  world.open();
  auto kept = userBox(world, {.id = "kept"});
  ASSERT_TRUE(kept);
  auto spec = world.shell("exec sleep 100");
  auto started = runOn(world.loop, kept->start(spec));
  ASSERT_TRUE(started.ok());
  uint32_t range = rootOutside(started->pid);
  runOn(world.loop, world.runtime->stop());
  kept.reset();
  world.runtime.reset();
  world.open();
  auto found = runOn(world.loop, world.runtime->findSandboxes());
  ASSERT_TRUE(found.ok());
  ASSERT_EQ(found->sandboxes.size(), 1u);
  kept = found->sandboxes[0];
  auto other = userBox(world, {.id = "other"});
  auto beside = world.shell("exec sleep 100");
  started = runOn(world.loop, other->start(beside));
  ASSERT_TRUE(started.ok());
  EXPECT_NE(rootOutside(started->pid), range);
  auto third = runOn(world.loop, world.runtime->createSandbox({.id = "third", .ownUsers = true}));
  ASSERT_FALSE(third.ok());
  EXPECT_EQ(third.error().message(), "could not find an empty slot to allocate a user namespace");
  // What is started and run inside later is in the same namespace.
  auto later = world.shell("tr -s ' ' < /proc/self/uid_map");
  EXPECT_EQ(world.run(later, kept).out, " 0 " + std::to_string(range) + " 65536\n");
  ASSERT_TRUE(runOn(world.loop, kept->remove()).ok());
  EXPECT_TRUE(userBox(world, {.id = "fourth"}));
}

}  // namespace
}  // namespace dhow::runtime
