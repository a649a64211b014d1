#include "host/upgrade.h"

#include <boost/json/parse.hpp>

#include <algorithm>

#include "base/files.h"
#include "base/strings.h"
#include "base/url_host.h"
#include "client/fields.h"
#include "client/http_client.h"
#include "client/node_lease.h"
#include "host/services.h"
#include "host/status.h"
#include "host_client.h"
#include "platform/members.h"
#include "platform/snapshots.h"

namespace dhow::host {

namespace json = boost::json;
using namespace std::chrono_literals;
using client::HttpClient;
using platform::Programs;

namespace {

constexpr Duration kAnswerLimit = 5s;
constexpr Duration kNodeLimit = 30s, kApiAgain = 500ms;

Error refused(std::string text) {
  return Error(Code::kFailedPrecondition, std::move(text));
}

struct Part {
  Service service;
  std::string linked;      // what it starts from next
  std::string program;     // what it runs; empty: nothing just now, or a member of the store
  bool otherEtcd = false;  // a member's, than the machine has by now
  bool member() const { return !service.tellsReady; }
};

struct Upgrade {
  Loop& loop;
  BlockingPool& pool;
  HostConfig config;
  platform::Stopwatch watch;
  Programs target = {};
  std::vector<Part> parts = {};
  int members = 0;  // started anew

  HostPaths paths() const { return config.paths(); }
  Result<> findParts();
  std::string before() const;
  bool begun() const;
  bool complete() const;
  Result<> checkFollows(const std::string& before, bool asked) const;
  Task<Result<>> checkOthers();
  Task<Result<>> checkMasters(const HostState& state);
  Result<> checkNodes(const HostState& state) const;
  Task<Result<>> checkMembers();
  Task<Result<Version>> versionAt(std::string address);
  static Task<bool> answers(Upgrade* self);
  Task<Result<std::string>> saveStore();
  Task<Result<>> replace(Part part);
  Task<Result<>> change(Part part, std::string program);
  std::string mixture();
};

Result<> Upgrade::findParts() {
  parts.clear();
  bool runs = false;
  for (auto& service : servicesOf(config)) {
    Part part{service, platform::linkedProgram(paths(), service.name)};
    if (part.linked.empty())
      return refused(fmt::format(
          "{} was started by a program that knows of no upgrades; `dhow service stop` and `dhow service {}` start it "
          "with this one",
          service.name, servicesInstalled() ? "install" : "run"));
    const pid_t pid = servicePid(config, service);
    runs = runs || pid != 0;
    part.program = platform::runningProgram(paths(), pid);
    part.otherEtcd = part.member() && pid != 0 && platform::runsOtherEtcd(pid);
    parts.push_back(std::move(part));
  }
  if (!runs)
    return refused(fmt::format("nothing of this host runs; {} starts it",
                               servicesInstalled() ? "`systemctl start 'dhow-*'`" : "`dhow service run`"));
  return {};
}

// What the host ran until now; of one that was cut short, what it ran before that, as far as it runs it still.
std::string Upgrade::before() const {
  for (const auto& part : parts) {
    for (const auto& id : {part.linked, part.program}) {
      if (!id.empty() && id != target.id) return id;
    }
  }
  return target.id;
}

bool Upgrade::begun() const {
  auto any = [this](auto test) { return std::any_of(parts.begin(), parts.end(), test); };
  return any([this](const Part& part) { return part.linked == target.id; }) && any([this](const Part& part) {
           return part.linked != target.id || (!part.member() && part.program != target.id);
         });
}

bool Upgrade::complete() const {
  return std::all_of(parts.begin(), parts.end(), [&](const Part& part) {
    return part.linked == target.id && !part.otherEtcd && (part.member() || part.program == target.id);
  });
}

Result<> Upgrade::checkFollows(const std::string& before, bool asked) const {
  const Version from = platform::versionOf(before), to = target.info.version;
  if (!workTogether(from, to))
    return refused(
        fmt::format("this host runs dhow {}, and {} is too far from it: versions work together when their minor "
                    "numbers differ by one at most. Go through the versions between them",
                    from.text(), to.text()));
  if (!asked && to < from)
    return refused(
        fmt::format("this host runs dhow {}, and this is {}, which is older; `dhow upgrade --to {}` goes "
                    "back to it",
                    from.text(), to.text(), target.folder()));
  return {};
}

Task<Result<Version>> Upgrade::versionAt(std::string address) {
  CO_ASSIGN_OR_RETURN(auto options, hostClientOptions(config));
  options.servers = {fmt::format("https://{}:{}", urlHost(address), config.port)};
  options.requestTimeout = kAnswerLimit;
  HttpClient api(loop, std::move(options));
  auto answer = co_await api.raw("GET", "/version");
  co_await api.stop();
  CO_RETURN_IF_ERROR(answer);
  boost::system::error_code failed;
  auto value = json::parse(*answer, failed);
  const auto whole = failed || !value.is_object() ? "" : client::text(value.get_object(), "gitVersion");
  constexpr std::string_view kMark = "+dhow.";
  const size_t at = whole.find(kMark);
  auto version = at == whole.npos ? std::nullopt : parseVersion(whole.substr(at + kMark.size()));
  if (!version) co_return Error(Code::kInternal, fmt::format("{} does not tell its version", address));
  co_return *version;
}

// The master here.
Task<bool> Upgrade::answers(Upgrade* self) {
  auto version = co_await self->versionAt(self->config.address);
  co_return version.ok();
}

Task<Result<>> Upgrade::checkMasters(const HostState& state) {
  for (const auto& address : state.masters) {
    if (config.master && address == config.address) continue;
    auto version = co_await versionAt(address);
    if (!version.ok())
      co_return std::move(version).error().wrap(fmt::format("the master at {} does not answer", address));
    if (!workTogether(*version, target.info.version))
      co_return refused(fmt::format("the master at {} runs dhow {}, and {} is too far from it", address,
                                    version->text(), target.info.version.text()));
    if (!config.master && *version < target.info.version)
      co_return refused(
          fmt::format("the master at {} runs dhow {}: masters come before nodes; `dhow upgrade` there "
                      "first",
                      address, version->text()));
  }
  co_return Result<>();
}

Result<> Upgrade::checkNodes(const HostState& state) const {
  for (const auto& node : state.nodes) {
    const bool own = config.node && node.name == config.name;
    if (own && node.state != "Ready")
      return refused(fmt::format("node {} is not Ready; its log tells more", node.name));
    if (own || !config.master || node.program.empty()) continue;
    const Version version = platform::versionOf(node.program);
    if (!workTogether(version, target.info.version))
      return refused(fmt::format("node {} runs dhow {}, and {} is too far from it", node.name, version.text(),
                                 target.info.version.text()));
    if (target.info.version < version)
      return refused(
          fmt::format("node {} runs dhow {}: no node may be newer than a master; `dhow upgrade --to ...` "
                      "there first",
                      node.name, version.text()));
  }
  return {};
}

// The store goes on without the member here only when all others are there.
Task<Result<>> Upgrade::checkMembers() {
  CO_ASSIGN_OR_RETURN(auto options, platform::loadMasterOptions(paths().masterConfig()));
  const auto members = co_await platform::memberStates(loop, std::move(options));
  for (const auto& member : members) {
    if (!member.answers) co_return refused(fmt::format("the store's member {} does not answer", member.name));
    if (member.learner)
      co_return refused(fmt::format("the store's member {} has not caught up with the others yet", member.name));
  }
  co_return Result<>();
}

Task<Result<>> Upgrade::checkOthers() {
  auto state = co_await stateOf(loop, config);
  CO_RETURN_IF_ERROR(state);
  if (!state->answers) co_return refused(fmt::format("the API at {} does not answer", state->server));
  auto masters = co_await checkMasters(*state);
  CO_RETURN_IF_ERROR(masters);
  CO_RETURN_IF_ERROR(checkNodes(*state));
  if (!config.member) co_return Result<>();
  auto members = co_await checkMembers();
  co_return members;
}

// What the store held before a master of another version writes into it. Its form is in it.
Task<Result<std::string>> Upgrade::saveStore() {
  const auto file =
      fmt::format("{}/before-upgrade-{}", paths().snapshots(), platform::snapshotName(loop.wallNow(), false));
  auto saved = co_await platform::fetchSnapshot(loop, kKubeconfig, file);
  CO_RETURN_IF_ERROR(saved);
  auto known = store::checkForm(saved->form, target.info);
  if (!known.ok()) {
    (void)removeTree(file).ok();
    co_return std::move(known).error();
  }
  watch.step("checks and snapshot");
  co_return file;
}

Task<Result<>> Upgrade::change(Part part, std::string program) {
  CO_RETURN_IF_ERROR(platform::linkProgram(paths(), part.service.name, program));
  const pid_t pid = servicePid(config, part.service);
  // A member is etcd, which the programs only start.
  if (part.member() && pid != 0 && !platform::runsOtherEtcd(pid)) co_return Result<>();
  if (pid == 0 || platform::runningProgram(paths(), pid) != program) {
    auto restarted = co_await restartService(loop, pool, config, part.service);
    CO_RETURN_IF_ERROR(restarted);
    members += part.member() ? 1 : 0;
  } else if (part.service.master) {
    // What was cut short may just be starting.
    auto serves = co_await awaitService(loop, pool, config, part.service, [this] { return answers(this); });
    CO_RETURN_IF_ERROR(serves);
  }
  if (!part.service.containers) co_return Result<>();
  CO_ASSIGN_OR_RETURN(auto options, hostClientOptions(config));
  HttpClient api(loop, std::move(options));
  const TimePoint end = loop.now() + kNodeLimit;
  Result<> well;
  while (true) {
    well = co_await client::awaitNode(loop, api, config.name, program, end - loop.now());
    // A master that is just starting anew says nothing about the agent.
    if (well.ok() || !well.error().is(Code::kUnavailable) || loop.now() >= end) break;
    co_await loop.sleep(kApiAgain);
  }
  co_await api.stop();
  co_return well;
}

std::string Upgrade::mixture() {
  std::vector<std::string> all;
  for (const auto& part : parts)
    all.push_back(fmt::format("{} ({})", platform::linkedProgram(paths(), part.service.name), part.service.name));
  return join(all, "; ");
}

Task<Result<>> Upgrade::replace(Part part) {
  // What an earlier attempt has linked already leaves only what runs to go back to.
  const std::string before = part.linked != target.id ? part.linked : part.program;
  auto done = co_await change(part, target.id);
  if (done.ok()) {
    watch.step(part.service.name);
    co_return done;
  }
  std::string text =
      fmt::format("{} does not come up with {}: {}", part.service.name, target.id, done.error().message());
  if (!before.empty() && before != target.id) {
    auto back = co_await change(part, before);
    text += back.ok() ? fmt::format("; it runs {} again", before)
                      : fmt::format("; and it is not back with {}: {}", before, back.error().message());
    text += fmt::format(". `dhow upgrade --to {}` goes back with all", before);
  }
  co_return refused(fmt::format("{}. The upgrade has stopped; what runs now: {}", text, mixture()));
}

}  // namespace

Task<Result<platform::Upgraded>> upgrade(Loop& loop, BlockingPool& pool, HostConfig config, Programs own,
                                         std::string to, platform::Progress progress) {
  CO_ASSIGN_OR_RETURN(auto lock, lockFile(config.paths().lock()));
  Upgrade upgrade{loop, pool, config, {loop, std::move(progress)}};
  CO_ASSIGN_OR_RETURN(upgrade.target,
                      co_await pool.run(loop, [&] { return platform::choosePrograms(config.paths(), own, to); }));
  CO_RETURN_IF_ERROR(upgrade.findParts());
  const std::string from = upgrade.before();
  if (upgrade.complete()) co_return platform::Upgraded{from, from, ""};
  for (const auto& part : upgrade.parts) {
    for (const auto& before : {part.linked, part.program}) {
      if (!before.empty() && before != upgrade.target.id) CO_RETURN_IF_ERROR(upgrade.checkFollows(before, !to.empty()));
    }
  }
  std::string snapshot;
  if (!upgrade.begun()) {
    auto well = co_await upgrade.checkOthers();
    if (!well.ok()) co_return std::move(well).error().wrap("nothing was changed");
    if (config.master && from != upgrade.target.id) {
      CO_ASSIGN_OR_RETURN(snapshot, co_await upgrade.saveStore());
    }
  }
  const auto paths = config.paths();
  auto installed = co_await pool.run(loop, [&]() -> Result<> {
    ASSIGN_OR_RETURN(auto copied, platform::installPrograms(paths, upgrade.target));
    // From there it runs as well, and is what was asked for.
    ASSIGN_OR_RETURN(upgrade.target, platform::installedPrograms(paths, copied.id));
    return {};
  });
  CO_RETURN_IF_ERROR(installed);
  for (const auto& part : upgrade.parts) {
    auto replaced = co_await upgrade.replace(part);
    CO_RETURN_IF_ERROR(replaced);
  }
  if (from != upgrade.target.id) platform::removeOtherPrograms(paths, {from, upgrade.target.id});
  co_return platform::Upgraded{from, upgrade.target.id, std::move(snapshot), upgrade.members};
}

}  // namespace dhow::host
