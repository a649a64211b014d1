#include "dns_wire.h"

#include <algorithm>
#include <array>

namespace dhow::dns {

namespace {

constexpr size_t kMaxName = 253, kMaxLabel = 63;
constexpr int kMaxJumps = 64;

uint16_t get16(std::string_view m, size_t at) {
  return static_cast<uint16_t>(static_cast<uint8_t>(m[at]) << 8 | static_cast<uint8_t>(m[at + 1]));
}
uint32_t get32(std::string_view m, size_t at) {
  return static_cast<uint32_t>(get16(m, at)) << 16 | get16(m, at + 2);
}
void put16(std::string& out, uint16_t value) {
  out += static_cast<char>(value >> 8);
  out += static_cast<char>(value & 0xff);
}
void put32(std::string& out, uint32_t value) {
  put16(out, static_cast<uint16_t>(value >> 16));
  put16(out, static_cast<uint16_t>(value & 0xffff));
}
void set16(std::string& out, size_t at, uint16_t value) {
  out[at] = static_cast<char>(value >> 8);
  out[at + 1] = static_cast<char>(value & 0xff);
}

// Writes names with pointers to where the same ending stands already: first of all in the question, so that names are
// spelled as the client spelled them.
class Writer {
 public:
  // `question`: the name in it, in lower case, or empty. It outlives the writer, as all names do that are written.
  Writer(std::string& out, std::string_view question) : out_(out) { known(question, kHeaderSize); }
  void name(std::string_view text) {
    while (!text.empty()) {
      for (size_t i = 0; i < count_; i++) {
        if (known_[i].first != text) continue;
        put16(out_, static_cast<uint16_t>(0xc000 | known_[i].second));
        return;
      }
      remember(text, out_.size());
      size_t dot = std::min(text.find('.'), text.size());
      size_t size = std::min(dot, kMaxLabel);
      out_ += static_cast<char>(size);
      out_ += text.substr(0, size);
      text.remove_prefix(std::min(dot + 1, text.size()));
    }
    out_ += '\0';
  }
  void record(const DnsRecord& r) {
    name(r.name);
    put16(out_, r.type);
    put16(out_, kClassIn);
    put32(out_, r.ttl);
    size_t lengthAt = out_.size();
    put16(out_, 0);
    data(r);
    set16(out_, lengthAt, static_cast<uint16_t>(out_.size() - lengthAt - 2));
  }

 private:
  void data(const DnsRecord& r) {
    switch (r.type) {
      case kDnsA:
      case kDnsAaaa: out_ += r.address.bytes(); break;
      case kDnsSrv:
        put16(out_, r.priority);
        put16(out_, r.weight);
        put16(out_, r.port);
        writeName(r.target, out_);  // RFC 2782: not compressed
        break;
      case kDnsTxt:
        for (size_t at = 0; at == 0 || at < r.text.size(); at += 255) {
          auto part = std::string_view(r.text).substr(at, 255);
          out_ += static_cast<char>(part.size());
          out_ += part;
        }
        break;
      case kDnsSoa:
        name(r.target);
        out_ += '\x0a';
        out_ += "hostmaster";
        name(r.name);
        for (uint32_t value : {1u, 7200u, 1800u, 86400u, r.ttl}) put32(out_, value);
        break;
      default: name(r.target);
    }
  }
  void known(std::string_view text, size_t at) {
    while (!text.empty()) {
      remember(text, at);
      size_t dot = text.find('.');
      if (dot == text.npos) return;
      at += dot + 1;
      text.remove_prefix(dot + 1);
    }
  }
  void remember(std::string_view text, size_t at) {
    constexpr size_t kFurthest = 0x3fff;
    if (count_ < known_.size() && at <= kFurthest) known_[count_++] = {text, static_cast<uint16_t>(at)};
  }
  std::string& out_;
  // Few answers have more; those are a little longer then.
  std::array<std::pair<std::string_view, uint16_t>, 32> known_;
  size_t count_ = 0;
};

}  // namespace

size_t Query::replyLimit(bool tcp) const {
  if (tcp) return kTcpMost;
  if (!edns) return kUdpDefault;
  return std::clamp<size_t>(udpSize, kUdpDefault, kUdpMost);
}

std::optional<size_t> readName(std::string_view message, size_t at, std::string& out) {
  out.clear();
  std::optional<size_t> behind;
  for (int jumps = 0;;) {
    if (at >= message.size()) return std::nullopt;
    auto length = static_cast<uint8_t>(message[at]);
    if (length == 0) return behind ? behind : at + 1;
    if ((length & 0xc0) == 0xc0) {
      if (at + 1 >= message.size() || ++jumps > kMaxJumps) return std::nullopt;
      if (!behind) behind = at + 2;
      at = get16(message, at) & 0x3fff;
      continue;
    }
    if (length > kMaxLabel || at + 1 + length > message.size()) return std::nullopt;
    if (!out.empty()) out += '.';
    for (char c : message.substr(at + 1, length)) {
      // A dot inside of a label would read as two labels; such names are nobody's here.
      if (c == '.' || c == '\0') return std::nullopt;
      out += c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
    }
    if (out.size() > kMaxName) return std::nullopt;
    at += 1u + length;
  }
}

bool writeName(std::string_view name, std::string& out) {
  if (name.size() > kMaxName) return false;
  while (!name.empty()) {
    size_t dot = std::min(name.find('.'), name.size());
    if (dot == 0 || dot > kMaxLabel) return false;
    out += static_cast<char>(dot);
    out += name.substr(0, dot);
    name.remove_prefix(std::min(dot + 1, name.size()));
  }
  out += '\0';
  return true;
}

ReadStatus readQuery(std::string_view m, Query& out) {
  if (m.size() < kHeaderSize) return ReadStatus::kDrop;
  uint16_t flags = get16(m, 2);
  if ((flags & 0x8000) != 0) return ReadStatus::kDrop;  // an answer, not a question
  out.id = get16(m, 0);
  out.opcode = (flags >> 11) & 0xf;
  out.recursionDesired = (flags & 0x0100) != 0;
  out.checkingDisabled = (flags & 0x0010) != 0;
  if (get16(m, 4) != 1 || get16(m, 6) != 0) return ReadStatus::kFormatError;
  auto at = readName(m, kHeaderSize, out.name);
  if (!at || *at + 4 > m.size()) return ReadStatus::kFormatError;
  out.type = get16(m, *at);
  out.dnsClass = get16(m, *at + 2);
  size_t end = *at + 4;
  out.question = m.substr(kHeaderSize, end - kHeaderSize);
  size_t records = size_t{get16(m, 8)} + get16(m, 10);
  std::string name;
  for (size_t i = 0; i < records; i++) {
    auto behind = readName(m, end, name);
    if (!behind || *behind + 10 > m.size()) return ReadStatus::kFormatError;
    size_t length = get16(m, *behind + 8);
    if (*behind + 10 + length > m.size()) return ReadStatus::kFormatError;
    if (get16(m, *behind) == kOpt) {
      if (out.edns) return ReadStatus::kFormatError;
      out.edns = true;
      out.udpSize = get16(m, *behind + 2);
      out.ednsVersion = static_cast<uint8_t>(m[*behind + 5]);
      out.dnssecOk = (get32(m, *behind + 4) & 0x8000) != 0;
    }
    end = *behind + 10 + length;
  }
  return ReadStatus::kOk;
}

namespace {

void putHeader(std::string& out, const Query& query, uint16_t code, bool authoritative) {
  put16(out, query.id);
  uint16_t flags = static_cast<uint16_t>(0x8080 | (query.opcode & 0xf) << 11 | (code & 0xf));
  if (authoritative) flags |= 0x0400;
  if (query.recursionDesired) flags |= 0x0100;
  if (query.checkingDisabled) flags |= 0x0010;
  put16(out, flags);
  put16(out, query.question.empty() ? 0 : 1);
  put16(out, 0);
  put16(out, 0);
  put16(out, 0);
  out += query.question;
}

// `code`: of the twelve bits of a reply's code, the upper eight stand here.
void putOpt(std::string& out, uint16_t size, bool dnssecOk, uint16_t code = 0) {
  out += '\0';
  put16(out, kOpt);
  put16(out, size);
  put32(out, static_cast<uint32_t>(code >> 4) << 24 | (dnssecOk ? 0x8000 : 0));
  put16(out, 0);
}

}  // namespace

std::string writeReply(const Query& query, const Reply& reply, size_t limit) {
  constexpr size_t kOptSize = 11;
  std::string out;
  putHeader(out, query, reply.code, reply.authoritative);
  size_t room = limit - (query.edns ? kOptSize : 0);
  Writer writer(out, query.question.empty() ? std::string_view() : query.name);
  const std::vector<DnsRecord> soa{soaOf(reply.zone, reply.negativeTtl)};
  bool full = false;
  auto section = [&](const std::vector<DnsRecord>& records, size_t countAt) {
    uint16_t count = 0;
    for (auto& record : records) {
      size_t before = out.size();
      writer.record(record);
      if (out.size() > room) {
        out.resize(before);
        full = true;
        break;
      }
      count++;
    }
    set16(out, countAt, count);
  };
  section(reply.answers, 6);
  if (full) {
    out[2] = static_cast<char>(out[2] | 0x02);  // truncated
  } else {
    bool found = std::any_of(reply.answers.begin(), reply.answers.end(), [](auto& r) { return r.type != kDnsCname; });
    if (!found && !reply.zone.empty() && (reply.answers.empty() || reply.code != kNoError)) {
      section(soa, 8);
    }
    if (!full) section(reply.extra, 10);
  }
  if (query.edns) {
    uint16_t extra = get16(out, 10);
    putOpt(out, kUdpMost, query.dnssecOk, reply.code);
    set16(out, 10, static_cast<uint16_t>(extra + 1));
  }
  return out;
}

DnsRecord soaOf(const std::string& zone, uint32_t ttl) {
  return {.name = zone, .type = kDnsSoa, .ttl = ttl, .target = "ns.dns." + zone};
}

std::string makeQuestion(std::string_view name, uint16_t type) {
  std::string out;
  if (!writeName(name, out)) return "";
  put16(out, type);
  put16(out, kClassIn);
  return out;
}

std::string writeQuery(uint16_t id, const std::string& question, const Query& like) {
  std::string out;
  put16(out, id);
  put16(out, static_cast<uint16_t>(0x0100 | (like.checkingDisabled ? 0x0010 : 0)));
  put16(out, 1);
  put16(out, 0);
  put16(out, 0);
  put16(out, like.edns ? 1 : 0);
  out += question;
  if (like.edns) putOpt(out, kUdpMost, like.dnssecOk);
  return out;
}

namespace {

// Fills in what we know of a record's data; false for other types.
bool readData(std::string_view m, size_t at, size_t length, DnsRecord& r) {
  switch (r.type) {
    case kDnsA:
    case kDnsAaaa:
      r.address = IpAddress::fromBytes(m.substr(at, length));
      return r.type == kDnsA ? r.address.isV4() : r.address.isV6();
    case kDnsCname:
    case kDnsPtr:
    case kDnsNs: return readName(m, at, r.target).has_value();
    case kDnsSrv:
      if (length < 7) return false;
      r.priority = get16(m, at);
      r.weight = get16(m, at + 2);
      r.port = get16(m, at + 4);
      return readName(m, at + 6, r.target).has_value();
    case kDnsTxt:
      for (size_t i = at; i < at + length;) {
        size_t size = static_cast<uint8_t>(m[i]);
        if (i + 1 + size > at + length) return false;
        r.text += m.substr(i + 1, size);
        i += 1 + size;
      }
      return true;
    default: return false;
  }
}

}  // namespace

std::optional<Upstream> readUpstream(std::string_view m) {
  if (m.size() < kHeaderSize) return std::nullopt;
  uint16_t flags = get16(m, 2);
  if ((flags & 0x8000) == 0 || get16(m, 4) != 1) return std::nullopt;
  Upstream out;
  out.id = get16(m, 0);
  out.code = flags & 0xf;
  out.truncated = (flags & 0x0200) != 0;
  auto at = readName(m, kHeaderSize, out.name);
  if (!at || *at + 4 > m.size()) return std::nullopt;
  out.type = get16(m, *at);
  size_t end = *at + 4;
  size_t answers = get16(m, 6);
  size_t records = answers + get16(m, 8) + get16(m, 10);
  uint32_t least = ~0u;
  for (size_t i = 0; i < records; i++) {
    DnsRecord r;
    auto behind = readName(m, end, r.name);
    if (!behind || *behind + 10 > m.size()) return std::nullopt;
    r.type = get16(m, *behind);
    r.ttl = get32(m, *behind + 4);
    size_t length = get16(m, *behind + 8), data = *behind + 10;
    if (data + length > m.size()) return std::nullopt;
    end = data + length;
    if (r.type == kOpt) continue;
    out.ttlOffsets.push_back(*behind + 4);
    least = std::min(least, r.ttl);
    if (r.type == kDnsSoa && length >= 4) least = std::min(least, get32(m, end - 4));
    if (i < answers && readData(m, data, length, r)) out.answers.push_back(std::move(r));
  }
  out.leastTtl = records == 0 || least == ~0u ? 0 : least;
  return out;
}

}  // namespace dhow::dns
