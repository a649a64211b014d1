#include "users.h"

#include <linux/fcntl.h>
#include <linux/prctl.h>
#include <linux/sched.h>
#include <linux/securebits.h>
#include <linux/stat.h>

#include "sys.h"
#include "wait.h"

using namespace dhow::runtime;
using wire::Step;

namespace {

struct OwnedNamespace {
  uint64_t flag;
  const char* name;
};
constexpr OwnedNamespace kOwned[] = {{CLONE_NEWNET, "net"}, {CLONE_NEWIPC, "ipc"}, {CLONE_NEWUTS, "uts"}};

long tell(int socket, long result) {
  return sys::write(socket, &result, sizeof result);
}

// What the other side has told; an error when it is gone.
long hear(int socket) {
  long result = 0;
  return sys::read(socket, &result, sizeof result) == sizeof result ? result : -3;  // ESRCH
}

// Nobody leaves a user namespace again: a process stands in it until all of it is known to the one that made it.
[[noreturn]] void standIn(const char* path, uint64_t owned, int socket) {
  if (path) {
    long r = sys::open(path, O_RDONLY | O_CLOEXEC);
    if (r >= 0) r = sys::nr<__NR_setns>(r, CLONE_NEWUSER);
    if (r == 0 && owned) r = sys::nr<__NR_unshare>(owned);
    tell(socket, r);
  }
  hear(socket);  // its other end is closed
  sys::exit(0);
}

void pathOf(Text& text, long pid, const char* file) {
  text << "/proc/";
  text.number(pid);
  text << "/" << file;
}

long writeMap(long pid, const char* file, const Step& step) {
  char path[64], line[64];
  Text name(path, sizeof path), map(line, sizeof line);
  pathOf(name, pid, file);
  map << "0 ";
  map.number(static_cast<int64_t>(step.a));
  map << " ";
  map.number(static_cast<int64_t>(step.b));
  map << "\n";
  long fd = sys::open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return fd;
  long r = sys::write(static_cast<int>(fd), line, map.size);
  sys::close(static_cast<int>(fd));
  return r < 0 ? r : 0;
}

long openNamespace(long pid, const char* name) {
  char path[64];
  Text text(path, sizeof path);
  pathOf(text, pid, "ns/");
  text << name;
  return sys::open(path, O_RDONLY | O_CLOEXEC);
}

long join(long pid, const OwnedNamespace& owned) {
  long fd = openNamespace(pid, owned.name);
  if (fd < 0) return fd;
  long r = sys::nr<__NR_setns>(fd, owned.flag);
  sys::close(static_cast<int>(fd));
  return r;
}

long arrange(long pid, const Step& step, StepContext& context) {
  long r = writeMap(pid, "uid_map", step);
  if (r == 0) r = writeMap(pid, "gid_map", step);
  if (r < 0) return r;
  long user = openNamespace(pid, "user");
  if (user < 0) return user;
  context.userNs = static_cast<int>(user);
  for (const auto& owned : kOwned) {
    if (r == 0 && step.c & owned.flag) r = join(pid, owned);
  }
  return r;
}

}  // namespace

// The process that stands in is reaped with all others.
long makeUserNamespace(const char* path, const Step& step, StepContext& context) {
  int pair[2], pidfd = -1;
  long r = sys::nr<__NR_socketpair>(1, 5 /* SOCK_SEQPACKET */ | O_CLOEXEC, 0, pair);
  if (r < 0) return r;
  long pid = cloneProcess(path ? 0 : CLONE_NEWUSER | step.c, -1, &pidfd);
  if (pid == 0) {
    sys::close(pair[0]);
    standIn(path, step.c, pair[1]);
  }
  sys::close(pair[1]);
  r = pid < 0 ? pid : path ? hear(pair[0]) : 0;
  if (r == 0) r = arrange(pid, step, context);
  sys::close(pair[0]);
  if (pid >= 0) sys::close(pidfd);
  return r;
}

long setFileIds(uint64_t id) {
  // Otherwise the kernel takes away what passes over permissions with the id.
  long r = sys::nr<__NR_prctl>(PR_SET_SECUREBITS, 1 << SECURE_NO_SETUID_FIXUP, 0, 0, 0);
  if (r < 0) return r;
  sys::nr<__NR_setfsgid>(id);
  sys::nr<__NR_setfsuid>(id);
  return 0;
}

long enterUsers(const Step& step, const StepContext& context) {
  for (int i = 0; i < 3; ++i) {
    struct statx status;
    if (sys::nr<__NR_statx>(i, "", AT_EMPTY_PATH, STATX_TYPE, &status) != 0) continue;
    if ((status.stx_mode & 0170000) == 0010000) sys::nr<__NR_fchown>(i, step.b, step.b);
  }
  if (context.userNs < 0) return -22;  // EINVAL
  long r = sys::nr<__NR_setns>(context.userNs, CLONE_NEWUSER);
  if (r == 0) r = sys::nr<__NR_setgroups>(0, 0);
  if (r == 0) r = sys::nr<__NR_setresgid>(0, 0, 0);
  if (r == 0) r = sys::nr<__NR_setresuid>(0, 0, 0);
  if (r == 0 && step.a) r = sys::nr<__NR_unshare>(step.a);
  return r;
}
