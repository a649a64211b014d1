// A master: API server, controllers and scheduler in one process on one loop.
#include <csignal>

#include <boost/asio/signal_set.hpp>
#include <boost/json/serialize.hpp>

#include "apiserver/audit.h"
#include "apiserver/server.h"
#include "base/blocking.h"
#include "base/files.h"
#include "base/gate.h"
#include "base/log.h"
#include "base/notify.h"
#include "base/strings.h"
#include "base/url_host.h"
#include "client/fields.h"
#include "client/leader.h"
#include "client/leading_client.h"
#include "client/node_lease.h"
#include "controllers/heartbeats.h"
#include "controllers/manager.h"
#include "host/cluster_info.h"
#include "host/config.h"
#include "host/living_masters.h"
#include "http/server.h"
#include "http/tls_files.h"
#include "platform/identities.h"
#include "platform/master_options.h"
#include "platform/members.h"
#include "platform/snapshots.h"
#include "platform/store_change.h"
#include "region_balancer.h"
#include "region_machines.h"
#include "roles.h"
#include "scheduler/scheduler.h"
#include "store/datastore.h"
#include "store/form.h"
#include "store/generation.h"

namespace dhow {

namespace {

using platform::MasterOptions;

constexpr size_t kBlockingThreads = 4;
constexpr Duration kBalancerTimeout = std::chrono::seconds(4);

// Of several masters the leader is known to be dead this long after its last renewal.
constexpr Duration kLease = std::chrono::seconds(2);
constexpr Duration kRenewDeadline = std::chrono::milliseconds(1500);
constexpr Duration kRenewEvery = std::chrono::milliseconds(500);
constexpr Duration kStoreAgain = std::chrono::milliseconds(200);
constexpr const char* kLeaseName = "dhow-master";

// What one master at a time does.
struct Duties {
  std::vector<std::unique_ptr<client::Client>> clients;
  std::unique_ptr<controllers::Manager> controllers;
  std::unique_ptr<scheduler::Scheduler> scheduler;
  std::unique_ptr<platform::MemberKeeper> members;
  std::unique_ptr<platform::SnapshotKeeper> snapshots;
  std::unique_ptr<host::LivingMasters> living;

  Task<> stop() {
    if (living) co_await living->stop();
    if (snapshots) co_await snapshots->stop();
    if (members) co_await members->stop();
    if (scheduler) co_await scheduler->stop();
    if (controllers) co_await controllers->stop();
  }
};

// The parts in the order in which they depend on each other.
struct Master {
  Loop& loop;
  BlockingPool& pool;
  MasterOptions options;
  std::string clusterId;  // from startApi() on
  std::unique_ptr<store::Store> store;
  store::EtcdStore* sharedStore = nullptr;          // the same, where masters share it
  std::unique_ptr<store::Generations> generations;  // of separate hosts that share one
  std::unique_ptr<apiserver::Audit> audit;
  std::unique_ptr<apiserver::ApiServer> api;
  std::unique_ptr<http::Server> front;
  std::unique_ptr<RegionMachines> machines;
  std::unique_ptr<RegionBalancer> balancer;
  std::unique_ptr<controllers::Heartbeats> heartbeats;
  std::unique_ptr<client::Client> leaseClient;
  std::unique_ptr<host::MasterHeartbeat> heartbeat;  // of separate hosts
  std::unique_ptr<client::LeaderElector> elector;    // null with the embedded store: there is no other master
  std::unique_ptr<client::Cache::Subscription> leases, peers;
  std::string configFile = {};
  std::function<void()> end = {};  // ends the process in order
  std::unique_ptr<Duties> duties;
  // Shown to clients and, as a client's, to the region; to etcd. Replaced by the keepers.
  std::shared_ptr<http::TlsServer> serverTls;
  std::shared_ptr<http::TlsClient> regionTls, storeTls;
  std::vector<std::unique_ptr<IdentityKeeper>> keepers;
  // Whether this master is to have its duties; tendDuties() makes it so.
  bool leads = false, stopping = false;
  Signal changed{loop};
  Gate gate{loop};

  Task<Result<>> start();
  Task<> stop();
  Task<Result<>> openStore();
  Task<Result<>> enterStore(store::DatastoreConfig config);
  Task<Result<store::Generations::Use>> findGeneration(store::EtcdOptions& etcd);
  static Task<> followGeneration(Master* self, store::Generations::Use used);
  Task<Result<>> moveStore();
  static Task<Result<>> saveSnapshot(Master* self, std::string path);
  Task<Result<>> startApi();
  Result<> stand();
  Result<std::unique_ptr<Duties>> takeUpDuties();
  bool separate() const { return options.regionUrl.empty(); }
  Task<Result<>> tellHosts();
  void rememberMaster(const host::MasterAddress& master);
  static Task<> forgetMaster(Master* self, host::MasterAddress master);
  void keepPeers();
  Result<> reachRegion();
  void keepIdentities();
  Result<> writeKubeconfig(const Identity& admin) const;
  Result<store::EtcdOptions> etcd();
  void rereadStoreIdentity();
  static Task<> tendDuties(Master* self);
  Result<std::shared_ptr<http::TlsServer>> tls();
};

Result<std::shared_ptr<http::TlsServer>> Master::tls() {
  http::TlsServer::Options out;
  ASSIGN_OR_RETURN(out.keyPair, http::loadKeyPair(options.certFile, options.keyFile));
  ASSIGN_OR_RETURN(out.clientCaPem, readFile(options.caFile, 1 << 20));
  return http::TlsServer::create(std::move(out));
}

// All that speak to etcd show it one identity.
Result<store::EtcdOptions> Master::etcd() {
  ASSIGN_OR_RETURN(auto out, platform::storeOptions(options));
  if (!storeTls && !out.certificatePem.empty()) {
    http::TlsClient::Options tls;
    tls.caPem = out.caPem;
    tls.keyPair = http::KeyPair{out.certificatePem, out.privateKeyPem};
    auto made = http::TlsClient::create(std::move(tls));
    if (!made.ok()) return std::move(made).error().wrap("etcd's certificates");
    storeTls = std::move(*made);
  }
  out.tls = storeTls;
  if (storeTls && options.etcdCaKeyFile.empty()) out.beforeDial = [this] { rereadStoreIdentity(); };
  return out;
}

// Of separate hosts any may restore the store's content: the others hear of it here.
Task<Result<store::Generations::Use>> Master::findGeneration(store::EtcdOptions& etcd) {
  CO_ASSIGN_OR_RETURN(generations, co_await store::Generations::open(loop, etcd));
  auto used = co_await generations->read();
  CO_RETURN_IF_ERROR(used);
  etcd.prefix = store::Generations::prefixOf(etcd.prefix, used->current);
  co_return *used;
}

Task<> Master::followGeneration(Master* self, store::Generations::Use used) {
  while (!self->stopping) {
    auto changed = co_await self->generations->awaitChange(used);
    if (self->stopping) co_return;
    if (changed.ok()) {
      log::info("server", "the content of the store has been replaced by a snapshot's: starting anew with it");
      self->end();
      co_return;
    }
    co_await self->changed.waitFor(kStoreAgain);
  }
}

// Of an etcd whose certificates are renewed elsewhere.
void Master::rereadStoreIdentity() {
  auto pair = http::loadKeyPair(options.etcdCertFile, options.etcdKeyFile);
  auto replaced = pair.ok() ? storeTls->replace(*std::move(pair)) : Result<>(pair.error());
  if (!replaced.ok()) log::warn("server", "the identity for the store stays as it was: {}", replaced.error().message());
}

Task<Result<>> Master::enterStore(store::DatastoreConfig config) {
  store::Generations::Use used;
  const bool shared = config.kind == store::DatastoreConfig::Kind::kEtcd;
  if (shared && separate()) {
    CO_ASSIGN_OR_RETURN(used, co_await findGeneration(config.etcd));
  }
  auto opened = co_await store::openStore(loop, config);
  CO_RETURN_IF_ERROR(opened);
  store = std::move(*opened);
  auto entered = co_await moveStore();
  if (entered.ok()) entered = co_await store::enterForm(*store, thisProgram());
  if (!entered.ok()) {
    co_await store->close();
    store.reset();
    co_return entered;
  }
  if (shared) sharedStore = static_cast<store::EtcdStore*>(store.get());
  if (generations) gate.spawn(followGeneration(this, std::move(used)));
  co_return entered;
}

Task<Result<>> Master::openStore() {
  store::DatastoreConfig config;
  config.sqlitePath = options.store;
  if (options.store.empty()) {
    config.kind = store::DatastoreConfig::Kind::kEtcd;
    CO_ASSIGN_OR_RETURN(config.etcd, etcd());
  }
  // Members start beside their masters, and need each other.
  for (bool told = false;; told = true) {
    auto entered = co_await enterStore(config);
    if (entered.ok()) co_return entered;
    const bool later = entered.error().is(Code::kUnavailable) || entered.error().is(Code::kDeadlineExceeded);
    if (!options.store.empty() || !later || stopping) co_return entered;
    if (!told) log::info("server", "waiting for the store: {}", entered.error().message());
    co_await changed.waitFor(kStoreAgain);
  }
}

// What the embedded store holds comes over before anything else is written; then its file has another name.
Task<Result<>> Master::moveStore() {
  if (options.storeFrom.empty() || !pathExists(options.storeFrom)) co_return Result<>();
  const TimePoint began = loop.now();
  auto moved = co_await platform::moveStore(loop, options.storeFrom, *store);
  if (!moved.ok()) co_return std::move(moved).error().wrap("move the store to etcd");
  log::info("server", "the store has moved to etcd in {} ms: {} objects",
            (loop.now() - began) / std::chrono::milliseconds(1), *moved);
  co_return Result<>();
}

Task<Result<>> Master::saveSnapshot(Master* self, std::string path) {
  auto saved = co_await store::saveSnapshot(self->loop, self->pool, *self->store, self->clusterId, std::move(path));
  CO_RETURN_IF_ERROR(saved);
  co_return Result<>();
}

Task<Result<>> Master::startApi() {
  apiserver::ServerOptions server;
  server.services.serviceRanges = options.serviceRanges();
  server.advertiseAddress = options.advertise;
  server.advertisePort = options.port;
  if (options.restricted) server.podSecurity = apiserver::PodSecurityOptions::restricted();
  if (!options.encryptionFile.empty()) {
    CO_ASSIGN_OR_RETURN(auto text, readFile(options.encryptionFile, 1 << 20));
    auto cipher = apiserver::ValueCipher::parse(text);
    if (!cipher.ok()) co_return std::move(cipher).error().wrap("read " + options.encryptionFile);
    server.cipher = std::move(*cipher);
  }
  if (!options.auditFile.empty()) {
    apiserver::AuditOptions log;
    log.path = options.auditFile;
    audit = std::make_unique<apiserver::Audit>(loop, pool, std::move(log));
    server.audit = audit.get();
  }
  server.sharedStore = options.store.empty();
  CO_ASSIGN_OR_RETURN(auto authority, readFile(options.caFile, 1 << 20));
  server.clusterId = clusterId = platform::clusterIdOf(options.cluster, authority);
  server.pool = &pool;
  CO_ASSIGN_OR_RETURN(server.tokens.signingKeyPem, readFile(options.serviceAccountKeyFile, 1 << 16));
  api = std::make_unique<apiserver::ApiServer>(loop, *store, object::Kinds::builtin(), std::move(server));
  auto started = co_await api->start();
  CO_RETURN_IF_ERROR(started);
  http::Server::Options http;
  http.name = "api";
  CO_ASSIGN_OR_RETURN(serverTls, tls());
  http.tls = serverTls;
  front = std::make_unique<http::Server>(loop, std::move(http), api->handler());
  auto listening = front->listenTcp(options.address, options.port);
  CO_RETURN_IF_ERROR(listening);
  co_return Result<>();
}

// What hosts that join are told, and which masters nodes and pods find.
Task<Result<>> Master::tellHosts() {
  host::ClusterInfo info;
  info.cluster = options.cluster;
  info.region = options.region;
  info.podRange = options.podRange;
  info.serviceRange = options.serviceRange;
  info.podRange6 = options.podRange6;
  info.serviceRange6 = options.serviceRange6;
  info.ipv6First = options.ipv6First;
  info.domain = host::kDomain;
  info.server = fmt::format("https://{}:{}", urlHost(options.advertise), options.port);
  info.memberOnEach = !options.member.empty();
  CO_ASSIGN_OR_RETURN(info.authorityPem, readFile(options.caFile, 1 << 20));
  leaseClient = api->clientFor("system:kube-controller-manager");
  auto published = co_await host::publish(*leaseClient, std::move(info));
  CO_RETURN_IF_ERROR(published);
  if (options.store.empty()) {
    heartbeat = std::make_unique<host::MasterHeartbeat>(loop, *leaseClient, options.name, options.advertise);
    heartbeat->start();
  }
  // A member that loses its data asks those that have joined since.
  if (!options.member.empty()) {
    peers = api->caches()
                .of(object::resources::kLeases)
                .subscribe([this](const object::ObjectPtr& before, const object::ObjectPtr& lease) {
                  const auto master = lease ? host::masterOf(*lease) : host::masterOf(*before);
                  if (!master) return;
                  if (lease)
                    rememberMaster(*master);
                  else
                    gate.spawn(forgetMaster(this, *master));
                });
  }
  co_return Result<>();
}

void Master::rememberMaster(const host::MasterAddress& master) {
  if (!platform::addPeer(options, master.name, master.address)) return;
  log::info("server", "master {} has joined at {}", master.name, master.address);
  keepPeers();
}

// A master that is only stopped gives its lease up as well: it has left when the store's cluster has no member of it.
Task<> Master::forgetMaster(Master* self, host::MasterAddress master) {
  if (self->stopping || !self->options.peers.contains(master.name)) co_return;
  auto etcd = self->etcd();
  if (!etcd.ok()) co_return;
  auto there = co_await platform::hasMember(self->loop, std::move(*etcd), master.address);
  if (!there.ok() || *there || self->stopping || !platform::dropPeer(self->options, master.name)) co_return;
  log::info("server", "master {} has left", master.name);
  self->keepPeers();
}

// What speaks to the store uses them from now on, and another start does.
void Master::keepPeers() {
  Result<> used = sharedStore->replaceEndpoints(options.etcd);
  if (used.ok() && generations) used = generations->replaceEndpoints(options.etcd);
  if (used.ok() && duties && duties->members) used = duties->members->replaceEndpoints(options.etcd);
  if (!used.ok()) log::warn("server", "{}", used.error().message());
  auto kept = writeFileDurably(configFile, boost::json::serialize(platform::toJson(options)) + "\n", 0600);
  if (!kept.ok()) log::warn("server", "{}", kept.error().message());
}

Result<> Master::reachRegion() {
  platform::RegionClient::Options region;
  region.url = options.regionUrl;
  ASSIGN_OR_RETURN(regionTls, http::loadTlsClient({options.caFile, options.certFile, options.keyFile}));
  region.tls = regionTls;
  machines = std::make_unique<RegionMachines>(loop, region);
  machines->start();
  region.timeout = kBalancerTimeout;
  balancer = std::make_unique<RegionBalancer>(loop, std::move(region));
  api->addConsumers(*balancer);
  return {};
}

// Of a master of separate hosts; small enough for the loop.
Result<> Master::writeKubeconfig(const Identity& admin) const {
  ASSIGN_OR_RETURN(auto authority, readFile(options.caFile, 1 << 20));
  const auto url = fmt::format("https://{}:{}", urlHost(options.advertise), options.port);
  return writeFileDurably(options.kubeconfigFile, platform::kubeconfigOf(options.cluster, url, authority, admin), 0600);
}

// Where the authorities' keys are at hand. etcd reads its files anew for each connection.
void Master::keepIdentities() {
  auto keep = [&](platform::LocalIdentity identity) {
    const std::string name = identity.name;
    auto keeper = platform::keepLocally(loop, pool, std::move(identity));
    if (keeper.ok())
      keepers.push_back(std::move(*keeper));
    else
      log::error("server", "the certificate of {} is not renewed: {}", name, keeper.error().message());
  };
  if (!options.caKeyFile.empty() && options.certFile != options.keyFile)
    log::warn("server", "this master's certificate is not renewed: {} must hold it and its key", options.certFile);
  if (!options.caKeyFile.empty() && options.certFile == options.keyFile) {
    auto use = [this](const Identity& identity) -> Result<> {
      RETURN_IF_ERROR(serverTls->replace({identity.certificatePem, identity.privateKeyPem}));
      if (!regionTls) return {};
      return regionTls->replace({identity.certificatePem, identity.privateKeyPem});
    };
    keep({options.name, options.certFile, options.caFile, options.caKeyFile, use});
  }
  if (!options.caKeyFile.empty() && !options.adminFile.empty()) {
    auto use = [this](const Identity& identity) { return writeKubeconfig(identity); };
    keep({"the administrator", options.adminFile, options.caFile, options.caKeyFile, use});
    // Should an earlier process have ended between the two.
    auto admin = readIdentityFile(options.adminFile);
    auto written = admin.ok() ? writeKubeconfig(*admin) : Result<>(admin.error());
    if (!written.ok()) log::error("server", "{}", written.error().message());
  }
  if (!options.etcdCaKeyFile.empty() && options.etcdCertFile == options.etcdKeyFile) {
    auto use = [this](const Identity& identity) -> Result<> {
      return storeTls->replace({identity.certificatePem, identity.privateKeyPem});
    };
    keep({"the member of the store on " + options.name, options.etcdCertFile, options.etcdCaFile, options.etcdCaKeyFile,
          use});
  }
}

Result<std::unique_ptr<Duties>> Master::takeUpDuties() {
  auto made = std::make_unique<Duties>();
  // What it writes with: only while it leads.
  auto clientFor = [&](const char* component) -> client::Client& {
    made->clients.push_back(api->clientFor(component));
    if (elector) made->clients.push_back(std::make_unique<client::LeadingClient>(*made->clients.back(), *elector));
    return *made->clients.back();
  };
  controllers::Options manager;
  manager.clusterCidrs = options.podRanges();
  manager.loadBalancerPool = join(options.loadBalancerRanges(), ",");
  manager.machines = machines.get();
  manager.heartbeats = heartbeats.get();
  manager.clusterName = options.cluster;
  manager.region = options.region;
  manager.zones = options.zones;
  manager.nodes = options.nodes;
  ASSIGN_OR_RETURN(manager.rootCaPem, readFile(options.caFile, 1 << 20));
  if (!options.caKeyFile.empty()) {
    ASSIGN_OR_RETURN(manager.caKeyPem, readFile(options.caKeyFile, 1 << 16));
  }
  if (options.certificateSeconds > 0) manager.certificateLife = std::chrono::seconds(options.certificateSeconds);
  made->controllers = std::make_unique<controllers::Manager>(loop, clientFor("system:kube-controller-manager"),
                                                             api->caches(), std::move(manager));
  made->scheduler = std::make_unique<scheduler::Scheduler>(loop, clientFor("system:kube-scheduler"), api->caches(),
                                                           scheduler::Options{});
  if (!options.member.empty()) {
    ASSIGN_OR_RETURN(auto store, etcd());
    made->members = std::make_unique<platform::MemberKeeper>(loop, std::move(store));
    made->members->start();
  }
  if (heartbeat) {
    made->living = std::make_unique<host::LivingMasters>(
        loop, api->caches().of(object::resources::kLeases),
        [this](std::vector<std::string> addresses) { return api->publishMasters(std::move(addresses)); });
    made->living->start();
  }
  platform::SnapshotKeeper::Options snapshots;
  snapshots.every = std::chrono::seconds(options.snapshotEvery);
  snapshots.folder = options.snapshots;
  snapshots.save = [this](std::string path) { return saveSnapshot(this, std::move(path)); };
  made->snapshots = std::make_unique<platform::SnapshotKeeper>(loop, std::move(snapshots));
  made->snapshots->start();
  made->controllers->start();
  made->scheduler->start();
  return made;
}

Task<> Master::tendDuties(Master* self) {
  while (true) {
    if (self->leads && !self->duties) {
      auto taken = self->takeUpDuties();
      if (taken.ok()) {
        self->duties = std::move(*taken);
      } else {
        log::error("server", "{}", taken.error().message());
        co_await self->changed.waitFor(std::chrono::seconds(1));
        continue;
      }
    } else if (!self->leads && self->duties) {
      auto laidDown = std::move(self->duties);
      co_await laidDown->stop();
    } else if (self->stopping) {
      co_return;
    } else {
      co_await self->changed.wait();
    }
  }
}

// Whether no zone has most of the members of the masters' own etcd. One whose members lie who knows where does not
// count.
bool quorumSpansZones(const MasterOptions& options) {
  const size_t members = options.peers.size(), zones = options.zones.size();
  return !options.member.empty() && zones > 0 && (members + zones - 1) / zones < members / 2 + 1;
}

// Has the duties at once when there is no other master, or whenever it holds the lease.
Result<> Master::stand() {
  gate.spawn(tendDuties(this));
  auto lead = [this](bool now) {
    leads = now && !stopping;
    changed.notify();
  };
  if (!options.store.empty()) {
    lead(true);
    return {};
  }
  if (!leaseClient) leaseClient = api->clientFor("system:kube-controller-manager");
  client::LeaderElector::Options election;
  election.name = kLeaseName;
  election.identity = options.name;
  election.leaseDuration = kLease;
  election.renewDeadline = kRenewDeadline;
  election.retryPeriod = kRenewEvery;
  election.onLead = [lead] { lead(true); };
  election.onLost = [lead] { lead(false); };
  elector = std::make_unique<client::LeaderElector>(loop, *leaseClient, std::move(election));
  leases = api->caches()
               .of(object::resources::kLeases)
               .subscribe([this](const object::ObjectPtr& before, const object::ObjectPtr& after) {
                 if ((after ? after : before)->name() == kLeaseName) elector->saw(after);
               });
  elector->start();
  return {};
}

Task<Result<>> Master::start() {
  auto opened = co_await openStore();
  CO_RETURN_IF_ERROR(opened);
  auto api = co_await startApi();
  CO_RETURN_IF_ERROR(api);
  if (separate()) {
    auto told = co_await tellHosts();
    CO_RETURN_IF_ERROR(told);
  } else {
    CO_RETURN_IF_ERROR(reachRegion());
  }
  heartbeats =
      std::make_unique<controllers::Heartbeats>(loop, this->api->caches(), quorumSpansZones(options) ? kLeaseName : "");
  heartbeats->start();
  CO_RETURN_IF_ERROR(stand());
  keepIdentities();
  log::info("server", "{} serves on {}:{}", options.name, options.address, options.port);
  notifyReady();
  co_return Result<>();
}

Task<> Master::stop() {
  stopping = true;
  leases.reset();
  peers.reset();
  // The others learn at once that this one is going.
  if (heartbeat) co_await heartbeat->stop();
  // The duties end before the lease is given up.
  leads = false;
  changed.notify();
  if (generations) co_await generations->close();
  co_await gate.close();
  for (auto& keeper : keepers) co_await keeper->stop();
  if (elector) co_await elector->stop();
  if (heartbeats) heartbeats->stop();
  if (machines) co_await machines->stop();
  if (balancer) balancer->close();
  if (api) co_await api->stop();
  if (front) co_await front->stop();
  if (audit) co_await audit->stop();
  if (store) co_await store->close();
}

Task<> runMaster(Master* master, RealLoop* loop, int* code) {
  auto started = co_await master->start();
  if (!started.ok()) {
    log::error("server", "{}", started.error().message());
    *code = 1;
    // Else it is being stopped already.
    if (!master->stopping) {
      co_await master->stop();
      loop->stop();
    }
  }
}

Task<> stopMaster(Master* master, RealLoop* loop) {
  if (master->stopping) co_return;
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
  master.configFile = configFile;
  master.end = [&] { spawn(loop, stopMaster(&master, &loop)); };
  int code = 0;
  boost::asio::signal_set signals(loop.executor(), SIGTERM, SIGINT);
  signals.async_wait([&](const boost::system::error_code& error, int) {
    if (!error) master.end();
  });
  spawn(loop, runMaster(&master, &loop, &code));
  loop.run();
  return code;
}

}  // namespace dhow
