#include "mounts.h"

#include <linux/fcntl.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <linux/stat.h>

#include "sys.h"

using namespace dhow::runtime;
using wire::Plan;
using wire::Step;

namespace {

constexpr long kEnoent = -2, kEexist = -17, kEinval = -22;

const char* at(const Plan* plan, uint32_t offset) {
  return offset ? reinterpret_cast<const char*>(plan) + offset : nullptr;
}

// A descriptor that closes itself.
struct Fd {
  long fd;
  explicit Fd(long value) : fd(value) {}
  ~Fd() {
    if (fd >= 0) sys::close(static_cast<int>(fd));
  }
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  long release() {
    long value = fd;
    fd = -1;
    return value;
  }
};

long setAttributes(long fd, const char* path, unsigned flags, uint64_t attributes, uint64_t propagation) {
  if (!attributes && !propagation) return 0;
  mount_attr change{attributes, 0, propagation, 0};
  return sys::nr<__NR_mount_setattr>(fd, path, flags, &change, sizeof change);
}

// Whoever writes in the folder may put links there at any moment: none leads out of it.
long openInside(const char* folder, const char* path) {
  Fd root(sys::open(folder, O_PATH | O_CLOEXEC));
  if (root.fd < 0) return root.fd;
  open_how how{O_PATH | O_CLOEXEC, 0, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS};
  return sys::nr<__NR_openat2>(root.fd, path, &how, sizeof how);
}

long openTree(const Plan* plan, const Step& step, MountState& state) {
  unsigned flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (step.b ? AT_RECURSIVE : 0u);
  const char* path = at(plan, step.path);
  Fd inside(step.text ? openInside(path, at(plan, step.text)) : AT_FDCWD);
  if (step.text && inside.fd < 0) return inside.fd;
  Fd tree(step.text ? sys::nr<__NR_open_tree>(inside.fd, "", flags | AT_EMPTY_PATH)
                    : sys::nr<__NR_open_tree>(AT_FDCWD, path, flags));
  if (tree.fd < 0) return tree.fd;
  long r = setAttributes(tree.fd, "", AT_EMPTY_PATH | AT_RECURSIVE, 0, step.c);
  if (r < 0) return r;
  r = setAttributes(tree.fd, "", AT_EMPTY_PATH | (step.e ? AT_RECURSIVE : 0u), step.d, 0);
  if (r < 0) return r;
  state.slots[step.a] = static_cast<int>(tree.release());
  return 0;
}

long configure(long fs, const char* key, const char* value) {
  if (*value) return sys::nr<__NR_fsconfig>(fs, FSCONFIG_SET_STRING, key, value, 0);
  return sys::nr<__NR_fsconfig>(fs, FSCONFIG_SET_FLAG, key, 0, 0);
}

long finishFs(long fs, const Step& step, MountState& state) {
  long r = sys::nr<__NR_fsconfig>(fs, FSCONFIG_CMD_CREATE, 0, 0, 0);
  if (r < 0) return r;
  r = sys::nr<__NR_fsmount>(fs, FSMOUNT_CLOEXEC, step.d);
  if (r < 0) return r;
  state.slots[step.a] = static_cast<int>(r);
  return 0;
}

long newFs(const Plan* plan, const Step& step, MountState& state) {
  Fd fs(sys::nr<__NR_fsopen>(at(plan, step.path), FSOPEN_CLOEXEC));
  if (fs.fd < 0) return fs.fd;
  const char* next = at(plan, step.text);
  for (uint32_t i = 0; i < step.n; ++i) {
    const char* key = next;
    const char* value = key + strlen(key) + 1;
    next = value + strlen(value) + 1;
    long r = configure(fs.fd, key, value);
    if (r < 0) return r;
  }
  return finishFs(fs.fd, step, state);
}

void escaped(Text& text, const char* path) {
  for (; *path; ++path) {
    char one[3] = {*path, 0, 0};
    if (*path == ':' || *path == ',' || *path == '\\') one[0] = '\\', one[1] = *path;
    text << one;
  }
}

// Kernels before 6.8 take the lower folders in one string only, of a page at most; paths are made short by
// standing in the folder that all of them share.
long classicOverlay(const Plan* plan, const Step& step, MountState& state) {
  static char options[4096];
  static char shared[1024];
  const char* first = at(plan, step.text);
  size_t common = strlen(first);
  if (common >= sizeof shared) common = sizeof shared - 1;
  auto narrow = [&](const char* path) {
    size_t i = 0;
    while (i < common && path[i] == first[i]) ++i;
    common = i;
  };
  const char* lower = first;
  for (uint32_t i = 0; i < step.n; ++i, lower += strlen(lower) + 1) narrow(lower);
  const char* upper = at(plan, step.more);
  const char* work = upper ? upper + strlen(upper) + 1 : nullptr;
  if (upper) narrow(upper), narrow(work);
  while (common > 0 && first[common - 1] != '/') --common;
  if (common == 0) return kEinval;
  memcpy(shared, first, common);
  shared[common] = 0;
  long r = sys::nr<__NR_chdir>(shared);
  if (r < 0) return r;
  Text text(options, sizeof options);
  text << "lowerdir=";
  lower = first;
  for (uint32_t i = 0; i < step.n; ++i, lower += strlen(lower) + 1) {
    if (i) text << ":";
    escaped(text, lower + common);
  }
  if (upper) {
    text << ",upperdir=";
    escaped(text, upper + common);
    text << ",workdir=";
    escaped(text, work + common);
  }
  if (upper) text << ",index=off";
  if (text.size + 1 >= sizeof options) return -7;  // E2BIG
  const char* path = at(plan, step.path);
  r = sys::nr<__NR_mount>("overlay", path, "overlay", step.d & MOUNT_ATTR_RDONLY ? MS_RDONLY : 0, options);
  if (r < 0) return r;
  r = sys::nr<__NR_open_tree>(AT_FDCWD, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
  sys::nr<__NR_umount2>(path, 2 /* MNT_DETACH */);
  if (r < 0) return r;
  Fd tree(r);
  r = setAttributes(tree.fd, "", AT_EMPTY_PATH, step.d, 0);
  if (r < 0) return r;
  state.slots[step.a] = static_cast<int>(tree.release());
  return 0;
}

// Overlays before 6.5 take any option until the end, and know "lowerdir" only then.
bool takesAnyOption(long fs) {
  return configure(fs, "dhow-probe", "1") == 0;
}

long newOverlay(const Plan* plan, const Step& step, MountState& state) {
  Fd fs(sys::nr<__NR_fsopen>("overlay", FSOPEN_CLOEXEC));
  if (fs.fd < 0) return fs.fd;
  if (takesAnyOption(fs.fd)) return classicOverlay(plan, step, state);
  const char* lower = at(plan, step.text);
  for (uint32_t i = 0; i < step.n; ++i, lower += strlen(lower) + 1) {
    long r = configure(fs.fd, "lowerdir+", lower);
    if (r < 0) return i == 0 ? classicOverlay(plan, step, state) : r;
  }
  if (const char* upper = at(plan, step.more)) {
    // Without an index a container may start again while its last mount is still on its way out.
    long r = configure(fs.fd, "index", "off");
    if (r == 0) r = configure(fs.fd, "upperdir", upper);
    if (r == 0) r = configure(fs.fd, "workdir", upper + strlen(upper) + 1);
    if (r < 0) return r;
  }
  return finishFs(fs.fd, step, state);
}

long pivot(const char* path, int slot) {
  long r = sys::nr<__NR_move_mount>(slot, "", AT_FDCWD, path, MOVE_MOUNT_F_EMPTY_PATH);
  if (r == 0) r = sys::nr<__NR_chdir>(path);
  if (r == 0) r = sys::nr<__NR_pivot_root>(".", ".");
  // The old root now lies over the new one: take it off (pivot_root(2), NOTES).
  if (r == 0) r = sys::nr<__NR_umount2>(".", 2 /* MNT_DETACH */);
  if (r == 0) r = sys::nr<__NR_chdir>("/");
  return r;
}

// Where a mount goes. Links in the image are followed only inside the container's own root, which is "/" by
// now; for /proc, /sys and /dev not even there.
long openTarget(const char* path, uint64_t kind) {
  open_how how{O_PATH | O_CLOEXEC, 0, kind & 4 ? RESOLVE_NO_SYMLINKS | 0ull : 0ull};
  return sys::nr<__NR_openat2>(AT_FDCWD, path, &how, sizeof how);
}

long makeFile(const char* path) {
  char parent[4096];
  size_t n = strlen(path);
  while (n > 0 && path[n - 1] != '/') --n;
  if (n > 1 && n < sizeof parent) {
    memcpy(parent, path, n);
    parent[n - 1] = 0;
    long r = makeDirs(parent, 0755);
    if (r < 0) return r;
  }
  long fd = sys::open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0644);
  if (fd < 0) return fd;
  sys::close(static_cast<int>(fd));
  return 0;
}

long attach(const char* path, int slot, uint64_t kind) {
  Fd target(openTarget(path, kind));
  if (target.fd == kEnoent) {
    long r = (kind & 3) == 2 ? makeFile(path) : makeDirs(path, 0755);
    if (r < 0) return r;
    target.fd = openTarget(path, kind);
  }
  if (target.fd < 0) return target.fd;
  long r = sys::nr<__NR_move_mount>(slot, "", target.fd, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
  if (r == 0) sys::close(slot);
  return r;
}

long makeNode(const char* path, const Step& step) {
  long r = makeDirs("/dev", 0755);
  if (r < 0) return r;
  r = sys::nr<__NR_mknodat>(AT_FDCWD, path, step.a, step.b);
  if (r == kEnoent) {
    r = makeFile(path);
    if (r == 0) r = sys::nr<__NR_unlinkat>(AT_FDCWD, path, 0);
    if (r == 0) r = sys::nr<__NR_mknodat>(AT_FDCWD, path, step.a, step.b);
  }
  if (r == kEexist) return 0;
  if (r < 0) return r;
  r = sys::nr<__NR_fchmodat>(AT_FDCWD, path, step.a & 07777);
  if (r < 0) return r;
  return step.e ? sys::nr<__NR_fchownat>(AT_FDCWD, path, step.c, step.d, AT_SYMLINK_NOFOLLOW) : 0;
}

long bindSelf(const char* path, uint64_t attributes) {
  Fd tree(sys::nr<__NR_open_tree>(AT_FDCWD, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE));
  if (tree.fd == kEnoent) return 0;
  if (tree.fd < 0) return tree.fd;
  long r = setAttributes(tree.fd, "", AT_EMPTY_PATH | AT_RECURSIVE, attributes, 0);
  if (r < 0) return r;
  return sys::nr<__NR_move_mount>(tree.fd, "", AT_FDCWD, path, MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_SYMLINKS);
}

// Over a file goes the container's own /dev/null, checked to be the null device and not what an image or a
// volume put in its place.
long maskFile(long target) {
  Fd null(sys::open("/dev/null", O_PATH | O_NOFOLLOW | O_CLOEXEC));
  if (null.fd < 0) return null.fd;
  struct statx status;
  long r = sys::nr<__NR_statx>(null.fd, "", AT_EMPTY_PATH, STATX_TYPE, &status);
  if (r < 0) return r;
  if ((status.stx_mode & 0170000) != 0020000 || status.stx_rdev_major != 1 || status.stx_rdev_minor != 3)
    return kEinval;
  Fd tree(sys::nr<__NR_open_tree>(null.fd, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH));
  if (tree.fd < 0) return tree.fd;
  return sys::nr<__NR_move_mount>(tree.fd, "", target, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
}

long maskFolder(const char* path, long target, MountState& state) {
  if (!state.maskedFolder[0]) {
    long r =
        sys::nr<__NR_mount>("tmpfs", path, "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=0,nr_inodes=1");
    Text text(state.maskedFolder, sizeof state.maskedFolder);
    if (r == 0) text << path;
    return r;
  }
  Fd tree(sys::nr<__NR_open_tree>(AT_FDCWD, state.maskedFolder, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC));
  if (tree.fd < 0) return tree.fd;
  return sys::nr<__NR_move_mount>(tree.fd, "", target, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
}

long mask(const char* path, MountState& state) {
  Fd target(sys::open(path, O_PATH | O_CLOEXEC));
  if (target.fd == kEnoent) return 0;
  if (target.fd < 0) return target.fd;
  struct statx status;
  long r = sys::nr<__NR_statx>(target.fd, "", AT_EMPTY_PATH, STATX_TYPE, &status);
  if (r < 0) return r;
  return (status.stx_mode & 0170000) == 0040000 ? maskFolder(path, target.fd, state) : maskFile(target.fd);
}

}  // namespace

long idmap(int tree, int userNs) {
  if (userNs < 0) return kEinval;
  mount_attr change{MOUNT_ATTR_IDMAP, 0, 0, static_cast<uint64_t>(userNs)};
  return sys::nr<__NR_mount_setattr>(tree, "", AT_EMPTY_PATH, &change, sizeof change);
}

long idmapFolder(const char* path, int userNs) {
  Fd tree(sys::nr<__NR_open_tree>(AT_FDCWD, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC));
  if (tree.fd < 0) return tree.fd;
  long r = idmap(static_cast<int>(tree.fd), userNs);
  if (r < 0) return r;
  return sys::nr<__NR_move_mount>(tree.fd, "", AT_FDCWD, path, MOVE_MOUNT_F_EMPTY_PATH);
}

long makeDirs(const char* path, int mode) {
  char partial[4096];
  size_t size = strlen(path);
  if (size >= sizeof partial) return -36;  // ENAMETOOLONG
  for (size_t i = 1; i <= size; ++i) {
    if (i < size && path[i] != '/') continue;
    memcpy(partial, path, i);
    partial[i] = 0;
    long r = sys::nr<__NR_mkdirat>(AT_FDCWD, partial, i == size ? mode : 0755);
    if (r < 0 && r != kEexist) {
      // Read-only folders on the way that are there already are no obstacle.
      struct statx status;
      if (sys::nr<__NR_statx>(AT_FDCWD, partial, 0, STATX_TYPE, &status) != 0) return r;
    }
  }
  return 0;
}

long runMountStep(const Plan* plan, const Step& step, MountState& state) {
  const char* path = at(plan, step.path);
  if (step.a >= wire::kMaxSlots && step.op != wire::kMakeDir && step.op != wire::kMakeNode &&
      step.op != wire::kPropagation)
    return kEinval;
  switch (step.op) {
    case wire::kPropagation: return sys::nr<__NR_mount>(0, path, 0, step.a, 0);
    case wire::kOpenTree: return openTree(plan, step, state);
    case wire::kNewFs: return newFs(plan, step, state);
    case wire::kNewOverlay: return newOverlay(plan, step, state);
    case wire::kPivot: return pivot(path, state.slots[step.a]);
    case wire::kMakeDir: return makeDirs(path, static_cast<int>(step.a));
    case wire::kAttach: return attach(path, state.slots[step.a], step.b);
    case wire::kMakeNode: return makeNode(path, step);
    case wire::kBindSelf: return bindSelf(path, step.d);
    case wire::kSymlink: {
      long r = sys::nr<__NR_symlinkat>(at(plan, step.text), AT_FDCWD, path);
      return r == kEexist ? 0 : r;
    }
    case wire::kSetAttr: return setAttributes(AT_FDCWD, path, step.b ? AT_RECURSIVE : 0u, step.d, 0);
    case wire::kMask: return mask(path, state);
    default: return -38;  // ENOSYS
  }
}
