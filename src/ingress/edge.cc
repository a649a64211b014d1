#include "ingress/edge.h"

#include "access_log.h"
#include "base/files.h"
#include "base/gate.h"
#include "base/log.h"
#include "base/strings.h"
#include "client/fields.h"
#include "edge_leave.h"
#include "external_name.h"
#include "gateway_world.h"
#include "haproxy.h"
#include "ingress/gateway.h"
#include "metrics.h"
#include "object/resource_names.h"

namespace dhow::ingress {

namespace resources = object::resources;
using client::serviceOf;
using client::text;

namespace {

constexpr const char* kByService = "edge-service";
constexpr Duration kRetry = std::chrono::seconds(2);
constexpr Duration kRetryPorts = std::chrono::seconds(10);
constexpr Duration kCountEvery = std::chrono::seconds(1);
constexpr int kCountShare = 20;  // a count that takes long leaves that much time for other things
constexpr std::chrono::milliseconds kEndPatience(5000);
constexpr Duration kPatience = std::chrono::seconds(5);  // with a secret that nobody tells of

}  // namespace

struct Edge::Rep {
  Rep(Loop& l, BlockingPool& p, client::Caches& caches, NamedObjects& n, Options options)
      : loop(l),
        pool(p),
        named(n),
        gateways(caches, [this] { structureChanged(); }),
        ingresses(caches.of(resources::kIngresses)),
        classes(caches.of(resources::kIngressClasses)),
        services(caches.of(resources::kServices)),
        slices(caches.of(resources::kEndpointSlices)),
        places{options.program,  options.folder,     options.run,          options.address,
               options.address6, options.dnsAddress, options.filterProgram},
        haproxy(places),
        leave(l, p, haproxy),
        accessLog(l, p, places.logPipe(), options.folder + "/access.log"),
        findings(l, p, places.findingsPipe(), options.folder + "/waf.log"),
        flushed(l),
        counted(l),
        gate(l) {
    slices.addIndex(kByService, [](const object::ObjectPtr& slice, std::vector<std::string>& keys) {
      keys.push_back(serviceOf(*slice));
    });
    leave.onDue = [this] { wake(); };
    leave.onLeft = [this] { tellServing(); };
    leave.onBack = [this] { structureChanged(); };
  }

  bool isOurs(const object::Object& ingress) const {
    auto name = classOf(ingress);
    object::ObjectPtr found = name.empty() ? nullptr : classes.get("", name);
    return found && text(found->root(), {"spec", "controller"}) == kIngressController;
  }

  void structureChanged() {
    structure = true;
    wake();
  }

  void wake() {
    if (!synced || flushing || stopping) return;
    flushing = true;
    // After the events that are queued already, so that a burst becomes one step.
    loop.post([this] {
      if (!stopping) gate.spawn(flush(this));
    });
  }

  void subscribe() {
    subscriptions.push_back(ingresses.subscribe([this](const auto&, const auto&) { structureChanged(); }));
    subscriptions.push_back(classes.subscribe([this](const auto&, const auto&) { structureChanged(); }));
    subscriptions.push_back(services.subscribe([this](const auto& before, const auto& after) {
      if (usedServices.contains((after ? after : before)->key())) structureChanged();
    }));
    gateways.subscribe();
    subscriptions.push_back(slices.subscribe([this](const auto& before, const auto& after) {
      for (const auto& slice : {before, after}) {
        if (!slice) continue;
        std::string service = serviceOf(*slice);
        if (!usedServices.contains(service)) continue;
        structure = structure || config.decisive.contains(service);
        changedServices.insert(std::move(service));
        wake();
      }
    }));
  }

  static Task<> waitSynced(Rep* self) {
    for (client::Cache* cache : {&self->ingresses, &self->classes, &self->services, &self->slices}) {
      co_await cache->waitSynced();
      if (self->stopping || !cache->synced()) co_return;
    }
    co_await self->gateways.waitSynced();
    if (self->stopping) co_return;
    self->synced = true;
    self->structureChanged();
  }

  std::vector<object::ObjectPtr> slicesOf(const std::string& service) const {
    return slices.byIndex(kByService, service);
  }

  // Whether all that is named is known. What is not after a while counts as missing: nobody's secret stops the others.
  bool allKnown(const std::set<NamedObjects::Name>& names) {
    const bool all =
        std::all_of(names.begin(), names.end(), [this](const NamedObjects::Name& name) { return named.known(name); });
    if (all) {
      patience.cancel();
      waiting = impatient = false;
      return true;
    }
    if (impatient) return true;
    if (!std::exchange(waiting, true))
      patience = loop.after(kPatience, [this] {
        impatient = true;
        structureChanged();
      });
    return false;
  }

  // False: something that is named is not known yet, and its news comes.
  bool compileAll() {
    Documents documents;
    documents.classes = classes.list();
    documents.ipv6Alone = places.address.empty();
    std::set<NamedObjects::Name> names;
    for (const auto& ingress : ingresses.list()) {
      if (!isOurs(*ingress) || ingress->deleting()) continue;
      documents.ingresses.push_back(ingress);
      for (const std::string& name : secretsOf(*ingress)) names.insert({"secrets", std::string(ingress->ns()), name});
      for (const std::string& name : configMapsOf(*ingress))
        names.insert({"configmaps", std::string(ingress->ns()), name});
    }
    if (!gateways.synced()) return false;
    GatewayDocuments forGateways = gateways.documents(names);
    named.use(names, [this] { structureChanged(); });
    if (!allKnown(names)) return false;
    std::set<std::string> used;
    documents.service = [&](std::string_view ns, std::string_view name) {
      used.insert(fmt::format("{}/{}", ns, name));
      return services.get(ns, name);
    };
    auto find = [this](const char* plural) {
      return [this, plural](std::string_view ns, std::string_view name) {
        return named.find({plural, std::string(ns), std::string(name)});
      };
    };
    documents.secret = find("secrets");
    documents.configMap = find("configmaps");
    documents.slices = [&](std::string_view ns, std::string_view name) {
      return slicesOf(fmt::format("{}/{}", ns, name));
    };
    forGateways.service = documents.service;
    forGateways.secret = documents.secret;
    forGateways.configMap = documents.configMap;
    forGateways.slices = documents.slices;
    config = compile(documents).config;
    (void)compileGateways(forGateways, config);
    addOwnAddresses(config.files);
    usedServices = std::move(used);
    return true;
  }

  // True: routes lead elsewhere now.
  bool updateServers(const std::set<std::string>& changed) {
    bool routes = false;
    for (auto& [name, backend] : config.backends) {
      if (!changed.contains(backend.service)) continue;
      const bool served = backend.served();
      backend.servers = serversOf(slicesOf(backend.service), backend.port);
      routes = routes || (backend.replaceable && backend.served() != served);
    }
    return routes;
  }

  std::map<std::string, std::string> podsByAddress() const {
    std::map<std::string, std::string> out;
    for (const std::string& service : usedServices)
      for (const object::ObjectPtr& slice : slicesOf(service))
        for (const auto& endpoint : client::array(slice->root(), {"endpoints"})) {
          if (!endpoint.is_object() || text(endpoint.get_object(), {"targetRef", "kind"}) != "Pod") continue;
          for (const std::string& address : client::strings(client::array(endpoint.get_object(), {"addresses"})))
            out[address] = text(endpoint.get_object(), {"targetRef", "name"});
        }
    return out;
  }

  static Task<> flush(Rep* self) {
    while (!self->stopping) {
      const bool changes = self->structure || !self->changedServices.empty();
      if (!changes && self->leave.due()) {
        co_await EdgeLeave::step(&self->leave);
        continue;
      }
      if (!changes && !self->countWanted) break;
      if (changes) {
        self->applying = true;
        const bool done = co_await applyChanges(self);
        self->applying = false;
        if (done) self->flushed.notify();
        if (done && self->countable() && !self->countTimer) self->countWanted = true;
        if (!done && !self->countWanted) break;
        if (done) continue;
      }
      co_await countUsers(self);
      if (changes) break;
    }
    self->flushing = false;
  }

  // False: they come again when there is news, or by a timer.
  static Task<bool> applyChanges(Rep* self) {
    const uint64_t revision = self->slices.revision();
    if (self->leave.left()) {
      self->structure = false;
      self->changedServices.clear();
      self->appliedRevision = revision;
      co_return true;
    }
    const bool structure = std::exchange(self->structure, false);
    const bool routes = self->updateServers(std::exchange(self->changedServices, {}));
    // What is known goes on when something is not yet: endpoints must not wait for a secret.
    if ((structure || routes) && !self->compileAll() && self->config.empty()) co_return false;
    auto wanted = std::make_shared<Config>(self->config);
    Haproxy* haproxy = &self->haproxy;
    Result<> done =
        co_await self->pool.run(self->loop, [haproxy, wanted] { return haproxy->apply(std::move(*wanted)); });
    self->tellServing();
    if (!done.ok()) {
      log::error("ingress", "{}", done.error().message());
      self->structure = true;
      self->appliedRevision = 0;
      self->retry = self->loop.after(kRetry, [self] { self->wake(); });
      co_return false;
    }
    self->appliedRevision = revision;
    // Nobody tells when a port becomes free.
    if (self->haproxy.portsMissing()) self->retry = self->loop.after(kRetryPorts, [self] { self->structureChanged(); });
    co_return true;
  }

  // Whether anybody may want to know who is there.
  bool countable() const {
    return std::any_of(config.backends.begin(), config.backends.end(), [](const auto& one) {
      const std::vector<Server>& servers = one.second.servers;
      return (one.second.sessions && !servers.empty()) ||
             std::any_of(servers.begin(), servers.end(), [](const Server& server) {
               return server.state == Server::State::kDraining || server.state == Server::State::kLast;
             });
    });
  }

  static Task<> countUsers(Rep* self) {
    self->countWanted = false;
    self->countTimer.cancel();
    const uint64_t begun = ++self->countsBegun;
    const TimePoint start = self->loop.now();
    Haproxy* haproxy = &self->haproxy;
    Result<std::map<std::string, client::PodUse>> counted =
        co_await self->pool.run(self->loop, [haproxy] { return haproxy->count(); });
    if (counted.ok()) {
      self->take(std::move(*counted));
      self->countsDone = begun;
    } else {
      log::debug("ingress", "users are not counted: {}", counted.error().message());
    }
    if (self->countable() && !self->stopping) {
      const Duration pause = std::max<Duration>(kCountEvery, (self->loop.now() - start) * kCountShare);
      self->countTimer = self->loop.after(pause, [self] {
        self->countWanted = true;
        self->wake();
      });
    } else {
      self->take({});
    }
    self->counted.notify();
  }

  void take(std::map<std::string, client::PodUse> now) {
    auto next = [this] {
      // Beyond all that an agent before this one has told.
      const auto clock = std::chrono::duration_cast<std::chrono::milliseconds>(loop.wallNow().time_since_epoch());
      report.change = std::max(report.change + 1, static_cast<uint64_t>(clock.count()));
      return report.change;
    };
    const size_t gone = std::erase_if(report.changed, [&](const auto& one) { return !now.contains(one.first); });
    if (gone > 0) next();
    for (auto& [pod, use] : now) {
      auto known = report.changed.find(pod);
      if (known != report.changed.end() && known->second.second == use) continue;
      report.changed.insert_or_assign(pod, std::pair(next(), std::move(use)));
    }
  }

  Task<Result<client::SessionReport>> sessions(client::SessionQuestion question) {
    const TimePoint end = loop.now() + question.limit;
    const uint64_t wanted = countsBegun + 1;
    if (question.fresh) {
      countWanted = true;
      wake();
    }
    while (!stopping && (question.fresh ? countsDone < wanted : report.change <= question.seen)) {
      const Duration left = end - loop.now();
      if (left <= Duration::zero()) break;
      co_await counted.waitFor(left);
    }
    if (stopping || (question.fresh && countsDone < wanted))
      co_return Error(Code::kUnavailable, "the users of this node's HAProxy cannot be counted");
    client::SessionReport out;
    out.change = report.change;
    for (const auto& [pod, entry] : report.changed) {
      out.all.insert(pod);
      if (entry.first > question.seen) out.changed.emplace(pod, entry);
    }
    co_return out;
  }

  void tellServing() {
    const bool now = haproxy.running();
    if (now) watchProcess();
    watchFilter();
    if (now == serving) return;
    serving = now;
    log::info("ingress", "HAProxy {}", now ? "serves" : "does not run");
    if (onServing) onServing(now);
  }

  void hasEnded(const char* name) {
    if (stopping || leave.left()) return;
    log::warn("ingress", "{} has ended", name);
    tellServing();
    structureChanged();
  }
  void watchProcess() {
    watched.watch(loop, haproxy.pidfd(), [this] { hasEnded("HAProxy"); });
  }
  void watchFilter() {
    watchedFilter.watch(loop, haproxy.filterPidfd(), [this] { hasEnded("the filter"); });
  }

  uint64_t applied() const {
    const bool settled = synced && !structure && !applying && changedServices.empty();
    return settled ? slices.revision() : appliedRevision;
  }

  Loop& loop;
  BlockingPool& pool;
  NamedObjects& named;
  GatewayWorld gateways;
  client::Cache& ingresses;
  client::Cache& classes;
  client::Cache& services;
  client::Cache& slices;
  const Haproxy::Options places;
  Haproxy haproxy;
  EdgeLeave leave;
  AccessLog accessLog, findings;
  std::function<void(bool)> onServing;
  Config config;
  std::set<std::string> usedServices, changedServices;
  bool structure = false, synced = false, flushing = false, stopping = false, serving = false;
  bool waiting = false, impatient = false;
  bool applying = false, countWanted = false;
  uint64_t appliedRevision = 0;
  uint64_t countsBegun = 0, countsDone = 0;
  client::SessionReport report;  // `changed`: all that are counted
  ProcessWatch watched, watchedFilter;
  std::vector<std::unique_ptr<client::Cache::Subscription>> subscriptions;
  Timer retry, patience, countTimer;
  Signal flushed, counted;
  Gate gate;
};

Edge::Edge(Loop& loop, BlockingPool& pool, client::Caches& caches, NamedObjects& named, Options options)
    : rep_(std::make_unique<Rep>(loop, pool, caches, named, std::move(options))) {}
Edge::~Edge() = default;

Task<> Edge::start() {
  Rep& r = *rep_;
  r.onServing = onServing;
  if (auto made = makeDirs(r.places.run, 0700); !made.ok()) log::warn("ingress", "{}", made.error().message());
  r.accessLog.start();
  r.findings.start();
  Haproxy* haproxy = &r.haproxy;
  Result<> found = co_await r.pool.run(r.loop, [haproxy] { return haproxy->recover(); });
  if (!found.ok()) log::warn("ingress", "HAProxy from disk: {}", found.error().message());
  r.tellServing();
  r.subscribe();
  r.gate.spawn(Rep::waitSynced(&r));
}

void Edge::setLeaving(bool leaving) {
  rep_->leave.set(leaving);
}

void Edge::endWaits() {
  rep_->stopping = true;
  rep_->leave.stop();
  rep_->flushed.notify();
  rep_->counted.notify();
}

Task<> Edge::stop() {
  Rep& r = *rep_;
  endWaits();
  r.subscriptions.clear();
  r.gateways.stop();
  r.retry.cancel();
  r.patience.cancel();
  r.countTimer.cancel();
  r.watched.reset();
  r.watchedFilter.reset();
  co_await r.accessLog.stop();
  co_await r.findings.stop();
  co_await r.gate.close();
}

Task<Result<client::SessionReport>> Edge::sessions(client::SessionQuestion question) {
  return rep_->sessions(question);
}

uint64_t Edge::applied() const {
  return rep_->applied();
}

Task<std::string> Edge::metrics() {
  Rep& r = *rep_;
  if (!r.haproxy.running()) co_return "";
  const Haproxy::Options& places = r.places;
  Result<RawMetrics> raw =
      co_await r.pool.run(r.loop, [&places] { return readMetrics(places.metricsSocket(), places.adminSocket()); });
  if (!raw.ok()) {
    log::warn("ingress", "{}", raw.error().message());
    co_return "";
  }
  const auto pods = r.podsByAddress();
  co_return labelledMetrics(*raw, r.config, [&pods](const std::string& address) {
    auto found = pods.find(address);
    return found == pods.end() ? "" : found->second;
  });
}

std::string Edge::accessLogFile() const {
  return rep_->places.folder + "/access.log";
}

std::string Edge::findingsFile() const {
  return rep_->places.folder + "/waf.log";
}

Task<uint64_t> Edge::untilApplied(uint64_t revision, Duration limit) {
  Rep& r = *rep_;
  const TimePoint end = r.loop.now() + limit;
  while (r.applied() < revision && !r.stopping) {
    const Duration left = end - r.loop.now();
    if (left <= Duration::zero()) break;
    co_await r.flushed.waitFor(left);
  }
  co_return r.applied();
}

bool edgeServes(const std::string& run) {
  Haproxy::Options places;
  places.run = run;
  return findKept(places.pidFile()).has_value();
}

void endEdge(const std::string& run) {
  Haproxy::Options places;
  places.run = run;
  endKept(places.pidFile(), kEndPatience);
  // It would wait for connections, of which none is left.
  endKept(run + "/filter.pid", std::chrono::milliseconds::zero());
  removeFilterSocket(places.filterSocket);
}

}  // namespace dhow::ingress
