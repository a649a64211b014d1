#include <fmt/chrono.h>

#include <array>

#include "base/log.h"
#include "base/strings.h"
#include "body.h"
#include "http1.h"
#include "server_core.h"

namespace dhow::http::internal {

namespace {

// How much of a body that its handler did not want is read over to keep the connection.
constexpr uint64_t kDrainLimit = 256 << 10;
// Bodies up to here go out in one write with their head.
constexpr size_t kCoalesce = 64 << 10;

class Connection final : public Live, public std::enable_shared_from_this<Connection> {
 public:
  Connection(std::shared_ptr<ServerCore> core, std::shared_ptr<Input> input, Peer peer, bool idleLimit)
      : core(std::move(core)),
        input(std::move(input)),
        peer(std::move(peer)),
        limited(idleLimit),
        listed_(this->core, this) {}

  void end() override { input->close(); }
  // Between requests. One timer a connection, armed when it is needed and moved on only when it fires.
  void idle() {
    busy_ = false;
    idleSince_ = core->loop.now();
    if (limited && !timer_) arm(kIdleLimit);
  }
  void busy() { busy_ = true; }

  const std::shared_ptr<ServerCore> core;
  const std::shared_ptr<Input> input;
  const Peer peer;
  const bool limited;
  std::string out;  // what is being written

 private:
  void arm(Duration delay) {
    timer_ = core->loop.after(delay, [weak = weak_from_this()] {
      if (auto self = weak.lock()) self->expire();
    });
  }
  void expire() {
    timer_.cancel();
    if (busy_) return;
    Duration left = idleSince_ + kIdleLimit - core->loop.now();
    if (left > Duration(0)) return arm(left);
    input->close();
  }

  Listed listed_;
  Timer timer_;
  TimePoint idleSince_{};
  bool busy_ = false;
};

// What one request and its response share.
struct Exchange {
  Exchange(std::shared_ptr<Connection> connection, Framing framing)
      : connection(connection), body(connection->input, framing) {}
  std::shared_ptr<Connection> connection;
  Http1Body body;
  bool head = false;
  bool http10 = false;
  bool keepAlive = true;
  bool expectsContinue = false;
  std::string upgrade;
};

Task<Result<size_t>> readBody(std::shared_ptr<Exchange> exchange, std::span<char> into) {
  if (exchange->expectsContinue) {
    exchange->expectsContinue = false;
    auto written = co_await exchange->connection->input->stream().write("HTTP/1.1 100 Continue\r\n\r\n");
    if (!written.ok()) co_return std::move(written).error();
  }
  auto n = co_await exchange->body.read(into);
  co_return n;
}

class RequestBody final : public BodyReader {
 public:
  explicit RequestBody(std::shared_ptr<Exchange> exchange) : exchange_(std::move(exchange)) {}
  Task<Result<size_t>> read(std::span<char> into) override { return readBody(exchange_, into); }

 private:
  std::shared_ptr<Exchange> exchange_;
};

class Writer final : public ResponseWriter {
 public:
  explicit Writer(std::shared_ptr<Exchange> exchange)
      : exchange_(std::move(exchange)), connection_(*exchange_->connection) {}

  Task<Result<>> send(Response response) override {
    if (state_ != State::kNew) co_return alreadyStarted();
    state_ = State::kFinished;
    std::string& out = connection_.out;
    bool mayHaveBody = response.status >= 200 && response.status != 204 && response.status != 304;
    head(response.status, response.headers, mayHaveBody ? Length::kKnown : Length::kNone, response.body.size());
    if (exchange_->head || !mayHaveBody) response.body.clear();
    bool together = response.body.size() <= kCoalesce;
    if (together) out += response.body;
    auto written = co_await flush();
    if (written.ok() && !together) written = co_await connection_.input->stream().write(response.body);
    co_return note(std::move(written));
  }

  Task<Result<>> start(int status, Headers headers) override {
    if (state_ != State::kNew) co_return alreadyStarted();
    state_ = State::kStreaming;
    bool mayHaveBody = status >= 200 && status != 204 && status != 304;
    if (mayHaveBody && headers.has("Content-Length")) {
      left_ = parseUint(headers.get("Content-Length")).value_or(0);
      length_ = Length::kKnown;
    } else {
      length_ = !mayHaveBody ? Length::kNone : exchange_->http10 ? Length::kUntilClose : Length::kChunked;
    }
    head(status, headers, length_, left_);
    auto written = co_await flush();
    co_return note(std::move(written));
  }

  Task<Result<>> write(std::string_view bytes) override {
    if (state_ == State::kFailed) co_return cancelled();
    if (state_ != State::kStreaming) co_return Error(Code::kInternal, "the response has not been started");
    if (exchange_->head || length_ == Length::kNone) co_return Result<>();
    if (length_ == Length::kKnown) {
      if (bytes.size() > left_) co_return Error(Code::kInternal, "more bytes than the Content-Length says");
      left_ -= bytes.size();
    }
    if (length_ != Length::kChunked) {
      auto written = co_await connection_.input->stream().write(bytes);
      co_return note(std::move(written));
    }
    while (!bytes.empty()) {
      std::string_view piece = bytes.substr(0, kCoalesce);
      bytes.remove_prefix(piece.size());
      fmt::format_to(std::back_inserter(connection_.out), "{:x}\r\n", piece.size());
      connection_.out += piece;
      connection_.out += "\r\n";
      auto written = co_await flush();
      if (!written.ok()) co_return note(std::move(written));
    }
    co_return Result<>();
  }

  Task<Result<>> finish() override {
    if (state_ == State::kFinished) co_return Result<>();
    if (state_ == State::kFailed) co_return cancelled();
    if (state_ != State::kStreaming) co_return Error(Code::kInternal, "the response has not been started");
    state_ = State::kFinished;
    if (exchange_->head) co_return Result<>();
    if (length_ == Length::kKnown && left_ > 0) {
      state_ = State::kFailed;
      co_return Error(Code::kInternal, "fewer bytes than the Content-Length says");
    }
    if (length_ != Length::kChunked) co_return Result<>();
    auto written = co_await connection_.input->stream().write("0\r\n\r\n");
    co_return note(std::move(written));
  }

  Task<Result<std::unique_ptr<Stream>>> hijack(int status, Headers headers) override {
    if (state_ != State::kNew) co_return alreadyStarted();
    auto drained = co_await drain();
    if (!drained) co_return Error(Code::kBadRequest, "a request that is taken over must have a short body");
    state_ = State::kHijacked;
    exchange_->expectsContinue = false;
    if (status == 101) {
      if (!headers.has("Connection")) headers.add("Connection", "Upgrade");
      if (!headers.has("Upgrade")) headers.add("Upgrade", exchange_->upgrade);
    }
    connection_.out = fmt::format("HTTP/1.1 {} {}\r\n", status, statusText(status));
    for (const auto& [name, value] : headers.all()) appendField(connection_.out, name, value);
    connection_.out += "\r\n";
    auto written = co_await flush();
    connection_.input->unwatch();
    if (!written.ok()) co_return std::move(written).error();
    co_return rawStream(connection_.input, exchange_->connection);
  }

  bool started() const override { return state_ != State::kNew; }
  bool closed() const override {
    if (state_ == State::kHijacked) return false;
    // Asking begins the watch, so that a later answer is right.
    if (!watched_ && !connection_.input->ended()) {
      watched_ = true;
      connection_.input->watch(&connection_.core->gate, nullptr);
    }
    return connection_.input->ended() || state_ == State::kFailed;
  }
  void onClose(std::function<void()> run) override {
    watched_ = true;
    connection_.input->watch(&connection_.core->gate, std::move(run));
  }

  bool finished() const { return state_ == State::kFinished; }
  bool hijacked() const { return state_ == State::kHijacked; }
  bool failed() const { return state_ == State::kFailed; }

  // Reads over what is left of a short body; false when it is not short.
  Task<bool> drain() {
    if (exchange_->body.done()) co_return true;
    if (exchange_->expectsContinue || exchange_->body.framing().length > kDrainLimit) co_return false;
    std::array<char, 4096> buffer;
    uint64_t total = 0;
    while (!exchange_->body.done()) {
      auto n = co_await exchange_->body.read(buffer);
      if (!n.ok()) co_return false;
      total += *n;
      if (total > kDrainLimit) co_return false;
    }
    co_return true;
  }

 private:
  enum class State { kNew, kStreaming, kFinished, kHijacked, kFailed };
  enum class Length { kNone, kKnown, kChunked, kUntilClose };

  static Error alreadyStarted() { return Error(Code::kInternal, "the response has already been started"); }

  Result<> note(Result<> result) {
    if (!result.ok()) {
      state_ = State::kFailed;
      exchange_->keepAlive = false;
    }
    return result;
  }

  // Leaves the head in connection_.out.
  void head(int status, const Headers& headers, Length length, uint64_t size) {
    // A body that nobody will read stands between this response and the next request.
    bool unread =
        !exchange_->body.done() && (exchange_->expectsContinue || exchange_->body.framing().length > kDrainLimit);
    if (unread || length == Length::kUntilClose || headers.hasToken("Connection", "close") ||
        connection_.core->stopping) {
      exchange_->keepAlive = false;
    }
    exchange_->expectsContinue = false;
    std::string& out = connection_.out;
    fmt::format_to(std::back_inserter(out), "HTTP/1.1 {} {}\r\n", status, statusText(status));
    bool hasDate = false;
    for (const auto& [name, value] : headers.all()) {
      if (equalsIgnoreCase(name, "content-length") || equalsIgnoreCase(name, "transfer-encoding") ||
          equalsIgnoreCase(name, "connection")) {
        continue;
      }
      hasDate = hasDate || equalsIgnoreCase(name, "date");
      appendField(out, name, value);
    }
    if (!hasDate) appendField(out, "Date", connection_.core->date());
    if (length == Length::kKnown) {
      // HEAD tells the size that GET would have.
      std::string_view stated = exchange_->head && size == 0 ? headers.get("Content-Length") : std::string_view();
      if (stated.empty()) {
        fmt::format_to(std::back_inserter(out), "Content-Length: {}\r\n", size);
      } else {
        appendField(out, "Content-Length", stated);
      }
    } else if (length == Length::kChunked) {
      out += "Transfer-Encoding: chunked\r\n";
    }
    if (!exchange_->keepAlive) {
      out += "Connection: close\r\n";
    } else if (exchange_->http10) {
      out += "Connection: keep-alive\r\n";
    }
    out += "\r\n";
  }

  Task<Result<>> flush() {
    auto written = co_await connection_.input->stream().write(connection_.out);
    if (connection_.out.capacity() > 4096) {
      connection_.out = std::string();
    } else {
      connection_.out.clear();
    }
    co_return written;
  }

  std::shared_ptr<Exchange> exchange_;
  Connection& connection_;
  State state_ = State::kNew;
  Length length_ = Length::kNone;
  uint64_t left_ = 0;
  mutable bool watched_ = false;
};

int statusOf(const Error& error) {
  switch (error.code()) {
    case Code::kTooLarge: return 431;
    case Code::kUnimplemented: return 501;
    default: return 400;
  }
}

// Ends the connection so that the peer can still read the last response: what it sends meanwhile is read over, or the
// kernel would answer with a reset that may overtake the response.
Task<> closeGently(std::shared_ptr<Connection> connection) {
  co_await connection->input->stream().shutdownWrite();
  Timer limit = connection->core->loop.after(std::chrono::seconds(1), [connection] { connection->input->close(); });
  std::array<char, 4096> buffer;
  for (int i = 0; i < 256; ++i) {
    auto n = co_await connection->input->read(buffer);
    if (!n.ok() || *n == 0) break;
  }
  connection->input->close();
}

Task<> refuse(std::shared_ptr<Connection> connection, Error error) {
  if (error.is(Code::kBadRequest) || error.is(Code::kTooLarge) || error.is(Code::kUnimplemented)) {
    int status = statusOf(error);
    std::string text = fmt::format("{} {}: {}\n", status, statusText(status), error.message());
    connection->out = fmt::format(
        "HTTP/1.1 {} {}\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\nContent-Length: "
        "{}\r\n\r\n{}",
        status, statusText(status), text.size(), text);
    auto written = co_await connection->input->stream().write(connection->out);
    if (written.ok()) co_await closeGently(connection);
  }
  connection->input->close();
}

bool asksForH2c(const RequestHead& head, const Framing& framing, const Peer& peer) {
  return !peer.tls && framing.kind == Framing::kNone && head.headers.hasToken("Upgrade", "h2c") &&
         head.headers.hasToken("Connection", "Upgrade") && head.headers.has("HTTP2-Settings");
}

// Serves one request; whether another may follow.
Task<bool> serveOne(std::shared_ptr<Connection> connection, RequestHead head, Framing framing) {
  auto exchange = std::make_shared<Exchange>(connection, framing);
  exchange->head = head.method == "HEAD";
  exchange->http10 = head.http10;
  exchange->keepAlive =
      head.http10 ? head.headers.hasToken("Connection", "keep-alive") : !head.headers.hasToken("Connection", "close");
  exchange->expectsContinue =
      !head.http10 && framing.kind != Framing::kNone && equalsIgnoreCase(head.headers.get("Expect"), "100-continue");
  exchange->upgrade = head.headers.get("Upgrade");

  Request request;
  request.method = std::move(head.method);
  setTarget(request, head.target);
  request.headers = std::move(head.headers);
  request.version = head.http10 ? "1.0" : "1.1";
  request.peer = connection->peer;
  request.body = std::make_unique<RequestBody>(exchange);

  Writer writer(exchange);
  co_await connection->core->handler(request, writer);
  if (writer.hijacked()) co_return false;
  connection->input->unwatch();
  if (!writer.started()) {
    Response response{.status = 500};
    response.body = "the handler gave no answer\n";
    auto sent = co_await writer.send(std::move(response));
    if (!sent.ok()) writer.closed();
  }
  bool whole = writer.finished();
  if (!whole) {
    // Started and not finished: the peer must not take it for whole.
    connection->input->close();
    co_return false;
  }
  bool drained = exchange->keepAlive && co_await writer.drain();
  if (!drained || connection->core->stopping) {
    co_await closeGently(connection);
    co_return false;
  }
  co_return true;
}

}  // namespace

const std::string& ServerCore::date() {
  auto now = std::chrono::floor<std::chrono::seconds>(loop.wallNow());
  if (int64_t second = now.time_since_epoch().count(); second != dateSecond_) {
    dateSecond_ = second;
    date_ = fmt::format("{:%a, %d %b %Y %H:%M:%S} GMT", fmt::gmtime(static_cast<std::time_t>(second)));
  }
  return date_;
}

void setTarget(Request& request, std::string_view target) {
  target = target.substr(0, target.find('#'));
  size_t mark = target.find('?');
  request.path = target.substr(0, mark);
  if (mark != std::string_view::npos) request.query = Query::parse(target.substr(mark + 1));
}

Task<> serveHttp1(std::shared_ptr<ServerCore> core, std::shared_ptr<Input> input, Peer peer, bool idleLimit) {
  auto connection = std::make_shared<Connection>(core, input, std::move(peer), idleLimit);
  while (true) {
    connection->idle();
    auto raw = co_await readHead(*input);
    connection->busy();
    if (!raw.ok()) co_return co_await refuse(connection, raw.error());
    if (!*raw) break;
    auto head = parseRequestHead((*raw)->text);
    input->consume((*raw)->size);
    if (!head.ok()) co_return co_await refuse(connection, head.error());
    auto framing = requestFraming(*head);
    if (!framing.ok()) co_return co_await refuse(connection, framing.error());
    if (asksForH2c(*head, *framing, connection->peer)) {
      auto settings = fromBase64(head->headers.get("HTTP2-Settings"));
      if (!settings) co_return co_await refuse(connection, Error(Code::kBadRequest, "bad HTTP2-Settings"));
      auto upgrade = std::make_unique<H2cUpgrade>();
      upgrade->settings = std::move(*settings);
      upgrade->request.method = head->method;
      setTarget(upgrade->request, head->target);
      upgrade->request.headers = std::move(head->headers);
      Peer who = connection->peer;
      connection.reset();
      co_return co_await serveHttp2(core, input, std::move(who), idleLimit, std::move(upgrade));
    }
    bool more = co_await serveOne(connection, std::move(*head), *framing);
    if (!more) co_return;
  }
  input->close();
}

}  // namespace dhow::http::internal
