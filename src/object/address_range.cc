#include "object/address_range.h"

#include <arpa/inet.h>

#include <algorithm>

#include "base/strings.h"

namespace dhow::object {

namespace {

constexpr AddressNumber kMapped = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

bool isV4(const AddressNumber& address) {
  return std::equal(kMapped.begin(), kMapped.begin() + 12, address.begin());
}

AddressNumber previous(AddressNumber address) {
  for (size_t i = address.size(); i-- > 0;) {
    if (address[i]-- != 0) break;
  }
  return address;
}

std::optional<AddressRange> parsePrefix(std::string_view text, std::string_view lengthText) {
  constexpr size_t kV4Before = 96, kBits = 128, kSmallest = 30;
  auto address = parseAddress(text);
  auto length = parseUint(lengthText);
  if (!address || !length) return std::nullopt;
  const bool v4 = isV4(*address);
  if (*length > (v4 ? kBits - kV4Before : kBits)) return std::nullopt;
  AddressRange out{*address, *address};
  for (size_t bit = *length + (v4 ? kV4Before : 0); bit < kBits; bit++) {
    const auto mask = static_cast<uint8_t>(0x80 >> bit % 8);
    out.first[bit / 8] = static_cast<uint8_t>(out.first[bit / 8] & ~mask);
    out.last[bit / 8] = static_cast<uint8_t>(out.last[bit / 8] | mask);
  }
  if (v4 && *length <= kSmallest) {
    out.first = next(out.first);
    out.last = previous(out.last);
  }
  return out;
}

}  // namespace

std::optional<AddressNumber> parseAddress(std::string_view text) {
  const std::string copy(text);
  AddressNumber out = kMapped;
  if (inet_pton(AF_INET, copy.c_str(), out.data() + 12) == 1) return out;
  // A mapped address would be two ways to write one.
  if (inet_pton(AF_INET6, copy.c_str(), out.data()) == 1 && !isV4(out)) return out;
  return std::nullopt;
}

std::string addressText(const AddressNumber& address) {
  char text[INET6_ADDRSTRLEN] = {};
  if (isV4(address)) {
    inet_ntop(AF_INET, address.data() + 12, text, sizeof text);
  } else {
    inet_ntop(AF_INET6, address.data(), text, sizeof text);
  }
  return text;
}

std::optional<AddressRange> AddressRange::parse(std::string_view text) {
  if (auto prefix = splitOnce(text, '/')) return parsePrefix(prefix->first, prefix->second);
  auto ends = splitOnce(text, '-');
  if (!ends) return std::nullopt;
  auto first = parseAddress(trim(ends->first)), last = parseAddress(trim(ends->second));
  if (!first || !last || isV4(*first) != isV4(*last) || *last < *first) return std::nullopt;
  return AddressRange{*first, *last};
}

uint64_t AddressRange::size() const {
  constexpr uint64_t kMost = uint64_t{1} << 62;
  uint64_t difference = 0;
  for (size_t i = 0; i < first.size(); i++) {
    // Digit by digit: what is left of the subtraction fits, or is more than we tell.
    const auto digit = static_cast<int64_t>(last[i]) - static_cast<int64_t>(first[i]);
    if (difference >= kMost / 256) return kMost;
    difference = difference * 256 + static_cast<uint64_t>(digit);
  }
  return std::min(difference + 1, kMost);
}

AddressNumber next(AddressNumber address) {
  for (size_t i = address.size(); i-- > 0;) {
    if (++address[i] != 0) break;
  }
  return address;
}

}  // namespace dhow::object
