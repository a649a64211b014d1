// The file:
//
//   dhow-snapshot 1\n
//   {"cluster":"...","revision":"...","entries":"...","taken":"..."}\n
//   for each entry: size of key, size of value (8 bytes each, little-endian), key, value
//   64 hexadecimal digits: the SHA-256 of everything before
#include "store/snapshot.h"

#include <fcntl.h>
#include <unistd.h>

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>

#include <cstring>
#include <functional>

#include "base/digest.h"
#include "base/fd.h"
#include "base/strings.h"
#include "base/time.h"

namespace dhow::store {

namespace json = boost::json;

namespace {

constexpr std::string_view kMagic = "dhow-snapshot 1\n";
constexpr size_t kDigestSize = 64;
constexpr size_t kMaxHeader = 4096;
constexpr size_t kMaxEntry = 64 << 20;
constexpr size_t kRead = 256 << 10;
constexpr size_t kEntriesTogether = 64;
constexpr size_t kBytesTogether = 512 << 10;
// Between the revisions of the old store and those of the new, for what was acknowledged after the snapshot.
constexpr Revision kGap = 10'000;

void addSize(std::string& out, uint64_t size) {
  for (int shift = 0; shift < 64; shift += 8) out.push_back(static_cast<char>(size >> shift));
}

uint64_t sizeAt(std::string_view bytes) {
  uint64_t size = 0;
  for (size_t i = 8; i-- > 0;) size = size << 8 | static_cast<uint8_t>(bytes[i]);
  return size;
}

Error damaged(const std::string& path, std::string_view why) {
  return Error(Code::kDataLoss, fmt::format("snapshot {}: {}", path, why));
}

// Writes the file beside its place and renames it when it is whole and on disk.
Result<> writeSnapshot(const std::string& path, const SnapshotInfo& info, const std::vector<Entry>& entries) {
  std::string partial = path + ".partial";
  UniqueFd file(::open(partial.c_str(), O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600));
  if (!file) return Error::fromErrno("create " + partial);
  Sha256 digest;
  auto write = [&](std::string_view bytes) -> Result<> {
    while (!bytes.empty()) {
      ssize_t n = ::write(file.get(), bytes.data(), bytes.size());
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return Error::fromErrno("write " + partial);
      bytes.remove_prefix(static_cast<size_t>(n));
    }
    return {};
  };
  auto all = [&]() -> Result<> {
    std::string block(kMagic);
    block += json::serialize(json::object{{"cluster", info.cluster},
                                          {"revision", std::to_string(info.revision)},
                                          {"entries", std::to_string(info.entries)},
                                          {"taken", formatTime(info.taken)}});
    block.push_back('\n');
    for (const auto& entry : entries) {
      addSize(block, entry.key.size());
      addSize(block, entry.value.bytes->size());
      block.append(entry.key).append(*entry.value.bytes);
      if (block.size() < kRead) continue;
      digest.update(block);
      RETURN_IF_ERROR(write(block));
      block.clear();
    }
    digest.update(block);
    RETURN_IF_ERROR(write(block));
    RETURN_IF_ERROR(write(digest.hex()));
    if (::fsync(file.get()) != 0) return Error::fromErrno("fsync " + partial);
    if (::rename(partial.c_str(), path.c_str()) != 0) return Error::fromErrno("rename " + partial);
    auto slash = path.rfind('/');
    std::string dir = slash == path.npos ? "." : slash == 0 ? "/" : path.substr(0, slash);
    UniqueFd folder(::open(dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!folder || ::fsync(folder.get()) != 0) return Error::fromErrno("fsync " + dir);
    return {};
  };
  auto done = all();
  if (!done.ok()) ::unlink(partial.c_str());
  return done;
}

Result<std::string> readLine(const std::string& path, const std::string& bytes, size_t& at) {
  auto end = bytes.find('\n', at);
  if (end == bytes.npos || end - at > kMaxHeader) return damaged(path, "it has no header");
  std::string line = bytes.substr(at, end - at);
  at = end + 1;
  return line;
}

Result<SnapshotInfo> parseHeader(const std::string& path, const std::string& line) {
  boost::system::error_code error;
  auto value = json::parse(line, error);
  auto text = [&](std::string_view name) -> std::string_view {
    const auto* field = value.is_object() ? value.get_object().if_contains(name) : nullptr;
    return field && field->is_string() ? std::string_view(field->get_string()) : std::string_view();
  };
  if (error) return damaged(path, "its header cannot be read");
  SnapshotInfo info;
  info.cluster = text("cluster");
  auto revision = parseInt(text("revision"));
  auto entries = parseUint(text("entries"));
  auto taken = parseTime(text("taken"));
  if (!revision || *revision < 0 || !entries || !taken) return damaged(path, "its header lacks its parts");
  info.revision = *revision;
  info.entries = *entries;
  info.taken = *taken;
  return info;
}

// Goes through the file twice: its digest first, so that nothing is done with a file that is not whole.
class SnapshotFile {
 public:
  static Result<SnapshotInfo> open(const std::string& path, UniqueFd& file) {
    file = UniqueFd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!file) return Error::fromErrno("open " + path);
    auto size = ::lseek(file.get(), 0, SEEK_END);
    if (size < 0) return Error::fromErrno("read " + path);
    if (static_cast<size_t>(size) < kMagic.size() + kDigestSize) return damaged(path, "it is cut short");
    std::string head;
    RETURN_IF_ERROR(readAt(path, file, 0, std::min<size_t>(static_cast<size_t>(size), kMaxHeader), head));
    if (!head.starts_with(kMagic)) return damaged(path, "it is not a snapshot of this program's");
    size_t at = kMagic.size();
    ASSIGN_OR_RETURN(auto line, readLine(path, head, at));
    ASSIGN_OR_RETURN(auto info, parseHeader(path, line));
    info.bytes = static_cast<uint64_t>(size);
    Sha256 digest;
    auto left = static_cast<size_t>(size) - kDigestSize;
    std::string block;
    for (size_t offset = 0; offset < left; offset += block.size()) {
      RETURN_IF_ERROR(readAt(path, file, offset, std::min(kRead, left - offset), block));
      digest.update(block);
    }
    RETURN_IF_ERROR(readAt(path, file, left, kDigestSize, block));
    if (digest.hex() != block) return damaged(path, "it is cut short or damaged: its digest does not match");
    if (::lseek(file.get(), static_cast<off_t>(at), SEEK_SET) < 0) return Error::fromErrno("read " + path);
    return info;
  }

  // The entries that come next, a few at a time; none at the end.
  static Result<std::vector<Entry>> next(const std::string& path, UniqueFd& file, uint64_t bytes) {
    std::vector<Entry> entries;
    size_t total = 0;
    while (entries.size() < kEntriesTogether && total < kBytesTogether) {
      auto at = static_cast<uint64_t>(::lseek(file.get(), 0, SEEK_CUR));
      if (at + kDigestSize >= bytes) break;
      std::string sizes;
      RETURN_IF_ERROR(readAt(path, file, at, 16, sizes));
      uint64_t key = sizeAt(sizes), value = sizeAt(std::string_view(sizes).substr(8));
      if (key == 0 || key > kMaxEntry || value > kMaxEntry || at + 16 + key + value + kDigestSize > bytes)
        return damaged(path, "an entry is malformed");
      Entry entry;
      std::string text;
      RETURN_IF_ERROR(readAt(path, file, at + 16, key, entry.key));
      RETURN_IF_ERROR(readAt(path, file, at + 16 + key, value, text));
      entry.value.bytes = std::make_shared<const std::string>(std::move(text));
      ::lseek(file.get(), static_cast<off_t>(at + 16 + key + value), SEEK_SET);
      total += key + value;
      entries.push_back(std::move(entry));
    }
    return entries;
  }

 private:
  static Result<> readAt(const std::string& path, UniqueFd& file, uint64_t offset, size_t size, std::string& into) {
    into.resize(size);
    for (size_t at = 0; at < size;) {
      ssize_t n = ::pread(file.get(), into.data() + at, size - at, static_cast<off_t>(offset + at));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return Error::fromErrno("read " + path);
      if (n == 0) return damaged(path, "it is cut short");
      at += static_cast<size_t>(n);
    }
    return {};
  }
};

Task<Result<>> putAll(Store* to, std::vector<Entry> entries) {
  for (size_t at = 0; at < entries.size();) {
    Txn txn;
    size_t bytes = 0;
    for (; at < entries.size() && txn.operations.size() < kEntriesTogether && bytes < kBytesTogether; ++at) {
      Operation put{Operation::Type::kPut, std::move(entries[at].key), {}};
      put.value.bytes = std::move(entries[at].value.bytes);
      bytes += put.value.bytes->size();
      txn.compares.push_back({put.key, 0});
      txn.operations.push_back(std::move(put));
    }
    auto done = co_await to->txn(std::move(txn));
    CO_RETURN_IF_ERROR(done);
  }
  co_return Result<>();
}

Task<Result<>> requireEmpty(Store* store) {
  CO_ASSIGN_OR_RETURN(auto present, co_await store->list("", "", 1));
  if (!present.entries.empty()) {
    co_return Error(Code::kFailedPrecondition,
                    "the store is not empty: it holds " + present.entries.front().key + " and more");
  }
  co_return Result<>();
}

}  // namespace

Task<Result<SnapshotInfo>> saveSnapshot(Loop& loop, BlockingPool& pool, Store& store, std::string cluster,
                                        std::string path) {
  CO_ASSIGN_OR_RETURN(auto all, co_await store.list("", "", 0));
  SnapshotInfo info;
  info.cluster = std::move(cluster);
  info.revision = all.revision;
  info.entries = all.entries.size();
  info.taken = loop.wallNow();
  std::function<Result<SnapshotInfo>()> write = [&]() -> Result<SnapshotInfo> {
    RETURN_IF_ERROR(writeSnapshot(path, info, all.entries));
    return inspectSnapshot(path);
  };
  auto written = co_await pool.run(loop, std::move(write));
  co_return written;
}

Result<SnapshotInfo> inspectSnapshot(const std::string& path) {
  UniqueFd file;
  return SnapshotFile::open(path, file);
}

Task<Result<SnapshotInfo>> restoreSnapshot(Loop& loop, BlockingPool& pool, Store& store, std::string cluster,
                                           std::string path) {
  auto file = std::make_unique<UniqueFd>();
  std::function<Result<SnapshotInfo>()> open = [&path, &file] { return SnapshotFile::open(path, *file); };
  CO_ASSIGN_OR_RETURN(SnapshotInfo info, co_await pool.run(loop, std::move(open)));
  if (!cluster.empty() && cluster != info.cluster) {
    co_return Error(Code::kFailedPrecondition,
                    fmt::format("snapshot {} is of cluster \"{}\", not of \"{}\"", path, info.cluster, cluster));
  }
  CO_RETURN_IF_ERROR(co_await requireEmpty(&store));
  CO_RETURN_IF_ERROR(co_await store.advance(info.revision + kGap));
  uint64_t restored = 0;
  while (true) {
    std::function<Result<std::vector<Entry>>()> read = [&path, &file, &info] {
      return SnapshotFile::next(path, *file, info.bytes);
    };
    CO_ASSIGN_OR_RETURN(auto entries, co_await pool.run(loop, std::move(read)));
    if (entries.empty()) break;
    restored += entries.size();
    CO_RETURN_IF_ERROR(co_await putAll(&store, std::move(entries)));
  }
  if (restored != info.entries) co_return damaged(path, "it does not hold as many entries as its header says");
  co_return info;
}

Task<Result<Revision>> copyStore(Store& from, Store& to) {
  CO_RETURN_IF_ERROR(co_await requireEmpty(&to));
  CO_ASSIGN_OR_RETURN(auto all, co_await from.list("", "", 0));
  CO_RETURN_IF_ERROR(co_await to.advance(all.revision + kGap));
  CO_RETURN_IF_ERROR(co_await putAll(&to, std::move(all.entries)));
  co_return all.revision;
}

}  // namespace dhow::store
