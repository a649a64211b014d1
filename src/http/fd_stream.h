// Streams over file descriptors, and what a listening socket needs. Private to this folder.
#pragma once

#include <memory>

#include "base/fd.h"
#include "http/stream.h"

namespace dhow::http::internal {

// A descriptor in non-blocking mode whose readiness tasks wait for. Shared by the tasks that use it, so that a stream
// may be destroyed while one waits.
class AsyncFd {
 public:
  static std::shared_ptr<AsyncFd> open(Loop& loop, UniqueFd fd);
  virtual ~AsyncFd() = default;
  virtual int fd() const = 0;
  virtual bool closed() const = 0;
  // Return when it is ready, or closed.
  virtual Task<> readable() = 0;
  virtual Task<> writable() = 0;
  virtual void close() = 0;
};

// A TCP connection: no delay, and on an idle one a dead peer is noticed by keep-alive probes within a minute.
void tuneTcp(int fd);

}  // namespace dhow::http::internal
