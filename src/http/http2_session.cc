#include "http2_session.h"

#include <cstring>

#include "base/strings.h"
#include "body.h"

namespace dhow::http::internal {

namespace {

constexpr size_t kStreamWindow = 1 << 20;
constexpr int32_t kConnectionWindow = 16 << 20;
constexpr size_t kMaxHeadBytes = 64 << 10;
constexpr size_t kMaxHeadFields = 128 + 4;
constexpr size_t kOutLimit = 64 << 10;   // what a stream holds back for the peer's window
constexpr size_t kWriteSize = 64 << 10;  // what is written at once
constexpr uint32_t kMaxStreams = 250;

class DuplexStream final : public Stream {
 public:
  DuplexStream(std::shared_ptr<Http2Session> session, H2StreamPtr stream)
      : session_(std::move(session)), stream_(std::move(stream)) {}
  ~DuplexStream() override { close(); }
  Task<Result<size_t>> read(std::span<char> into) override { return Http2Session::read(session_, stream_, into); }
  Task<Result<>> write(std::string_view bytes) override { return Http2Session::write(session_, stream_, bytes); }
  Task<> shutdownWrite() override {
    session_->finish(stream_);
    co_return;
  }
  void close() override { session_->closeDuplex(stream_); }

 private:
  std::shared_ptr<Http2Session> session_;
  H2StreamPtr stream_;
};

nghttp2_nv field(std::string_view name, std::string_view value) {
  return {const_cast<uint8_t*>(reinterpret_cast<const uint8_t*>(name.data())),
          const_cast<uint8_t*>(reinterpret_cast<const uint8_t*>(value.data())), name.size(), value.size(),
          NGHTTP2_NV_FLAG_NONE};
}

std::string_view textOf(const uint8_t* bytes, size_t size) {
  return {reinterpret_cast<const char*>(bytes), size};
}

}  // namespace

bool isConnectionField(std::string_view name) {
  return equalsIgnoreCase(name, "connection") || equalsIgnoreCase(name, "keep-alive") ||
         equalsIgnoreCase(name, "upgrade") || equalsIgnoreCase(name, "proxy-connection") ||
         equalsIgnoreCase(name, "transfer-encoding") || equalsIgnoreCase(name, "http2-settings") ||
         equalsIgnoreCase(name, "host") || name.starts_with(':');
}

std::unique_ptr<Stream> duplexStream(std::shared_ptr<Http2Session> session, H2StreamPtr stream) {
  stream->duplex = true;
  return std::make_unique<DuplexStream>(std::move(session), std::move(stream));
}

Http2Session::Http2Session(Loop& loop, std::shared_ptr<Input> input, bool server)
    : loop_(loop), input_(std::move(input)), server_(server), written_(loop) {}

std::shared_ptr<Http2Session> Http2Session::create(Loop& loop, std::shared_ptr<Input> input, bool server) {
  std::shared_ptr<Http2Session> self(new Http2Session(loop, std::move(input), server));
  nghttp2_session_callbacks* callbacks = nullptr;
  nghttp2_session_callbacks_new(&callbacks);
  nghttp2_session_callbacks_set_send_callback(callbacks, onSend);
  nghttp2_session_callbacks_set_send_data_callback(callbacks, onSendData);
  nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, onBeginHeaders);
  nghttp2_session_callbacks_set_on_header_callback(callbacks, onHeader);
  nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, onFrame);
  nghttp2_session_callbacks_set_on_frame_send_callback(callbacks, onFrameSent);
  nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, onData);
  nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, onStreamClose);
  nghttp2_option* option = nullptr;
  nghttp2_option_new(&option);
  nghttp2_option_set_no_auto_window_update(option, 1);
  nghttp2_option_set_no_closed_streams(option, 1);
  int made = server ? nghttp2_session_server_new2(&self->session_, callbacks, self.get(), option)
                    : nghttp2_session_client_new2(&self->session_, callbacks, self.get(), option);
  nghttp2_option_del(option);
  nghttp2_session_callbacks_del(callbacks);
  CHECK(made == 0, "nghttp2: {}", nghttp2_strerror(made));
  std::vector<nghttp2_settings_entry> settings = {
      {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, kStreamWindow},
      {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, kMaxHeadBytes},
  };
  if (server) {
    settings.push_back({NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, kMaxStreams});
  } else {
    settings.push_back({NGHTTP2_SETTINGS_ENABLE_PUSH, 0});
  }
  nghttp2_submit_settings(self->session_, NGHTTP2_FLAG_NONE, settings.data(), settings.size());
  nghttp2_session_set_local_window_size(self->session_, NGHTTP2_FLAG_NONE, 0, kConnectionWindow);
  return self;
}

Http2Session::~Http2Session() {
  nghttp2_session_del(session_);
}

H2StreamPtr Http2Session::find(int32_t id) const {
  auto found = streams_.find(id);
  return found == streams_.end() ? nullptr : found->second;
}

Error Http2Session::streamError(const H2Stream& stream) const {
  if (stream.localClosed || cancelled_) return cancelled();
  if (stream.closed && !ended_ && stream.errorCode != NGHTTP2_NO_ERROR) {
    return Error(Code::kUnavailable,
                 fmt::format("the peer reset the stream: {}", nghttp2_http2_strerror(stream.errorCode)));
  }
  if (silent_) return Error(Code::kUnavailable, "the peer does not answer any more");
  return Error(Code::kUnavailable, ended_ ? "the connection ended" : "the peer has closed the stream");
}

// --- reading the connection

Task<> Http2Session::run(std::shared_ptr<Http2Session> self) {
  self->flush();
  while (!self->ended_) {
    if (std::string_view data = self->input_->data(); !data.empty()) {
      ssize_t n = nghttp2_session_mem_recv(self->session_, reinterpret_cast<const uint8_t*>(data.data()), data.size());
      if (n < 0) {
        nghttp2_session_terminate_session(self->session_, NGHTTP2_PROTOCOL_ERROR);
        self->input_->consume(data.size());
        self->flush();
        break;
      }
      self->input_->consume(static_cast<size_t>(n));
      for (auto& stream : std::exchange(self->ready_, {})) self->onRequest(std::move(stream));
      if (self->ended_) break;
      self->flush();
    }
    if (!nghttp2_session_want_read(self->session_) && !nghttp2_session_want_write(self->session_)) break;
    auto more = co_await self->input_->fill();
    if (!more.ok() || !*more) break;
    self->heard_ = self->loop_.now();
    self->asked_ = false;
  }
  self->keepAlive_.cancel();
  // What explains the end goes out, if the peer takes it in time.
  self->draining_ = true;
  if (self->writing_) co_await self->written_.waitFor(std::chrono::seconds(1));
  self->endAll();
  self->input_->close();
  while (self->writing_) co_await self->written_.wait();
  self->farewell_.cancel();
}

void Http2Session::keepAlive(Duration after, Duration timeout) {
  pingAfter_ = after;
  pingTimeout_ = timeout;
  heard_ = loop_.now();
  if (after > Duration(0)) watchPeer(after);
}

void Http2Session::watchPeer(Duration in) {
  keepAlive_ = loop_.after(in, [weak = weak_from_this()] {
    auto self = weak.lock();
    if (!self || self->ended_) return;
    if (self->asked_) {
      self->silent_ = true;
      self->draining_ = true;
      self->input_->close();
      return;
    }
    const Duration silence = self->loop_.now() - self->heard_;
    if (self->streams_.empty() || silence < self->pingAfter_) {
      // Nobody waits for the peer, or it has spoken meanwhile.
      self->watchPeer(self->streams_.empty() ? self->pingAfter_ : self->pingAfter_ - silence);
      return;
    }
    self->asked_ = true;
    nghttp2_submit_ping(self->session_, NGHTTP2_FLAG_NONE, nullptr);
    self->flush();
    self->watchPeer(self->pingTimeout_);
  });
}

void Http2Session::endAll() {
  ended_ = true;
  draining_ = true;
  auto streams = std::exchange(streams_, {});
  for (auto& [id, stream] : streams) closeStream(stream, NGHTTP2_CANCEL);
  if (onChange) onChange();
}

void Http2Session::closeStream(const H2StreamPtr& stream, uint32_t code) {
  if (stream->closed) return;
  stream->closed = true;
  stream->errorCode = code;
  if (stream->onClose) loop_.post(std::exchange(stream->onClose, nullptr));
  stream->readable.notify();
  stream->writable.notify();
}

void Http2Session::terminate(uint32_t code) {
  if (ended_) return;
  cancelled_ = true;
  draining_ = true;
  nghttp2_session_terminate_session(session_, code);
  farewell_ = loop_.after(std::chrono::seconds(1), [weak = weak_from_this()] {
    if (auto self = weak.lock()) self->input_->close();
  });
  flush();
  auto streams = streams_;
  for (auto& [id, stream] : streams) closeStream(stream, NGHTTP2_CANCEL);
  if (onChange) onChange();
}

// --- writing the connection

void Http2Session::flush() {
  if (writing_ || ended_ || !nghttp2_session_want_write(session_)) return;
  writing_ = true;
  // Later, so that what else is submitted meanwhile goes out in the same write.
  loop_.post([self = shared_from_this()] { spawn(self->loop_, writeLoop(self)); });
}

Task<> Http2Session::writeLoop(std::shared_ptr<Http2Session> self) {
  while (!self->ended_) {
    int sent = nghttp2_session_send(self->session_);
    if (sent != 0) {
      self->input_->close();
      break;
    }
    if (self->out_.empty()) break;
    std::swap(self->out_, self->sending_);
    auto written = co_await self->input_->stream().write(self->sending_);
    self->sending_.clear();
    if (!written.ok()) {
      self->input_->close();
      break;
    }
  }
  if (self->out_.capacity() > 4096) self->out_ = std::string();
  if (self->sending_.capacity() > 4096) self->sending_ = std::string();
  self->writing_ = false;
  if (!self->ended_ && !nghttp2_session_want_read(self->session_) && !nghttp2_session_want_write(self->session_)) {
    self->input_->close();
  }
  self->written_.notify();
}

ssize_t Http2Session::onSend(nghttp2_session*, const uint8_t* bytes, size_t size, int, void* user) {
  auto* self = static_cast<Http2Session*>(user);
  if (self->out_.size() >= kWriteSize) return NGHTTP2_ERR_WOULDBLOCK;
  self->out_.append(textOf(bytes, size));
  return static_cast<ssize_t>(size);
}

ssize_t Http2Session::onReadSource(nghttp2_session*, int32_t, uint8_t*, size_t size, uint32_t* flags,
                                   nghttp2_data_source* source, void*) {
  auto* stream = static_cast<H2Stream*>(source->ptr);
  size_t n = std::min(size, stream->outSize());
  if (n == 0 && !stream->outEnd) return NGHTTP2_ERR_DEFERRED;
  *flags |= NGHTTP2_DATA_FLAG_NO_COPY;
  if (n == stream->outSize() && stream->outEnd) *flags |= NGHTTP2_DATA_FLAG_EOF;
  return static_cast<ssize_t>(n);
}

int Http2Session::onSendData(nghttp2_session*, nghttp2_frame*, const uint8_t* head, size_t size,
                             nghttp2_data_source* source, void* user) {
  auto* self = static_cast<Http2Session*>(user);
  auto* stream = static_cast<H2Stream*>(source->ptr);
  if (self->out_.size() >= kWriteSize) return NGHTTP2_ERR_WOULDBLOCK;
  self->out_.append(textOf(head, 9));
  self->out_.append(stream->out, stream->outPos, size);
  stream->outPos += size;
  if (stream->outPos == stream->out.size()) {
    if (stream->out.capacity() > 4096) {
      stream->out = std::string();
    } else {
      stream->out.clear();
    }
    stream->outPos = 0;
  }
  stream->writable.notify();
  return 0;
}

int Http2Session::onFrameSent(nghttp2_session*, const nghttp2_frame* frame, void* user) {
  auto* self = static_cast<Http2Session*>(user);
  if ((frame->hd.type != NGHTTP2_DATA && frame->hd.type != NGHTTP2_HEADERS) ||
      !(frame->hd.flags & NGHTTP2_FLAG_END_STREAM))
    return 0;
  if (auto stream = self->find(frame->hd.stream_id)) {
    stream->endSent = true;
    self->endIfUnwanted(*stream);
  }
  return 0;
}

void Http2Session::endIfUnwanted(H2Stream& stream) {
  if (ended_ || stream.closed || !stream.endSent || stream.remoteEnd) return;
  if (stream.duplex ? !stream.localClosed : !server_ || !stream.handlerDone) return;
  // A body that fits into the window is on its way in any case. Clients that are told to stop in the midst of sending
  // it lose the answer (curl up to 8.2).
  if (!stream.duplex && stream.announced && *stream.announced <= kStreamWindow) return;
  nghttp2_submit_rst_stream(session_, NGHTTP2_FLAG_NONE, stream.id, stream.duplex ? NGHTTP2_CANCEL : NGHTTP2_NO_ERROR);
}

// --- frames from the peer

int Http2Session::onBeginHeaders(nghttp2_session*, const nghttp2_frame* frame, void* user) {
  auto* self = static_cast<Http2Session*>(user);
  if (!self->server_ || frame->hd.type != NGHTTP2_HEADERS || frame->headers.cat != NGHTTP2_HCAT_REQUEST) return 0;
  auto stream = std::make_shared<H2Stream>(self->loop_);
  stream->id = frame->hd.stream_id;
  self->streams_[stream->id] = std::move(stream);
  if (self->onChange) self->onChange();
  return 0;
}

int Http2Session::onHeader(nghttp2_session*, const nghttp2_frame* frame, const uint8_t* nameBytes, size_t nameSize,
                           const uint8_t* valueBytes, size_t valueSize, uint8_t, void* user) {
  auto* self = static_cast<Http2Session*>(user);
  auto stream = self->find(frame->hd.stream_id);
  if (!stream || (stream->headDone && self->server_)) return 0;
  stream->headBytes += nameSize + valueSize + 32;
  if (stream->headBytes > kMaxHeadBytes || ++stream->headFields > kMaxHeadFields)
    return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
  std::string_view name = textOf(nameBytes, nameSize), value = textOf(valueBytes, valueSize);
  if (stream->headDone) {
    stream->trailers.add(name, value);
  } else if (name == ":method") {
    stream->method = value;
  } else if (name == ":scheme") {
    stream->scheme = value;
  } else if (name == ":authority") {
    stream->authority = value;
  } else if (name == ":path") {
    stream->path = value;
  } else if (name == ":status") {
    stream->status = static_cast<int>(parseUint(value).value_or(0));
  } else {
    stream->headers.add(name, value);
  }
  return 0;
}

int Http2Session::onFrame(nghttp2_session*, const nghttp2_frame* frame, void* user) {
  auto* self = static_cast<Http2Session*>(user);
  if (frame->hd.type == NGHTTP2_GOAWAY) {
    self->draining_ = true;
    if (self->onChange) self->onChange();
    return 0;
  }
  if (frame->hd.type != NGHTTP2_DATA && frame->hd.type != NGHTTP2_HEADERS) return 0;
  auto stream = self->find(frame->hd.stream_id);
  if (!stream) return 0;
  if (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) stream->remoteEnd = true;
  if (frame->hd.type == NGHTTP2_HEADERS && !stream->headDone) {
    if (self->server_) {
      stream->headDone = true;
      self->ready_.push_back(stream);
    } else if (stream->status >= 200) {
      stream->headDone = true;
    } else {
      stream->headers = Headers();  // an interim response
      stream->status = 0;
    }
  }
  stream->readable.notify();
  return 0;
}

int Http2Session::onData(nghttp2_session* session, uint8_t, int32_t id, const uint8_t* bytes, size_t size, void* user) {
  auto* self = static_cast<Http2Session*>(user);
  auto stream = self->find(id);
  if (!stream || stream->discard) {
    nghttp2_session_consume(session, id, size);
    return 0;
  }
  if (stream->inPos > 0 && stream->inPos >= stream->inSize()) {
    stream->in.erase(0, stream->inPos);
    stream->inPos = 0;
  }
  stream->in.append(textOf(bytes, size));
  stream->readable.notify();
  return 0;
}

int Http2Session::onStreamClose(nghttp2_session* session, int32_t id, uint32_t code, void* user) {
  auto* self = static_cast<Http2Session*>(user);
  auto stream = self->find(id);
  if (!stream) return 0;
  // What is unread stays readable, but the connection's window is given back.
  if (stream->inSize() > 0) nghttp2_session_consume_connection(session, stream->inSize());
  self->streams_.erase(id);
  self->closeStream(stream, code);
  if (self->onChange) self->onChange();
  return 0;
}

// --- streams

Result<H2StreamPtr> Http2Session::upgraded(const std::string& settings, bool head) {
  int done = nghttp2_session_upgrade2(session_, reinterpret_cast<const uint8_t*>(settings.data()), settings.size(),
                                      head, nullptr);
  if (done != 0) return Error(Code::kBadRequest, fmt::format("bad HTTP2-Settings: {}", nghttp2_strerror(done)));
  auto stream = std::make_shared<H2Stream>(loop_);
  stream->id = 1;
  stream->headDone = true;
  stream->remoteEnd = true;
  streams_[1] = stream;
  return stream;
}

Result<H2StreamPtr> Http2Session::submitRequest(const std::vector<std::pair<std::string, std::string>>& fields,
                                                bool body, std::string whole) {
  std::vector<nghttp2_nv> list;
  for (const auto& [name, value] : fields) list.push_back(field(name, value));
  auto stream = std::make_shared<H2Stream>(loop_);
  stream->out = std::move(whole);
  if (!body || !stream->out.empty()) stream->outEnd = true;
  nghttp2_data_provider provider{{.ptr = stream.get()}, onReadSource};
  int32_t id =
      ended_ ? NGHTTP2_ERR_EOF
             : nghttp2_submit_request(session_, nullptr, list.data(), list.size(), body ? &provider : nullptr, nullptr);
  if (id < 0) {
    draining_ = true;
    return Error(Code::kUnavailable, fmt::format("HTTP/2: {}", nghttp2_strerror(id)));
  }
  stream->id = id;
  streams_[id] = stream;
  if (onChange) onChange();
  flush();
  return stream;
}

Result<> Http2Session::submitResponse(const H2StreamPtr& stream, int status, const Headers& headers, bool body) {
  if (ended_ || stream->closed) return streamError(*stream);
  std::vector<std::pair<std::string, std::string>> fields;
  fields.reserve(headers.all().size() + 1);
  fields.emplace_back(":status", std::to_string(status));
  for (const auto& [name, value] : headers.all()) {
    if (!isConnectionField(name)) fields.emplace_back(toLower(name), value);
  }
  std::vector<nghttp2_nv> list;
  for (const auto& [name, value] : fields) list.push_back(field(name, value));
  nghttp2_data_provider provider{{.ptr = stream.get()}, onReadSource};
  if (!body) stream->outEnd = true;
  int done = nghttp2_submit_response(session_, stream->id, list.data(), list.size(), body ? &provider : nullptr);
  if (done != 0) return Error(Code::kInternal, fmt::format("HTTP/2: {}", nghttp2_strerror(done)));
  flush();
  return {};
}

void Http2Session::submitContinue(const H2StreamPtr& stream) {
  if (ended_ || stream->closed) return;
  nghttp2_nv status = field(":status", "100");
  nghttp2_submit_headers(session_, NGHTTP2_FLAG_NONE, stream->id, nullptr, &status, 1, nullptr);
  flush();
}

Task<Result<size_t>> Http2Session::read(std::shared_ptr<Http2Session> self, H2StreamPtr stream, std::span<char> into) {
  while (stream->inSize() == 0) {
    if (stream->localClosed) co_return cancelled();
    if (stream->remoteEnd) co_return size_t{0};
    if (stream->closed || self->ended_) co_return self->streamError(*stream);
    co_await stream->readable.wait();
  }
  size_t n = std::min(into.size(), stream->inSize());
  std::memcpy(into.data(), stream->in.data() + stream->inPos, n);
  stream->inPos += n;
  if (stream->inSize() == 0) {
    if (stream->in.capacity() > 4096) {
      stream->in = std::string();
    } else {
      stream->in.clear();
    }
    stream->inPos = 0;
  }
  if (!stream->closed && !self->ended_) {
    nghttp2_session_consume(self->session_, stream->id, n);
    self->flush();
  }
  co_return n;
}

Task<Result<>> Http2Session::write(std::shared_ptr<Http2Session> self, H2StreamPtr stream, std::string_view bytes) {
  while (!bytes.empty()) {
    if (stream->closed || stream->localClosed || self->ended_) co_return self->streamError(*stream);
    if (stream->outEnd) co_return Error(Code::kInternal, "write after the end");
    size_t room = kOutLimit - std::min(kOutLimit, stream->outSize());
    if (room == 0) {
      co_await stream->writable.wait();
      continue;
    }
    if (stream->outPos > 0 && stream->outPos >= stream->outSize()) {
      stream->out.erase(0, stream->outPos);
      stream->outPos = 0;
    }
    std::string_view piece = bytes.substr(0, room);
    bytes.remove_prefix(piece.size());
    stream->out += piece;
    nghttp2_session_resume_data(self->session_, stream->id);
    self->flush();
  }
  co_return Result<>();
}

void Http2Session::finish(const H2StreamPtr& stream) {
  if (stream->outEnd || stream->closed || ended_) return;
  stream->outEnd = true;
  nghttp2_session_resume_data(session_, stream->id);
  flush();
}

void Http2Session::reset(const H2StreamPtr& stream, uint32_t code) {
  if (stream->closed || ended_) return;
  nghttp2_submit_rst_stream(session_, NGHTTP2_FLAG_NONE, stream->id, code);
  flush();
}

void Http2Session::discardInput(const H2StreamPtr& stream) {
  if (stream->discard) return;
  stream->discard = true;
  size_t left = stream->inSize();
  stream->in = std::string();
  stream->inPos = 0;
  if (left > 0 && !stream->closed && !ended_) {
    nghttp2_session_consume(session_, stream->id, left);
    flush();
  }
}

void Http2Session::closeDuplex(const H2StreamPtr& stream) {
  if (stream->localClosed) return;
  stream->localClosed = true;
  discardInput(stream);
  finish(stream);
  if (!ended_) {
    endIfUnwanted(*stream);
    flush();
  }
  stream->readable.notify();
  stream->writable.notify();
}

}  // namespace dhow::http::internal
