// Bytes that are read once, in order, blocking; and what is layered over them: decompression and hashing.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>

#include "base/digest.h"
#include "base/fd.h"
#include "base/result.h"

namespace dhow::image {

class ByteSource {
 public:
  virtual ~ByteSource() = default;
  // At least one byte, 0 at the end.
  virtual Result<size_t> read(std::span<char> into) = 0;
};

std::unique_ptr<ByteSource> fileSource(UniqueFd fd);
std::unique_ptr<ByteSource> memorySource(std::string bytes);
// Looks at the first bytes: gzip and zstd are inflated, anything else passes as it is. Owns `inner`.
std::unique_ptr<ByteSource> decompressed(std::unique_ptr<ByteSource> inner);

// Counts and hashes what passes.
class HashingSource final : public ByteSource {
 public:
  explicit HashingSource(std::unique_ptr<ByteSource> inner) : inner_(std::move(inner)) {}
  Result<size_t> read(std::span<char> into) override;
  uint64_t count() const { return count_; }
  std::string digest() { return "sha256:" + hash_.hex(); }  // once, at the end

 private:
  std::unique_ptr<ByteSource> inner_;
  Sha256 hash_;
  uint64_t count_ = 0;
};

// Inflates on a thread of its own while its reader works on what came before; bounded. For layers large enough to gain
// by it.
std::unique_ptr<ByteSource> readAhead(std::unique_ptr<ByteSource> inner);

// How far a file has been written that another thread reads meanwhile.
class Growth {
 public:
  void advance(uint64_t size);  // this many bytes can be read
  void end(bool whole);         // no more will come; not whole: readers fail with kCancelled
  // Waits until more than `offset` bytes are there; gives how many, `offset` itself at the end.
  Result<uint64_t> waitBeyond(uint64_t offset);

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  uint64_t size_ = 0;
  bool ended_ = false, whole_ = false;
};
std::unique_ptr<ByteSource> growingFileSource(UniqueFd fd, std::shared_ptr<Growth> growth);

using ByteSink = std::function<Result<>(std::string_view)>;

// Gzip of what is written; finish() must be called.
class GzipWriter {
 public:
  explicit GzipWriter(ByteSink sink);
  ~GzipWriter();
  Result<> write(std::string_view bytes);
  Result<> finish();

 private:
  struct Rep;
  std::unique_ptr<Rep> rep_;
};

}  // namespace dhow::image
