// HTTP client: HTTP/1.1 and HTTP/2, TLS, unix sockets, connection reuse, streaming in both directions.
#pragma once

#include <memory>
#include <string>

#include "base/loop.h"
#include "base/result.h"
#include "http/message.h"
#include "http/stream.h"
#include "http/tls.h"

namespace dhow::http {

// A response whose body is still arriving. Destroying it early ends the request.
struct StreamingResponse {
  int status = 0;
  Headers headers;
  std::unique_ptr<BodyReader> body;
};

// How errors name a request, as Go's programs put it: Get "http://host/path".
std::string attemptedRequest(std::string_view method, std::string_view url);

class Client {
 public:
  struct Options {
    std::string unixSocket;          // non-empty: every connection goes there
    std::shared_ptr<TlsClient> tls;  // for https; null: the system's roots
    Duration connectTimeout = std::chrono::seconds(10);
    Duration idleTimeout = std::chrono::seconds(60);
    // HTTP/2: a peer that sends nothing for so long while a request is open is asked for a sign of life, and the
    // connection ends when none comes in time. Zero: never asked.
    Duration pingAfter{0};
    Duration pingTimeout = std::chrono::seconds(5);
    bool http2 = true;  // https only, by ALPN; many requests share one connection
    // Called for each new connection instead of dialing; for reversed connections.
    std::function<Task<Result<std::unique_ptr<Stream>>>()> dial;
    bool priorKnowledgeHttp2 = false;  // with `dial` or in the clear: speak HTTP/2 at once
  };
  Client(Loop& loop, Options options);
  ~Client();

  // `url`: scheme://host[:port]/path?query. request.path and request.query are taken from it.
  Task<Result<StreamingResponse>> send(std::string url, Request request);
  // The whole response, its body at most `limit` bytes.
  Task<Result<Response>> fetch(std::string url, Request request, size_t limit = 64 << 20);
  // Sends an Upgrade request on a connection of its own (or an HTTP/2 stream) and hands over the bytes after a 101 or
  // 200. Another status is an Error whose message is the body. On HTTP/2 (prior knowledge only) the request has no
  // body. The stream outlives the client on HTTP/1.1; on HTTP/2 it ends with it.
  struct Upgraded {
    int status = 0;
    Headers headers;
    std::unique_ptr<Stream> stream;
  };
  Task<Result<Upgraded>> upgrade(std::string url, Request request);
  // Closes idle and busy connections; requests under way end with kCancelled.
  void close();

 private:
  struct Rep;
  std::shared_ptr<Rep> rep_;
};

std::unique_ptr<BodyReader> bodyOf(std::string bytes);

}  // namespace dhow::http
