// One HTTP/2 connection (RFC 9113) over any stream, for both sides; nghttp2 does the framing. Private to this folder.
#pragma once

#include <nghttp2/nghttp2.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>

#include "base/gate.h"
#include "http/message.h"
#include "input.h"

namespace dhow::http::internal {

struct H2Stream {
  explicit H2Stream(Loop& loop) : loop(loop), readable(loop), writable(loop) {}
  size_t inSize() const { return in.size() - inPos; }
  size_t outSize() const { return out.size() - outPos; }

  Loop& loop;
  int32_t id = -1;
  // The peer's head.
  Headers headers;
  std::string method, scheme, authority, path;
  int status = 0;
  size_t headBytes = 0;
  size_t headFields = 0;
  bool headDone = false;
  Headers trailers;  // of a response

  std::string in;  // what has arrived and was not read; its size is bounded by the stream's window
  size_t inPos = 0;
  bool remoteEnd = false;
  std::optional<uint64_t> announced;  // of a request: the size of its body, as the client told it
  bool discard = false;               // nobody will read any more

  std::string out;  // what waits for the peer's window
  size_t outPos = 0;
  bool outEnd = false;  // nothing more comes
  bool endSent = false;

  bool duplex = false;       // taken over as a raw stream
  bool handlerDone = false;  // server: the handler has ended
  bool localClosed = false;
  bool closed = false;  // by either side's reset, both sides' end, or the connection's end
  uint32_t errorCode = 0;
  Signal readable, writable;
  std::function<void()> onClose;
};
using H2StreamPtr = std::shared_ptr<H2Stream>;

class Http2Session : public std::enable_shared_from_this<Http2Session> {
 public:
  static std::shared_ptr<Http2Session> create(Loop& loop, std::shared_ptr<Input> input, bool server);
  ~Http2Session();

  // Server: a request's head has come. Client: none.
  std::function<void(H2StreamPtr)> onRequest;
  // The number of streams or whether new ones may begin has changed.
  std::function<void()> onChange;

  // Serves the connection until it ends; then every stream is closed.
  static Task<> run(std::shared_ptr<Http2Session> self);
  // While streams are open and nothing has come for `after`, the peer is asked for a sign of life (PING). None within
  // `timeout` ends the connection: its streams fail with kUnavailable.
  void keepAlive(Duration after, Duration timeout);
  // Says goodbye and ends the connection, in a second at most.
  void terminate(uint32_t code = NGHTTP2_NO_ERROR);
  bool ended() const { return ended_; }
  bool draining() const { return ended_ || draining_; }
  size_t streams() const { return streams_.size(); }

  // Server, after "Upgrade: h2c": the HTTP/1.1 request is stream 1.
  Result<H2StreamPtr> upgraded(const std::string& settings, bool head);
  // `body`: whether data will follow; else the head ends our side.
  Result<H2StreamPtr> submitRequest(const std::vector<std::pair<std::string, std::string>>& fields, bool body,
                                    std::string whole);
  Result<> submitResponse(const H2StreamPtr& stream, int status, const Headers& headers, bool body);
  void submitContinue(const H2StreamPtr& stream);

  static Task<Result<size_t>> read(std::shared_ptr<Http2Session> self, H2StreamPtr stream, std::span<char> into);
  static Task<Result<>> write(std::shared_ptr<Http2Session> self, H2StreamPtr stream, std::string_view bytes);
  void finish(const H2StreamPtr& stream);
  void reset(const H2StreamPtr& stream, uint32_t code);
  void discardInput(const H2StreamPtr& stream);
  // Ends a raw stream: what was written still goes out.
  void closeDuplex(const H2StreamPtr& stream);
  // Resets the stream when our side has ended and nobody wants the rest of the peer's.
  void endIfUnwanted(H2Stream& stream);
  void flush();
  Error streamError(const H2Stream& stream) const;

 private:
  Http2Session(Loop& loop, std::shared_ptr<Input> input, bool server);
  void watchPeer(Duration in);
  static Task<> writeLoop(std::shared_ptr<Http2Session> self);
  H2StreamPtr find(int32_t id) const;
  void closeStream(const H2StreamPtr& stream, uint32_t code);
  void endAll();

  static ssize_t onSend(nghttp2_session*, const uint8_t*, size_t, int, void*);
  static int onSendData(nghttp2_session*, nghttp2_frame*, const uint8_t*, size_t, nghttp2_data_source*, void*);
  static ssize_t onReadSource(nghttp2_session*, int32_t, uint8_t*, size_t, uint32_t*, nghttp2_data_source*, void*);
  static int onBeginHeaders(nghttp2_session*, const nghttp2_frame*, void*);
  static int onHeader(nghttp2_session*, const nghttp2_frame*, const uint8_t*, size_t, const uint8_t*, size_t, uint8_t,
                      void*);
  static int onFrame(nghttp2_session*, const nghttp2_frame*, void*);
  static int onFrameSent(nghttp2_session*, const nghttp2_frame*, void*);
  static int onData(nghttp2_session*, uint8_t, int32_t, const uint8_t*, size_t, void*);
  static int onStreamClose(nghttp2_session*, int32_t, uint32_t, void*);

  Loop& loop_;
  std::shared_ptr<Input> input_;
  const bool server_;
  nghttp2_session* session_ = nullptr;
  std::unordered_map<int32_t, H2StreamPtr> streams_;
  std::vector<H2StreamPtr> ready_;  // requests whose handlers begin after the frames at hand
  std::string out_, sending_;
  bool writing_ = false;
  bool ended_ = false;
  bool draining_ = false;
  bool cancelled_ = false;  // our side ended it
  Signal written_;
  Timer farewell_;
  Duration pingAfter_{0}, pingTimeout_{0};
  TimePoint heard_{};  // when the peer last sent something
  bool asked_ = false;
  bool silent_ = false;  // it did not answer
  Timer keepAlive_;
};

// A stream of the connection as a raw stream of bytes.
std::unique_ptr<Stream> duplexStream(std::shared_ptr<Http2Session> session, H2StreamPtr stream);

// Whether HTTP/2 forbids the field (RFC 9113, 8.2.2).
bool isConnectionField(std::string_view name);

}  // namespace dhow::http::internal
