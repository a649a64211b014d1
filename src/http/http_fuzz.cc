// libFuzzer entry for the parsers that see a peer's bytes. The first byte chooses one.
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "http1.h"
#include "spdy_frame.h"
#include "websocket_frame.h"

namespace dhow::http::internal {
namespace {

// Gives the bytes in small pieces, then the end.
class Pieces final : public Stream {
 public:
  explicit Pieces(std::string_view bytes) : bytes_(bytes) {}
  Task<Result<size_t>> read(std::span<char> into) override {
    size_t n = std::min({into.size(), bytes_.size(), size_t{7}});
    bytes_.copy(into.data(), n);
    bytes_.remove_prefix(n);
    co_return n;
  }
  Task<Result<>> write(std::string_view) override { co_return Result<>(); }
  Task<> shutdownWrite() override { co_return; }
  void close() override { bytes_ = {}; }

 private:
  std::string_view bytes_;
};

Task<> readMessages(Loop& loop, std::string_view bytes) {
  auto input = std::make_shared<Input>(loop, std::make_unique<Pieces>(bytes));
  while (true) {
    auto raw = co_await readHead(*input);
    if (!raw.ok() || !*raw) co_return;
    auto head = parseRequestHead((*raw)->text);
    input->consume((*raw)->size);
    if (!head.ok()) co_return;
    auto framing = requestFraming(*head);
    if (!framing.ok()) co_return;
    Http1Body body(input, *framing);
    char buffer[64];
    while (!body.done()) {
      auto n = co_await body.read(buffer);
      if (!n.ok()) co_return;
    }
  }
}

struct Nothing final : SpdyEvents {
  void onSynStream(uint32_t, uint8_t, Headers) override {}
  void onReply(uint32_t, uint8_t, Headers) override {}
  void onData(uint32_t, std::string_view, bool) override {}
  void onRst(uint32_t, uint32_t) override {}
  void onPing(uint32_t) override {}
  void onGoAway() override {}
  void onWindowUpdate(uint32_t, uint32_t) override {}
  void onInitialWindow(uint32_t) override {}
};

void feedSpdy(std::string_view bytes) {
  Nothing events;
  SpdyDecoder decoder(events);
  // In halves: what is taken late must not matter.
  std::string held;
  for (std::string_view piece : {bytes.substr(0, bytes.size() / 2), bytes.substr(bytes.size() / 2)}) {
    held += piece;
    auto taken = decoder.feed(held);
    if (!taken.ok()) return;
    CHECK(*taken <= held.size());
    held.erase(0, *taken);
  }
}

void feedWebSocket(std::string_view bytes) {
  while (true) {
    auto head = parseWsHead(bytes, true);
    if (!head.ok() || !*head) return;
    CHECK((*head)->headSize <= bytes.size());
    bytes.remove_prefix((*head)->headSize);
    if ((*head)->length > bytes.size()) return;
    std::string payload(bytes.substr(0, (*head)->length));
    applyMask(payload.data(), payload.size(), (*head)->mask);
    (void)isUtf8(payload);
    bytes.remove_prefix((*head)->length);
  }
}

}  // namespace
}  // namespace dhow::http::internal

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace dhow::http::internal;
  if (size == 0) return 0;
  std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  switch (data[0] % 4) {
    case 0: {
      dhow::SimLoop loop;
      dhow::runOn(loop, readMessages(loop, bytes));
      break;
    }
    case 1: {
      auto head = parseResponseHead(bytes);
      if (head.ok()) (void)responseFraming("GET", *head);
      (void)dhow::http::Query::parse(bytes);
      break;
    }
    case 2: feedSpdy(bytes); break;
    default: feedWebSocket(bytes);
  }
  return 0;
}
