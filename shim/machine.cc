#include "machine.h"

#include <asm/signal.h>
#include <linux/fcntl.h>
#include <linux/prctl.h>
#include <linux/time_types.h>

#include "steps.h"
#include "sys.h"
#include "wait.h"

namespace {

constexpr int64_t kMilli = 1000000, kFirstDelay = 100 * kMilli, kLastDelay = 5000 * kMilli;
constexpr int64_t kSteadyAfter = 10000 * kMilli;  // a command that ran so long starts over at the first delay

int64_t monotonic() {
  __kernel_timespec now{};
  sys::nr<__NR_clock_gettime>(1, &now);
  return now.tv_sec * 1000000000LL + now.tv_nsec;
}

long start(char** argv, char** envp) {
  long child = forkHere();
  if (child != 0) return child;
  sys::nr<__NR_setsid>();
  unblockSignals();
  long error = sys::nr<__NR_execve>(argv[0], argv, envp);
  char line[512];
  Text text(line, sizeof line);
  text << "machine: cannot run " << argv[0] << ": error ";
  text.number(-error) << "\n";
  sys::write(2, line, text.size);
  sys::exit(127);
}

}  // namespace

void runMachine(char** argv, char** envp) {
  uint64_t all = ~0ull;
  sys::nr<__NR_rt_sigprocmask>(SIG_SETMASK, &all, 0, sizeof all);
  sys::nr<__NR_prctl>(PR_SET_NAME, "dhow-machine", 0, 0, 0);
  sys::nr<__NR_prctl>(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
  long child = 0;
  int64_t delay = kFirstDelay, startedAt = 0, nextStart = 0;
  bool ending = false;
  for (;;) {
    int status = 0;
    long pid;
    while ((pid = sys::nr<__NR_wait4>(-1, &status, 1 | 0x40000000, 0)) > 0) {
      if (pid != child) continue;
      child = 0;
      if (ending) sys::exit((status & 0x7f) ? 128 + (status & 0x7f) : (status >> 8) & 0xff);
      if (monotonic() - startedAt > kSteadyAfter) delay = kFirstDelay;
      nextStart = monotonic() + delay;
      delay = delay * 2 < kLastDelay ? delay * 2 : kLastDelay;
    }
    int64_t wait = nextStart - monotonic();
    if (child <= 0 && wait <= 0) {
      startedAt = monotonic();
      child = start(argv, envp);
      if (child < 0) nextStart = startedAt + kLastDelay;
      continue;
    }
    char info[128];
    __kernel_timespec limit{wait / 1000000000, wait % 1000000000};
    long number = sys::nr<__NR_rt_sigtimedwait>(&all, info, child > 0 ? nullptr : &limit, sizeof all);
    if (number == SIGTERM) {
      ending = true;
      if (child <= 0) sys::exit(0);
    }
    if (child > 0 &&
        (number == SIGTERM || number == SIGINT || number == SIGHUP || number == SIGUSR1 || number == SIGUSR2))
      sys::nr<__NR_kill>(child, number);
  }
}
