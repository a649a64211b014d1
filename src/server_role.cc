// A master: API server, controllers and scheduler in one process on one loop.
#include <csignal>

#include <boost/asio/signal_set.hpp>

#include "apiserver/server.h"
#include "base/blocking.h"
#include "base/files.h"
#include "base/log.h"
#include "base/notify.h"
#include "controllers/manager.h"
#include "http/server.h"
#include "platform/master_options.h"
#include "roles.h"
#include "scheduler/scheduler.h"
#include "store/sqlite_store.h"

namespace dhow {

namespace {

using platform::MasterOptions;

constexpr size_t kBlockingThreads = 4;

// The parts in the order in which they depend on each other.
struct Master {
  Loop& loop;
  BlockingPool& pool;
  MasterOptions options;
  std::unique_ptr<store::SqliteStore> store;
  std::unique_ptr<apiserver::ApiServer> api;
  std::vector<std::unique_ptr<client::Client>> clients;
  std::unique_ptr<controllers::Manager> controllers;
  std::unique_ptr<scheduler::Scheduler> scheduler;
  std::unique_ptr<http::Server> front;

  Task<Result<>> start();
  Task<> stop();
  Result<> openStore();
  Task<Result<>> startApi();
  Result<> startControllers();
  Result<std::shared_ptr<http::TlsServer>> tls();
};

Result<std::shared_ptr<http::TlsServer>> Master::tls() {
  http::TlsServer::Options out;
  ASSIGN_OR_RETURN(out.keyPair.certificatePem, readFile(options.certFile, 1 << 20));
  ASSIGN_OR_RETURN(out.keyPair.privateKeyPem, readFile(options.keyFile, 1 << 20));
  ASSIGN_OR_RETURN(out.clientCaPem, readFile(options.caFile, 1 << 20));
  return http::TlsServer::create(std::move(out));
}

Result<> Master::openStore() {
  store::SqliteStore::Options embedded;
  embedded.path = options.store;
  ASSIGN_OR_RETURN(store, store::SqliteStore::open(loop, std::move(embedded)));
  return {};
}

Task<Result<>> Master::startApi() {
  apiserver::ServerOptions server;
  server.services.serviceRange = options.serviceRange;
  server.advertiseAddress = options.advertise;
  server.advertisePort = options.port;
  CO_ASSIGN_OR_RETURN(server.tokens.signingKeyPem, readFile(options.serviceAccountKeyFile, 1 << 16));
  api = std::make_unique<apiserver::ApiServer>(loop, *store, object::Kinds::builtin(), std::move(server));
  auto started = co_await api->start();
  CO_RETURN_IF_ERROR(started);
  http::Server::Options http;
  http.name = "api";
  CO_ASSIGN_OR_RETURN(http.tls, tls());
  front = std::make_unique<http::Server>(loop, std::move(http), api->handler());
  auto listening = front->listenTcp(options.address, options.port);
  CO_RETURN_IF_ERROR(listening);
  co_return Result<>();
}

Result<> Master::startControllers() {
  controllers::Options manager;
  manager.clusterCidr = options.podRange;
  manager.loadBalancerPool = options.loadBalancerRange;
  ASSIGN_OR_RETURN(manager.rootCaPem, readFile(options.caFile, 1 << 20));
  clients.push_back(api->clientFor("system:kube-controller-manager"));
  controllers = std::make_unique<controllers::Manager>(loop, *clients.back(), api->caches(), std::move(manager));
  controllers->start();
  clients.push_back(api->clientFor("system:kube-scheduler"));
  scheduler = std::make_unique<scheduler::Scheduler>(loop, *clients.back(), api->caches(), scheduler::Options{});
  scheduler->start();
  return {};
}

Task<Result<>> Master::start() {
  CO_RETURN_IF_ERROR(openStore());
  auto api = co_await startApi();
  CO_RETURN_IF_ERROR(api);
  CO_RETURN_IF_ERROR(startControllers());
  log::info("server", "{} serves on {}:{}", options.name, options.address, options.port);
  notifyReady();
  co_return Result<>();
}

Task<> Master::stop() {
  if (scheduler) co_await scheduler->stop();
  if (controllers) co_await controllers->stop();
  if (api) co_await api->stop();
  if (front) co_await front->stop();
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

int runServer(const std::string& configFile) {
  auto options = platform::loadMasterOptions(configFile);
  if (!options.ok()) {
    log::error("server", "{}", options.error().message());
    return 1;
  }
  RealLoop loop;
  BlockingPool pool(kBlockingThreads);
  Master master{loop, pool, std::move(*options)};
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
