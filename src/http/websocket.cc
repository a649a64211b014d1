#include "http/websocket.h"

#include <openssl/rand.h>
#include <openssl/sha.h>
#include <boost/asio/async_result.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <deque>

#include "base/strings.h"
#include "body.h"
#include "websocket_frame.h"

namespace dhow::http {

namespace asio = boost::asio;
using namespace internal;

namespace {

constexpr size_t kReadSize = 4096;
constexpr size_t kClientMaxMessage = 16 << 20;

// One at a time, in order of arrival. On the executor of whoever waits.
class Lane {
 public:
  Task<> enter() {
    if (!busy_) {
      busy_ = true;
      co_return;
    }
    auto executor = co_await asio::this_coro::executor;
    auto start = [this, executor](auto handler) {
      auto shared = std::make_shared<decltype(handler)>(std::move(handler));
      waiting_.push_back([shared, executor] { asio::post(executor, [shared] { std::move (*shared)(); }); });
    };
    co_await asio::async_initiate<const asio::use_awaitable_t<>&, void()>(std::move(start), asio::use_awaitable);
  }
  void leave() {
    if (waiting_.empty()) {
      busy_ = false;
      return;
    }
    auto next = std::move(waiting_.front());
    waiting_.pop_front();
    next();  // who is still busy, on behalf of the next
  }

 private:
  bool busy_ = false;
  std::deque<std::function<void()>> waiting_;
};

struct State {
  std::unique_ptr<Stream> stream;
  bool client = false;
  size_t maxMessage = 0;
  std::string protocol;
  std::string in;  // read, not yet taken
  size_t inPos = 0;
  std::string message;  // of the fragments so far
  uint8_t messageOpcode = 0;
  Lane writing;
  bool closeSent = false;
  bool closeSeen = false;
  bool aborted = false;
};
using StatePtr = std::shared_ptr<State>;

Error closedError() {
  return Error(Code::kCancelled, "the WebSocket was closed");
}

Task<Result<>> sendFrame(StatePtr state, uint8_t opcode, std::string_view payload) {
  co_await state->writing.enter();
  Result<> result;
  if (state->aborted || state->closeSent) {
    result = closedError();
  } else {
    if (opcode == 8) state->closeSent = true;
    std::optional<uint32_t> mask;
    if (state->client) {
      uint32_t bits = 0;
      RAND_bytes(reinterpret_cast<unsigned char*>(&bits), sizeof bits);
      mask = bits;
    }
    std::string frame = makeWsFrame(opcode, payload, mask);
    result = co_await state->stream->write(frame);
  }
  state->writing.leave();
  co_return result;
}

Task<Result<>> sendClose(StatePtr state, uint16_t code, std::string reason) {
  std::string payload;
  if (code != 0) {
    payload += static_cast<char>(code >> 8);
    payload += static_cast<char>(code);
    payload += reason.substr(0, 123);
  }
  auto sent = co_await sendFrame(state, 8, payload);
  if (sent.ok()) co_await state->stream->shutdownWrite();
  co_return sent;
}

// Tells the peer what it did wrong and ends.
Task<Error> fail(StatePtr state, uint16_t code, Error error) {
  auto sent = co_await sendClose(state, code, error.message());
  state->closeSeen = true;
  if (!sent.ok()) co_return error;
  co_return error;
}

// At least `size` bytes from `inPos` on.
Task<Result<>> need(StatePtr state, size_t size) {
  while (state->in.size() - state->inPos < size) {
    if (state->inPos > 0) {
      state->in.erase(0, state->inPos);
      state->inPos = 0;
    }
    size_t held = state->in.size();
    state->in.resize(std::max(held + kReadSize, size));
    auto n = co_await state->stream->read(std::span(state->in.data() + held, state->in.size() - held));
    state->in.resize(held + (n.ok() ? *n : 0));
    if (!n.ok()) co_return std::move(n).error();
    if (*n == 0) co_return Error(Code::kCancelled, "the peer ended the WebSocket");
  }
  co_return Result<>();
}

Task<Result<WebSocket::Message>> readMessage(StatePtr state) {
  while (true) {
    if (state->aborted || state->closeSeen) co_return closedError();
    std::optional<WsFrame> frame;
    while (!frame) {
      auto head = parseWsHead(std::string_view(state->in).substr(state->inPos), !state->client);
      if (!head.ok()) co_return co_await fail(state, 1002, head.error());
      frame = *head;
      if (frame) break;
      auto more = co_await need(state, state->in.size() - state->inPos + 1);
      if (!more.ok()) co_return std::move(more).error();
    }
    if (frame->length > state->maxMessage || state->message.size() + frame->length > state->maxMessage) {
      co_return co_await fail(
          state, 1009, Error(Code::kTooLarge, fmt::format("message is larger than {} bytes", state->maxMessage)));
    }
    auto whole = co_await need(state, frame->headSize + frame->length);
    if (!whole.ok()) co_return std::move(whole).error();
    state->inPos += frame->headSize;
    std::string payload = state->in.substr(state->inPos, frame->length);
    state->inPos += frame->length;
    if (state->inPos == state->in.size()) {
      if (state->in.capacity() > 2 * kReadSize) state->in = std::string();
      state->in.clear();
      state->inPos = 0;
    }
    if (frame->masked) applyMask(payload.data(), payload.size(), frame->mask);

    if (frame->opcode == 8) {
      state->closeSeen = true;
      // Its own code goes back; the answer to a close without one has none.
      uint16_t code =
          payload.size() >= 2
              ? static_cast<uint16_t>(static_cast<uint8_t>(payload[0]) << 8 | static_cast<uint8_t>(payload[1]))
              : uint16_t{0};
      auto answered = co_await sendClose(state, code, "");
      if (!answered.ok()) co_return closedError();
      co_return closedError();
    }
    if (frame->opcode == 9) {
      auto answered = co_await sendFrame(state, 10, payload);
      if (!answered.ok()) co_return std::move(answered).error();
      continue;
    }
    if (frame->opcode == 10) continue;
    if ((frame->opcode == 0) != (state->messageOpcode != 0)) {
      co_return co_await fail(state, 1002, Error(Code::kBadRequest, "WebSocket: fragments out of order"));
    }
    if (frame->opcode != 0) state->messageOpcode = frame->opcode;
    if (state->message.empty()) {
      state->message = std::move(payload);
    } else {
      state->message += payload;
    }
    if (!frame->fin) continue;
    WebSocket::Message out{std::exchange(state->messageOpcode, uint8_t{0}) == 2,
                           std::exchange(state->message, std::string())};
    if (!out.binary && !isUtf8(out.bytes)) {
      co_return co_await fail(state, 1007, Error(Code::kBadRequest, "WebSocket: text is not UTF-8"));
    }
    co_return out;
  }
}

Task<> closeSocket(StatePtr state, uint16_t code, std::string reason) {
  auto sent = co_await sendClose(state, code, std::move(reason));
  if (!sent.ok()) co_return;
}

class WebSocketImpl final : public WebSocket {
 public:
  explicit WebSocketImpl(StatePtr state) : state_(std::move(state)) {}
  ~WebSocketImpl() override { abort(); }
  Task<Result<Message>> read() override { return readMessage(state_); }
  Task<Result<>> write(std::string_view bytes, bool binary) override {
    return sendFrame(state_, binary ? 2 : 1, bytes);
  }
  Task<> close(uint16_t code, std::string reason) override { return closeSocket(state_, code, std::move(reason)); }
  const std::string& protocol() const override { return state_->protocol; }
  void abort() override {
    state_->aborted = true;
    state_->stream->close();
  }

 private:
  StatePtr state_;
};

std::string acceptKey(std::string_view key) {
  std::string text = fmt::format("{}258EAFA5-E914-47DA-95CA-C5AB0DC85B11", key);
  unsigned char digest[SHA_DIGEST_LENGTH];
  SHA1(reinterpret_cast<const unsigned char*>(text.data()), text.size(), digest);
  return toBase64({reinterpret_cast<const char*>(digest), sizeof digest});
}

std::vector<std::string> offeredProtocols(const Headers& headers) {
  std::vector<std::string> out;
  for (const auto& [name, value] : headers.all()) {
    if (!equalsIgnoreCase(name, "Sec-WebSocket-Protocol")) continue;
    for (const auto& one : split(value, ',')) out.emplace_back(trim(one));
  }
  return out;
}

}  // namespace

bool isWebSocketUpgrade(const Request& request) {
  // On an HTTP/2 stream of ours there is no Upgrade header; the version tells.
  if (request.version == "2") return request.headers.has("Sec-WebSocket-Version");
  return request.headers.hasToken("Upgrade", "websocket") && request.headers.hasToken("Connection", "Upgrade");
}

Task<Result<std::unique_ptr<WebSocket>>> acceptWebSocket(Request& request, ResponseWriter& writer,
                                                         std::vector<std::string> protocols, size_t maxMessage) {
  if (!isWebSocketUpgrade(request)) co_return Error(Code::kBadRequest, "not a WebSocket request");
  if (request.headers.get("Sec-WebSocket-Version") != "13")
    co_return Error(Code::kBadRequest, "the WebSocket version must be 13");
  std::string key(request.headers.get("Sec-WebSocket-Key"));
  auto bytes = fromBase64(key);
  if (!bytes || bytes->size() != 16) co_return Error(Code::kBadRequest, "bad Sec-WebSocket-Key");
  auto offered = offeredProtocols(request.headers);
  std::string chosen;
  for (const auto& protocol : protocols) {
    if (std::find(offered.begin(), offered.end(), protocol) == offered.end()) continue;
    chosen = protocol;
    break;
  }
  if (chosen.empty() && !offered.empty() && !protocols.empty()) {
    co_return Error(Code::kBadRequest,
                    fmt::format("none of the WebSocket protocols {} is served", join(offered, ", ")));
  }
  Headers headers;
  headers.add("Upgrade", "websocket");
  headers.add("Connection", "Upgrade");
  headers.add("Sec-WebSocket-Accept", acceptKey(key));
  if (!chosen.empty()) headers.add("Sec-WebSocket-Protocol", chosen);
  auto stream = co_await writer.hijack(101, std::move(headers));
  if (!stream.ok()) co_return std::move(stream).error();
  auto state = std::make_shared<State>();
  state->stream = std::move(*stream);
  state->maxMessage = maxMessage;
  state->protocol = std::move(chosen);
  co_return std::make_unique<WebSocketImpl>(std::move(state));
}

Task<Result<std::unique_ptr<WebSocket>>> connectWebSocket(Client& client, std::string url, Headers headers,
                                                          std::vector<std::string> protocols) {
  char random[16];
  RAND_bytes(reinterpret_cast<unsigned char*>(random), sizeof random);
  std::string key = toBase64({random, sizeof random});
  headers.set("Upgrade", "websocket");
  headers.set("Connection", "Upgrade");
  headers.set("Sec-WebSocket-Version", "13");
  headers.set("Sec-WebSocket-Key", key);
  if (!protocols.empty()) headers.set("Sec-WebSocket-Protocol", join(protocols, ", "));
  Request request;
  request.headers = std::move(headers);
  auto upgraded = co_await client.upgrade(std::move(url), std::move(request));
  if (!upgraded.ok()) co_return std::move(upgraded).error();
  if (upgraded->headers.get("Sec-WebSocket-Accept") != acceptKey(key)) {
    co_return Error(Code::kUnavailable, "the server's WebSocket answer is wrong");
  }
  std::string chosen(upgraded->headers.get("Sec-WebSocket-Protocol"));
  if (!chosen.empty() && std::find(protocols.begin(), protocols.end(), chosen) == protocols.end()) {
    co_return Error(Code::kUnavailable, fmt::format("the server chose WebSocket protocol {} unasked", chosen));
  }
  auto state = std::make_shared<State>();
  state->stream = std::move(upgraded->stream);
  state->client = true;
  state->maxMessage = kClientMaxMessage;
  state->protocol = std::move(chosen);
  co_return std::make_unique<WebSocketImpl>(std::move(state));
}

}  // namespace dhow::http
