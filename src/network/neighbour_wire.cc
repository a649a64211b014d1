#include "neighbour_wire.h"

#include <algorithm>

#include "base/strings.h"

namespace dhow::neighbour {

namespace {

constexpr size_t kMacSize = 6, kArpSize = 28, kIp6Header = 40, kSolicitation = 24;
constexpr uint8_t kIcmp6 = 58, kNeighbourSolicitation = 135, kNeighbourAdvertisement = 136;

uint8_t byteAt(std::string_view m, size_t at) {
  return static_cast<uint8_t>(m[at]);
}
uint16_t get16(std::string_view m, size_t at) {
  return static_cast<uint16_t>(byteAt(m, at) << 8 | byteAt(m, at + 1));
}
void put16(std::string& out, uint32_t value) {
  out += static_cast<char>(value >> 8 & 0xff);
  out += static_cast<char>(value & 0xff);
}
void putMac(std::string& out, const Mac& mac) {
  out.append(mac.begin(), mac.end());
}
Mac macAt(std::string_view m, size_t at) {
  Mac out;
  std::copy_n(m.begin() + static_cast<std::ptrdiff_t>(at), kMacSize, out.begin());
  return out;
}

// RFC 1071, over the pseudo header of RFC 8200 as well.
uint16_t checksum(std::string_view source, std::string_view destination, std::string_view payload) {
  uint32_t sum = static_cast<uint32_t>(payload.size()) + kIcmp6;
  for (std::string_view part : {source, destination, payload}) {
    for (size_t i = 0; i < part.size(); i += 2)
      sum += static_cast<uint32_t>(byteAt(part, i) << 8) + (i + 1 < part.size() ? byteAt(part, i + 1) : 0U);
  }
  while (sum >> 16 != 0) sum = (sum & 0xffff) + (sum >> 16);
  return static_cast<uint16_t>(~sum);
}

std::string arp(uint16_t operation, const Mac& sender, std::string_view senderIp, const Mac& target,
                std::string_view targetIp) {
  std::string out;
  put16(out, 1);       // Ethernet
  put16(out, 0x0800);  // IPv4
  out += static_cast<char>(kMacSize);
  out += '\4';
  put16(out, operation);
  putMac(out, sender);
  out += senderIp;
  putMac(out, target);
  out += targetIp;
  return out;
}

}  // namespace

std::optional<Mac> parseMac(std::string_view text) {
  Mac out{};
  const auto parts = split(text, ':');
  if (parts.size() != kMacSize) return std::nullopt;
  for (size_t i = 0; i < kMacSize; i++) {
    if (parts[i].size() != 2 || parts[i].find_first_not_of("0123456789abcdefABCDEF") != std::string::npos)
      return std::nullopt;
    out[i] = static_cast<uint8_t>(std::stoul(parts[i], nullptr, 16));
  }
  return out;
}

std::optional<Question> readArp(std::string_view m) {
  constexpr size_t kSenderMac = 8, kSenderIp = 14, kTargetIp = 24;
  if (m.size() < kArpSize) return std::nullopt;
  if (get16(m, 0) != 1 || get16(m, 2) != 0x0800 || byteAt(m, 4) != kMacSize || byteAt(m, 5) != 4 || get16(m, 6) != 1)
    return std::nullopt;
  return Question{IpAddress::fromBytes(m.substr(kTargetIp, 4)), macAt(m, kSenderMac),
                  IpAddress::fromBytes(m.substr(kSenderIp, 4))};
}

std::optional<Question> readSolicitation(std::string_view m) {
  constexpr size_t kV6Size = 16, kSourceAt = 8, kTargetAt = kIp6Header + 8;
  constexpr uint8_t kHopLimit = 255, kSourceLink = 1;
  if (m.size() < kIp6Header + kSolicitation || byteAt(m, 0) >> 4 != 6 || byteAt(m, 6) != kIcmp6) return std::nullopt;
  // Who is beyond a router could not send it so (RFC 4861, section 7.1.1).
  if (byteAt(m, 7) != kHopLimit || byteAt(m, kIp6Header) != kNeighbourSolicitation || byteAt(m, kIp6Header + 1) != 0)
    return std::nullopt;
  const size_t length = get16(m, 4);
  if (length < kSolicitation || kIp6Header + length > m.size()) return std::nullopt;
  m = m.substr(0, kIp6Header + length);
  if (checksum(m.substr(kSourceAt, kV6Size), m.substr(kSourceAt + kV6Size, kV6Size), m.substr(kIp6Header)) != 0)
    return std::nullopt;
  Question out;
  out.target = IpAddress::fromBytes(m.substr(kTargetAt, kV6Size));
  out.from = IpAddress::fromBytes(m.substr(kSourceAt, kV6Size));
  for (size_t at = kIp6Header + kSolicitation; at + 2 <= m.size();) {
    const size_t size = size_t{byteAt(m, at + 1)} * 8;
    if (size == 0 || at + size > m.size()) return std::nullopt;
    if (byteAt(m, at) == kSourceLink) out.asker = macAt(m, at + 2);
    at += size;
  }
  return out;
}

std::string arpReply(const Question& question, const Mac& own) {
  return arp(2, own, question.target.bytes(), question.asker, question.from.bytes());
}

std::string arpAnnouncement(const IpAddress& address, const Mac& own) {
  return arp(1, own, address.bytes(), Mac{}, address.bytes());
}

std::string advertisement(const IpAddress& address, const Mac& own, const Question* question) {
  constexpr uint8_t kSolicited = 0x40, kOverride = 0x20, kTargetLink = 2;
  static const IpAddress kAllNodes = IpAddress::parse("ff02::1").value();
  const bool toOne = question != nullptr && !question->from.isUnspecified();
  const IpAddress to = toOne ? question->from : kAllNodes;
  std::string body;
  body += static_cast<char>(kNeighbourAdvertisement);
  body += '\0';
  put16(body, 0);  // the checksum
  body += static_cast<char>(kOverride | (toOne ? kSolicited : 0));
  body.append(3, '\0');
  body += address.bytes();
  body += static_cast<char>(kTargetLink);
  body += '\1';
  putMac(body, own);
  const uint16_t sum = checksum(address.bytes(), to.bytes(), body);
  body[2] = static_cast<char>(sum >> 8);
  body[3] = static_cast<char>(sum & 0xff);
  std::string out("\x60\0\0\0", 4);
  put16(out, static_cast<uint32_t>(body.size()));
  out += static_cast<char>(kIcmp6);
  out += '\xff';
  out += address.bytes();
  out += to.bytes();
  return out + body;
}

Mac groupMac(const IpAddress& group) {
  auto bytes = group.bytes();
  Mac out{0x33, 0x33};
  for (size_t i = 0; i < 4; i++) out[i + 2] = byteAt(bytes, bytes.size() - 4 + i);
  return out;
}

IpAddress solicitedNode(const IpAddress& address) {
  std::string bytes("\xff\x02\0\0\0\0\0\0\0\0\0\x01\xff", 13);
  bytes += address.bytes().substr(13);
  return IpAddress::fromBytes(bytes);
}

// "DHOW", version, flags (health, leaving, more), length of the name, name, number of addresses, then each with its
// length in front.
std::string writeBeat(const AnnounceBeat& beat) {
  constexpr size_t kLongest = 255;
  std::string out = "DHOW\1";
  out += static_cast<char>(static_cast<uint8_t>(beat.health) | (beat.leaving ? 0x80 : 0) | (beat.more ? 0x40 : 0));
  const auto name = std::string_view(beat.node).substr(0, kLongest);
  out += static_cast<char>(name.size());
  out += name;
  const size_t count = std::min(beat.held.size(), kBeatAddresses);
  out += static_cast<char>(count);
  for (size_t i = 0; i < count; i++) {
    out += static_cast<char>(beat.held[i].bytes().size());
    out += beat.held[i].bytes();
  }
  return out;
}

std::optional<AnnounceBeat> readBeat(std::string_view m) {
  constexpr size_t kName = 7;
  constexpr uint8_t kHealth = 0x03;
  if (m.size() < kName || !m.starts_with("DHOW\1")) return std::nullopt;
  AnnounceBeat out;
  const uint8_t flags = byteAt(m, 5), length = byteAt(m, 6);
  if ((flags & kHealth) > static_cast<uint8_t>(NodeHealth::kCutOff)) return std::nullopt;
  out.health = static_cast<NodeHealth>(flags & kHealth);
  out.leaving = (flags & 0x80) != 0;
  out.more = (flags & 0x40) != 0;
  if (length == 0 || m.size() < kName + length + 1U) return std::nullopt;
  out.node = m.substr(kName, length);
  size_t at = kName + length + 1U;
  const size_t count = byteAt(m, at - 1);
  if (count > kBeatAddresses) return std::nullopt;
  for (size_t i = 0; i < count; i++) {
    if (at >= m.size()) return std::nullopt;
    const size_t size = byteAt(m, at);
    if ((size != 4 && size != 16) || at + 1 + size > m.size()) return std::nullopt;
    out.held.push_back(IpAddress::fromBytes(m.substr(at + 1, size)));
    at += 1 + size;
  }
  return out;
}

}  // namespace dhow::neighbour
