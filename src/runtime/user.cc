#include "runtime/user.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/strings.h"

namespace dhow::runtime {

namespace {

// A file of the image: the first layer from above that knows the name decides. Links stay inside the layer.
std::string imageFile(const RootFs& root, const char* path) {
  std::vector<std::string> layers;
  if (root.lower.empty()) {
    layers.push_back(root.path);
  } else {
    if (!root.upper.empty()) layers.push_back(root.upper);
    layers.insert(layers.end(), root.lower.begin(), root.lower.end());
  }
  for (const auto& layer : layers) {
    UniqueFd folder(::open(layer.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!folder) continue;
    open_how how{};
    how.flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK;
    how.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;
    UniqueFd file(static_cast<int>(::syscall(SYS_openat2, folder.get(), path, &how, sizeof how)));
    struct stat status{};
    if (!file) {
      // A whiteout is a device 0:0 that does not open.
      if (::fstatat(folder.get(), path, &status, AT_SYMLINK_NOFOLLOW) == 0 && S_ISCHR(status.st_mode)) return "";
      continue;
    }
    if (::fstat(file.get(), &status) != 0 || !S_ISREG(status.st_mode)) return "";
    std::string text;
    char buffer[16384];
    ssize_t n;
    while (text.size() < (4u << 20) && (n = ::read(file.get(), buffer, sizeof buffer)) > 0)
      text.append(buffer, static_cast<size_t>(n));
    return text;
  }
  return "";
}

std::optional<uint32_t> idNumber(std::string_view text) {
  auto value = parseUint(text);
  if (!value || *value > 0x7fffffff) return std::nullopt;
  return static_cast<uint32_t>(*value);
}

// name:password:number:... lines whose name or number is `wanted`.
std::optional<std::vector<std::string>> lineOf(const std::string& text, std::string_view wanted) {
  auto number = idNumber(wanted);
  std::optional<std::vector<std::string>> byNumber;
  for (const auto& line : split(text, '\n')) {
    auto fields = split(line, ':');
    if (fields.size() < 3) continue;
    if (fields[0] == wanted) return fields;
    if (number && !byNumber && idNumber(fields[2]) == number) byNumber = fields;
  }
  return byNumber;
}

Result<uint32_t> groupNumber(const std::string& groups, const std::string& wanted) {
  if (auto line = lineOf(groups, wanted)) {
    if (auto number = idNumber((*line)[2])) return *number;
  }
  if (auto number = idNumber(wanted)) return *number;
  return Error(Code::kNotFound, "unable to find group " + wanted + ": no matching entries in group file");
}

}  // namespace

Result<ResolvedUser> resolveUser(const RootFs& root, std::string_view user, const std::vector<std::string>& groups) {
  ResolvedUser out;
  auto parts = splitOnce(user, ':');
  std::string name(parts ? parts->first : user), group(parts ? parts->second : "");
  if (name.empty()) name = "0";
  std::string passwd = imageFile(root, "etc/passwd");
  std::string groupText = imageFile(root, "etc/group");
  auto line = lineOf(passwd, name);
  if (line && idNumber((*line)[2])) {
    out.name = (*line)[0];
    out.user.uid = *idNumber((*line)[2]);
    if (line->size() > 3) out.user.gid = idNumber((*line)[3]).value_or(0);
    if (line->size() > 5 && !(*line)[5].empty()) out.home = (*line)[5];
  } else if (auto number = idNumber(name)) {
    out.user.uid = *number;
  } else {
    return Error(Code::kNotFound, "unable to find user " + name + ": no matching entries in passwd file");
  }
  if (!group.empty()) {
    ASSIGN_OR_RETURN(out.user.gid, groupNumber(groupText, group));
  } else if (!out.name.empty()) {
    // Membership by name, as initgroups(3) finds it.
    for (const auto& each : split(groupText, '\n')) {
      auto fields = split(each, ':');
      if (fields.size() < 4) continue;
      auto members = split(fields[3], ',');
      bool member = std::find(members.begin(), members.end(), out.name) != members.end();
      auto number = idNumber(fields[2]);
      if (member && number) out.user.additionalGids.push_back(*number);
    }
  }
  for (const auto& each : groups) {
    ASSIGN_OR_RETURN(uint32_t number, groupNumber(groupText, each));
    out.user.additionalGids.push_back(number);
  }
  return out;
}

}  // namespace dhow::runtime
