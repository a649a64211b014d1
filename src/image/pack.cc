#include "pack.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/files.h"

namespace dhow::image {
namespace {

bool isOverlayWhiteout(const struct stat& info) {
  return S_ISCHR(info.st_mode) && info.st_rdev == 0;
}

std::map<std::string, std::string> xattrsOf(const std::string& path) {
  std::map<std::string, std::string> out;
  char names[65536];
  ssize_t length = ::llistxattr(path.c_str(), names, sizeof names);
  for (ssize_t i = 0; i < length;) {
    std::string name(names + i);
    i += static_cast<ssize_t>(name.size()) + 1;
    if (name != "security.capability" && !name.starts_with("user.")) continue;
    if (name.starts_with("user.overlay.")) continue;
    std::string value(65536, '\0');
    ssize_t size = ::lgetxattr(path.c_str(), name.c_str(), value.data(), value.size());
    if (size < 0) continue;
    value.resize(static_cast<size_t>(size));
    out[name] = std::move(value);
  }
  return out;
}

bool isOpaque(const std::string& path) {
  char value = 0;
  return ::lgetxattr(path.c_str(), "trusted.overlay.opaque", &value, 1) == 1 && value == 'y';
}

}  // namespace

Result<> Packer::addParents(const std::string& name) {
  for (size_t slash = name.find('/'); slash != std::string::npos; slash = name.find('/', slash + 1)) {
    std::string folder = name.substr(0, slash);
    if (!folders_.insert(folder).second) continue;
    TarEntry entry;
    entry.type = TarEntry::Type::kFolder;
    entry.name = folder + "/";
    entry.mode = 0755;
    RETURN_IF_ERROR(tar_.add(entry));
  }
  return {};
}

Result<> Packer::add(const std::string& path, const std::string& name, const PackOptions& options) {
  return addOne(path, name, options, 0);
}

Result<> Packer::addOne(const std::string& path, const std::string& name, const PackOptions& options, int depth) {
  if (depth > 1000) return Error(Code::kInvalid, "folders too deep: " + path);
  struct stat info;
  if (::lstat(path.c_str(), &info) != 0) return Error::fromErrno("stat " + path);
  TarEntry entry;
  entry.name = name;
  entry.mode = info.st_mode & 07777;
  if (options.mode >= 0 && !S_ISDIR(info.st_mode)) entry.mode = static_cast<unsigned>(options.mode);
  entry.uid = options.owner ? options.owner->first : info.st_uid;
  entry.gid = options.owner ? options.owner->second : info.st_gid;
  entry.mtimeSeconds = info.st_mtim.tv_sec;
  if (options.overlay && isOverlayWhiteout(info)) {
    auto slash = name.rfind('/');
    std::string folder = slash == std::string::npos ? "" : name.substr(0, slash + 1);
    entry.name = folder + ".wh." + name.substr(folder.size());
    entry.mode = 0;
    return tar_.addFile(entry, "");
  }
  if (S_ISSOCK(info.st_mode)) return {};
  if (S_ISDIR(info.st_mode)) {
    if (!name.empty() && folders_.insert(name).second) {
      entry.type = TarEntry::Type::kFolder;
      entry.name = name + "/";
      entry.xattrs = xattrsOf(path);
      RETURN_IF_ERROR(tar_.add(entry));
    }
    if (options.overlay && !name.empty() && isOpaque(path)) {
      TarEntry mark;
      mark.name = name + "/.wh..wh..opq";
      RETURN_IF_ERROR(tar_.addFile(mark, ""));
    }
    ASSIGN_OR_RETURN(auto children, listDir(path));
    for (const auto& child : children)
      RETURN_IF_ERROR(addOne(path + "/" + child, name.empty() ? child : name + "/" + child, options, depth + 1));
    return {};
  }
  if (info.st_nlink > 1) {
    auto [it, first] = links_.try_emplace({info.st_dev, info.st_ino}, name);
    if (!first) {
      entry.type = TarEntry::Type::kHardLink;
      entry.linkName = it->second;
      return tar_.add(entry);
    }
  }
  if (S_ISLNK(info.st_mode)) {
    std::string target(4096, '\0');
    ssize_t n = ::readlink(path.c_str(), target.data(), target.size());
    if (n < 0) return Error::fromErrno("read link " + path);
    target.resize(static_cast<size_t>(n));
    entry.type = TarEntry::Type::kSymlink;
    entry.mode = 0777;
    entry.linkName = std::move(target);
    return tar_.add(entry);
  }
  if (S_ISCHR(info.st_mode) || S_ISBLK(info.st_mode) || S_ISFIFO(info.st_mode)) {
    entry.type = S_ISCHR(info.st_mode)   ? TarEntry::Type::kCharDevice
                 : S_ISBLK(info.st_mode) ? TarEntry::Type::kBlockDevice
                                         : TarEntry::Type::kFifo;
    entry.deviceMajor = ::major(info.st_rdev);
    entry.deviceMinor = ::minor(info.st_rdev);
    return tar_.add(entry);
  }
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
  if (!fd) return Error::fromErrno("open " + path);
  entry.type = TarEntry::Type::kFile;
  entry.size = static_cast<uint64_t>(info.st_size);
  entry.xattrs = xattrsOf(path);
  RETURN_IF_ERROR(tar_.add(entry));
  std::vector<char> buffer(256 << 10);
  for (uint64_t left = entry.size; left > 0;) {
    ssize_t n = ::read(fd.get(), buffer.data(), std::min<uint64_t>(buffer.size(), left));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Error::fromErrno("read " + path);
    // The file shrank meanwhile; the header has promised its size.
    if (n == 0) n = static_cast<ssize_t>(std::min<uint64_t>(buffer.size(), left)), std::fill_n(buffer.begin(), n, '\0');
    RETURN_IF_ERROR(tar_.write({buffer.data(), static_cast<size_t>(n)}));
    left -= static_cast<uint64_t>(n);
  }
  return {};
}

}  // namespace dhow::image
