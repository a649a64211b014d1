#include "unpack.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <set>

#include "base/files.h"
#include "base/strings.h"
#include "tar.h"

namespace dhow::image {
namespace {

constexpr std::string_view kWhiteout = ".wh.";
constexpr std::string_view kOpaque = ".wh..wh..opq";
constexpr std::string_view kReserved = ".wh..wh.";

int openInside(int root, const char* path, uint64_t flags) {
  open_how how{};
  how.flags = flags | O_CLOEXEC;
  how.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;
  while (true) {
    int fd = static_cast<int>(::syscall(SYS_openat2, root, path, &how, sizeof how));
    if (fd >= 0 || (errno != EAGAIN && errno != EINTR)) return fd;
  }
}

// Without "." and "..", relative; empty is the root itself. Fails when it would leave the root.
Result<std::string> cleanPath(std::string_view path) {
  std::vector<std::string_view> parts;
  while (!path.empty()) {
    auto slash = path.find('/');
    auto part = path.substr(0, slash);
    path.remove_prefix(slash == std::string_view::npos ? path.size() : slash + 1);
    if (part.empty() || part == ".") continue;
    if (part == "..") {
      if (parts.empty()) return Error(Code::kInvalid, "invalid path in archive: it leaves the root");
      parts.pop_back();
      continue;
    }
    if (part.size() > 255) return Error(Code::kInvalid, "invalid path in archive: name too long");
    parts.push_back(part);
  }
  std::string out;
  for (auto part : parts) {
    if (!out.empty()) out += '/';
    out += part;
  }
  if (out.size() > 4095) return Error(Code::kInvalid, "invalid path in archive: path too long");
  return out;
}

class Unpacker {
 public:
  Unpacker(ByteSource& source, UniqueFd root, UnpackForm form)
      : tar_(source), root_(std::move(root)), form_(form), privileged_(::geteuid() == 0) {}

  Result<Unpacked> run() {
    TarEntry entry;
    while (true) {
      ASSIGN_OR_RETURN(bool more, tar_.next(entry));
      if (!more) break;
      if (auto done = place(entry); !done.ok()) {
        if (done.error().is(Code::kCancelled)) return std::move(done).error();
        return std::move(done).error().wrap("failed to register layer: " + entry.name.substr(0, 512));
      }
      ++out_.entries;
    }
    RETURN_IF_ERROR(tar_.drain());
    setFolderTimes();
    out_.implicitFolders.assign(implicit_.begin(), implicit_.end());
    return std::move(out_);
  }

 private:
  Result<> place(TarEntry& entry) {
    ASSIGN_OR_RETURN(std::string path, cleanPath(entry.name));
    auto slash = path.rfind('/');
    std::string name = slash == std::string::npos ? path : path.substr(slash + 1);
    std::string parent = slash == std::string::npos ? "" : path.substr(0, slash);
    if (path.empty()) {
      if (entry.type != TarEntry::Type::kFolder) return Error(Code::kInvalid, "the root is not a folder");
      implicit_.erase("");
      return finish(root_.get(), entry, "");
    }
    ASSIGN_OR_RETURN(int folder, openParent(parent));
    if (form_ == UnpackForm::kOverlayLayer && name.starts_with(kWhiteout)) return whiteout(folder, name);
    RETURN_IF_ERROR(makeRoom(folder, name, entry));
    switch (entry.type) {
      case TarEntry::Type::kFolder: return makeFolder(folder, name, path, entry);
      case TarEntry::Type::kFile: return makeFile(folder, name, entry);
      case TarEntry::Type::kHardLink: return makeLink(folder, name, entry);
      default: return makeSpecial(folder, name, entry);
    }
  }

  // The folder's descriptor, kept until another is asked for. Missing folders are made.
  Result<int> openParent(const std::string& parent) {
    if (parent.empty()) return root_.get();
    if (cached_ && cachedPath_ == parent) return cached_.get();
    int fd = openInside(root_.get(), parent.c_str(), O_RDONLY | O_DIRECTORY);
    if (fd < 0 && errno == ENOENT) {
      RETURN_IF_ERROR(makeMissing(parent));
      fd = openInside(root_.get(), parent.c_str(), O_RDONLY | O_DIRECTORY);
    }
    if (fd < 0) return Error::fromErrno("open folder");
    cached_.reset(fd);
    cachedPath_ = parent;
    return fd;
  }

  Result<> makeMissing(const std::string& path) {
    for (size_t slash = path.find('/');; slash = path.find('/', slash + 1)) {
      std::string prefix = path.substr(0, slash);
      UniqueFd existing(openInside(root_.get(), prefix.c_str(), O_PATH | O_DIRECTORY));
      if (!existing) {
        if (errno != ENOENT) return Error::fromErrno("open folder");
        auto cut = prefix.rfind('/');
        std::string above = cut == std::string::npos ? "." : prefix.substr(0, cut);
        UniqueFd parent(openInside(root_.get(), above.c_str(), O_PATH | O_DIRECTORY));
        if (!parent) return Error::fromErrno("open folder");
        std::string leaf = cut == std::string::npos ? prefix : prefix.substr(cut + 1);
        if (::mkdirat(parent.get(), leaf.c_str(), 0755) != 0) return Error::fromErrno("make folder");
        implicit_.insert(prefix);
      }
      if (slash == std::string::npos) return {};
    }
  }

  // Removes what an earlier entry of this archive left at the name; a folder stays for a folder.
  Result<> makeRoom(int folder, const std::string& name, const TarEntry& entry) {
    struct stat info;
    if (::fstatat(folder, name.c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0) {
      return errno == ENOENT ? Result<>() : Result<>(Error::fromErrno("look up"));
    }
    if (S_ISDIR(info.st_mode)) {
      if (entry.type == TarEntry::Type::kFolder) return {};
      if (entry.type == TarEntry::Type::kHardLink) return Error(Code::kInvalid, "a link replaces a folder");
      forgetFolders();
      return removeBelow(folder, name, 0);
    }
    // A whiteout and a new folder of that name in one layer: the folder hides what lies below.
    hidesLower_ = S_ISCHR(info.st_mode) && info.st_rdev == 0 && entry.type == TarEntry::Type::kFolder;
    forgetFolders();
    if (::unlinkat(folder, name.c_str(), 0) != 0) return Error::fromErrno("replace");
    return {};
  }

  void forgetFolders() {
    // The descriptor in use stays valid; only the path's meaning may change.
    cachedPath_.clear();
    cachedPath_ += '\0';
  }

  Result<> removeBelow(int folder, const std::string& name, int depth) {
    if (depth > 1000) return Error(Code::kInvalid, "folders too deep");
    UniqueFd fd(::openat(folder, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!fd) return Error::fromErrno("open folder");
    std::string self = "/proc/self/fd/" + std::to_string(fd.get());
    ASSIGN_OR_RETURN(auto names, listDir(self));
    for (const auto& child : names) {
      struct stat info;
      if (::fstatat(fd.get(), child.c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0) return Error::fromErrno("look up");
      if (S_ISDIR(info.st_mode)) {
        RETURN_IF_ERROR(removeBelow(fd.get(), child, depth + 1));
      } else if (::unlinkat(fd.get(), child.c_str(), 0) != 0) {
        return Error::fromErrno("remove");
      }
    }
    if (::unlinkat(folder, name.c_str(), AT_REMOVEDIR) != 0) return Error::fromErrno("remove folder");
    return {};
  }

  Result<> setOpaque(int fd) {
    if (::fsetxattr(fd, "trusted.overlay.opaque", "y", 1, 0) != 0) return Error::fromErrno("mark folder opaque");
    return {};
  }

  Result<> whiteout(int folder, const std::string& name) {
    if (name == kOpaque) return setOpaque(folder);
    if (name.starts_with(kReserved)) return {};  // aufs' own bookkeeping
    std::string hidden = name.substr(kWhiteout.size());
    if (hidden.empty() || hidden == "." || hidden == "..") return Error(Code::kInvalid, "invalid whiteout name");
    struct stat info;
    if (::fstatat(folder, hidden.c_str(), &info, AT_SYMLINK_NOFOLLOW) == 0) {
      // This layer brings the name itself; only what lies below is hidden.
      if (!S_ISDIR(info.st_mode)) return {};
      UniqueFd fd(::openat(folder, hidden.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
      if (!fd) return Error::fromErrno("open folder");
      return setOpaque(fd.get());
    }
    if (::mknodat(folder, hidden.c_str(), S_IFCHR, ::makedev(0, 0)) != 0) return Error::fromErrno("make whiteout");
    return {};
  }

  Result<> makeFolder(int parent, const std::string& name, const std::string& path, const TarEntry& entry) {
    bool hides = std::exchange(hidesLower_, false);
    if (::mkdirat(parent, name.c_str(), 0700) != 0 && errno != EEXIST) return Error::fromErrno("make folder");
    UniqueFd fd(::openat(parent, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!fd) return Error::fromErrno("open folder");
    if (hides) RETURN_IF_ERROR(setOpaque(fd.get()));
    implicit_.erase(path);
    return finish(fd.get(), entry, path);
  }

  Result<> makeFile(int parent, const std::string& name, const TarEntry& entry) {
    UniqueFd fd(::openat(parent, name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
    if (!fd) return Error::fromErrno("create");
    size_t piece = 0;
    uint64_t within = 0, offset = 0;
    while (true) {
      ASSIGN_OR_RETURN(auto bytes, tar_.data());
      if (bytes.empty()) break;
      while (!bytes.empty()) {
        auto part = bytes;
        if (entry.sparse) {
          while (piece < entry.pieces.size() && within == entry.pieces[piece].length) {
            ++piece;
            within = 0;
          }
          if (piece == entry.pieces.size()) return Error(Code::kInvalid, "sparse map does not fit the content");
          offset = entry.pieces[piece].offset + within;
          part = part.substr(0, entry.pieces[piece].length - within);
        }
        ssize_t n = ::pwrite(fd.get(), part.data(), part.size(), static_cast<off_t>(offset));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return Error::fromErrno("write");
        offset += static_cast<uint64_t>(n);
        within += static_cast<uint64_t>(n);
        bytes.remove_prefix(static_cast<size_t>(n));
      }
    }
    if (entry.sparse && ::ftruncate(fd.get(), static_cast<off_t>(entry.size)) != 0) return Error::fromErrno("set size");
    out_.size += entry.size;
    return finish(fd.get(), entry, "");
  }

  Result<> makeLink(int parent, const std::string& name, const TarEntry& entry) {
    ASSIGN_OR_RETURN(std::string target, cleanPath(entry.linkName));
    if (target.empty()) return Error(Code::kInvalid, "a link to the root");
    auto slash = target.rfind('/');
    std::string above = slash == std::string::npos ? "." : target.substr(0, slash);
    std::string leaf = slash == std::string::npos ? target : target.substr(slash + 1);
    UniqueFd folder(openInside(root_.get(), above.c_str(), O_PATH | O_DIRECTORY));
    if (!folder) return Error::fromErrno("link to " + target.substr(0, 512));
    struct stat info;
    if (::fstatat(folder.get(), leaf.c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0)
      return Error::fromErrno("link to " + target.substr(0, 512));
    if (S_ISDIR(info.st_mode)) return Error(Code::kInvalid, "a link to a folder");
    if (::linkat(folder.get(), leaf.c_str(), parent, name.c_str(), 0) != 0)
      return Error::fromErrno("link to " + target.substr(0, 512));
    return {};
  }

  Result<> makeSpecial(int parent, const std::string& name, const TarEntry& entry) {
    if (entry.type == TarEntry::Type::kSymlink) {
      if (entry.linkName.empty() || entry.linkName.size() > 4095) return Error(Code::kInvalid, "invalid symbolic link");
      if (::symlinkat(entry.linkName.c_str(), parent, name.c_str()) != 0) return Error::fromErrno("make symbolic link");
    } else {
      mode_t kind = entry.type == TarEntry::Type::kFifo          ? S_IFIFO
                    : entry.type == TarEntry::Type::kBlockDevice ? S_IFBLK
                                                                 : S_IFCHR;
      dev_t device = kind == S_IFIFO ? 0 : ::makedev(entry.deviceMajor, entry.deviceMinor);
      // It would be a whiteout to overlay.
      if (kind == S_IFCHR && device == 0) return Error(Code::kInvalid, "a character device 0:0");
      if (::mknodat(parent, name.c_str(), kind | 0600, device) != 0) return Error::fromErrno("make device");
    }
    if (privileged_ && ::fchownat(parent, name.c_str(), entry.uid, entry.gid, AT_SYMLINK_NOFOLLOW) != 0)
      return Error::fromErrno("set owner");
    if (entry.type != TarEntry::Type::kSymlink && ::fchmodat(parent, name.c_str(), entry.mode, 0) != 0)
      return Error::fromErrno("set mode");
    timespec times[2] = {{entry.mtimeSeconds, entry.mtimeNanos}, {entry.mtimeSeconds, entry.mtimeNanos}};
    if (::utimensat(parent, name.c_str(), times, AT_SYMLINK_NOFOLLOW) != 0) return Error::fromErrno("set time");
    return {};
  }

  // Owner before mode: chown clears setuid. Xattrs after owner: chown clears capabilities.
  Result<> finish(int fd, const TarEntry& entry, const std::string& folderPath) {
    if (privileged_ && ::fchown(fd, entry.uid, entry.gid) != 0) return Error::fromErrno("set owner");
    if (::fchmod(fd, entry.mode) != 0) return Error::fromErrno("set mode");
    for (const auto& [name, value] : entry.xattrs) {
      // What steers overlay itself is not the archive's to set.
      if (name.starts_with("trusted.overlay.") || name.starts_with("user.overlay.")) continue;
      if (::fsetxattr(fd, name.c_str(), value.data(), value.size(), 0) != 0 && errno != ENOTSUP && errno != EPERM)
        return Error::fromErrno("set extended attribute " + name.substr(0, 255));
    }
    if (entry.type == TarEntry::Type::kFolder) {
      folderTimes_.emplace_back(folderPath, timespec{entry.mtimeSeconds, entry.mtimeNanos});
      return {};
    }
    timespec times[2] = {{entry.mtimeSeconds, entry.mtimeNanos}, {entry.mtimeSeconds, entry.mtimeNanos}};
    if (::futimens(fd, times) != 0) return Error::fromErrno("set time");
    return {};
  }

  // Last, since making something in a folder touches it.
  void setFolderTimes() {
    for (auto it = folderTimes_.rbegin(); it != folderTimes_.rend(); ++it) {
      UniqueFd fd(
          openInside(root_.get(), it->first.empty() ? "." : it->first.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
      timespec times[2] = {it->second, it->second};
      if (fd) ::futimens(fd.get(), times);
    }
  }

  TarReader tar_;
  UniqueFd root_;
  UnpackForm form_;
  bool privileged_;
  UniqueFd cached_;
  std::string cachedPath_ = std::string(1, '\0');
  bool hidesLower_ = false;
  std::set<std::string> implicit_{""};  // the root is ""
  std::vector<std::pair<std::string, timespec>> folderTimes_;
  Unpacked out_;
};

}  // namespace

Result<Unpacked> unpackTar(ByteSource& tar, const std::string& folder, UnpackForm form) {
  UniqueFd root(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!root) return Error::fromErrno("open " + folder);
  return Unpacker(tar, std::move(root), form).run();
}

}  // namespace dhow::image
