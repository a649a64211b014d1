// Connections in memory, for tests on the virtual clock: no socket takes part.
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <utility>

#include "base/gate.h"
#include "http/stream.h"

namespace dhow::http {

// One direction of a connection.
struct FakePipe {
  explicit FakePipe(Loop& loop) : changed(loop) {}
  void end() {
    ended = true;
    changed.notify();
  }
  std::string bytes;
  bool ended = false;
  bool lost = false;  // what is written vanishes, as behind a cut cable
  Signal changed;
};

class FakeStream final : public Stream {
 public:
  FakeStream(std::shared_ptr<FakePipe> in, std::shared_ptr<FakePipe> out) : in_(std::move(in)), out_(std::move(out)) {}
  ~FakeStream() override { close(); }
  Task<Result<size_t>> read(std::span<char> into) override {
    auto in = in_;
    while (in->bytes.empty() && !in->ended) co_await in->changed.wait();
    const size_t n = std::min(into.size(), in->bytes.size());
    std::copy_n(in->bytes.begin(), n, into.begin());
    in->bytes.erase(0, n);
    co_return n;
  }
  Task<Result<>> write(std::string_view bytes) override {
    if (out_->ended) co_return Error(Code::kUnavailable, "the connection is closed");
    if (!out_->lost) out_->bytes.append(bytes);
    out_->changed.notify();
    co_return Result<>();
  }
  Task<> shutdownWrite() override {
    out_->end();
    co_return;
  }
  void close() override {
    in_->end();
    if (!out_->lost) out_->end();
  }

 private:
  std::shared_ptr<FakePipe> in_, out_;
};

}  // namespace dhow::http
