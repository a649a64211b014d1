// IP addresses, prefixes and socket addresses as values. IPv4 and IPv6.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace dhow {

enum class IpFamily : uint8_t { kV4 = 4, kV6 = 6 };

class IpAddress {
 public:
  IpAddress() = default;  // empty: no address
  static IpAddress v4(uint32_t hostOrder);
  static IpAddress v6(const std::array<uint8_t, 16>& bytes);
  static IpAddress fromBytes(std::string_view networkOrder);  // 4 or 16 bytes, otherwise empty
  static Result<IpAddress> parse(std::string_view text);      // kInvalid

  bool empty() const { return family_ == 0; }
  bool isV4() const { return family_ == 4; }
  bool isV6() const { return family_ == 6; }
  bool is(IpFamily family) const { return family_ == static_cast<uint8_t>(family); }
  bool isLoopback() const;
  bool isUnspecified() const;
  int bits() const { return isV4() ? 32 : 128; }
  uint32_t v4Value() const;        // host order; 0 unless IPv4
  std::string_view bytes() const;  // network order, 4 or 16
  IpAddress plus(uint64_t n) const;
  std::string str() const;  // "" when empty

  auto operator<=>(const IpAddress&) const = default;

 private:
  uint8_t family_ = 0;
  std::array<uint8_t, 16> bytes_{};
};

struct IpPrefix {
  IpAddress address;  // with the host bits as given
  int length = 0;

  static Result<IpPrefix> parse(std::string_view text);  // "10.244.0.0/16"; kInvalid
  static IpPrefix host(const IpAddress& address) { return {address, address.bits()}; }
  IpAddress network() const;  // host bits cleared
  IpPrefix masked() const { return {network(), length}; }
  bool contains(const IpAddress& other) const;
  bool overlaps(const IpPrefix& other) const;
  IpAddress last() const;      // all host bits set
  uint64_t hostCount() const;  // addresses in it, at most 2^63
  std::string str() const;     // "10.244.0.0/16"
  auto operator<=>(const IpPrefix&) const = default;
};

// 02:42:... : a locally administered address made from an IPv4 address, as Docker does.
std::string macFor(const IpAddress& address);

enum class Protocol : uint8_t { kTcp = 6, kUdp = 17, kSctp = 132 };
std::string_view protocolName(Protocol protocol);       // "tcp"
Result<Protocol> parseProtocol(std::string_view text);  // any case; empty is TCP

}  // namespace dhow

template <>
struct std::hash<dhow::IpAddress> {
  size_t operator()(const dhow::IpAddress& a) const noexcept { return std::hash<std::string_view>()(a.bytes()); }
};
