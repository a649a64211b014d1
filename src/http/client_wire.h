// One request on one connection, for each protocol. Private to this folder.
#pragma once

#include <memory>
#include <string>

#include "http/client.h"
#include "input.h"

namespace dhow::http::internal {

// A request as it goes on the wire. A body that is whole can be sent again.
struct Outgoing {
  std::string method;
  std::string scheme;
  std::string authority;
  std::string target;
  Headers headers;
  std::shared_ptr<const std::string> whole;  // null with `stream`, or without a body
  std::unique_ptr<BodyReader> stream;
  bool replayable() const { return !stream; }
};

// Sends the request on an HTTP/1.1 connection and reads the response's head. `release` is called when the whole
// response has been read and the connection may serve another request; otherwise the connection is closed with the
// body. `touched` tells whether the peer has sent anything.
Task<Result<StreamingResponse>> exchangeHttp1(std::shared_ptr<Input> input, Outgoing& request,
                                              std::function<void()> release, bool& touched);
Task<Result<Client::Upgraded>> upgradeHttp1(std::shared_ptr<Input> input, Outgoing& request);

// The error for a response that refuses an upgrade; its message is the body.
Error refused(int status, std::string body);

// One HTTP/2 connection that many requests share.
class Http2Client {
 public:
  virtual ~Http2Client() = default;
  // `changed` runs when usable() or streams() may have changed; it must not destroy the connection.
  static std::shared_ptr<Http2Client> start(Loop& loop, std::shared_ptr<Input> input, std::function<void()> changed);
  // As Http2Session::keepAlive().
  virtual void keepAlive(Duration after, Duration timeout) = 0;
  virtual bool usable() const = 0;
  virtual size_t streams() const = 0;
  // `untouched`: on failure, whether the server has certainly not worked on the request.
  virtual Task<Result<StreamingResponse>> exchange(Outgoing& request, bool& untouched) = 0;
  virtual Task<Result<Client::Upgraded>> upgrade(Outgoing& request) = 0;
  virtual void close() = 0;
};

}  // namespace dhow::http::internal
