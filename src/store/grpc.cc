#include "grpc.h"

#include <algorithm>

#include "base/strings.h"

namespace dhow::store {

namespace {

constexpr Duration kDialLimit = std::chrono::seconds(2);
// How much later than the limit that it was told an endpoint may answer.
constexpr Duration kGrace = std::chrono::milliseconds(500);
constexpr size_t kMaxMessage = size_t{1} << 30;
constexpr size_t kFrameHead = 5;

std::string frame(std::string_view message) {
  std::string out;
  out.reserve(kFrameHead + message.size());
  auto size = static_cast<uint32_t>(message.size());
  out.push_back(0);
  for (int shift = 24; shift >= 0; shift -= 8) out.push_back(static_cast<char>(size >> shift));
  return out.append(message);
}

// The size that a frame's head announces. A compressed one is nothing that we asked for.
Result<size_t> frameSize(std::string_view head) {
  size_t size = 0;
  for (size_t i = 1; i < kFrameHead; ++i) size = size << 8 | static_cast<uint8_t>(head[i]);
  if (head[0] != 0 || size > kMaxMessage) return Error(Code::kDataLoss, "gRPC: a malformed frame");
  return size;
}

// etcd has one gRPC status for several situations and tells them apart by text alone
// (etcd: api/v3rpc/rpctypes/error.go).
bool saysNoLeader(std::string_view text) {
  return text.find("no leader") != text.npos;
}
bool saysUnhealthy(std::string_view text) {
  return text.find("unhealthy cluster") != text.npos;
}
bool saysLearner(std::string_view text) {
  return text.find("for learner") != text.npos;
}

Answer answerOf(const http::Headers& headers, const http::Headers* trailers) {
  std::string_view status =
      trailers && trailers->has("grpc-status") ? trailers->get("grpc-status") : headers.get("grpc-status");
  if (status == "0") return {};
  std::string_view encoded =
      trailers && trailers->has("grpc-message") ? trailers->get("grpc-message") : headers.get("grpc-message");
  std::string text = percentDecode(encoded).value_or(std::string(encoded));
  if (status.empty())
    return Answer::failed(Failure::kLost, Error(Code::kUnavailable, "gRPC: an answer without a status"));
  int number = static_cast<int>(parseUint(status).value_or(2));
  switch (number) {
    case 3: return Answer::failed(Failure::kRefused, Error(Code::kInvalid, text));
    case 5: return Answer::failed(Failure::kRefused, Error(Code::kNotFound, text));
    case 7: return Answer::failed(Failure::kRefused, Error(Code::kPermissionDenied, text));
    case 8: return Answer::failed(Failure::kRefused, Error(Code::kUnavailable, text));
    case 9: return Answer::failed(Failure::kRefused, Error(Code::kFailedPrecondition, text));
    case 11: return Answer::failed(Failure::kRefused, Error(Code::kExpired, text));
    case 12: return Answer::failed(Failure::kRefused, Error(Code::kUnimplemented, text));
    case 16: return Answer::failed(Failure::kRefused, Error(Code::kUnauthenticated, text));
    case 14:
      if (saysNoLeader(text)) return Answer::failed(Failure::kNoLeader, Error(Code::kUnavailable, text));
      // A change of the members that would endanger the quorum, until those that there are have been well for a while.
      if (saysUnhealthy(text)) return Answer::failed(Failure::kRefused, Error(Code::kFailedPrecondition, text));
      if (saysLearner(text)) return Answer::failed(Failure::kUnreached, Error(Code::kUnavailable, text));
      return Answer::failed(Failure::kLost, Error(Code::kUnavailable, text));
    case 4: return Answer::failed(Failure::kLost, Error(Code::kDeadlineExceeded, text));
    default: return Answer::failed(Failure::kLost, Error(Code::kUnavailable, text));
  }
}

}  // namespace

// A connection and the limits of the calls on it.
struct GrpcChannel::Connection : std::enable_shared_from_this<Connection> {
  explicit Connection(Loop& loop) : loop(loop) {}
  Loop& loop;
  std::unique_ptr<http::Client> client;
  bool dead = false;
  std::multiset<TimePoint> limits;
  Timer timer;

  std::multiset<TimePoint>::iterator begin(TimePoint limit) {
    auto at = limits.insert(limit);
    if (!timer) arm();
    return at;
  }
  void arm() {
    if (limits.empty()) return;
    Duration wait = std::max<Duration>(*limits.begin() - loop.now(), std::chrono::milliseconds(1));
    timer = loop.after(wait, [weak = weak_from_this()] {
      auto self = weak.lock();
      if (!self) return;
      self->timer.cancel();
      if (self->limits.empty()) return;
      if (*self->limits.begin() <= self->loop.now()) return self->end();
      self->arm();
    });
  }
  void end() {
    if (std::exchange(dead, true)) return;
    client->close();
  }
};

Result<GrpcChannel::Endpoint> GrpcChannel::parse(const std::string& url) {
  auto bad = [&](std::string_view why) {
    return Error(Code::kInvalid, fmt::format("etcd endpoint \"{}\": {}", url, why));
  };
  Endpoint out;
  out.url = url;
  std::string_view rest = url;
  if (rest.starts_with("https://")) {
    out.tls = true;
    rest.remove_prefix(8);
  } else if (rest.starts_with("http://")) {
    rest.remove_prefix(7);
  } else {
    return bad("it must begin with https:// or http://");
  }
  if (rest.ends_with('/')) rest.remove_suffix(1);
  auto colon = rest.rfind(':');
  std::string_view host = rest.substr(0, colon);
  if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
  auto port = colon == rest.npos ? std::optional<uint64_t>(2379) : parseUint(rest.substr(colon + 1));
  if (host.empty() || host.find_first_of("/@? ") != host.npos) return bad("it has no host");
  if (!port || *port == 0 || *port > 65535) return bad("it has a bad port");
  out.host = host;
  out.port = static_cast<uint16_t>(*port);
  return out;
}

std::string GrpcChannel::target(const std::string& method) const {
  bool six = endpoint_.host.find(':') != std::string::npos;
  return fmt::format("http://{}{}{}:{}{}", six ? "[" : "", endpoint_.host, six ? "]" : "", endpoint_.port, method);
}

http::Request GrpcChannel::request(std::string_view method, bool requireLeader, std::optional<Duration> limit) const {
  http::Request out;
  out.method = "POST";
  out.path = method;
  out.headers.set("Content-Type", "application/grpc");
  out.headers.set("TE", "trailers");
  out.headers.set("User-Agent", "dhow");
  if (requireLeader) out.headers.set("hasleader", "true");
  if (limit) {
    auto millis = std::chrono::duration_cast<std::chrono::milliseconds>(*limit).count();
    out.headers.set("grpc-timeout", fmt::format("{}m", std::clamp<int64_t>(millis, 1, 99'999'999)));
  }
  return out;
}

Task<Result<std::unique_ptr<http::Stream>>> GrpcChannel::dial(std::shared_ptr<GrpcChannel> self) {
  if (self->beforeDial_) self->beforeDial_();
  auto plain = co_await http::connectTcp(self->loop_, self->endpoint_.host, self->endpoint_.port, kDialLimit);
  if (!plain.ok() || !self->endpoint_.tls) co_return plain;
  auto secured =
      co_await http::connectTls(self->loop_, self->tls_, std::move(*plain), self->endpoint_.host, true, kDialLimit);
  if (!secured.ok()) co_return std::move(secured).error().wrap("connect to " + self->endpoint_.url);
  if (!secured->http2) {
    co_return Error(Code::kUnavailable, fmt::format("{} does not speak HTTP/2", self->endpoint_.url));
  }
  co_return std::move(secured->stream);
}

namespace {
// Hands the dialed stream to the client, once.
Task<Result<std::unique_ptr<http::Stream>>> giveStream(std::shared_ptr<std::unique_ptr<http::Stream>> slot) {
  if (!*slot) co_return Error(Code::kUnavailable, "the connection ended");
  co_return std::move(*slot);
}
}  // namespace

Task<Result<std::shared_ptr<GrpcChannel::Connection>>> GrpcChannel::connection(std::shared_ptr<GrpcChannel> self) {
  if (self->connection_ && !self->connection_->dead) co_return self->connection_;
  if (self->dialing_) {
    // Somebody is at it; their outcome is ours.
    while (self->dialing_) co_await self->dialed_.wait();
    if (self->connection_ && !self->connection_->dead) co_return self->connection_;
    co_return self->refused_ ? *self->refused_ : Error(Code::kUnavailable, "the connection ended");
  }
  self->dialing_ = true;
  auto stream = co_await dial(self);
  self->dialing_ = false;
  if (stream.ok()) {
    auto made = std::make_shared<Connection>(self->loop_);
    auto slot = std::make_shared<std::unique_ptr<http::Stream>>(std::move(*stream));
    http::Client::Options options;
    options.priorKnowledgeHttp2 = true;
    options.dial = [slot] { return giveStream(slot); };
    made->client = std::make_unique<http::Client>(self->loop_, std::move(options));
    self->connection_ = std::move(made);
    self->refused_.reset();
  } else {
    self->connection_.reset();
    self->refused_ = stream.error();
  }
  self->dialed_.notify();
  if (!stream.ok()) co_return std::move(stream).error();
  co_return self->connection_;
}

void GrpcChannel::drop() {
  if (auto old = std::exchange(connection_, nullptr)) old->end();
}

Task<Answer> GrpcChannel::call(std::shared_ptr<GrpcChannel> self, std::string method, std::string request,
                               Duration limit, bool requireLeader) {
  auto found = co_await connection(self);
  if (!found.ok()) co_return Answer::failed(Failure::kUnreached, std::move(found).error());
  auto conn = *found;
  auto http = self->request(method, requireLeader, limit);
  http.body = http::bodyOf(frame(request));
  auto mark = conn->begin(self->loop_.now() + limit + kGrace);
  auto response = co_await conn->client->send(self->target(method), std::move(http));
  Result<std::string> body = std::string();
  if (response.ok()) body = co_await http::readAll(*response->body, kMaxMessage + kFrameHead);
  conn->limits.erase(mark);
  if (!response.ok() || !body.ok()) {
    Error why = response.ok() ? std::move(body).error() : std::move(response).error();
    if (conn->dead) why = Error(Code::kDeadlineExceeded, fmt::format("{} did not answer in time", self->url()));
    conn->end();
    co_return Answer::failed(Failure::kLost, Error(Code::kUnavailable, why.message()));
  }
  if (response->status != 200) {
    co_return Answer::failed(
        Failure::kUnreached,
        Error(Code::kUnavailable, fmt::format("{} answered with HTTP {}", self->url(), response->status)));
  }
  Answer answer = answerOf(response->headers, response->body->trailers());
  if (!answer.ok()) co_return answer;
  auto size = body->size() < kFrameHead ? Result<size_t>(Error(Code::kDataLoss, "")) : frameSize(*body);
  if (!size.ok() || *size != body->size() - kFrameHead) {
    co_return Answer::failed(Failure::kLost, Error(Code::kUnavailable, "gRPC: a malformed answer"));
  }
  body->erase(0, kFrameHead);
  answer.message = std::move(*body);
  co_return answer;
}

// The messages that wait to be sent, as a request's body.
class GrpcStream::Outgoing {
 public:
  explicit Outgoing(Loop& loop) : changed(loop) {}
  Signal changed;
  std::string bytes;
  bool ended = false;

  static Task<Result<size_t>> read(std::shared_ptr<Outgoing> self, std::span<char> into) {
    while (self->bytes.empty() && !self->ended) co_await self->changed.wait();
    size_t n = std::min(into.size(), self->bytes.size());
    std::copy_n(self->bytes.data(), n, into.data());
    self->bytes.erase(0, n);
    co_return n;
  }
  class Body final : public http::BodyReader {
   public:
    explicit Body(std::shared_ptr<Outgoing> from) : from_(std::move(from)) {}
    Task<Result<size_t>> read(std::span<char> into) override { return Outgoing::read(from_, into); }

   private:
    std::shared_ptr<Outgoing> from_;
  };
};

Task<Result<std::shared_ptr<GrpcStream>>> GrpcChannel::open(std::shared_ptr<GrpcChannel> self, std::string method,
                                                            std::string first, bool requireLeader) {
  auto found = co_await connection(self);
  if (!found.ok()) co_return std::move(found).error();
  auto conn = *found;
  std::shared_ptr<GrpcStream> stream(new GrpcStream);
  stream->connection_ = conn;
  stream->outgoing_ = std::make_shared<GrpcStream::Outgoing>(self->loop_);
  stream->send(std::move(first));
  auto http = self->request(method, requireLeader, std::nullopt);
  http.body = std::make_unique<GrpcStream::Outgoing::Body>(stream->outgoing_);
  auto mark = conn->begin(self->loop_.now() + kDialLimit);
  auto response = co_await conn->client->send(self->target(method), std::move(http));
  conn->limits.erase(mark);
  if (!response.ok()) {
    stream->close();
    conn->end();
    co_return std::move(response).error();
  }
  stream->headers_ = std::move(response->headers);
  stream->body_ = std::move(response->body);
  if (response->status != 200) {
    co_return Error(Code::kUnavailable, fmt::format("{} answered with HTTP {}", self->url(), response->status));
  }
  co_return stream;
}

GrpcStream::~GrpcStream() {
  close();
}

void GrpcStream::send(std::string message) {
  if (outgoing_->ended) return;
  outgoing_->bytes += frame(message);
  outgoing_->changed.notify();
}

void GrpcStream::finish() {
  outgoing_->ended = true;
  outgoing_->changed.notify();
}

void GrpcStream::close() {
  if (std::exchange(closed_, true)) return;
  outgoing_->ended = true;
  outgoing_->changed.notify();
  body_.reset();
}

Task<Result<std::optional<std::string>>> GrpcStream::receive() {
  while (true) {
    if (closed_) co_return Error(Code::kCancelled, "the stream is closed");
    if (buffer_.size() >= kFrameHead) {
      CO_ASSIGN_OR_RETURN(size_t size, frameSize(buffer_));
      if (buffer_.size() >= kFrameHead + size) {
        std::string message = buffer_.substr(kFrameHead, size);
        buffer_.erase(0, kFrameHead + size);
        co_return std::optional<std::string>(std::move(message));
      }
    }
    std::vector<char> chunk(16 << 10);
    auto n = co_await body_->read(chunk);  // goes on without the reader when close() drops it
    if (closed_) co_return Error(Code::kCancelled, "the stream is closed");
    if (!n.ok()) {
      failure_ = Failure::kLost;
      co_return std::move(n).error();
    }
    if (*n > 0) {
      buffer_.append(chunk.data(), *n);
      continue;
    }
    Answer end = answerOf(headers_, body_->trailers());
    if (end.ok() && buffer_.empty()) co_return std::optional<std::string>();
    failure_ = end.ok() ? Failure::kLost : end.failure;
    co_return end.error ? *end.error
                        : Error(Code::kUnavailable, "gRPC: the stream broke off in the midst of a message");
  }
}

}  // namespace dhow::store
