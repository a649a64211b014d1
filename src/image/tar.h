// Tar as images use it: ustar, pax and GNU forms read, pax written. The reader trusts nothing: lengths are bounded and
// numbers checked; what a path may touch is the unpacker's matter.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "byte_source.h"

namespace dhow::image {

struct TarEntry {
  enum class Type { kFile, kHardLink, kSymlink, kCharDevice, kBlockDevice, kFolder, kFifo };
  Type type = Type::kFile;
  std::string name;  // as written
  std::string linkName;
  unsigned mode = 0;  // permission bits, with setuid, setgid and sticky
  unsigned uid = 0, gid = 0;
  int64_t mtimeSeconds = 0;
  long mtimeNanos = 0;
  unsigned deviceMajor = 0, deviceMinor = 0;
  uint64_t size = 0;  // of the content, holes included
  std::map<std::string, std::string> xattrs;
  // Non-empty for a sparse file: where the stored bytes go.
  struct Piece {
    uint64_t offset, length;
  };
  bool sparse = false;
  std::vector<Piece> pieces;
};

class TarReader {
 public:
  explicit TarReader(ByteSource& source) : source_(source) {}
  // The next entry; false at the end of the archive. Skips what is left of the one before.
  Result<bool> next(TarEntry& entry);
  // Stored bytes of the current entry (of a sparse file only its pieces); empty at the end. Valid until the next call.
  Result<std::string_view> data();
  // Reads the source to its end, past the archive's end.
  Result<> drain();

 private:
  struct Pax;
  Result<bool> fill(size_t want);  // false when the source ended with nothing buffered
  Result<> skip(uint64_t count);
  Result<std::string> content(uint64_t size, size_t limit, std::string_view what);
  Result<> readGnuSparse(const char* header, TarEntry& entry);
  Result<> readPaxSparseMap(TarEntry& entry);
  Result<bool> header(char* block);

  ByteSource& source_;
  std::string buffer_ = std::string(1 << 20, '\0');
  size_t begin_ = 0, end_ = 0;
  uint64_t left_ = 0;     // of the current entry's stored bytes
  uint64_t padding_ = 0;  // after them
};

class TarWriter {
 public:
  explicit TarWriter(ByteSink sink) : sink_(std::move(sink)) {}
  // Followed by write() of exactly entry.size bytes for a file. Sparse entries are not written.
  Result<> add(const TarEntry& entry);
  Result<> write(std::string_view bytes);
  Result<> addFile(TarEntry entry, std::string_view content);
  Result<> finish();

 private:
  Result<> headerBlock(const TarEntry& entry, char typeFlag, uint64_t size);
  Result<> pad();
  ByteSink sink_;
  uint64_t written_ = 0, expected_ = 0;
};

}  // namespace dhow::image
