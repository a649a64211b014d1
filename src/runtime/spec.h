// What to run, as data: sandboxes (a pod's shared namespaces), containers, processes run inside them, and
// machines (system containers that serve as nodes). Bytes are bytes, times are microseconds where said.
// The meaning of the fields follows the OCI runtime specification 1.2 and Docker's HostConfig.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/loop.h"

namespace dhow::runtime {

// Where a namespace comes from.
struct Namespace {
  enum class Mode {
    kNew,      // an own one
    kHost,     // the daemon's
    kPath,     // the one that `path` names (/proc/<pid>/ns/net, or a bound file)
    kSandbox,  // containers: the sandbox's (for pid: the pod's shared one)
  };
  Mode mode = Mode::kNew;
  std::string path;

  static Namespace own() { return {Mode::kNew, {}}; }
  static Namespace host() { return {Mode::kHost, {}}; }
  static Namespace join(std::string path) { return {Mode::kPath, std::move(path)}; }
  static Namespace sandbox() { return {Mode::kSandbox, {}}; }
};

struct User {
  uint32_t uid = 0;
  uint32_t gid = 0;
  std::vector<uint32_t> additionalGids;
  std::optional<uint32_t> umask;  // 022 when not given
};

// The root: either a folder that stands, or an overlay that is mounted inside the container's own mount
// namespace only, so that the host never sees it and has nothing to unmount.
struct RootFs {
  std::string path;                // used when `lower` is empty
  std::vector<std::string> lower;  // uppermost layer first
  std::string upper;               // empty: a read-only overlay of `lower`
  std::string work;                // on the same file system as `upper`
  bool readonly = false;
};

struct Mount {
  // "bind", "tmpfs", "proc", "sysfs", "mqueue", "devpts", "cgroup" (the container's own, all hierarchies),
  // "overlay", or any file system type that needs no more than `source` and `options`.
  std::string type = "bind";
  std::string source;
  std::string subPath;  // bind: of the source, resolved inside it whatever links there are; empty: the source itself
  std::string target;   // absolute, in the container; created when missing
  bool readonly = false;
  bool recursive = true;  // bind: with the mounts below the source
  bool recursiveReadonly = false;
  bool nosuid = false;
  bool nodev = false;
  bool noexec = false;
  enum class Propagation { kPrivate, kSlave, kShared } propagation = Propagation::kPrivate;
  // Of the file system: {"size", "64m"}, {"mode", "1777"}; a flag has an empty value.
  std::vector<std::pair<std::string, std::string>> options;
};

struct Device {
  std::string hostPath;  // the node whose type and number are taken; it is stat()ed at start
  std::string path;      // in the container; empty: as on the host
  std::string access = "rwm";
};

// One line for the device controller; type 'a' with -1, -1 is everything.
struct DeviceRule {
  bool allow = true;
  char type = 'a';  // a, b, c
  int64_t major = -1;
  int64_t minor = -1;
  std::string access = "rwm";
};

struct Rlimit {
  std::string type;  // "nofile", "nproc", ..., with or without RLIMIT_
  uint64_t soft = 0;
  uint64_t hard = 0;
};

// What is not given stays unlimited (or at the parent's).
struct Resources {
  std::optional<int64_t> memory;             // bytes
  std::optional<int64_t> memorySwap;         // bytes of memory and swap together; -1 unlimited
  std::optional<int64_t> memoryReservation;  // bytes, soft
  std::optional<int64_t> memorySwappiness;   // 0 to 100, v1 only
  bool oomKillDisable = false;               // v1 only
  std::optional<uint64_t> cpuShares;         // 2 to 262144, 1024 is one; v2: converted to a weight
  std::optional<int64_t> cpuQuota;           // microseconds per period; -1 unlimited
  std::optional<uint64_t> cpuPeriod;         // microseconds; 100000 when a quota comes alone
  std::string cpusetCpus;                    // "0-3,5"
  std::string cpusetMems;
  std::optional<int64_t> pids;          // -1 unlimited
  std::optional<uint64_t> blkioWeight;  // 10 to 1000
  std::vector<DeviceRule> devices;      // added after the default ones
};

struct Seccomp {
  enum class Mode { kDefault, kUnconfined, kProfile } mode = Mode::kDefault;
  std::string profile;  // JSON, in the OCI form or in Docker's
};

struct LogOptions {
  std::string path;       // CRI format; empty: output is kept nowhere. Its folder must exist.
  uint64_t maxSize = 0;   // bytes per file; 0: no rotation
  uint32_t maxFiles = 1;  // with the live one: path, path.1, path.2, ...
};

// One process: a container's first one or one run inside it later.
struct ProcessSpec {
  std::vector<std::string> args;  // args[0] is looked for on env's PATH when it has no slash
  std::vector<std::string> env;   // NAME=value
  std::string cwd = "/";          // created when missing
  User user;
  bool terminal = false;
  uint16_t rows = 0, columns = 0;  // the terminal's first size; 0: left as it is
  bool noNewPrivileges = false;
  bool privileged = false;  // all capabilities, no seccomp (container: also all devices, nothing masked)
  std::vector<std::string> capAdd, capDrop;  // on top of Docker's 14; "ALL" and names with or without CAP_
  // When given, replaces both: bounding, effective and permitted set.
  std::optional<std::vector<std::string>> capabilities;
  Seccomp seccomp;
  std::vector<Rlimit> rlimits;
  std::optional<int> oomScoreAdj;
};

struct ContainerSpec {
  std::string id;  // [a-zA-Z0-9][a-zA-Z0-9_.-]*, at most 128 characters, its own within the sandbox
  ProcessSpec process;
  RootFs root;
  std::vector<Mount> mounts;    // after the default ones, in this order; one with the same target replaces a default
  std::vector<Device> devices;  // beside null, zero, full, random, urandom, tty
  uint64_t shmSize = 64 << 20;  // bytes of /dev/shm; 0: none is mounted
  bool defaultMounts = true;    // /proc, /dev, /dev/pts, /dev/shm, /dev/mqueue, /sys, /sys/fs/cgroup
  Resources resources;
  bool inSandboxCgroup = false;                // the container uses the sandbox's own cgroup (a sandbox of one)
  std::vector<std::string> cgroupControllers;  // joined even without a limit; empty: those that limits and stats need
  bool stdinOpen = false;  // keep a standard input that attached clients write to; otherwise it is empty
  LogOptions log;
  Namespace pid = Namespace::own();  // own, host, path, or sandbox (see SandboxSpec::sharedPid)
  Namespace ipc = Namespace::sandbox();
  Namespace uts = Namespace::sandbox();
  Namespace net = Namespace::sandbox();
  Namespace cgroup = Namespace::own();  // own or host
  std::string hostname;                 // only with an own uts
  std::vector<std::pair<std::string, std::string>>
      sysctls;  // for own namespaces of the container; the pod's are the sandbox's
  // When not given: Docker's lists (none when privileged).
  std::optional<std::vector<std::string>> maskedPaths;
  std::optional<std::vector<std::string>> readonlyPaths;
  bool init = false;  // a tiny init of ours is PID 1: reaps and forwards signals
  std::vector<std::pair<std::string, std::string>> annotations;  // kept and given back by containers()
};

struct SandboxSpec {
  std::string id;  // as ContainerSpec::id; its own within the runtime's state folder
  std::string hostname, domainname;
  // An own network namespace has "lo" up and nothing else. `netFd` (not owned, duplicated) wins over net.path.
  Namespace net = Namespace::own();
  int netFd = -1;
  // A user namespace of its own (KEP-127): the ids 0 to 65535 inside are a range outside that no other sandbox of the
  // runtime has, and that none of the machine's own users should have. Root file systems and binds show the ids that
  // are on disk as those inside, by idmapped mounts; the namespaces belong to the user namespace, and so capabilities
  // mean nothing outside. No namespace may be the host's. `userFd`: one without a map that owns netFd's namespace.
  bool ownUsers = false;
  int userFd = -1;
  Namespace ipc = Namespace::own();
  Namespace uts = Namespace::own();
  bool sharedPid = false;              // one pid namespace for all containers whose pid is Namespace::sandbox()
  std::string cgroup;                  // below every controller's root, "/a/b"; empty: <options.cgroupParent>/<id>
  std::optional<Resources> resources;  // limits of the sandbox as a whole
  std::vector<std::pair<std::string, std::string>> sysctls;      // of net, ipc and uts: {"net.ipv4.ip_forward", "1"}
  std::vector<std::pair<std::string, std::string>> annotations;  // kept and given back
};

// A container used as a machine: PID 1 is the shim as an init that reaps every orphan, runs one command and
// runs it again when it dies (after 100 ms, doubling to 5 s), and leaves other processes alone.
struct MachineSpec {
  std::string name;
  std::vector<std::string> args, env;  // its command: a node's agent, a master's server
  // Commands that are kept running beside it: started before it and ended after it, in that order. At most three.
  std::vector<std::vector<std::string>> beside;
  std::string hostname;
  std::string netPath;  // the machine's network namespace; empty: a new one
  // The root is the host's "/" read-only; these are added, writable unless they say otherwise.
  std::vector<Mount> mounts;
  std::string cgroup;  // as SandboxSpec::cgroup. Inside, /sys/fs/cgroup is this subtree only, writable.
  Resources resources;
  std::vector<std::pair<std::string, std::string>> sysctls;
  LogOptions log;  // the agent's standard output and error
};

}  // namespace dhow::runtime
