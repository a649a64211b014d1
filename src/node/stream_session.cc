#include "stream_session.h"

#include <boost/json/parse.hpp>

#include "client/streaming.h"
#include "json.h"

namespace dhow::node {

namespace streaming = client::streaming;
using streaming::Channel;

namespace {

constexpr size_t kBuffer = 32 << 10;
constexpr Duration kLinger = std::chrono::seconds(1);

struct Session {
  explicit Session(Loop& l) : loop(l), changed(l) {}
  Loop& loop;
  std::unique_ptr<http::Stream> connection;
  std::unique_ptr<http::Stream> in;
  SessionHooks hooks;
  Signal changed;
  bool writing = false, clientGone = false, closed = false;
  int outputs = 0;
  std::optional<Result<runtime::ExitInfo>> exit;
};
using SessionPtr = std::shared_ptr<Session>;

Task<bool> send(SessionPtr session, Channel channel, std::string payload) {
  while (session->writing) co_await session->changed.wait();
  if (session->clientGone || session->closed) co_return false;
  session->writing = true;
  const std::string frame = streaming::encodeFrame(channel, payload);
  auto sent = co_await session->connection->write(frame);
  session->writing = false;
  if (!sent.ok()) session->clientGone = true;
  session->changed.notify();
  co_return sent.ok();
}

Task<> pumpOut(SessionPtr session, Channel channel, int fd) {
  auto stream = http::adoptFd(session->loop, fd);
  std::vector<char> buffer(kBuffer);
  while (true) {
    auto count = co_await stream->read(buffer);
    if (!count.ok() || *count == 0) break;
    const bool sent = co_await send(session, channel, std::string(buffer.data(), *count));
    if (!sent) break;
  }
  --session->outputs;
  session->changed.notify();
}

Task<> endInput(SessionPtr session) {
  session->in.reset();
  if (session->hooks.stdinEnded) co_await session->hooks.stdinEnded();
}

void resize(Session& session, const std::string& payload) {
  boost::system::error_code failed;
  json::value size = json::parse(payload, failed);
  if (failed || !size.is_object() || !session.hooks.resize) return;
  const int64_t rows = number(size.get_object(), {"Height"}, 0);
  const int64_t columns = number(size.get_object(), {"Width"}, 0);
  if (rows > 0 && rows < 65536 && columns > 0 && columns < 65536) {
    session.hooks.resize(static_cast<uint16_t>(rows), static_cast<uint16_t>(columns));
  }
}

Task<> pumpIn(SessionPtr session) {
  streaming::FrameDecoder decoder;
  std::vector<char> buffer(kBuffer);
  while (!session->closed) {
    auto count = co_await session->connection->read(buffer);
    if (!count.ok() || *count == 0) break;
    decoder.feed({buffer.data(), *count});
    while (auto frame = decoder.next()) {
      if (frame->channel == Channel::kResize) resize(*session, frame->payload);
      const bool ends = frame->channel == Channel::kClose && frame->payload.size() == 1 && frame->payload[0] == 0;
      if (ends) co_await endInput(session);
      if (frame->channel != Channel::kStdin || !session->in || frame->payload.empty()) continue;
      // What the process no longer reads is let go.
      auto written = co_await session->in->write(frame->payload);
      if (!written.ok()) session->in.reset();
    }
    if (decoder.broken()) break;
  }
  session->clientGone = true;
  session->changed.notify();
}

Task<> awaitExit(SessionPtr session) {
  auto exit = co_await session->hooks.wait();
  session->exit.emplace(std::move(exit));
  session->changed.notify();
}

}  // namespace

std::string exitStatus(const Result<runtime::ExitInfo>& exit) {
  json::object status{{"metadata", json::object()}};
  if (!exit.ok()) {
    status["status"] = "Failure";
    status["message"] = exit.error().message();
    status["reason"] = "InternalError";
    status["code"] = 500;
  } else if (exit->code == 0) {
    status["status"] = "Success";
  } else {
    const std::string code = std::to_string(exit->code);
    status["status"] = "Failure";
    status["message"] = "command terminated with non-zero exit code: exit status " + code;
    status["reason"] = "NonZeroExitCode";
    status["details"] = json::object{{"causes", json::array{json::object{{"reason", "ExitCode"}, {"message", code}}}}};
  }
  return json::serialize(status);
}

Task<> runSession(Loop& loop, std::unique_ptr<http::Stream> connection, runtime::Streams streams, SessionHooks hooks) {
  auto session = std::make_shared<Session>(loop);
  session->connection = std::move(connection);
  session->hooks = std::move(hooks);
  if (streams.in) session->in = http::adoptFd(loop, streams.in.release());
  Gate gate(loop);
  if (streams.out) {
    ++session->outputs;
    gate.spawn(pumpOut(session, Channel::kStdout, streams.out.release()));
  }
  if (streams.err) {
    ++session->outputs;
    gate.spawn(pumpOut(session, Channel::kStderr, streams.err.release()));
  }
  const bool waits = static_cast<bool>(session->hooks.wait);
  if (waits) gate.spawn(awaitExit(session));
  gate.spawn(pumpIn(session));
  while (!session->clientGone && !(waits ? session->exit.has_value() : session->outputs == 0))
    co_await session->changed.wait();
  // What was written last is still on its way; a child that keeps the pipe is not waited for longer than this.
  const TimePoint patience = loop.now() + kLinger;
  while (!session->clientGone && session->outputs > 0 && loop.now() < patience) {
    co_await session->changed.waitFor(patience - loop.now());
  }
  if (session->clientGone) {
    if (session->hooks.clientGone) co_await session->hooks.clientGone();
  } else {
    runtime::ExitInfo well;
    std::string status = exitStatus(waits ? *session->exit : Result<runtime::ExitInfo>(well));
    (void)co_await send(session, Channel::kError, std::move(status));
    co_await session->connection->shutdownWrite();
    // Closed too soon, the last frames could be cut off on their way: the other side goes first.
    const TimePoint parting = loop.now() + kLinger;
    while (!session->clientGone && loop.now() < parting) co_await session->changed.waitFor(parting - loop.now());
  }
  session->closed = true;
  session->connection->close();
  session->changed.notify();
  co_await gate.close();
}

}  // namespace dhow::node
