#include "base/process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <cerrno>
#include <cstdlib>

#include "base/strings.h"

namespace dhow {

namespace asio = boost::asio;

namespace {

std::string findProgram(const std::string& name) {
  if (name.find('/') != std::string::npos) return name;
  const char* path = ::getenv("PATH");
  for (const auto& folder : split(path ? path : "/usr/sbin:/usr/bin:/sbin:/bin", ':')) {
    std::string candidate = folder + "/" + name;
    if (::access(candidate.c_str(), X_OK) == 0) return candidate;
  }
  return name;
}

std::vector<char*> pointersTo(const std::vector<std::string>& strings) {
  std::vector<char*> pointers;
  for (const auto& s : strings) pointers.push_back(const_cast<char*>(s.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

ExitStatus exitStatusOf(const siginfo_t& info) {
  if (info.si_code == CLD_EXITED) return {info.si_status, 0};
  return {128 + info.si_status, info.si_status};
}

// The child between fork and exec: async-signal-safe calls only. Reports errno through `report` on failure.
[[noreturn]] void runChild(const char* program, char* const* argv, char* const* envp, const char* cwd,
                           std::vector<int>& fds, const SpawnOptions& options, int report) {
  auto fail = [report] {
    int error = errno;
    (void)!::write(report, &error, sizeof error);
    ::_exit(127);
  };
  if (options.newSession && ::setsid() < 0) fail();
  if (options.dieWithParent && ::prctl(PR_SET_PDEATHSIG, SIGKILL) != 0) fail();
  if (*cwd && ::chdir(cwd) != 0) fail();
  // First out of the way of the numbers that they are to have, then into place.
  const int base = static_cast<int>(fds.size()) + 3;
  for (int& fd : fds) {
    int from = fd < 0 ? ::open("/dev/null", O_RDWR | O_CLOEXEC) : fd;
    fd = ::fcntl(from, F_DUPFD_CLOEXEC, base);
    if (fd < 0) fail();
  }
  int safeReport = ::fcntl(report, F_DUPFD_CLOEXEC, base);
  for (size_t i = 0; i < fds.size(); ++i) {
    if (::dup2(fds[i], static_cast<int>(i)) < 0) fail();
  }
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  ::signal(SIGPIPE, SIG_DFL);
  ::execve(program, argv, envp);
  int error = errno;
  (void)!::write(safeReport, &error, sizeof error);
  ::_exit(127);
}

}  // namespace

Result<Process> Process::spawn(const SpawnOptions& options) {
  std::string program = findProgram(options.args.at(0));
  auto argv = pointersTo(options.args);
  auto env = pointersTo(options.env);
  char* const* envp = options.env.empty() ? environ : env.data();
  std::vector<int> fds = options.fds;
  int pipe[2];
  if (::pipe2(pipe, O_CLOEXEC) != 0) return Error::fromErrno("pipe");
  UniqueFd reader(pipe[0]), writer(pipe[1]);

  pid_t pid = ::fork();
  if (pid < 0) return Error::fromErrno("fork");
  if (pid == 0) runChild(program.c_str(), argv.data(), envp, options.cwd.c_str(), fds, options, writer.get());
  writer.reset();

  int error = 0;
  ssize_t n;
  do n = ::read(reader.get(), &error, sizeof error);
  while (n < 0 && errno == EINTR);
  if (n == sizeof error) {
    ::waitpid(pid, nullptr, 0);
    return Error::fromErrno(error, "start " + program);
  }
  Process process;
  process.pid_ = pid;
  process.pidfd_.reset(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  if (!process.pidfd_) return Error::fromErrno("pidfd_open");
  return process;
}

Result<> Process::kill(int signal) {
  if (::syscall(SYS_pidfd_send_signal, pidfd_.get(), signal, nullptr, 0) != 0)
    return Error::fromErrno("signal process " + std::to_string(pid_));
  return {};
}

Task<Result<ExitStatus>> Process::wait(Loop& loop) {
  auto readable = co_await waitReadable(loop, pidfd_.get());
  CO_RETURN_IF_ERROR(std::move(readable));
  siginfo_t info{};
  if (::waitid(static_cast<idtype_t>(P_PIDFD), static_cast<id_t>(pidfd_.get()), &info, WEXITED) != 0)
    co_return Error::fromErrno("wait for process " + std::to_string(pid_));
  co_return exitStatusOf(info);
}

Result<UniqueFd> pidfdOf(pid_t pid) {
  UniqueFd fd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  if (!fd) return Error::fromErrno("watch process " + std::to_string(pid));
  return fd;
}

Result<CommandOutput> runCommand(const std::vector<std::string>& args, const std::string& input) {
  int in[2], out[2], err[2];
  if (::pipe2(in, O_CLOEXEC) != 0 || ::pipe2(out, O_CLOEXEC) != 0 || ::pipe2(err, O_CLOEXEC) != 0)
    return Error::fromErrno("pipe");
  UniqueFd inRead(in[0]), inWrite(in[1]), outRead(out[0]), outWrite(out[1]), errRead(err[0]), errWrite(err[1]);
  SpawnOptions options;
  options.args = args;
  options.fds = {inRead.get(), outWrite.get(), errWrite.get()};
  ASSIGN_OR_RETURN(auto process, Process::spawn(options));
  inRead.reset();
  outWrite.reset();
  errWrite.reset();
  CommandOutput result;
  std::string_view left = input;
  ::fcntl(inWrite.get(), F_SETFL, O_NONBLOCK);
  if (left.empty()) inWrite.reset();
  char buffer[16384];
  auto drain = [&](UniqueFd& fd, std::string& into) {
    ssize_t n = ::read(fd.get(), buffer, sizeof buffer);
    if (n > 0) into.append(buffer, static_cast<size_t>(n));
    if (n == 0 || (n < 0 && errno != EINTR)) fd.reset();
  };
  while (outRead || errRead) {
    pollfd polled[3] = {{outRead.get(), POLLIN, 0}, {errRead.get(), POLLIN, 0}, {inWrite.get(), POLLOUT, 0}};
    if (::poll(polled, 3, -1) < 0 && errno != EINTR) return Error::fromErrno("poll");
    if (outRead && polled[0].revents) drain(outRead, result.output);
    if (errRead && polled[1].revents) drain(errRead, result.errors);
    if (inWrite && polled[2].revents) {
      ssize_t n = ::write(inWrite.get(), left.data(), left.size());
      if (n > 0) left.remove_prefix(static_cast<size_t>(n));
      if (left.empty() || (n < 0 && errno != EAGAIN && errno != EINTR)) inWrite.reset();
    }
  }
  siginfo_t info{};
  while (::waitid(static_cast<idtype_t>(P_PIDFD), static_cast<id_t>(process.pidfd()), &info, WEXITED) != 0) {
    if (errno != EINTR) return Error::fromErrno("wait for " + args[0]);
  }
  result.status = exitStatusOf(info);
  return result;
}

Task<Result<>> waitReadable(Loop& loop, int fd) {
  int copy = ::fcntl(fd, F_DUPFD_CLOEXEC, 0);
  if (copy < 0) co_return Error::fromErrno("duplicate a descriptor");
  boost::system::error_code error;
  asio::posix::stream_descriptor descriptor(loop.executor());
  descriptor.assign(copy, error);
  if (error) {
    ::close(copy);
    co_return Error(Code::kInternal, "watch a descriptor: " + error.message());
  }
  co_await descriptor.async_wait(asio::posix::descriptor_base::wait_read,
                                 asio::redirect_error(asio::use_awaitable, error));
  if (error) co_return Error(Code::kCancelled, "watch a descriptor: " + error.message());
  co_return Result<>();
}

}  // namespace dhow
