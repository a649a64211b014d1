#include "host/leave.h"

#include <sys/mount.h>

#include <algorithm>

#include "address.h"
#include "base/files.h"
#include "base/log.h"
#include "base/strings.h"
#include "base/url_host.h"
#include "client/node_lease.h"
#include "host/living_masters.h"
#include "host/services.h"
#include "host_client.h"
#include "ingress/edge.h"
#include "network/links.h"
#include "network/nat_table.h"
#include "network/policy_table.h"
#include "network/service_proxy.h"
#include "node/options.h"
#include "platform/members.h"
#include "runtime/runtime.h"

namespace dhow::host {

namespace {

constexpr const char* kBridge = "dhow0";
constexpr const char* kTunnel = "dhow0-vx";
constexpr const char* kPodTable = "dhow_pods";
constexpr const char* kServiceTable = "dhow_services";
constexpr Duration kApiPatience = std::chrono::seconds(5);

// The first thing that went wrong; the others are logged.
struct Outcome {
  Result<> first;
  void add(Result<> done) {
    if (done.ok()) return;
    if (!first.ok()) log::warn("host", "{}", done.error().message());
    if (first.ok()) first = std::move(done);
  }
};

Task<Result<>> removePods(Loop& loop, BlockingPool& pool, const HostConfig& config,
                          const platform::Programs& programs) {
  runtime::Options options;
  options.stateDir = config.paths().run() + "/node/sandboxes";
  options.shimPath = programs.shim;
  options.cgroupParent = config.cgroup();
  CO_ASSIGN_OR_RETURN(auto runtime, runtime::Runtime::create(loop, pool, std::move(options)));
  auto found = co_await runtime->findSandboxes();
  Outcome outcome;
  if (found.ok()) {
    for (const auto& sandbox : found->sandboxes) {
      auto removed = co_await sandbox->remove();
      outcome.add(std::move(removed));
    }
  } else {
    outcome.add(std::move(found).error());
  }
  outcome.add(runtime->removeCgroupParent());
  co_await runtime->stop();
  co_return std::move(outcome.first);
}

Result<> removeTables(const HostConfig& config) {
  PolicyTableOptions policies;
  policies.ipv6 = !config.podRange6.empty();
  ASSIGN_OR_RETURN(auto table, PolicyTable::open(std::move(policies)));
  RETURN_IF_ERROR(table->apply({}, {}));
  ASSIGN_OR_RETURN(auto pods, NatTable::open(kPodTable));
  RETURN_IF_ERROR(pods->destroy());
  ServiceProxyOptions options;
  options.table = kServiceTable;
  ASSIGN_OR_RETURN(auto services, ServiceProxy::open(std::move(options)));
  return services->destroy();
}

Result<> removeLinks(const HostConfig& config) {
  ASSIGN_OR_RETURN(auto links, NetLinks::open());
  ASSIGN_OR_RETURN(auto all, links.list());
  // Ways to the pods of nodes on the same segment; others go with the tunnel.
  ASSIGN_OR_RETURN(auto routes, links.routes());
  for (const auto& range : {config.podRange, config.podRange6}) {
    if (range.empty()) continue;
    ASSIGN_OR_RETURN(auto pods, IpPrefix::parse(range));
    for (const auto& route : routes) {
      if (route.destination.length > pods.length && pods.contains(route.destination.address))
        RETURN_IF_ERROR(links.removeRoute(route));
    }
  }
  const auto bridge = std::find_if(all.begin(), all.end(), [](const Link& link) { return link.name == kBridge; });
  std::vector<std::string> names;
  for (const auto& link : all) {
    if (bridge != all.end() && link.master == bridge->index) names.push_back(link.name);
  }
  for (const char* own : {kTunnel, kBridge}) names.emplace_back(own);
  RETURN_IF_ERROR(links.removeTogether(names));
  if (!pathExists(config.paths().nodeConfig())) return {};
  ASSIGN_OR_RETURN(auto options, node::loadNodeOptions(config.paths().nodeConfig()));
  ASSIGN_OR_RETURN(auto addresses, node::dnsAddressesOf(options));
  ASSIGN_OR_RETURN(auto loopback, links.find("lo"));
  for (const IpAddress& dns : addresses) RETURN_IF_ERROR(links.removeAddress(loopback.index, IpPrefix::host(dns)));
  return {};
}

// The other masters hear that this one does not come back. Its own server may have had no store to tell it to.
Task<Result<>> giveUpLease(Loop& loop, HostConfig config, platform::MasterOptions options) {
  CO_ASSIGN_OR_RETURN(auto client, hostClientOptions(config));
  client.servers.clear();
  for (const auto& [name, address] : options.peers) {
    if (name != config.name) client.servers.push_back(fmt::format("https://{}:{}", urlHost(address), options.port));
  }
  if (client.servers.empty()) co_return Result<>();
  client.requestTimeout = kApiPatience;
  client::HttpClient api(loop, std::move(client));
  auto removed = co_await api.remove(object::resources::kLeases, kMasterLeases, masterLease(config.name), {});
  co_await api.stop();
  if (!removed.ok() && !removed.error().is(Code::kNotFound)) co_return std::move(removed).error();
  co_return Result<>();
}

// Volumes in memory, layers and what else pods had mounted: the deepest first.
Result<> unmountBelow(const std::string& folder) {
  ASSIGN_OR_RETURN(auto table, readFile("/proc/self/mountinfo", 64 << 20));
  std::vector<std::string> targets;
  for (const auto& line : split(table, '\n')) {
    const auto fields = split(line, ' ');
    if (fields.size() > 4 && fields[4].starts_with(folder + "/")) targets.push_back(fields[4]);
  }
  std::reverse(targets.begin(), targets.end());
  for (const auto& target : targets) {
    if (::umount2(target.c_str(), MNT_DETACH) != 0 && errno != EINVAL && errno != ENOENT)
      return Error::fromErrno("unmount " + target);
  }
  return {};
}

}  // namespace

bool servesIngress(const HostConfig& config) {
  return config.node && ingress::edgeServes(config.paths().run() + "/node/ingress");
}

Task<Result<>> letIngressClientsGo(Loop& loop, HostConfig config, Duration limit) {
  CO_ASSIGN_OR_RETURN(auto options, hostClientOptions(config));
  options.requestTimeout = kApiPatience;
  client::HttpClient api(loop, std::move(options));
  auto gone = co_await client::letIngressClientsGo(loop, api, config.name, limit);
  co_await api.stop();
  co_return gone;
}

Task<Result<>> leave(Loop& loop, BlockingPool& pool, HostConfig config, platform::Programs programs) {
  const auto paths = config.paths();
  Result<platform::MasterOptions> options(Error(Code::kNotFound, "no master"));
  if (config.member) {
    options = platform::loadMasterOptions(paths.masterConfig());
    auto removed = options.ok() ? co_await platform::removeOwnMember(loop, *options) : Result<>(options.error());
    if (!removed.ok())
      log::warn("host", "this master's member stays listed in the store's cluster: {}", removed.error().message());
  }
  CO_RETURN_IF_ERROR(uninstallServices());
  auto stopped = co_await stopServices(loop, config);
  CO_RETURN_IF_ERROR(stopped);
  if (options.ok()) {
    auto given = co_await giveUpLease(loop, config, *options);
    if (!given.ok()) log::warn("host", "the other masters know this one still: {}", given.error().message());
  }
  Outcome outcome;
  if (config.node) {
    ingress::endEdge(paths.run() + "/node/ingress");
    auto removed = co_await removePods(loop, pool, config, programs);
    outcome.add(std::move(removed));
    outcome.add(removeTables(config));
    outcome.add(removeLinks(config));
    giveBack(config.settings);
  }
  for (const auto& folder : {paths.root, paths.run()}) {
    outcome.add(unmountBelow(folder));
    if (folder != paths.root) outcome.add(removeTree(folder));
  }
  if (config.master) outcome.add(removeTree(kKubeconfig));
  // host.json is what another `leave` goes by: it goes when all else has.
  CO_RETURN_IF_ERROR(outcome.first);
  co_return removeTree(paths.root);
}

}  // namespace dhow::host
