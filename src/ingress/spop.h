// The Stream Processing Offload Protocol, version 2.0, by which HAProxy asks about requests: its frames, read and
// written (section 3 of HAProxy's SPOE.txt). Pure. What is read points into the bytes that were given. Private to this
// folder.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"

namespace dhow::ingress::spop {

constexpr size_t kMostFrame = 128 << 10;  // bytes, without the four that say how long it is
constexpr size_t kLeastFrame = 256;

enum class FrameType : uint8_t {
  kUnset = 0,
  kHaproxyHello = 1,
  kHaproxyDisconnect = 2,
  kNotify = 3,
  kAgentHello = 101,
  kAgentDisconnect = 102,
  kAck = 103,
};

// Of a disconnection (section 3.5).
enum class Status : uint8_t {
  kNormal = 0,
  kTooBig = 3,
  kInvalid = 4,
  kNoVersion = 5,
  kNoFrameSize = 6,
  kBadVersion = 8,
  kBadFrameSize = 9,
  kNoFragments = 10,
};

struct Frame {
  FrameType type = FrameType::kUnset;
  bool fin = false, abort = false;
  uint64_t stream = 0, id = 0;
  std::string_view payload;
};

struct Value {
  enum class Type : uint8_t { kNull, kBool, kInt32, kUint32, kInt64, kUint64, kIpv4, kIpv6, kString, kBinary };
  Type type = Type::kNull;
  bool flag = false;       // of a bool
  uint64_t number = 0;     // of integers
  std::string_view bytes;  // of strings, binaries and addresses
};
using List = std::vector<std::pair<std::string_view, Value>>;
struct Message {
  std::string_view name;
  List args;
  // Null when it is not there.
  const Value* find(std::string_view arg) const;
};

Result<Frame> readFrame(std::string_view bytes);
Result<List> readList(std::string_view payload);
Result<std::vector<Message>> readMessages(std::string_view payload);
// As req.hdrs_bin has them: names and values, ended by an empty pair.
Result<std::vector<std::pair<std::string_view, std::string_view>>> readHeaders(std::string_view bytes);
// An address as people write it; empty for anything else.
std::string addressText(const Value& value);

// Whole frames, with the four bytes before them.
std::string agentHello(size_t frameSize);
std::string agentDisconnect(Status status, std::string_view message);

// The answer to a frame: variables of the transaction.
class Ack {
 public:
  Ack(uint64_t stream, uint64_t id);
  void set(std::string_view name, bool value);
  void set(std::string_view name, std::string_view value);
  void set(std::string_view name, const char* value) { set(name, std::string_view(value)); }
  std::string frame() const;

 private:
  void name(std::string_view name);
  std::string bytes_;
};

void writeNumber(std::string& out, uint64_t number);
void writeText(std::string& out, std::string_view text);

}  // namespace dhow::ingress::spop
