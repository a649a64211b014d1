#include "websocket_frame.h"

#include <cstring>

namespace dhow::http::internal {

Result<std::optional<WsFrame>> parseWsHead(std::string_view data, bool fromClient) {
  auto bad = [](const char* what) { return Error(Code::kBadRequest, fmt::format("WebSocket: {}", what)); };
  auto byte = [&](size_t i) { return static_cast<uint8_t>(data[i]); };
  if (data.size() < 2) return std::optional<WsFrame>();
  WsFrame out;
  out.fin = byte(0) & 0x80;
  out.opcode = byte(0) & 0x0f;
  out.masked = byte(1) & 0x80;
  if (byte(0) & 0x70) return bad("reserved bits are set");
  bool control = out.opcode >= 8;
  if (out.opcode > 10 || (out.opcode > 2 && out.opcode < 8)) return bad("unknown opcode");
  if (out.masked != fromClient)
    return bad(fromClient ? "a client's frame is not masked" : "a server's frame is masked");
  unsigned shortLength = byte(1) & 0x7f;
  if (control && (shortLength > 125 || !out.fin)) return bad("a control frame is long or in parts");
  size_t extra = shortLength == 126 ? 2 : shortLength == 127 ? 8 : 0;
  out.headSize = 2 + extra + (out.masked ? 4 : 0);
  if (data.size() < out.headSize) return std::optional<WsFrame>();
  out.length = extra == 0 ? shortLength : 0;
  for (size_t i = 0; i < extra; ++i) out.length = out.length << 8 | byte(2 + i);
  if (out.length >> 63) return bad("bad length");
  if (out.masked) std::memcpy(&out.mask, data.data() + 2 + extra, 4);
  return std::optional(out);
}

void applyMask(char* bytes, size_t size, uint32_t mask) {
  uint64_t wide = static_cast<uint64_t>(mask) << 32 | mask;
  size_t i = 0;
  for (; i + 8 <= size; i += 8) {
    uint64_t word;
    std::memcpy(&word, bytes + i, 8);
    word ^= wide;
    std::memcpy(bytes + i, &word, 8);
  }
  char key[4];
  std::memcpy(key, &mask, 4);
  for (; i < size; ++i) bytes[i] ^= key[i & 3];
}

std::string makeWsFrame(uint8_t opcode, std::string_view payload, std::optional<uint32_t> mask) {
  std::string out;
  out.reserve(payload.size() + 14);
  out += static_cast<char>(0x80 | opcode);
  const char masked = mask ? '\x80' : '\0';
  int bytes = 0;
  if (payload.size() < 126) {
    out += static_cast<char>(masked | static_cast<char>(payload.size()));
  } else if (payload.size() < 65536) {
    out += static_cast<char>(masked | 126);
    bytes = 2;
  } else {
    out += static_cast<char>(masked | 127);
    bytes = 8;
  }
  for (int i = bytes - 1; i >= 0; --i) out += static_cast<char>(static_cast<uint64_t>(payload.size()) >> (8 * i));
  if (mask) {
    char key[4];
    std::memcpy(key, &*mask, 4);
    out.append(key, 4);
  }
  size_t start = out.size();
  out += payload;
  if (mask) applyMask(out.data() + start, payload.size(), *mask);
  return out;
}

bool isUtf8(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    auto c = static_cast<uint8_t>(text[i]);
    if (c < 0x80) {
      ++i;
      continue;
    }
    int more = c >= 0xf0 ? 3 : c >= 0xe0 ? 2 : 1;
    if (c < 0xc2 || c > 0xf4 || i + static_cast<size_t>(more) >= text.size()) return false;
    uint32_t point = c & (0x3f >> more);
    for (int k = 1; k <= more; ++k) {
      auto next = static_cast<uint8_t>(text[i + static_cast<size_t>(k)]);
      if ((next & 0xc0) != 0x80) return false;
      point = point << 6 | (next & 0x3f);
    }
    if ((more == 2 && point < 0x800) || (more == 3 && (point < 0x10000 || point > 0x10ffff))) return false;
    if (point >= 0xd800 && point <= 0xdfff) return false;
    i += static_cast<size_t>(more) + 1;
  }
  return true;
}

}  // namespace dhow::http::internal
