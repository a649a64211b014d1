#include "network/service_proxy.h"

#include <mutex>

#include "base/log.h"
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

std::set<IpAddress> endpointAddresses(const ServicePort& port) {
  std::set<IpAddress> out;
  for (auto* list : {&port.endpoints, &port.localEndpoints}) {
    for (auto& endpoint : *list) out.insert(endpoint.address);
  }
  return out;
}

// The table of one family. Ports are what of them is of that family (ofFamily).
struct ServiceTable {
  ServiceTable(const ServiceProxyOptions& o, IpFamily f, NetlinkSocket& s) : options(o), family(f), socket(s) {}

  const ServiceProxyOptions& options;
  const IpFamily family;
  NetlinkSocket& socket;
  bool installed = false;
  std::map<std::string, ServicePort> ports;
  std::map<Frontend, std::set<std::string>> claims;  // the first one holds it
  std::map<IpAddress, size_t> hairpins;
  std::set<Picker> pickers;
  size_t elements = 0, lastChanges = 0;

  Result<> apply(const std::vector<ServicePort>& snapshot);
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
  void forgetUdp(const std::map<std::string, std::optional<ServicePort>>& before);
};

}  // namespace

struct ServiceProxy::Rep {
  mutable std::mutex mutex;
  ServiceProxyOptions options;
  NetlinkSocket socket;
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
  auto hairpinsBefore = hairpins;
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
    for (auto& [address, uses] : hairpinsBefore) {
      if (hairpins.count(address) == 0) removals[kHairpin].push_back(hairpinElement(address)), removed++;
    }
    for (auto& [address, uses] : hairpins) {
      if (hairpinsBefore.count(address) == 0) additions[kHairpin].push_back(hairpinElement(address)), added++;
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
  forgetUdp(before);
  return {};
}

void ServiceTable::forgetUdp(const std::map<std::string, std::optional<ServicePort>>& before) {
  std::vector<StaleFlows> stale;
  for (auto& [key, old] : before) {
    auto now = ports.find(key);
    std::set<IpAddress> have, had;
    if (now != ports.end()) have = endpointAddresses(now->second);
    if (old) had = endpointAddresses(*old);
    bool served = had.empty() && !have.empty();
    std::set<IpAddress> gone;
    std::set_difference(had.begin(), had.end(), have.begin(), have.end(), std::inserter(gone, gone.end()));
    std::set<Frontend> frontends;
    const ServicePort* both[] = {old ? &*old : nullptr, now != ports.end() ? &now->second : nullptr};
    for (const auto* port : both) {
      if (port == nullptr || port->protocol != Protocol::kUdp) continue;
      for (auto& frontend : frontendsOf(*port)) frontends.insert(frontend);
    }
    if (gone.empty() && !served) continue;
    for (auto& frontend : frontends) stale.push_back({frontend, gone, served});
  }
  auto done = forgetFlows(socket, family, stale);
  if (!done.ok()) log::warn("network", "stale UDP flows stay: {}", done.error().message());
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

Result<> ServiceTable::apply(const std::vector<ServicePort>& snapshot) {
  std::map<std::string, std::optional<ServicePort>> wanted;
  std::set<std::string> keep;
  for (const auto& port : snapshot) {
    keep.insert(port.key);
    want(port, wanted);
  }
  for (auto& [key, port] : ports) {
    if (keep.count(key) == 0) wanted[key] = std::nullopt;
  }
  return changeOrNot(std::move(wanted));
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
  rep->tables.push_back(std::make_unique<ServiceTable>(rep->options, IpFamily::kV4, rep->socket));
  const auto& ranges = rep->options.podRanges;
  if (std::any_of(ranges.begin(), ranges.end(), [](const IpPrefix& range) { return range.address.isV6(); }))
    rep->tables.push_back(std::make_unique<ServiceTable>(rep->options, IpFamily::kV6, rep->socket));
  return std::unique_ptr<ServiceProxy>(new ServiceProxy(std::move(rep)));
}

Result<> ServiceProxy::apply(const std::vector<ServicePort>& snapshot) {
  std::lock_guard lock(rep_->mutex);
  for (auto& table : rep_->tables) RETURN_IF_ERROR(table->apply(snapshot));
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
  return left ? ServiceTable(rep_->options, IpFamily::kV6, rep_->socket).destroy() : Result<>();
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
