// Bytes of exec, attach and port-forward between the API server and an agent, on an upgraded HTTP stream over the
// connection that the agent dialed in.
//
// The agent sends GET kTunnelPrefix + <node> + kTunnelSuffix with `Upgrade: dhow-tunnel` and its node certificate;
// after the 101 it serves HTTP/2 (prior knowledge) on that connection, and the API server is its client:
//   GET
//   /containerLogs/{ns}/{pod}/{container}?follow=&previous=&timestamps=&tailLines=&sinceSeconds=&sinceTime=&limitBytes=
//   POST /exec/{ns}/{pod}/{container}?command=..&stdin=&stdout=&stderr=&tty=     upgraded, framed
//   POST /attach/{ns}/{pod}/{container}?stdin=&stdout=&stderr=&tty=              upgraded, framed
//   POST /portForward/{ns}/{pod}?port=N                                          upgraded, raw bytes of one connection
//
// A frame: one byte channel, four bytes length (big endian), payload.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/strings.h"

namespace dhow::client::streaming {

inline constexpr std::string_view kTunnelPrefix = "/dhow.io/v1/agents/";
inline constexpr std::string_view kTunnelSuffix = "/tunnel";
inline constexpr std::string_view kTunnelUpgrade = "dhow-tunnel";
// What the tunnel carries, by number: each side says how far it goes, and both keep to the lower of the two. Missing is
// 1. Counts up with what a side that does not know it would misread, not with a query parameter or a new request.
inline constexpr std::string_view kTunnelProtocolHeader = "Dhow-Tunnel-Protocol";
inline constexpr int kTunnelProtocol = 1;
inline constexpr int kOldestTunnelProtocol = 1;
// 0 for what is no number.
inline int tunnelProtocol(std::string_view header) {
  if (header.empty()) return 1;
  auto number = parseUint(header);
  return number && *number <= 1'000'000 ? static_cast<int>(std::min<uint64_t>(*number, kTunnelProtocol)) : 0;
}
inline constexpr std::string_view kStreamUpgrade = "dhow-stream";  // of exec, attach and portForward

enum class Channel : uint8_t {
  kStdin = 0,
  kStdout = 1,
  kStderr = 2,
  kError = 3,    // once, at the end: a Status in JSON; exit codes as NonZeroExitCode with cause ExitCode
  kResize = 4,   // {"Width":80,"Height":24}
  kClose = 255,  // payload: one byte, the channel whose end is told
};

inline constexpr size_t kFrameHeader = 5;
inline constexpr size_t kMaxFrame = 1 << 20;  // longer is an error

struct Frame {
  Channel channel = Channel::kStdin;
  std::string payload;
};

inline std::string encodeFrame(Channel channel, std::string_view payload) {
  std::string out;
  out.reserve(kFrameHeader + payload.size());
  out.push_back(static_cast<char>(channel));
  for (int shift = 24; shift >= 0; shift -= 8) out.push_back(static_cast<char>((payload.size() >> shift) & 0xff));
  out.append(payload);
  return out;
}

// Takes bytes as they come and gives whole frames. broken() once a length is beyond kMaxFrame.
class FrameDecoder {
 public:
  void feed(std::string_view bytes) { buffer_.append(bytes); }
  bool broken() const { return broken_; }
  std::optional<Frame> next() {
    if (buffer_.size() - at_ < kFrameHeader || broken_) return compact();
    size_t length = 0;
    for (size_t i = 1; i < kFrameHeader; ++i) length = (length << 8) | static_cast<unsigned char>(buffer_[at_ + i]);
    if (length > kMaxFrame) {
      broken_ = true;
      return std::nullopt;
    }
    if (buffer_.size() - at_ < kFrameHeader + length) return compact();
    Frame frame{static_cast<Channel>(buffer_[at_]), buffer_.substr(at_ + kFrameHeader, length)};
    at_ += kFrameHeader + length;
    return frame;
  }

 private:
  std::nullopt_t compact() {
    buffer_.erase(0, at_);
    at_ = 0;
    return std::nullopt;
  }
  std::string buffer_;
  size_t at_ = 0;
  bool broken_ = false;
};

}  // namespace dhow::client::streaming
