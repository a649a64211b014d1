#include "filter_session.h"

#include "base/strings.h"

namespace dhow::ingress {

using namespace spop;

namespace {

struct Refusal {
  Status status = Status::kNormal;
  std::string message;
};

Task<Result<>> readExactly(http::Stream* stream, std::span<char> into) {
  while (!into.empty()) {
    auto count = co_await stream->read(into);
    if (!count.ok()) co_return std::move(count).error();
    if (*count == 0) co_return Error(Code::kUnavailable, "HAProxy has closed the connection");
    into = into.subspan(*count);
  }
  co_return Result<>();
}

// The bytes of the next frame; `refusal` says why when HAProxy must be told.
Task<Result<std::string>> nextFrame(http::Stream* stream, Refusal* refusal) {
  char size[4];
  CO_RETURN_IF_ERROR(co_await readExactly(stream, size));
  uint32_t length = 0;
  for (char c : size) length = length << 8 | static_cast<uint8_t>(c);
  if (length == 0 || length > kMostFrame) {
    *refusal = {Status::kTooBig, "the frame is empty or too big"};
    co_return Error(Code::kTooLarge, refusal->message);
  }
  std::string out(length, '\0');
  CO_RETURN_IF_ERROR(co_await readExactly(stream, out));
  co_return out;
}

// What to answer a greeting with: its frame size, and whether it only asks for a sign of life.
struct Greeting {
  size_t frameSize = 0;
  bool healthCheck = false;
};
Result<Greeting> readGreeting(std::string_view bytes, Refusal& refusal) {
  auto refuse = [&refusal](Status status, std::string message) {
    refusal = {status, message};
    return Error(Code::kBadRequest, std::move(message));
  };
  auto frame = readFrame(bytes);
  if (!frame.ok() || frame->type != FrameType::kHaproxyHello) return refuse(Status::kInvalid, "a greeting is expected");
  auto list = readList(frame->payload);
  if (!list.ok()) return refuse(Status::kInvalid, list.error().message());
  Greeting out;
  std::string_view versions;
  uint64_t size = 0;
  for (const auto& [name, value] : *list) {
    if (name == "supported-versions") versions = value.bytes;
    if (name == "max-frame-size") size = value.number;
    if (name == "healthcheck") out.healthCheck = value.flag;
  }
  if (versions.empty()) return refuse(Status::kNoVersion, "no version");
  bool supported = false;
  for (const std::string& one : split(versions, ',')) supported = supported || trim(one).starts_with("2.");
  if (!supported) return refuse(Status::kBadVersion, "version 2 is spoken here");
  if (size < kLeastFrame) return refuse(Status::kBadFrameSize, "frames are too small");
  out.frameSize = std::min<uint64_t>(size, kMostFrame);
  return out;
}

Task<Result<std::string>> answerTo(FilterHandler* handler, const Frame* frame, Refusal* refusal) {
  auto messages = readMessages(frame->payload);
  if (!messages.ok()) {
    *refusal = {Status::kInvalid, messages.error().message()};
    co_return std::move(messages).error();
  }
  Ack ack(frame->stream, frame->id);
  for (const Message& message : *messages) co_await handler->answer(message, ack);
  co_return ack.frame();
}

Task<Result<>> serve(http::Stream* stream, FilterHandler* handler, Refusal* refusal) {
  CO_ASSIGN_OR_RETURN(std::string hello, co_await nextFrame(stream, refusal));
  CO_ASSIGN_OR_RETURN(Greeting greeting, readGreeting(hello, *refusal));
  const std::string answer = agentHello(greeting.frameSize);
  CO_RETURN_IF_ERROR(co_await stream->write(answer));
  if (greeting.healthCheck) co_return Result<>();
  while (true) {
    CO_ASSIGN_OR_RETURN(std::string bytes, co_await nextFrame(stream, refusal));
    auto frame = readFrame(bytes);
    if (!frame.ok()) {
      *refusal = {Status::kInvalid, frame.error().message()};
      co_return std::move(frame).error();
    }
    if (frame->type == FrameType::kHaproxyDisconnect) {
      *refusal = {Status::kNormal, "good-bye"};
      co_return Result<>();
    }
    if (frame->type != FrameType::kNotify || !frame->fin) {
      *refusal = {Status::kNoFragments, "one whole question at a time is answered"};
      co_return Error(Code::kBadRequest, refusal->message);
    }
    CO_ASSIGN_OR_RETURN(std::string ack, co_await answerTo(handler, &*frame, refusal));
    CO_RETURN_IF_ERROR(co_await stream->write(ack));
  }
}

}  // namespace

Task<> serveFilter(std::unique_ptr<http::Stream> stream, FilterHandler* handler) {
  Refusal refusal;
  auto done = co_await serve(stream.get(), handler, &refusal);
  (void)done;
  if (!refusal.message.empty()) {
    const std::string last = agentDisconnect(refusal.status, refusal.message);
    auto told = co_await stream->write(last);
    (void)told;
  }
  stream->close();
}

}  // namespace dhow::ingress
