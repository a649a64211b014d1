#include "exec_relay.h"

#include <map>

#include <vector>

#include "base/strings.h"
#include "client/streaming.h"

namespace dhow::apiserver {

namespace streaming = client::streaming;
using streaming::Channel;

namespace {

constexpr size_t kBuffer = 32 << 10;
constexpr Duration kStreamsPatience = std::chrono::seconds(30);

// The error channel's word when the agent's connection breaks before it has said its own.
constexpr std::string_view kBroken =
    R"({"metadata":{},"status":"Failure","message":"the connection to the node has ended","reason":"InternalError","code":500})";

Task<> webSocketToAgent(std::shared_ptr<http::WebSocket> socket, std::shared_ptr<http::Stream> agent) {
  while (true) {
    auto message = co_await socket->read();
    if (!message.ok()) break;
    if (message->bytes.empty()) continue;
    auto channel = static_cast<Channel>(message->bytes[0]);
    std::string frame = streaming::encodeFrame(channel, std::string_view(message->bytes).substr(1));
    auto done = co_await agent->write(frame);
    if (!done.ok()) break;
  }
  // The client has gone: so goes what it ran.
  agent->close();
}

Task<> agentToWebSocket(std::shared_ptr<http::Stream> agent, std::shared_ptr<http::WebSocket> socket) {
  streaming::FrameDecoder decoder;
  std::vector<char> buffer(kBuffer);
  bool told = false;
  while (!told) {
    auto count = co_await agent->read(buffer);
    if (!count.ok() || *count == 0) break;
    decoder.feed({buffer.data(), *count});
    while (auto frame = decoder.next()) {
      if (frame->channel == Channel::kClose) continue;
      std::string message(1, static_cast<char>(frame->channel));
      message += frame->payload;
      auto done = co_await socket->write(message);
      if (!done.ok()) co_return;
      if (frame->channel == Channel::kError) told = true;
    }
    if (decoder.broken()) break;
  }
  if (!told) {
    std::string message(1, static_cast<char>(Channel::kError));
    message += kBroken;
    auto done = co_await socket->write(message);
    (void)done;
  }
  co_await socket->close();
  agent->close();
}

}  // namespace

Task<> relayWebSocket(Loop& loop, std::shared_ptr<http::Stream> agent, std::unique_ptr<http::WebSocket> socket) {
  std::shared_ptr<http::WebSocket> shared = std::move(socket);
  Gate gate(loop);
  gate.spawn(webSocketToAgent(shared, agent));
  gate.spawn(agentToWebSocket(agent, shared));
  co_await gate.close();
}

namespace {

using SpdyPtr = std::shared_ptr<http::SpdyStream>;

// Bytes of one of the client's streams, as frames. Resizes are JSON objects back to back: one frame each.
Task<> spdyToAgent(SpdyPtr from, std::shared_ptr<http::Stream> agent, Channel channel) {
  std::vector<char> buffer(kBuffer);
  std::string pending;
  while (true) {
    auto count = co_await from->read(buffer);
    if (!count.ok() || *count == 0) break;
    std::string out;
    if (channel == Channel::kResize) {
      pending.append(buffer.data(), *count);
      for (size_t end = pending.find('}'); end != std::string::npos; end = pending.find('}')) {
        out += streaming::encodeFrame(channel, trim(std::string_view(pending).substr(0, end + 1)));
        pending.erase(0, end + 1);
      }
      if (pending.size() > 1024) break;
    } else {
      out = streaming::encodeFrame(channel, {buffer.data(), *count});
    }
    if (out.empty()) continue;
    auto done = co_await agent->write(out);
    if (!done.ok()) co_return;
  }
  if (channel != Channel::kStdin) co_return;
  std::string end = streaming::encodeFrame(Channel::kClose, std::string(1, '\0'));
  auto done = co_await agent->write(end);
  (void)done;
}

Task<> agentToSpdy(std::shared_ptr<http::Stream> agent, std::map<std::string, SpdyPtr> streams,
                   std::shared_ptr<http::SpdySession> session) {
  streaming::FrameDecoder decoder;
  std::vector<char> buffer(kBuffer);
  std::string verdict;
  while (verdict.empty()) {
    auto count = co_await agent->read(buffer);
    if (!count.ok() || *count == 0) break;
    decoder.feed({buffer.data(), *count});
    while (auto frame = decoder.next()) {
      if (frame->channel == Channel::kError) verdict = frame->payload;
      auto to = streams.find(frame->channel == Channel::kStdout   ? "stdout"
                             : frame->channel == Channel::kStderr ? "stderr"
                                                                  : "");
      if (to == streams.end()) continue;
      SpdyPtr stream = to->second;
      auto done = co_await stream->write(frame->payload);
      if (!done.ok()) break;
    }
    if (decoder.broken()) break;
  }
  if (verdict.empty()) verdict = kBroken;
  for (auto name : {"stdout", "stderr"}) {
    auto found = streams.find(name);
    if (found == streams.end()) continue;
    SpdyPtr stream = found->second;
    co_await stream->shutdownWrite();
  }
  if (SpdyPtr stream = streams["error"]) {
    auto done = co_await stream->write(verdict);
    (void)done;
    co_await stream->shutdownWrite();
  }
  agent->close();
}

// Ends everything when the client goes: accept() gives nothing more by then.
Task<> minder(std::shared_ptr<http::SpdySession> session, std::shared_ptr<http::Stream> agent) {
  while (true) {
    auto more = co_await session->accept();
    if (!more.ok()) break;
  }
  agent->close();
}

Task<> runSpdy(std::shared_ptr<http::Stream> agent, std::map<std::string, SpdyPtr> streams,
               std::shared_ptr<http::SpdySession> session) {
  co_await agentToSpdy(agent, std::move(streams), session);
  session->close();
}

}  // namespace

Task<> relaySpdy(Loop& loop, std::shared_ptr<http::Stream> agent, std::unique_ptr<http::SpdySession> session,
                 StreamSet wanted, std::string protocol) {
  std::shared_ptr<http::SpdySession> shared = std::move(session);
  size_t expected = 1 + size_t{wanted.in} + size_t{wanted.out} + size_t{wanted.err};
  if (wanted.tty && protocol != "v2.channel.k8s.io") ++expected;
  Timer patience = loop.after(kStreamsPatience, [shared] { shared->close(); });
  std::map<std::string, SpdyPtr> streams;
  while (streams.size() < expected) {
    auto stream = co_await shared->accept();
    if (!stream.ok()) {
      agent->close();
      shared->close();
      co_return;
    }
    std::string type(stream.value()->headers().get("streamType"));
    streams[type] = std::move(*stream);
  }
  patience.cancel();
  Gate gate(loop);
  if (streams.contains("stdin")) gate.spawn(spdyToAgent(streams["stdin"], agent, Channel::kStdin));
  if (streams.contains("resize")) gate.spawn(spdyToAgent(streams["resize"], agent, Channel::kResize));
  gate.spawn(minder(shared, agent));
  gate.spawn(runSpdy(agent, streams, shared));
  co_await gate.close();
}

namespace {

struct Pair {
  SpdyPtr data;
  SpdyPtr error;
  std::string port;
};

Task<> failPort(Pair pair, std::string why) {
  auto done = co_await pair.error->write(why);
  (void)done;
  co_await pair.error->shutdownWrite();
  pair.data->close();
}

// SpdyStream owned by a shared pointer, as the unique one that pipeBoth takes.
class Shared final : public http::Stream {
 public:
  explicit Shared(SpdyPtr inner) : inner_(std::move(inner)) {}
  Task<Result<size_t>> read(std::span<char> into) override { return inner_->read(into); }
  Task<Result<>> write(std::string_view bytes) override { return inner_->write(bytes); }
  Task<> shutdownWrite() override { return inner_->shutdownWrite(); }
  void close() override { inner_->close(); }

 private:
  SpdyPtr inner_;
};

Task<> forwardPort(Loop* loop, Pair pair, OpenPort open) {
  auto agent = co_await open(pair.port);
  if (!agent.ok()) {
    std::string message = fmt::format("an error occurred forwarding {}: {}", pair.port, agent.error().message());
    co_await failPort(std::move(pair), std::move(message));
    co_return;
  }
  co_await http::pipeBoth(*loop, std::make_unique<Shared>(pair.data), std::move(*agent));
  co_await pair.error->shutdownWrite();
}

}  // namespace

Task<> relayPorts(Loop& loop, std::unique_ptr<http::SpdySession> session, OpenPort open) {
  constexpr size_t kMaxWaiting = 256;
  Gate gate(loop);
  std::map<std::string, Pair> waiting;  // by requestID
  while (waiting.size() < kMaxWaiting) {
    auto accepted = co_await session->accept();
    if (!accepted.ok()) break;
    SpdyPtr stream = std::move(*accepted);
    std::string id(stream->headers().get("requestID"));
    std::string type(stream->headers().get("streamType"));
    auto& pair = waiting[id];
    pair.port = stream->headers().get("port");
    (type == "error" ? pair.error : pair.data) = std::move(stream);
    if (!pair.data || !pair.error) continue;
    Pair whole = std::move(pair);
    waiting.erase(id);
    gate.spawn(forwardPort(&loop, std::move(whole), open));
  }
  session->close();
  co_await gate.close();
}

}  // namespace dhow::apiserver
