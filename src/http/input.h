// The reading side of a connection: a stream with the bytes that were read ahead. Private to this folder.
#pragma once

#include <functional>
#include <memory>

#include "base/gate.h"
#include "http/stream.h"

namespace dhow::http::internal {

// Small while idle (2 KiB), larger while much arrives. One task reads from the stream at a time; the others wait for
// it, so a watch may lie in wait for the peer's end while a body reader uses the same input.
class Input : public std::enable_shared_from_this<Input> {
 public:
  Input(Loop& loop, std::unique_ptr<Stream> stream);
  ~Input();

  Loop& loop() { return loop_; }
  Stream& stream() { return *stream_; }
  std::string_view data() const { return {buffer_.get() + begin_, end_ - begin_}; }
  void consume(size_t n);
  // Adds bytes behind data(); false at the stream's end.
  Task<Result<bool>> fill();
  // What was read ahead first, then from the stream, without another copy.
  Task<Result<size_t>> read(std::span<char> into);
  // Until unwatch(), notices the peer's end even when nobody reads: `gone` runs once. Bytes that arrive are kept.
  // `gate` counts the task that does it; null: it is not counted.
  void watch(Gate* gate, std::function<void()> gone);
  void unwatch();
  // The peer has ended its side, or the stream broke.
  bool ended() const { return ended_; }
  void close();

 private:
  static Task<> lieInWait(std::shared_ptr<Input> self);
  std::span<char> space();
  void tellGone();

  Loop& loop_;
  std::unique_ptr<Stream> stream_;
  std::unique_ptr<char[]> buffer_;
  size_t capacity_ = 0, begin_ = 0, end_ = 0;
  bool much_ = false;      // the last read filled its space
  bool reading_ = false;   // a task is inside stream_->read
  bool watching_ = false;  // wanted
  bool waiting_ = false;   // the task of watch() runs
  bool ended_ = false;
  std::optional<Error> error_;
  std::function<void()> gone_;
  Signal changed_;
};

// The bytes of a connection after its HTTP head: first what was read ahead. `keep` lives as long as the stream.
std::unique_ptr<Stream> rawStream(std::shared_ptr<Input> input, std::shared_ptr<void> keep);

}  // namespace dhow::http::internal
