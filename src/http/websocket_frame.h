// Frames of RFC 6455. Private to this folder.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace dhow::http::internal {

struct WsFrame {
  bool fin = true;
  uint8_t opcode = 0;  // 0 continuation, 1 text, 2 binary, 8 close, 9 ping, 10 pong
  bool masked = false;
  uint32_t mask = 0;  // as the four bytes stand in memory
  uint64_t length = 0;
  size_t headSize = 0;
};

// The head of the next frame; nothing when `data` does not hold all of it. kBadRequest when it breaks the protocol.
Result<std::optional<WsFrame>> parseWsHead(std::string_view data, bool fromClient);
void applyMask(char* bytes, size_t size, uint32_t mask);
// Head and payload, masked when `mask` is given.
std::string makeWsFrame(uint8_t opcode, std::string_view payload, std::optional<uint32_t> mask);
bool isUtf8(std::string_view text);

}  // namespace dhow::http::internal
