#include "kept_process.h"

#include <poll.h>
#include <unistd.h>
#include <csignal>

#include "base/files.h"
#include "base/process.h"
#include "base/strings.h"

namespace dhow::ingress {

namespace {

// Field 22 of /proc/<pid>/stat.
std::string startTimeOf(pid_t pid) {
  auto stat = readFile(fmt::format("/proc/{}/stat", pid), 4096);
  if (!stat.ok()) return "";
  const size_t end = stat->rfind(')');
  if (end == std::string::npos) return "";
  const std::vector<std::string> fields = split(std::string_view(*stat).substr(end + 2), ' ');
  return fields.size() > 19 ? fields[19] : "";
}

}  // namespace

bool KeptProcess::running() const {
  if (pid <= 0 || !pidfd) return false;
  struct pollfd one{pidfd.get(), POLLIN, 0};
  return ::poll(&one, 1, 0) == 0;
}

std::optional<KeptProcess> findKept(const std::string& file) {
  auto text = readFile(file, 256);
  if (!text.ok()) return std::nullopt;
  auto parts = splitOnce(trim(*text), ' ');
  auto pid = parts ? parseInt(parts->first) : std::nullopt;
  if (!pid || *pid <= 1) return std::nullopt;
  KeptProcess out;
  out.pid = static_cast<pid_t>(*pid);
  // Before its start is looked at, so that it is that of the one that is held.
  auto opened = pidfdOf(out.pid);
  if (!opened.ok() || startTimeOf(out.pid) != parts->second) return std::nullopt;
  out.pidfd = std::move(*opened);
  if (!out.running()) return std::nullopt;
  return out;
}

void endKept(const std::string& file, std::chrono::milliseconds patience) {
  auto found = findKept(file);
  if (found) {
    ::kill(found->pid, SIGTERM);
    struct pollfd one{found->pidfd.get(), POLLIN, 0};
    if (::poll(&one, 1, static_cast<int>(patience.count())) == 0) ::kill(found->pid, SIGKILL);
  }
  ::unlink(file.c_str());
}

Result<KeptProcess> keep(const std::string& file, pid_t pid) {
  KeptProcess out;
  out.pid = pid;
  ASSIGN_OR_RETURN(out.pidfd, pidfdOf(pid));
  RETURN_IF_ERROR(writeFile(file, fmt::format("{} {}\n", pid, startTimeOf(pid)), 0600));
  return out;
}

}  // namespace dhow::ingress
