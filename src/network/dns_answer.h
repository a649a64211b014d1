// What a question leads to before anything is sent: an answer of our own, a question for others, or nothing.
#pragma once

#include "dns_wire.h"

namespace dhow::dns {

struct Outcome {
  enum class Kind { kDrop, kReply, kForward } kind = Kind::kDrop;
  std::string reply;
  // Of a question for others:
  Query query;
  std::string name;               // the question's own, or where `prefix` leads
  std::vector<DnsRecord> prefix;  // CNAMEs that come before the answer
};

Outcome answerFrom(const DnsSource& source, std::string_view message, const IpAddress& client, bool tcp);
// The reply to the client from what an upstream resolver said (nothing: it said nothing).
std::string replyFrom(const Outcome& outcome, const std::string* upstream, bool tcp);
// The same message with every time to live `seconds` shorter, but `least` or more.
void age(std::string& message, const std::vector<size_t>& ttlOffsets, uint32_t seconds, uint32_t least = 0);

}  // namespace dhow::dns
