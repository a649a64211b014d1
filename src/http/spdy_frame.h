// SPDY/3.1 frames and their header compression. Private to this folder.
#pragma once

#include <zlib.h>

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"
#include "http/message.h"

namespace dhow::http::internal {

constexpr uint8_t kSpdyFin = 1;
constexpr uint32_t kSpdyProtocolError = 1;
constexpr uint32_t kSpdyRefusedStream = 3;

// The text that both sides' zlib streams know from the start.
const std::string& spdyDictionary();

// What the frames say.
class SpdyEvents {
 public:
  virtual ~SpdyEvents() = default;
  virtual void onSynStream(uint32_t id, uint8_t flags, Headers headers) = 0;
  virtual void onReply(uint32_t id, uint8_t flags, Headers headers) = 0;
  // A data frame may come in parts; `fin` is with the last.
  virtual void onData(uint32_t id, std::string_view bytes, bool fin) = 0;
  virtual void onRst(uint32_t id, uint32_t status) = 0;
  virtual void onPing(uint32_t id) = 0;
  virtual void onGoAway() = 0;
  virtual void onWindowUpdate(uint32_t id, uint32_t delta) = 0;
  virtual void onInitialWindow(uint32_t size) = 0;
};

// Control frames up to 64 KiB, header blocks up to 64 KiB and 128 fields unpacked.
class SpdyDecoder {
 public:
  explicit SpdyDecoder(SpdyEvents& events);
  ~SpdyDecoder();
  SpdyDecoder(const SpdyDecoder&) = delete;
  // Takes whole frames, and what there is of a data frame's payload; gives how much it took. After an error the
  // connection cannot go on.
  Result<size_t> feed(std::string_view bytes);

 private:
  Result<> control(uint16_t type, uint8_t flags, std::string_view payload);
  Result<Headers> unpack(std::string_view block);

  SpdyEvents& events_;
  z_stream inflate_{};
  uint32_t dataStream_ = 0;
  uint32_t dataLeft_ = 0;
  bool dataFin_ = false;
};

class SpdyEncoder {
 public:
  SpdyEncoder();
  ~SpdyEncoder();
  SpdyEncoder(const SpdyEncoder&) = delete;
  std::string synStream(uint32_t id, uint8_t flags, const Headers& headers);
  std::string synReply(uint32_t id, uint8_t flags, const Headers& headers);

 private:
  std::string pack(const Headers& headers);
  z_stream deflate_{};
};

std::string spdyData(uint32_t id, std::string_view bytes, bool fin);
std::string spdyRst(uint32_t id, uint32_t status);
std::string spdyPing(uint32_t id);
std::string spdyGoAway(uint32_t lastStream);
std::string spdyWindowUpdate(uint32_t id, uint32_t delta);

}  // namespace dhow::http::internal
