#include "platform/programs.h"

#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#include <boost/json/parse.hpp>

#include <set>

#include "base/digest.h"
#include "base/fd.h"
#include "base/files.h"
#include "base/process.h"
#include "base/strings.h"
#include "client/fields.h"

namespace dhow::platform {

namespace json = boost::json;

namespace {

constexpr size_t kMaxShim = 64 << 20;
constexpr size_t kIdDigits = 12;

Result<std::string> idOf(const ProgramInfo& info, const std::string& shim) {
  ASSIGN_OR_RETURN(auto bytes, readFile(shim, kMaxShim));
  return fmt::format("{}-{}", info.version.text(), sha256Hex(info.build + sha256Hex(bytes)).substr(0, kIdDigits));
}

Result<std::string> shimBeside(const std::string& folder) {
  std::string shim = folder + "/dhow-shim";
  if (!pathExists(shim)) return Error(Code::kNotFound, shim + " is missing; it belongs beside dhow");
  return shim;
}

Error noProgram(const std::string& path, std::string_view why) {
  return Error(Code::kInvalid, fmt::format("{} is no program that a cluster can run: {}", path, why));
}

// What the program says of itself.
Result<ProgramInfo> ask(const std::string& program) {
  auto ran = runCommand({program, "version", "-o", "json"});
  if (!ran.ok()) return noProgram(program, ran.error().message());
  if (ran->status.signal != 0) return noProgram(program, fmt::format("signal {} ended it", ran->status.signal));
  if (ran->status.code != 0) return noProgram(program, trim(ran->errors.empty() ? ran->output : ran->errors));
  boost::system::error_code failed;
  auto value = json::parse(ran->output, failed);
  if (failed || !value.is_object()) return noProgram(program, "it does not tell its version");
  const auto& object = value.get_object();
  auto version = parseVersion(client::text(object, "version"));
  ProgramInfo info;
  info.build = client::text(object, "build");
  info.store.writes = static_cast<int>(client::number(object, {"storeForm", "writes"}, 0));
  info.store.reads = static_cast<int>(client::number(object, {"storeForm", "reads"}, 0));
  if (!version || info.build.empty() || info.store.writes < 1 || info.store.reads < info.store.writes)
    return noProgram(program, "it does not tell its version");
  info.version = *version;
  return info;
}

// Cloned where the file system can, else linked, else copied. A link is safe while a process runs the file: nobody can
// write into it then, and linkers make a new one.
Result<> share(const std::string& from, const std::string& to) {
  UniqueFd source(::open(from.c_str(), O_RDONLY | O_CLOEXEC));
  if (!source) return Error::fromErrno("open " + from);
  UniqueFd target(::open(to.c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0755));
  if (!target) return Error::fromErrno("create " + to);
  if (::ioctl(target.get(), FICLONE, source.get()) == 0) return {};
  ::unlink(to.c_str());
  if (::link(from.c_str(), to.c_str()) == 0) return {};
  target.reset(::open(to.c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0755));
  if (!target) return Error::fromErrno("create " + to);
  while (true) {
    ssize_t n = ::sendfile(target.get(), source.get(), nullptr, size_t{1} << 30);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Error::fromErrno(fmt::format("copy {} to {}", from, to));
    if (n == 0) return {};
  }
}

std::vector<std::string> commandLine(pid_t pid) {
  auto line = readFile(fmt::format("/proc/{}/cmdline", pid), 1 << 16);
  return line.ok() ? split(*line, '\0') : std::vector<std::string>();
}

}  // namespace

Result<Programs> Programs::ofThisProcess() {
  char path[4096];
  ssize_t n = ::readlink("/proc/self/exe", path, sizeof path);
  if (n <= 0) return Error::fromErrno("find this program");
  Programs programs;
  programs.dhow.assign(path, static_cast<size_t>(n));
  ASSIGN_OR_RETURN(programs.shim, shimBeside(programs.folder()));
  programs.info = thisProgram();
  ASSIGN_OR_RETURN(programs.id, idOf(programs.info, programs.shim));
  return programs;
}

Result<Programs> Programs::at(const std::string& path) {
  struct stat status{};
  if (::stat(path.c_str(), &status) != 0) return Error::fromErrno("find " + path);
  char whole[PATH_MAX];
  const std::string program = S_ISDIR(status.st_mode) ? path + "/dhow" : path;
  if (!::realpath(program.c_str(), whole)) return Error::fromErrno("find " + program);
  Programs programs;
  programs.dhow = whole;
  ASSIGN_OR_RETURN(programs.shim, shimBeside(programs.folder()));
  ASSIGN_OR_RETURN(programs.info, ask(programs.dhow));
  ASSIGN_OR_RETURN(programs.id, idOf(programs.info, programs.shim));
  return programs;
}

Version versionOf(const std::string& id) {
  return parseVersion(id).value_or(Version{});
}

Result<Programs> installPrograms(const ProgramPaths& paths, const Programs& programs) {
  Programs own = programs;
  own.dhow = paths.program(programs.id) + "/dhow";
  own.shim = paths.program(programs.id) + "/dhow-shim";
  if (pathExists(paths.program(programs.id))) return own;
  const std::string made = paths.programs() + "/.new";
  RETURN_IF_ERROR(removeTree(made));
  RETURN_IF_ERROR(makeDirs(made, 0755));
  RETURN_IF_ERROR(share(programs.dhow, made + "/dhow"));
  RETURN_IF_ERROR(share(programs.shim, made + "/dhow-shim"));
  if (::rename(made.c_str(), paths.program(programs.id).c_str()) != 0) return Error::fromErrno("rename " + made);
  return own;
}

Result<Programs> installedPrograms(const ProgramPaths& paths, const std::string& id) {
  if (!pathExists(paths.program(id)))
    return Error(Code::kNotFound,
                 fmt::format("the cluster has no programs {}; it has {}", id, join(installedIds(paths), ", ")));
  ASSIGN_OR_RETURN(auto programs, Programs::at(paths.program(id)));
  if (programs.id == id) return programs;
  return Error(Code::kDataLoss,
               fmt::format("{} holds {}: the file was changed in place", paths.program(id), programs.id));
}

std::vector<std::string> installedIds(const ProgramPaths& paths) {
  std::vector<std::string> ids;
  auto names = listDir(paths.programs());
  if (!names.ok()) return ids;
  for (const auto& name : *names) {
    if (parseVersion(name)) ids.push_back(name);
  }
  return ids;
}

Result<Programs> choosePrograms(const ProgramPaths& paths, const Programs& own, const std::string& to) {
  if (to.empty()) return own;
  if (to.find('/') == to.npos && !pathExists(to) && parseVersion(to)) return installedPrograms(paths, to);
  return Programs::at(to);
}

void removeOtherPrograms(const ProgramPaths& paths, const std::vector<std::string>& keep) {
  std::set<std::string> kept(keep.begin(), keep.end());
  auto links = listDir(paths.links());
  for (const auto& process : links.ok() ? *links : std::vector<std::string>())
    kept.insert(linkedProgram(paths, process));
  for (const auto& id : installedIds(paths)) {
    if (!kept.contains(id)) (void)removeTree(paths.program(id)).ok();
  }
}

std::string linkedProgram(const ProgramPaths& paths, const std::string& process) {
  char target[PATH_MAX];
  ssize_t n = ::readlink(paths.link(process).c_str(), target, sizeof target);
  if (n <= 0) return "";
  std::string_view id(target, static_cast<size_t>(n));
  return std::string(id.substr(id.rfind('/') + 1));
}

Result<> linkProgram(const ProgramPaths& paths, const std::string& process, const std::string& id) {
  if (!pathExists(paths.program(id) + "/dhow"))
    return Error(Code::kNotFound, fmt::format("{} is missing", paths.program(id) + "/dhow"));
  RETURN_IF_ERROR(makeDirs(paths.links(), 0755));
  const std::string link = paths.link(process), made = paths.links() + "/." + process + ".new";
  ::unlink(made.c_str());
  if (::symlink(("../" + id).c_str(), made.c_str()) != 0) return Error::fromErrno("link " + made);
  if (::rename(made.c_str(), link.c_str()) != 0) return Error::fromErrno("rename " + made);
  return {};
}

Result<> ensureLinked(const ProgramPaths& paths, const std::string& process, const std::string& id) {
  if (pathExists(paths.link(process) + "/dhow")) return {};
  return linkProgram(paths, process, id);
}

std::string runningProgram(const ProgramPaths& paths, pid_t pid) {
  char path[PATH_MAX];
  ssize_t n = ::readlink(fmt::format("/proc/{}/exe", pid).c_str(), path, sizeof path);
  std::string_view exe(path, n > 0 ? static_cast<size_t>(n) : 0);
  if (!exe.starts_with(paths.programs() + "/")) return "";
  exe.remove_prefix(paths.programs().size() + 1);
  return std::string(exe.substr(0, exe.find('/')));
}

pid_t findRole(pid_t init, const std::vector<std::string>& command) {
  if (init <= 0) return 0;
  auto children = readFile(fmt::format("/proc/{}/task/{}/children", init, init), 1 << 20);
  if (!children.ok()) return 0;
  // Between fork and exec it still looks like its parent.
  const auto parent = commandLine(init);
  for (const auto& child : split(trim(*children), ' ')) {
    auto pid = parseInt(child);
    if (!pid) continue;
    const auto line = commandLine(static_cast<pid_t>(*pid));
    const bool isRole = line.size() >= command.size() && std::equal(command.begin(), command.end(), line.begin());
    if (isRole || (!line.empty() && line == parent)) return static_cast<pid_t>(*pid);
  }
  return 0;
}

}  // namespace dhow::platform
