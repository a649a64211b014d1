// The container runtime. A Runtime makes sandboxes; each is minded by one dhow-shim process that holds its
// namespaces, is the parent of its containers, writes their logs and outlives this program. A new Runtime on
// the same state folder finds them again (findSandboxes()).
//
// All functions are for the loop's thread; blocking parts run on the pool. Warnings (a missing controller, a
// refused oom_score_adj) are logged and returned, never errors. Nothing polls: exits arrive as events.
#pragma once

#include <sys/types.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/blocking.h"
#include "base/fd.h"
#include "base/gate.h"
#include "base/loop.h"
#include "base/result.h"
#include "runtime/spec.h"

namespace dhow::runtime {

struct Options {
  std::string stateDir;      // e.g. /run/dhow/engine; created with mode 0700. One Runtime at a time uses it.
  std::string shimPath;      // dhow-shim
  std::string cgroupParent;  // "/dhow"; created when missing. Only what is below is ever touched.
  // For sandboxes with a user namespace of their own: `userRanges` times 65536 ids, from `firstUser`, a multiple of it.
  uint32_t firstUser = 65536;
  uint32_t userRanges = 110;
};

struct ExitInfo {
  int code = 0;      // exit code, or 128 + signal
  int signal = 0;    // 0: it exited by itself
  bool oom = false;  // the kernel's memory killer was at work in its cgroup
  WallTime time{};   // when it was reaped
};

// Descriptors of the caller. Those that were not asked for are empty.
// in: write to the process; closing it ends its input (for an exec; for a container see closeStdin()).
// out, err: read until end of file; a terminal has `out` alone, and its end may show as EIO.
// All are non-blocking and close-on-exec.
struct Streams {
  UniqueFd in, out, err;
};
struct StreamOptions {
  bool in = false, out = false, err = false;
};

enum class ContainerState { kRunning, kExited };

struct ContainerStatus {
  std::string id;
  ContainerState state = ContainerState::kRunning;
  pid_t pid = 0;  // as the daemon sees it; 0 when it has ended
  WallTime startedAt{};
  std::optional<ExitInfo> exit;
  std::vector<std::pair<std::string, std::string>> annotations;
};

struct Started {
  pid_t pid = 0;
  WallTime startedAt{};
  std::vector<Streams> streams;  // one for each StreamOptions given
  std::vector<std::string> warnings;
};

struct Stats {
  uint64_t cpuUsageNanos = 0, cpuUserNanos = 0, cpuSystemNanos = 0;
  uint64_t cpuPeriods = 0, cpuThrottledPeriods = 0, cpuThrottledNanos = 0;
  std::vector<uint64_t> cpuPerCpuNanos;
  uint64_t memoryUsage = 0, memoryMaxUsage = 0, memoryLimit = 0;  // bytes; limit 0: none
  uint64_t memoryWorkingSet = 0, memoryRss = 0, memoryCache = 0, memoryInactiveFile = 0;
  uint64_t memoryPageFaults = 0, memoryMajorPageFaults = 0;
  uint64_t memoryFailCount = 0, oomKills = 0;
  uint64_t pids = 0, pidsLimit = 0;
  uint64_t ioReadBytes = 0, ioWriteBytes = 0, ioReads = 0, ioWrites = 0;
};

// A process that runs inside a container.
class Exec {
 public:
  virtual ~Exec() = default;  // leaves the process running
  virtual pid_t pid() const = 0;
  Streams streams;
  // Ends when the process has; any number of callers. kUnavailable when the shim is gone.
  virtual Task<Result<ExitInfo>> wait() = 0;
  virtual std::optional<ExitInfo> exit() const = 0;
  virtual Task<Result<>> signal(int signal) = 0;
  virtual Result<> resize(uint16_t rows, uint16_t columns) = 0;
};

struct Event {
  enum class Kind {
    kExited,    // a container's first process has ended and its output is in the log
    kOom,       // the memory killer struck inside a container
    kShimGone,  // the shim died: its containers have been killed, only remove() is left
  };
  Kind kind = Kind::kExited;
  std::string sandboxId;
  std::string containerId;  // empty for kShimGone
  ExitInfo exit;            // kExited
};

class Sandbox {
 public:
  virtual ~Sandbox() = default;  // leaves everything running

  virtual const std::string& id() const = 0;
  virtual pid_t shimPid() const = 0;
  // Its namespaces, for whoever wants to enter or join: /proc/<shim>/ns/{net,ipc,uts}.
  virtual std::string netPath() const = 0;
  virtual std::string ipcPath() const = 0;
  virtual std::string utsPath() const = 0;
  virtual bool alive() const = 0;  // the shim runs
  virtual const std::vector<std::pair<std::string, std::string>>& annotations() const = 0;

  // Runs a container. `attach` are clients that see its output from the first byte. Fails with the step that
  // failed ("exec /bin/x: no such file": kNotFound, exit code 127 by custom; kPermissionDenied: 126) and
  // leaves nothing behind. A container that has exited may be started again under its id.
  virtual Task<Result<Started>> start(ContainerSpec spec, std::vector<StreamOptions> attach = {}) = 0;
  // Runs a process in a running container, with the container's namespaces, cgroup, and the given rights.
  virtual Task<Result<std::unique_ptr<Exec>>> exec(std::string containerId, ProcessSpec process,
                                                   StreamOptions streams) = 0;
  // Joins a running container's streams. Output is copied to every client; a client that does not read holds
  // the container's output back (as docker attach does), one that goes away never does.
  virtual Task<Result<Streams>> attach(std::string containerId, StreamOptions streams) = 0;
  // The end of the container's standard input, once every client's `in` is closed too.
  virtual Task<Result<>> closeStdin(std::string containerId) = 0;
  virtual Task<Result<>> resize(std::string containerId, uint16_t rows, uint16_t columns) = 0;
  // To the first process, or to every process in the container's cgroup. kNotFound when it has ended.
  virtual Task<Result<>> signal(std::string containerId, int signal, bool all = false) = 0;
  // Ends when the container has (at once when it already had). kUnavailable when the shim is gone.
  virtual Task<Result<ExitInfo>> wait(std::string containerId) = 0;
  virtual Task<Result<>> pause(std::string containerId) = 0;
  virtual Task<Result<>> resume(std::string containerId) = 0;
  virtual Task<Result<>> update(std::string containerId, Resources resources) = 0;
  virtual Task<Result<Stats>> stats(std::string containerId) = 0;
  virtual Task<Result<Stats>> stats() = 0;  // of the whole sandbox
  // Process ids in the container, as the daemon sees them.
  virtual Task<Result<std::vector<pid_t>>> processes(std::string containerId) = 0;
  // Log files were moved by someone else: write to fresh ones at the same paths (CRI ReopenContainerLog).
  virtual Task<Result<>> reopenLog(std::string containerId) = 0;

  virtual std::vector<ContainerStatus> containers() const = 0;
  virtual std::optional<ContainerStatus> container(const std::string& id) const = 0;
  // Kills the container if it runs, and forgets it: cgroup, exit record. Its log stays. Missing is fine.
  virtual Task<Result<>> removeContainer(std::string containerId) = 0;
  // Kills everything, ends the shim, removes cgroups and state. Idempotent. The kernel takes the network
  // namespace down later by itself. The object is of no more use.
  virtual Task<Result<>> remove() = 0;
};

// A machine (system container).
struct MachineStatus {
  std::string name;
  pid_t pid = 0;  // of PID 1 on this host; 0 when stopped
  bool running = false;
};

class Runtime {
 public:
  // Checks the shim, detects cgroups, prepares the state folder.
  static Result<std::unique_ptr<Runtime>> create(Loop& loop, BlockingPool& pool, Options options);
  virtual ~Runtime() = default;

  // Sandboxes that an earlier daemon left. Those whose shim is gone are cleaned up (processes killed, cgroups
  // and state removed) and reported in `lost`. kFailedPrecondition when a shim's version is too far from this
  // program's: it and its containers are left alone, and nothing can be done with this Runtime. Call once, before
  // anything else.
  struct Found {
    std::vector<std::shared_ptr<Sandbox>> sandboxes;
    std::vector<std::string> lost;
  };
  virtual Task<Result<Found>> findSandboxes() = 0;
  virtual Task<Result<std::shared_ptr<Sandbox>>> createSandbox(SandboxSpec spec) = 0;
  // Whether this kernel can run sandboxes with a user namespace of their own whose images and volumes are below
  // `folder`; the error tells what it cannot.
  virtual Task<Result<>> checkUserNamespaces(std::string folder) = 0;
  virtual std::shared_ptr<Sandbox> sandbox(const std::string& id) const = 0;
  virtual std::vector<std::shared_ptr<Sandbox>> sandboxes() const = 0;

  // Every event of every sandbox, on the loop. The listener must not destroy what called it.
  virtual void onEvent(std::function<void(const Event&)> listener) = 0;

  // Machines. createMachine() takes the description (kept in memory: describe again after a restart);
  // startMachine() runs it, and gives the pid of one that runs already. stop: SIGTERM, then SIGKILL
  // after `grace`. kill: everything inside at once, as a power cut. remove: kill and forget.
  // Machines outlive the daemon as sandboxes do.
  virtual Task<Result<>> createMachine(MachineSpec spec) = 0;
  virtual Task<Result<pid_t>> startMachine(std::string name) = 0;
  virtual Task<Result<>> stopMachine(std::string name, Duration grace) = 0;
  virtual Task<Result<>> killMachine(std::string name) = 0;
  virtual Task<Result<>> removeMachine(std::string name) = 0;
  virtual Task<Result<std::vector<MachineStatus>>> machines() = 0;

  // "1" or "2" (which cgroup version carries the memory controller), for docker info.
  virtual int cgroupVersion() const = 0;
  // Removes the cgroup that everything was below, when nothing is left in it.
  virtual Result<> removeCgroupParent() = 0;
  virtual Task<> stop() = 0;  // closes connections; everything keeps running
};

}  // namespace dhow::runtime
