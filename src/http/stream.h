// A duplex stream of bytes: TCP, unix socket, TLS, one HTTP/2 stream, a hijacked connection. Protocol code is written
// against this alone. One read and one write may be under way at the same time; close() ends both with kCancelled.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string_view>

#include "base/loop.h"
#include "base/result.h"
#include "base/task.h"

namespace dhow::http {

class Stream {
 public:
  virtual ~Stream() = default;
  // At least one byte, 0 at the end of the stream.
  virtual Task<Result<size_t>> read(std::span<char> into) = 0;
  // All of it. The bytes must live until the task ends.
  virtual Task<Result<>> write(std::string_view bytes) = 0;
  // No more will be written; the other side reads the end. Reading goes on.
  virtual Task<> shutdownWrite() = 0;
  virtual void close() = 0;
};

// `abort`, which lives as long as the task, is set to what ends it early with kCancelled.
Task<Result<std::unique_ptr<Stream>>> connectTcp(Loop& loop, std::string host, uint16_t port, Duration timeout,
                                                 std::function<void()>* abort = nullptr);
Task<Result<std::unique_ptr<Stream>>> connectUnix(Loop& loop, std::string path);
// Adopts a connected socket, pipe or terminal; it becomes non-blocking and is closed with the stream.
std::unique_ptr<Stream> adoptFd(Loop& loop, int fd);

// Copies both ways until both ends have ended, then closes both.
Task<> pipeBoth(Loop& loop, std::unique_ptr<Stream> a, std::unique_ptr<Stream> b);

}  // namespace dhow::http
