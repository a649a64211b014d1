#include <algorithm>
#include <array>
#include <cstring>

#include "base/strings.h"
#include "tar.h"

namespace dhow::image {
namespace {

constexpr size_t kBlock = 512;
constexpr size_t kMaxName = 64 << 10;  // Linux refuses longer than 4096 later, by component and path
constexpr size_t kMaxPax = 4 << 20;    // xattrs live here
constexpr size_t kMaxPieces = 1 << 20;
constexpr uint64_t kMaxSize = 1ull << 60;

Error invalid(std::string_view what) {
  return Error(Code::kInvalid, "archive/tar: " + std::string(what));
}

std::string_view field(const char* header, size_t offset, size_t length) {
  std::string_view text(header + offset, length);
  return text.substr(0, text.find('\0'));
}

// Octal, or base 256 when the first bit is set.
std::optional<int64_t> number(const char* header, size_t offset, size_t length) {
  auto* bytes = reinterpret_cast<const unsigned char*>(header + offset);
  if (bytes[0] & 0x80) {
    bool negative = bytes[0] & 0x40;
    uint64_t value = negative ? ~0ull : 0;
    for (size_t i = 0; i < length; ++i) {
      unsigned char b = i == 0 ? static_cast<unsigned char>(bytes[0] & 0x7f) : bytes[i];
      if (i == 0 && negative) b |= 0x80;
      uint64_t top = value >> 56;
      if (i > 0 && top != (negative ? 0xffu : 0u)) return std::nullopt;
      value = (value << 8) | b;
    }
    return static_cast<int64_t>(value);
  }
  std::string_view text = trim(field(header, offset, length));
  uint64_t value = 0;
  for (char c : text) {
    if (c < '0' || c > '7' || value >> 60) return std::nullopt;
    value = value * 8 + static_cast<uint64_t>(c - '0');
  }
  return static_cast<int64_t>(value);
}

bool checksumHolds(const char* block) {
  auto stored = number(block, 148, 8);
  if (!stored) return false;
  int64_t plain = 0, withSign = 0;
  for (size_t i = 0; i < kBlock; ++i) {
    bool inField = i >= 148 && i < 156;
    plain += inField ? ' ' : static_cast<unsigned char>(block[i]);
    withSign += inField ? ' ' : static_cast<signed char>(block[i]);
  }
  return *stored == plain || *stored == withSign;
}

// "1700000000.123456789"
bool parsePaxTime(std::string_view text, int64_t& seconds, long& nanos) {
  bool negative = text.starts_with('-');
  auto dot = text.find('.');
  auto whole = parseInt(text.substr(0, dot));
  if (!whole || *whole > (1ll << 40) || *whole < -(1ll << 40)) return false;
  nanos = 0;
  if (dot != std::string_view::npos) {
    std::string digits(text.substr(dot + 1).substr(0, 9));
    digits.resize(9, '0');
    auto fraction = parseUint(digits);
    if (!fraction) return false;
    nanos = static_cast<long>(*fraction);
  }
  seconds = *whole;
  if (negative && nanos > 0) {
    seconds -= 1;
    nanos = 1000000000 - nanos;
  }
  return true;
}

}  // namespace

struct TarReader::Pax {
  std::map<std::string, std::string, std::less<>> records;
  std::vector<TarEntry::Piece> sparse;  // GNU.sparse 0.0: repeated keys, in order
  bool hasSparse = false;

  Result<> parse(std::string_view text) {
    std::optional<uint64_t> offset;
    while (!text.empty() && text.find_first_not_of('\0') != std::string_view::npos) {
      auto space = text.find(' ');
      if (space > 10) return invalid("invalid pax record");  // npos, too
      auto length = parseUint(text.substr(0, space));
      if (!length || *length <= space + 1 || *length > text.size() || text[*length - 1] != '\n')
        return invalid("invalid pax record");
      auto record = text.substr(space + 1, *length - space - 2);
      text.remove_prefix(*length);
      auto pair = splitOnce(record, '=');
      if (!pair || pair->first.empty()) return invalid("invalid pax record");
      if (pair->first == "GNU.sparse.offset") {
        offset = parseUint(pair->second);
        if (!offset) return invalid("invalid sparse map");
      } else if (pair->first == "GNU.sparse.numbytes") {
        auto bytes = parseUint(pair->second);
        if (!bytes || !offset || sparse.size() >= kMaxPieces) return invalid("invalid sparse map");
        sparse.push_back({*offset, *bytes});
        hasSparse = true;
        offset.reset();
      } else {
        records[std::string(pair->first)] = pair->second;
      }
    }
    return {};
  }

  const std::string* get(std::string_view key) const {
    auto it = records.find(key);
    return it == records.end() || it->second.empty() ? nullptr : &it->second;
  }
};

Result<bool> TarReader::fill(size_t want) {
  if (end_ - begin_ >= want) return true;
  if (begin_ > 0) {
    std::memmove(buffer_.data(), buffer_.data() + begin_, end_ - begin_);
    end_ -= begin_;
    begin_ = 0;
  }
  while (end_ < want) {
    ASSIGN_OR_RETURN(size_t n, source_.read({buffer_.data() + end_, buffer_.size() - end_}));
    if (n == 0) {
      if (end_ == 0) return false;
      return Error(Code::kDataLoss, "archive/tar: unexpected EOF");
    }
    end_ += n;
  }
  return true;
}

Result<> TarReader::skip(uint64_t count) {
  while (count > 0) {
    ASSIGN_OR_RETURN(bool more, fill(1));
    if (!more) return Error(Code::kDataLoss, "archive/tar: unexpected EOF");
    uint64_t n = std::min<uint64_t>(count, end_ - begin_);
    begin_ += n;
    count -= n;
  }
  return {};
}

Result<std::string> TarReader::content(uint64_t size, size_t limit, std::string_view what) {
  if (size > limit) return invalid(std::string(what) + " is too long");
  std::string out;
  uint64_t left = size;
  while (left > 0) {
    ASSIGN_OR_RETURN(bool more, fill(1));
    if (!more) return Error(Code::kDataLoss, "archive/tar: unexpected EOF");
    uint64_t n = std::min<uint64_t>(left, end_ - begin_);
    out.append(buffer_, begin_, n);
    begin_ += n;
    left -= n;
  }
  RETURN_IF_ERROR(skip((kBlock - size % kBlock) % kBlock));
  return out;
}

// False at the end of the archive: two zero blocks, or one at the very end, or nothing.
Result<bool> TarReader::header(char* block) {
  for (int zeros = 0; zeros < 2;) {
    ASSIGN_OR_RETURN(bool more, fill(kBlock));
    if (!more) return false;
    std::memcpy(block, buffer_.data() + begin_, kBlock);
    begin_ += kBlock;
    if (std::any_of(block, block + kBlock, [](char c) { return c != 0; })) {
      if (zeros > 0) return invalid("invalid tar header");
      if (!checksumHolds(block)) return invalid("invalid tar header");
      return true;
    }
    ++zeros;
  }
  return false;
}

Result<std::string_view> TarReader::data() {
  if (left_ == 0) return std::string_view();
  ASSIGN_OR_RETURN(bool more, fill(1));
  if (!more) return Error(Code::kDataLoss, "archive/tar: unexpected EOF");
  size_t n = std::min<uint64_t>(left_, end_ - begin_);
  std::string_view out(buffer_.data() + begin_, n);
  begin_ += n;
  left_ -= n;
  return out;
}

Result<> TarReader::drain() {
  while (true) {
    begin_ = end_ = 0;
    ASSIGN_OR_RETURN(size_t n, source_.read({buffer_.data(), buffer_.size()}));
    if (n == 0) return {};
  }
}

Result<> TarReader::readGnuSparse(const char* block, TarEntry& entry) {
  entry.sparse = true;
  auto take = [&](const char* base, size_t count) -> Result<bool> {
    for (size_t i = 0; i < count; ++i) {
      auto offset = number(base, i * 24, 12), length = number(base, i * 24 + 12, 12);
      if (!offset || !length || *offset < 0 || *length < 0) return invalid("invalid sparse map");
      if (*offset == 0 && *length == 0 && base[i * 24] == '\0') return false;
      if (entry.pieces.size() >= kMaxPieces) return invalid("sparse map is too long");
      entry.pieces.push_back({static_cast<uint64_t>(*offset), static_cast<uint64_t>(*length)});
    }
    return true;
  };
  ASSIGN_OR_RETURN([[maybe_unused]] bool full, take(block + 386, 4));
  bool extended = block[482] != 0;
  auto real = number(block, 483, 12);
  if (!real || *real < 0) return invalid("invalid sparse size");
  entry.size = static_cast<uint64_t>(*real);
  while (extended) {
    ASSIGN_OR_RETURN(bool have, fill(kBlock));
    if (!have) return Error(Code::kDataLoss, "archive/tar: unexpected EOF");
    char extra[kBlock];
    std::memcpy(extra, buffer_.data() + begin_, kBlock);
    begin_ += kBlock;
    ASSIGN_OR_RETURN([[maybe_unused]] bool whole, take(extra, 21));
    extended = extra[504] != 0;
  }
  return {};
}

// GNU.sparse 1.0: the map is decimal lines at the start of the content, padded to a block.
Result<> TarReader::readPaxSparseMap(TarEntry& entry) {
  size_t used = 0;
  auto line = [&]() -> Result<uint64_t> {
    std::string digits;
    while (true) {
      if (left_ == 0) return invalid("invalid sparse map");
      ASSIGN_OR_RETURN(bool more, fill(1));
      if (!more) return Error(Code::kDataLoss, "archive/tar: unexpected EOF");
      char c = buffer_[begin_++];
      --left_;
      ++used;
      if (c == '\n') break;
      digits += c;
      if (digits.size() > 20) return invalid("invalid sparse map");
    }
    auto value = parseUint(digits);
    if (!value) return invalid("invalid sparse map");
    return *value;
  };
  ASSIGN_OR_RETURN(uint64_t count, line());
  if (count > kMaxPieces) return invalid("sparse map is too long");
  for (uint64_t i = 0; i < count; ++i) {
    ASSIGN_OR_RETURN(uint64_t offset, line());
    ASSIGN_OR_RETURN(uint64_t length, line());
    entry.pieces.push_back({offset, length});
  }
  uint64_t rest = (kBlock - used % kBlock) % kBlock;
  if (rest > left_) return invalid("invalid sparse map");
  left_ -= rest;
  return skip(rest);
}

Result<bool> TarReader::next(TarEntry& entry) {
  RETURN_IF_ERROR(skip(left_ + padding_));
  left_ = padding_ = 0;
  Pax pax;
  std::string longName, longLink;
  char block[kBlock];
  for (int extensions = 0;; ++extensions) {
    if (extensions > 16) return invalid("too many extension headers");
    ASSIGN_OR_RETURN(bool more, header(block));
    if (!more) {
      if (extensions > 0) return invalid("extension header without an entry");
      return false;
    }
    char flag = block[156];
    auto size = number(block, 124, 12);
    if (!size || *size < 0 || static_cast<uint64_t>(*size) > kMaxSize) return invalid("invalid size");
    uint64_t length = static_cast<uint64_t>(*size);
    if (flag == 'x' || flag == 'X') {
      ASSIGN_OR_RETURN(auto text, content(length, kMaxPax, "pax header"));
      RETURN_IF_ERROR(pax.parse(text));
    } else if (flag == 'g') {
      RETURN_IF_ERROR(content(length, kMaxPax, "global pax header"));
    } else if (flag == 'L' || flag == 'K') {
      ASSIGN_OR_RETURN(auto text, content(length, kMaxName, "long name"));
      (flag == 'L' ? longName : longLink) = text.substr(0, text.find('\0'));
    } else {
      break;
    }
  }

  entry = TarEntry();
  char flag = block[156];
  auto size = number(block, 124, 12), mode = number(block, 100, 8), uid = number(block, 108, 8),
       gid = number(block, 116, 8);
  auto mtime = number(block, 136, 12);
  if (!size || *size < 0 || static_cast<uint64_t>(*size) > kMaxSize || !mode || !uid || !gid || !mtime)
    return invalid("invalid tar header");
  bool gnu = std::memcmp(block + 257, "ustar  ", 7) == 0;
  bool ustar = std::memcmp(block + 257, "ustar\0", 6) == 0;
  entry.name = field(block, 0, 100);
  if (auto prefix = field(block, 345, 155); ustar && !prefix.empty())
    entry.name = std::string(prefix) + "/" + entry.name;
  entry.linkName = field(block, 157, 100);
  if (!longName.empty()) entry.name = longName;
  if (!longLink.empty()) entry.linkName = longLink;
  entry.mode = static_cast<unsigned>(*mode) & 07777;
  entry.mtimeSeconds = *mtime;
  uint64_t stored = static_cast<uint64_t>(*size);
  int64_t owner = *uid, group = *gid;
  if (gnu || ustar) {
    auto major = number(block, 329, 8), minor = number(block, 337, 8);
    entry.deviceMajor = static_cast<unsigned>(major.value_or(0));
    entry.deviceMinor = static_cast<unsigned>(minor.value_or(0));
  }

  if (auto* v = pax.get("path")) entry.name = *v;
  if (auto* v = pax.get("linkpath")) entry.linkName = *v;
  auto paxNumber = [&](std::string_view key, auto& into) -> bool {
    auto* text = pax.get(key);
    if (!text) return true;
    auto value = parseUint(*text);
    if (!value || *value > kMaxSize) return false;
    into = static_cast<std::remove_reference_t<decltype(into)>>(*value);
    return true;
  };
  if (!paxNumber("size", stored) || !paxNumber("uid", owner) || !paxNumber("gid", group))
    return invalid("invalid pax number");
  if (auto* v = pax.get("mtime"); v && !parsePaxTime(*v, entry.mtimeSeconds, entry.mtimeNanos))
    return invalid("invalid pax time");
  if (owner < 0 || owner > UINT32_MAX || group < 0 || group > UINT32_MAX) return invalid("invalid owner");
  entry.uid = static_cast<unsigned>(owner);
  entry.gid = static_cast<unsigned>(group);
  for (const auto& [key, value] : pax.records) {
    for (std::string_view prefix : {"SCHILY.xattr.", "LIBARCHIVE.xattr."}) {
      if (!key.starts_with(prefix)) continue;
      if (prefix[0] == 'S') {
        entry.xattrs[key.substr(prefix.size())] = value;
      } else if (auto decoded = fromBase64(value)) {
        entry.xattrs.emplace(key.substr(prefix.size()), *decoded);
      }
    }
  }
  if (entry.name.find('\0') != std::string::npos || entry.linkName.find('\0') != std::string::npos)
    return invalid("a name holds a NUL byte");
  if (entry.name.size() > kMaxName || entry.linkName.size() > kMaxName) return invalid("name is too long");

  entry.size = stored;
  bool hasContent = false;
  switch (flag) {
    case '\0':
    case '0':
    case '7':
    case 'S':
      hasContent = true;
      entry.type = entry.name.ends_with('/') && flag != 'S' ? TarEntry::Type::kFolder : TarEntry::Type::kFile;
      break;
    case '1': entry.type = TarEntry::Type::kHardLink; break;
    case '2': entry.type = TarEntry::Type::kSymlink; break;
    case '3': entry.type = TarEntry::Type::kCharDevice; break;
    case '4': entry.type = TarEntry::Type::kBlockDevice; break;
    case '5': entry.type = TarEntry::Type::kFolder; break;
    case '6': entry.type = TarEntry::Type::kFifo; break;
    default: return invalid("unhandled header type " + std::to_string(static_cast<unsigned char>(flag)));
  }
  if (flag == 'S') RETURN_IF_ERROR(readGnuSparse(block, entry));
  // Links and folders have no content, though some writers fill in a size; a folder's is skipped, a link's is not
  // there.
  bool skipOnly = flag == '5' || (hasContent && entry.type == TarEntry::Type::kFolder);
  left_ = hasContent || skipOnly ? stored : 0;
  padding_ = (kBlock - left_ % kBlock) % kBlock;

  if (pax.hasSparse || pax.get("GNU.sparse.map") || pax.get("GNU.sparse.major")) {
    entry.sparse = true;
    if (auto* v = pax.get("GNU.sparse.name")) entry.name = *v;
    for (std::string_view key : {"GNU.sparse.realsize", "GNU.sparse.size"}) {
      if (!paxNumber(key, entry.size)) return invalid("invalid sparse size");
    }
    entry.pieces = pax.sparse;
    if (auto* map = pax.get("GNU.sparse.map")) {
      auto numbers = split(*map, ',');
      if (numbers.size() % 2 || numbers.size() / 2 > kMaxPieces) return invalid("invalid sparse map");
      entry.pieces.clear();
      for (size_t i = 0; i < numbers.size(); i += 2) {
        auto offset = parseUint(numbers[i]), count = parseUint(numbers[i + 1]);
        if (!offset || !count) return invalid("invalid sparse map");
        entry.pieces.push_back({*offset, *count});
      }
    }
    if (auto* major = pax.get("GNU.sparse.major"); major && *major == "1") {
      entry.pieces.clear();
      RETURN_IF_ERROR(readPaxSparseMap(entry));
    }
  }
  if (entry.sparse) {
    uint64_t end = 0, sum = 0;
    for (const auto& piece : entry.pieces) {
      if (piece.offset < end || piece.length > kMaxSize || piece.offset > kMaxSize ||
          piece.offset + piece.length > entry.size)
        return invalid("invalid sparse map");
      end = piece.offset + piece.length;
      sum += piece.length;
    }
    if (sum != left_) return invalid("sparse map does not fit the content");
  }
  return true;
}

}  // namespace dhow::image
