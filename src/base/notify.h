// Readiness as systemd services tell it (sd_notify(3)): a datagram to the socket named by NOTIFY_SOCKET.
#pragma once

#include <memory>
#include <string>

#include "base/fd.h"
#include "base/loop.h"
#include "base/result.h"

namespace dhow {

// Says that this process is ready. Does nothing when nobody asked.
void notifyReady();

// The other side: a socket that a starting process reports to.
class ReadySocket {
 public:
  static Result<ReadySocket> create(const std::string& path);
  ~ReadySocket();
  ReadySocket(ReadySocket&&) = default;
  ReadySocket() = default;
  const std::string& path() const { return path_; }
  // Returns when READY=1 arrives; kDeadlineExceeded after `limit`.
  Task<Result<>> wait(Loop& loop, Duration limit);

 private:
  std::string path_;
  UniqueFd fd_;
};

}  // namespace dhow
