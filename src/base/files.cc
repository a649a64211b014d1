#include "base/files.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>

namespace dhow {
namespace {

std::string parentOf(const std::string& path) {
  auto slash = path.find_last_of('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

Result<> replaceFile(const std::string& path, std::string_view content, int mode, bool durable) {
  static std::atomic<unsigned> sequence{0};
  std::string temporary = path + ".tmp." + std::to_string(::getpid()) + "." + std::to_string(sequence++);
  UniqueFd fd(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode));
  if (!fd) return Error::fromErrno("create " + temporary);
  auto attempt = [&]() -> Result<> {
    RETURN_IF_ERROR(writeAll(fd.get(), content, temporary));
    if (durable && ::fsync(fd.get()) != 0) return Error::fromErrno("fsync " + temporary);
    if (::rename(temporary.c_str(), path.c_str()) != 0) return Error::fromErrno("rename to " + path);
    return durable ? syncFolder(path) : Result<>();
  };
  auto done = attempt();
  if (!done.ok()) ::unlink(temporary.c_str());
  return done;
}

Result<> removeAt(int parent, const char* name, const std::string& path, dev_t device) {
  struct stat info;
  if (::fstatat(parent, name, &info, AT_SYMLINK_NOFOLLOW) != 0) {
    if (errno == ENOENT) return {};
    return Error::fromErrno("stat " + path);
  }
  if (!S_ISDIR(info.st_mode)) {
    if (::unlinkat(parent, name, 0) != 0 && errno != ENOENT) return Error::fromErrno("remove " + path);
    return {};
  }
  if (device != 0 && info.st_dev != device)
    return Error(Code::kFailedPrecondition, "remove " + path + ": another file system is mounted there");
  UniqueFd fd(::openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!fd) return Error::fromErrno("open " + path);
  DIR* dir = ::fdopendir(::dup(fd.get()));
  if (!dir) return Error::fromErrno("read " + path);
  std::vector<std::string> names;
  while (dirent* entry = ::readdir(dir)) {
    if (std::strcmp(entry->d_name, ".") != 0 && std::strcmp(entry->d_name, "..") != 0)
      names.emplace_back(entry->d_name);
  }
  ::closedir(dir);
  for (const auto& child : names) RETURN_IF_ERROR(removeAt(fd.get(), child.c_str(), path + "/" + child, info.st_dev));
  if (::unlinkat(parent, name, AT_REMOVEDIR) != 0 && errno != ENOENT) return Error::fromErrno("remove " + path);
  return {};
}

}  // namespace

Result<std::string> readFile(const std::string& path, size_t limit) {
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return Error::fromErrno("open " + path);
  std::string content;
  char buffer[16384];
  while (true) {
    ssize_t n = ::read(fd.get(), buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Error::fromErrno("read " + path);
    if (n == 0) return content;
    content.append(buffer, static_cast<size_t>(n));
    if (content.size() > limit)
      return Error(Code::kTooLarge, "read " + path + ": larger than " + std::to_string(limit) + " bytes");
  }
}

Result<> writeFileDurably(const std::string& path, std::string_view content, int mode) {
  return replaceFile(path, content, mode, true);
}

Result<> writeFile(const std::string& path, std::string_view content, int mode) {
  return replaceFile(path, content, mode, false);
}

Result<> writeAll(int fd, std::string_view content, const std::string& path) {
  while (!content.empty()) {
    ssize_t n = ::write(fd, content.data(), content.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Error::fromErrno("write " + path);
    content.remove_prefix(static_cast<size_t>(n));
  }
  return {};
}

Result<> syncFolder(const std::string& path) {
  const std::string parent = parentOf(path);
  UniqueFd folder(::open(parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!folder || ::fsync(folder.get()) != 0) return Error::fromErrno("fsync " + parent);
  return {};
}

Result<> writeControlFile(const std::string& path, std::string_view content) {
  UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (!fd) return Error::fromErrno("open " + path);
  ssize_t n = ::write(fd.get(), content.data(), content.size());
  if (n < 0) return Error::fromErrno("write " + path);
  if (static_cast<size_t>(n) != content.size()) return Error(Code::kInternal, "write " + path + ": cut short");
  return {};
}

Result<> makeDirs(const std::string& path, int mode) {
  if (path.empty()) return {};
  for (size_t slash = path.find('/', 1);; slash = path.find('/', slash + 1)) {
    std::string prefix = path.substr(0, slash);
    if (::mkdir(prefix.c_str(), mode) != 0 && errno != EEXIST) return Error::fromErrno("make folder " + prefix);
    if (slash == std::string::npos) break;
  }
  struct stat info;
  if (::stat(path.c_str(), &info) != 0) return Error::fromErrno("stat " + path);
  if (!S_ISDIR(info.st_mode)) return Error::fromErrno(ENOTDIR, "make folder " + path);
  return {};
}

Result<> removeTree(const std::string& path) {
  return removeAt(AT_FDCWD, path.c_str(), path, 0);
}

Result<std::vector<std::string>> listDir(const std::string& path) {
  DIR* dir = ::opendir(path.c_str());
  if (!dir) return Error::fromErrno("read folder " + path);
  std::vector<std::string> names;
  while (dirent* entry = ::readdir(dir)) {
    if (std::strcmp(entry->d_name, ".") != 0 && std::strcmp(entry->d_name, "..") != 0)
      names.emplace_back(entry->d_name);
  }
  ::closedir(dir);
  std::sort(names.begin(), names.end());
  return names;
}

bool pathExists(const std::string& path) {
  struct stat info;
  return ::lstat(path.c_str(), &info) == 0;
}

Result<std::string> makeTempDir(const std::string& parent, std::string_view prefix) {
  std::string path = parent + "/" + std::string(prefix) + "XXXXXX";
  if (!::mkdtemp(path.data())) return Error::fromErrno("make a temporary folder in " + parent);
  return path;
}

Result<UniqueFd> lockFile(const std::string& path, bool wait) {
  UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!fd) return Error::fromErrno("open " + path);
  while (::flock(fd.get(), LOCK_EX | (wait ? 0 : LOCK_NB)) != 0) {
    if (errno == EINTR) continue;
    if (errno == EWOULDBLOCK) return Error(Code::kFailedPrecondition, path + " is held by another process");
    return Error::fromErrno("lock " + path);
  }
  return fd;
}

}  // namespace dhow
