// One exec or attach between a process and the frames of client/streaming.h.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "base/gate.h"
#include "http/stream.h"
#include "runtime/runtime.h"

namespace dhow::node {

struct SessionHooks {
  std::function<void(uint16_t rows, uint16_t columns)> resize;
  std::function<Task<>()> stdinEnded;                     // after the client has closed its input
  std::function<Task<Result<runtime::ExitInfo>>()> wait;  // how it ended; empty: when its output ends
  std::function<Task<>()> clientGone;                     // the connection broke first
};

// Runs until the process has ended and its output is through, or the client has gone; then tells the Status and closes.
Task<> runSession(Loop& loop, std::unique_ptr<http::Stream> connection, runtime::Streams streams, SessionHooks hooks);
// The Status that clients read an exit code from.
std::string exitStatus(const Result<runtime::ExitInfo>& exit);

}  // namespace dhow::node
