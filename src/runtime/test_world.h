// A runtime of its own for tests: temporary state, a busybox root, a cgroup subtree; all of it gone afterwards,
// and what must not leak is counted.
#pragma once

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include "base/files.h"
#include "base/loop.h"
#include "base/strings.h"
#include "cgroup.h"
#include "runtime/runtime.h"

namespace dhow::runtime {

#define NEEDS_ROOT()                                  \
  if (::geteuid() != 0) GTEST_SKIP() << "needs root"; \
  if (!pathExists("/bin/busybox")) GTEST_SKIP() << "needs busybox-static"

class World {
 public:
  World() : pool(2), dir(*makeTempDir(::getenv("TMPDIR") ? ::getenv("TMPDIR") : "/tmp", "dhow-runtime-")) {
    cgroupParent = "/dhow-test-" + std::to_string(::getpid());
    std::string root = dir + "/root";
    for (const char* folder : {"/bin", "/etc", "/proc", "/sys", "/dev", "/tmp"}) (void)makeDirs(root + folder).ok();
    std::filesystem::copy_file("/bin/busybox", root + "/bin/busybox");
    for (const char* name :
         {"sh",   "true",  "cat",     "echo",     "sleep", "id",  "grep", "ls",    "kill", "hostname", "head",
          "stty", "mount", "unshare", "touch",    "seq",   "env", "pwd",  "ps",    "dd",   "mkdir",    "wc",
          "ip",   "mknod", "sync",    "readlink", "od",    "tr",  "stat", "chown", "chmod"})
      std::filesystem::create_symlink("busybox", root + "/bin/" + name);
    (void)writeFile(root + "/etc/passwd", "root:x:0:0::/root:/bin/sh\nweb:x:33:34::/srv:/bin/sh\n").ok();
    (void)writeFile(root + "/etc/group", "root:x:0:\nweb:x:34:\nmore:x:77:web\n").ok();
    open();
  }
  ~World() {
    for (auto& sandbox : runtime->sandboxes()) (void)runOn(loop, sandbox->remove()).ok();
    runtime.reset();
    auto cgroups = Cgroups::detect();
    if (cgroups.ok()) EXPECT_TRUE(cgroups->remove(cgroupParent).ok()) << "cgroups are left";
    std::error_code ignored;
    std::filesystem::remove_all(dir, ignored);
  }

  void open() {
    Options options{dir + "/state", std::string(DHOW_BINARY_DIR) + "/dhow-shim", cgroupParent};
    options.userRanges = userRanges;
    auto made = Runtime::create(loop, pool, std::move(options));
    ASSERT_TRUE(made.ok()) << made.error().message();
    runtime = std::move(*made);
  }

  std::shared_ptr<Sandbox> sandbox(SandboxSpec spec = {}) {
    if (spec.id.empty()) spec.id = "box" + std::to_string(++count);
    auto made = runOn(loop, runtime->createSandbox(spec));
    EXPECT_TRUE(made.ok()) << made.error().message();
    return made.ok() ? *made : nullptr;
  }

  ContainerSpec shell(const std::string& command) {
    ContainerSpec spec;
    spec.id = "c" + std::to_string(++count);
    spec.process.args = {"/bin/sh", "-c", command};
    spec.process.env = {"PATH=/bin"};
    makeDirs(dir + "/upper" + spec.id).ok();
    makeDirs(dir + "/work" + spec.id).ok();
    spec.root.lower = {dir + "/root"};
    spec.root.upper = dir + "/upper" + spec.id;
    spec.root.work = dir + "/work" + spec.id;
    return spec;
  }

  static std::string drain(int fd) {
    std::string out;
    char buffer[65536];
    while (true) {
      pollfd polled{fd, POLLIN, 0};
      if (::poll(&polled, 1, 20000) <= 0) break;
      ssize_t n = ::read(fd, buffer, sizeof buffer);
      if (n < 0 && errno == EAGAIN) continue;
      if (n <= 0) break;
      out.append(buffer, static_cast<size_t>(n));
    }
    return out;
  }

  struct Ran {
    bool started = false;
    Code code = Code::kUnknown;
    std::string error, out, err;
    ExitInfo exit;
    std::vector<std::string> warnings;
  };
  // Runs a container to its end in a sandbox of its own (or in `box`).
  Ran run(ContainerSpec spec, std::shared_ptr<Sandbox> box = nullptr) {
    Ran ran;
    bool own = !box;
    if (own) box = sandbox();
    if (!box) return ran;
    std::string id = spec.id;
    auto started = runOn(loop, box->start(std::move(spec), {{false, true, true}}));
    if (started.ok()) {
      ran.started = true;
      ran.warnings = started->warnings;
      ran.out = drain(started->streams[0].out.get());
      if (started->streams[0].err) ran.err = drain(started->streams[0].err.get());
      auto exit = runOn(loop, box->wait(id));
      EXPECT_TRUE(exit.ok());
      if (exit.ok()) ran.exit = *exit;
    } else {
      ran.error = started.error().message();
      ran.code = started.error().code();
    }
    auto removed = own ? runOn(loop, box->remove()) : runOn(loop, box->removeContainer(id));
    EXPECT_TRUE(removed.ok()) << removed.error().message();
    return ran;
  }
  std::string output(const std::string& command) {
    auto ran = run(shell(command));
    EXPECT_TRUE(ran.started) << ran.error;
    return ran.out + ran.err;
  }

  RealLoop loop;
  BlockingPool pool;
  std::string dir, cgroupParent;
  std::unique_ptr<Runtime> runtime;
  uint32_t userRanges = 110;
  int count = 0;
};

}  // namespace dhow::runtime
