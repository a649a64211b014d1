#include "network/ip.h"

#include <arpa/inet.h>

#include <cstring>

#include "base/strings.h"

namespace dhow {

IpAddress IpAddress::v4(uint32_t hostOrder) {
  IpAddress a;
  a.family_ = 4;
  uint32_t net = htonl(hostOrder);
  std::memcpy(a.bytes_.data(), &net, 4);
  return a;
}

IpAddress IpAddress::v6(const std::array<uint8_t, 16>& bytes) {
  IpAddress a;
  a.family_ = 6;
  a.bytes_ = bytes;
  return a;
}

IpAddress IpAddress::fromBytes(std::string_view networkOrder) {
  IpAddress a;
  if (networkOrder.size() == 4) a.family_ = 4;
  if (networkOrder.size() == 16) a.family_ = 6;
  if (a.family_ != 0) std::memcpy(a.bytes_.data(), networkOrder.data(), networkOrder.size());
  return a;
}

Result<IpAddress> IpAddress::parse(std::string_view text) {
  std::string zeroEnded(text);
  unsigned char buffer[16];
  if (zeroEnded.find('\0') == std::string::npos) {
    if (inet_pton(AF_INET, zeroEnded.c_str(), buffer) == 1) return fromBytes({reinterpret_cast<char*>(buffer), 4});
    if (inet_pton(AF_INET6, zeroEnded.c_str(), buffer) == 1) return fromBytes({reinterpret_cast<char*>(buffer), 16});
  }
  return Error(Code::kInvalid, fmt::format("invalid IP address \"{}\"", text));
}

bool IpAddress::isLoopback() const {
  if (isV4()) return bytes_[0] == 127;
  return isV6() && std::all_of(bytes_.begin(), bytes_.end() - 1, [](uint8_t b) { return b == 0; }) && bytes_[15] == 1;
}

bool IpAddress::isUnspecified() const {
  return !empty() && std::all_of(bytes_.begin(), bytes_.end(), [](uint8_t b) { return b == 0; });
}

uint32_t IpAddress::v4Value() const {
  if (!isV4()) return 0;
  uint32_t net;
  std::memcpy(&net, bytes_.data(), 4);
  return ntohl(net);
}

std::string_view IpAddress::bytes() const {
  return {reinterpret_cast<const char*>(bytes_.data()), isV4() ? 4u : isV6() ? 16u : 0u};
}

IpAddress IpAddress::plus(uint64_t n) const {
  IpAddress out = *this;
  for (int i = (isV4() ? 4 : 16) - 1; i >= 0 && n > 0; i--) {
    uint64_t sum = out.bytes_[i] + (n & 0xff);
    out.bytes_[i] = static_cast<uint8_t>(sum);
    n = (n >> 8) + (sum >> 8);
  }
  return out;
}

std::string IpAddress::str() const {
  if (empty()) return "";
  char buffer[INET6_ADDRSTRLEN];
  return inet_ntop(isV4() ? AF_INET : AF_INET6, bytes_.data(), buffer, sizeof buffer);
}

Result<IpPrefix> IpPrefix::parse(std::string_view text) {
  auto parts = splitOnce(text, '/');
  if (!parts) return Error(Code::kInvalid, fmt::format("invalid CIDR \"{}\"", text));
  ASSIGN_OR_RETURN(auto address, IpAddress::parse(parts->first));
  auto length = parseUint(parts->second);
  if (!length || *length > static_cast<uint64_t>(address.bits())) {
    return Error(Code::kInvalid, fmt::format("invalid CIDR \"{}\"", text));
  }
  return IpPrefix{address, static_cast<int>(*length)};
}

IpAddress IpPrefix::network() const {
  std::string bytes(address.bytes());
  for (size_t i = 0; i < bytes.size(); i++) {
    int keep = std::clamp(length - static_cast<int>(i) * 8, 0, 8);
    bytes[i] = static_cast<char>(bytes[i] & (0xff00 >> keep));
  }
  return IpAddress::fromBytes(bytes);
}

IpAddress IpPrefix::last() const {
  std::string bytes(address.bytes());
  for (size_t i = 0; i < bytes.size(); i++) {
    const int keep = std::clamp(length - static_cast<int>(i) * 8, 0, 8);
    bytes[i] = static_cast<char>(static_cast<uint8_t>(bytes[i]) | (0xff >> keep));
  }
  return IpAddress::fromBytes(bytes);
}

bool IpPrefix::contains(const IpAddress& other) const {
  if (address.empty() || other.bits() != address.bits() || other.empty()) return false;
  return IpPrefix{other, length}.network() == network();
}

bool IpPrefix::overlaps(const IpPrefix& other) const {
  return contains(other.network()) || other.contains(network());
}

uint64_t IpPrefix::hostCount() const {
  int bits = address.bits() - length;
  return bits >= 63 ? uint64_t{1} << 63 : uint64_t{1} << bits;
}

std::string IpPrefix::str() const {
  return address.empty() ? "" : fmt::format("{}/{}", address.str(), length);
}

std::string macFor(const IpAddress& address) {
  auto b = address.bytes();
  auto at = [&](size_t i) { return static_cast<uint8_t>(b.size() < 4 ? 0 : b[b.size() - 4 + i]); };
  return fmt::format("02:42:{:02x}:{:02x}:{:02x}:{:02x}", at(0), at(1), at(2), at(3));
}

std::string_view protocolName(Protocol protocol) {
  switch (protocol) {
    case Protocol::kTcp: return "tcp";
    case Protocol::kUdp: return "udp";
    case Protocol::kSctp: return "sctp";
  }
  return "tcp";
}

Result<Protocol> parseProtocol(std::string_view text) {
  if (text.empty() || equalsIgnoreCase(text, "tcp")) return Protocol::kTcp;
  if (equalsIgnoreCase(text, "udp")) return Protocol::kUdp;
  if (equalsIgnoreCase(text, "sctp")) return Protocol::kSctp;
  return Error(Code::kInvalid, fmt::format("invalid protocol \"{}\"", text));
}

}  // namespace dhow
