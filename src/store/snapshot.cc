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
#include "base/files.h"
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
// Between the revisions of two stores of which nothing is written to the first any more.
constexpr Revision kGap = 10'000;
// Between those of a snapshot and of the store made of it, for what was acknowledged since and nobody knows of: more
// than a store can take in a day.
constexpr Revision kRestoredGap = 1'000'000'000;

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
    // Entries are sorted, and this one is among the first.
    ASSIGN_OR_RETURN(auto first, next(path, file, info.bytes));
    for (const auto& entry : first) {
      if (entry.key == kFormKey) info.form = parseFormMark(*entry.value.bytes);
    }
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

struct SnapshotStream::Rep {
  Loop& loop;
  BlockingPool* pool;
  std::unique_ptr<Cursor> cursor;
  std::string header;
  bool ended = false;
  Sha256 digest;

  std::string encode(const std::vector<Entry>& entries);
};

SnapshotStream::SnapshotStream(std::unique_ptr<Rep> rep) : rep_(std::move(rep)) {}
SnapshotStream::~SnapshotStream() = default;

Task<Result<std::unique_ptr<SnapshotStream>>> SnapshotStream::open(Loop& loop, BlockingPool* pool, Store& store,
                                                                   std::string cluster) {
  const WallTime taken = loop.wallNow();
  CO_ASSIGN_OR_RETURN(auto cursor, co_await store.read());
  std::unique_ptr<Rep> rep(new Rep{loop, pool, std::move(cursor), {}, false, {}});
  rep->header =
      std::string(kMagic) + json::serialize(json::object{{"cluster", cluster},
                                                         {"revision", std::to_string(rep->cursor->revision())},
                                                         {"entries", std::to_string(rep->cursor->entries())},
                                                         {"taken", formatTime(taken)}});
  rep->header.push_back('\n');
  co_return std::unique_ptr<SnapshotStream>(new SnapshotStream(std::move(rep)));
}

std::string SnapshotStream::Rep::encode(const std::vector<Entry>& entries) {
  std::string block = std::exchange(header, "");
  for (const auto& entry : entries) {
    addSize(block, entry.key.size());
    addSize(block, entry.value.bytes->size());
    block.append(entry.key).append(*entry.value.bytes);
  }
  digest.update(block);
  if (entries.empty()) block += digest.hex();
  return block;
}

Task<Result<std::string>> SnapshotStream::next() {
  if (rep_->ended) co_return std::string();
  CO_ASSIGN_OR_RETURN(auto entries, co_await rep_->cursor->next());
  rep_->ended = entries.empty();
  if (!rep_->pool) co_return rep_->encode(entries);
  std::function<std::string()> encode = [rep = rep_.get(), &entries] { return rep->encode(entries); };
  auto block = co_await rep_->pool->run(rep_->loop, std::move(encode));
  co_return block;
}

Result<SnapshotWriter> SnapshotWriter::create(std::string path) {
  SnapshotWriter writer;
  writer.partial_ = path + ".partial";
  writer.path_ = std::move(path);
  writer.file_ = UniqueFd(::open(writer.partial_.c_str(), O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600));
  if (!writer.file_) return Error::fromErrno("create " + writer.partial_);
  return writer;
}

SnapshotWriter::~SnapshotWriter() {
  if (file_) ::unlink(partial_.c_str());
}

Result<> SnapshotWriter::write(std::string_view bytes) {
  return writeAll(file_.get(), bytes, partial_);
}

Result<SnapshotInfo> SnapshotWriter::finish() {
  if (::fsync(file_.get()) != 0) return Error::fromErrno("fsync " + partial_);
  ASSIGN_OR_RETURN(auto info, inspectSnapshot(partial_));
  if (::rename(partial_.c_str(), path_.c_str()) != 0) return Error::fromErrno("rename " + partial_);
  file_.reset();
  RETURN_IF_ERROR(syncFolder(path_));
  return info;
}

Task<Result<SnapshotInfo>> saveSnapshot(Loop& loop, BlockingPool& pool, Store& store, std::string cluster,
                                        std::string path) {
  CO_ASSIGN_OR_RETURN(auto stream, co_await SnapshotStream::open(loop, &pool, store, std::move(cluster)));
  std::function<Result<SnapshotWriter>()> create = [&path] { return SnapshotWriter::create(path); };
  CO_ASSIGN_OR_RETURN(auto writer, co_await pool.run(loop, std::move(create)));
  while (true) {
    CO_ASSIGN_OR_RETURN(auto block, co_await stream->next());
    if (block.empty()) break;
    std::function<Result<>()> write = [&writer, &block] { return writer.write(block); };
    CO_RETURN_IF_ERROR(co_await pool.run(loop, std::move(write)));
  }
  std::function<Result<SnapshotInfo>()> finish = [&writer] { return writer.finish(); };
  auto finished = co_await pool.run(loop, std::move(finish));
  co_return finished;
}

Result<SnapshotInfo> inspectSnapshot(const std::string& path) {
  UniqueFd file;
  return SnapshotFile::open(path, file);
}

Task<Result<SnapshotInfo>> restoreSnapshot(Loop& loop, BlockingPool& pool, Store& store, std::string cluster,
                                           std::string path, Revision above) {
  auto file = std::make_unique<UniqueFd>();
  std::function<Result<SnapshotInfo>()> open = [&path, &file] { return SnapshotFile::open(path, *file); };
  CO_ASSIGN_OR_RETURN(SnapshotInfo info, co_await pool.run(loop, std::move(open)));
  if (!cluster.empty() && cluster != info.cluster) {
    co_return Error(Code::kFailedPrecondition, fmt::format("snapshot {} is of cluster \"{}\", not of this one (\"{}\")",
                                                           path, info.cluster, cluster));
  }
  CO_RETURN_IF_ERROR(checkForm(info.form, thisProgram()));
  CO_RETURN_IF_ERROR(co_await requireEmpty(&store));
  CO_RETURN_IF_ERROR(co_await store.advance(std::max(info.revision, above) + kRestoredGap));
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

Task<Result<>> clearStore(Store& store) {
  while (true) {
    CO_ASSIGN_OR_RETURN(auto page, co_await store.list("", "", kEntriesTogether));
    if (page.entries.empty()) co_return Result<>();
    Txn txn;
    for (auto& entry : page.entries) {
      txn.compares.push_back({entry.key, entry.modified});
      txn.operations.push_back({Operation::Type::kDelete, std::move(entry.key), {}});
    }
    auto done = co_await store.txn(std::move(txn));
    CO_RETURN_IF_ERROR(done);
  }
}

Task<Result<Revision>> copyStore(Store& from, Store& to) {
  CO_RETURN_IF_ERROR(co_await requireEmpty(&to));
  CO_ASSIGN_OR_RETURN(auto cursor, co_await from.read());
  CO_RETURN_IF_ERROR(co_await to.advance(cursor->revision() + kGap));
  while (true) {
    CO_ASSIGN_OR_RETURN(auto entries, co_await cursor->next());
    if (entries.empty()) co_return cursor->revision();
    CO_RETURN_IF_ERROR(co_await putAll(&to, std::move(entries)));
  }
}

}  // namespace dhow::store
