// Output of containers: from their pipes or terminal into the log and to every client.
#include <linux/eventpoll.h>
#include <linux/fcntl.h>

#include "shim.h"
#include "sys.h"

namespace shim {

namespace {

constexpr long kEagain = -11;
// What a pipe that is writable surely takes in one write (pipe(7): one free slot holds a page).
constexpr size_t kClientPortion = 4096;
char buffer[64 << 10];

struct PollFd {
  int fd;
  short events, revents;
};

bool hasClients(const Process& process, int which) {
  for (auto& client : process.clients) {
    if (client.fd[which] >= 0) return true;
  }
  return false;
}

// True when every client can take a portion; else the first that cannot is watched for it.
bool clientsReady(Process& process, int which) {
  for (uint32_t i = 0; i < wire::kMaxAttach; ++i) {
    int fd = process.clients[i].fd[which];
    if (fd < 0) continue;
    PollFd poll{fd, 4 /* POLLOUT */, 0};
    int64_t zero[2] = {0, 0};
    sys::nr<__NR_ppoll>(&poll, 1, zero, 0, 8);
    if (poll.revents & 8 /* POLLERR */) {
      closeClient(process, static_cast<int>(i), which);
      continue;
    }
    if (poll.revents & 4) continue;
    watch(fd, EPOLLOUT, kClient, static_cast<uint32_t>(&process - processes), i * 2 + static_cast<uint32_t>(which),
          true);
    return false;
  }
  return true;
}

void toClients(Process& process, int which, const char* bytes, size_t n) {
  for (uint32_t i = 0; i < wire::kMaxAttach; ++i) {
    int fd = process.clients[i].fd[which];
    if (fd < 0) continue;
    long written = sys::write(fd, bytes, n);
    if (written < 0 && written != kEagain) closeClient(process, static_cast<int>(i), which);
  }
}

}  // namespace

void closeOutput(Process& process, int which) {
  if (process.output[which] >= 0) {
    if (!process.stalled[which]) unwatch(process.output[which]);
    sys::close(process.output[which]);
    if (process.master == process.output[which]) process.master = -1;
    process.output[which] = -1;
  }
  process.stalled[which] = false;
  for (uint32_t i = 0; i < wire::kMaxAttach; ++i) closeClient(process, static_cast<int>(i), which);
}

// Reads what is there: a bounded share, or `all` of it when the process has ended.
void pump(Process& process, int which, bool all) {
  for (int round = 0; (all || round < 16) && process.output[which] >= 0; ++round) {
    bool tee = hasClients(process, which);
    if (tee && !clientsReady(process, which)) {
      if (!process.stalled[which]) unwatch(process.output[which]);
      process.stalled[which] = true;
      return;
    }
    long n = sys::read(process.output[which], buffer, tee ? kClientPortion : sizeof buffer);
    if (n == kEagain) return;
    if (n <= 0) {
      if (process.container) process.container->log.finish(which);
      closeOutput(process, which);
      return;
    }
    if (process.container) process.container->log.take(which, buffer, static_cast<size_t>(n));
    if (tee) toClients(process, which, buffer, static_cast<size_t>(n));
  }
}

void closeClient(Process& process, int client, int which) {
  int& fd = process.clients[client].fd[which];
  if (fd < 0) return;
  unwatch(fd);
  sys::close(fd);
  fd = -1;
}

void clientReady(Process& process, int client, int which, uint32_t events) {
  int fd = process.clients[client].fd[which];
  if (fd < 0) return;
  uint32_t index = static_cast<uint32_t>(&process - processes);
  if (events & (EPOLLERR | EPOLLHUP))
    closeClient(process, client, which);
  else
    watch(fd, 0, kClient, index, static_cast<uint32_t>(client * 2 + which), true);
  if (!process.stalled[which]) return;
  process.stalled[which] = false;
  watch(process.output[which], EPOLLIN, kOutput, index, static_cast<uint32_t>(which));
  pump(process, which, process.state == Process::kExited);
}

// Takes over the descriptors that `bits` name, from `fds`.
long addClient(Process& process, uint32_t bits, const int* fds, int* used) {
  for (uint32_t i = 0; i < wire::kMaxAttach; ++i) {
    auto& client = process.clients[i];
    if (client.fd[0] >= 0 || client.fd[1] >= 0) continue;
    for (int which = 0; which < 2; ++which) {
      if (!(bits & (which ? wire::kErr : wire::kOut))) continue;
      int fd = fds[(*used)++];
      if (process.output[which] < 0) {  // a terminal has no error stream; an ended one gives end of file
        sys::close(fd);
        continue;
      }
      client.fd[which] = fd;
      watch(fd, 0, kClient, static_cast<uint32_t>(&process - processes), i * 2 + static_cast<uint32_t>(which));
    }
    return 0;
  }
  for (uint32_t bit = wire::kOut; bit <= wire::kErr; bit <<= 1) {
    if (bits & bit) sys::close(fds[(*used)++]);
  }
  return -11;  // EAGAIN: too many clients
}

}  // namespace shim
