// IPv4 ranges as numbers, for controllers that hand out addresses.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/strings.h"

namespace dhow::controllers {

inline std::string ipv4Text(uint32_t address) {
  return fmt::format("{}.{}.{}.{}", address >> 24, (address >> 16) & 255, (address >> 8) & 255, address & 255);
}

inline std::optional<uint32_t> parseIpv4(std::string_view text) {
  uint32_t address = 0;
  auto parts = split(text, '.');
  if (parts.size() != 4) return std::nullopt;
  for (const auto& part : parts) {
    auto octet = parseUint(part);
    if (!octet || *octet > 255) return std::nullopt;
    address = (address << 8) | static_cast<uint32_t>(*octet);
  }
  return address;
}

struct Ipv4Range {
  uint32_t first = 0;
  int length = 32;

  static std::optional<Ipv4Range> parse(std::string_view text) {
    auto pair = splitOnce(text, '/');
    if (!pair) return std::nullopt;
    auto address = parseIpv4(pair->first);
    auto length = parseUint(pair->second);
    if (!address || !length || *length < 1 || *length > 32) return std::nullopt;
    auto bits = static_cast<int>(*length);
    return Ipv4Range{*address & (~0u << (32 - bits)), bits};
  }
  uint64_t size() const { return 1ull << (32 - length); }
  bool contains(uint32_t address) const { return address >= first && address - first < size(); }
  std::string str() const { return fmt::format("{}/{}", ipv4Text(first), length); }
};

}  // namespace dhow::controllers
