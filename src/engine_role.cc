// The container engine of a cluster's machine: Docker's API on the cluster's socket.
//
// SIGTERM stops the process and leaves containers running; SIGUSR1 removes them and the networks first (`dhow down`).
#include <unistd.h>

#include <csignal>

#include <boost/asio/signal_set.hpp>

#include "base/blocking.h"
#include "base/files.h"
#include "base/log.h"
#include "base/notify.h"
#include "engine/docker_api.h"
#include "engine/engine.h"
#include "http/server.h"
#include "platform/config.h"
#include "platform/machines.h"
#include "platform/programs.h"
#include "roles.h"

namespace dhow {

namespace {

constexpr size_t kBlockingThreads = 4;

struct EngineProcess {
  RealLoop& loop;
  BlockingPool& pool;
  platform::ClusterConfig config;
  std::unique_ptr<engine::Engine> engine;
  std::unique_ptr<http::Server> front;
  int code = 0;
};

Task<Result<>> startEngine(EngineProcess* self) {
  auto paths = self->config.paths();
  CO_ASSIGN_OR_RETURN(auto programs, platform::Programs::ofThisProcess());
  engine::EngineOptions options;
  options.root = paths.engine();
  options.runDir = paths.run + "/engine";
  options.shimPath = programs.shim;
  options.cgroupParent = platform::cgroupOf(self->config) + "/engine";
  options.bridge = self->config.engineBridge();
  options.subnet = self->config.engineSubnet();
  options.natTable = self->config.engineBridge();
  CO_ASSIGN_OR_RETURN(options.registries, platform::clusterRegistries(self->config));
  auto engine = co_await engine::Engine::start(self->loop, self->pool, std::move(options));
  CO_RETURN_IF_ERROR(engine);
  self->engine = std::move(*engine);
  http::Server::Options front;
  front.name = "docker";
  self->front = std::make_unique<http::Server>(self->loop, std::move(front), engine::dockerApi(*self->engine));
  CO_RETURN_IF_ERROR(self->front->listenUnix(paths.dockerSocket()));
  CO_RETURN_IF_ERROR(writeFile(paths.enginePid(), std::to_string(::getpid()) + "\n"));
  notifyReady();
  co_return Result<>();
}

Task<> runEngineProcess(EngineProcess* self) {
  auto started = co_await startEngine(self);
  if (started.ok()) co_return;
  log::error("engine", "{}", started.error().message());
  self->code = 1;
  self->loop.stop();
}

Task<> endEngineProcess(EngineProcess* self, bool destroy) {
  if (self->front) co_await self->front->stop();
  if (self->engine && destroy) co_await self->engine->destroy();
  if (self->engine && !destroy) co_await self->engine->stop();
  self->loop.stop();
}

}  // namespace

int runEngine(const std::string& clusterDir) {
  auto paths = platform::ClusterPaths::ofRoot(clusterDir);
  log::configure(log::Level::kInfo, paths.engine() + "/log");
  auto config = platform::loadConfig(paths);
  if (!config.ok()) {
    log::error("engine", "{}", config.error().message());
    return 1;
  }
  auto lock = lockFile(paths.engineLock(), false);
  if (!lock.ok()) {
    log::error("engine", "{}", lock.error().message());
    return 1;
  }
  RealLoop loop;
  BlockingPool pool(kBlockingThreads);
  EngineProcess process{loop, pool, std::move(*config)};
  boost::asio::signal_set signals(loop.executor(), SIGTERM, SIGINT, SIGUSR1);
  signals.async_wait([&](const boost::system::error_code& error, int signal) {
    if (!error) spawn(loop, endEngineProcess(&process, signal == SIGUSR1));
  });
  spawn(loop, runEngineProcess(&process));
  loop.run();
  return process.code;
}

}  // namespace dhow
