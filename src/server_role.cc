// The master: API server, controllers, scheduler, the cluster's registry and the region's load balancer in one process
// on one loop.
#include <csignal>

#include <boost/asio/signal_set.hpp>

#include "apiserver/server.h"
#include "base/blocking.h"
#include "base/files.h"
#include "base/log.h"
#include "base/notify.h"
#include "base/strings.h"
#include "controllers/manager.h"
#include "http/server.h"
#include "image/registry_server.h"
#include "platform/config.h"
#include "platform/identities.h"
#include "platform/load_balancer.h"
#include "roles.h"
#include "scheduler/scheduler.h"
#include "store/sqlite_store.h"

namespace dhow {

namespace {

using platform::ClusterConfig;

constexpr size_t kBlockingThreads = 4;

// The parts in the order in which they depend on each other.
struct Master {
  Loop& loop;
  BlockingPool& pool;
  ClusterConfig config;
  std::unique_ptr<store::SqliteStore> store;
  std::unique_ptr<apiserver::ApiServer> api;
  std::vector<std::unique_ptr<client::Client>> clients;
  std::unique_ptr<controllers::Manager> controllers;
  std::unique_ptr<scheduler::Scheduler> scheduler;
  std::unique_ptr<platform::LoadBalancer> loadBalancer;
  std::unique_ptr<image::RegistryServer> registry;
  std::unique_ptr<http::Server> apiFront, registryFront;

  Task<Result<>> start();
  Task<> stop();
  Result<> openStore();
  Task<Result<>> startApi();
  Result<> startControllers();
  Result<> startRegistry();
  Result<std::shared_ptr<http::TlsServer>> tls(bool clientCertificates);
};

Result<std::shared_ptr<http::TlsServer>> Master::tls(bool clientCertificates) {
  auto paths = config.paths();
  ASSIGN_OR_RETURN(auto identity, platform::loadIdentity(paths, platform::kServer));
  http::TlsServer::Options options;
  options.keyPair = {identity.certificatePem, identity.privateKeyPem};
  if (clientCertificates) {
    ASSIGN_OR_RETURN(options.clientCaPem, platform::loadAuthorityCertificate(paths));
  }
  return http::TlsServer::create(std::move(options));
}

Result<> Master::openStore() {
  store::SqliteStore::Options options;
  options.path = config.paths().store();
  ASSIGN_OR_RETURN(store, store::SqliteStore::open(loop, std::move(options)));
  return {};
}

Task<Result<>> Master::startApi() {
  apiserver::ServerOptions options;
  options.services.serviceRange = config.serviceRange;
  options.advertiseAddress = config.hostAddress();
  options.advertisePort = config.apiPort;
  CO_ASSIGN_OR_RETURN(options.tokens.signingKeyPem,
                      readFile(config.paths().pki(platform::kServiceAccountKey), 1 << 16));
  api = std::make_unique<apiserver::ApiServer>(loop, *store, object::Kinds::builtin(), std::move(options));
  auto started = co_await api->start();
  CO_RETURN_IF_ERROR(started);
  http::Server::Options front;
  front.name = "api";
  CO_ASSIGN_OR_RETURN(front.tls, tls(true));
  apiFront = std::make_unique<http::Server>(loop, std::move(front), api->handler());
  for (const auto& address : {std::string("127.0.0.1"), config.hostAddress()}) {
    auto listening = apiFront->listenTcp(address, config.apiPort);
    CO_RETURN_IF_ERROR(listening);
  }
  co_return Result<>();
}

Result<> Master::startControllers() {
  controllers::Options options;
  options.clusterCidr = config.podRange;
  options.loadBalancerPool = config.loadBalancerRange();
  ASSIGN_OR_RETURN(options.rootCaPem, platform::loadAuthorityCertificate(config.paths()));
  clients.push_back(api->clientFor("system:kube-controller-manager"));
  controllers = std::make_unique<controllers::Manager>(loop, *clients.back(), api->caches(), std::move(options));
  controllers->start();
  clients.push_back(api->clientFor("system:kube-scheduler"));
  scheduler = std::make_unique<scheduler::Scheduler>(loop, *clients.back(), api->caches(), scheduler::Options{});
  scheduler->start();
  ASSIGN_OR_RETURN(loadBalancer, platform::LoadBalancer::start(loop, api->caches(), config));
  return {};
}

Result<> Master::startRegistry() {
  ASSIGN_OR_RETURN(auto password, readFile(config.paths().pki(platform::kRegistryPassword), 4096));
  image::RegistryServer::Options options;
  options.root = config.paths().registry();
  options.authorize = image::basicAuth(platform::kRegistryUser, std::string(trim(password)));
  ASSIGN_OR_RETURN(registry, image::RegistryServer::open(loop, pool, std::move(options)));
  http::Server::Options front;
  front.name = "registry";
  ASSIGN_OR_RETURN(front.tls, tls(false));
  registryFront = std::make_unique<http::Server>(loop, std::move(front), registry->handler());
  RETURN_IF_ERROR(registryFront->listenTcp(config.hostAddress(), config.registryPort));
  return {};
}

Task<Result<>> Master::start() {
  CO_RETURN_IF_ERROR(openStore());
  auto api = co_await startApi();
  CO_RETURN_IF_ERROR(api);
  CO_RETURN_IF_ERROR(startControllers());
  CO_RETURN_IF_ERROR(startRegistry());
  log::info("server", "cluster {} serves on {}", config.request.name, config.apiUrl());
  notifyReady();
  co_return Result<>();
}

Task<> Master::stop() {
  if (scheduler) co_await scheduler->stop();
  if (controllers) co_await controllers->stop();
  if (loadBalancer) co_await loadBalancer->stop();
  if (api) co_await api->stop();
  if (apiFront) co_await apiFront->stop();
  if (registryFront) co_await registryFront->stop();
  if (store) co_await store->close();
}

Task<> runMaster(Master* master, RealLoop* loop, int* code) {
  auto started = co_await master->start();
  if (!started.ok()) {
    log::error("server", "{}", started.error().message());
    *code = 1;
    loop->stop();
  }
}

Task<> stopMaster(Master* master, RealLoop* loop) {
  co_await master->stop();
  loop->stop();
}

}  // namespace

int runServer(const std::string& clusterDir) {
  auto config = platform::loadConfig(platform::ClusterPaths::ofRoot(clusterDir));
  if (!config.ok()) {
    log::error("server", "{}", config.error().message());
    return 1;
  }
  RealLoop loop;
  BlockingPool pool(kBlockingThreads);
  Master master{loop, pool, std::move(*config)};
  int code = 0;
  boost::asio::signal_set signals(loop.executor(), SIGTERM, SIGINT);
  signals.async_wait([&](const boost::system::error_code& error, int) {
    if (!error) spawn(loop, stopMaster(&master, &loop));
  });
  spawn(loop, runMaster(&master, &loop, &code));
  loop.run();
  return code;
}

}  // namespace dhow
