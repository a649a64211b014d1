// Answers to the daemon.
#include <asm/ioctls.h>
#include <asm/termios.h>
#include <linux/fcntl.h>

#include "shim.h"
#include "sys.h"
#include "wait.h"

namespace shim {

void send(int connection, const wire::Message& message, const int* fds, int count) {
  if (connection < 0 || state.connections[connection] < 0) return;
  long r = sendFds(state.connections[connection], &message, sizeof message, fds, count);
  // A daemon that does not read loses its connection, and asks again for all when it comes back.
  if (r < 0) {
    unwatch(state.connections[connection]);
    sys::close(state.connections[connection]);
    state.connections[connection] = -1;
  }
}

void reply(int connection, const wire::Message& request, long error, const int* fds, int count) {
  wire::Message message = request;
  message.type = wire::Type::kReply;
  message.error = static_cast<int32_t>(error < 0 ? -error : 0);
  message.step = ~0u;
  send(connection, message, fds, count);
}

void broadcast(const wire::Message& message) {
  for (int i = 0; i < kMaxConnections; ++i) send(i, message);
}

wire::Message describe(const Process& process, wire::Type type) {
  wire::Message message;
  memset(&message, 0, sizeof message);
  message.type = type;
  message.pid = process.pid;
  message.startedNanos = process.startedNanos;
  message.exitedNanos = process.state == Process::kExited ? process.exitedNanos : 0;
  message.status = process.status;
  message.oom = process.oom;
  memcpy(message.id, process.id, sizeof message.id);
  return message;
}

namespace {

void attachClient(int connection, const wire::Message& request, Process& process, const int* fds, int count) {
  int wanted = ((request.streams[0] & wire::kOut) ? 1 : 0) + ((request.streams[0] & wire::kErr) ? 1 : 0);
  int used = 0;
  long r = count >= wanted ? addClient(process, request.streams[0], fds, &used) : -22;
  for (int i = used; i < count; ++i) sys::close(fds[i]);
  int input = process.master >= 0 ? process.master : process.input;
  bool withInput = r == 0 && request.streams[0] & wire::kIn && input >= 0;
  reply(connection, request, r, &input, withInput ? 1 : 0);
}

long resize(const Process& process, const wire::Message& request) {
  if (process.master < 0) return -25;  // ENOTTY
  winsize size{static_cast<unsigned short>(request.a), static_cast<unsigned short>(request.b), 0, 0};
  return sys::nr<__NR_ioctl>(process.master, TIOCSWINSZ, &size);
}

void shutdown(int connection, const wire::Message& request) {
  state.shuttingDown = true;
  state.shutdownConnection = connection;
  state.shutdownRequest = request;
  for (auto& process : processes) {
    if (process.state != Process::kStarting && process.state != Process::kRunning) continue;
    if (process.container) killGroup(*process.container);
    sys::nr<__NR_pidfd_send_signal>(process.pidfd, 9, 0, 0);
  }
  if (state.sandboxInit >= 0) sys::nr<__NR_pidfd_send_signal>(state.sandboxInit, 9, 0, 0);
  finishShutdown();
}

long forget(Process& process) {
  if (process.state != Process::kExited) return -16;  // EBUSY
  release(process);
  return 0;
}

}  // namespace

void handle(int connection, const wire::Message& request, const int* fds, int count) {
  if (request.type == wire::Type::kStart || request.type == wire::Type::kExec) {
    startProcess(connection, request, fds, count);
    return;
  }
  Process* process = find(request.id);
  if (request.type == wire::Type::kAttach && process) {
    attachClient(connection, request, *process, fds, count);
    return;
  }
  for (int i = 0; i < count; ++i) sys::close(fds[i]);
  if (request.type == wire::Type::kShutdown) {
    shutdown(connection, request);
    return;
  }
  if (request.type == wire::Type::kHello) {
    if (request.a != wire::kMagic || request.b < wire::kOldestProtocol)
      return reply(connection, request, -71 /* EPROTO */);
    for (auto& each : processes) {
      bool known = each.state == Process::kRunning || each.state == Process::kExited;
      if (known && each.container) send(connection, describe(each, wire::Type::kRecord));
    }
    wire::Message answer = request;
    answer.pid = static_cast<int32_t>(sys::nr<__NR_getpid>());
    answer.status = wire::kProtocol;
    return reply(connection, answer, 0);
  }
  if (!process) return reply(connection, request, -3 /* ESRCH */);
  long r = -22;
  switch (request.type) {
    case wire::Type::kSignal:
      r = process->state == Process::kRunning ? sys::nr<__NR_pidfd_send_signal>(process->pidfd, request.a, 0, 0) : -3;
      break;
    case wire::Type::kCloseStdin:
      if (process->input >= 0) sys::close(process->input);
      process->input = -1;
      r = 0;
      break;
    case wire::Type::kResize: r = resize(*process, request); break;
    case wire::Type::kReopenLog: r = process->container ? process->container->log.reopen() : -22; break;
    case wire::Type::kForget: r = forget(*process); break;
    default: break;
  }
  reply(connection, request, r);
}

}  // namespace shim
