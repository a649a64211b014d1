#include "steps.h"

#include <asm/ioctls.h>
#include <asm/signal.h>
#include <asm/termios.h>
#include <linux/capability.h>
#include <linux/fcntl.h>
#include <linux/filter.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <linux/prctl.h>
#include <linux/seccomp.h>
#include <linux/stat.h>

#include "mounts.h"
#include "sys.h"
#include "users.h"
#include "wait.h"

using namespace dhow::runtime;
using wire::Plan;
using wire::Step;

namespace {

constexpr int kMaxStrings = 32768;  // of argv and of envp
constexpr long kEnoent = -2, kEacces = -13, kEnotdir = -20, kEinval = -22;

const char* at(const Plan* plan, uint32_t offset) {
  return offset ? reinterpret_cast<const char*>(plan) + offset : nullptr;
}

long writeFile(const char* path, const char* text, uint64_t flags) {
  long fd = sys::open(path, static_cast<int>(O_WRONLY | O_CLOEXEC | flags), 0644);
  if (fd < 0) return fd;
  size_t size = strlen(text);
  long n = sys::write(static_cast<int>(fd), text, size);
  sys::close(static_cast<int>(fd));
  return n < 0 ? n : 0;
}

long setns(const char* path, uint64_t flags) {
  long fd = sys::open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return fd;
  long result = sys::nr<__NR_setns>(fd, flags);
  sys::close(static_cast<int>(fd));
  return result;
}

// Joins the target's namespaces, and takes its root. The root of its mount namespace need not be the same: where this
// program runs in a chroot, pivot_root(2) leaves the namespace the root that lies above the chroot.
long joinTarget(const StepContext& context, uint64_t namespaces) {
  char path[32];
  (Text(path, sizeof path) << "/proc/").number(context.targetPid) << "/root";
  long root = sys::open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (root < 0) return root;
  long r = sys::nr<__NR_setns>(context.targetPidfd, namespaces);
  if (r == 0) r = sys::nr<__NR_fchdir>(root);
  if (r == 0) r = sys::nr<__NR_chroot>(".");
  sys::close(static_cast<int>(root));
  return r;
}

// struct ifreq, as far as it is needed.
struct InterfaceFlags {
  char name[16];
  short flags;
  char rest[22];
};

long loopbackUp() {
  long fd = sys::nr<__NR_socket>(2 /* AF_INET */, 2 | O_CLOEXEC /* SOCK_DGRAM */, 0);
  if (fd < 0) return fd;
  InterfaceFlags request{{'l', 'o', 0}, 1 /* IFF_UP */, {}};
  long result = sys::nr<__NR_ioctl>(fd, 0x8914 /* SIOCSIFFLAGS */, &request);
  sys::close(static_cast<int>(fd));
  return result;
}

void report(const StepContext& context, StepReport::Kind kind, uint32_t step, long error) {
  StepReport message{kind, step, static_cast<int32_t>(error)};
  if (context.sync >= 0) sys::write(context.sync, &message, sizeof message);
}

long makeTerminal(const Step& step, const StepContext& context) {
  long master = sys::open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC);
  if (master < 0) return master;
  int zero = 0, number = 0;
  long r = sys::nr<__NR_ioctl>(master, TIOCSPTLCK, &zero);
  if (r < 0) return r;
  long slave = sys::nr<__NR_ioctl>(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
  if (slave < 0) return slave;
  if (step.a) {
    winsize size{static_cast<unsigned short>(step.a), static_cast<unsigned short>(step.b), 0, 0};
    sys::nr<__NR_ioctl>(master, TIOCSWINSZ, &size);
  }
  if (step.c) {
    sys::nr<__NR_ioctl>(master, TIOCGPTN, &number);
    char path[32];
    Text text(path, sizeof path);
    text << "/dev/pts/";
    text.number(number);
    // The node is opened by us, and /dev is ours: nothing of the image can stand there as a link.
    long console = sys::open("/dev/console", O_CREAT | O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0600);
    if (console < 0) return console;
    sys::close(static_cast<int>(console));
    r = sys::nr<__NR_mount>(path, "/dev/console", 0, MS_BIND, 0);
    if (r < 0) return r;
  }
  r = sendFd(context.sync, StepReport{StepReport::kTerminal, 0, 0}, static_cast<int>(master));
  if (r < 0) return r;
  for (int i = 0; i < 3; ++i) {
    r = sys::nr<__NR_dup3>(slave, i, 0);
    if (r < 0) return r;
  }
  return 0;
}

long useStdio(const StepContext& context) {
  for (int i = 0; i < 3; ++i) {
    long from = context.stdio[i];
    if (from < 0) from = sys::open("/dev/null", O_RDWR | O_CLOEXEC);
    if (from < 0) return from;
    long r = from == i ? sys::nr<__NR_fcntl>(from, F_SETFD, 0) : sys::nr<__NR_dup3>(from, i, 0);
    if (r < 0) return r;
  }
  return 0;
}

long setUser(const Plan* plan, const Step& step) {
  sys::nr<__NR_umask>(step.c);
  long r = sys::nr<__NR_setgroups>(step.n, at(plan, step.text));
  if (r < 0) return r;
  // The user opens /dev/stdout again: pipes and terminals must be its own.
  if (step.a != 0) {
    for (int i = 0; i < 3; ++i) {
      struct statx status;
      if (sys::nr<__NR_statx>(i, "", AT_EMPTY_PATH, STATX_TYPE, &status) != 0) continue;
      bool pipe = (status.stx_mode & 0170000) == 0010000;
      bool terminal =
          (status.stx_mode & 0170000) == 0020000 && status.stx_rdev_major >= 136 && status.stx_rdev_major <= 143;
      if (pipe || terminal) sys::nr<__NR_fchown>(i, step.a, -1);
    }
  }
  r = sys::nr<__NR_setresgid>(step.b, step.b, step.b);
  if (r < 0) return r;
  return sys::nr<__NR_setresuid>(step.a, step.a, step.a);
}

long dropBounding(uint64_t keep) {
  for (int cap = 0; cap < 64; ++cap) {
    if (keep >> cap & 1) continue;
    long r = sys::nr<__NR_prctl>(PR_CAPBSET_DROP, cap, 0, 0, 0);
    if (r == kEinval) return 0;
    if (r < 0) return r;
  }
  return 0;
}

long setCapabilities(uint64_t permitted, uint64_t inheritable, uint64_t ambient) {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2];
  for (int i = 0; i < 2; ++i) {
    data[i].effective = data[i].permitted = static_cast<uint32_t>(permitted >> (32 * i));
    data[i].inheritable = static_cast<uint32_t>(inheritable >> (32 * i));
  }
  long r = sys::nr<__NR_capset>(&header, data);
  if (r < 0) return r;
  for (int cap = 0; ambient >> cap && cap < 64; ++cap) {
    if (!(ambient >> cap & 1)) continue;
    r = sys::nr<__NR_prctl>(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap, 0, 0);
    if (r < 0) return r;
  }
  return 0;
}

long changeFolder(const char* path, bool make) {
  long r = sys::nr<__NR_chdir>(path);
  if (r != kEnoent || !make) return r;
  r = makeDirs(path, 0755);
  return r < 0 ? r : sys::nr<__NR_chdir>(path);
}

void splitStrings(const char* block, uint64_t count, const char** into) {
  for (uint64_t i = 0; i < count; ++i) {
    into[i] = block;
    block += strlen(block) + 1;
  }
  into[count] = nullptr;
}

long execute(const Plan* plan, const Step& step) {
  // Of the child alone: the pages are the shim's, untouched there, and copied here on the first write.
  static const char* args[kMaxStrings + 1];
  static const char* env[kMaxStrings + 1];
  static char candidate[4096];
  if (step.n > kMaxStrings || step.a > kMaxStrings) return -7;  // E2BIG
  splitStrings(at(plan, step.text), step.n, args);
  splitStrings(at(plan, step.more), step.a, env);
  unblockSignals();
  const char* name = args[0];
  for (const char* c = name; *c; ++c) {
    if (*c == '/') return sys::nr<__NR_execve>(name, args, env);
  }
  long result = kEnoent;
  const char* path = at(plan, step.path);
  while (path && *name) {
    const char* end = path;
    while (*end && *end != ':') ++end;
    if (static_cast<size_t>(end - path) + strlen(name) + 2 < sizeof candidate) {
      memcpy(candidate, path, static_cast<size_t>(end - path));
      Text text(candidate + (end - path), sizeof candidate - static_cast<size_t>(end - path));
      if (end != path) text << "/";
      text << name;
      long r = sys::nr<__NR_execve>(candidate, args, env);
      if (r != kEnoent && r != kEnotdir && r != kEacces) return r;
      if (r == kEacces) result = r;
    }
    path = *end ? end + 1 : nullptr;
  }
  return result;
}

long splitInit() {
  long child = forkHere();
  if (child < 0) return child;
  if (child > 0) tinyInit(static_cast<int>(child));
  sys::nr<__NR_setpgid>(0, 0);
  int self = static_cast<int>(sys::nr<__NR_getpid>());
  sys::nr<__NR_ioctl>(0, TIOCSPGRP, &self);  // only a terminal takes it
  return 0;
}

long runStep(const Plan* plan, const Step& step, StepContext& context, MountState& mounts, uint32_t index) {
  const char* path = at(plan, step.path);
  const char* text = at(plan, step.text);
  switch (step.op) {
    case wire::kNop: return 0;
    case wire::kJoinTasks: return writeFile(path, "0", 0);
    case wire::kWriteFile: return writeFile(path, text, step.a);
    case wire::kSetns: return setns(path, step.a);
    case wire::kSetnsTarget: return joinTarget(context, step.a);
    case wire::kUnshare: return sys::nr<__NR_unshare>(step.a);
    case wire::kUserNamespace: return makeUserNamespace(path, step, context);
    case wire::kFileIds: return setFileIds(step.a);
    case wire::kEnterUsers: return enterUsers(step, context);
    case wire::kIdmap: return idmap(mounts.slots[step.a], context.userNs);
    case wire::kIdmapFolder: return idmapFolder(path, context.userNs);
    case wire::kHostname: return sys::nr<__NR_sethostname>(path, strlen(path));
    case wire::kDomainname: return sys::nr<__NR_setdomainname>(path, strlen(path));
    case wire::kLoopbackUp: return loopbackUp();
    case wire::kPty: return makeTerminal(step, context);
    case wire::kStdio: return useStdio(context);
    case wire::kSession: {
      sys::nr<__NR_setsid>();
      return step.a ? sys::nr<__NR_ioctl>(0, TIOCSCTTY, 0) : 0;
    }
    case wire::kRlimit: {
      uint64_t limit[2] = {step.b, step.c};
      return sys::nr<__NR_prlimit64>(0, step.a, limit, 0);
    }
    case wire::kKeepCaps: return sys::nr<__NR_prctl>(PR_SET_KEEPCAPS, 1, 0, 0, 0);
    case wire::kBounding: return dropBounding(step.a);
    case wire::kUser: return setUser(plan, step);
    case wire::kCapset: return setCapabilities(step.a, step.b, step.c);
    case wire::kChdir: return changeFolder(path, step.b != 0);
    case wire::kReady: report(context, StepReport::kReadyToExec, index, 0); return 0;
    case wire::kNoNewPrivs: return sys::nr<__NR_prctl>(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    case wire::kSeccomp: {
      sock_fprog program{static_cast<unsigned short>(step.n), reinterpret_cast<sock_filter*>(const_cast<char*>(text))};
      return sys::nr<__NR_seccomp>(SECCOMP_SET_MODE_FILTER, 0, &program);
    }
    case wire::kInit: return splitInit();
    case wire::kExec: return execute(plan, step);
    default: return runMountStep(plan, step, mounts);
  }
}

}  // namespace

long runSteps(const Plan* plan, StepContext& context, uint32_t* failed) {
  static MountState mounts;
  auto* steps = reinterpret_cast<const Step*>(plan + 1);
  for (uint32_t i = 0; i < plan->stepCount; ++i) {
    long r = runStep(plan, steps[i], context, mounts, i);
    if (r >= 0) continue;
    if (steps[i].flags & wire::kWarnOnly) {
      report(context, StepReport::kWarned, i, -r);
      continue;
    }
    *failed = i;
    return r;
  }
  return 0;
}
