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
// A command that ran so long, or that ended well or as it was told, starts over at the first delay.
constexpr int64_t kSteadyAfter = 10000 * kMilli;

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

// A command that is kept running.
struct Program {
  char** argv = nullptr;
  long pid = 0;
  int64_t delay = kFirstDelay, startedAt = 0, nextStart = 0;
};

constexpr int kMostPrograms = 4;

bool isSeparator(const char* word) {
  return word[0] == '-' && word[1] == '-' && word[2] == 0;
}

}  // namespace

void runMachine(char** argv, char** envp) {
  uint64_t all = ~0ull;
  sys::nr<__NR_rt_sigprocmask>(SIG_SETMASK, &all, 0, sizeof all);
  sys::nr<__NR_prctl>(PR_SET_NAME, "dhow-machine", 0, 0, 0);
  sys::nr<__NR_prctl>(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
  Program programs[kMostPrograms];
  int count = 1;
  programs[0].argv = argv;
  for (char** word = argv; *word; ++word) {
    if (!isSeparator(*word) || !word[1] || count == kMostPrograms) continue;
    *word = nullptr;
    programs[count++].argv = word + 1;
  }
  int ending = -1;  // the program that is ending; those after it have ended
  int code = 0;
  // Ends the last program that runs; exits when none does.
  auto endNext = [&] {
    while (ending >= 0 && programs[ending].pid <= 0) --ending;
    if (ending < 0) sys::exit(code);
    sys::nr<__NR_kill>(programs[ending].pid, SIGTERM);
  };
  for (;;) {
    int status = 0;
    long pid;
    while ((pid = sys::nr<__NR_wait4>(-1, &status, 1 | 0x40000000, 0)) > 0) {
      for (int i = 0; i < count; ++i) {
        Program& program = programs[i];
        if (pid != program.pid) continue;
        program.pid = 0;
        if (i == count - 1) code = (status & 0x7f) ? 128 + (status & 0x7f) : (status >> 8) & 0xff;
        if (ending == i) endNext();
        const bool well = status == 0 || status == SIGTERM;
        if (well || monotonic() - program.startedAt > kSteadyAfter) program.delay = kFirstDelay;
        program.nextStart = monotonic() + program.delay;
        program.delay = program.delay * 2 < kLastDelay ? program.delay * 2 : kLastDelay;
      }
    }
    bool waiting = false;
    int64_t wait = kLastDelay;
    for (int i = 0; ending < 0 && i < count; ++i) {
      Program& program = programs[i];
      int64_t now = monotonic();
      if (program.pid <= 0 && program.nextStart <= now) {
        program.startedAt = now;
        program.pid = start(program.argv, envp);
        if (program.pid < 0) program.nextStart = now + kLastDelay;
      }
      if (program.pid > 0) continue;
      waiting = true;
      wait = program.nextStart - now < wait ? program.nextStart - now : wait;
    }
    char info[128];
    __kernel_timespec limit{wait / 1000000000, wait % 1000000000};
    long number = sys::nr<__NR_rt_sigtimedwait>(&all, info, waiting ? &limit : nullptr, sizeof all);
    if (number == SIGTERM && ending < 0) {
      ending = count - 1;
      endNext();
      continue;
    }
    const long main = programs[count - 1].pid;
    if (main > 0 &&
        (number == SIGTERM || number == SIGINT || number == SIGHUP || number == SIGUSR1 || number == SIGUSR2))
      sys::nr<__NR_kill>(main, number);
  }
}
