// Processes: forking, waiting, and descriptors sent along a socket.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "steps.h"

struct IoVec {
  const void* data;
  size_t size;
};
struct MessageHeader {  // struct msghdr of the kernel
  void* name;
  int nameSize;
  IoVec* vectors;
  size_t vectorCount;
  void* control;
  size_t controlSize;
  unsigned flags;
};
constexpr int kMaxFds = 32;

// SEQPACKET with descriptors. receive() fills up to kMaxFds into `fds` (close-on-exec), sets `*count`.
long sendFds(int socket, const void* data, size_t size, const int* fds, int count);
long receiveFds(int socket, void* data, size_t size, int* fds, int* count);
inline long sendFd(int socket, const StepReport& report, int fd) {
  return sendFds(socket, &report, sizeof report, &fd, 1);
}

long forkHere();  // fork(2)
// clone3 with a pidfd; `cgroup` < 0: none. 0 in the child.
long cloneProcess(uint64_t flags, int cgroup, int* pidfd);
long signalFd();  // a descriptor for every signal; all become blocked
