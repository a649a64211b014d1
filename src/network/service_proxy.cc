#include "network/service_proxy.h"

#include <mutex>

#include "base/log.h"
#include "network/links.h"
#include "service_elements.h"

namespace dhow {

using namespace services;

namespace {

using ElementMap = std::map<std::pair<std::string_view, std::string>, NftBatch::Element>;

std::pair<std::string_view, std::string> idOf(const Element& e) {
  return {e.set, e.element.key + e.element.keyEnd};
}

// Endpoints of this node, each once.
std::set<IpAddress> localAddresses(const ServicePort& port) {
  std::set<IpAddress> out;
  for (auto* list : {&port.endpoints, &port.localEndpoints}) {
    for (auto& endpoint : *list) {
      if (endpoint.local) out.insert(endpoint.address);
    }
  }
  return out;
}

// Whose flows are forgotten when they lead nowhere any more.
bool forgets(Protocol protocol) {
  return protocol != Protocol::kTcp;
}

using Member = std::pair<IpAddress, uint16_t>;

// Where flows to the port may lead.
std::set<Member> membersOf(const ServicePort& port) {
  std::set<Member> out;
  for (auto* list : {&port.endpoints, &port.localEndpoints, &port.standing}) {
    for (auto& endpoint : *list) out.emplace(endpoint.address, endpoint.port);
  }
  return out;
}

using Served = std::map<Frontend, std::set<Member>>;

// The table of one family. Ports are what of them is of that family (ofFamily).
struct ServiceTable {
  ServiceTable(const ServiceProxyOptions& o, IpFamily f, NetlinkSocket& s, NetLinks& l)
      : options(o), family(f), socket(s), links(l) {}

  const ServiceProxyOptions& options;
  const IpFamily family;
  NetlinkSocket& socket;
  NetLinks& links;
  bool installed = false;
  std::map<std::string, ServicePort> ports;
  std::map<Frontend, std::set<std::string>> claims;  // the first one holds it
  std::map<IpAddress, size_t> hairpins;
  std::set<Picker> pickers;
  size_t elements = 0, lastChanges = 0;

  Result<> apply(const std::vector<ServicePort>& snapshot, ServiceProxy::Snapshot kind);
  Result<> update(const std::vector<ServicePort>& changed, const std::vector<std::string>& removed);
  Result<> destroy();
  // Whether it is another one than it was; then it is put among those that are wanted.
  void want(const ServicePort& port, std::map<std::string, std::optional<ServicePort>>& wanted) const;
  void store(ServicePort port);
  void erase(const std::string& key);
  Contribution contributionOf(const std::string& key) const;
  Result<> install();
  Result<> changeOrNot(std::map<std::string, std::optional<ServicePort>> wanted);
  Result<> change(std::map<std::string, std::optional<ServicePort>> wanted);
  // Of those ports whose flows are forgotten: what each frontend that one of them holds serves.
  Served served(const std::set<std::string>& keys) const;
  const ServicePort* holder(const Frontend& frontend) const;
  void forgetChanged(const Served& before, const Served& now);
  void forgetAll();
  void forget(const std::vector<FlowFilter>& filters, const std::set<Frontend>& gone);
};

}  // namespace

struct ServiceProxy::Rep {
  mutable std::mutex mutex;
  ServiceProxyOptions options;
  NetlinkSocket socket;
  std::optional<NetLinks> links;
  std::vector<std::unique_ptr<ServiceTable>> tables;
};

namespace {

void ServiceTable::store(ServicePort port) {
  for (auto& frontend : frontendsOf(port)) claims[frontend].insert(port.key);
  for (auto& address : localAddresses(port)) hairpins[address]++;
  auto key = port.key;
  ports[key] = std::move(port);
}

void ServiceTable::erase(const std::string& key) {
  auto it = ports.find(key);
  if (it == ports.end()) return;
  for (auto& frontend : frontendsOf(it->second)) {
    auto claim = claims.find(frontend);
    claim->second.erase(key);
    if (claim->second.empty()) claims.erase(claim);
  }
  for (auto& address : localAddresses(it->second)) {
    auto count = hairpins.find(address);
    if (--count->second == 0) hairpins.erase(count);
  }
  ports.erase(it);
}

Contribution ServiceTable::contributionOf(const std::string& key) const {
  Contribution out;
  auto it = ports.find(key);
  if (it == ports.end()) return out;
  for (auto& frontend : frontendsOf(it->second)) {
    if (*claims.at(frontend).begin() == key) contributeFrontend(it->second, frontend, family, out);
  }
  return out;
}

void addPicker(NftBatch& batch, const Picker& picker) {
  auto chain = picker.chain();
  batch.addChain(chain);
  for (auto& rule : rulesOf(picker, batch.family())) batch.addRule(chain, rule);
  batch.addElements(kClasses, {{.key = picker.key(), .keyEnd = "", .data = "", .verdict = chain}});
}

NftBatch::Element hairpinElement(const IpAddress& address) {
  return {.key = NftKey().address(address).address(address), .keyEnd = "", .data = "", .verdict = ""};
}

using BySet = std::map<std::string, std::vector<NftBatch::Element>>;

// Everything in one batch that takes the place of whatever table was there.
Result<> ServiceTable::install() {
  NftBatch batch(options.table, family);
  buildSkeleton(batch, options);
  BySet all;
  std::set<Picker> used;
  size_t count = 0;
  for (auto& [key, port] : ports) {
    auto contribution = contributionOf(key);
    used.merge(contribution.pickers);
    for (auto& e : contribution.elements) {
      all[e.set].push_back(std::move(e.element));
      count++;
    }
  }
  for (auto& [address, uses] : hairpins) all[kHairpin].push_back(hairpinElement(address));
  for (auto& picker : used) addPicker(batch, picker);
  for (auto& [set, elements] : all) batch.addElements(set, elements);
  RETURN_IF_ERROR(batch.commit(socket));
  installed = true;
  pickers = std::move(used);
  elements = lastChanges = count + hairpins.size();
  return {};
}

// Moves the state to what is wanted and the kernel with it, or neither.
Result<> ServiceTable::change(std::map<std::string, std::optional<ServicePort>> wanted) {
  const bool first = !installed;  // then nothing is known of what was
  std::map<std::string, std::optional<ServicePort>> before;
  std::set<std::string> affected;
  auto touch = [&](const ServicePort& port) {
    for (auto& frontend : frontendsOf(port)) {
      auto claim = claims.find(frontend);
      if (claim != claims.end()) affected.insert(claim->second.begin(), claim->second.end());
    }
  };
  for (auto& [key, port] : wanted) {
    affected.insert(key);
    auto it = ports.find(key);
    before[key] = it == ports.end() ? std::nullopt : std::optional(it->second);
    if (it != ports.end()) touch(it->second);
    if (port) touch(*port);
  }
  std::map<IpAddress, bool> hairpinsBefore;  // of the addresses that may come or go
  for (auto& [key, port] : wanted) {
    auto it = ports.find(key);
    std::set<IpAddress> own;
    if (it != ports.end()) own.merge(localAddresses(it->second));
    if (port) own.merge(localAddresses(*port));
    for (const IpAddress& address : own) hairpinsBefore[address] = hairpins.contains(address);
  }
  const Served servedBefore = served(affected);
  ElementMap gone, fresh;
  auto collect = [&](ElementMap& into, std::set<Picker>* used) {
    for (auto& key : affected) {
      auto contribution = contributionOf(key);
      for (auto& e : contribution.elements) into.emplace(idOf(e), std::move(e.element));
      if (used != nullptr) used->merge(contribution.pickers);
    }
  };
  if (installed) collect(gone, nullptr);
  for (auto& [key, port] : wanted) {
    erase(key);
    if (port) store(*port);
  }
  auto undo = [&] {
    for (auto& [key, port] : before) erase(key);
    for (auto& [key, port] : before) {
      if (port) store(*port);
    }
  };
  Result<> done;
  if (installed) {
    std::set<Picker> used;
    collect(fresh, &used);
    BySet removals, additions;
    size_t removed = 0, added = 0;
    for (auto& [id, element] : gone) {
      auto it = fresh.find(id);
      if (it != fresh.end() && it->second == element) {
        fresh.erase(it);
        continue;
      }
      removals[std::string(id.first)].push_back(element);
      removed++;
    }
    for (auto& [id, element] : fresh) additions[std::string(id.first)].push_back(element), added++;
    for (auto& [address, had] : hairpinsBefore) {
      const bool has = hairpins.contains(address);
      if (had && !has) removals[kHairpin].push_back(hairpinElement(address)), removed++;
      if (has && !had) additions[kHairpin].push_back(hairpinElement(address)), added++;
    }
    NftBatch batch(options.table, family);
    for (auto& picker : used) {
      if (pickers.count(picker) == 0) addPicker(batch, picker);
    }
    for (auto& [set, list] : removals) batch.deleteElements(set, list);
    for (auto& [set, list] : additions) batch.addElements(set, list);
    done = batch.commit(socket);
    if (done.ok()) {
      pickers.merge(used);
      elements = elements + added - removed;
      lastChanges = added + removed;
    } else {
      log::warn("network", "services are installed anew: {}", done.error().message());
    }
  }
  if (!installed || !done.ok()) done = install();
  if (!done.ok()) {
    undo();
    return std::move(done).error().wrap("install services");
  }
  if (!first) forgetChanged(servedBefore, served(affected));
  return {};
}

Served ServiceTable::served(const std::set<std::string>& keys) const {
  Served out;
  for (const std::string& key : keys) {
    auto it = ports.find(key);
    if (it == ports.end() || !forgets(it->second.protocol)) continue;
    for (const Frontend& frontend : frontendsOf(it->second)) {
      if (*claims.at(frontend).begin() == key) out[frontend] = membersOf(it->second);
    }
  }
  return out;
}

const ServicePort* ServiceTable::holder(const Frontend& frontend) const {
  auto claim = claims.find(frontend);
  return claim == claims.end() ? nullptr : &ports.at(*claim->second.begin());
}

// Flows to endpoints that are gone, and those that found nobody before there was any.
void ServiceTable::forgetChanged(const Served& before, const Served& now) {
  std::set<Frontend> changed, gone;
  for (const auto& [frontend, had] : before) {
    auto it = now.find(frontend);
    if (it == now.end()) {
      gone.insert(frontend);
    } else if (had.empty() ? it->second.empty()
                           : std::includes(it->second.begin(), it->second.end(), had.begin(), had.end())) {
      continue;
    }
    changed.insert(frontend);
  }
  for (const auto& [frontend, has] : now) {
    if (!before.contains(frontend)) changed.insert(frontend);
  }
  // One look through all flows for each protocol, as narrow as the frontends allow.
  std::map<Protocol, FlowFilter> filters;
  for (const Frontend& frontend : changed) {
    auto [it, fresh] =
        filters.try_emplace(frontend.protocol, FlowFilter{frontend.protocol, frontend.address, frontend.port});
    if (fresh) continue;
    if (it->second.destination != frontend.address) it->second.destination = {};
    if (it->second.port != frontend.port) it->second.port = 0;
  }
  std::vector<FlowFilter> all;
  for (const auto& [protocol, filter] : filters) all.push_back(filter);
  forget(all, gone);
}

void ServiceTable::forgetAll() {
  std::vector<FlowFilter> all;
  for (Protocol protocol : {Protocol::kUdp, Protocol::kSctp}) all.push_back({protocol, {}, 0});
  forget(all, {});
}

void ServiceTable::forget(const std::vector<FlowFilter>& filters, const std::set<Frontend>& gone) {
  if (filters.empty()) return;
  // Node ports answer at the node's own addresses; elsewhere such a port is somebody else's.
  std::set<IpAddress> own;
  if (auto addresses = links.addresses(0); addresses.ok()) {
    for (const IpPrefix& one : *addresses) {
      if (!one.address.isLoopback()) own.insert(one.address);
    }
  }
  auto stale = [&](const Flow& flow) {
    Frontend frontend{flow.destination, flow.protocol, flow.port};
    const bool led = flow.answeredBy != flow.destination || flow.answeringPort != flow.port;
    const ServicePort* port = holder(frontend);
    if (port == nullptr && own.contains(flow.destination)) {
      if (led && gone.contains(frontend)) return true;
      frontend.address = {};
      port = holder(frontend);
    }
    if (port != nullptr) return !membersOf(*port).contains({flow.answeredBy, flow.answeringPort});
    const bool ours = std::any_of(options.serviceRanges.begin(), options.serviceRanges.end(),
                                  [&](const IpPrefix& range) { return range.contains(flow.destination); });
    return led && (ours || gone.contains(frontend));
  };
  for (const FlowFilter& filter : filters) {
    auto done = forgetFlows(socket, family, filter, stale);
    if (!done.ok()) log::warn("network", "stale flows stay: {}", done.error().message());
  }
}

void ServiceTable::want(const ServicePort& port, std::map<std::string, std::optional<ServicePort>>& wanted) const {
  static const ServicePort nothing;
  auto it = ports.find(port.key);
  auto own = ofFamily(port, family);
  wanted.erase(port.key);
  if (!own) {
    if (it != ports.end()) wanted[port.key] = std::nullopt;
    return;
  }
  const ServicePort& before = it == ports.end() ? nothing : it->second;
  own->endpoints = keepOrder(before.endpoints, own->endpoints);
  own->localEndpoints = keepOrder(before.localEndpoints, own->localEndpoints);
  if (it == ports.end() || it->second != *own) wanted[port.key] = std::move(own);
}

Result<> ServiceTable::changeOrNot(std::map<std::string, std::optional<ServicePort>> wanted) {
  if (!wanted.empty() || !installed) return change(std::move(wanted));
  lastChanges = 0;
  return {};
}

Result<> ServiceTable::apply(const std::vector<ServicePort>& snapshot, ServiceProxy::Snapshot kind) {
  std::map<std::string, std::optional<ServicePort>> wanted;
  std::set<std::string> keep;
  for (const auto& port : snapshot) {
    keep.insert(port.key);
    want(port, wanted);
  }
  for (auto& [key, port] : ports) {
    if (keep.count(key) == 0) wanted[key] = std::nullopt;
  }
  RETURN_IF_ERROR(changeOrNot(std::move(wanted)));
  if (kind == ServiceProxy::Snapshot::kSure) forgetAll();
  return {};
}

Result<> ServiceTable::update(const std::vector<ServicePort>& changed, const std::vector<std::string>& removed) {
  std::map<std::string, std::optional<ServicePort>> wanted;
  for (const auto& key : removed) {
    if (ports.count(key) > 0) wanted[key] = std::nullopt;
  }
  for (const auto& port : changed) want(port, wanted);
  return changeOrNot(std::move(wanted));
}

Result<> ServiceTable::destroy() {
  NftBatch batch(options.table, family);
  batch.addTable();
  batch.deleteTable();
  RETURN_IF_ERROR(batch.commit(socket));
  installed = false;
  ports.clear();
  claims.clear();
  hairpins.clear();
  pickers.clear();
  elements = 0;
  return {};
}

}  // namespace

ServiceProxy::ServiceProxy(std::unique_ptr<Rep> rep) : rep_(std::move(rep)) {}
ServiceProxy::~ServiceProxy() = default;

Result<std::unique_ptr<ServiceProxy>> ServiceProxy::open(ServiceProxyOptions options) {
  auto rep = std::make_unique<Rep>();
  rep->options = std::move(options);
  ASSIGN_OR_RETURN(rep->socket, NetlinkSocket::open(NETLINK_NETFILTER));
  ASSIGN_OR_RETURN(auto links, NetLinks::open());
  rep->links.emplace(std::move(links));
  rep->tables.push_back(std::make_unique<ServiceTable>(rep->options, IpFamily::kV4, rep->socket, *rep->links));
  const auto& ranges = rep->options.podRanges;
  if (std::any_of(ranges.begin(), ranges.end(), [](const IpPrefix& range) { return range.address.isV6(); }))
    rep->tables.push_back(std::make_unique<ServiceTable>(rep->options, IpFamily::kV6, rep->socket, *rep->links));
  return std::unique_ptr<ServiceProxy>(new ServiceProxy(std::move(rep)));
}

Result<> ServiceProxy::apply(const std::vector<ServicePort>& snapshot, Snapshot kind) {
  std::lock_guard lock(rep_->mutex);
  for (auto& table : rep_->tables) RETURN_IF_ERROR(table->apply(snapshot, kind));
  return {};
}

Result<> ServiceProxy::update(const std::vector<ServicePort>& changed, const std::vector<std::string>& removed) {
  std::lock_guard lock(rep_->mutex);
  for (auto& table : rep_->tables) RETURN_IF_ERROR(table->update(changed, removed));
  return {};
}

Result<> ServiceProxy::destroy() {
  std::lock_guard lock(rep_->mutex);
  for (auto& table : rep_->tables) RETURN_IF_ERROR(table->destroy());
  // One that a cluster of two families left.
  ASSIGN_OR_RETURN(const bool left, nftTableExists(rep_->socket, rep_->options.table, IpFamily::kV6));
  return left ? ServiceTable(rep_->options, IpFamily::kV6, rep_->socket, *rep_->links).destroy() : Result<>();
}

ServiceProxy::Stats ServiceProxy::stats() const {
  std::lock_guard lock(rep_->mutex);
  Stats out;
  for (const auto& table : rep_->tables) {
    out.services += table->claims.size();
    out.elements += table->elements;
    out.lastChanges += table->lastChanges;
  }
  return out;
}

}  // namespace dhow
