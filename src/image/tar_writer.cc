#include <cstring>

#include "tar.h"

namespace dhow::image {
namespace {

constexpr size_t kBlock = 512;

void octal(char* block, size_t offset, size_t length, uint64_t value) {
  for (size_t i = length - 1; i-- > 0; value >>= 3) block[offset + i] = static_cast<char>('0' + (value & 7));
}

void paxRecord(std::string& out, std::string_view key, std::string_view value) {
  // The length counts its own digits.
  size_t rest = key.size() + value.size() + 3;
  size_t length = rest + 1;
  while (std::to_string(length).size() + rest != length) length = std::to_string(length).size() + rest;
  out += std::to_string(length) + " ";
  out += key;
  out += '=';
  out += value;
  out += '\n';
}

char flagOf(TarEntry::Type type) {
  switch (type) {
    case TarEntry::Type::kFile: return '0';
    case TarEntry::Type::kHardLink: return '1';
    case TarEntry::Type::kSymlink: return '2';
    case TarEntry::Type::kCharDevice: return '3';
    case TarEntry::Type::kBlockDevice: return '4';
    case TarEntry::Type::kFolder: return '5';
    case TarEntry::Type::kFifo: return '6';
  }
  return '0';
}

}  // namespace

Result<> TarWriter::headerBlock(const TarEntry& e, char flag, uint64_t size) {
  char block[kBlock] = {};
  std::memcpy(block, e.name.data(), std::min<size_t>(e.name.size(), 100));
  octal(block, 100, 8, e.mode & 07777);
  octal(block, 108, 8, std::min(e.uid, 07777777u));
  octal(block, 116, 8, std::min(e.gid, 07777777u));
  octal(block, 124, 12, size >> 33 ? 0 : size);
  octal(block, 136, 12, e.mtimeSeconds < 0 || e.mtimeSeconds >> 33 ? 0 : static_cast<uint64_t>(e.mtimeSeconds));
  block[156] = flag;
  std::memcpy(block + 157, e.linkName.data(), std::min<size_t>(e.linkName.size(), 100));
  std::memcpy(block + 257, "ustar\00000", 8);
  octal(block, 329, 8, e.deviceMajor & 07777777);
  octal(block, 337, 8, e.deviceMinor & 07777777);
  std::memset(block + 148, ' ', 8);
  unsigned sum = 0;
  for (char c : block) sum += static_cast<unsigned char>(c);
  octal(block, 148, 7, sum);
  block[154] = '\0';
  return sink_({block, kBlock});
}

Result<> TarWriter::pad() {
  static constexpr char kZeros[kBlock] = {};
  size_t rest = (kBlock - written_ % kBlock) % kBlock;
  written_ = expected_ = 0;
  return rest == 0 ? Result<>() : sink_({kZeros, rest});
}

Result<> TarWriter::add(const TarEntry& e) {
  CHECK(written_ == expected_, "the content before is not whole");
  RETURN_IF_ERROR(pad());
  uint64_t size = e.type == TarEntry::Type::kFile ? e.size : 0;
  std::string pax;
  if (e.name.size() > 100) paxRecord(pax, "path", e.name);
  if (e.linkName.size() > 100) paxRecord(pax, "linkpath", e.linkName);
  if (size >> 33) paxRecord(pax, "size", std::to_string(size));
  if (e.uid > 07777777u) paxRecord(pax, "uid", std::to_string(e.uid));
  if (e.gid > 07777777u) paxRecord(pax, "gid", std::to_string(e.gid));
  if (e.mtimeSeconds < 0 || e.mtimeSeconds >> 33) paxRecord(pax, "mtime", std::to_string(e.mtimeSeconds));
  for (const auto& [name, value] : e.xattrs) paxRecord(pax, "SCHILY.xattr." + name, value);
  if (!pax.empty()) {
    TarEntry extension;
    extension.name = "PaxHeaders.0/entry";
    extension.mode = 0644;
    RETURN_IF_ERROR(headerBlock(extension, 'x', pax.size()));
    RETURN_IF_ERROR(sink_(pax));
    written_ = expected_ = pax.size();
    RETURN_IF_ERROR(pad());
  }
  RETURN_IF_ERROR(headerBlock(e, flagOf(e.type), size));
  expected_ = size;
  return {};
}

Result<> TarWriter::write(std::string_view bytes) {
  CHECK(written_ + bytes.size() <= expected_, "more content than announced");
  written_ += bytes.size();
  return bytes.empty() ? Result<>() : sink_(bytes);
}

Result<> TarWriter::addFile(TarEntry entry, std::string_view content) {
  entry.type = TarEntry::Type::kFile;
  entry.size = content.size();
  RETURN_IF_ERROR(add(entry));
  return write(content);
}

Result<> TarWriter::finish() {
  CHECK(written_ == expected_, "the content before is not whole");
  RETURN_IF_ERROR(pad());
  static constexpr char kEnd[2 * kBlock] = {};
  return sink_({kEnd, sizeof kEnd});
}

}  // namespace dhow::image
