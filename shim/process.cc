// Starting, reaping and forgetting processes.
#include <linux/eventpoll.h>
#include <linux/fcntl.h>
#include <linux/sched.h>

#include "shim.h"
#include "sys.h"
#include "wait.h"

namespace shim {

Process processes[wire::kMaxProcesses];

namespace {

Container containers[wire::kMaxContainers];

void copyText(char* to, size_t capacity, const char* from) {
  Text text(to, capacity);
  if (from) text << from;
}

uint64_t oomKillsOf(const char* path) {
  if (!path[0]) return 0;
  char content[1024];
  long fd = sys::open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return 0;
  long n = sys::read(static_cast<int>(fd), content, sizeof content - 1);
  sys::close(static_cast<int>(fd));
  if (n <= 0) return 0;
  content[n] = 0;
  for (const char* line = content; *line;) {
    if (memcmp(line, "oom_kill ", 9) == 0) {
      uint64_t value = 0;
      for (line += 9; *line >= '0' && *line <= '9'; ++line) value = value * 10 + static_cast<uint64_t>(*line - '0');
      return value;
    }
    while (*line && *line != '\n') ++line;
    if (*line) ++line;
  }
  return 0;
}

void closeFd(int& fd) {
  if (fd >= 0) sys::close(fd);
  fd = -1;
}

Process* claim(const char* id, bool exec) {
  for (auto& process : processes) {
    if (process.state != Process::kFree) continue;
    Container* container = nullptr;
    if (!exec) {
      for (auto& candidate : containers) {
        if (!candidate.used) {
          container = &candidate;
          break;
        }
      }
      if (!container) return nullptr;
      container->used = true;
    }
    process.container = container;
    process.flags = 0;
    copyText(process.id, sizeof process.id, id);
    process.pid = 0;
    process.pidfd = process.sync = process.input = process.master = process.mountNs = -1;
    process.output[0] = process.output[1] = -1;
    process.stalled[0] = process.stalled[1] = false;
    for (auto& client : process.clients) client.fd[0] = client.fd[1] = -1;
    process.ready = false;
    process.error = 0;
    process.startedNanos = process.exitedNanos = 0;
    process.status = 0;
    process.oom = 0;
    return &process;
  }
  return nullptr;
}

// The pipe's end for the child; ours is kept in `mine`, non-blocking.
long makePipe(int& mine, int mineIndex) {
  int ends[2];
  long r = sys::nr<__NR_pipe2>(ends, O_CLOEXEC);
  if (r < 0) return r;
  mine = ends[mineIndex];
  sys::nr<__NR_fcntl>(mine, F_SETFL, O_NONBLOCK);
  return ends[1 - mineIndex];
}

long prepareStdio(Process& process, const wire::Plan* plan, int* stdio) {
  if (plan->flags & wire::kTerminal) return 0;
  if (plan->flags & wire::kStdinOpen) {
    long r = makePipe(process.input, 1);
    if (r < 0) return r;
    stdio[0] = static_cast<int>(r);
  }
  for (int which = 0; which < 2; ++which) {
    long r = makePipe(process.output[which], 0);
    if (r < 0) return r;
    stdio[which + 1] = static_cast<int>(r);
  }
  return 0;
}

long openLog(Process& process, const wire::Plan* plan) {
  Container& container = *process.container;
  copyText(container.oomFile, sizeof container.oomFile, text(plan, plan->oomFile));
  copyText(container.killFile, sizeof container.killFile, text(plan, plan->cgroupKill));
  copyText(container.log.path, sizeof container.log.path, text(plan, plan->logPath));
  container.log.maxSize = plan->logSize;
  container.log.maxFiles = plan->logFiles ? plan->logFiles : 1;
  container.log.carry[0].size = container.log.carry[1].size = 0;
  container.log.torn = false;
  container.oomKills = oomKillsOf(container.oomFile);
  return container.log.open();
}

long enterPidNs(const wire::Plan* plan, int targetPidfd) {
  switch (plan->pidMode) {
    case wire::PidMode::kShim: return 0;
    case wire::PidMode::kSandbox: return sys::nr<__NR_setns>(state.sandboxInit, CLONE_NEWPID);
    case wire::PidMode::kTarget: return sys::nr<__NR_setns>(targetPidfd, CLONE_NEWPID);
    case wire::PidMode::kPath: {
      long fd = sys::open(text(plan, plan->pidPath), O_RDONLY | O_CLOEXEC);
      if (fd < 0) return fd;
      long r = sys::nr<__NR_setns>(fd, CLONE_NEWPID);
      sys::close(static_cast<int>(fd));
      return r;
    }
  }
  return -22;
}

[[noreturn]] void runChild(const wire::Plan* plan, StepContext& context) {
  if (!(plan->flags & wire::kIsExec)) {
    long self = sys::open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);
    if (self >= 0) sendFd(context.sync, StepReport{StepReport::kMountNs, 0, 0}, static_cast<int>(self));
    if (self >= 0) sys::close(static_cast<int>(self));
  }
  uint32_t failed = 0;
  long error = runSteps(plan, context, &failed);
  StepReport report{StepReport::kFailed, failed, static_cast<int32_t>(error ? -error : 22)};
  sys::write(context.sync, &report, sizeof report);
  sys::exit(127);
}

// Clones the child into its cgroup and namespaces; fills pid, pidfd and sync.
long launch(Process& process, const wire::Plan* plan, StepContext& context) {
  int pair[2];
  long r = sys::nr<__NR_socketpair>(1, 5 /* SOCK_SEQPACKET */ | O_CLOEXEC | O_NONBLOCK, 0, pair);
  if (r < 0) return r;
  long cgroup = -1;
  if (plan->cgroupFd) cgroup = sys::open(text(plan, plan->cgroupFd), O_DIRECTORY | O_RDONLY | O_CLOEXEC);
  r = plan->cgroupFd && cgroup < 0 ? cgroup : enterPidNs(plan, context.targetPidfd);
  if (r == 0) {
    context.sync = pair[1];
    r = cloneProcess(plan->cloneFlags, static_cast<int>(cgroup), &process.pidfd);
    if (r == 0) {
      sys::nr<__NR_fcntl>(pair[1], F_SETFL, 0);
      runChild(plan, context);
    }
    if (plan->pidMode != wire::PidMode::kShim) sys::nr<__NR_setns>(state.ownPidNs, CLONE_NEWPID);
  }
  if (cgroup >= 0) sys::close(static_cast<int>(cgroup));
  sys::close(pair[1]);
  if (r < 0) {
    sys::close(pair[0]);
    return r;
  }
  process.pid = static_cast<int>(r);
  process.sync = pair[0];
  return 0;
}

long begin(Process& process, const wire::Plan* plan, const wire::Message& request, const int* fds, int count) {
  StepContext context;
  context.userNs = state.userNs;
  int taken = 1;
  long r = 0;
  if (process.container) {
    r = prepareStdio(process, plan, context.stdio);
    if (r == 0) r = openLog(process, plan);
  } else {
    Process* target = find(text(plan, plan->target));
    if (!target || !target->container || target->state != Process::kRunning) return -3;  // ESRCH
    context.targetPidfd = target->pidfd;
    context.targetPid = target->pid;
    for (int i = 0; i < 3; ++i) {
      if (request.streams[0] & (1u << i) && taken < count) context.stdio[i] = fds[taken++];
    }
  }
  if (r == 0) r = launch(process, plan, context);
  if (process.container) {
    for (int fd : context.stdio) {
      if (fd >= 0) sys::close(fd);
    }
  }
  return r;
}

void sendStarted(Process& process) {
  int fds[kMaxFds];
  int count = 0;
  wire::Message message = describe(process, wire::Type::kReply);
  message.sequence = process.request.sequence;
  if (!process.container && process.master >= 0) fds[count++] = process.master;
  for (uint32_t i = 0; process.container && i < process.request.streamCount; ++i) {
    int input = process.master >= 0 ? process.master : process.input;
    if (process.request.streams[i] & wire::kIn && input >= 0) fds[count++] = input;
  }
  send(process.connection, message, fds, count);
  // Whoever runs something inside owns its terminal: when it goes, the process gets its hang-up.
  if (!process.container) closeFd(process.master);
}

void failed(Process& process) {
  wire::Message message = process.request;
  message.type = wire::Type::kReply;
  message.step = process.failedStep;
  message.error = static_cast<int32_t>(process.error);
  send(process.connection, message);
  release(process);
}

void recordExit(const Process& process) {
  char path[1024], line[160];
  Text name(path, sizeof path);
  name << text(state.plan, state.plan->stateDir) << "/" << process.id << ".exit";
  Text content(line, sizeof line);
  content.number(process.status) << " ";
  content.number(process.startedNanos) << " ";
  content.number(process.exitedNanos) << " ";
  content.number(process.oom) << "\n";
  long fd = sys::open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (fd < 0) return;
  sys::write(static_cast<int>(fd), line, content.size);
  sys::close(static_cast<int>(fd));
}

void ended(Process& process, int status) {
  process.status = status;
  process.exitedNanos = sys::wallNanos();
  // Its last words to the start-up come before its end.
  if (process.state == Process::kStarting) {
    syncReadable(process);
    if (process.state != Process::kRunning) return;
  }
  process.state = Process::kExited;
  if (process.container) {
    if (process.flags & wire::kKillGroup) killGroup(*process.container);
    process.oom = oomKillsOf(process.container->oomFile) > process.container->oomKills;
    closeFd(process.input);
    for (int which = 0; which < 2; ++which) pump(process, which, true);
    recordExit(process);
  }
  broadcast(describe(process, wire::Type::kExited));
  if (!process.container) release(process);
}

}  // namespace

Process* find(const char* id) {
  for (auto& process : processes) {
    if (process.state != Process::kFree && same(process.id, id)) return &process;
  }
  return nullptr;
}

void startProcess(int connection, const wire::Message& request, const int* fds, int count) {
  bool exec = request.type == wire::Type::kExec;
  const wire::Plan* plan = count > 0 ? mapPlan(fds[0]) : nullptr;
  Process* process = nullptr;
  long r = !plan ? -22 : plan->protocol > wire::kProtocol ? -71 /* EPROTO */ : 0;
  if (r == 0 && state.shuttingDown) r = -108;  // ESHUTDOWN
  if (r == 0) {
    Process* old = find(request.id);
    if (old && old->state == Process::kExited)
      release(*old);
    else if (old)
      r = -17;  // EEXIST
  }
  if (r == 0) {
    process = claim(request.id, exec);
    if (!process) r = -12;  // ENOMEM
  }
  if (r == 0) {
    process->state = Process::kStarting;
    process->connection = connection;
    process->request = request;
    process->flags = plan->flags;
    r = begin(*process, plan, request, fds, count);
  }
  // An exec's descriptors are the child's now; a container's clients are taken below.
  int used = 1;
  if (r == 0 && !exec) {
    for (uint32_t i = 0; i < request.streamCount && i < wire::kMaxAttach; ++i) {
      // A terminal's clients wait for its master: registered as if the output stood.
      if (plan->flags & wire::kTerminal) process->output[0] = 1 << 30;
      addClient(*process, request.streams[i], fds, &used);
      if (plan->flags & wire::kTerminal) process->output[0] = -1;
    }
  }
  for (int i = used; i < count; ++i) sys::close(fds[i]);
  if (count > 0) sys::close(fds[0]);
  if (plan) unmapPlan(plan);
  if (r < 0) {
    if (process) release(*process);
    reply(connection, request, r);
    return;
  }
  uint32_t index = static_cast<uint32_t>(process - processes);
  watch(process->sync, EPOLLIN, kSync, index);
  for (uint32_t which = 0; which < 2; ++which) {
    if (process->output[which] >= 0) watch(process->output[which], EPOLLIN, kOutput, index, which);
  }
}

void syncReadable(Process& process) {
  for (;;) {
    StepReport report{};
    int fds[kMaxFds];
    int count = 0;
    long n = receiveFds(process.sync, &report, sizeof report, fds, &count);
    if (n == -11) return;
    if (n == sizeof report) {
      if (report.kind == StepReport::kReadyToExec) process.ready = true;
      if (report.kind == StepReport::kFailed) {
        process.error = report.error;
        process.failedStep = report.step;
      }
      if (report.kind == StepReport::kWarned) {
        wire::Message message = process.request;
        message.type = wire::Type::kWarning;
        message.a = report.error;
        message.b = report.step;
        send(process.connection, message);
      }
      if (report.kind == StepReport::kMountNs && count == 1) process.mountNs = fds[0];
      if (report.kind == StepReport::kTerminal && count == 1) {
        process.master = fds[0];
        sys::nr<__NR_fcntl>(process.master, F_SETFL, O_NONBLOCK);
        if (process.container) {
          process.output[0] = process.master;
          watch(process.master, EPOLLIN, kOutput, static_cast<uint32_t>(&process - processes), 0);
        }
      }
      continue;
    }
    // End of file: the program runs, or the child is gone.
    unwatch(process.sync);
    closeFd(process.sync);
    if (!process.ready && !process.error) {
      process.error = 4;  // EINTR: killed on the way
      process.failedStep = ~0u;
    }
    if (process.error) {
      // Gone before the answer is given: whoever asked may remove its cgroup at once.
      sys::nr<__NR_pidfd_send_signal>(process.pidfd, 9, 0, 0);
      sys::nr<__NR_wait4>(process.pid, 0, 0x40000000 /* __WALL */, 0);
      failed(process);
      return;
    }
    process.state = Process::kRunning;
    process.startedNanos = sys::wallNanos();
    sendStarted(process);
    return;
  }
}

void reap() {
  for (;;) {
    int status = 0;
    long pid = sys::nr<__NR_wait4>(-1, &status, 1 /* WNOHANG */ | 0x40000000 /* __WALL */, 0);
    if (pid <= 0) break;
    if (pid == state.sandboxInitPid) state.sandboxInitPid = 0;
    for (auto& process : processes) {
      bool lives = process.state == Process::kStarting || process.state == Process::kRunning;
      if (lives && process.pid == pid) ended(process, status);
    }
  }
  finishShutdown();
}

void killGroup(const Container& container) {
  if (!container.killFile[0]) return;
  long fd = sys::open(container.killFile, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return;
  sys::write(static_cast<int>(fd), "1", 1);
  sys::close(static_cast<int>(fd));
}

void release(Process& process) {
  for (int which = 0; which < 2; ++which) closeOutput(process, which);
  for (uint32_t i = 0; i < wire::kMaxAttach; ++i) {
    closeClient(process, static_cast<int>(i), 0);
    closeClient(process, static_cast<int>(i), 1);
  }
  if (process.sync >= 0) unwatch(process.sync);
  closeFd(process.sync);
  closeFd(process.input);
  closeFd(process.master);
  closeFd(process.pidfd);
  closeFd(process.mountNs);
  if (process.container) {
    process.container->log.close();
    process.container->used = false;
  }
  process.container = nullptr;
  process.state = Process::kFree;
}

bool mountNsHeld() {
  for (auto& process : processes) {
    if (process.state == Process::kExited && process.mountNs >= 0) return true;
  }
  return false;
}

void dropMountNs() {
  for (auto& process : processes) {
    if (process.state == Process::kExited) closeFd(process.mountNs);
  }
}

void finishShutdown() {
  if (!state.shuttingDown) return;
  for (auto& process : processes) {
    if (process.state == Process::kStarting || process.state == Process::kRunning) return;
  }
  if (state.sandboxInitPid) return;
  reply(state.shutdownConnection, state.shutdownRequest, 0);
  sys::exit(0);
}

}  // namespace shim
