#include "platform/region_process.h"

#include <signal.h>

#include "base/files.h"
#include "base/log.h"
#include "base/notify.h"
#include "base/process.h"
#include "base/strings.h"
#include "platform/programs.h"
#include "platform/region_api.h"

namespace dhow::platform {

namespace {

constexpr const char* kRole = kRegionProcess;

// The process `pid` is the init of (init), or is itself, the region of the cluster.
bool isRegion(const std::string& pid, const ClusterPaths& paths, bool init) {
  auto line = readFile("/proc/" + pid + "/cmdline", 1 << 16);
  if (!line.ok()) return false;
  auto args = split(*line, '\0');
  const size_t role = init ? 4 : 1;  // dhow-shim init -- dhow region --cluster <root>
  if (init && (args.size() < 3 || args[1] != "init" || args[2] != "--")) return false;
  return args.size() > role + 2 && args[role] == kRole && args[role + 2] == paths.root;
}

pid_t findProcess(const ClusterPaths& paths, bool init) {
  auto names = listDir("/proc");
  if (!names.ok()) return 0;
  for (const auto& name : *names) {
    auto pid = parseInt(name);
    if (pid && isRegion(name, paths, init)) return static_cast<pid_t>(*pid);
  }
  return 0;
}

Task<bool> regionAnswers(Loop& loop, const ClusterPaths& paths) {
  RegionClient::Options options;
  options.unixSocket = paths.regionSocket();
  RegionClient client(loop, std::move(options));
  auto answer = co_await client.list();
  co_return answer.ok();
}

}  // namespace

pid_t findRegionProcess(const ClusterPaths& paths) {
  return findProcess(paths, true);
}

std::string regionProgram(const ClusterPaths& paths) {
  return runningProgram(paths, findRole(findRegionProcess(paths), {paths.linkedDhow(kRole), kRole}));
}

Task<Result<>> startRegionProcess(Loop& loop, const ClusterConfig& config, Duration limit) {
  auto paths = config.paths();
  CO_ASSIGN_OR_RETURN(auto ready, ReadySocket::create(paths.ready(kRole)));
  const bool runs = findRegionProcess(paths) != 0;
  const bool answers = runs && co_await regionAnswers(loop, paths);
  if (answers) co_return Result<>();
  CO_RETURN_IF_ERROR(ensureLinked(paths, kRole, config.program));
  SpawnOptions options;
  options.args = {
      paths.link(kRole) + "/dhow-shim", "init", "--", paths.linkedDhow(kRole), kRole, "--cluster", paths.root};
  options.env = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "NOTIFY_SOCKET=" + ready.path()};
  options.cwd = "/";
  options.fds = {-1, -1, -1};
  options.newSession = true;
  if (!runs) {
    auto process = Process::spawn(options);
    CO_RETURN_IF_ERROR(process);
  }
  auto waited = co_await ready.wait(loop, limit);
  if (!waited.ok()) co_return std::move(waited).error().wrap("start the region (its log: " + paths.region() + "/log)");
  co_return Result<>();
}

Task<Result<>> replaceRegionProcess(Loop& loop, const ClusterConfig& config, std::string program, Duration limit) {
  auto paths = config.paths();
  CO_ASSIGN_OR_RETURN(auto ready, ReadySocket::create(paths.ready(kRole)));
  CO_RETURN_IF_ERROR(linkProgram(paths, kRole, program));
  const pid_t process = findRole(findRegionProcess(paths), {paths.linkedDhow(kRole), kRole});
  // While there is none its init is about to start one, from the new link.
  const bool runs = process != 0 && runningProgram(paths, process) == program;
  if (process != 0 && !runs) ::kill(process, SIGHUP);
  const bool answers = runs && co_await regionAnswers(loop, paths);
  if (answers) co_return Result<>();
  auto waited = co_await ready.wait(loop, limit);
  if (!waited.ok())
    co_return std::move(waited).error().wrap("start the region with " + program + " (its log: " + paths.region() +
                                             "/log)");
  co_return Result<>();
}

Task<Result<>> stopRegionProcess(Loop& loop, const ClusterPaths& paths, Duration grace) {
  // The init first: it ends with the process below it, and starts none anew.
  for (bool init : {true, false}) {
    const pid_t pid = findProcess(paths, init);
    if (pid == 0) continue;
    auto fd = pidfdOf(pid);
    if (!fd.ok() && fd.error().is(Code::kNotFound)) continue;
    CO_RETURN_IF_ERROR(fd);
    // The number may have become another's before it was opened.
    if (!isRegion(std::to_string(pid), paths, init)) continue;
    ::kill(pid, SIGTERM);
    Timer late = loop.after(grace, [pid] { ::kill(pid, SIGKILL); });
    auto ended = co_await waitReadable(loop, fd->get());
    CO_RETURN_IF_ERROR(ended);
  }
  co_return Result<>();
}

}  // namespace dhow::platform
