#include "input.h"

#include <cstring>

#include "body.h"

namespace dhow::http::internal {

namespace {
constexpr size_t kSmall = 2048;
constexpr size_t kLarge = 32 << 10;
// How much a watch reads ahead of whoever should read it.
constexpr size_t kAhead = 64 << 10;

Task<Result<size_t>> readRaw(std::shared_ptr<Input> input, std::span<char> into) {
  auto result = co_await input->read(into);
  co_return result;
}

class RawStream final : public Stream {
 public:
  RawStream(std::shared_ptr<Input> input, std::shared_ptr<void> keep)
      : input_(std::move(input)), keep_(std::move(keep)) {}
  ~RawStream() override { input_->close(); }
  Task<Result<size_t>> read(std::span<char> into) override { return readRaw(input_, into); }
  Task<Result<>> write(std::string_view bytes) override { return input_->stream().write(bytes); }
  Task<> shutdownWrite() override { return input_->stream().shutdownWrite(); }
  void close() override { input_->close(); }

 private:
  std::shared_ptr<Input> input_;
  std::shared_ptr<void> keep_;
};
}  // namespace

std::unique_ptr<Stream> rawStream(std::shared_ptr<Input> input, std::shared_ptr<void> keep) {
  return std::make_unique<RawStream>(std::move(input), std::move(keep));
}

Input::Input(Loop& loop, std::unique_ptr<Stream> stream) : loop_(loop), stream_(std::move(stream)), changed_(loop) {}
Input::~Input() = default;

// Positions stay where they are while a read into the buffer's end may be under way; space() begins anew.
void Input::consume(size_t n) {
  begin_ += n;
}

// Room for the next read: a small buffer for who sends little, a large one for who filled the last.
std::span<char> Input::space() {
  size_t want = much_ ? kLarge : kSmall;
  size_t held = end_ - begin_;
  if (held == 0) {
    if (capacity_ != want || !buffer_) buffer_ = std::make_unique_for_overwrite<char[]>(want);
    capacity_ = want;
    begin_ = end_ = 0;
  } else if (capacity_ - end_ < want / 2) {
    size_t needed = held + want;
    if (needed > capacity_) {
      size_t size = std::max(needed, capacity_ * 2);
      auto larger = std::make_unique_for_overwrite<char[]>(size);
      std::memcpy(larger.get(), buffer_.get() + begin_, held);
      buffer_ = std::move(larger);
      capacity_ = size;
    } else {
      std::memmove(buffer_.get(), buffer_.get() + begin_, held);
    }
    begin_ = 0;
    end_ = held;
  }
  return {buffer_.get() + end_, capacity_ - end_};
}

Task<Result<bool>> Input::fill() {
  if (reading_) {
    const size_t before = end_ - begin_;
    while (reading_ && end_ - begin_ <= before) co_await changed_.wait();
    if (end_ - begin_ > before) co_return true;
  }
  if (error_) co_return *error_;
  if (ended_) co_return false;
  reading_ = true;
  auto into = space();
  auto n = co_await stream_->read(into);
  reading_ = false;
  bool some = false;
  if (!n.ok()) {
    error_ = n.error();
    ended_ = true;
  } else if (*n == 0) {
    ended_ = true;
  } else {
    end_ += *n;
    much_ = *n == into.size() || *n >= kSmall;
    some = true;
  }
  changed_.notify();
  if (ended_) tellGone();
  if (error_) co_return *error_;
  co_return some;
}

Task<Result<size_t>> Input::read(std::span<char> into) {
  while (begin_ == end_ && reading_) co_await changed_.wait();
  if (begin_ != end_) {
    size_t n = std::min(into.size(), end_ - begin_);
    std::memcpy(into.data(), buffer_.get() + begin_, n);
    consume(n);
    if (waiting_) changed_.notify();
    co_return n;
  }
  if (error_) co_return *error_;
  if (ended_) co_return size_t{0};
  reading_ = true;
  auto n = co_await stream_->read(into);
  reading_ = false;
  if (!n.ok()) {
    error_ = n.error();
    ended_ = true;
  } else if (*n == 0) {
    ended_ = true;
  }
  changed_.notify();
  if (ended_) tellGone();
  co_return n;
}

void Input::watch(Gate* gate, std::function<void()> gone) {
  gone_ = std::move(gone);
  watching_ = true;
  if (ended_) return tellGone();
  if (waiting_) return;
  waiting_ = true;
  if (gate) {
    gate->spawn(lieInWait(shared_from_this()));
  } else {
    spawn(loop_, lieInWait(shared_from_this()));
  }
}

void Input::unwatch() {
  watching_ = false;
  gone_ = nullptr;
  if (waiting_ && !reading_) changed_.notify();
}

void Input::tellGone() {
  if (!gone_) return;
  loop_.post(std::exchange(gone_, nullptr));
}

Task<> Input::lieInWait(std::shared_ptr<Input> self) {
  while (self->watching_ && !self->ended_) {
    // Full or busy: whoever reads next wakes this task, and so does close().
    if (self->reading_ || self->end_ - self->begin_ >= kAhead) {
      co_await self->changed_.wait();
      continue;
    }
    auto filled = co_await self->fill();
    if (!filled.ok()) break;
  }
  self->waiting_ = false;
}

void Input::close() {
  if (!error_) error_ = cancelled();
  ended_ = true;
  stream_->close();
  tellGone();
  changed_.notify();
}

}  // namespace dhow::http::internal
