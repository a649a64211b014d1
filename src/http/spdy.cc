#include "http/spdy.h"

#include <cstring>
#include <deque>
#include <map>

#include "base/gate.h"
#include "body.h"
#include "input.h"
#include "spdy_frame.h"

namespace dhow::http {

using namespace internal;

namespace {

constexpr size_t kMaxStreams = 256;
constexpr int64_t kDefaultWindow = 64 << 10;
constexpr size_t kPiece = 16 << 10;        // a data frame of ours
constexpr size_t kOutLimit = 64 << 10;     // what waits to be written
constexpr size_t kUnreadLimit = 4 << 20;   // of all streams; beyond it the connection is not read
constexpr size_t kUpdateAfter = 32 << 10;  // bytes read before the peer's window is widened

struct One {
  explicit One(Loop& loop) : changed(loop) {}
  uint32_t id = 0;
  Headers headers;
  std::string in;
  size_t inPos = 0;
  size_t sinceUpdate = 0;
  int64_t sendWindow = 0;
  bool remoteEnd = false;
  bool localEnd = false;
  bool reset = false;
  bool closed = false;  // by our side
  Signal changed;
  size_t unread() const { return in.size() - inPos; }
};
using OnePtr = std::shared_ptr<One>;

struct State;
Task<> endSession(std::shared_ptr<State> state);

struct State final : SpdyEvents, std::enable_shared_from_this<State> {
  State(Loop& loop, std::unique_ptr<Stream> connection)
      : loop(loop),
        input(std::make_shared<Input>(loop, std::move(connection))),
        decoder(*this),
        arrived(loop),
        drained(loop),
        written(loop) {}

  Loop& loop;
  std::shared_ptr<Input> input;
  SpdyDecoder decoder;
  SpdyEncoder encoder;
  std::map<uint32_t, OnePtr> streams;
  std::deque<OnePtr> waiting;  // opened, not yet accepted
  Signal arrived;
  Signal drained;  // something was read, or the session ended
  Signal written;
  uint32_t lastId = 0;
  size_t unread = 0;
  std::string out, sending;
  bool writing = false;
  bool ended = false;
  // Kubernetes' own implementation knows no windows: it never sends WINDOW_UPDATE. Only a peer that has shown that it
  // does is held to be waiting for ours.
  bool peerHasWindows = false;
  int64_t initialWindow = kDefaultWindow;

  OnePtr find(uint32_t id) {
    auto found = streams.find(id);
    return found == streams.end() ? nullptr : found->second;
  }
  void send(std::string frame) {
    if (ended) return;
    out += frame;
    if (writing) return;
    writing = true;
    loop.post([self = shared_from_this()] { spawn(self->loop, writeLoop(self)); });
  }
  static Task<> writeLoop(std::shared_ptr<State> self) {
    while (!self->out.empty() && !self->ended) {
      std::swap(self->out, self->sending);
      auto done = co_await self->input->stream().write(self->sending);
      self->sending.clear();
      self->written.notify();
      if (!done.ok()) break;
    }
    if (self->sending.capacity() > 4096) self->sending = std::string();
    self->writing = false;
    self->written.notify();
    if (!self->out.empty()) self->end();
  }
  static Task<> readLoop(std::shared_ptr<State> self) {
    while (!self->ended) {
      auto taken = self->decoder.feed(self->input->data());
      if (!taken.ok()) {
        co_await endSession(self);
        break;
      }
      self->input->consume(*taken);
      if (self->unread > kUnreadLimit) {
        co_await self->drained.wait();
        continue;
      }
      auto more = co_await self->input->fill();
      if (!more.ok() || !*more) break;
    }
    self->end();
  }
  void end() {
    if (ended) return;
    ended = true;
    input->close();
    for (auto& [id, stream] : std::exchange(streams, {})) stream->changed.notify();
    waiting.clear();
    arrived.notify();
    drained.notify();
    written.notify();
  }
  void forget(One& stream) {
    unread -= stream.unread();
    stream.in = std::string();
    stream.inPos = 0;
    streams.erase(stream.id);
    drained.notify();
  }

  void onSynStream(uint32_t id, uint8_t flags, Headers headers) override {
    if (id % 2 == 0 || id <= lastId) return send(spdyRst(id, kSpdyProtocolError));
    lastId = id;
    if (streams.size() >= kMaxStreams) return send(spdyRst(id, kSpdyRefusedStream));
    auto stream = std::make_shared<One>(loop);
    stream->id = id;
    stream->headers = std::move(headers);
    stream->sendWindow = initialWindow;
    stream->remoteEnd = flags & kSpdyFin;
    streams[id] = stream;
    waiting.push_back(stream);
    send(encoder.synReply(id, 0, {}));
    arrived.notify();
  }
  void onReply(uint32_t, uint8_t, Headers) override {}
  void onData(uint32_t id, std::string_view bytes, bool fin) override {
    auto stream = find(id);
    if (!stream || stream->remoteEnd) return;  // its owner has closed it
    if (stream->inPos > 0 && stream->inPos >= stream->unread()) {
      stream->in.erase(0, stream->inPos);
      stream->inPos = 0;
    }
    stream->in += bytes;
    unread += bytes.size();
    stream->remoteEnd = fin;
    stream->changed.notify();
  }
  void onRst(uint32_t id, uint32_t) override {
    auto stream = find(id);
    if (!stream) return;
    stream->reset = true;
    forget(*stream);
    stream->changed.notify();
  }
  void onPing(uint32_t id) override {
    if (id % 2 == 1 && out.size() < kOutLimit) send(spdyPing(id));
  }
  void onGoAway() override {}  // the streams that exist go on until the peer closes
  void onWindowUpdate(uint32_t id, uint32_t delta) override {
    peerHasWindows = true;
    auto stream = find(id);
    if (!stream) return;
    stream->sendWindow = std::min<int64_t>(stream->sendWindow + delta, 0x7fffffff);
    stream->changed.notify();
  }
  void onInitialWindow(uint32_t size) override {
    peerHasWindows = true;
    int64_t change = static_cast<int64_t>(size & 0x7fffffff) - initialWindow;
    initialWindow += change;
    for (auto& [id, stream] : streams) {
      stream->sendWindow += change;
      stream->changed.notify();
    }
  }
};
using StatePtr = std::shared_ptr<State>;

Task<Result<size_t>> readStream(StatePtr state, OnePtr stream, std::span<char> into) {
  while (stream->unread() == 0) {
    if (stream->closed) co_return cancelled();
    if (stream->reset) co_return Error(Code::kUnavailable, "the peer reset the stream");
    if (stream->remoteEnd) co_return size_t{0};
    if (state->ended) co_return Error(Code::kUnavailable, "the connection ended");
    co_await stream->changed.wait();
  }
  size_t n = std::min(into.size(), stream->unread());
  std::memcpy(into.data(), stream->in.data() + stream->inPos, n);
  stream->inPos += n;
  if (stream->unread() == 0) {
    if (stream->in.capacity() > 4096) stream->in = std::string();
    stream->in.clear();
    stream->inPos = 0;
  }
  state->unread -= std::min(state->unread, n);
  state->drained.notify();
  stream->sinceUpdate += n;
  if (stream->sinceUpdate >= kUpdateAfter && !stream->remoteEnd) {
    state->send(spdyWindowUpdate(stream->id, static_cast<uint32_t>(std::exchange(stream->sinceUpdate, 0))));
  }
  co_return n;
}

Task<Result<>> writeStream(StatePtr state, OnePtr stream, std::string_view bytes) {
  while (!bytes.empty()) {
    if (stream->closed) co_return cancelled();
    if (stream->reset) co_return Error(Code::kUnavailable, "the peer reset the stream");
    if (state->ended) co_return Error(Code::kUnavailable, "the connection ended");
    if (stream->localEnd) co_return Error(Code::kInternal, "write after the end");
    if (state->out.size() >= kOutLimit) {
      co_await state->written.wait();
      continue;
    }
    if (state->peerHasWindows && stream->sendWindow <= 0) {
      co_await stream->changed.wait();
      continue;
    }
    size_t n = std::min(bytes.size(), kPiece);
    if (state->peerHasWindows) n = std::min(n, static_cast<size_t>(stream->sendWindow));
    stream->sendWindow -= static_cast<int64_t>(n);
    state->send(spdyData(stream->id, bytes.substr(0, n), false));
    bytes.remove_prefix(n);
  }
  co_return Result<>();
}

void endStream(const StatePtr& state, const OnePtr& stream) {
  if (stream->localEnd || stream->reset) return;
  stream->localEnd = true;
  state->send(spdyData(stream->id, {}, true));
}

class SpdyStreamImpl final : public SpdyStream {
 public:
  SpdyStreamImpl(StatePtr state, OnePtr stream) : state_(std::move(state)), stream_(std::move(stream)) {}
  ~SpdyStreamImpl() override { close(); }
  const Headers& headers() const override { return stream_->headers; }
  Task<Result<size_t>> read(std::span<char> into) override { return readStream(state_, stream_, into); }
  Task<Result<>> write(std::string_view bytes) override { return writeStream(state_, stream_, bytes); }
  Task<> shutdownWrite() override {
    endStream(state_, stream_);
    co_return;
  }
  // The peer reads the end. It is not sent a reset: Go's client would lose what it has not read yet.
  void close() override {
    if (stream_->closed) return;
    stream_->closed = true;
    endStream(state_, stream_);
    if (!state_->ended && state_->streams.contains(stream_->id)) state_->forget(*stream_);
    stream_->changed.notify();
  }

 private:
  StatePtr state_;
  OnePtr stream_;
};

Task<Result<std::unique_ptr<SpdyStream>>> acceptStream(StatePtr state) {
  while (state->waiting.empty()) {
    if (state->ended) co_return cancelled();
    co_await state->arrived.wait();
  }
  auto stream = std::move(state->waiting.front());
  state->waiting.pop_front();
  co_return std::make_unique<SpdyStreamImpl>(state, std::move(stream));
}

// Says goodbye, gives what is still to be written a second, and ends.
Task<> endSession(StatePtr state) {
  state->send(spdyGoAway(state->lastId));
  Timer limit = state->loop.after(std::chrono::seconds(1), [state] { state->end(); });
  while (state->writing && !state->ended) co_await state->written.wait();
  state->end();
}

class SpdySessionImpl final : public SpdySession {
 public:
  explicit SpdySessionImpl(StatePtr state) : state_(std::move(state)) {}
  ~SpdySessionImpl() override { close(); }
  Task<Result<std::unique_ptr<SpdyStream>>> accept() override { return acceptStream(state_); }
  void close() override {
    if (std::exchange(closed_, true) || state_->ended) return;
    spawn(state_->loop, endSession(state_));
  }

 private:
  StatePtr state_;
  bool closed_ = false;
};

// Binary messages as a stream of bytes. A WebSocket has no half close, so shutdownWrite() only flushes.
struct Tunnel {
  std::unique_ptr<WebSocket> socket;
  std::string held;
  size_t heldPos = 0;
  bool ended = false;
};

Task<Result<size_t>> readTunnel(std::shared_ptr<Tunnel> tunnel, std::span<char> into) {
  while (tunnel->heldPos == tunnel->held.size()) {
    if (tunnel->ended) co_return size_t{0};
    auto message = co_await tunnel->socket->read();
    if (!message.ok()) {
      if (!message.error().is(Code::kCancelled)) co_return std::move(message).error();
      tunnel->ended = true;
      co_return size_t{0};
    }
    tunnel->held = std::move(message->bytes);
    tunnel->heldPos = 0;
  }
  size_t n = std::min(into.size(), tunnel->held.size() - tunnel->heldPos);
  std::memcpy(into.data(), tunnel->held.data() + tunnel->heldPos, n);
  tunnel->heldPos += n;
  if (tunnel->heldPos == tunnel->held.size()) {
    tunnel->held = std::string();
    tunnel->heldPos = 0;
  }
  co_return n;
}

Task<Result<>> writeTunnel(std::shared_ptr<Tunnel> tunnel, std::string_view bytes) {
  while (!bytes.empty()) {
    std::string_view piece = bytes.substr(0, 32 << 10);
    bytes.remove_prefix(piece.size());
    auto written = co_await tunnel->socket->write(piece, true);
    if (!written.ok()) co_return written;
  }
  co_return Result<>();
}

class TunnelStream final : public Stream {
 public:
  explicit TunnelStream(std::shared_ptr<Tunnel> tunnel) : tunnel_(std::move(tunnel)) {}
  ~TunnelStream() override { close(); }
  Task<Result<size_t>> read(std::span<char> into) override { return readTunnel(tunnel_, into); }
  Task<Result<>> write(std::string_view bytes) override { return writeTunnel(tunnel_, bytes); }
  Task<> shutdownWrite() override { co_return; }
  void close() override { tunnel_->socket->abort(); }

 private:
  std::shared_ptr<Tunnel> tunnel_;
};

}  // namespace

std::unique_ptr<SpdySession> serveSpdy(Loop& loop, std::unique_ptr<Stream> connection) {
  auto state = std::make_shared<State>(loop, std::move(connection));
  spawn(loop, State::readLoop(state));
  return std::make_unique<SpdySessionImpl>(std::move(state));
}

std::unique_ptr<Stream> streamOver(Loop&, std::unique_ptr<WebSocket> socket) {
  auto tunnel = std::make_shared<Tunnel>();
  tunnel->socket = std::move(socket);
  return std::make_unique<TunnelStream>(std::move(tunnel));
}

}  // namespace dhow::http
