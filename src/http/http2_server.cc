#include "http/server.h"

#include "base/log.h"
#include "base/strings.h"
#include "body.h"
#include "http2_session.h"
#include "server_core.h"

namespace dhow::http::internal {

namespace {

class Connection final : public Live, public std::enable_shared_from_this<Connection> {
 public:
  Connection(std::shared_ptr<ServerCore> core, std::shared_ptr<Http2Session> session, Peer peer, bool idleLimit)
      : core(std::move(core)),
        session(std::move(session)),
        peer(std::move(peer)),
        limited_(idleLimit),
        listed_(this->core, this) {}
  void end() override { session->terminate(); }

  // One timer a connection; it is armed while no stream is open and moved on only when it fires.
  void changed() {
    if (!limited_ || session->ended() || session->streams() > 0) return;
    idleSince_ = core->loop.now();
    if (!timer_) arm(kIdleLimit);
  }

  const std::shared_ptr<ServerCore> core;
  const std::shared_ptr<Http2Session> session;
  const Peer peer;

 private:
  void arm(Duration delay) {
    timer_ = core->loop.after(delay, [weak = weak_from_this()] {
      if (auto self = weak.lock()) self->expire();
    });
  }
  void expire() {
    timer_.cancel();
    if (session->streams() > 0) return;
    Duration left = idleSince_ + kIdleLimit - core->loop.now();
    if (left > Duration(0)) return arm(left);
    session->terminate();
  }

  const bool limited_;
  Listed listed_;
  Timer timer_;
  TimePoint idleSince_{};
};

class RequestBody final : public BodyReader {
 public:
  RequestBody(std::shared_ptr<Http2Session> session, H2StreamPtr stream, bool expectsContinue)
      : session_(std::move(session)), stream_(std::move(stream)), expectsContinue_(expectsContinue) {}
  Task<Result<size_t>> read(std::span<char> into) override {
    if (std::exchange(expectsContinue_, false) && stream_->inSize() == 0 && !stream_->remoteEnd)
      session_->submitContinue(stream_);
    return Http2Session::read(session_, stream_, into);
  }

 private:
  std::shared_ptr<Http2Session> session_;
  H2StreamPtr stream_;
  bool expectsContinue_;
};

class Writer final : public ResponseWriter {
 public:
  Writer(std::shared_ptr<Connection> connection, H2StreamPtr stream, bool head)
      : connection_(std::move(connection)), session_(*connection_->session), stream_(std::move(stream)), head_(head) {}

  Task<Result<>> send(Response response) override {
    if (state_ != State::kNew) co_return alreadyStarted();
    state_ = State::kFinished;
    bool mayHaveBody = response.status >= 200 && response.status != 204 && response.status != 304;
    if (mayHaveBody && !(head_ && response.body.empty() && response.headers.has("Content-Length"))) {
      response.headers.set("content-length", std::to_string(response.body.size()));
    }
    date(response.headers);
    bool body = mayHaveBody && !head_ && !response.body.empty();
    if (body) {
      stream_->out = std::move(response.body);
      stream_->outPos = 0;
      stream_->outEnd = true;
    }
    co_return session_.submitResponse(stream_, response.status, response.headers, body);
  }
  Task<Result<>> start(int status, Headers headers) override {
    if (state_ != State::kNew) co_return alreadyStarted();
    state_ = State::kStreaming;
    date(headers);
    body_ = status >= 200 && status != 204 && status != 304 && !head_;
    co_return session_.submitResponse(stream_, status, headers, body_);
  }
  Task<Result<>> write(std::string_view bytes) override {
    if (state_ != State::kStreaming) co_return Error(Code::kInternal, "the response has not been started");
    if (!body_) co_return Result<>();
    auto written = co_await Http2Session::write(connection_->session, stream_, bytes);
    co_return written;
  }
  Task<Result<>> finish() override {
    if (state_ == State::kFinished) co_return Result<>();
    if (state_ != State::kStreaming) co_return Error(Code::kInternal, "the response has not been started");
    state_ = State::kFinished;
    if (stream_->closed) co_return session_.streamError(*stream_);
    session_.finish(stream_);
    co_return Result<>();
  }
  Task<Result<std::unique_ptr<Stream>>> hijack(int status, Headers headers) override {
    if (state_ != State::kNew) co_return alreadyStarted();
    state_ = State::kHijacked;
    stream_->onClose = nullptr;
    auto stream = duplexStream(connection_->session, stream_);
    auto submitted = session_.submitResponse(stream_, status == 101 ? 200 : status, headers, true);
    if (!submitted.ok()) co_return std::move(submitted).error();
    co_return stream;
  }
  bool started() const override { return state_ != State::kNew; }
  bool closed() const override { return state_ != State::kHijacked && (stream_->closed || session_.ended()); }
  void onClose(std::function<void()> run) override {
    if (stream_->closed || session_.ended()) return connection_->core->loop.post(std::move(run));
    stream_->onClose = std::move(run);
  }

  bool finished() const { return state_ == State::kFinished; }
  bool hijacked() const { return state_ == State::kHijacked; }

 private:
  enum class State { kNew, kStreaming, kFinished, kHijacked };
  static Error alreadyStarted() { return Error(Code::kInternal, "the response has already been started"); }
  void date(Headers& headers) {
    if (!headers.has("date")) headers.add("date", connection_->core->date());
  }

  std::shared_ptr<Connection> connection_;
  Http2Session& session_;
  H2StreamPtr stream_;
  const bool head_;
  bool body_ = false;
  State state_ = State::kNew;
};

Task<> serveStream(std::shared_ptr<Connection> connection, H2StreamPtr stream, Request request) {
  bool expects = equalsIgnoreCase(request.headers.get("Expect"), "100-continue");
  request.version = "2";
  request.peer = connection->peer;
  request.body = std::make_unique<RequestBody>(connection->session, stream, expects);
  Writer writer(connection, stream, request.method == "HEAD");
  co_await connection->core->handler(request, writer);
  stream->onClose = nullptr;
  stream->handlerDone = true;
  if (writer.hijacked()) co_return;
  if (!writer.started()) {
    auto sent = co_await writer.send({.status = 500, .body = "the handler gave no answer\n"});
    if (!sent.ok()) co_return;
  }
  connection->session->discardInput(stream);
  if (writer.finished()) {
    connection->session->endIfUnwanted(*stream);
    connection->session->flush();
  } else {
    connection->session->reset(stream, NGHTTP2_INTERNAL_ERROR);
  }
}

void begin(const std::shared_ptr<Connection>& connection, H2StreamPtr stream) {
  Request request;
  request.method = std::move(stream->method);
  setTarget(request, stream->path);
  stream->announced = parseUint(stream->headers.get("Content-Length"));
  request.headers = std::move(stream->headers);
  if (!stream->authority.empty() && !request.headers.has("Host")) request.headers.add("Host", stream->authority);
  connection->core->gate.spawn(serveStream(connection, std::move(stream), std::move(request)));
}

}  // namespace

Task<> serveHttp2(std::shared_ptr<ServerCore> core, std::shared_ptr<Input> input, Peer peer, bool idleLimit,
                  std::unique_ptr<H2cUpgrade> upgrade) {
  auto session = Http2Session::create(core->loop, input, true);
  auto connection = std::make_shared<Connection>(core, session, std::move(peer), idleLimit);
  session->onRequest = [weak = std::weak_ptr(connection)](H2StreamPtr stream) {
    if (auto connection = weak.lock()) begin(connection, std::move(stream));
  };
  session->onChange = [weak = std::weak_ptr(connection)] {
    if (auto connection = weak.lock()) connection->changed();
  };
  if (upgrade) {
    auto first = session->upgraded(upgrade->settings, upgrade->request.method == "HEAD");
    if (!first.ok()) {
      std::string text = first.error().message();
      std::string answer = fmt::format("HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{}",
                                       text.size(), text);
      auto written = co_await input->stream().write(answer);
      if (written.ok()) co_await input->stream().shutdownWrite();
      input->close();
      co_return;
    }
    auto written = co_await input->stream().write(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n");
    if (!written.ok()) co_return;
    core->gate.spawn(serveStream(connection, *first, std::move(upgrade->request)));
  }
  connection->changed();
  co_await Http2Session::run(session);
}

}  // namespace dhow::http::internal
