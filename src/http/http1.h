// HTTP/1.1 messages (RFC 9112): heads, framing and bodies. Strict: what two readers could understand in two ways is
// refused. Private to this folder.
#pragma once

#include <memory>
#include <string>

#include "http/message.h"
#include "input.h"

namespace dhow::http::internal {

constexpr size_t kMaxHead = 64 << 10;
constexpr size_t kMaxFields = 128;

struct RequestHead {
  std::string method;
  std::string target;
  bool http10 = false;
  Headers headers;
};
struct ResponseHead {
  int status = 0;
  bool http10 = false;
  Headers headers;
};

// `head` ends before its empty line. Errors: kBadRequest; kTooLarge with too many fields; kUnimplemented for another
// HTTP version.
Result<RequestHead> parseRequestHead(std::string_view head);
Result<ResponseHead> parseResponseHead(std::string_view head);

struct Framing {
  enum Kind { kNone, kLength, kChunked, kUntilClose } kind = kNone;
  uint64_t length = 0;
};
Result<Framing> requestFraming(const RequestHead& head);
Result<Framing> responseFraming(std::string_view method, const ResponseHead& head);

// Waits for a whole head and gives it without its empty line; it stays in the input and `size` is what to consume.
// Nothing when the peer has ended before the first byte.
struct RawHead {
  std::string_view text;
  size_t size = 0;
};
Task<Result<std::optional<RawHead>>> readHead(Input& input);

// Adds "name: value\r\n"; bytes that would end the line become spaces.
void appendField(std::string& out, std::string_view name, std::string_view value);

// A message's body as it arrives. At its end done() holds and the input stands at the next message.
class Http1Body {
 public:
  Http1Body(std::shared_ptr<Input> input, Framing framing);
  Task<Result<size_t>> read(std::span<char> into);
  bool done() const { return done_; }
  const Framing& framing() const { return framing_; }

 private:
  Task<Result<size_t>> readChunked(std::span<char> into);
  Task<Result<std::string>> readLine(size_t limit);
  Result<size_t> fail(Error error);

  std::shared_ptr<Input> input_;
  Framing framing_;
  uint64_t left_ = 0;  // of the length, or of the chunk
  bool insideChunk_ = false;
  bool done_ = false;
  std::optional<Error> failed_;
};

}  // namespace dhow::http::internal
