// libFuzzer entry for what HAProxy says to the filter, and what of it goes on to others. The first byte chooses.
#include <cstdint>
#include <string_view>

#include "access_log.h"
#include "filter_session.h"
#include "mirror.h"
#include "password_hash.h"
#include "passwords.h"
#include "spop.h"
#include "waf.h"

namespace dhow::ingress {
namespace {

class Pieces final : public http::Stream {
 public:
  explicit Pieces(std::string_view bytes) : bytes_(bytes) {}
  Task<Result<size_t>> read(std::span<char> into) override {
    const size_t count = std::min({into.size(), bytes_.size(), size_t{37}});
    bytes_.copy(into.data(), count);
    bytes_.remove_prefix(count);
    co_return count;
  }
  Task<Result<>> write(std::string_view) override { co_return Result<>(); }
  Task<> shutdownWrite() override { co_return; }
  void close() override { bytes_ = {}; }

 private:
  std::string_view bytes_;
};

struct Copying final : FilterHandler {
  Task<> answer(const spop::Message& message, spop::Ack& ack) override {
    for (const auto& [name, value] : message.args) {
      ack.set(name, spop::addressText(value));
      auto headers = spop::readHeaders(value.bytes);
      if (headers.ok()) (void)copyOf({"127.0.0.1:80*", "", "GET", value.bytes, std::move(*headers), ""});
      (void)copyOf({value.bytes, name, name, name, {}, ""});
    }
    co_return;
  }
};

}  // namespace
}  // namespace dhow::ingress

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace dhow;
  using namespace dhow::ingress;
  if (size == 0) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  if (data[0] % 3 == 0) {
    SimLoop loop;
    Copying handler;
    spawn(loop, serveFilter(std::make_unique<Pieces>(text), &handler));
    loop.runReady();
  } else if (data[0] % 3 == 1) {
    auto messages = spop::readMessages(text);
    SimLoop loop;
    Copying handler;
    spop::Ack ack(1, 1);
    if (messages.ok())
      for (const spop::Message& message : *messages) spawn(loop, handler.answer(message, ack));
    loop.runReady();
  } else {
    (void)readMatch(text);
    (void)recordsIn(text);
    if (const auto credentials = basicCredentials(text)) (void)hashOf(*credentials, text);
    (void)isPasswordHash(text);
  }
  return 0;
}
