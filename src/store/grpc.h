// gRPC (github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md) to one endpoint over our own HTTP/2 client: unary calls
// and streams share one connection, which is dialed when it is needed. Private to this folder.
#pragma once

#include <memory>
#include <optional>
#include <set>
#include <string>

#include "base/gate.h"
#include "base/result.h"
#include "http/client.h"

namespace dhow::store {

// What the failure of a call says about its effect.
enum class Failure {
  kNone,
  kUnreached,  // this endpoint has certainly not acted; another may
  kNoLeader,   // the cluster has no leader and has not acted
  kLost,       // it may have acted, now or later
  kRefused,    // the cluster's own answer; it has not acted
};

struct Answer {
  std::string message;
  Failure failure = Failure::kNone;
  std::optional<Error> error;  // set with a failure
  bool ok() const { return failure == Failure::kNone; }
  static Answer failed(Failure failure, Error error) {
    Answer out;
    out.failure = failure;
    out.error = std::move(error);
    return out;
  }
};

class GrpcStream;

class GrpcChannel : public std::enable_shared_from_this<GrpcChannel> {
 public:
  struct Endpoint {
    std::string url;  // as given
    std::string host;
    uint16_t port = 0;
    bool tls = false;
  };
  static Result<Endpoint> parse(const std::string& url);

  GrpcChannel(Loop& loop, Endpoint endpoint, std::shared_ptr<http::TlsClient> tls,
              std::function<void()> beforeDial = nullptr)
      : loop_(loop),
        endpoint_(std::move(endpoint)),
        tls_(std::move(tls)),
        beforeDial_(std::move(beforeDial)),
        dialed_(loop) {}
  const std::string& url() const { return endpoint_.url; }

  // `method` as "/etcdserverpb.KV/Range". The endpoint is told the time limit; when it does not keep to it, the
  // connection is given up with all calls on it.
  static Task<Answer> call(std::shared_ptr<GrpcChannel> self, std::string method, std::string request, Duration limit,
                           bool requireLeader = true);
  // A stream with its first message sent. It has no time limit.
  static Task<Result<std::shared_ptr<GrpcStream>>> open(std::shared_ptr<GrpcChannel> self, std::string method,
                                                        std::string first, bool requireLeader = true);
  // Ends the connection; calls under way are lost. The next call dials anew.
  void drop();

 private:
  friend class GrpcStream;
  struct Connection;
  static Task<Result<std::shared_ptr<Connection>>> connection(std::shared_ptr<GrpcChannel> self);
  static Task<Result<std::unique_ptr<http::Stream>>> dial(std::shared_ptr<GrpcChannel> self);
  http::Request request(std::string_view method, bool requireLeader, std::optional<Duration> limit) const;
  std::string target(const std::string& method) const;

  Loop& loop_;
  const Endpoint endpoint_;
  std::shared_ptr<http::TlsClient> tls_;
  std::function<void()> beforeDial_;
  std::shared_ptr<Connection> connection_;
  bool dialing_ = false;
  std::optional<Error> refused_;  // of the last dial
  Signal dialed_;
};

class GrpcStream {
 public:
  ~GrpcStream();
  // Queued behind what was sent before.
  void send(std::string message);
  // The next message; nothing at the stream's good end. The failure tells what ended it.
  Task<Result<std::optional<std::string>>> receive();
  // Why it ended, once receive() has failed.
  Failure failure() const { return failure_; }
  // No more will be sent.
  void finish();
  // Ends both directions; receive() gives kCancelled.
  void close();

 private:
  friend class GrpcChannel;
  class Outgoing;
  GrpcStream() = default;
  std::shared_ptr<GrpcChannel::Connection> connection_;
  std::shared_ptr<Outgoing> outgoing_;
  std::unique_ptr<http::BodyReader> body_;
  http::Headers headers_;
  std::string buffer_;
  Failure failure_ = Failure::kNone;
  bool closed_ = false;
};

}  // namespace dhow::store
