// SPDY/3.1 as Kubernetes clients use it: over an upgraded connection for exec, attach and port-forward, and inside a
// WebSocket ("SPDY/3.1+portforward.k8s.io"). Server side: the client opens streams, each with headers.
#pragma once

#include <memory>

#include "base/result.h"
#include "http/message.h"
#include "http/stream.h"
#include "http/websocket.h"

namespace dhow::http {

class SpdyStream : public Stream {
 public:
  virtual const Headers& headers() const = 0;
};

class SpdySession {
 public:
  virtual ~SpdySession() = default;
  // The next stream that the client opens; kCancelled when the session has ended.
  virtual Task<Result<std::unique_ptr<SpdyStream>>> accept() = 0;
  virtual void close() = 0;
};

std::unique_ptr<SpdySession> serveSpdy(Loop& loop, std::unique_ptr<Stream> connection);
// SPDY frames in binary WebSocket messages.
std::unique_ptr<Stream> streamOver(Loop& loop, std::unique_ptr<WebSocket> socket);

}  // namespace dhow::http
