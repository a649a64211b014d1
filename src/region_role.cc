// What a cloud gives a cluster, for a local one: the API's one address, machines, the registry and the load balancer,
// in one process on this machine. It goes on while masters are dead.
//
// SIGHUP has it executed anew, from what its link leads to by then (platform/programs.h): the API's address goes on.
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <set>

#include <boost/asio/signal_set.hpp>

#include "base/blocking.h"
#include "base/files.h"
#include "base/gate.h"
#include "base/log.h"
#include "base/notify.h"
#include "base/strings.h"
#include "client/http_client.h"
#include "client/reflector.h"
#include "http/server.h"
#include "image/registry_server.h"
#include "platform/api_address.h"
#include "platform/config.h"
#include "platform/identities.h"
#include "platform/load_balancer.h"
#include "platform/provider.h"
#include "platform/region_api.h"
#include "roles.h"

namespace dhow {

namespace {

using platform::ClusterConfig;

constexpr size_t kBlockingThreads = 2;
// How soon a master that did not answer is asked again.
constexpr Duration kFirstLook = std::chrono::milliseconds(50);
constexpr Duration kLastLook = std::chrono::seconds(1);

// The environment variable with the number of ApiAddress::handOver()'s file.
constexpr const char* kSockets = "DHOW_REGION_SOCKETS";

// One master as this process sees it: it lives while a watch of it lives.
struct MasterWatch {
  std::unique_ptr<client::HttpClient> client;
  std::unique_ptr<client::Reflector> reflector;
};

struct Region {
  Loop& loop;
  BlockingPool& pool;
  ClusterConfig config;
  std::unique_ptr<platform::Provider> provider;
  std::unique_ptr<platform::ApiAddress> address;
  std::vector<MasterWatch> masters;
  std::unique_ptr<image::RegistryServer> registry;
  std::unique_ptr<http::Server> registryFront, mastersFront, localFront;
  std::unique_ptr<client::HttpClient> client;
  std::unique_ptr<client::HttpCaches> caches;
  std::unique_ptr<platform::LoadBalancer> loadBalancer;
  std::shared_ptr<http::TlsServer> registryTls, mastersTls;
  std::shared_ptr<http::TlsClient> clientTls;
  std::vector<std::unique_ptr<IdentityKeeper>> keepers;
  bool stopping = false;
  bool looks = false, lookAgain = false;  // for machines that are gone
  Gate gate{loop};
  int code = 0;
  UniqueFd sockets;  // for the program that takes this one's place

  Task<Result<>> start();
  Task<> stop(bool handsOver);
  Result<> startAddress();
  Result<> watchMasters();
  Result<> startRegistry();
  Result<> startLoadBalancer();
  void machinesChanged();
  static Task<> lookForGone(Region* self);
  Result<> startApi();
  Result<> keepIdentities();
  Result<std::shared_ptr<http::TlsServer>> tlsServer(bool clientCertificates);
  Result<std::unique_ptr<client::HttpClient>> clientOf(std::vector<std::string> servers);
};

Result<std::shared_ptr<http::TlsServer>> Region::tlsServer(bool clientCertificates) {
  ASSIGN_OR_RETURN(auto identity, platform::loadIdentity(config.paths(), platform::kRegion));
  http::TlsServer::Options options;
  options.keyPair = {identity.certificatePem, identity.privateKeyPem};
  if (clientCertificates) {
    ASSIGN_OR_RETURN(options.clientCaPem, platform::loadAuthorityCertificate(config.paths()));
  }
  return http::TlsServer::create(std::move(options));
}

Result<std::unique_ptr<client::HttpClient>> Region::clientOf(std::vector<std::string> servers) {
  if (!clientTls) {
    ASSIGN_OR_RETURN(auto identity, platform::loadIdentity(config.paths(), platform::kRegion));
    http::TlsClient::Options tls;
    ASSIGN_OR_RETURN(tls.caPem, platform::loadAuthorityCertificate(config.paths()));
    tls.keyPair = http::KeyPair{identity.certificatePem, identity.privateKeyPem};
    ASSIGN_OR_RETURN(clientTls, http::TlsClient::create(std::move(tls)));
  }
  client::HttpClient::Options options;
  options.tls = clientTls;
  options.servers = std::move(servers);
  options.userAgent = "dhow-region";
  // It is on one wire with the masters; requests and the load balancer wait for what it notices.
  options.keepAlive = std::chrono::seconds(1);
  options.keepAliveTimeout = std::chrono::seconds(2);
  return std::make_unique<client::HttpClient>(loop, std::move(options));
}

Result<> Region::startAddress() {
  std::vector<platform::ApiAddress::Master> plans;
  for (const auto& plan : config.masterPlans()) plans.push_back({plan.name, plan.address, config.apiPort});
  address = std::make_unique<platform::ApiAddress>(loop, std::move(plans));
  if (const char* inherited = ::getenv(kSockets)) {
    auto taken = address->takeOver(UniqueFd(std::atoi(inherited)));
    ::unsetenv(kSockets);
    if (!taken.ok()) log::warn("region", "{}", taken.error().message());
  }
  for (const auto& own : std::set<std::string>{"127.0.0.1", config.hostAddress(), config.advertiseAddress()})
    RETURN_IF_ERROR(address->listen(own, config.apiPort));
  return {};
}

Result<> Region::watchMasters() {
  const auto plans = config.masterPlans();
  const auto urls = config.masterUrls();
  for (size_t i = 0; i < plans.size(); ++i) {
    MasterWatch watch;
    ASSIGN_OR_RETURN(watch.client, clientOf({urls[i]}));
    client::Reflector::Options options;
    // Matches nothing: what counts is that the watch lives.
    options.select.fieldSelector = "metadata.name=none.invalid";
    options.firstDelay = kFirstLook;
    options.maxDelay = kLastLook;
    options.onContact = [this, name = plans[i].name](bool connected) {
      log::info("region", "{} {}", name, connected ? "answers" : "does not answer");
      if (stopping) return;
      address->setAlive(name, connected);
      provider->tellChange(name);
      if (connected) caches->retry();
    };
    watch.reflector =
        std::make_unique<client::Reflector>(loop, *watch.client, object::resources::kNodes, std::move(options));
    watch.reflector->start();
    masters.push_back(std::move(watch));
  }
  return {};
}

Result<> Region::startRegistry() {
  ASSIGN_OR_RETURN(auto password, readFile(config.paths().pki(platform::kRegistryPassword), 4096));
  image::RegistryServer::Options options;
  options.root = config.paths().registry();
  options.authorize = image::basicAuth(platform::kRegistryUser, std::string(trim(password)));
  ASSIGN_OR_RETURN(registry, image::RegistryServer::open(loop, pool, std::move(options)));
  http::Server::Options front;
  front.name = "registry";
  ASSIGN_OR_RETURN(registryTls, tlsServer(false));
  front.tls = registryTls;
  registryFront = std::make_unique<http::Server>(loop, std::move(front), registry->handler());
  RETURN_IF_ERROR(registryFront->listenTcp(config.hostAddress(), config.registryPort));
  return {};
}

Result<> Region::startLoadBalancer() {
  ASSIGN_OR_RETURN(client, clientOf(config.masterUrls()));
  caches = std::make_unique<client::HttpCaches>(loop, *client);
  ASSIGN_OR_RETURN(loadBalancer, platform::LoadBalancer::start(loop, *caches, config));
  caches->start();
  provider->onChange([this](const std::string&) { machinesChanged(); });
  machinesChanged();
  return {};
}

void Region::machinesChanged() {
  lookAgain = true;
  if (!stopping && !std::exchange(looks, true)) gate.spawn(lookForGone(this));
}

Task<> Region::lookForGone(Region* self) {
  // One after the other: what was seen before must not be told after what was seen later.
  while (std::exchange(self->lookAgain, false) && !self->stopping) {
    auto machines = co_await self->provider->list();
    if (!machines.ok() || self->stopping) continue;
    std::set<std::string> gone;
    for (const platform::MachineInfo& machine : *machines)
      if (machine.made && !machine.master && (!machine.running || machine.cut)) gone.insert(machine.name);
    self->loadBalancer->setGone(gone);
  }
  self->looks = false;
}

Result<> Region::startApi() {
  platform::RegionParts parts{*provider, address.get()};
  parts.restored = [this] { return loadBalancer->routesAgain(); };
  parts.applied = [this](uint64_t revision, Duration limit) { return loadBalancer->untilApplied(revision, limit); };
  auto handler = platform::regionHandler(loop, std::move(parts));
  http::Server::Options front;
  front.name = "region";
  localFront = std::make_unique<http::Server>(loop, front, handler);
  RETURN_IF_ERROR(localFront->listenUnix(config.paths().regionSocket(), 0600));
  ASSIGN_OR_RETURN(mastersTls, tlsServer(true));
  front.tls = mastersTls;
  mastersFront = std::make_unique<http::Server>(loop, std::move(front), handler);
  RETURN_IF_ERROR(mastersFront->listenTcp(config.hostAddress(), config.regionPort));
  return {};
}

// Its own, and the administrator's, who has no process; the kubeconfig is small enough for the loop.
Result<> Region::keepIdentities() {
  const auto paths = config.paths();
  const std::string authority = paths.pki(platform::kAuthority);
  auto keep = [&](const char* file, std::string name, std::function<Result<>(const Identity&)> use) -> Result<> {
    platform::LocalIdentity identity{std::move(name), platform::identityFile(paths.pki(file)), authority + ".crt",
                                     authority + ".key", std::move(use)};
    ASSIGN_OR_RETURN(auto keeper, platform::keepLocally(loop, pool, std::move(identity)));
    keepers.push_back(std::move(keeper));
    return {};
  };
  RETURN_IF_ERROR(keep(platform::kRegion, "the region and the registry", [this](const Identity& identity) -> Result<> {
    const http::KeyPair pair{identity.certificatePem, identity.privateKeyPem};
    RETURN_IF_ERROR(registryTls->replace(pair));
    RETURN_IF_ERROR(mastersTls->replace(pair));
    return clientTls->replace(pair);
  }));
  // Should an earlier process have ended between the two.
  RETURN_IF_ERROR(platform::writeKubeconfig(config));
  return keep(platform::kAdmin, "the administrator",
              [this](const Identity&) -> Result<> { return platform::writeKubeconfig(config); });
}

Task<Result<>> Region::start() {
  CO_ASSIGN_OR_RETURN(auto programs, platform::Programs::ofThisProcess());
  // An earlier program may have left none that this one knows: upgrades begin with the region.
  CO_RETURN_IF_ERROR(platform::ensureIdentities(config, loop.wallNow()));
  auto opened = co_await platform::Provider::open(loop, pool, config, std::move(programs));
  CO_RETURN_IF_ERROR(opened);
  provider = std::move(*opened);
  CO_RETURN_IF_ERROR(startAddress());
  CO_RETURN_IF_ERROR(startRegistry());
  CO_RETURN_IF_ERROR(startLoadBalancer());
  CO_RETURN_IF_ERROR(startApi());
  CO_RETURN_IF_ERROR(watchMasters());
  CO_RETURN_IF_ERROR(keepIdentities());
  log::info("region", "region of cluster {}: the API is at {}", config.request.name, config.apiUrl());
  notifyReady();
  co_return Result<>();
}

Task<> Region::stop(bool handsOver) {
  stopping = true;
  co_await gate.close();
  for (auto& keeper : keepers) co_await keeper->stop();
  if (address && !handsOver) co_await address->stop();
  if (localFront) co_await localFront->stop();
  if (mastersFront) co_await mastersFront->stop();
  if (registryFront) co_await registryFront->stop();
  if (caches) co_await caches->stop();
  if (loadBalancer) co_await loadBalancer->stop();
  if (client) co_await client->stop();
  for (auto& master : masters) {
    co_await master.reflector->stop();
    co_await master.client->stop();
  }
  if (provider) co_await provider->close();
  if (!address || !handsOver) co_return;
  // As late as can be: until somebody takes over, what is sent through the address waits.
  auto handed = co_await address->handOver();
  if (handed.ok()) sockets = std::move(*handed);
  if (!handed.ok()) log::warn("region", "{}", handed.error().message());
}

Task<> endRegion(Region* region, RealLoop* loop, bool handsOver) {
  if (region->stopping) co_return;
  co_await region->stop(handsOver);
  loop->stop();
}

// Gives back only when it fails; then the init starts the process again.
void executeAnew(const platform::ClusterPaths& paths, const UniqueFd& sockets) {
  const std::string program = paths.linkedDhow(platform::kRegionProcess);
  std::vector<std::string> words{program, platform::kRegionProcess, "--cluster", paths.root};
  std::vector<char*> argv;
  for (auto& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  if (sockets) ::setenv(kSockets, std::to_string(sockets.get()).c_str(), 1);
  ::execv(program.c_str(), argv.data());
  log::error("region", "{}", Error::fromErrno("start " + program).message());
}

Task<> runRegionProcess(Region* region, RealLoop* loop) {
  auto started = co_await region->start();
  if (started.ok()) co_return;
  log::error("region", "{}", started.error().message());
  region->code = 1;
  co_await endRegion(region, loop, false);
}

}  // namespace

int runRegion(const std::string& clusterDir) {
  auto paths = platform::ClusterPaths::ofRoot(clusterDir);
  log::configure(log::Level::kInfo, paths.region() + "/log");
  auto config = platform::loadConfig(paths);
  if (!config.ok()) {
    log::error("region", "{}", config.error().message());
    return 1;
  }
  UniqueFd sockets;
  bool anew = false;
  int code = 0;
  {
    RealLoop loop;
    BlockingPool pool(kBlockingThreads);
    Region region{loop, pool, std::move(*config)};
    boost::asio::signal_set signals(loop.executor(), SIGTERM, SIGINT, SIGHUP);
    signals.async_wait([&](const boost::system::error_code& error, int signal) {
      if (error) return;
      anew = signal == SIGHUP;
      spawn(loop, endRegion(&region, &loop, anew));
    });
    spawn(loop, runRegionProcess(&region, &loop));
    loop.run();
    sockets = std::move(region.sockets);
    code = region.code;
  }
  if (!anew) return code;
  executeAnew(paths, sockets);
  return 1;
}

}  // namespace dhow
