// Ranges of IP addresses as people write them: "192.0.2.0/24", "192.0.2.10-192.0.2.20", "2001:db8::/120".
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace dhow::object {

// An address as a number that is compared and counted up; IPv4 in its mapped form (::ffff:a.b.c.d), so that all have
// one order.
using AddressNumber = std::array<uint8_t, 16>;

std::optional<AddressNumber> parseAddress(std::string_view text);
std::string addressText(const AddressNumber& address);

struct AddressRange {
  AddressNumber first{}, last{};  // both belong to it

  // Of an IPv4 prefix up to /30 the first and last address, which name the network and everybody in it, are left out.
  static std::optional<AddressRange> parse(std::string_view text);
  bool contains(const AddressNumber& address) const { return first <= address && address <= last; }
  bool overlaps(const AddressRange& other) const { return first <= other.last && other.first <= last; }
  uint64_t size() const;  // at most 2^62
};

// The next address; that behind the last one is the first.
AddressNumber next(AddressNumber address);

}  // namespace dhow::object
