#include "wait.h"

#include <asm/signal.h>
#include <linux/fcntl.h>
#include <linux/prctl.h>
#include <linux/sched.h>
#include <linux/signalfd.h>

#include "sys.h"

namespace {
struct ControlHeader {  // struct cmsghdr
  size_t size;
  int level, type;
};
struct Control {
  ControlHeader header;
  int fds[kMaxFds];
};
constexpr int kSolSocket = 1, kScmRights = 1, kMsgNosignal = 0x4000, kMsgCloexec = 0x40000000, kMsgDontwait = 0x40;
}  // namespace

long sendFds(int socket, const void* data, size_t size, const int* fds, int count) {
  Control control{};
  IoVec vector{data, size};
  MessageHeader message{nullptr, 0, &vector, 1, nullptr, 0, 0};
  if (count > 0) {
    control.header = {sizeof(ControlHeader) + sizeof(int) * static_cast<size_t>(count), kSolSocket, kScmRights};
    memcpy(control.fds, fds, sizeof(int) * static_cast<size_t>(count));
    message.control = &control;
    message.controlSize = control.header.size;
  }
  return sys::nr<__NR_sendmsg>(socket, &message, kMsgNosignal | kMsgDontwait);
}

long receiveFds(int socket, void* data, size_t size, int* fds, int* count) {
  Control control{};
  IoVec vector{data, size};
  MessageHeader message{nullptr, 0, &vector, 1, &control, sizeof control, 0};
  *count = 0;
  long n = sys::nr<__NR_recvmsg>(socket, &message, kMsgCloexec | kMsgDontwait);
  if (n >= 0 && message.controlSize > sizeof(ControlHeader) && control.header.type == kScmRights) {
    *count = static_cast<int>((control.header.size - sizeof(ControlHeader)) / sizeof(int));
    memcpy(fds, control.fds, sizeof(int) * static_cast<size_t>(*count));
  }
  return n;
}

long forkHere() {
  clone_args args{};
  args.exit_signal = SIGCHLD;
  long r = sys::nr<__NR_clone3>(&args, sizeof args);
  if (r != -38) return r;
  // Inside our own filter clone3 answers ENOSYS on purpose; clone(2) can be judged by its flags.
#if defined(__x86_64__)
  return sys::nr<__NR_clone>(SIGCHLD, 0, 0, 0, 0);
#else
  return sys::nr<__NR_clone>(SIGCHLD, 0, 0, 0, 0);
#endif
}

long cloneProcess(uint64_t flags, int cgroup, int* pidfd) {
  clone_args args{};
  args.flags = flags | CLONE_PIDFD;
  args.pidfd = reinterpret_cast<uint64_t>(pidfd);
  args.exit_signal = SIGCHLD;
  if (cgroup >= 0) {
    args.flags |= CLONE_INTO_CGROUP;
    args.cgroup = static_cast<uint64_t>(cgroup);
  }
  return sys::nr<__NR_clone3>(&args, sizeof args);
}

long signalFd() {
  uint64_t all = ~0ull;
  sys::nr<__NR_rt_sigprocmask>(SIG_SETMASK, &all, 0, sizeof all);
  return sys::nr<__NR_signalfd4>(-1, &all, sizeof all, O_CLOEXEC | O_NONBLOCK);
}

void unblockSignals() {
  uint64_t none = 0;
  sys::nr<__NR_rt_sigprocmask>(SIG_SETMASK, &none, 0, sizeof none);
}

void tinyInit(int child) {
  sys::nr<__NR_close_range>(child ? 3 : 0, ~0u, 0);
  sys::nr<__NR_prctl>(PR_SET_NAME, "dhow-init", 0, 0, 0);
  uint64_t all = ~0ull;
  sys::nr<__NR_rt_sigprocmask>(SIG_SETMASK, &all, 0, sizeof all);
  for (;;) {
    int status = 0;
    long pid;
    while ((pid = sys::nr<__NR_wait4>(-1, &status, 1 /* WNOHANG */, 0)) > 0) {
      if (pid != child) continue;
      sys::exit((status & 0x7f) ? 128 + (status & 0x7f) : (status >> 8) & 0xff);
    }
    char info[128];
    long number = sys::nr<__NR_rt_sigtimedwait>(&all, info, 0, sizeof all);
    if (number <= 0 || number == SIGCHLD || number == SIGTTIN || number == SIGTTOU) continue;
    if (child) sys::nr<__NR_kill>(child, number);
    if (!child && number == SIGTERM) sys::exit(0);
  }
}
