#include "node/agent.h"

#include "agent_server.h"
#include "base/file_watch.h"
#include "base/files.h"
#include "base/log.h"
#include "base/strings.h"
#include "client/event_recorder.h"
#include "client/reflector.h"
#include "dns_config.h"
#include "fence.h"
#include "ingress/edge.h"
#include "ingress_leave.h"
#include "masters.h"
#include "network/address_announcer.h"
#include "network/dns.h"
#include "network/links.h"
#include "network/service_proxy.h"
#include "node_routes.h"
#include "node_status.h"
#include "object/labels.h"
#include "pod_manager.h"
#include "policy_feed.h"
#include "real_floors.h"
#include "services.h"
#include "tunnel.h"

namespace dhow::node {

namespace {

namespace resources = dhow::object::resources;

// https://kubernetes.io/docs/reference/labels-annotations-taints/
constexpr char kExcluded[] = "node.kubernetes.io/exclude-from-external-load-balancers";
constexpr size_t kRoutesMost = 4 << 20;
constexpr size_t kResolvConfMost = 64 << 10;
constexpr size_t kDnsConfigMost = 2 << 20;  // bytes; the API takes less

class NetSink final : public ServiceSink {
 public:
  // `announcer`: null where no neighbours are to be answered.
  NetSink(Loop& loop, std::unique_ptr<ServiceProxy> proxy, ClusterDns& dns, AddressAnnouncer* announcer)
      : proxy_(std::move(proxy)), dns_(dns), announcer_(announcer), health_(loop) {}
  Result<> applyAll(std::vector<ServicePort> ports, ServiceProxy::Snapshot kind) override {
    return proxy_->apply(ports, kind);
  }
  Result<> update(std::vector<ServicePort> changed, std::vector<std::string> removed) override {
    return proxy_->update(changed, removed);
  }
  void setDns(const ClusterDns::Service& service) override { dns_.set(service); }
  void removeDns(const std::string& ns, const std::string& name) override { dns_.remove(ns, name); }
  void setAnnounced(const std::string& service, AddressElection::Wanted wanted) override {
    if (announcer_ == nullptr) return;
    auto before = announced_.find(service);
    if (before == announced_.end() ? wanted.empty() : before->second == wanted) return;
    if (wanted.empty()) {
      announced_.erase(before);
    } else {
      announced_[service] = std::move(wanted);
    }
    AddressElection::Wanted all;
    for (const auto& [name, addresses] : announced_) all.insert(addresses.begin(), addresses.end());
    announcer_->setWanted(std::move(all));
  }
  void setHealth(const std::string& ns, const std::string& name, ServiceHealth health) override {
    health_.set(ns, name, health);
  }
  Task<> stop() { return health_.stop(); }

 private:
  std::unique_ptr<ServiceProxy> proxy_;
  ClusterDns& dns_;
  AddressAnnouncer* announcer_;
  std::map<std::string, AddressElection::Wanted> announced_;  // by service
  ServiceHealthServers health_;
};

class TableSink final : public PolicySink {
 public:
  explicit TableSink(std::unique_ptr<PolicyTable> table) : table_(std::move(table)) {}
  Result<> apply(PolicyTable::Subjects subjects, PolicyTable::Peers changed) override {
    return table_->apply(std::move(subjects), changed);
  }

 private:
  std::unique_ptr<PolicyTable> table_;
};

// What Ingresses and Gateways name, among what pods do.
class EdgeObjects final : public ingress::NamedObjects {
 public:
  explicit EdgeObjects(WatchedObjects& objects) : objects_(objects) {}
  void use(std::set<Name> names, std::function<void()> changed) override {
    std::vector<ObjectRef> refs;
    for (const Name& name : names) refs.push_back(refOf(name));
    objects_.use("ingress", std::move(refs), std::move(changed));
  }
  bool known(const Name& name) const override { return objects_.known(refOf(name)); }
  ObjectPtr find(const Name& name) const override { return objects_.find(refOf(name)); }

 private:
  static ObjectRef refOf(const Name& name) { return {name.plural, name.ns, name.name}; }
  WatchedObjects& objects_;
};

ingress::Edge::Options edgeOptions(const NodeOptions& options) {
  ingress::Edge::Options out;
  out.folder = options.dataDir + "/ingress";
  out.run = options.runDir + "/ingress";
  if (!options.podRange.empty()) out.address = options.address;
  out.address6 = options.address6;
  out.dnsAddress = options.dnsAddress;
  char program[4096];
  const ssize_t length = ::readlink("/proc/self/exe", program, sizeof program);
  out.filterProgram.assign(program, length > 0 ? static_cast<size_t>(length) : 0);
  return out;
}

ClusterDns::Options dnsOptions(const NodeOptions& options) {
  ClusterDns::Options out;
  out.domain = options.domain;
  for (const std::string* range :
       {&options.podRange, &options.serviceRange, &options.podRange6, &options.serviceRange6}) {
    auto parsed = IpPrefix::parse(*range);
    if (parsed.ok()) out.reverseRanges.push_back(*parsed);
  }
  return out;
}

// The node's own nameservers, this one left out.
std::vector<DnsUpstream> upstreamsOf(const NodeOptions& options, const std::string& resolvConf) {
  std::vector<DnsUpstream> out;
  const auto own = dnsAddressesOf(options).valueOr(std::vector<IpAddress>());
  for (const IpAddress& upstream : parseNameservers(resolvConf)) {
    if (std::find(own.begin(), own.end(), upstream) == own.end()) out.push_back({upstream});
  }
  return out;
}

DnsServer::Options dnsServerOptions(std::vector<DnsUpstream> upstreams) {
  DnsServer::Options out;
  out.forwarding.upstreams = std::move(upstreams);
  return out;
}

BridgePodNetwork::Settings networkSettings(const NodeOptions& options, const NodePaths& paths) {
  BridgePodNetwork::Settings out;
  out.clusterRange = options.podRange;
  out.clusterRange6 = options.podRange6;
  out.ipv6First = options.ipv6First;
  out.stateDir = paths.network();
  out.poolSize = options.poolSize;
  return out;
}

NodeFacts factsOf(const NodeOptions& options, const MachineFacts& machine, const std::string& resolvConf) {
  NodeFacts out;
  out.name = options.name;
  out.addresses = nodeAddressesOf(options);
  out.cgroupParent = options.cgroupParent;
  out.dnsAddress = options.dnsAddress;
  out.domain = options.domain;
  out.resolvConf = resolvConf;
  out.hosts = readFile("/etc/hosts", 1 << 20).valueOr("127.0.0.1\tlocalhost\n");
  out.hostname = machine.hostname.empty() ? options.name : machine.hostname;
  out.seccompDir = options.dataDir + "/seccomp";
  out.memory = machine.memory;
  out.logMaxSize = options.logMaxSize;
  out.logMaxFiles = options.logMaxFiles;
  out.allocatable = allocatableOf(capacityOf(machine, options), options);
  return out;
}

}  // namespace

struct Agent::Rep {
  Rep(Parts p, NodeOptions o)
      : parts(std::move(p)),
        options(std::move(o)),
        paths{options.dataDir, options.runDir},
        resolvConf(readFile(options.resolvConf, kResolvConfMost).valueOr("")),
        machine(readMachine(options.dataDir)),
        caches(parts.loop, parts.client),
        images(parts.images),
        network(parts.loop, parts.pool, networkSettings(options, paths)),
        tokens(parts.loop, parts.client),
        objects(parts.loop, parts.client),
        barrier(parts.client, options.name),
        connector(parts.loop),
        offload(parts.loop, parts.pool),
        events(parts.loop, parts.client,
               {.component = "kubelet", .host = options.name, .hold = std::chrono::milliseconds(100)}),
        dns(dnsOptions(options)),
        dnsServer(parts.loop, dns, dnsServerOptions(upstreamsOf(options, resolvConf))),
        nodeStatus(parts.loop, parts.client, parts.leases ? *parts.leases : parts.client, options, machine, images),
        fence(parts.loop, options.runDir + "/lease"),
        edgeObjects(objects),
        edge(parts.loop, parts.pool, caches, edgeObjects, edgeOptions(options)),
        ingressLeave(parts.loop, caches, barrier, options.name),
        gate(parts.loop) {
    caches.select(resources::kPods, {"", "", "spec.nodeName=" + options.name});
  }

  Parts parts;
  const NodeOptions options;
  const NodePaths paths;
  std::string resolvConf;  // its text
  const MachineFacts machine;
  client::HttpCaches caches;
  StoreImages images;
  BridgePodNetwork network;
  ApiTokens tokens;
  WatchedObjects objects;
  ApiBarrier barrier;
  NetConnector connector;
  PoolOffload offload;
  client::EventRecorder events;
  ClusterDns dns;
  DnsServer dnsServer;
  NodeStatus nodeStatus;
  Fence fence;
  std::unique_ptr<AddressAnnouncer> announcer;
  bool excluded = false;  // its label keeps load-balanced addresses away
  TimePoint renewed{};    // its lease, last
  Timer healthChanges;
  EdgeObjects edgeObjects;
  ingress::Edge edge;
  IngressLeave ingressLeave;
  std::unique_ptr<FileWatch> resolvWatch;
  std::unique_ptr<NetSink> sink;
  std::unique_ptr<ServiceFeed> services;
  std::unique_ptr<TableSink> policySink;
  std::unique_ptr<PolicyFeed> policies;
  std::unique_ptr<WorkerContext> context;
  std::unique_ptr<PodManager> pods;
  std::unique_ptr<AgentServer> agentServer;
  std::unique_ptr<http::Server> server;
  std::unique_ptr<Tunnels> tunnels;
  std::unique_ptr<client::Cache::Subscription> nodes, namespaces, masterSlice;
  std::vector<std::string> masters;  // followed
  std::string routesKept;            // what the file holds
  bool routesDue = false, namespacesDue = false, stopping = false;
  Gate gate;

  std::string rangeFile() const { return options.dataDir + "/pod-range"; }

  std::string rangeFile6() const { return options.dataDir + "/pod-range6"; }

  void takeRanges(const Object& node) { takeRange(podRange(node, IpFamily::kV4), podRange(node, IpFamily::kV6), true); }

  // What the cluster has no range of is "".
  void takeRange(const std::string& range, const std::string& range6, bool fresh) {
    const std::string& needed = options.podRange.empty() ? range6 : range;
    if (needed.empty() || (network.ready() && network.range() == needed)) return;
    auto opened = network.open(options.podRange.empty() ? "" : range, range6);
    if (!opened.ok()) {
      log::error("node", "pod network {}: {}", needed, opened.error().message());
      return;
    }
    log::info("node", "pods of this node have {}", needed);
    if (fresh) {
      // That of IPv4 last: with it both are known.
      auto kept = range6.empty() ? Result<>() : writeFileDurably(rangeFile6(), range6 + "\n");
      if (kept.ok() && !range.empty()) kept = writeFileDurably(rangeFile(), range + "\n");
      if (!kept.ok()) log::warn("node", "{}", kept.error().message());
    }
    nodeStatus.setNetworkReady(true);
    routesSoon();
  }

  // A burst of changes becomes one call.
  void routesSoon() {
    if (routesDue || stopping) return;
    routesDue = true;
    parts.loop.post([this] {
      routesDue = false;
      if (!stopping) setRoutes();
    });
  }

  std::string routesFile() const { return options.dataDir + "/node-routes"; }

  // Until all nodes are known, to those that the last agent of this node knew.
  void setRoutes() {
    const client::Cache& known = caches.of(resources::kNodes);
    if (routesKept.empty()) {
      if (auto kept = readFile(routesFile(), kRoutesMost); kept.ok()) routesKept = *std::move(kept);
    }
    const auto routes = known.synced() ? nodeRoutes(known.list(), options.name, options.segment, options.segment6)
                                       : parseRoutes(routesKept);
    if (auto set = network.setRoutes(routes); !set.ok())
      log::error("node", "routes to other nodes: {}", set.error().message());
    auto text = routesText(routes);
    if (!known.synced() || text == routesKept) return;
    routesKept = std::move(text);
    if (auto kept = writeFileDurably(routesFile(), routesKept); !kept.ok())
      log::warn("node", "{}", kept.error().message());
  }

  // Names of pods (10-244-1-7.shop.pod.cluster.local) are answered in namespaces that exist, whether or not there is
  // such a pod: CoreDNS's "pods insecure", which clusters have.
  void tellNamespaces() {
    if (namespacesDue || stopping || !caches.of(resources::kNamespaces).synced()) return;
    namespacesDue = true;
    parts.loop.post([this] {
      namespacesDue = false;
      std::vector<std::string> names;
      for (const ObjectPtr& space : caches.of(resources::kNamespaces).list()) names.emplace_back(space->name());
      dns.setNamespaces(std::move(names));
    });
  }

  static Task<> tellNamespacesOnceKnown(Rep* self) {
    co_await self->caches.of(resources::kNamespaces).waitSynced();
    self->tellNamespaces();
  }

  static Task<> setRoutesOnceKnown(Rep* self) {
    co_await self->caches.of(resources::kNodes).waitSynced();
    self->routesSoon();
  }

  void sawNode(const ObjectPtr& node) {
    if (node && node->name() == options.name) {
      takeRanges(*node);
      excluded = object(node->root(), {"metadata", "labels"}).contains(kExcluded);
      services->setZone(std::string(node->label(dhow::object::kZoneLabel)));
      tellHealth();
    }
    routesSoon();
  }

  std::string mastersFile() const { return options.dataDir + "/masters"; }

  void follow(std::vector<std::string> now) {
    if (now.empty() || now == masters) return;
    masters = std::move(now);
    if (parts.onServers) parts.onServers(merged(masters, options.servers));
    if (tunnels) tunnels->setServers(masters);
  }

  void sawMasters(const ObjectPtr& slice) {
    if (!slice || stopping) return;
    auto now = mastersOf(*slice);
    if (now.empty() || now == masters) return;
    log::info("node", "the masters are {}", join(now, ", "));
    auto kept = saveMasters(mastersFile(), now);
    if (!kept.ok()) log::warn("node", "{}", kept.error().message());
    follow(std::move(now));
  }

  // The link that has the node's address.
  std::optional<Link> nodeLink() const {
    auto links = NetLinks::open();
    if (!links.ok()) return std::nullopt;
    auto all = links->list();
    if (!all.ok()) return std::nullopt;
    for (const Link& link : *all) {
      auto addresses = links->addresses(link.index);
      if (!addresses.ok()) continue;
      for (const IpPrefix& one : *addresses) {
        const std::string address = one.address.str();
        if (address == options.address || address == options.address6) return link;
      }
    }
    return std::nullopt;
  }

  // A node whose link cannot do it takes no part; the others go on.
  void startAnnouncer(const std::optional<Link>& link) {
    if (!options.announceAddresses || !link) return;
    announcer = std::make_unique<AddressAnnouncer>(parts.loop, AddressAnnouncer::Options{options.name, link->name});
    announcer->setHealth(NodeHealth::kUnsure);
    if (auto started = announcer->start(); !started.ok()) {
      log::warn("node", "load-balanced addresses are not announced: {}", started.error().message());
      announcer.reset();
    }
  }

  // Leases are renewed every three seconds, so nodes that lose the masters together are never more than that apart:
  // none is taken to be cut off while another one is still well.
  void tellHealth() {
    if (!announcer || stopping) return;
    constexpr Duration kWell = std::chrono::seconds(10), kCutOff = std::chrono::seconds(20);
    const Duration age = renewed == TimePoint{} ? kWell : parts.loop.now() - renewed;
    announcer->setHealth(excluded || age >= kCutOff ? NodeHealth::kCutOff
                         : age >= kWell             ? NodeHealth::kUnsure
                                                    : NodeHealth::kWell);
    if (renewed != TimePoint{} && age < kCutOff)
      healthChanges = parts.loop.after((age < kWell ? kWell : kCutOff) - age, [this] { tellHealth(); });
  }

  Result<> startDns() {
    ASSIGN_OR_RETURN(const std::vector<IpAddress> addresses, dnsAddressesOf(options));
    ASSIGN_OR_RETURN(NetLinks links, NetLinks::open());
    ASSIGN_OR_RETURN(Link loopback, links.find("lo"));
    RETURN_IF_ERROR(dnsServer.start());
    for (const IpAddress& address : addresses) {
      RETURN_IF_ERROR(links.addAddress(loopback.index, IpPrefix::host(address)));
      DnsServer::Options::Listen listen;
      listen.address = address;
      RETURN_IF_ERROR(dnsServer.listen(listen));
    }
    followDnsConfig();
    followResolvConf();
    return {};
  }

  void followResolvConf() {
    auto watch = FileWatch::start(parts.loop, options.resolvConf, [this] { takeResolvConf(); });
    if (watch.ok()) {
      resolvWatch = std::move(*watch);
    } else {
      log::warn("node", "changes of its nameservers are not followed: {}", watch.error().message());
    }
  }

  // One without nameservers is being written, or there is no network at the moment: the last ones stay.
  void takeResolvConf() {
    auto text = readFile(options.resolvConf, kResolvConfMost);
    if (stopping || !text.ok() || *text == resolvConf || parseNameservers(*text).empty()) return;
    resolvConf = *std::move(text);
    if (context) context->node.resolvConf = resolvConf;  // of pods to come
    std::vector<std::string> servers;
    for (const DnsUpstream& upstream : upstreamsOf(options, resolvConf)) servers.push_back(upstream.address.str());
    log::info("node", "names of others are asked of {}", join(servers, ", "));
    if (objects.known(kDnsConfig)) {
      takeDnsConfig();
    } else {
      DnsForwarding own;
      own.upstreams = upstreamsOf(options, resolvConf);
      dnsServer.setForwarding(std::move(own));
    }
  }

  std::string dnsConfigFile() const { return options.dataDir + "/dns-config.json"; }

  // As the last agent of this node knew it, until a master tells.
  void followDnsConfig() {
    if (auto kept = readFile(dnsConfigFile(), kDnsConfigMost); kept.ok()) {
      auto object = Object::parse(*kept);
      if (object.ok()) objects.seed(kDnsConfig, *object);
      takeDnsConfig();
    }
    objects.use("dns", {kDnsConfig}, [this] { takeDnsConfig(); });
  }

  // What is wrong is told, and what was before stays.
  void takeDnsConfig() {
    if (stopping || !objects.known(kDnsConfig)) return;
    ObjectPtr map = objects.find(kDnsConfig);
    auto forwarding =
        readDnsConfig(map ? object(map->root(), {"data"}) : json::object(), upstreamsOf(options, resolvConf));
    if (!forwarding.ok()) {
      log::warn("node", "kube-system/dhow-dns: {}", forwarding.error().message());
      events.warning(*map, "InvalidDNSConfig", forwarding.error().message());
      return;
    }
    dnsServer.setForwarding(*std::move(forwarding));
    auto kept = map ? writeFileDurably(dnsConfigFile(), map->bytes()) : removeTree(dnsConfigFile());
    if (!kept.ok() && !kept.error().is(Code::kNotFound)) log::warn("node", "{}", kept.error().message());
  }

  Result<> startServices() {
    ServiceProxyOptions proxy;
    proxy.table = "dhow_services";
    for (const auto& [text, into] : {std::pair{&options.podRange, &proxy.podRanges},
                                     {&options.podRange6, &proxy.podRanges},
                                     {&options.serviceRange, &proxy.serviceRanges},
                                     {&options.serviceRange6, &proxy.serviceRanges}}) {
      if (text->empty()) continue;
      ASSIGN_OR_RETURN(IpPrefix range, IpPrefix::parse(*text));
      into->push_back(range);
    }
    ASSIGN_OR_RETURN(proxy.untrackedDns, dnsAddressesOf(options));
    const ServiceView view{options.name, options.zone, proxy.untrackedDns};
    ASSIGN_OR_RETURN(auto opened, ServiceProxy::open(std::move(proxy)));
    sink = std::make_unique<NetSink>(parts.loop, std::move(opened), dns, announcer.get());
    services = std::make_unique<ServiceFeed>(parts.loop, caches.of(resources::kServices),
                                             caches.of(resources::kEndpointSlices), *sink, offload, view,
                                             options.dataDir + "/services.jsonl");
    return {};
  }

  Result<> openPolicies() {
    PolicyTableOptions table;
    ASSIGN_OR_RETURN(table.dns, dnsAddressesOf(options));
    table.ipv6 = !options.podRange6.empty();
    ASSIGN_OR_RETURN(auto opened, PolicyTable::open(std::move(table)));
    policySink = std::make_unique<TableSink>(std::move(opened));
    policies = std::make_unique<PolicyFeed>(
        parts.loop, parts.client, caches.of(resources::kNetworkPolicies), *policySink, offload,
        PolicyFeed::Options{options.isolatePods, options.dataDir + "/policies.jsonl", [this](const Object& pod) {
                              events.normal(
                                  pod, "NetworkIsolated",
                                  "The cluster is restricted and no NetworkPolicy selects this pod: nothing but its "
                                  "node reaches it, and it reaches nothing but the cluster's DNS");
                            }});
    return {};
  }
};

Agent::Agent(Parts parts, NodeOptions options) : rep_(std::make_unique<Rep>(std::move(parts), std::move(options))) {}
Agent::~Agent() = default;

Task<Result<>> Agent::start() {
  Rep& r = *rep_;
  CO_RETURN_IF_ERROR(makeDirs(r.paths.network(), 0700));
  const auto link = r.nodeLink();
  r.network.setMtu(link ? link->mtu : 0);  // pods can carry no more in a packet than the link between the nodes
  r.startAnnouncer(link);
  CO_RETURN_IF_ERROR(r.startServices());
  CO_RETURN_IF_ERROR(r.openPolicies());
  CO_RETURN_IF_ERROR(r.startDns());
  r.context = std::make_unique<WorkerContext>(
      WorkerContext{r.parts.loop, r.parts.runtime, r.images, r.network, r.tokens, r.objects, *r.services, r.connector,
                    r.offload, r.parts.client, r.events, factsOf(r.options, r.machine, r.resolvConf), r.paths});
  r.context->barrier = &r.barrier;
  r.context->addressed = [&r](const std::string& address, const std::string& ns, bool has) {
    auto parsed = IpAddress::parse(address);
    if (!parsed.ok()) return;
    if (has) {
      r.dns.setClientNamespace(*parsed, ns);
    } else {
      r.dns.removeClient(*parsed);
    }
  };
  r.context->policies = r.policies.get();
  r.pods = std::make_unique<PodManager>(*r.context, r.caches.of(resources::kPods), r.options.maxPods);
  r.pods->fenceBy(r.fence);
  r.nodeStatus.onRenewed = [&r](TimePoint sent) {
    r.fence.renewed(sent);
    r.renewed = sent;
    r.tellHealth();
  };
  r.services->start();
  // The range of an earlier run serves without a master.
  const auto kept = [](const std::string& file) { return std::string(trim(readFile(file, 256).valueOr(""))); };
  r.takeRange(kept(r.rangeFile()), kept(r.rangeFile6()), false);
  CO_RETURN_IF_ERROR(co_await r.pods->recover());
  r.policies->start();
  r.nodeStatus.setUserNamespaces(r.context->userNamespaces.ok());
  r.network.releaseOthers();
  r.edge.onServing = [&r](bool serving) { r.nodeStatus.setServesIngress(serving); };
  r.ingressLeave.onLeave = [&r](bool leave) {
    r.nodeStatus.setIngressLeaves(leave);
    r.edge.setLeaving(leave);
  };
  co_await r.edge.start();

  r.agentServer = std::make_unique<AgentServer>(r.parts.loop, r.parts.pool, *r.pods, *r.services, r.edge);
  http::Server::Options server;
  server.name = "agent";
  AgentServer* handler = r.agentServer.get();
  r.server = std::make_unique<http::Server>(
      r.parts.loop, std::move(server),
      [handler](http::Request& request, http::ResponseWriter& writer) { return handler->handle(request, writer); });
  if (r.options.followMasters) {
    r.follow(loadMasters(r.mastersFile()));
    r.masterSlice = r.caches.of(resources::kEndpointSlices).subscribe([&r](const ObjectPtr&, const ObjectPtr& after) {
      r.sawMasters(after);
    });
  }
  r.tunnels = std::make_unique<Tunnels>(
      r.parts.loop,
      Tunnels::Options{r.options.name, r.masters.empty() ? r.options.servers : r.masters, r.parts.tunnelTls},
      *r.server);
  r.nodes =
      r.caches.of(resources::kNodes).subscribe([&r](const ObjectPtr&, const ObjectPtr& after) { r.sawNode(after); });
  r.nodeStatus.onRange = [&r](const Object& node) { r.takeRanges(node); };
  r.ingressLeave.start();
  r.gate.spawn(Rep::setRoutesOnceKnown(&r));
  r.namespaces = r.caches.of(resources::kNamespaces).subscribe([&r](const ObjectPtr& before, const ObjectPtr& after) {
    if (!before || !after) r.tellNamespaces();
  });
  r.gate.spawn(Rep::tellNamespacesOnceKnown(&r));
  r.caches.start();
  r.nodeStatus.start();
  r.tunnels->start();
  r.pods->start();
  co_return Result<>();
}

Task<> Agent::stop() {
  Rep& r = *rep_;
  r.stopping = true;
  if (r.announcer) r.announcer->stop();
  if (r.resolvWatch) co_await r.resolvWatch->stop();
  r.nodes.reset();
  r.namespaces.reset();
  r.masterSlice.reset();
  r.edge.endWaits();
  if (r.tunnels) {
    if (r.server) co_await r.server->stop();
    co_await r.tunnels->stop();
  }
  r.network.stop();
  // First, as tasks below may wait for a cache that no master has filled.
  co_await r.caches.stop();
  co_await r.nodeStatus.stop();
  co_await r.ingressLeave.stop();
  co_await r.edge.stop();
  if (r.policies) co_await r.policies->stop();
  if (r.pods) co_await r.pods->stop();
  if (r.services) co_await r.services->stop();
  if (r.sink) co_await r.sink->stop();
  co_await r.objects.stop();
  co_await r.connector.stop();
  co_await r.events.stop();
  co_await r.dnsServer.stop();
  co_await r.gate.close();
}

}  // namespace dhow::node
