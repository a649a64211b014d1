#include "host/services.h"

#include <signal.h>

#include <boost/asio/signal_set.hpp>

#include "base/files.h"
#include "base/log.h"
#include "base/notify.h"
#include "base/process.h"
#include "base/strings.h"

namespace dhow::host {

using namespace std::chrono_literals;

namespace {

constexpr const char* kUnitFolder = "/etc/systemd/system";
constexpr const char* kUnitNames[] = {"dhow-member", "dhow-server", "dhow-agent"};
// A master waits for its store, and a store's member for the others.
constexpr Duration kReadyLimit = 120s;
constexpr Duration kStopLimit = 30s;

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

struct Ending {
  explicit Ending(RealLoop& loop, pid_t pid) : signals(loop.executor(), SIGTERM, SIGINT) {
    signals.async_wait([pid](const boost::system::error_code& error, int) {
      if (!error) ::kill(pid, SIGTERM);
    });
  }
  boost::asio::signal_set signals;
};

}  // namespace

std::vector<Service> servicesOf(const HostConfig& config, const platform::Programs& programs) {
  const auto paths = config.paths();
  std::vector<Service> out;
  if (config.member)
    out.push_back({"dhow-member",
                   "Dhow: this master's member of etcd",
                   {programs.dhow, "member", "--config", paths.masterConfig()},
                   false});
  if (config.master)
    out.push_back({"dhow-server",
                   "Dhow master: API server, controllers and scheduler",
                   {programs.dhow, "server", "--config", paths.masterConfig()}});
  if (config.node)
    out.push_back(
        {"dhow-agent", "Dhow node agent", {programs.dhow, "agent", "--config", paths.nodeConfig()}, true, true});
  return out;
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
  for (const auto& service : servicesOf(config, programs)) {
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
  CO_ASSIGN_OR_RETURN(auto socket, ReadySocket::create(config.paths().ready("services")));
  SpawnOptions options;
  options.args = {programs.shim, "init"};
  size_t telling = 0;
  for (const auto& service : servicesOf(config, programs)) {
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
  ::kill(pid, SIGTERM);
  Timer late = loop.after(kStopLimit, [pid] { ::kill(pid, SIGKILL); });
  auto ended = co_await waitReadable(loop, fd->get());
  co_return ended;
}

}  // namespace dhow::host
