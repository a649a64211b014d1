#include "websocket.h"

#include <array>
#include <bit>
#include <cstdint>

namespace examples {

namespace {

constexpr size_t kLongest = 64 << 10;
enum Opcode : uint8_t { kText = 1, kBinary = 2, kClose = 8, kPing = 9, kPong = 10 };

std::array<uint8_t, 20> sha1(std::string text) {
  const uint64_t bits = text.size() * 8;
  text += '\x80';
  while (text.size() % 64 != 56) text += '\0';
  for (int shift = 56; shift >= 0; shift -= 8) text += static_cast<char>(bits >> shift);
  uint32_t h[5] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0};
  for (size_t at = 0; at < text.size(); at += 64) {
    uint32_t w[80];
    for (size_t i = 0; i < 16; ++i) {
      w[i] = 0;
      for (size_t j = 0; j < 4; ++j) w[i] = w[i] << 8 | static_cast<uint8_t>(text[at + 4 * i + j]);
    }
    for (size_t i = 16; i < 80; ++i) w[i] = std::rotl(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
    uint32_t a = h[0], b = h[1], c = h[2], d = h[3], e = h[4];
    for (size_t i = 0; i < 80; ++i) {
      const uint32_t f = i < 20 ? (b & c) | (~b & d) : i < 40 || i >= 60 ? b ^ c ^ d : (b & c) | (b & d) | (c & d);
      constexpr uint32_t kConstants[] = {0x5a827999, 0x6ed9eba1, 0x8f1bbcdc, 0xca62c1d6};
      const uint32_t next = std::rotl(a, 5) + f + e + kConstants[i / 20] + w[i];
      e = d;
      d = c;
      c = std::rotl(b, 30);
      b = a;
      a = next;
    }
    h[0] += a, h[1] += b, h[2] += c, h[3] += d, h[4] += e;
  }
  std::array<uint8_t, 20> out{};
  for (size_t i = 0; i < out.size(); ++i) out[i] = static_cast<uint8_t>(h[i / 4] >> (24 - 8 * (i % 4)));
  return out;
}

std::string base64(const std::array<uint8_t, 20>& bytes) {
  constexpr std::string_view kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  uint32_t value = 0;
  int bits = 0;
  for (uint8_t byte : bytes) {
    value = value << 8 | byte;
    for (bits += 8; bits >= 6; bits -= 6) out += kDigits[value >> (bits - 6) & 63];
  }
  if (bits > 0) out += kDigits[value << (6 - bits) & 63];
  while (out.size() % 4 != 0) out += '=';
  return out;
}

void send(std::string& out, Opcode opcode, std::string_view payload) {
  out += static_cast<char>(0x80 | opcode);
  if (payload.size() < 126) {
    out += static_cast<char>(payload.size());
  } else {
    out += static_cast<char>(126);
    out += static_cast<char>(payload.size() >> 8);
    out += static_cast<char>(payload.size());
  }
  out += payload;
}

class WebSocket final : public Conversation {
 public:
  explicit WebSocket(std::function<std::string(std::string_view)> answer) : answer_(std::move(answer)) {}

  bool receive(std::string_view in, std::string& out) override {
    in_ += in;
    while (true) {
      if (in_.size() < 2) return true;
      const uint8_t first = byte(0), second = byte(1);
      size_t length = second & 127, head = 2;
      if (length == 126) {
        if (in_.size() < 4) return true;
        length = static_cast<size_t>(byte(2)) << 8 | byte(3);
        head = 4;
      }
      const bool whole = (first & 0x80) != 0, masked = (second & 0x80) != 0;
      if (!whole || !masked || (second & 127) == 127) return refuse(out);
      if (in_.size() < head + 4 + length) return true;
      std::string payload = in_.substr(head + 4, length);
      for (size_t i = 0; i < length; ++i) payload[i] = static_cast<char>(payload[i] ^ in_[head + i % 4]);
      in_.erase(0, head + 4 + length);
      switch (first & 15) {
        case kText:
        case kBinary: send(out, static_cast<Opcode>(first & 15), answer_(payload).substr(0, kLongest - 1)); break;
        case kPing: send(out, kPong, payload); break;
        case kPong: break;
        case kClose: send(out, kClose, payload.substr(0, 2)); return false;
        default: return refuse(out);
      }
    }
  }

  // It goes on: who waits for it decides for how long.
  bool stop(std::string&) override { return true; }

 private:
  uint8_t byte(size_t at) const { return static_cast<uint8_t>(in_[at]); }
  static bool refuse(std::string& out) {
    send(out, kClose, "\x03\xea");  // 1002, protocol error
    return false;
  }

  std::function<std::string(std::string_view)> answer_;
  std::string in_;
};

}  // namespace

std::string webSocketAccept(std::string_view key) {
  return base64(sha1(std::string(key) + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"));
}

std::unique_ptr<Conversation> answerMessages(std::function<std::string(std::string_view)> answer) {
  return std::make_unique<WebSocket>(std::move(answer));
}

}  // namespace examples
