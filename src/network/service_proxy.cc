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
      if (endpoint.local && endpoint.address.isV4()) out.insert(endpoint.address);
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

}  // namespace

struct ServiceProxy::Rep {
  mutable std::mutex mutex;
  ServiceProxyOptions options;
  NetlinkSocket socket;
  bool installed = false;
  std::map<std::string, ServicePort> ports;
  std::map<Frontend, std::set<std::string>> claims;  // the first one holds it
  std::map<IpAddress, size_t> hairpins;
  std::set<Picker> pickers;
  size_t elements = 0, lastChanges = 0;

  void store(ServicePort port);
  void erase(const std::string& key);
  Contribution contributionOf(const std::string& key) const;
  Result<> install();
  Result<> change(std::map<std::string, std::optional<ServicePort>> wanted);
  void forgetUdp(const std::map<std::string, std::optional<ServicePort>>& before);
};

void ServiceProxy::Rep::store(ServicePort port) {
  for (auto& frontend : frontendsOf(port)) claims[frontend].insert(port.key);
  for (auto& address : localAddresses(port)) hairpins[address]++;
  auto key = port.key;
  ports[key] = std::move(port);
}

void ServiceProxy::Rep::erase(const std::string& key) {
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

Contribution ServiceProxy::Rep::contributionOf(const std::string& key) const {
  Contribution out;
  auto it = ports.find(key);
  if (it == ports.end()) return out;
  for (auto& frontend : frontendsOf(it->second)) {
    if (*claims.at(frontend).begin() == key) contributeFrontend(it->second, frontend, out);
  }
  return out;
}

namespace {

void addPicker(NftBatch& batch, const Picker& picker) {
  auto chain = picker.chain();
  batch.addChain(chain);
  for (auto& rule : rulesOf(picker)) batch.addRule(chain, rule);
  batch.addElements(kClasses, {{.key = picker.key(), .keyEnd = "", .data = "", .verdict = chain}});
}

NftBatch::Element hairpinElement(const IpAddress& address) {
  return {.key = NftKey().address(address).address(address), .keyEnd = "", .data = "", .verdict = ""};
}

using BySet = std::map<std::string, std::vector<NftBatch::Element>>;

}  // namespace

// Everything in one batch that takes the place of whatever table was there.
Result<> ServiceProxy::Rep::install() {
  NftBatch batch(options.table);
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
Result<> ServiceProxy::Rep::change(std::map<std::string, std::optional<ServicePort>> wanted) {
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
    NftBatch batch(options.table);
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

void ServiceProxy::Rep::forgetUdp(const std::map<std::string, std::optional<ServicePort>>& before) {
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
  auto done = forgetFlows(socket, stale);
  if (!done.ok()) log::warn("network", "stale UDP flows stay: {}", done.error().message());
}

ServiceProxy::ServiceProxy(std::unique_ptr<Rep> rep) : rep_(std::move(rep)) {}
ServiceProxy::~ServiceProxy() = default;

Result<std::unique_ptr<ServiceProxy>> ServiceProxy::open(ServiceProxyOptions options) {
  auto rep = std::make_unique<Rep>();
  rep->options = std::move(options);
  ASSIGN_OR_RETURN(rep->socket, NetlinkSocket::open(NETLINK_NETFILTER));
  return std::unique_ptr<ServiceProxy>(new ServiceProxy(std::move(rep)));
}

Result<> ServiceProxy::apply(std::vector<ServicePort> snapshot) {
  const ServicePort nothing;
  std::lock_guard lock(rep_->mutex);
  std::map<std::string, std::optional<ServicePort>> wanted;
  std::set<std::string> keep;
  for (auto& port : snapshot) {
    keep.insert(port.key);
    auto it = rep_->ports.find(port.key);
    const ServicePort& before = it == rep_->ports.end() ? nothing : it->second;
    port.endpoints = keepOrder(before.endpoints, port.endpoints);
    port.localEndpoints = keepOrder(before.localEndpoints, port.localEndpoints);
    if (it == rep_->ports.end() || it->second != port) wanted[port.key] = std::move(port);
  }
  for (auto& [key, port] : rep_->ports) {
    if (keep.count(key) == 0) wanted[key] = std::nullopt;
  }
  if (wanted.empty() && rep_->installed) {
    rep_->lastChanges = 0;
    return {};
  }
  return rep_->change(std::move(wanted));
}

Result<> ServiceProxy::update(std::vector<ServicePort> changed, const std::vector<std::string>& removed) {
  const ServicePort nothing;
  std::lock_guard lock(rep_->mutex);
  std::map<std::string, std::optional<ServicePort>> wanted;
  for (auto& key : removed) {
    if (rep_->ports.count(key) > 0) wanted[key] = std::nullopt;
  }
  for (auto& port : changed) {
    auto it = rep_->ports.find(port.key);
    const ServicePort& before = it == rep_->ports.end() ? nothing : it->second;
    port.endpoints = keepOrder(before.endpoints, port.endpoints);
    port.localEndpoints = keepOrder(before.localEndpoints, port.localEndpoints);
    if (it == rep_->ports.end() || it->second != port) {
      auto key = port.key;
      wanted[key] = std::move(port);
    } else {
      wanted.erase(port.key);
    }
  }
  if (wanted.empty() && rep_->installed) {
    rep_->lastChanges = 0;
    return {};
  }
  return rep_->change(std::move(wanted));
}

Result<> ServiceProxy::destroy() {
  std::lock_guard lock(rep_->mutex);
  NftBatch batch(rep_->options.table);
  batch.addTable();
  batch.deleteTable();
  RETURN_IF_ERROR(batch.commit(rep_->socket));
  rep_->installed = false;
  rep_->ports.clear();
  rep_->claims.clear();
  rep_->hairpins.clear();
  rep_->pickers.clear();
  rep_->elements = 0;
  return {};
}

ServiceProxy::Stats ServiceProxy::stats() const {
  std::lock_guard lock(rep_->mutex);
  return {.services = rep_->claims.size(), .elements = rep_->elements, .lastChanges = rep_->lastChanges};
}

}  // namespace dhow
