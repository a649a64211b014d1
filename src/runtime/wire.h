// What the daemon and dhow-shim say to each other: plans (what to do between clone and exec, as a flat list of
// steps) and messages on a SOCK_SEQPACKET unix socket. Plain data only: the shim has no C++ library.
//
// A plan is a sealed memory file: Plan, then Steps, then NUL-terminated strings and blobs, addressed by their
// offset from the start of the file (0: none). All decisions are taken by the one that writes it; the shim
// executes it and reports the first step that fails.
//
// A shim lives as long as its pod, and daemons of newer and older versions come to it. So nothing here changes its
// place or meaning: steps, flags, message types and fields at the end of Message are added, and kProtocol counts up.
// Who reads a message takes what it knows; what is missing is 0. Plan and Step do not grow: what is new is a step.
#pragma once

#include <stdint.h>

namespace dhow::runtime::wire {

inline constexpr uint32_t kMagic = 0x64686f32;  // "dho2"
inline constexpr uint32_t kProtocol = 1;        // what this side speaks
inline constexpr uint32_t kOldestProtocol = 1;  // the least that the other side must
inline constexpr uint32_t kMaxId = 128;
inline constexpr uint32_t kMaxAttach = 8;  // clients of one container at a time
inline constexpr uint32_t kMaxContainers = 64;
inline constexpr uint32_t kMaxProcesses = 320;  // containers and execs together
inline constexpr uint32_t kMaxSlots = 200;      // detached mounts of one plan
inline constexpr uint32_t kMaxPlan = 4 << 20;

enum Op : uint32_t {
  kNop,
  kJoinTasks,      // path: writes "0" into a v1 "tasks" file
  kWriteFile,      // path, text; a = open flags beside O_WRONLY
  kSetns,          // path, a = CLONE_NEW*
  kSetnsTarget,    // a = CLONE_NEW* of the process that is joined (exec)
  kUnshare,        // a = flags
  kUserNamespace,  // sandbox: ids from 0 inside are b ids from a outside; path: an unmapped one that is given; c =
                   // CLONE_NEW* that it makes, owns, and that are joined
  kFileIds,        // what is made from here on belongs to user and group a; capabilities stay
  kEnterUsers,  // into the sandbox's user namespace, as its root, with all capabilities in it; a = CLONE_NEW* to make
                // there; b = the root's id outside
  kHostname,    // path = name
  kDomainname,  // path = name
  kLoopbackUp,
  kPropagation,  // path, a = MS_* (recursive private at first)
  kOpenTree,     // slot a = clone of path, or of `text` as it is found inside of it; b: recursive; c = propagation; d =
                 // attributes; e: recursive attributes
  kNewFs,        // slot a = file system `path` with list of key\0value\0...\0 at `text` (n pairs); d = attributes
  kNewOverlay,   // slot a = overlay, list of lower folders at `text` (n), `more` = "upper\0work\0"; d = attributes
  kIdmap,        // slot a: ids on disk are those of the sandbox's user namespace
  kIdmapFolder,  // path, onto itself: the same for all that is opened below it from here on
  kPivot,        // slot a becomes the root, mounted at `path` first; the old root goes
  kMakeDir,      // path, a = mode: with its parents; fine when it is there
  kAttach,       // slot a is mounted at `path`; b: target is a folder (made), 2: a file (made), 4: no link allowed
  kMakeNode,     // path, a = mode, b = device number; e: c = uid, d = gid
  kBindSelf,     // path: onto itself, d = attributes; missing is fine
  kSymlink,      // path -> text; existing is fine
  kSetAttr,      // path, d = attributes to set, b: recursive
  kMask,         // path: folder -> empty read-only tmpfs, file -> slot a (/dev/null); missing is fine
  kPty,          // makes a terminal the process' stdio; a = rows, b = columns; c: bind it to /dev/console
  kStdio,        // the prepared pipes become 0, 1, 2
  kSession,      // setsid; a: the terminal on 0 becomes its own
  kRlimit,       // a = resource, b = soft, c = hard
  kKeepCaps,     // capabilities survive the change of user
  kBounding,     // a = set that stays
  kUser,         // a = uid, b = gid, text = n gids (uint32_t), c = umask
  kCapset,       // a = effective and permitted, b = inheritable, c = ambient
  kChdir,        // path; b: made when missing
  kReady,        // what follows is only the exec and what must come last
  kNoNewPrivs,
  kSeccomp,  // text = n sock_filter
  kInit,     // splits: PID 1 stays as an init, its child goes on
  kExec,     // text = argv block, more = env block (n, a strings), path = PATH to search
};

enum StepFlags : uint32_t {
  kWarnOnly = 1,  // a failure is reported, and the plan goes on
};

struct Step {
  uint32_t op, flags;
  uint32_t path, text, more, n;
  uint64_t a, b, c, d, e;
};

enum class PidMode : uint32_t {
  kShim,     // children live where the shim lives (with CLONE_NEWPID: in one of their own)
  kSandbox,  // in the sandbox's shared namespace
  kPath,
  kTarget,  // exec: in the target's
};

enum PlanFlags : uint32_t {
  kTerminal = 1,
  kStdinOpen = 2,
  kSharedPid = 4,  // sandbox: make a pid namespace with an init
  kIsExec = 8,
  kKillGroup = 16,  // kill the whole cgroup when the first process ends (it has no pid namespace of its own)
};

struct Plan {
  uint32_t magic, size;
  uint32_t protocol;  // that a shim must speak to execute it
  uint32_t stepCount, flags;
  uint64_t cloneFlags;
  PidMode pidMode;
  uint32_t pidPath;
  uint32_t id;          // of the container, exec or sandbox
  uint32_t target;      // exec: the container's id
  uint32_t stateDir;    // sandbox: where exit records go
  uint32_t cgroupFd;    // folder to clone into (v2); 0: none
  uint32_t cgroupKill;  // path of cgroup.kill, or of a v1 cgroup.procs
  uint32_t oomFile;     // memory.oom_control or memory.events: holds "oom_kill N"
  uint32_t logPath, logFiles;
  uint64_t logSize;
};

enum class Type : uint32_t {
  // daemon -> shim; each is answered once by kReply with the same `sequence`
  kHello = 1,  // a = kMagic, b = kProtocol; answered by kRecord for each container, then kReply with status = kProtocol
  kStart,      // fds: plan, then for each attach client the ends named by streams[i]
  kExec,       // fds: plan, then stdio as streams[0] says (missing: /dev/null)
  kSignal,     // a = signal
  kAttach,     // fds as streams[0] says; the reply carries the input when it was asked for
  kCloseStdin,
  kResize,  // a = rows, b = columns
  kReopenLog,
  kForget,    // drops an exited container's record
  kShutdown,  // kills everything; the reply comes when all is reaped, and the shim ends
  // shim -> daemon
  kReply = 100,
  kRecord,   // a container as it is now
  kExited,   // a container or exec has ended
  kWarning,  // step b of the plan failed with a, before the reply of `sequence`
  kUp,       // the sandbox stands (or error says why not); first message after start-up
};

enum StreamBits : uint32_t { kIn = 1, kOut = 2, kErr = 4 };

struct Message {
  Type type;
  uint32_t sequence;
  int32_t error;  // errno; 0 is success
  uint32_t step;  // index of the failing step when error comes from a plan
  int32_t pid;
  uint32_t streamCount;
  uint32_t streams[kMaxAttach];
  int64_t a, b;
  int64_t startedNanos;  // wall time
  int64_t exitedNanos;   // 0: runs
  int32_t status;        // as wait(2) gives it
  uint32_t oom;
  char id[kMaxId + 1];
};
inline constexpr uint32_t kLeastMessage = 232;  // as the first protocol had it
static_assert(sizeof(Message) >= kLeastMessage);

// The protocol in which a step, with these flags, came.
constexpr uint32_t protocolOf(const Step&) {
  return 1;
}

}  // namespace dhow::runtime::wire
