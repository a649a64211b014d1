// The file system part of a container's plan.
//
// Sources are opened before the root changes, targets are found after it: a link inside an image or a volume
// can then never lead out of the container's own root.
#include <fcntl.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <filesystem>

#include "base/error.h"
#include "base/strings.h"
#include "plan.h"

namespace dhow::runtime {

namespace {

using wire::Op;

constexpr uint64_t kFolder = 1, kFile = 2, kNoLink = 4;

const std::vector<std::string>& dockerMasked() {
  static const std::vector<std::string> paths = {
      "/proc/asound",      "/proc/acpi",          "/proc/interrupts", "/proc/kcore",
      "/proc/keys",        "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats",
      "/proc/sched_debug", "/proc/scsi",          "/sys/firmware",    "/sys/devices/virtual/powercap"};
  return paths;
}

const std::vector<std::string>& dockerReadonly() {
  static const std::vector<std::string> paths = {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys",
                                                 "/proc/sysrq-trigger"};
  return paths;
}

uint64_t attributesOf(const Mount& mount) {
  return (mount.readonly || mount.recursiveReadonly ? MOUNT_ATTR_RDONLY : 0u) |
         (mount.nosuid ? MOUNT_ATTR_NOSUID : 0u) | (mount.nodev ? MOUNT_ATTR_NODEV : 0u) |
         (mount.noexec ? MOUNT_ATTR_NOEXEC : 0u);
}

int statSource(const Mount& mount, struct stat& status) {
  if (mount.subPath.empty()) return ::stat(mount.source.c_str(), &status);
  UniqueFd root(::open(mount.source.c_str(), O_PATH | O_CLOEXEC));
  struct open_how how{};
  how.flags = O_PATH | O_CLOEXEC;
  how.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;
  if (!root) return -1;
  UniqueFd found(static_cast<int>(::syscall(SYS_openat2, root.get(), mount.subPath.c_str(), &how, sizeof how)));
  return found ? ::fstat(found.get(), &status) : -1;
}

class Builder {
 public:
  Builder(PlanWriter& writer, const ContainerSpec& spec, const ContainerContext& context)
      : writer_(writer), spec_(spec), context_(context) {}

  Result<> build() {
    collectMounts();
    for (auto& mount : mounts_) RETURN_IF_ERROR(open(mount));
    // Nothing that is mounted from here on is seen outside.
    writer_.add(Op::kPropagation, "/").a = MS_REC | MS_PRIVATE;
    RETURN_IF_ERROR(openRoot());
    writer_.add(Op::kPivot, context_.mountPoint).a = 0;
    for (auto& mount : mounts_) attach(mount);
    if (spec_.defaultMounts) addDevLinks();
    leaveGroupRoot();
    RETURN_IF_ERROR(addDevices());
    if (spec_.process.terminal) {
      auto& step = writer_.add(Op::kPty);
      step.a = spec_.process.rows;
      step.b = spec_.process.columns;
      step.c = spec_.defaultMounts;
    } else {
      writer_.add(Op::kStdio);
    }
    writer_.add(Op::kSession).a = spec_.process.terminal;
    protect();
    return {};
  }

 private:
  struct Placed {
    Mount mount;
    uint64_t slot = 0;
    uint64_t kind = kFolder;
    bool isDefault = false;
    bool ofKernel = false;  // knows no ids on disk
  };

  // As an id of the user namespace, if there is one, is known outside.
  uint32_t outside(uint32_t id) const { return id + context_.firstUser.value_or(0); }

  bool replaced(const std::string& target) const {
    return std::any_of(spec_.mounts.begin(), spec_.mounts.end(), [&](const Mount& m) { return m.target == target; });
  }

  void addDefault(std::string type, std::string target, std::vector<std::pair<std::string, std::string>> options,
                  bool dev = false) {
    if (replaced(target)) return;
    Placed placed;
    placed.isDefault = true;
    placed.mount.type = std::move(type);
    placed.mount.target = std::move(target);
    placed.mount.options = std::move(options);
    placed.mount.nosuid = true;
    placed.mount.noexec = true;
    placed.mount.nodev = !dev;
    placed.kind = kFolder | kNoLink;
    mounts_.push_back(std::move(placed));
  }

  void collectMounts() {
    bool privileged = spec_.process.privileged;
    if (spec_.defaultMounts) {
      addDefault("proc", "/proc", {});
      addDefault("tmpfs", "/dev", {{"mode", "755"}, {"size", "64m"}}, true);
      if (!mounts_.empty() && mounts_.back().mount.target == "/dev") mounts_.back().mount.noexec = false;
      addDefault("devpts", "/dev/pts",
                 {{"newinstance", ""}, {"ptmxmode", "0666"}, {"mode", "0620"}, {"gid", std::to_string(outside(5))}},
                 true);
      addDefault("mqueue", "/dev/mqueue", {});
      if (spec_.shmSize) addDefault("tmpfs", "/dev/shm", {{"mode", "1777"}, {"size", std::to_string(spec_.shmSize)}});
      addDefault("sysfs", "/sys", {});
      if (!replaced("/sys")) {
        mounts_.back().mount.readonly = !privileged;
        addDefault("cgroup", "/sys/fs/cgroup", {});
        if (!replaced("/sys/fs/cgroup")) mounts_.back().mount.readonly = !privileged;
      }
    }
    for (const auto& mount : spec_.mounts) {
      Placed placed;
      placed.mount = mount;
      mounts_.push_back(std::move(placed));
    }
    expandCgroups();
  }

  // One "cgroup" stands for a bind of the container's group in each hierarchy. A bind costs the kernel far less
  // than a file system instance, and shows the same.
  void expandCgroups() {
    std::vector<Placed> out;
    for (auto& placed : mounts_) {
      if (placed.mount.type != "cgroup") {
        out.push_back(std::move(placed));
        continue;
      }
      const auto& joined = context_.group.joined;
      Placed one = placed;
      one.mount.options.clear();
      one.mount.type = "bind";
      one.mount.recursive = false;
      one.ofKernel = true;
      one.kind = kFolder | kNoLink;
      if (joined.size() == 1 && joined[0].v2) {
        one.mount.source = joined[0].mount + context_.group.path;
        out.push_back(std::move(one));
        continue;
      }
      Placed top = placed;
      top.mount.type = "tmpfs";
      top.mount.options = {{"mode", "755"}, {"size", "1m"}};
      top.mount.readonly = false;  // until its folders are made
      out.push_back(std::move(top));
      for (const auto& hierarchy : joined) {
        Placed each = one;
        std::string name;
        for (const auto& controller : hierarchy.controllers) {
          std::string plain = controller.starts_with("name=") ? controller.substr(5) : controller;
          name += (name.empty() ? "" : ",") + plain;
        }
        if (hierarchy.v2) name.clear();
        each.mount.source = hierarchy.mount + context_.group.path;
        each.mount.target += "/" + (hierarchy.v2 ? "unified" : name);
        if (name.find(',') != std::string::npos) {
          for (const auto& alias : split(name, ',')) links_.push_back({placed.mount.target + "/" + alias, name});
        }
        out.push_back(std::move(each));
      }
      if (placed.mount.readonly) sealed_.push_back(placed.mount.target);
    }
    mounts_ = std::move(out);
  }

  Result<> openRoot() {
    const RootFs& root = spec_.root;
    if (!root.lower.empty()) {
      for (const auto& folder : root.lower) {
        if (folder.empty() || folder[0] != '/')
          return Error(Code::kInvalid, "layer folder \"" + folder + "\" is not absolute");
      }
      if (root.lower.size() > 500) return Error(Code::kTooLarge, "more than 500 layers");
      std::string lower, upper;
      for (const auto& folder : root.lower) lower += folder + '\0';
      if (!root.upper.empty()) upper = root.upper + '\0' + root.work + '\0';
      if (context_.firstUser) RETURN_IF_ERROR(mapLayers());
      uint32_t list = writer_.text(lower), more = writer_.text(upper);
      auto& step = writer_.add(Op::kNewOverlay, context_.mountPoint);
      step.text = list;
      step.n = static_cast<uint32_t>(root.lower.size());
      step.more = more;
      return {};
    }
    if (root.path.empty() || root.path[0] != '/')
      return Error(Code::kInvalid, "root folder \"" + root.path + "\" is not absolute");
    auto& step = writer_.add(Op::kOpenTree, root.path);
    step.b = root.path != "/";  // the host's own root comes without what is mounted on it
    step.c = MS_PRIVATE;
    // Nothing is ever made in the host's root, not even a place to mount at.
    if (root.path == "/") step.d = MOUNT_ATTR_RDONLY;
    if (context_.firstUser) writer_.add(Op::kIdmap, root.path);
    return {};
  }

  // An overlay takes its layers as it finds them. Upper and work folder have to be on one mount, so it is the folder of
  // all of them that is mapped, in this namespace only.
  Result<> mapLayers() {
    const RootFs& root = spec_.root;
    std::vector<std::string> folders = root.lower;
    if (!root.upper.empty()) folders.insert(folders.end(), {root.upper, root.work});
    std::string common = folders[0] + "/";
    for (const auto& folder : folders) {
      while (!(folder + "/").starts_with(common)) common.resize(common.rfind('/', common.size() - 2) + 1);
    }
    if (common == "/") return Error(Code::kInvalid, "the layers of an image have no folder in common");
    common.pop_back();
    writer_.add(Op::kIdmapFolder, common);
    return {};
  }

  Result<> open(Placed& placed) {
    const Mount& mount = placed.mount;
    if (mount.target.empty() || mount.target[0] != '/' || mount.target.find('\0') != std::string::npos)
      return Error(Code::kInvalid, "mount target \"" + mount.target + "\" is not absolute");
    if (nextSlot_ >= wire::kMaxSlots)
      return Error(Code::kTooLarge, "more than " + std::to_string(wire::kMaxSlots) + " mounts");
    placed.slot = nextSlot_++;
    if (mount.type == "bind") return openBind(placed);
    if (mount.type == "overlay") return openOverlay(placed);
    std::string options;
    uint32_t count = 0;
    auto option = [&](const std::string& key, const std::string& value) {
      options += key + '\0' + value + '\0';
      ++count;
    };
    if (!mount.source.empty()) option("source", mount.source);
    for (const auto& [key, value] : mount.options) option(key, value);
    uint32_t list = writer_.text(options);
    auto& step = writer_.add(Op::kNewFs, mount.type);
    step.a = placed.slot;
    step.text = list;
    step.n = count;
    step.d = attributesOf(mount);
    return {};
  }

  Result<> openBind(Placed& placed) {
    const Mount& mount = placed.mount;
    struct stat status{};
    if (mount.source.empty() || mount.source[0] != '/')
      return Error(Code::kInvalid, "bind source \"" + mount.source + "\" is not absolute");
    std::string what = mount.source + (mount.subPath.empty() ? "" : "/" + mount.subPath);
    if (statSource(mount, status) != 0) {
      if (errno == ENOENT) return Error(Code::kNotFound, "bind source path does not exist: " + what);
      return Error::fromErrno("bind source " + what);
    }
    placed.kind = (placed.kind & kNoLink) | (S_ISDIR(status.st_mode) ? kFolder : kFile);
    uint32_t inside = writer_.text(mount.subPath);
    auto& step = writer_.add(Op::kOpenTree, mount.source);
    step.text = inside;
    step.a = placed.slot;
    step.b = mount.recursive;
    step.c = mount.propagation == Mount::Propagation::kPrivate ? MS_PRIVATE
             : mount.propagation == Mount::Propagation::kSlave ? MS_SLAVE
                                                               : MS_SHARED;
    step.d = attributesOf(mount);
    step.e = mount.recursiveReadonly;
    if (context_.firstUser && !placed.ofKernel) writer_.add(Op::kIdmap, what).a = placed.slot;
    return {};
  }

  Result<> openOverlay(Placed& placed) {
    if (context_.firstUser)
      return Error(Code::kUnimplemented, "an overlay mounted at " + placed.mount.target + " in a user namespace");
    std::string lower, upper, work;
    uint32_t count = 0;
    for (const auto& [key, value] : placed.mount.options) {
      if (key == "upperdir") upper = value;
      if (key == "workdir") work = value;
      if (key != "lowerdir") continue;
      for (const auto& folder : split(value, ':')) {
        lower += folder + '\0';
        ++count;
      }
    }
    if (count == 0) return Error(Code::kInvalid, "overlay mount without lowerdir");
    std::string both = upper.empty() ? "" : upper + '\0' + work + '\0';
    uint32_t list = writer_.text(lower), more = writer_.text(both);
    auto& step = writer_.add(Op::kNewOverlay, context_.mountPoint);
    step.a = placed.slot;
    step.text = list;
    step.n = count;
    step.more = more;
    step.d = attributesOf(placed.mount);
    return {};
  }

  void attach(const Placed& placed) {
    auto& step = writer_.add(Op::kAttach, placed.mount.target);
    step.a = placed.slot;
    step.b = placed.kind;
    if (placed.isDefault && placed.mount.target == "/dev") addStandardNodes();
  }

  // A version 2 group that hands controllers down may hold no process itself: a machine's first ones go into a
  // leaf of their own.
  void leaveGroupRoot() {
    const auto& also = spec_.cgroupControllers;
    if (std::find(also.begin(), also.end(), "*") == also.end()) return;
    for (const auto& hierarchy : context_.group.joined) {
      const auto& names = hierarchy.controllers;
      if (!hierarchy.v2 || std::find(names.begin(), names.end(), "memory") == names.end()) continue;
      std::string leaf = "/sys/fs/cgroup" + std::string(context_.group.joined.size() > 1 ? "/unified" : "") + "/init";
      writer_.add(Op::kMakeDir, leaf).a = 0755;
      uint32_t self = writer_.text("0");
      writer_.add(Op::kWriteFile, leaf + "/cgroup.procs").text = self;
    }
  }

  wire::Step& node(const std::string& path, uint32_t mode, dev_t device) {
    auto& step = writer_.add(Op::kMakeNode, path);
    step.a = mode;
    step.b = device;
    return step;
  }

  // A device of the machine's belongs to whom it belongs there: to nobody in a user namespace.
  void hostNode(const std::string& path, const struct stat& status) {
    auto& step = node(path, status.st_mode, status.st_rdev);
    step.c = status.st_uid;
    step.d = status.st_gid;
    step.e = 1;
  }

  void addStandardNodes() {
    static constexpr std::pair<const char*, std::pair<int, int>> kNodes[] = {
        {"/dev/null", {1, 3}},   {"/dev/zero", {1, 5}},    {"/dev/full", {1, 7}},
        {"/dev/random", {1, 8}}, {"/dev/urandom", {1, 9}}, {"/dev/tty", {5, 0}}};
    for (const auto& [path, number] : kNodes)
      node(path, S_IFCHR | 0666, ::makedev(static_cast<unsigned>(number.first), static_cast<unsigned>(number.second)));
  }

  void link(const std::string& path, const std::string& to) {
    uint32_t text = writer_.text(to);
    writer_.add(Op::kSymlink, path).text = text;
  }

  void addDevLinks() {
    if (!replaced("/dev")) {
      link("/dev/fd", "/proc/self/fd");
      link("/dev/stdin", "/proc/self/fd/0");
      link("/dev/stdout", "/proc/self/fd/1");
      link("/dev/stderr", "/proc/self/fd/2");
      link("/dev/ptmx", "pts/ptmx");
    }
    for (const auto& [path, to] : links_) link(path, to);
  }

  Result<> addDevices() {
    for (const auto& device : spec_.devices)
      RETURN_IF_ERROR(addDevice(device.hostPath, device.path.empty() ? device.hostPath : device.path));
    if (spec_.process.privileged && spec_.defaultMounts && !replaced("/dev")) addAllDevices();
    return {};
  }

  Result<> addDevice(const std::string& hostPath, const std::string& path) {
    struct stat status{};
    if (::stat(hostPath.c_str(), &status) != 0)
      return Error::fromErrno("error gathering device information while adding device \"" + hostPath + "\"");
    if (!S_ISCHR(status.st_mode) && !S_ISBLK(status.st_mode))
      return Error(Code::kInvalid, hostPath + " is not a device node");
    hostNode(path, status);
    return {};
  }

  void addAllDevices() {
    namespace fs = std::filesystem;
    std::error_code error;
    size_t count = 0;
    fs::recursive_directory_iterator entry("/dev", fs::directory_options::skip_permission_denied, error), end;
    for (; !error && entry != end && count < 4096; entry.increment(error)) {
      std::string path = entry->path().string();
      struct stat status{};
      if (::lstat(path.c_str(), &status) != 0) continue;
      if (S_ISDIR(status.st_mode) && (path == "/dev/pts" || path == "/dev/shm" || path == "/dev/mqueue"))
        entry.disable_recursion_pending();
      bool device = S_ISCHR(status.st_mode) || S_ISBLK(status.st_mode);
      if (!device || path == "/dev/console" || path == "/dev/ptmx") continue;
      hostNode(path, status);
      ++count;
    }
  }

  // Last, when everything is in its place: what may only be read, and what must not be seen.
  void protect() {
    for (const auto& path : sealed_) writer_.add(Op::kSetAttr, path).d = MOUNT_ATTR_RDONLY;
    static const std::vector<std::string> none;
    bool open = spec_.process.privileged || !spec_.defaultMounts;
    for (const auto& path : spec_.readonlyPaths ? *spec_.readonlyPaths : open ? none : dockerReadonly())
      writer_.add(Op::kBindSelf, path).d = MOUNT_ATTR_RDONLY;
    for (const auto& path : spec_.maskedPaths ? *spec_.maskedPaths : open ? none : dockerMasked())
      writer_.add(Op::kMask, path);
    if (spec_.root.readonly) writer_.add(Op::kSetAttr, "/").d = MOUNT_ATTR_RDONLY;
  }

  PlanWriter& writer_;
  const ContainerSpec& spec_;
  const ContainerContext& context_;
  std::vector<Placed> mounts_;
  std::vector<std::pair<std::string, std::string>> links_;
  std::vector<std::string> sealed_;
  uint64_t nextSlot_ = 1;  // 0 is the root
};

}  // namespace

Result<> addFileSystem(PlanWriter& writer, const ContainerSpec& spec, const ContainerContext& context) {
  Builder builder(writer, spec, context);
  return builder.build();
}

}  // namespace dhow::runtime
