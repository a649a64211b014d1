#include "filter_process.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cerrno>
#include <csignal>

#include <boost/json/serialize.hpp>

#include "access_log.h"
#include "base/files.h"
#include "base/log.h"
#include "base/process.h"
#include "base/strings.h"

namespace dhow::ingress {

namespace {

constexpr int kReadyPatience = 10'000;  // milliseconds

// Where a program's file is gone or another one now, the link says so or is another.
std::string programOf(pid_t pid) {
  char out[4096];
  const ssize_t size = ::readlink(fmt::format("/proc/{}/exe", pid).c_str(), out, sizeof out);
  return size > 0 ? std::string(out, static_cast<size_t>(size)) : "";
}

}  // namespace

Result<> FilterProcess::ensure() {
  if (options_.program.empty()) return {};
  if (!process_.running())
    if (auto found = findKept(pidFile())) process_ = std::move(*found);
  if (process_.running() && programOf(process_.pid) == programOf(::getpid())) return {};
  KeptProcess old = std::exchange(process_, {});
  auto started = start();
  if (!started.ok()) {
    process_ = std::move(old);
    return started;
  }
  if (old.running()) ::kill(old.pid, SIGTERM);
  return {};
}

Result<> FilterProcess::start() {
  RETURN_IF_ERROR(makeDirs(options_.run, 0700));
  const std::string config = options_.run + "/filter.json";
  const boost::json::object values{{"socket", options_.socket}, {"rules", options_.rules}};
  RETURN_IF_ERROR(writeFile(config, boost::json::serialize(values), 0600));
  ASSIGN_OR_RETURN(UniqueFd findings, openLogPipe(options_.findings));
  UniqueFd log(::open(options_.log.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600));
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return Error::fromErrno("pipe");
  UniqueFd ready(ends[0]), tell(ends[1]);
  SpawnOptions spawn;
  spawn.args = {options_.program, "edge-filter", "--config", config};
  spawn.env = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin"};
  spawn.fds = {-1, findings.get(), log ? log.get() : -1, tell.get()};
  spawn.newSession = true;
  ASSIGN_OR_RETURN(Process process, Process::spawn(spawn));
  tell.reset();
  ASSIGN_OR_RETURN(process_, keep(pidFile(), process.pid()));
  struct pollfd one{ready.get(), POLLIN, 0};
  char said = 0;
  int polled = 0;
  do polled = ::poll(&one, 1, kReadyPatience);
  while (polled < 0 && errno == EINTR);
  if (polled == 1 && ::read(ready.get(), &said, 1) == 1) {
    log::info("ingress", "the filter runs as process {}", process_.pid);
    return {};
  }
  ::kill(process_.pid, SIGKILL);
  ::waitpid(process_.pid, nullptr, 0);
  process_ = {};
  auto text = readFile(options_.log, 1 << 16);
  return Error(Code::kUnavailable, "the filter did not start: " + std::string(text.ok() ? trim(*text) : ""));
}

void FilterProcess::stop() {
  if (options_.program.empty()) return;
  if (!process_.running())
    if (auto found = findKept(pidFile())) process_ = std::move(*found);
  if (process_.running()) ::kill(process_.pid, SIGTERM);
  process_ = {};
  ::unlink(pidFile().c_str());
  removeFilterSocket(options_.socket);
}

void removeFilterSocket(const std::string& socket) {
  ::unlink(socket.c_str());
  ::rmdir(socket.substr(0, socket.rfind('/')).c_str());
}

}  // namespace dhow::ingress
