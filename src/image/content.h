// Blobs by digest under <root>/blobs/sha256/<hex>. A blob appears whole, verified and on disk, or not at all: it is
// written to <root>/ingest, hashed, fsynced and renamed; what a crash leaves in ingest is removed at open(). All
// functions block and may be called on any thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/digest.h"
#include "base/fd.h"
#include "base/result.h"

namespace dhow::image {

class ContentStore {
 public:
  // A blob being written. Dropping it unfinished removes it.
  class Ingest {
   public:
    Ingest() = default;
    Ingest(Ingest&&) noexcept = default;
    Ingest& operator=(Ingest&& other) noexcept;
    ~Ingest();
    Result<> write(std::string_view bytes);
    uint64_t size() const { return size_; }
    const std::string& path() const { return path_; }
    // Makes it a blob. With a non-empty `expected` another digest is kDataLoss, and nothing is stored. Gives the
    // digest.
    Result<std::string> finish(std::string_view expected = {});

   private:
    friend class ContentStore;
    std::string root_, path_;
    UniqueFd fd_;
    Sha256 hash_;
    uint64_t size_ = 0;
  };

  static Result<std::unique_ptr<ContentStore>> open(std::string root);

  bool has(std::string_view digest) const;
  Result<uint64_t> size(std::string_view digest) const;
  std::string path(std::string_view digest) const;
  Result<std::string> read(std::string_view digest, size_t limit = 4 << 20) const;
  Result<UniqueFd> openBlob(std::string_view digest) const;
  Result<std::string> put(std::string_view bytes);  // gives the digest
  Result<Ingest> begin();
  Result<> remove(std::string_view digest);  // missing is fine
  Result<std::vector<std::string>> list() const;

 private:
  explicit ContentStore(std::string root) : root_(std::move(root)) {}
  std::string root_;
};

}  // namespace dhow::image
