#include "host/services.h"

#include <signal.h>

#include <boost/asio/signal_set.hpp>

#include "base/files.h"
#include "base/log.h"
#include "base/notify.h"
#include "base/process.h"
#include "base/strings.h"
#include "platform/members.h"

namespace dhow::host {

using namespace std::chrono_literals;

namespace {

constexpr const char* kUnitFolder = "/etc/systemd/system";
constexpr const char *kMember = "dhow-member", *kServer = "dhow-server", *kAgent = "dhow-agent";
constexpr const char* kUnitNames[] = {kMember, kServer, kAgent};
constexpr const char* kAllServices = "services";  // what tells of them all that they are ready
// A master waits for its store, and a store's member for the others.
constexpr Duration kReadyLimit = 120s;
constexpr Duration kStopLimit = 30s;
constexpr Duration kRestartLimit = 30s, kLook = 1s;
constexpr int kEndsAgain = 3;

std::string unitPath(const std::string& service) {
  return fmt::format("{}/{}.service", kUnitFolder, service);
}

// systemd reads $, % and \ in arguments as its own.
std::string quoted(const std::string& word) {
  std::string out = "\"";
  for (const char c : word) {
    if (c == '"' || c == '\\') out.push_back('\\');
    if (c == '$' || c == '%') out.push_back(c);
    out.push_back(c);
  }
  return out + "\"";
}

Result<> systemctl(std::vector<std::string> args) {
  args.insert(args.begin(), "systemctl");
  ASSIGN_OR_RETURN(auto done, runCommand(args));
  if (done.status.code == 0) return {};
  return Error(Code::kInternal, fmt::format("{}: {}", join(args, " "), trim(done.errors)));
}

std::string pidFile(const HostConfig& config) {
  return config.paths().run() + "/init.pid";
}

// The process that keeps this host's services running; 0 when there is none.
pid_t initPid(const HostConfig& config) {
  auto text = readFile(pidFile(config), 64);
  auto pid = text.ok() ? parseInt(trim(*text)) : std::nullopt;
  if (!pid || *pid <= 1) return 0;
  // The number may belong to somebody else by now.
  auto line = readFile(fmt::format("/proc/{}/cmdline", *pid), 1 << 16);
  return line.ok() && line->find(config.paths().root) != line->npos ? static_cast<pid_t>(*pid) : 0;
}

Task<Result<>> waitAllReady(RealLoop& loop, ReadySocket& ready, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    auto told = co_await ready.wait(loop, kReadyLimit);
    CO_RETURN_IF_ERROR(told);
  }
  co_return Result<>();
}

Task<Result<>> endProcess(Loop& loop, pid_t pid, int pidfd) {
  ::kill(pid, SIGTERM);
  Timer late = loop.after(kStopLimit, [pid] { ::kill(pid, SIGKILL); });
  auto ended = co_await waitReadable(loop, pidfd);
  co_return ended;
}

struct Ending {
  explicit Ending(RealLoop& loop, pid_t pid) : signals(loop.executor(), SIGTERM, SIGINT) {
    signals.async_wait([pid](const boost::system::error_code& error, int) {
      if (!error) ::kill(pid, SIGTERM);
    });
  }
  boost::asio::signal_set signals;
};

}  // namespace

std::vector<Service> servicesOf(const HostConfig& config) {
  const auto paths = config.paths();
  auto command = [&](const char* service, const char* role, const std::string& file) {
    return std::vector<std::string>{paths.linkedDhow(service), role, "--config", file};
  };
  std::vector<Service> out;
  if (config.member)
    out.push_back(
        {kMember, "Dhow: this master's member of etcd", command(kMember, "member", paths.masterConfig()), false});
  if (config.master)
    out.push_back({kServer, "Dhow master: API server, controllers and scheduler",
                   command(kServer, "server", paths.masterConfig()), true, false, true});
  if (config.node) out.push_back({kAgent, "Dhow node agent", command(kAgent, "agent", paths.nodeConfig()), true, true});
  return out;
}

Result<> ensurePrograms(const HostConfig& config, const platform::Programs& programs) {
  const auto paths = config.paths();
  std::string id;  // a service that comes later runs what the others do
  for (const auto& service : servicesOf(config)) {
    if (pathExists(service.args[0])) id = platform::linkedProgram(paths, service.name);
  }
  if (id.empty()) {
    ASSIGN_OR_RETURN(auto own, platform::installPrograms(paths, programs));
    id = own.id;
  }
  for (const auto& service : servicesOf(config)) RETURN_IF_ERROR(platform::ensureLinked(paths, service.name, id));
  return {};
}

std::string unitText(const Service& service) {
  std::string command;
  for (const auto& word : service.args) command += (command.empty() ? "" : " ") + quoted(word);
  std::string text = fmt::format(
      "# Written by `dhow service install`; removed by `dhow service uninstall` and `dhow leave`.\n"
      "[Unit]\n"
      "Description={}\n"
      "Wants=network-online.target\n"
      "After=network-online.target{}\n"
      "StartLimitIntervalSec=0\n"
      "\n"
      "[Service]\n"
      "Type={}\n"
      "ExecStart={}\n"
      "Restart=always\n"
      "RestartSec=1\n"
      "TimeoutStartSec=180\n"
      "LimitNOFILE=1048576\n",
      service.description, service.name == "dhow-server" ? " dhow-member.service" : "",
      service.tellsReady ? "notify" : "exec", command);
  if (service.containers) {
    // Containers stay when the agent ends or is started anew, and their groups are the agent's to make.
    text +=
        "KillMode=process\n"
        "Delegate=yes\n"
        "LimitNPROC=infinity\n"
        "LimitCORE=infinity\n"
        "TasksMax=infinity\n";
  }
  // Under want of memory pods go first.
  return text + "OOMScoreAdjust=-900\n\n[Install]\nWantedBy=multi-user.target\n";
}

bool haveSystemd() {
  return pathExists("/run/systemd/system");  // sd_booted(3)
}

bool servicesInstalled() {
  for (const char* name : kUnitNames) {
    if (pathExists(unitPath(name))) return true;
  }
  return false;
}

Result<> installServices(const HostConfig& config, const platform::Programs& programs) {
  if (!haveSystemd())
    return Error(Code::kFailedPrecondition,
                 "systemd does not run this machine; `dhow service run` runs what belongs to it in the foreground");
  std::vector<std::string> enable = {"enable", "--now"};
  RETURN_IF_ERROR(ensurePrograms(config, programs));
  for (const auto& service : servicesOf(config)) {
    RETURN_IF_ERROR(writeFileDurably(unitPath(service.name), unitText(service)));
    enable.push_back(service.name + ".service");
  }
  RETURN_IF_ERROR(systemctl({"daemon-reload"}));
  auto started = systemctl(std::move(enable));
  if (!started.ok()) return std::move(started).error().wrap("start the services (`journalctl -u 'dhow-*'` tells more)");
  return {};
}

Result<> uninstallServices() {
  bool any = false;
  for (const char* name : kUnitNames) {
    if (!pathExists(unitPath(name))) continue;
    any = true;
    if (haveSystemd()) RETURN_IF_ERROR(systemctl({"disable", "--now", std::string(name) + ".service"}));
    RETURN_IF_ERROR(removeTree(unitPath(name)));
  }
  return any && haveSystemd() ? systemctl({"daemon-reload"}) : Result<>();
}

Task<Result<>> runServices(RealLoop& loop, HostConfig config, platform::Programs programs,
                           std::function<Task<Result<>>()> ready) {
  CO_RETURN_IF_ERROR(makeDirs(platform::kRunDir, 0711));
  CO_RETURN_IF_ERROR(makeDirs(config.paths().run(), 0700));
  CO_ASSIGN_OR_RETURN(auto lock, lockFile(config.paths().lock(), true));
  if (const pid_t running = initPid(config); running != 0)
    co_return Error(Code::kAlreadyExists, fmt::format("this host's services run already (process {})", running));
  CO_RETURN_IF_ERROR(ensurePrograms(config, programs));
  CO_ASSIGN_OR_RETURN(auto socket, ReadySocket::create(config.paths().ready(kAllServices)));
  const auto services = servicesOf(config);
  SpawnOptions options;
  options.args = {config.paths().link(services.back().name) + "/dhow-shim", "init"};
  size_t telling = 0;
  for (const auto& service : services) {
    options.args.emplace_back("--");
    options.args.insert(options.args.end(), service.args.begin(), service.args.end());
    telling += service.tellsReady ? 1 : 0;
  }
  options.env = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "NOTIFY_SOCKET=" + socket.path()};
  options.cwd = "/";
  options.newSession = true;
  auto init = Process::spawn(options);
  CO_RETURN_IF_ERROR(init);
  Ending ending(loop, init->pid());
  auto kept = writeFile(pidFile(config), std::to_string(init->pid()) + "\n");
  lock.reset();
  auto started = kept.ok() ? co_await waitAllReady(loop, socket, telling) : std::move(kept);
  if (started.ok() && ready) started = co_await ready();
  if (!started.ok()) (void)init->kill(SIGTERM).ok();
  auto ended = co_await init->wait(loop);
  (void)removeTree(pidFile(config)).ok();
  CO_RETURN_IF_ERROR(started);
  CO_RETURN_IF_ERROR(ended);
  co_return Result<>();
}

Task<Result<>> stopServices(Loop& loop, HostConfig config) {
  const pid_t pid = initPid(config);
  if (pid == 0) co_return Result<>();
  auto fd = pidfdOf(pid);
  if (!fd.ok() && fd.error().is(Code::kNotFound)) co_return Result<>();
  CO_RETURN_IF_ERROR(fd);
  if (initPid(config) != pid) co_return Result<>();
  auto ended = co_await endProcess(loop, pid, fd->get());
  co_return ended;
}

pid_t servicePid(const HostConfig& config, const Service& service) {
  if (servicesInstalled()) {
    auto shown = runCommand({"systemctl", "show", "--property=MainPID", "--value", service.name + ".service"});
    auto pid = shown.ok() ? parseInt(trim(shown->output)) : std::nullopt;
    return pid ? static_cast<pid_t>(*pid) : 0;
  }
  std::vector<std::string> command(service.args.begin(), service.args.begin() + 2);
  if (service.name == kMember) {
    auto etcd = platform::findEtcd();
    if (etcd.ok()) command = {*etcd};
  }
  return platform::findRole(initPid(config), command);
}

// A program that cannot run ends again and again: a node must not be away for so long that its pods are moved.
Task<Result<>> awaitReady(Loop& loop, ReadySocket& ready, const HostConfig& config, const Service& service) {
  const TimePoint end = loop.now() + kRestartLimit;
  pid_t seen = 0;
  for (int ends = 0; ends < kEndsAgain;) {
    auto told = co_await ready.wait(loop, std::min<Duration>(kLook, end - loop.now()));
    if (told.ok() || !told.error().is(Code::kDeadlineExceeded) || loop.now() >= end) co_return told;
    const pid_t now = servicePid(config, service);
    if (now == 0 || (seen != 0 && now != seen)) ++ends;
    if (now != 0) seen = now;
  }
  co_return Error(Code::kUnavailable, "its process ends again and again");
}

Task<Result<>> awaitService(Loop& loop, BlockingPool& pool, HostConfig config, Service service,
                            std::function<Task<bool>()> serves) {
  if (servicesInstalled()) {
    auto started = co_await pool.run(loop, [&] { return systemctl({"start", service.name + ".service"}); });
    co_return started;
  }
  // It listens before it looks, so that none of both is missed.
  CO_ASSIGN_OR_RETURN(auto ready, ReadySocket::create(config.paths().ready(kAllServices)));
  const bool there = co_await serves();
  if (there) co_return Result<>();
  auto told = co_await ready.wait(loop, kRestartLimit);
  co_return told;
}

Task<Result<>> restartService(Loop& loop, BlockingPool& pool, HostConfig config, Service service) {
  const bool units = servicesInstalled();
  bool ran = false;
  CO_ASSIGN_OR_RETURN(auto ready,
                      ReadySocket::create(config.paths().ready(service.tellsReady ? kAllServices : service.name)));
  if (units) {
    // Returns when the unit has told that it is ready, if it is one that tells systemd.
    auto restarted = co_await pool.run(loop, [&] { return systemctl({"restart", service.name + ".service"}); });
    CO_RETURN_IF_ERROR(restarted);
    if (service.tellsReady) co_return Result<>();
  } else if (const pid_t pid = servicePid(config, service); pid != 0) {
    ran = true;
    auto fd = pidfdOf(pid);
    if (fd.ok() && servicePid(config, service) == pid) {
      auto ended = co_await endProcess(loop, pid, fd->get());
      CO_RETURN_IF_ERROR(ended);
    }
  }
  // One that does not run was waited for already, and what keeps it running takes its time.
  auto told = ran ? co_await awaitReady(loop, ready, config, service) : co_await ready.wait(loop, kRestartLimit);
  co_return told;
}

}  // namespace dhow::host
