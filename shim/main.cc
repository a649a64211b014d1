// dhow-shim minds one sandbox: it holds its namespaces, is the parent of its containers, writes their logs and
// tells daemons that come and go. Started with 3: listening socket, 4: connection to the daemon that starts
// it, 5: the sandbox's plan, and what the plan may join: 6: a network namespace, 7: the user namespace that owns it.
// As `dhow-shim init -- command... [-- command...]` it is PID 1 of a machine.
#include <asm/signal.h>
#include <linux/eventpoll.h>
#include <linux/fcntl.h>
#include <linux/prctl.h>
#include <linux/sched.h>

#include "machine.h"
#include "shim.h"
#include "sys.h"
#include "wait.h"

namespace shim {

State state;

const char* text(const wire::Plan* plan, uint32_t offset) {
  return offset ? reinterpret_cast<const char*>(plan) + offset : nullptr;
}

const wire::Plan* mapPlan(int fd) {
  long size = sys::nr<__NR_lseek>(fd, 0, 2);
  if (size < static_cast<long>(sizeof(wire::Plan)) || size > static_cast<long>(wire::kMaxPlan)) return nullptr;
  long address = sys::nr<__NR_mmap>(0, size, 1 /* PROT_READ */, 2 /* MAP_PRIVATE */, fd, 0);
  if (address < 0 && address > -4096) return nullptr;
  auto* plan = reinterpret_cast<const wire::Plan*>(address);
  bool sound = plan->magic == wire::kMagic && plan->size == size &&
               sizeof(wire::Plan) + plan->stepCount * sizeof(wire::Step) <= static_cast<size_t>(size);
  if (sound) return plan;
  sys::nr<__NR_munmap>(address, size);
  return nullptr;
}

void unmapPlan(const wire::Plan* plan) {
  sys::nr<__NR_munmap>(plan, plan->size);
}

void watch(int fd, uint32_t events, Watched kind, uint32_t index, uint32_t sub, bool change) {
  epoll_event event;
  event.events = events;
  event.data = static_cast<uint64_t>(kind) << 48 | static_cast<uint64_t>(index) << 16 | sub;
  sys::nr<__NR_epoll_ctl>(state.epoll, change ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd, &event);
}

void unwatch(int fd) {
  epoll_event event{};
  sys::nr<__NR_epoll_ctl>(state.epoll, EPOLL_CTL_DEL, fd, &event);
}

namespace {

void addConnection(int fd) {
  for (int i = 0; i < kMaxConnections; ++i) {
    if (state.connections[i] >= 0) continue;
    state.connections[i] = fd;
    watch(fd, EPOLLIN, kConnection, static_cast<uint32_t>(i));
    return;
  }
  sys::close(fd);
}

void acceptConnection() {
  long fd = sys::nr<__NR_accept4>(state.listener, 0, 0, O_CLOEXEC | O_NONBLOCK);
  if (fd >= 0) addConnection(static_cast<int>(fd));
}

void connectionReadable(int index) {
  static wire::Message message;
  int fds[kMaxFds];
  int count = 0;
  while (state.connections[index] >= 0) {
    memset(&message, 0, sizeof message);
    long n = receiveFds(state.connections[index], &message, sizeof message, fds, &count);
    if (n == -11) return;
    if (n >= wire::kLeastMessage) {
      message.id[wire::kMaxId] = 0;
      if (message.streamCount > wire::kMaxAttach) message.streamCount = wire::kMaxAttach;
      handle(index, message, fds, count);
      continue;
    }
    for (int i = 0; i < count; ++i) sys::close(fds[i]);
    unwatch(state.connections[index]);
    sys::close(state.connections[index]);
    state.connections[index] = -1;
  }
}

void drainSignals() {
  char info[128];
  while (sys::read(state.signals, info, sizeof info) > 0) {
  }
  reap();
}

void dispatch(const epoll_event& event) {
  uint32_t kind = static_cast<uint32_t>(event.data >> 48);
  uint32_t index = static_cast<uint32_t>(event.data >> 16);
  uint32_t sub = static_cast<uint32_t>(event.data & 0xffff);
  switch (kind) {
    case kListener: acceptConnection(); break;
    case kConnection: connectionReadable(static_cast<int>(index)); break;
    case kSignals: drainSignals(); break;
    case kSync:
      if (processes[index].state == Process::kStarting) syncReadable(processes[index]);
      break;
    case kOutput:
      if (processes[index].state != Process::kFree) pump(processes[index], static_cast<int>(sub), false);
      break;
    case kClient:
      if (processes[index].state != Process::kFree)
        clientReady(processes[index], static_cast<int>(sub / 2), static_cast<int>(sub % 2), event.events);
      break;
  }
}

long shareOnePidNs() {
  long r = sys::nr<__NR_unshare>(CLONE_NEWPID);
  if (r < 0) return r;
  int pidfd = -1;
  r = cloneProcess(0, -1, &pidfd);
  if (r == 0) {
    if (state.userNs >= 0 && sys::nr<__NR_setns>(state.userNs, CLONE_NEWUSER) != 0) sys::exit(1);
    tinyInit(0);
  }
  if (r < 0) return r;
  state.sandboxInit = pidfd;
  state.sandboxInitPid = static_cast<int>(r);
  return sys::nr<__NR_setns>(state.ownPidNs, CLONE_NEWPID);
}

long prepare(uint32_t* failed) {
  for (int number = 1; number <= 64; ++number) {
    long defaultAction[4] = {0, 0, 0, 0};
    sys::nr<__NR_rt_sigaction>(number, defaultAction, 0, 8);
  }
  state.signals = static_cast<int>(signalFd());
  sys::nr<__NR_setsid>();
  sys::nr<__NR_chdir>("/");
  sys::nr<__NR_umask>(0);
  sys::nr<__NR_prctl>(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
  // Nobody inside may reach this program's file through /proc/<pid>/exe between setns and exec (CVE-2019-5736).
  sys::nr<__NR_prctl>(PR_SET_DUMPABLE, 0, 0, 0, 0);
  state.plan = mapPlan(5);
  sys::close(5);
  if (!state.plan) return -22;
  if (state.plan->protocol > wire::kProtocol) return -71;  // EPROTO
  state.ownPidNs = static_cast<int>(sys::open("/proc/self/ns/pid", O_RDONLY | O_CLOEXEC));
  if (state.ownPidNs < 0) return state.ownPidNs;
  StepContext context;
  long r = runSteps(state.plan, context, failed);
  state.userNs = context.userNs;
  if (r == 0 && state.plan->flags & wire::kSharedPid) r = shareOnePidNs();
  return r;
}

[[noreturn]] void run() {
  for (int fd = 3; fd <= 5; ++fd) sys::nr<__NR_fcntl>(fd, F_SETFD, FD_CLOEXEC);
  bool netGiven = sys::nr<__NR_fcntl>(6, F_SETFD, FD_CLOEXEC) == 0;
  bool usersGiven = sys::nr<__NR_fcntl>(7, F_SETFD, FD_CLOEXEC) == 0;
  sys::nr<__NR_close_range>(8, ~0u, 0);
  wire::Message up;
  memset(&up, 0, sizeof up);
  up.type = wire::Type::kUp;
  up.step = ~0u;
  state.epoll = static_cast<int>(sys::nr<__NR_epoll_create1>(O_CLOEXEC));
  for (int& connection : state.connections) connection = -1;
  long r = prepare(&up.step);
  if (netGiven) sys::close(6);
  if (usersGiven) sys::close(7);
  up.error = static_cast<int32_t>(-r);
  up.pid = static_cast<int32_t>(sys::nr<__NR_getpid>());
  sendFds(4, &up, sizeof up, nullptr, 0);
  if (r < 0) sys::exit(1);
  state.listener = 3;
  watch(state.listener, EPOLLIN, kListener, 0);
  watch(state.signals, EPOLLIN, kSignals, 0);
  addConnection(4);
  for (;;) {
    epoll_event events[16];
    // Whoever waits for the end may want this sandbox gone at once; then the mounts go with this process.
    bool held = mountNsHeld();
    long n = sys::nr<__NR_epoll_pwait>(state.epoll, events, 16, held ? 5 : -1, 0, 8);
    if (n == 0) dropMountNs();
    for (long i = 0; i < n; ++i) dispatch(events[i]);
  }
}

}  // namespace
}  // namespace shim

extern "C" [[noreturn, gnu::used]] void shimMain(long* stack) {
  long argc = stack[0];
  auto** argv = reinterpret_cast<char**>(stack + 1);
  if (argc > 3 && same(argv[1], "init") && same(argv[2], "--")) runMachine(argv + 3, argv + argc + 1);
  if (argc == 3 && same(argv[1], "sandbox")) shim::run();
  const char usage[] = "dhow-shim is started by dhow; it minds one sandbox of containers\n";
  sys::write(2, usage, sizeof usage - 1);
  sys::exit(argc == 2 && same(argv[1], "--version") ? 0 : 2);
}

#if defined(__x86_64__)
asm(".globl _start\n_start: xor %ebp, %ebp\n mov %rsp, %rdi\n and $-16, %rsp\n call shimMain\n");
#else
asm(".globl _start\n_start: mov x29, #0\n mov x0, sp\n bl shimMain\n");
#endif
