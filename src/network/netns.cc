#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <thread>

#include "base/files.h"
#include "base/log.h"
#include "network/links.h"

namespace dhow {

namespace {

Result<Netns> openFile(const std::string& path) {
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return Error::fromErrno("open network namespace " + path);
  return Netns(std::move(fd));
}

Result<> loopbackUp() {
  UniqueFd fd(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!fd) return Error::fromErrno("open socket");
  ifreq request{};
  std::strcpy(request.ifr_name, "lo");
  request.ifr_flags = IFF_UP;
  if (::ioctl(fd.get(), SIOCSIFFLAGS, &request) != 0) return Error::fromErrno("bring loopback up");
  return {};
}

}  // namespace

Result<Netns> Netns::current() {
  return openFile("/proc/thread-self/ns/net");
}
Result<Netns> Netns::open(const std::string& path) {
  return openFile(path);
}
Result<Netns> Netns::ofProcess(int pid) {
  return openFile(fmt::format("/proc/{}/ns/net", pid));
}

Result<Netns> Netns::create() {
  Result<Netns> out = Error(Code::kInternal, "no namespace");
  std::thread maker([&] {
    if (::unshare(CLONE_NEWNET) != 0) {
      out = Error::fromErrno("create network namespace");
      return;
    }
    if (auto up = loopbackUp(); !up.ok()) {
      out = up.error();
      return;
    }
    out = current();
  });
  maker.join();
  return out;
}

namespace {

struct StandIn {
  int users = -1, net = -1, errnum = 0;
};

// Runs while its caller waits (CLONE_VFORK), in the caller's memory and table of descriptors.
int openOwn(void* given) {
  auto* out = static_cast<StandIn*>(given);
  out->users = ::open("/proc/self/ns/user", O_RDONLY | O_CLOEXEC);
  if (out->users >= 0) out->net = ::open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
  out->errnum = errno;
  ::_exit(0);
}

}  // namespace

// A thread cannot change its user namespace, and a process cannot leave one: another process is in it for a moment.
Result<OwnedNetns> Netns::createOwned() {
  StandIn made;
  std::vector<char> stack(size_t{64} << 10);
  const int flags = CLONE_VM | CLONE_VFORK | CLONE_FILES | CLONE_NEWUSER | CLONE_NEWNET;
  const pid_t child = ::clone(openOwn, stack.data() + stack.size(), flags, &made);
  if (child < 0) return Error::fromErrno("create user and network namespace");
  ::waitpid(child, nullptr, __WALL);
  OwnedNetns out;
  out.users.reset(made.users);
  out.net = Netns(UniqueFd(made.net));
  if (!out.net) return Error::fromErrno(made.errnum, "open a new network namespace");
  RETURN_IF_ERROR(runInNetns(out.net.fd(), loopbackUp));
  return out;
}

Result<Netns> Netns::duplicate() const {
  UniqueFd fd(::fcntl(fd_.get(), F_DUPFD_CLOEXEC, 0));
  if (!fd) return Error::fromErrno("duplicate network namespace");
  return Netns(std::move(fd));
}

Result<> Netns::pin(const std::string& path) const {
  auto attempted = "pin network namespace at " + path;
  UniqueFd file(::open(path.c_str(), O_RDONLY | O_CREAT | O_CLOEXEC, 0444));
  if (!file) return Error::fromErrno(attempted);
  auto source = fmt::format("/proc/self/fd/{}", fd_.get());
  if (::mount(source.c_str(), path.c_str(), nullptr, MS_BIND, nullptr) != 0) {
    auto error = Error::fromErrno(attempted);
    ::unlink(path.c_str());
    return error;
  }
  return {};
}

Result<> Netns::unpin(const std::string& path) {
  if (::umount2(path.c_str(), MNT_DETACH) != 0 && errno != EINVAL && errno != ENOENT) {
    return Error::fromErrno("unpin network namespace " + path);
  }
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) return Error::fromErrno("remove " + path);
  return {};
}

Result<> runInNetns(int netnsFd, std::function<Result<>()> work) {
  Result<> out;
  std::thread runner([&] {
    if (::setns(netnsFd, CLONE_NEWNET) != 0) {
      out = Error::fromErrno("enter network namespace");
      return;
    }
    out = work();
  });
  runner.join();
  return out;
}

Result<UniqueFd> socketInNetns(int netnsFd, int domain, int type, int protocol) {
  UniqueFd fd;
  auto make = [&]() -> Result<> {
    fd.reset(::socket(domain, type | SOCK_CLOEXEC, protocol));
    if (!fd) return Error::fromErrno("open socket");
    return {};
  };
  if (netnsFd < 0) {
    RETURN_IF_ERROR(make());
  } else {
    RETURN_IF_ERROR(runInNetns(netnsFd, make));
  }
  return fd;
}

Result<> setSysctl(const std::string& name, std::string_view value) {
  auto path = "/proc/sys/" + name;
  UniqueFd reading(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!reading) return Error::fromErrno("read sysctl " + name);
  char have[64];
  ssize_t n = ::read(reading.get(), have, sizeof have);
  if (n > 0 && have[n - 1] == '\n') n--;
  if (n >= 0 && std::string_view(have, static_cast<size_t>(n)) == value) return {};
  UniqueFd writing(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (!writing) return Error::fromErrno("set sysctl " + name);
  if (::write(writing.get(), value.data(), value.size()) != static_cast<ssize_t>(value.size())) {
    return Error::fromErrno("set sysctl " + name);
  }
  return {};
}

}  // namespace dhow
