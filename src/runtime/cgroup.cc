#include "cgroup.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include "base/files.h"
#include "base/strings.h"

namespace dhow::runtime {

namespace {

std::string unescapeMount(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\' && i + 3 < text.size()) {
      out += static_cast<char>((text[i + 1] - '0') * 64 + (text[i + 2] - '0') * 8 + (text[i + 3] - '0'));
      i += 3;
    } else {
      out += text[i];
    }
  }
  return out;
}

const std::vector<std::string>& knownV1() {
  static const std::vector<std::string> names = {"cpu",        "cpuacct", "cpuset", "memory",  "devices",
                                                 "freezer",    "blkio",   "pids",   "net_cls", "net_prio",
                                                 "perf_event", "hugetlb", "rdma",   "misc"};
  return names;
}

void addDirsBelow(const std::string& dir, std::vector<std::string>& into) {
  std::error_code error;
  for (std::filesystem::directory_iterator entry(dir, error), end; !error && entry != end; entry.increment(error)) {
    std::error_code ignored;
    if (entry->is_directory(ignored) && !entry->is_symlink(ignored)) addDirsBelow(entry->path().string(), into);
  }
  into.push_back(dir);  // the deepest first
}

}  // namespace

Result<Cgroups> Cgroups::detect() {
  ASSIGN_OR_RETURN(std::string text, readFile("/proc/self/mountinfo"));
  std::vector<Hierarchy> found;
  for (const auto& line : split(text, '\n')) {
    auto fields = split(line, ' ');
    size_t dash = 6;
    while (dash < fields.size() && fields[dash] != "-") ++dash;
    if (dash + 3 >= fields.size()) continue;
    const std::string& type = fields[dash + 1];
    if (type != "cgroup" && type != "cgroup2") continue;
    Hierarchy hierarchy;
    hierarchy.mount = unescapeMount(fields[4]);
    hierarchy.v2 = type == "cgroup2";
    if (hierarchy.v2) {
      auto names = readFile(hierarchy.mount + "/cgroup.controllers");
      if (!names.ok()) continue;
      for (auto& name : split(trim(*names), ' ')) {
        if (!name.empty()) hierarchy.controllers.push_back(name);
      }
    } else {
      for (auto& option : split(fields[dash + 3], ',')) {
        bool known = std::find(knownV1().begin(), knownV1().end(), option) != knownV1().end();
        if (known || option.starts_with("name=")) hierarchy.controllers.push_back(option);
      }
    }
    auto sameHierarchy = [&](const Hierarchy& other) {
      return other.v2 == hierarchy.v2 && (hierarchy.v2 || other.controllers == hierarchy.controllers);
    };
    if (std::none_of(found.begin(), found.end(), sameHierarchy)) found.push_back(std::move(hierarchy));
  }
  return Cgroups(std::move(found));
}

const Hierarchy* Cgroups::of(std::string_view controller) const {
  const Hierarchy* second = nullptr;
  for (const auto& hierarchy : hierarchies_) {
    for (const auto& name : hierarchy.controllers) {
      if (name != controller) continue;
      if (!hierarchy.v2) return &hierarchy;
      second = &hierarchy;
    }
  }
  return second;
}

const Hierarchy* Cgroups::v2() const {
  for (const auto& hierarchy : hierarchies_) {
    if (hierarchy.v2) return &hierarchy;
  }
  return nullptr;
}

int Cgroups::version() const {
  const Hierarchy* memory = of("memory");
  if (!memory) return v2() && hierarchies_.size() == 1 ? 2 : 1;
  return memory->v2 ? 2 : 1;
}

std::string Cgroups::dir(const Hierarchy* hierarchy, const std::string& path) const {
  return hierarchy ? hierarchy->mount + path : "";
}

std::vector<const Hierarchy*> Cgroups::needed(const Resources& resources, const std::vector<std::string>& also,
                                              bool devices) const {
  std::vector<const Hierarchy*> out;
  auto add = [&](const Hierarchy* hierarchy) {
    if (hierarchy && std::find(out.begin(), out.end(), hierarchy) == out.end()) out.push_back(hierarchy);
  };
  bool all = std::find(also.begin(), also.end(), "*") != also.end();
  if (all) {
    for (const auto& hierarchy : hierarchies_) add(&hierarchy);
    return out;
  }
  add(v2());  // kills and freezes, even where version 1 has the controllers
  for (const char* name : {"memory", "cpu", "cpuacct", "pids"}) add(of(name));
  if (devices) add(of("devices"));
  if (!resources.cpusetCpus.empty() || !resources.cpusetMems.empty()) add(of("cpuset"));
  if (resources.blkioWeight) add(of("blkio"));
  if (!v2()) add(of("freezer"));
  for (const auto& name : also) add(of(name));
  return out;
}

// mkdir -p below the mount; v1 cpusets start empty and take their parent's, v2 parents hand controllers down.
Result<> Cgroups::makeGroup(const Hierarchy& hierarchy, const std::string& path) const {
  std::string current = hierarchy.mount;
  bool cpuset = !hierarchy.v2 && std::find(hierarchy.controllers.begin(), hierarchy.controllers.end(), "cpuset") !=
                                     hierarchy.controllers.end();
  for (const auto& part : split(path, '/')) {
    if (part.empty()) continue;
    std::string parent = current;
    auto ours = [](const std::string& name) {
      return name == "memory" || name == "cpu" || name == "cpuset" || name == "pids" || name == "io";
    };
    if (hierarchy.v2 && std::any_of(hierarchy.controllers.begin(), hierarchy.controllers.end(), ours)) {
      auto enabled = readFile(parent + "/cgroup.subtree_control");
      for (const auto& name : hierarchy.controllers) {
        if (!ours(name)) continue;
        bool has =
            enabled.ok() && (" " + std::string(trim(*enabled)) + " ").find(" " + name + " ") != std::string::npos;
        if (!has) (void)writeControlFile(parent + "/cgroup.subtree_control", "+" + name).ok();
      }
    }
    current += "/" + part;
    if (::mkdir(current.c_str(), 0755) != 0 && errno != EEXIST) return Error::fromErrno("make cgroup " + current);
    if (!cpuset) continue;
    for (const char* file : {"/cpuset.cpus", "/cpuset.mems"}) {
      auto own = readFile(current + file);
      if (!own.ok() || !trim(*own).empty()) continue;
      auto inherited = readFile(parent + file);
      if (inherited.ok()) (void)writeControlFile(current + file, trim(*inherited)).ok();
    }
  }
  return {};
}

Result<GroupEntry> Cgroups::create(const std::string& path, const Resources& resources,
                                   const std::vector<std::string>& also, bool devices) const {
  if (path.empty() || path[0] != '/' || path == "/" || path.find("/..") != std::string::npos)
    return Error(Code::kInvalid, "cgroup path \"" + path + "\" is not a path below the root");
  std::vector<std::string> warnings;
  for (const Hierarchy* hierarchy : needed(resources, also, devices)) {
    auto made = makeGroup(*hierarchy, path);
    if (!made.ok()) warnings.push_back(made.error().message());
  }
  auto more = update(path, resources);
  if (more.ok()) warnings.insert(warnings.end(), more->begin(), more->end());
  if (devices) {
    auto restricted = restrictDevices(path, resources);
    if (!restricted.ok()) warnings.push_back("devices are not restricted: " + restricted.error().message());
  }
  GroupEntry out = entry(path);
  out.warnings = std::move(warnings);
  return out;
}

GroupEntry Cgroups::entry(const std::string& path) const {
  GroupEntry out;
  out.path = path;
  for (const auto& hierarchy : hierarchies_) {
    std::string folder = dir(&hierarchy, path);
    if (::access(folder.c_str(), F_OK) != 0) continue;
    out.joined.push_back(hierarchy);
    bool memory = &hierarchy == of("memory");
    if (hierarchy.v2) {
      out.v2Dir = folder;
      if (::access((folder + "/cgroup.kill").c_str(), F_OK) == 0) out.killFile = folder + "/cgroup.kill";
      if (memory) out.oomFile = folder + "/memory.events";
    } else {
      out.taskFiles.push_back(folder + "/tasks");
      if (memory) out.oomFile = folder + "/memory.oom_control";
    }
  }
  return out;
}

Result<std::vector<std::string>> Cgroups::update(const std::string& path, const Resources& resources) const {
  std::vector<std::string> warnings;
  limitV1(path, resources, warnings);
  limitV2(path, resources, warnings);
  return warnings;
}

std::vector<pid_t> Cgroups::processes(const std::string& path) const {
  // Version 2 when there is one, else the hierarchy that every group of ours is in.
  const Hierarchy* hierarchy = v2();
  for (const char* name : {"memory", "pids", "cpu", "devices", "freezer"}) {
    if (!hierarchy || ::access(dir(hierarchy, path).c_str(), F_OK) != 0) hierarchy = of(name);
  }
  std::vector<pid_t> out;
  if (!hierarchy) return out;
  std::vector<std::string> folders;
  addDirsBelow(dir(hierarchy, path), folders);
  for (const auto& folder : folders) {
    auto text = readFile(folder + "/cgroup.procs");
    if (!text.ok()) continue;
    for (const auto& line : split(*text, '\n')) {
      auto pid = parseInt(line);
      if (pid && *pid > 0) out.push_back(static_cast<pid_t>(*pid));
    }
  }
  return out;
}

Result<> Cgroups::signal(const std::string& path, int number) const {
  for (pid_t pid : processes(path)) {
    if (::kill(pid, number) != 0 && errno != ESRCH) return Error::fromErrno("signal process " + std::to_string(pid));
  }
  return {};
}

Result<> Cgroups::kill(const std::string& path) const {
  const Hierarchy* unified = v2();
  if (unified && writeControlFile(dir(unified, path) + "/cgroup.kill", "1").ok()) return {};
  // Whoever is forked meanwhile is found in the next round; the group is empty of the living when none is new.
  for (int round = 0; round < 64; ++round) {
    auto pids = processes(path);
    bool killed = false;
    for (pid_t pid : pids) killed |= ::kill(pid, SIGKILL) == 0;
    if (!killed) break;
    if (round > 0 && pids.size() < 2) break;
  }
  return {};
}

Result<> Cgroups::freeze(const std::string& path, bool frozen) const {
  const Hierarchy* unified = v2();
  if (unified && pathExists(dir(unified, path)))
    return writeControlFile(dir(unified, path) + "/cgroup.freeze", frozen ? "1" : "0");
  const Hierarchy* freezer = of("freezer");
  if (!freezer) return Error(Code::kUnimplemented, "no freezer on this machine");
  return writeControlFile(dir(freezer, path) + "/freezer.state", frozen ? "FROZEN" : "THAWED");
}

Result<> Cgroups::remove(const std::string& path) const {
  if (path.empty() || path == "/") return Error(Code::kInvalid, "the root cgroup cannot be removed");
  Result<> result;
  for (const auto& hierarchy : hierarchies_) {
    std::string top = dir(&hierarchy, path);
    // Most groups have none below them.
    if (::rmdir(top.c_str()) == 0 || errno == ENOENT) continue;
    std::vector<std::string> folders;
    addDirsBelow(top, folders);
    for (const auto& folder : folders) {
      if (::rmdir(folder.c_str()) == 0 || errno == ENOENT) continue;
      if (result.ok())
        result = Error(errno == EBUSY ? Code::kConflict : Code::kInternal, "cgroup " + folder + " is busy", errno);
    }
  }
  return result;
}

UniqueFd Cgroups::watchOom(const std::string& path) const {
  const Hierarchy* memory = of("memory");
  if (!memory) return {};
  std::string folder = dir(memory, path);
  if (memory->v2) {
    UniqueFd watch(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
    if (!watch || ::inotify_add_watch(watch.get(), (folder + "/memory.events").c_str(), IN_MODIFY) < 0) return {};
    return watch;
  }
  UniqueFd control(::open((folder + "/memory.oom_control").c_str(), O_RDONLY | O_CLOEXEC));
  UniqueFd event(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!control || !event) return {};
  std::string line = std::to_string(event.get()) + " " + std::to_string(control.get());
  if (!writeControlFile(folder + "/cgroup.event_control", line).ok()) return {};
  return event;
}

void Cgroups::drainOom(int fd) {
  char buffer[4096];
  while (::read(fd, buffer, sizeof buffer) > 0) {
  }
}

}  // namespace dhow::runtime
