#include "spop.h"

#include <arpa/inet.h>

namespace dhow::ingress::spop {

namespace {

constexpr uint32_t kFin = 1, kAbort = 2;
constexpr uint8_t kTrue = 0x10;
constexpr size_t kMostItems = 256;
constexpr const char* kVersion = "2.0";
constexpr char kSetVar = 1, kThreeArguments = 3, kTransaction = 2;

Error damaged(std::string_view what) {
  return Error(Code::kBadRequest, "SPOP: " + std::string(what));
}

// Reads from the front; what is missing is told once, at the end.
class Reader {
 public:
  explicit Reader(std::string_view bytes) : rest_(bytes) {}
  bool good() const { return good_; }
  bool empty() const { return rest_.empty(); }
  std::string_view rest() const { return rest_; }

  std::string_view take(uint64_t count) {
    if (count > rest_.size()) {
      good_ = false;
      rest_ = {};
      return {};
    }
    std::string_view out = rest_.substr(0, count);
    rest_.remove_prefix(count);
    return out;
  }
  uint8_t byte() {
    std::string_view one = take(1);
    return one.empty() ? 0 : static_cast<uint8_t>(one[0]);
  }
  uint64_t number() {
    uint64_t out = byte();
    if (out < 240) return out;
    for (unsigned shift = 4;; shift += 7) {
      const uint8_t next = byte();
      if (shift > 60 || !good_) {
        good_ = false;
        return 0;
      }
      out += static_cast<uint64_t>(next) << shift;
      if (next < 128) return out;
    }
  }
  std::string_view text() { return take(number()); }
  Value value() {
    Value out;
    const uint8_t kind = byte();
    if ((kind & 0x0f) > static_cast<uint8_t>(Value::Type::kBinary)) good_ = false;
    if (!good_) return out;
    out.type = static_cast<Value::Type>(kind & 0x0f);
    switch (out.type) {
      case Value::Type::kNull: break;
      case Value::Type::kBool: out.flag = (kind & kTrue) != 0; break;
      case Value::Type::kIpv4: out.bytes = take(4); break;
      case Value::Type::kIpv6: out.bytes = take(16); break;
      case Value::Type::kString:
      case Value::Type::kBinary: out.bytes = text(); break;
      default: out.number = number();
    }
    return out;
  }

 private:
  std::string_view rest_;
  bool good_ = true;
};

std::string head(FrameType type, uint64_t stream, uint64_t id) {
  std::string out(1, static_cast<char>(type));
  out += std::string_view("\0\0\0\1", 4);  // FIN
  writeNumber(out, stream);
  writeNumber(out, id);
  return out;
}

std::string sized(std::string frame) {
  const uint32_t size = htonl(static_cast<uint32_t>(frame.size()));
  return std::string(reinterpret_cast<const char*>(&size), sizeof size) + frame;
}

void writeString(std::string& out, std::string_view text) {
  out += static_cast<char>(Value::Type::kString);
  writeText(out, text);
}

void writeUint32(std::string& out, uint64_t number) {
  out += static_cast<char>(Value::Type::kUint32);
  writeNumber(out, number);
}

}  // namespace

void writeNumber(std::string& out, uint64_t number) {
  if (number < 240) {
    out += static_cast<char>(number);
    return;
  }
  out += static_cast<char>(number | 240);
  for (number = (number - 240) >> 4; number >= 128; number = (number - 128) >> 7)
    out += static_cast<char>(number | 128);
  out += static_cast<char>(number);
}

void writeText(std::string& out, std::string_view text) {
  writeNumber(out, text.size());
  out += text;
}

const Value* Message::find(std::string_view arg) const {
  for (const auto& [name, value] : args)
    if (name == arg) return &value;
  return nullptr;
}

Result<Frame> readFrame(std::string_view bytes) {
  Reader in(bytes);
  Frame out;
  out.type = static_cast<FrameType>(in.byte());
  uint32_t flags = 0;
  for (int i = 0; i < 4; ++i) flags = flags << 8 | in.byte();
  out.fin = (flags & kFin) != 0;
  out.abort = (flags & kAbort) != 0;
  out.stream = in.number();
  out.id = in.number();
  if (!in.good()) return damaged("a frame is cut off");
  out.payload = in.rest();
  return out;
}

Result<List> readList(std::string_view payload) {
  Reader in(payload);
  List out;
  while (!in.empty() && in.good()) {
    if (out.size() == kMostItems) return damaged("a list is too long");
    const std::string_view name = in.text();
    out.emplace_back(name, in.value());
  }
  if (!in.good()) return damaged("a list is cut off");
  return out;
}

Result<std::vector<Message>> readMessages(std::string_view payload) {
  Reader in(payload);
  std::vector<Message> out;
  while (!in.empty() && in.good()) {
    if (out.size() == kMostItems) return damaged("there are too many messages");
    Message& message = out.emplace_back();
    message.name = in.text();
    for (int left = in.byte(); left > 0 && in.good(); --left) {
      const std::string_view name = in.text();
      message.args.emplace_back(name, in.value());
    }
  }
  if (!in.good()) return damaged("a message is cut off");
  return out;
}

Result<std::vector<std::pair<std::string_view, std::string_view>>> readHeaders(std::string_view bytes) {
  Reader in(bytes);
  std::vector<std::pair<std::string_view, std::string_view>> out;
  while (in.good() && !in.empty()) {
    const std::string_view name = in.text();
    const std::string_view value = in.text();
    if (in.good() && name.empty() && value.empty()) return out;
    if (out.size() == kMostItems) return damaged("there are too many headers");
    out.emplace_back(name, value);
  }
  return damaged("headers are cut off");
}

std::string addressText(const Value& value) {
  const bool four = value.type == Value::Type::kIpv4;
  if (!four && value.type != Value::Type::kIpv6) return "";
  char out[INET6_ADDRSTRLEN];
  return ::inet_ntop(four ? AF_INET : AF_INET6, value.bytes.data(), out, sizeof out) != nullptr ? out : "";
}

std::string agentHello(size_t frameSize) {
  std::string out = head(FrameType::kAgentHello, 0, 0);
  writeText(out, "version");
  writeString(out, kVersion);
  writeText(out, "max-frame-size");
  writeUint32(out, frameSize);
  writeText(out, "capabilities");
  writeString(out, "");
  return sized(std::move(out));
}

std::string agentDisconnect(Status status, std::string_view message) {
  std::string out = head(FrameType::kAgentDisconnect, 0, 0);
  writeText(out, "status-code");
  writeUint32(out, static_cast<uint64_t>(status));
  writeText(out, "message");
  writeString(out, message);
  return sized(std::move(out));
}

Ack::Ack(uint64_t stream, uint64_t id) : bytes_(head(FrameType::kAck, stream, id)) {}

void Ack::name(std::string_view name) {
  bytes_ += {kSetVar, kThreeArguments, kTransaction};
  writeText(bytes_, name);
}

void Ack::set(std::string_view variable, bool value) {
  name(variable);
  bytes_ += static_cast<char>(static_cast<uint8_t>(Value::Type::kBool) | (value ? kTrue : 0));
}

void Ack::set(std::string_view variable, std::string_view value) {
  name(variable);
  writeString(bytes_, value);
}

std::string Ack::frame() const {
  return sized(bytes_);
}

}  // namespace dhow::ingress::spop
