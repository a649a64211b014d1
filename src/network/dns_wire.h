// DNS messages, for this folder only. Reads whatever comes without trusting it. RFC 1035, 6891.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "network/dns.h"

namespace dhow::dns {

inline constexpr uint8_t kNoError = 0, kFormatError = 1, kServerFailure = 2, kNoSuchName = 3, kNotImplemented = 4,
                         kRefused = 5;
inline constexpr uint16_t kBadVersion = 16;  // RFC 6891
inline constexpr uint16_t kOpt = 41, kClassIn = 1, kClassAny = 255;
inline constexpr size_t kHeaderSize = 12, kUdpDefault = 512, kUdpMost = 1232, kTcpMost = 65535;

struct Query {
  uint16_t id = 0;
  uint8_t opcode = 0;
  bool recursionDesired = false, checkingDisabled = false;
  std::string question;  // as it came: name, type, class
  std::string name;      // lower case
  uint16_t type = 0, dnsClass = 0;
  bool edns = false, dnssecOk = false;
  uint16_t udpSize = 0;
  uint8_t ednsVersion = 0;
  size_t replyLimit(bool tcp) const;
};
enum class ReadStatus { kOk, kDrop, kFormatError };
// On kFormatError the query has at least its id.
ReadStatus readQuery(std::string_view message, Query& out);

// A name in wire form becomes text in lower case; gives the offset behind it, or nothing.
std::optional<size_t> readName(std::string_view message, size_t at, std::string& out);
// False when a label or the name is too long.
bool writeName(std::string_view name, std::string& out);

struct Reply {
  uint16_t code = kNoError;
  bool authoritative = true;
  std::vector<DnsRecord> answers, extra;
  std::string zone;  // its SOA is added to an answer without records
  uint32_t negativeTtl = 5;
};
// The record that tells of a zone, and for how long what it does not have may be remembered.
DnsRecord soaOf(const std::string& zone, uint32_t ttl);
// Truncated, with the flag, where it is longer than `limit`.
std::string writeReply(const Query& query, const Reply& reply, size_t limit);

// A query of our own to an upstream resolver.
std::string writeQuery(uint16_t id, const std::string& question, const Query& like);
std::string makeQuestion(std::string_view name, uint16_t type);

// What an upstream resolver said.
struct Upstream {
  uint16_t id = 0;
  uint8_t code = 0;
  bool truncated = false;
  std::string name;
  uint16_t type = 0;
  uint32_t leastTtl = 0;  // of its records; of the SOA for a negative answer
  std::vector<size_t> ttlOffsets;
  std::vector<DnsRecord> answers;  // those of types that we know
};
std::optional<Upstream> readUpstream(std::string_view message);

}  // namespace dhow::dns
