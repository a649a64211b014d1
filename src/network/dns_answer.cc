#include "dns_answer.h"

#include <algorithm>
#include <cstring>

#include "base/strings.h"

namespace dhow::dns {

namespace {

constexpr int kMaxChain = 8;
constexpr uint16_t kIxfr = 251, kAxfr = 252;

Outcome replyWith(const Query& query, const Reply& reply, bool tcp) {
  return {.kind = Outcome::Kind::kReply,
          .reply = writeReply(query, reply, query.replyLimit(tcp)),
          .query = {},
          .name = "",
          .prefix = {}};
}

Outcome refuse(const Query& query, uint16_t code, bool tcp) {
  return replyWith(query, {.code = code, .authoritative = false, .answers = {}, .extra = {}, .zone = ""}, tcp);
}

}  // namespace

Outcome answerFrom(const DnsSource& source, std::string_view message, const IpAddress& client, bool tcp) {
  Query query;
  switch (readQuery(message, query)) {
    case ReadStatus::kDrop: return {};
    case ReadStatus::kFormatError: query.question.clear(); return refuse(query, kFormatError, tcp);
    case ReadStatus::kOk: break;
  }
  if (query.edns && query.ednsVersion != 0) return refuse(query, kBadVersion, tcp);
  if (query.opcode != 0) return refuse(query, kNotImplemented, tcp);
  bool transfer = query.type == kAxfr || query.type == kIxfr;
  if (transfer || (query.dnsClass != kClassIn && query.dnsClass != kClassAny)) return refuse(query, kRefused, tcp);
  Reply reply;
  std::string name = query.name;
  for (int step = 0; step < kMaxChain; step++) {
    auto found = source.answer(name, query.type, client);
    if (found.kind == DnsSource::Answer::Kind::kNotMine) {
      return {.kind = Outcome::Kind::kForward,
              .reply = "",
              .query = std::move(query),
              .name = name,
              .prefix = std::move(reply.answers)};
    }
    if (!found.zone.empty()) reply.zone = found.zone;
    if (found.kind == DnsSource::Answer::Kind::kNoName) {
      reply.code = kNoSuchName;
      return replyWith(query, reply, tcp);
    }
    reply.answers.insert(reply.answers.end(), found.records.begin(), found.records.end());
    reply.extra.insert(reply.extra.end(), found.extra.begin(), found.extra.end());
    if (found.canonical.empty()) return replyWith(query, reply, tcp);
    name = found.canonical;
  }
  return refuse(query, kServerFailure, tcp);  // a circle of CNAMEs
}

std::string replyFrom(const Outcome& outcome, const std::string* upstream, bool tcp) {
  const Query& query = outcome.query;
  size_t limit = query.replyLimit(tcp);
  std::optional<Upstream> said;
  if (upstream != nullptr) said = readUpstream(*upstream);
  if (!said) {
    return writeReply(query, {.code = kServerFailure, .authoritative = false, .answers = {}, .extra = {}, .zone = ""},
                      limit);
  }
  if (!outcome.prefix.empty()) {
    Reply reply{.code = said->code, .authoritative = false, .answers = outcome.prefix, .extra = {}, .zone = ""};
    reply.answers.insert(reply.answers.end(), said->answers.begin(), said->answers.end());
    return writeReply(query, reply, limit);
  }
  bool sameQuestion = upstream->size() >= kHeaderSize + query.question.size() && said->name == query.name;
  if (upstream->size() > limit || !sameQuestion) {
    Query cut = query;
    auto out =
        writeReply(cut, {.code = said->code, .authoritative = false, .answers = {}, .extra = {}, .zone = ""}, limit);
    out[2] = static_cast<char>(out[2] | 0x02);
    return out;
  }
  std::string out = *upstream;
  out[0] = static_cast<char>(query.id >> 8);
  out[1] = static_cast<char>(query.id & 0xff);
  out[2] = static_cast<char>((out[2] & ~0x05) | (query.recursionDesired ? 1 : 0));  // not our authority
  out[3] = static_cast<char>(out[3] | 0x80);
  std::memcpy(out.data() + kHeaderSize, query.question.data(), query.question.size());  // the client's own spelling
  return out;
}

void age(std::string& message, const std::vector<size_t>& ttlOffsets, uint32_t seconds, uint32_t least) {
  for (size_t at : ttlOffsets) {
    uint32_t ttl = 0;
    for (size_t i = 0; i < 4; i++) ttl = ttl << 8 | static_cast<uint8_t>(message[at + i]);
    ttl = std::max(ttl > seconds ? ttl - seconds : 0, least);
    for (size_t i = 0; i < 4; i++) message[at + i] = static_cast<char>(ttl >> (24 - 8 * i) & 0xff);
  }
}

}  // namespace dhow::dns

namespace dhow {

std::string DnsUpstream::str() const {
  return fmt::format("{}{}{}:{}", address.isV6() ? "[" : "", address.str(), address.isV6() ? "]" : "", port);
}

std::optional<DnsUpstream> DnsUpstream::parse(std::string_view text) {
  constexpr uint64_t kLastPort = 65535;
  if (auto alone = IpAddress::parse(text); alone.ok()) return DnsUpstream{*alone, 53};
  const size_t colon = text.rfind(':');
  if (colon == text.npos) return std::nullopt;
  auto host = text.substr(0, colon);
  const bool bracketed = host.starts_with('[') && host.ends_with(']');
  if (bracketed) host = host.substr(1, host.size() - 2);
  auto address = IpAddress::parse(host);
  auto port = parseUint(text.substr(colon + 1));
  if (!address.ok() || address->isV6() != bracketed || !port || *port == 0 || *port > kLastPort) return std::nullopt;
  return DnsUpstream{*address, static_cast<uint16_t>(*port)};
}

std::vector<IpAddress> parseNameservers(std::string_view resolvConf) {
  constexpr size_t kMost = 3;
  std::vector<IpAddress> out;
  for (auto& line : split(resolvConf, '\n')) {
    std::string text = line;
    std::replace(text.begin(), text.end(), '\t', ' ');
    auto words = splitOnce(trim(text), ' ');
    if (!words || words->first != "nameserver" || out.size() == kMost) continue;
    auto value = trim(words->second);
    auto address = IpAddress::parse(value.substr(0, value.find_first_of(" #;%")));
    if (address.ok()) out.push_back(*address);
  }
  return out;
}

}  // namespace dhow
