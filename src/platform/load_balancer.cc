#include "platform/load_balancer.h"

#include <algorithm>
#include <iterator>
#include <set>

#include "base/gate.h"
#include "base/log.h"
#include "client/controller.h"
#include "client/fields.h"
#include "network/links.h"
#include "network/service_proxy.h"
#include "node/service_ports.h"

namespace dhow::platform {

using namespace client;
using object::resources::kEndpointSlices;
using object::resources::kNodes;
using object::resources::kServices;

namespace {

constexpr char kByService[] = "slicesOfService";
constexpr std::string_view kNodeKey = "node:";
constexpr std::string_view kServiceKey = "service:";
// How long the router remembers where it sent a connection's first packet that nobody answers, in seconds. The kernel's
// own two minutes send a client's further tries, and other connections that come to have the same port, to an endpoint
// that is dead; a client tries again after a second, and then gets another.
constexpr char kUnanswered[] = "net/netfilter/nf_conntrack_tcp_timeout_syn_sent";
constexpr char kUnansweredSeconds[] = "1";
constexpr Duration kComesBack = std::chrono::seconds(3);

// Of that family; empty when it has none.
IpAddress internalAddress(const object::Object& node, bool v6) {
  for (const auto& entry : array(node.root(), {"status", "addresses"})) {
    if (!entry.is_object() || text(entry.get_object(), "type") != "InternalIP") continue;
    auto address = IpAddress::parse(text(entry.get_object(), "address"));
    if (address.ok() && address->isV6() == v6) return *address;
  }
  return {};
}

std::vector<std::string> podRanges(const object::Object& node) {
  auto out = strings(array(node.root(), {"spec", "podCIDRs"}));
  if (out.empty()) out.emplace_back(text(node.root(), {"spec", "podCIDR"}));
  std::erase(out, "");
  return out;
}

}  // namespace

struct LoadBalancer::Rep {
  Rep(Loop& l, Caches& caches)
      : loop(l),
        applied(l),
        gate(l),
        services(caches.of(kServices)),
        slices(caches.of(kEndpointSlices)),
        nodes(caches.of(kNodes)),
        controller(l, {.name = "load-balancer", .workers = 1},
                   [this](std::string key) { return reconcile(std::move(key)); }) {
    slices.addIndex(kByService,
                    [](const ObjectPtr& slice, std::vector<std::string>& keys) { keys.push_back(serviceOf(*slice)); });
    controller.watch(services, [this](const ObjectPtr& before, const ObjectPtr& after, WorkQueue& queue) {
      changed(std::string((after ? after : before)->key()), queue);
    });
    controller.watch(slices, [this](const ObjectPtr& before, const ObjectPtr& after, WorkQueue& queue) {
      const ObjectPtr& slice = after ? after : before;
      changed(serviceOf(*slice), queue);
    });
    controller.watch(nodes, [](const ObjectPtr& before, const ObjectPtr& after, WorkQueue& queue) {
      queue.add(fmt::format("{}{}", kNodeKey, (after ? after : before)->name()));
    });
  }

  void changed(const std::string& service, WorkQueue& queue) {
    due.insert(service);
    queue.add(fmt::format("{}{}", kServiceKey, service));
  }

  Task<Result<>> reconcile(std::string key) {
    if (key.starts_with(kNodeKey)) co_return routeNode(key.substr(kNodeKey.size()));
    const std::string service = key.substr(kServiceKey.size());
    CO_RETURN_IF_ERROR(balance(service));
    due.erase(service);
    if (due.empty()) applied.notify();
    co_return Result<>();
  }

  // While a change is due, it is not known how far what is in force has come.
  uint64_t appliedRevision() const { return begun && due.empty() ? slices.revision() : 0; }

  Result<> routeNode(const std::string& name) {
    ObjectPtr node = nodes.get("", name);
    if (!node) {
      auto known = routes.find(name);
      if (known == routes.end()) return {};
      for (const Route& route : known->second) RETURN_IF_ERROR(links->removeRoute(route));
      routes.erase(known);
      return {};
    }
    std::vector<Route> wanted;
    for (const std::string& range : podRanges(*node)) {
      Route route;
      ASSIGN_OR_RETURN(route.destination, IpPrefix::parse(range));
      route.gateway = internalAddress(*node, route.destination.address.isV6());
      if (route.gateway.empty()) continue;
      RETURN_IF_ERROR(links->setRoute(route));
      wanted.push_back(route);
    }
    if (!wanted.empty()) routes[name] = std::move(wanted);
    return {};
  }

  // With none left it stays as it is: there is nothing to win.
  void withoutGone(std::vector<ServiceEndpoint>& endpoints) const {
    std::vector<IpAddress> addresses;
    std::vector<IpPrefix> ranges;
    for (const auto& [name, one] : gone) {
      const ObjectPtr node = nodes.get("", name);
      if (!node || one.isBack) continue;
      for (bool v6 : {false, true}) addresses.push_back(internalAddress(*node, v6));
      for (const std::string& range : podRanges(*node))
        if (auto parsed = IpPrefix::parse(range); parsed.ok()) ranges.push_back(*parsed);
    }
    if (ranges.empty() && addresses.empty()) return;
    std::vector<ServiceEndpoint> left;
    std::copy_if(endpoints.begin(), endpoints.end(), std::back_inserter(left), [&](const ServiceEndpoint& endpoint) {
      auto holds = [&](const IpPrefix& range) { return range.contains(endpoint.address); };
      return std::find(addresses.begin(), addresses.end(), endpoint.address) == addresses.end() &&
             std::none_of(ranges.begin(), ranges.end(), holds);
    });
    if (!left.empty()) endpoints = std::move(left);
  }

  void balanceAll() {
    for (const auto& [service, ports] : installed) controller.queue().add(fmt::format("{}{}", kServiceKey, service));
  }

  void setGone(const std::set<std::string>& now) {
    std::erase_if(gone, [](const auto& one) { return one.second.isBack; });
    for (auto& [name, one] : gone) {
      if (now.contains(name)) {
        one.comesBack.cancel();
      } else if (!one.comesBack) {
        one.comesBack = loop.after(kComesBack, [this, known = &one] {
          known->isBack = true;
          balanceAll();
        });
      }
    }
    bool more = false;
    for (const std::string& name : now) more = gone.try_emplace(name).second || more;
    if (more && begun) balanceAll();
  }

  std::vector<ServicePort> portsOf(const object::Object& service) {
    auto wanted =
        node::servicePorts(service, slices.byIndex(kByService, std::string(service.key())), node::ServiceView{});
    // Inside the nodes' own concern: cluster addresses and node ports.
    for (auto& port : wanted) {
      port.clusterIps.clear();
      port.nodePort = 0;
      withoutGone(port.endpoints);
      // Policy Local keeps the client's address. No node is passed on to another: this leads straight to the pods.
      if (port.externalLocal) port.localEndpoints = port.endpoints;
    }
    std::erase_if(wanted, [](const ServicePort& port) { return port.loadBalancerIps.empty(); });
    return wanted;
  }

  // Until a master has told what there is, what an earlier process has set goes on; then what is too much goes.
  static Task<> begin(Rep* self) {
    for (Cache* cache : {&self->services, &self->slices, &self->nodes}) co_await cache->waitSynced();
    if (self->stopping || !self->services.synced() || !self->slices.synced()) co_return;
    std::vector<ServicePort> all;
    for (const ObjectPtr& service : self->services.list()) {
      auto ports = self->portsOf(*service);
      auto& keys = self->installed[std::string(service->key())];
      for (auto& port : ports) keys.push_back(port.key);
      std::move(ports.begin(), ports.end(), std::back_inserter(all));
    }
    auto applied = self->proxy->apply(all);
    if (!applied.ok()) log::error("region", "load balancer: {}", applied.error().message());
    self->controller.start();
    self->begun = true;
    self->applied.notify();
  }

  Result<> balance(const std::string& key) {
    auto [ns, name] = splitKey(key);
    ObjectPtr service = services.get(ns, name);
    std::vector<ServicePort> wanted;
    if (service) wanted = portsOf(*service);
    std::vector<std::string> removed;
    for (const auto& old : installed[key]) {
      if (std::none_of(wanted.begin(), wanted.end(), [&](const auto& port) { return port.key == old; }))
        removed.push_back(old);
    }
    if (wanted.empty() && removed.empty()) {
      installed.erase(key);
      return {};
    }
    std::vector<std::string> keys;
    for (const auto& port : wanted) keys.push_back(port.key);
    RETURN_IF_ERROR(proxy->update(wanted, removed));
    installed[key] = std::move(keys);
    return {};
  }

  Loop& loop;
  Signal applied;
  std::set<std::string> due;  // services whose last change is not in force yet
  bool begun = false;
  Gate gate;
  bool stopping = false;
  Cache& services;
  Cache& slices;
  Cache& nodes;
  std::unique_ptr<NetLinks> links;
  std::unique_ptr<ServiceProxy> proxy;
  std::map<std::string, std::vector<Route>> routes;           // by node
  std::map<std::string, std::vector<std::string>> installed;  // ports by service
  struct Gone {
    Timer comesBack;
    bool isBack = false;
  };
  std::map<std::string, Gone> gone;  // nodes
  Controller controller;
};

LoadBalancer::LoadBalancer(std::unique_ptr<Rep> rep) : rep_(std::move(rep)) {}
LoadBalancer::~LoadBalancer() = default;

Result<std::unique_ptr<LoadBalancer>> LoadBalancer::start(Loop& loop, Caches& caches, const ClusterConfig& config) {
  ASSIGN_OR_RETURN(auto router, Netns::open(config.paths().regionNamespace()));
  auto rep = std::make_unique<Rep>(loop, caches);
  // Their sockets stay in the router's namespace.
  RETURN_IF_ERROR(runInNetns(router.fd(), [&]() -> Result<> {
    ASSIGN_OR_RETURN(auto links, NetLinks::open());
    rep->links = std::make_unique<NetLinks>(std::move(links));
    if (auto set = setSysctl(kUnanswered, kUnansweredSeconds); !set.ok())
      log::warn("region", "load balancer: {}", set.error().message());
    ServiceProxyOptions options;
    options.table = "dhow";
    for (const auto& range : {config.podRange, config.podRange6}) {
      if (range.empty()) continue;
      ASSIGN_OR_RETURN(auto pods, IpPrefix::parse(range));
      options.podRanges.push_back(pods);
    }
    ASSIGN_OR_RETURN(rep->proxy, ServiceProxy::open(std::move(options)));
    return {};
  }));
  rep->gate.spawn(Rep::begin(rep.get()));
  return std::unique_ptr<LoadBalancer>(new LoadBalancer(std::move(rep)));
}

Task<uint64_t> LoadBalancer::untilApplied(uint64_t revision, Duration limit) {
  Rep& rep = *rep_;
  const TimePoint end = rep.loop.now() + limit;
  while (rep.appliedRevision() < revision && !rep.stopping) {
    const Duration left = end - rep.loop.now();
    if (left <= Duration::zero()) break;
    co_await rep.applied.waitFor(left);
  }
  co_return rep.appliedRevision();
}

void LoadBalancer::setGone(const std::set<std::string>& nodes) {
  rep_->setGone(nodes);
}

Result<> LoadBalancer::routesAgain() {
  for (const auto& [node, routes] : rep_->routes) {
    for (const Route& route : routes) RETURN_IF_ERROR(rep_->links->setRoute(route));
  }
  return {};
}

Task<> LoadBalancer::stop() {
  rep_->stopping = true;
  rep_->gone.clear();
  rep_->applied.notify();
  co_await rep_->gate.close();
  co_await rep_->controller.stop();
}

}  // namespace dhow::platform
