// A node: the agent with the runtime, image store and client that it stands on, in one process on one loop.
#include <unistd.h>
#include <csignal>

#include <boost/asio/signal_set.hpp>
#include <boost/json/serialize.hpp>

#include "base/blocking.h"
#include "base/files.h"
#include "base/identity_keeper.h"
#include "base/log.h"
#include "base/notify.h"
#include "client/certificate_request.h"
#include "client/http_client.h"
#include "client/node_lease.h"
#include "http/tls_files.h"
#include "image/hosts.h"
#include "image/store.h"
#include "node/agent.h"
#include "node/options.h"
#include "platform/programs.h"
#include "roles.h"
#include "runtime/runtime.h"

namespace dhow {

namespace {

constexpr size_t kBlockingThreads = 4;
constexpr Duration kLastWords = std::chrono::seconds(1);
constexpr Duration kSigningPatience = std::chrono::minutes(5);

std::string besideProgram(const std::string& name) {
  char path[4096];
  const ssize_t length = ::readlink("/proc/self/exe", path, sizeof path);
  std::string program(path, length > 0 ? static_cast<size_t>(length) : 0);
  return program.substr(0, program.rfind('/') + 1) + name;
}

struct AgentProcess {
  RealLoop& loop;
  BlockingPool& pool;
  node::NodeOptions options;
  std::unique_ptr<runtime::Runtime> runtime;
  std::unique_ptr<image::ImageStore> images;
  std::unique_ptr<client::HttpClient> client;
  std::unique_ptr<client::HttpClient> leases;
  std::unique_ptr<node::Agent> agent;
  std::shared_ptr<http::TlsClient> apiTls, tunnelTls;
  std::unique_ptr<IdentityKeeper> keeper;
  bool stopping = false;
  int code = 0;

  Result<std::shared_ptr<http::TlsClient>> tls(bool http2);
  Result<> openFloors();
  void keepIdentity();
};

Result<std::shared_ptr<http::TlsClient>> AgentProcess::tls(bool http2) {
  return http::loadTlsClient({options.caFile, options.certFile, options.keyFile}, http2);
}

Result<> AgentProcess::openFloors() {
  RETURN_IF_ERROR(makeDirs(options.dataDir, 0755));
  RETURN_IF_ERROR(makeDirs(options.runDir, 0700));
  runtime::Options engine;
  engine.stateDir = options.runDir + "/sandboxes";
  engine.shimPath = options.shimPath.empty() ? besideProgram("dhow-shim") : options.shimPath;
  engine.cgroupParent = options.cgroupParent;
  engine.firstUser = options.firstUser;
  engine.userRanges = static_cast<uint32_t>(options.maxPods);
  ASSIGN_OR_RETURN(runtime, runtime::Runtime::create(loop, pool, std::move(engine)));
  image::ImageStore::Options store;
  store.root = options.dataDir + "/images";
  store.hostsFile = options.registriesFile;
  if (!options.registries.empty()) {
    // JSON is YAML.
    const std::string text = boost::json::serialize(boost::json::object{{"registries", options.registries}});
    ASSIGN_OR_RETURN(store.hosts, image::parseRegistryHosts(text, options.dataDir));
  }
  ASSIGN_OR_RETURN(images, image::ImageStore::open(loop, pool, std::move(store)));
  client::HttpClient::Options api;
  api.servers = options.servers;
  ASSIGN_OR_RETURN(apiTls, tls(true));
  api.tls = apiTls;
  api.userAgent = "dhow-agent";
  api.fieldManager = "kubelet";
  if (options.followMasters) api.connectTimeout = std::chrono::seconds(2);
  client::HttpClient::Options brief = api;
  brief.requestTimeout = client::kRenewEvery;
  brief.dropOnTimeout = true;
  leases = std::make_unique<client::HttpClient>(loop, std::move(brief));
  client = std::make_unique<client::HttpClient>(loop, std::move(api));
  return {};
}

Task<Result<Identity>> askForIdentity(AgentProcess* self) {
  return client::requestCertificate(self->loop, *self->client, client::nodeCertificateRequest(self->options.name),
                                    kSigningPatience);
}

// The node's certificate, asked of the cluster with the one that it has.
void AgentProcess::keepIdentity() {
  auto present = readIdentityFile(options.certFile);
  if (!present.ok() || options.certFile != options.keyFile) {
    log::warn("node", "the node's certificate is not renewed: {} must hold it and its key", options.certFile);
    return;
  }
  IdentityKeeper::Options keep;
  keep.name = "node " + options.name;
  keep.certificatePem = std::move(present->certificatePem);
  keep.issue = [this] { return askForIdentity(this); };
  keep.take = takeIntoFile(loop, pool, options.certFile, [this](const Identity& identity) -> Result<> {
    const http::KeyPair pair{identity.certificatePem, identity.privateKeyPem};
    RETURN_IF_ERROR(apiTls->replace(pair));
    return tunnelTls->replace(pair);
  });
  keeper = std::make_unique<IdentityKeeper>(loop, std::move(keep));
  keeper->start();
}

Task<Result<>> startAgent(AgentProcess* self) {
  CO_RETURN_IF_ERROR(self->openFloors());
  CO_ASSIGN_OR_RETURN(self->tunnelTls, self->tls(false));
  node::Agent::Parts parts{self->loop,    self->pool,      *self->client,     *self->runtime,
                           *self->images, self->tunnelTls, self->leases.get()};
  parts.onServers = [self](const std::vector<std::string>& servers) {
    self->client->setServers(servers);
    self->leases->setServers(servers);
  };
  self->agent = std::make_unique<node::Agent>(std::move(parts), self->options);
  auto started = co_await self->agent->start();
  CO_RETURN_IF_ERROR(started);
  self->keepIdentity();
  notifyReady();
  co_return Result<>();
}

Task<> endRequests(AgentProcess* self) {
  if (self->leases) co_await self->leases->stop();
  if (self->client) co_await self->client->stop();
}

Task<> endAgent(AgentProcess* self) {
  if (self->stopping) co_return;
  self->stopping = true;
  // No master may be there to hear the last events.
  Timer late = self->loop.after(kLastWords, [self] { spawn(self->loop, endRequests(self)); });
  if (self->agent) co_await self->agent->stop();
  late.cancel();
  co_await endRequests(self);
  if (self->keeper) co_await self->keeper->stop();
  if (self->images) co_await self->images->stop();
  if (self->runtime) co_await self->runtime->stop();
  self->loop.stop();
}

Task<> runAgentProcess(AgentProcess* self) {
  auto started = co_await startAgent(self);
  if (started.ok()) co_return;
  log::error("node", "{}", started.error().message());
  self->code = 1;
  co_await endAgent(self);
}

}  // namespace

int runAgent(const std::string& configFile) {
  log::configure(log::Level::kInfo, "");
  auto options = node::loadNodeOptions(configFile);
  if (!options.ok()) {
    log::error("node", "{}", options.error().message());
    return 1;
  }
  if (auto programs = platform::Programs::ofThisProcess(); programs.ok()) options->program = programs->id;
  RealLoop loop;
  BlockingPool pool(kBlockingThreads);
  AgentProcess process{loop, pool, std::move(*options)};
  boost::asio::signal_set signals(loop.executor(), SIGTERM, SIGINT);
  signals.async_wait([&](const boost::system::error_code& error, int) {
    if (!error) spawn(loop, endAgent(&process));
  });
  spawn(loop, runAgentProcess(&process));
  loop.run();
  return process.code;
}

}  // namespace dhow
