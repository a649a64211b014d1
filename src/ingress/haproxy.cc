#include "haproxy.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include <algorithm>
#include <bit>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>

#include "accepted_config.h"
#include "access_log.h"
#include "base/digest.h"
#include "base/files.h"
#include "base/log.h"
#include "base/pki.h"
#include "base/process.h"
#include "base/strings.h"
#include "filter_lines.h"
#include "network/dead_peers.h"
#include "text.h"

namespace dhow::ingress {

namespace {

constexpr int kReadyPatience = 10'000;  // milliseconds
constexpr int kEndPatience = 5'000;
constexpr size_t kFewestSlots = 8;
constexpr size_t kSecretLength = 32;
constexpr size_t kLongestConfig = 256 << 20;
constexpr size_t kLongestReason = 1000;
constexpr size_t kLongestTable = 64 << 20;
constexpr size_t kCommandsAtOnce = 50;
constexpr int64_t kMostConnections = 20'000;
constexpr int64_t kOtherFiles = 1'000;

int64_t connectionsFor() {
  struct rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_max == RLIM_INFINITY) return kMostConnections;
  // Each has two ends.
  return std::clamp<int64_t>((static_cast<int64_t>(limit.rlim_max) - kOtherFiles) / 2, 100, kMostConnections);
}

Result<UniqueFd> listenForNotices(const std::string& path) {
  struct sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) return Error(Code::kInvalid, path + " is too long for a socket");
  std::memcpy(address.sun_path, path.data(), path.size());
  UniqueFd fd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return Error::fromErrno(errno, "socket");
  ::unlink(path.c_str());
  if (::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0)
    return Error::fromErrno(errno, "bind " + path);
  return fd;
}

}  // namespace

Haproxy::Haproxy(Options options)
    : options_(std::move(options)),
      layout_{.folder = options_.folder,
              .socket = options_.adminSocket(),
              .filter = options_.filterSocket,
              .metrics = options_.metricsSocket(),
              .address = options_.address,
              .address6 = options_.address6,
              .dnsAddress = options_.dnsAddress,
              .maxConnections = connectionsFor()},
      filter_({.program = options_.filterProgram,
               .socket = options_.filterSocket,
               .rules = options_.folder + "/files",
               .run = options_.run,
               .findings = options_.findingsPipe(),
               .log = options_.folder + "/filter.log"}),
      control_(layout_.socket),
      master_(options_.run + "/master.sock") {}

Result<> Haproxy::prepare() {
  for (const std::string& folder : {options_.folder, options_.folder + "/certificates", options_.folder + "/files"})
    RETURN_IF_ERROR(makeDirs(folder, 0700));
  // The filter has an open descriptor of this one, and reads rules there without root's rights.
  if (::chmod((options_.folder + "/files").c_str(), 0711) != 0) return Error::fromErrno("chmod " + options_.folder);
  RETURN_IF_ERROR(makeDirs(options_.run, 0700));
  if (!notify_) {
    ASSIGN_OR_RETURN(notify_, listenForNotices(options_.run + "/notify.sock"));
  }
  const std::string secret = options_.folder + "/handover.secret", certificate = options_.folder + "/default.pem";
  if (!pathExists(secret)) RETURN_IF_ERROR(writeFileDurably(secret, randomHex(kSecretLength), 0600));
  ASSIGN_OR_RETURN(layout_.handoverSecret, readFile(secret, 256));
  if (pathExists(certificate)) return {};
  constexpr auto life = std::chrono::hours(24 * 3650);
  const WallTime now = std::chrono::system_clock::now();
  ASSIGN_OR_RETURN(Identity authority, createAuthority("Dhow ingress", now, life));
  CertificateSpec spec;
  spec.commonName = "Dhow ingress: no certificate for this host";
  spec.dnsNames = {"ingress.local"};
  spec.server = true;
  spec.notBefore = now;
  spec.validity = life;
  ASSIGN_OR_RETURN(Identity identity, issueCertificate(authority, spec));
  return writeFileDurably(certificate, identity.certificatePem + identity.privateKeyPem, 0600);
}

Result<> Haproxy::recover() {
  known_ = false;
  if (!pathExists(options_.folder + "/haproxy.cfg")) return {};
  // Servers keep the places by which the one that runs knows them.
  if (auto present = readFile(options_.folder + "/haproxy.cfg", kLongestConfig); present.ok()) {
    slots_ = slotsIn(*present);
    tables_ = tablesIn(*present);
  }
  RETURN_IF_ERROR(prepare());
  if (slots_.contains(kFilterBackend)) ensureFilter();
  if (auto found = findKept(options_.pidFile())) {
    process_ = std::move(*found);
    // One that an agent without an access log has started has its messages there.
    char out[4096];
    const ssize_t size = ::readlink(fmt::format("/proc/{}/fd/1", process_.pid).c_str(), out, sizeof out);
    layout_.accessLog = size > 0 && std::string_view(out, static_cast<size_t>(size)) == options_.logPipe();
    return {};
  }
  return start();
}

Result<> Haproxy::start() {
  RETURN_IF_ERROR(prepare());
  UniqueFd log(::open((options_.folder + "/haproxy.log").c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  SpawnOptions spawn;
  spawn.args = {
      options_.program, "-Ws", "-S", options_.run + "/master.sock,mode,600", "-f", options_.folder + "/haproxy.cfg"};
  spawn.env = {"NOTIFY_SOCKET=" + options_.run + "/notify.sock", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"};
  Result<UniqueFd> pipe = openLogPipe(options_.logPipe());
  if (!pipe.ok()) log::error("ingress", "no access log: {}", pipe.error().message());
  spawn.fds = {-1, pipe.ok() ? pipe->get() : -1, log ? log.get() : -1};
  spawn.newSession = true;
  char old[256];
  while (::recv(notify_.get(), old, sizeof old, 0) > 0) continue;
  ASSIGN_OR_RETURN(Process process, Process::spawn(spawn));
  ASSIGN_OR_RETURN(process_, keep(options_.pidFile(), process.pid()));
  layout_.accessLog = true;
  return waitReady();
}

// It tells as services tell systemd (sd_notify(3)).
Result<> Haproxy::waitReady() {
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(kReadyPatience);
  while (true) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - std::chrono::steady_clock::now());
    if (left.count() <= 0) return Error(Code::kDeadlineExceeded, "HAProxy did not become ready in 10 seconds");
    struct pollfd both[2] = {{notify_.get(), POLLIN, 0}, {process_.pidfd.get(), POLLIN, 0}};
    if (::poll(both, 2, static_cast<int>(left.count())) < 0 && errno != EINTR) return Error::fromErrno(errno, "poll");
    char text[1024];
    const ssize_t count = ::recv(notify_.get(), text, sizeof text, 0);
    if (count > 0 && std::string_view(text, static_cast<size_t>(count)).find("READY=1") != std::string_view::npos)
      return {};
    if (both[1].revents != 0 && count <= 0) {
      ::waitpid(process_.pid, nullptr, WNOHANG);
      process_.pid = -1;
      auto log = readFile(options_.folder + "/haproxy.log", 1 << 16);
      return Error(Code::kUnavailable, "HAProxy ended: " + std::string(log.ok() ? trim(*log) : ""));
    }
  }
}

Result<> Haproxy::reload() {
  char old[256];
  while (::recv(notify_.get(), old, sizeof old, 0) > 0) continue;
  if (::kill(process_.pid, SIGUSR2) != 0) return Error::fromErrno(errno, "reload HAProxy");
  ++reloads_;
  RETURN_IF_ERROR(waitReady());
  // It is ready, too, when the new worker could not start and the one before goes on (management guide, section 4).
  if (workers().fresh) return {};
  const std::string log = readFile(options_.folder + "/haproxy.log", kLongestConfig).valueOr("");
  const size_t last = log.rfind("Reloading HAProxy"), alert = last == log.npos ? last : log.find("[ALERT]", last);
  return Error(Code::kFailedPrecondition,
               "HAProxy does not reload: " + (alert == log.npos ? "" : log.substr(alert, kLongestReason)));
}

Haproxy::Workers Haproxy::workers() const {
  Workers out;
  auto shown = master_.ask("show proc");
  if (!shown.ok()) return out;
  bool old = false;
  for (const std::string& line : split(*shown, '\n')) {
    if (line.starts_with("#")) old = line.starts_with("# old workers");
    auto words = split(line, ' ');
    std::erase(words, "");
    if (words.size() < 3 || words[1] != "worker") continue;
    if (old) {
      out.old.push_back(words[0]);
    } else {
      out.fresh = out.fresh || words[2] == "0";
    }
  }
  return out;
}

Result<> Haproxy::endConnections() {
  if (!running()) return {};
  RETURN_IF_ERROR(readTables());
  RETURN_IF_ERROR(reload());
  return readTables();
}

std::vector<UniqueFd> Haproxy::replaced() const {
  std::vector<UniqueFd> out;
  for (const std::string& worker : workers().old) {
    auto fd = pidfdOf(static_cast<pid_t>(parseInt(worker).value_or(-1)));
    if (fd.ok()) out.push_back(*std::move(fd));
  }
  return out;
}

void Haproxy::stop() {
  if (running()) {
    ::kill(process_.pid, SIGTERM);
    struct pollfd one{process_.pidfd.get(), POLLIN, 0};
    if (::poll(&one, 1, kEndPatience) == 0) ::kill(process_.pid, SIGKILL);
  }
  if (process_.pid > 0) ::waitpid(process_.pid, nullptr, WNOHANG);
  process_ = {};
  filter_.stop();
  for (const std::string& path : {options_.folder + "/haproxy.cfg", options_.pidFile()}) ::unlink(path.c_str());
  removeStale({});
}

bool Haproxy::sameStructure(const Config& wanted) const {
  if (std::any_of(missing_.begin(), missing_.end(), [this](Binding one) { return isFree(one); })) return false;
  if (wanted.frontends != frontends_ || wanted.files != loaded_.files) return false;
  for (const auto& [name, backend] : wanted.backends) {
    auto found = slots_.find(name);
    if (found == slots_.end()) return false;
    Slots slots = found->second;
    if (!place(backend.servers, slots)) return false;
  }
  return true;
}

Result<> Haproxy::apply(Config wanted) {
  wanted.lookAtRoutes();
  // What comes and goes shall cost one reload.
  for (Frontend& frontend : wanted.frontends) {
    auto known =
        std::find_if(frontends_.begin(), frontends_.end(), [&](const Frontend& f) { return f.name == frontend.name; });
    if (known == frontends_.end()) continue;
    frontend.routes |= known->routes;
  }
  if (wanted.empty()) {
    stop();
    loaded_ = {};
    frontends_.clear();
    missing_.clear();
    slots_.clear();
    tables_ = {};
    known_ = true;
    return {};
  }
  if (asksFilter(wanted.files)) {
    RETURN_IF_ERROR(prepare());  // it needs the folder of its files
    ensureFilter();
  }
  if (known_ && running() && sameStructure(wanted)) {
    auto changed = change(wanted);
    if (changed.ok()) return {};
    log::warn("ingress", "{}; HAProxy is reloaded", changed.error().message());
  }
  // A reload may fail: pods that leave are told of before.
  if (known_ && running())
    if (auto told = changeServers(wanted); !told.ok()) log::warn("ingress", "{}", told.error().message());
  // Its users are remembered; one that an earlier agent left tells of them here, too.
  if (running())
    if (auto read = readTables(); !read.ok()) log::warn("ingress", "{}", read.error().message());
  return load(std::move(wanted));
}

// Without it routes do what they say of that case.
void Haproxy::ensureFilter() {
  if (auto done = filter_.ensure(); !done.ok()) log::error("ingress", "{}", done.error().message());
}

Result<> Haproxy::load(Config wanted) {
  RETURN_IF_ERROR(prepare());
  const bool known = std::exchange(known_, false);
  const std::string file = options_.folder + "/haproxy.cfg";
  const std::string inForce = running() ? readFile(file, kLongestConfig).valueOr("") : "";
  const std::map<std::string, Slots> before = std::exchange(slots_, {});
  for (const auto& [name, backend] : wanted.backends) {
    auto found = before.find(name);
    Slots slots = found == before.end() ? Slots() : found->second;
    // The table knows servers by their places.
    if (found == before.end() && backend.sessions)
      for (const auto& [other, table] : tables_.of)
        if (table == backend.sessions->table && before.contains(other)) slots = before.at(other);
    // A rollout needs twice as many at most, and shall need no reload.
    slots.resize(std::max(slots.size(), std::bit_ceil(std::max(kFewestSlots, 2 * backend.servers.size()))));
    place(backend.servers, slots);
    slots_[name] = std::move(slots);
  }
  if (!running()) layout_.accessLog = true;  // it is started with the pipe
  std::vector<Frontend> frontends = wanted.frontends;
  leavePortsOfOthers(wanted, inForce);
  RETURN_IF_ERROR(write(wanted));
  RETURN_IF_ERROR(writeAccepted(options_.program, file, wanted, slots_, layout_));
  auto loaded = running() ? reload() : start();
  if (!loaded.ok()) {
    if (loaded.error().is(Code::kFailedPrecondition) && !inForce.empty()) {
      // What was in force goes on, and is told of pods that come and go.
      slots_ = before;
      known_ = known;
      RETURN_IF_ERROR(writeFile(file, inForce, 0600));
    }
    return loaded;
  }
  removeStale(wanted);
  if (!asksFilter(wanted.files)) filter_.stop();
  loaded_ = std::move(wanted);
  frontends_ = std::move(frontends);
  known_ = true;
  tables_ = tablesOf(loaded_);
  for (const auto& [name, slots] : slots_)
    if (auto was = before.find(name); was != before.end()) forgetReplaced(name, was->second, slots);
  if (auto read = readTables(); !read.ok()) log::warn("ingress", "users are not counted: {}", read.error().message());
  return {};
}

bool Haproxy::isFree(Binding binding) const {
  UniqueFd fd(::socket(binding.six ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int one = 1;
  ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (binding.six) {
    // An address that is not there, or not yet, must not keep the other family from being served.
    ::setsockopt(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one);
    struct sockaddr_in6 address{};
    address.sin6_family = AF_INET6;
    address.sin6_port = htons(binding.port);
    return ::inet_pton(AF_INET6, options_.address6.c_str(), &address.sin6_addr) == 1 &&
           ::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
  }
  struct sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(binding.port);
  if (::inet_pton(AF_INET, options_.address.c_str(), &address.sin_addr) != 1) return true;
  return ::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0 || errno != EADDRINUSE;
}

// HAProxy would not start for one that it cannot have.
void Haproxy::leavePortsOfOthers(Config& wanted, std::string_view inForce) {
  missing_.clear();
  std::set<std::string> own;
  for (const std::string& line : split(inForce, '\n'))
    if (line.starts_with("  bind ")) own.insert(split(line, ' ')[3]);
  auto mayHave = [&](const std::string& address, Binding binding) {
    const std::string text = endpointText(address, binding.port);
    if (own.contains(text) || isFree(binding)) return true;
    log::error("ingress", "{} cannot be had, perhaps as somebody else has it: it is not served", text);
    missing_.insert(binding);
    return false;
  };
  for (Frontend& frontend : wanted.frontends)
    std::erase_if(frontend.listeners, [&](Listener& listener) {
      listener.v4 = !options_.address.empty() && mayHave(options_.address, {false, listener.port});
      listener.v6 = !options_.address6.empty() && mayHave(options_.address6, {true, listener.port});
      return !listener.v4 && !listener.v6;
    });
}

// Keys above all: an agent that was killed could not remove them.
void Haproxy::removeStale(const Config& wanted) const {
  auto sweep = [&](const std::string& folder, const auto& needed) {
    auto names = listDir(options_.folder + "/" + folder);
    if (!names.ok()) return;
    for (const std::string& name : *names)
      if (!needed.contains(name)) ::unlink((options_.folder + "/" + folder + "/" + name).c_str());
  };
  sweep("certificates", wanted.certificates);
  sweep("files", wanted.files);
}

Result<> Haproxy::write(const Config& wanted) {
  auto put = [&](const std::string& path, std::string_view content) { return writeFile(path, content, 0600); };
  RETURN_IF_ERROR(put(layout_.map("sites"), renderMap(wanted.sites)));
  RETURN_IF_ERROR(put(layout_.map("exact"), renderMap(wanted.exact)));
  RETURN_IF_ERROR(put(layout_.map("prefixes"), renderMap(wanted.prefixes)));
  RETURN_IF_ERROR(put(layout_.map("splits"), renderMap(wanted.splits)));
  for (const auto& [name, content] : wanted.files)
    RETURN_IF_ERROR(writeFile(layout_.file(name), content, isForFilter(name) ? 0644 : 0600));
  for (const auto& [name, certificate] : wanted.certificates)
    RETURN_IF_ERROR(put(layout_.certificate(name), certificate.pem));
  for (const Frontend& frontend : wanted.frontends)
    RETURN_IF_ERROR(put(layout_.certificateList(frontend.name), renderCertificateList(wanted, frontend, layout_)));
  return {};
}

Result<> Haproxy::changeMap(std::string_view name, const std::map<std::string, std::string>& before,
                            const std::map<std::string, std::string>& after, bool removals) const {
  const std::string file = layout_.map(name);
  if (removals) {
    for (const auto& [key, value] : before)
      if (!after.contains(key)) RETURN_IF_ERROR(control_.tell(fmt::format("del map {} {}", file, word(key))));
    return {};
  }
  for (const auto& [key, value] : after) {
    auto found = before.find(key);
    if (found != before.end() && found->second == value) continue;
    RETURN_IF_ERROR(control_.tell(
        fmt::format("{} map {} {} {}", found == before.end() ? "add" : "set", file, word(key), word(value))));
  }
  return {};
}

// A section that is wanted no more is left as it is: routes lead there until they have changed.
Result<> Haproxy::changeServers(const Config& wanted) {
  const Say say = [this](const std::string& command, std::string_view done) {
    return done.empty() ? control_.tell(command) : control_.tell(command, "", done);
  };
  std::map<std::string, Slots> changed;
  for (const auto& [name, slots] : slots_) {
    auto found = wanted.backends.find(name);
    if (found == wanted.backends.end()) continue;
    if (Slots next = placedAsFits(found->second.servers, slots); next != slots) changed.emplace(name, std::move(next));
  }
  leaveTheDead(changed);
  for (auto& [name, next] : changed) {
    Slots& slots = slots_.at(name);
    RETURN_IF_ERROR(changeSlots(name, slots, next, say));
    forgetReplaced(name, slots, next);
    slots = std::move(next);
  }
  return {};
}

// What waits for the answer of a pod that went with its node ends now, and is sent elsewhere where that may be. Nothing
// more comes to it either: HTTP/2 to a server goes on over the connection that there is, whatever address the server
// has been given since (HAProxy 2.6).
void Haproxy::leaveTheDead(const std::map<std::string, Slots>& changed) const {
  std::vector<TcpPeer> peers;
  for (const Server& server : goneServers(slots_, changed))
    peers.emplace_back(IpAddress::parse(server.address).valueOr(IpAddress()), server.port);
  auto ended = endConnectionsWith(peers);
  if (!ended.ok()) return log::warn("ingress", "pods that are gone: {}", ended.error().message());
  if (*ended > 0) log::info("ingress", "{} connections with pods that are gone were ended", *ended);
}

// Users of a pod that is gone are not those of the pod that gets its place, or its address.
void Haproxy::forgetReplaced(const std::string& backend, const Slots& before, const Slots& after) {
  auto found = tables_.of.find(backend);
  if (found == tables_.of.end()) return;
  const std::string& table = found->second;
  for (size_t i = 0; i < before.size() && i < after.size(); ++i) {
    const auto &was = before[i], &is = after[i];
    if (!was || (is && was->address == is->address && was->port == is->port &&
                 (was->pod == is->pod || was->pod.empty() || is->pod.empty())))
      continue;
    const auto id = static_cast<int64_t>(i) + 1;
    sessions_.forgetServer(table, id);
    if (!running()) continue;
    const std::string command = fmt::format("clear table {} data.server_id eq {}", table, id);
    (void)control_.ask(command);
  }
}

// What the worker that serves does not know is told to it.
Result<> Haproxy::readTables() {
  const int64_t now =
      std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch()).count();
  sessions_.keepOnly(tables_.idle);
  const std::vector<std::string> replaced = tables_.idle.empty() ? std::vector<std::string>() : workers().old;
  for (const auto& [table, idle] : tables_.idle) {
    const std::string command = "show table " + table;
    ASSIGN_OR_RETURN(std::string shown, control_.ask(command, "", kLongestTable));
    std::vector<SessionTables::Table> all{SessionTables::parse(shown, now)};
    for (const std::string& worker : replaced) {
      auto old = master_.ask(fmt::format("@!{} {}", worker, command), "", kLongestTable);
      if (old.ok()) all.push_back(SessionTables::parse(*old, now));
    }
    const std::vector<std::string> missing = sessions_.update(table, std::move(all), idle, now);
    for (size_t i = 0; i < missing.size(); i += kCommandsAtOnce) {
      const size_t end = std::min(i + kCommandsAtOnce, missing.size());
      RETURN_IF_ERROR(control_.ask(join(std::vector<std::string>(missing.begin() + static_cast<ptrdiff_t>(i),
                                                                 missing.begin() + static_cast<ptrdiff_t>(end)),
                                        ";")));
    }
  }
  return {};
}

Result<std::map<std::string, client::PodUse>> Haproxy::count() {
  std::map<std::string, client::PodUse> out;
  if (!running()) return out;
  RETURN_IF_ERROR(readTables());
  std::map<std::string, std::map<std::string, uint64_t>> connections;
  const std::string command = "show stat -1 4 -1";  // all proxies, their servers
  ASSIGN_OR_RETURN(std::string shown, control_.ask(command, "", kLongestTable));
  SessionTables::addConnections(shown, connections);
  for (const std::string& worker : workers().old) {
    auto old = master_.ask(fmt::format("@!{} {}", worker, command), "", kLongestTable);
    if (old.ok()) SessionTables::addConnections(*old, connections);
  }
  for (const auto& [name, slots] : slots_) {
    auto table = tables_.of.find(name);
    const bool sticky = table != tables_.of.end();
    const auto users = sessions_.users(sticky ? table->second : "");
    for (size_t i = 0; i < slots.size(); ++i) {
      if (!slots[i] || slots[i]->pod.empty()) continue;
      client::PodUse& use = out[slots[i]->pod];
      use.connections += connections[name][fmt::format("s{}", i)];
      use.sticky |= sticky;
      auto own = users.find(static_cast<int64_t>(i) + 1);
      if (own == users.end()) continue;
      use.users.merge(own->second.there);
      use.ended.merge(own->second.ended);
    }
  }
  return out;
}

Result<> Haproxy::changeCertificates(const Config& wanted) {
  auto put = [&](const std::string& path, const std::string& pem) -> Result<> {
    RETURN_IF_ERROR(control_.tell("set ssl cert " + path, pem, "created|updated"));
    return control_.tell("commit ssl cert " + path, "", "Success");
  };
  for (const auto& [name, certificate] : wanted.certificates) {
    const std::string path = layout_.certificate(name), list = layout_.certificateList(certificate.frontend);
    auto found = loaded_.certificates.find(name);
    if (found == loaded_.certificates.end()) {
      RETURN_IF_ERROR(control_.tell("new ssl cert " + path, "", "New empty"));
      RETURN_IF_ERROR(put(path, certificate.pem));
      RETURN_IF_ERROR(control_.tell("add ssl crt-list " + list,
                                    fmt::format("{} {}\n", path, certificateFilter(certificate, layout_)), "Success"));
    } else if (found->second.pem != certificate.pem) {
      RETURN_IF_ERROR(put(path, certificate.pem));
    }
  }
  for (const auto& [name, certificate] : loaded_.certificates) {
    if (wanted.certificates.contains(name)) continue;
    const std::string path = layout_.certificate(name), list = layout_.certificateList(certificate.frontend);
    RETURN_IF_ERROR(control_.tell(fmt::format("del ssl crt-list {} {}", list, path), "", "deleted"));
    RETURN_IF_ERROR(control_.tell("del ssl cert " + path, "", "deleted"));
    ::unlink(path.c_str());
  }
  return {};
}

// First what new routes need, then the routes, then what no route needs any more.
Result<> Haproxy::change(const Config& wanted) {
  RETURN_IF_ERROR(changeServers(wanted));
  if (wanted.certificates != loaded_.certificates) RETURN_IF_ERROR(changeCertificates(wanted));
  struct Map {
    std::string_view name;
    std::map<std::string, std::string> Config::* map;
  };
  constexpr Map maps[] = {{"splits", &Config::splits},
                          {"prefixes", &Config::prefixes},
                          {"exact", &Config::exact},
                          {"sites", &Config::sites}};
  bool routes = wanted.certificates != loaded_.certificates;
  for (bool removals : {false, true})
    for (const Map& one : maps) {
      const auto& before = loaded_.*one.map;
      const auto& after = wanted.*one.map;
      if (before == after) continue;
      routes = true;
      RETURN_IF_ERROR(changeMap(one.name, before, after, removals));
    }
  if (routes) RETURN_IF_ERROR(write(wanted));
  // So that it starts with what is in force now: without what HAProxy refused, and with backends that nothing leads to
  // any more, which stay until the next reload.
  Config whole = wanted;
  whole.frontends = loaded_.frontends;
  for (const auto& [name, backend] : loaded_.backends) {
    auto there = whole.backends.find(name);
    if (there != whole.backends.end()) {
      there->second.lines = backend.lines;
      there->second.serverOptions = backend.serverOptions;
    } else if (slots_.contains(name)) {
      whole.backends[name] = backend;
      whole.backends[name].servers.clear();
    }
  }
  RETURN_IF_ERROR(writeFile(options_.folder + "/haproxy.cfg", renderConfig(whole, slots_, layout_).config, 0600));
  loaded_ = std::move(whole);
  return {};
}

}  // namespace dhow::ingress
