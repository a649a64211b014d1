#include "volume_files.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <set>

#include "base/digest.h"
#include "base/files.h"
#include "base/strings.h"

namespace dhow::node {

namespace {

constexpr std::string_view kData = "..data";

std::string parentOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? std::string() : path.substr(0, slash);
}

std::optional<std::string> linkTarget(const std::string& path) {
  char buffer[4096];
  const ssize_t length = ::readlink(path.c_str(), buffer, sizeof buffer);
  if (length < 0) return std::nullopt;
  return std::string(buffer, static_cast<size_t>(length));
}

bool holds(const std::string& folder, const VolumeFiles& files) {
  std::set<std::string> tops;
  for (const auto& [path, file] : files) {
    auto content = readFile(folder + "/" + path);
    if (!content.ok() || *content != file.content) return false;
    struct stat info{};
    if (::stat((folder + "/" + path).c_str(), &info) != 0) return false;
    if ((info.st_mode & 0700) != (static_cast<mode_t>(file.mode) & 0700)) return false;
    tops.insert(path.substr(0, path.find('/')));
  }
  auto names = listDir(folder);
  return names.ok() && names->size() == tops.size();
}

Result<> own(const std::string& path, uint32_t group, mode_t mode) {
  if (::lchown(path.c_str(), static_cast<uid_t>(-1), group) != 0) return Error::fromErrno("chown " + path);
  if (::chmod(path.c_str(), mode) != 0) return Error::fromErrno("chmod " + path);
  return {};
}

Result<> fill(const std::string& folder, const VolumeFiles& files, std::optional<uint32_t> group) {
  RETURN_IF_ERROR(makeDirs(folder));
  if (group) RETURN_IF_ERROR(own(folder, *group, 02755));
  for (const auto& [path, file] : files) {
    const std::string full = folder + "/" + path;
    if (path.find('/') != std::string::npos) RETURN_IF_ERROR(makeDirs(parentOf(full)));
    UniqueFd fd(::open(full.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!fd) return Error::fromErrno("create " + full);
    std::string_view rest = file.content;
    while (!rest.empty()) {
      const ssize_t wrote = ::write(fd.get(), rest.data(), rest.size());
      if (wrote < 0) return Error::fromErrno("write " + full);
      rest.remove_prefix(static_cast<size_t>(wrote));
    }
    auto mode = static_cast<mode_t>(file.mode);
    if (group) {
      if (::fchown(fd.get(), static_cast<uid_t>(-1), *group) != 0) return Error::fromErrno("chown " + full);
      mode |= 0440;
    }
    if (::fchmod(fd.get(), mode) != 0) return Error::fromErrno("chmod " + full);
  }
  return {};
}

}  // namespace

Result<> writeVolume(const std::string& folder, const VolumeFiles& files, std::optional<uint32_t> group,
                     bool* changed) {
  if (changed != nullptr) *changed = false;
  RETURN_IF_ERROR(makeDirs(folder));
  const std::string data = folder + "/" + std::string(kData);
  auto before = linkTarget(data);
  if (before && holds(data, files)) return {};

  const std::string version = "..v" + randomHex(16);
  auto filled = fill(folder + "/" + version, files, group);
  if (!filled.ok()) {
    (void)removeTree(folder + "/" + version);
    return filled;
  }
  const std::string fresh = folder + "/..data_tmp";
  ::unlink(fresh.c_str());
  if (::symlink(version.c_str(), fresh.c_str()) != 0) return Error::fromErrno("link " + fresh);
  if (::rename(fresh.c_str(), data.c_str()) != 0) return Error::fromErrno("rename " + fresh);
  if (changed != nullptr) *changed = true;

  std::set<std::string> tops;
  for (const auto& [path, file] : files) tops.insert(path.substr(0, path.find('/')));
  for (const std::string& top : tops) {
    const std::string link = folder + "/" + top;
    if (linkTarget(link)) continue;
    if (::symlink((std::string(kData) + "/" + top).c_str(), link.c_str()) != 0) return Error::fromErrno("link " + link);
  }
  ASSIGN_OR_RETURN(auto names, listDir(folder));
  for (const std::string& name : names) {
    if (name == kData || name == version || tops.contains(name)) continue;
    RETURN_IF_ERROR(removeTree(folder + "/" + name));
  }
  return {};
}

Result<> makeEmptyDir(const std::string& folder, std::optional<uint32_t> group) {
  RETURN_IF_ERROR(makeDirs(folder));
  if (group) return own(folder, *group, 02777);
  if (::chmod(folder.c_str(), 0777) != 0) return Error::fromErrno("chmod " + folder);
  return {};
}

Result<> mountMemoryDir(const std::string& folder, uint64_t size, std::optional<uint32_t> group) {
  RETURN_IF_ERROR(makeDirs(folder));
  struct stat here{}, above{};
  if (::stat(folder.c_str(), &here) == 0 && ::stat(parentOf(folder).c_str(), &above) == 0 &&
      here.st_dev != above.st_dev) {
    return {};
  }
  std::string options = "mode=0777";
  if (size > 0) options += fmt::format(",size={}", size);
  if (::mount("tmpfs", folder.c_str(), "tmpfs", MS_NOSUID | MS_NODEV, options.c_str()) != 0) {
    return Error::fromErrno("mount tmpfs on " + folder);
  }
  return makeEmptyDir(folder, group);
}

Result<> unmountBelow(const std::string& folder) {
  ASSIGN_OR_RETURN(std::string mounts, readFile("/proc/self/mounts"));
  std::vector<std::string> targets;
  for (const std::string& line : split(mounts, '\n')) {
    auto fields = split(line, ' ');
    if (fields.size() < 2) continue;
    if (fields[1] == folder || fields[1].starts_with(folder + "/")) targets.push_back(fields[1]);
  }
  for (auto target = targets.rbegin(); target != targets.rend(); ++target) {
    if (::umount2(target->c_str(), MNT_DETACH | UMOUNT_NOFOLLOW) != 0 && errno != EINVAL) {
      return Error::fromErrno("unmount " + *target);
    }
  }
  return {};
}

Result<> checkHostPath(const std::string& path, std::string_view type) {
  if (type.empty()) return {};
  struct stat info{};
  bool there = ::stat(path.c_str(), &info) == 0;
  if (!there && type == "DirectoryOrCreate") {
    RETURN_IF_ERROR(makeDirs(path));
    there = ::stat(path.c_str(), &info) == 0;
  } else if (!there && type == "FileOrCreate") {
    UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
    if (!fd) return Error::fromErrno("create " + path);
    there = ::stat(path.c_str(), &info) == 0;
  }
  struct Kind {
    std::string_view type, what;
    mode_t format;
  };
  static constexpr Kind kKinds[] = {{"Directory", "a directory", S_IFDIR},
                                    {"DirectoryOrCreate", "a directory", S_IFDIR},
                                    {"File", "a file", S_IFREG},
                                    {"FileOrCreate", "a file", S_IFREG},
                                    {"Socket", "a socket file", S_IFSOCK},
                                    {"CharDevice", "a character device", S_IFCHR},
                                    {"BlockDevice", "a block device", S_IFBLK}};
  for (const Kind& kind : kKinds) {
    if (kind.type != type) continue;
    if (there && (info.st_mode & S_IFMT) == kind.format) return {};
    return Error(Code::kFailedPrecondition, fmt::format("hostPath type check failed: {} is not {}", path, kind.what));
  }
  return Error(Code::kInvalid, fmt::format("{} is an invalid volume type", type));
}

Result<UniqueFd> openSubPath(const std::string& volume, const std::string& subPath) {
  UniqueFd root(::open(volume.c_str(), O_PATH | O_CLOEXEC));
  if (!root) return Error::fromErrno("open " + volume);
  struct open_how how{};
  how.flags = O_PATH | O_CLOEXEC;
  how.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;
  auto openIn = [&](int folder, const std::string& path) {
    return UniqueFd(static_cast<int>(::syscall(SYS_openat2, folder, path.c_str(), &how, sizeof how)));
  };
  UniqueFd found = openIn(root.get(), subPath);
  if (found) return found;
  if (errno != ENOENT) return Error::fromErrno(fmt::format("open {} in {}", subPath, volume));
  // Made step by step, each step resolved by the kernel inside the volume.
  std::string sofar;
  UniqueFd folder = openIn(root.get(), ".");
  for (const std::string& step : split(subPath, '/')) {
    if (step.empty() || step == ".") continue;
    if (step == "..") return Error(Code::kInvalid, fmt::format("subPath {} leads upwards", subPath));
    sofar += (sofar.empty() ? "" : "/") + step;
    UniqueFd next = openIn(root.get(), sofar);
    if (!next && errno == ENOENT) {
      if (::mkdirat(folder.get(), step.c_str(), 0777) != 0 && errno != EEXIST) return Error::fromErrno("make " + sofar);
      (void)::fchmodat(folder.get(), step.c_str(), 0777, 0);
      next = openIn(root.get(), sofar);
    }
    if (!next) return Error::fromErrno(fmt::format("open {} in {}", sofar, volume));
    folder = std::move(next);
  }
  return folder;
}

}  // namespace dhow::node
