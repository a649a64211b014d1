#include "image/content.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "base/files.h"
#include "image/reference.h"

namespace dhow::image {
namespace {

Result<> syncFolder(const std::string& path) {
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd || ::fsync(fd.get()) != 0) return Error::fromErrno("fsync " + path);
  return {};
}

Error noSuchBlob(std::string_view digest) {
  return Error(Code::kNotFound, "no such blob: " + std::string(digest));
}

}  // namespace

ContentStore::Ingest& ContentStore::Ingest::operator=(Ingest&& other) noexcept {
  if (this == &other) return *this;
  if (fd_) ::unlink(path_.c_str());
  root_ = std::move(other.root_);
  path_ = std::move(other.path_);
  fd_ = std::move(other.fd_);
  hash_ = std::move(other.hash_);
  size_ = other.size_;
  return *this;
}

ContentStore::Ingest::~Ingest() {
  if (fd_) ::unlink(path_.c_str());
}

Result<> ContentStore::Ingest::write(std::string_view bytes) {
  hash_.update(bytes);
  while (!bytes.empty()) {
    ssize_t n = ::write(fd_.get(), bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Error::fromErrno("write blob");
    bytes.remove_prefix(static_cast<size_t>(n));
    size_ += static_cast<uint64_t>(n);
  }
  return {};
}

Result<std::string> ContentStore::Ingest::finish(std::string_view expected) {
  std::string hex = hash_.hex();
  std::string digest = "sha256:" + hex;
  auto attempt = [&]() -> Result<> {
    if (!expected.empty() && expected != digest)
      return Error(Code::kDataLoss, "filesystem layer verification failed for digest " + std::string(expected));
    if (::fsync(fd_.get()) != 0) return Error::fromErrno("fsync blob " + digest);
    std::string folder = root_ + "/blobs/sha256";
    std::string target = folder + "/" + hex;
    if (::rename(path_.c_str(), target.c_str()) != 0) return Error::fromErrno("store blob " + digest);
    return syncFolder(folder);
  };
  auto done = attempt();
  if (!done.ok()) ::unlink(path_.c_str());
  fd_.reset();
  if (!done.ok()) return std::move(done).error();
  return digest;
}

Result<std::unique_ptr<ContentStore>> ContentStore::open(std::string root) {
  RETURN_IF_ERROR(makeDirs(root + "/blobs/sha256"));
  RETURN_IF_ERROR(makeDirs(root + "/ingest", 0700));
  ASSIGN_OR_RETURN(auto leftovers, listDir(root + "/ingest"));
  for (const auto& name : leftovers) ::unlink((root + "/ingest/" + name).c_str());
  return std::unique_ptr<ContentStore>(new ContentStore(std::move(root)));
}

std::string ContentStore::path(std::string_view digest) const {
  return root_ + "/blobs/sha256/" + std::string(digest.substr(digest.find(':') + 1));
}

bool ContentStore::has(std::string_view digest) const {
  return isDigest(digest) && pathExists(path(digest));
}

Result<uint64_t> ContentStore::size(std::string_view digest) const {
  struct stat info;
  if (!isDigest(digest) || ::stat(path(digest).c_str(), &info) != 0) return noSuchBlob(digest);
  return static_cast<uint64_t>(info.st_size);
}

Result<std::string> ContentStore::read(std::string_view digest, size_t limit) const {
  if (!has(digest)) return noSuchBlob(digest);
  return readFile(path(digest), limit);
}

Result<UniqueFd> ContentStore::openBlob(std::string_view digest) const {
  if (!isDigest(digest)) return noSuchBlob(digest);
  UniqueFd fd(::open(path(digest).c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd && errno == ENOENT) return noSuchBlob(digest);
  if (!fd) return Error::fromErrno("open blob " + std::string(digest));
  return fd;
}

Result<std::string> ContentStore::put(std::string_view bytes) {
  std::string digest = "sha256:" + sha256Hex(bytes);
  if (has(digest)) return digest;
  ASSIGN_OR_RETURN(auto ingest, begin());
  RETURN_IF_ERROR(ingest.write(bytes));
  return ingest.finish(digest);
}

Result<ContentStore::Ingest> ContentStore::begin() {
  Ingest out;
  out.root_ = root_;
  out.path_ = root_ + "/ingest/" + randomHex(24);
  out.fd_.reset(::open(out.path_.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
  if (!out.fd_) return Error::fromErrno("create " + out.path_);
  return out;
}

Result<> ContentStore::remove(std::string_view digest) {
  if (!isDigest(digest)) return {};
  if (::unlink(path(digest).c_str()) != 0 && errno != ENOENT)
    return Error::fromErrno("remove blob " + std::string(digest));
  return {};
}

Result<std::vector<std::string>> ContentStore::list() const {
  ASSIGN_OR_RETURN(auto names, listDir(root_ + "/blobs/sha256"));
  std::vector<std::string> out;
  for (const auto& name : names) {
    if (isDigest("sha256:" + name)) out.push_back("sha256:" + name);
  }
  return out;
}

}  // namespace dhow::image
