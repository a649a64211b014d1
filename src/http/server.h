// HTTP/1.1 and HTTP/2 server over TCP, TLS, unix sockets, or any Stream (an agent's reversed connection).
// HTTP/2 by ALPN on TLS, by prior knowledge or `Upgrade: h2c` in the clear.
// Bounds: 64 KiB of headers, 128 header fields, 250 streams a connection, idle connections are dropped after 3 minutes;
// bodies are bounded by whoever reads them.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "base/loop.h"
#include "base/result.h"
#include "http/message.h"
#include "http/stream.h"
#include "http/tls.h"

namespace dhow::http {

// How a handler answers: send() for a whole response; or start(), write()..., finish(); or hijack(). A handler that
// returns without any of them answers 500.
class ResponseWriter {
 public:
  virtual ~ResponseWriter() = default;
  virtual Task<Result<>> send(Response response) = 0;
  // A response of unknown length.
  virtual Task<Result<>> start(int status, Headers headers) = 0;
  // Flushed at once; waits while the peer does not take it.
  virtual Task<Result<>> write(std::string_view bytes) = 0;
  virtual Task<Result<>> finish() = 0;
  // Answers `status` with `headers` (101 for an upgrade, 200 for Docker's raw streams) and hands over the bytes that
  // follow in both directions. On HTTP/2 the stream itself is handed over, with status 200 for 101. A body with a
  // length (Docker's exec options) may be read before; on HTTP/2 what has not been read is the stream's first bytes.
  // The stream may outlive the handler; stop() ends it.
  virtual Task<Result<std::unique_ptr<Stream>>> hijack(int status, Headers headers) = 0;
  virtual bool started() const = 0;
  // Whether the peer has gone.
  virtual bool closed() const = 0;
  // `run` is called once, on the loop, when the peer goes before the handler has ended. Watches end by this.
  virtual void onClose(std::function<void()> run) = 0;
};

// Serves one request. Both references live until the task ends.
using Handler = std::function<Task<>(Request& request, ResponseWriter& writer)>;

class Server {
 public:
  struct Options {
    std::string name = "dhow";       // for logs
    std::shared_ptr<TlsServer> tls;  // null: in the clear
    size_t maxConnections = 4096;
  };
  Server(Loop& loop, Options options, Handler handler);
  ~Server();

  // Port 0 picks one; gives the port.
  Result<uint16_t> listenTcp(const std::string& address, uint16_t port);
  // Replaces a stale socket file.
  Result<> listenUnix(const std::string& path, int mode = 0660);
  // Serves an established connection (HTTP/2 with prior knowledge or HTTP/1.1) until it ends. It has no idle limit.
  Task<> serve(std::unique_ptr<Stream> connection, Peer peer);
  // No new connections, open ones are closed, waits for the handlers. Must have ended before the server is destroyed.
  Task<> stop();

 private:
  struct Rep;
  std::shared_ptr<Rep> rep_;
};

}  // namespace dhow::http
