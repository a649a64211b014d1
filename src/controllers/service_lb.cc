#include "service_lb.h"

#include "base/strings.h"
#include "client/fields.h"
#include "workload.h"

namespace dhow::controllers {

using namespace client;
using dhow::object::AddressRange;
using dhow::object::addressText;
using dhow::object::parseAddress;
using dhow::object::resources::kAddressPools;
using dhow::object::resources::kServices;

namespace {

constexpr char kByAddress[] = "balanced-address";
constexpr char kConfigured[] = "dhow.io/configured";  // the range that the pool was made of
constexpr char kDefaultPool[] = "default";
constexpr char kPoolsKey[] = "/pools";
constexpr Duration kTellPools = std::chrono::milliseconds(200);  // a burst of services becomes one write

bool balanced(const Object& service) {
  return text(service.root(), {"spec", "type"}) == "LoadBalancer" && !service.deleting();
}

// Of a class of its own, another controller takes care.
bool ofAnotherClass(const Object& service) {
  return !text(service.root(), {"spec", "loadBalancerClass"}).empty();
}

std::vector<object::AddressNumber> addressesOf(const Object& service) {
  std::vector<object::AddressNumber> out;
  for (const json::value& ingress : array(service.root(), {"status", "loadBalancer", "ingress"})) {
    if (!ingress.is_object()) continue;
    if (auto address = parseAddress(text(ingress.get_object(), "ip"))) out.push_back(*address);
  }
  return out;
}

// "192.0.2.0/24,2001:db8::/112"
std::vector<std::string> rangesIn(const std::string& text) {
  return text.empty() ? std::vector<std::string>() : split(text, ',');
}

bool isV6(const object::AddressNumber& address) {
  return addressText(address).find(':') != std::string::npos;
}

std::vector<std::string> familiesOf(const Object& service) {
  std::vector<std::string> out = strings(array(service.root(), {"spec", "ipFamilies"}));
  if (out.empty()) out = {"IPv4"};
  return out;
}

}  // namespace

uint64_t ServiceLoadBalancerController::Pool::size() const {
  uint64_t out = 0;
  for (const AddressRange& range : ranges) out = std::min<uint64_t>(out + range.size(), uint64_t{1} << 62);
  return out;
}

bool ServiceLoadBalancerController::Pool::contains(const Address& address) const {
  return std::any_of(ranges.begin(), ranges.end(), [&](const AddressRange& range) { return range.contains(address); });
}

ServiceLoadBalancerController::ServiceLoadBalancerController(Context context, std::string range)
    : context_(context),
      range_(std::move(range)),
      seeded_(range_.empty()),
      services_(context.caches.of(kServices)),
      pools_(context.caches.of(kAddressPools)),
      events_(context.loop, context.client, {.component = "service-controller"}),
      controller_(context.loop, {.name = "service-lb", .workers = 1},
                  [this](std::string key) { return reconcile(std::move(key)); }) {
  for (const std::string& range : rangesIn(range_)) CHECK(AddressRange::parse(range), "{} is no range", range);
  services_.addIndex(kByAddress, [](const ObjectPtr& service, std::vector<std::string>& keys) {
    for (const Address& address : addressesOf(*service)) keys.push_back(addressText(address));
  });
  controller_.watch(services_, [this](const ObjectPtr& before, const ObjectPtr& after, WorkQueue& queue) {
    queue.add(std::string((after ? after : before)->key()));
    const bool same = before && after && addressesOf(*before) == addressesOf(*after);
    if (same || (!before && addressesOf(*after).empty())) return;
    queue.addAfter(kPoolsKey, kTellPools);
    if (before) released();
  });
  controller_.watch(pools_, [this](const ObjectPtr& before, const ObjectPtr& after, WorkQueue& queue) {
    if (before && after && client::object(before->root(), {"spec"}) == client::object(after->root(), {"spec"})) return;
    queue.add(kPoolsKey);
    for (const std::string& key : std::exchange(parked_, {})) queue.add(key);
    released();
  });
  if (!seeded_) controller_.queue().add(kPoolsKey);
}

Task<> ServiceLoadBalancerController::stop() {
  co_await controller_.stop();
  co_await events_.stop();
}

// Those that wait may find an address now.
void ServiceLoadBalancerController::released() {
  for (const auto& [service, message] : told_) controller_.queue().add(service);
}

std::vector<ServiceLoadBalancerController::Pool> ServiceLoadBalancerController::pools() const {
  std::vector<ObjectPtr> all = pools_.list();
  // The older one of two that overlap is the one that counts.
  std::sort(all.begin(), all.end(), [](const ObjectPtr& a, const ObjectPtr& b) {
    auto age = [](const ObjectPtr& pool) {
      return std::pair(text(pool->root(), {"metadata", "creationTimestamp"}), pool->name());
    };
    return age(a) < age(b);
  });
  std::vector<Pool> out;
  for (const ObjectPtr& object : all) {
    if (object->deleting()) continue;
    Pool pool;
    pool.name = object->name();
    const json::value* automatic = field(object->root(), {"spec", "autoAssign"});
    pool.automatic = automatic == nullptr || !automatic->is_bool() || automatic->get_bool();
    for (const std::string& given : strings(array(object->root(), {"spec", "addresses"}))) {
      auto range = AddressRange::parse(given);
      if (!range) continue;
      for (const Pool& older : out) {
        const bool shared = std::any_of(older.ranges.begin(), older.ranges.end(),
                                        [&](const AddressRange& other) { return range->overlaps(other); });
        if (shared && older.overlap.empty() && pool.overlap.empty())
          pool.overlap = fmt::format("{} overlaps with the address pool {}, which is older", given, older.name);
      }
      pool.ranges.push_back(*range);
    }
    out.push_back(std::move(pool));
  }
  std::sort(out.begin(), out.end(), [](const Pool& a, const Pool& b) { return a.name < b.name; });
  return out;
}

std::string ServiceLoadBalancerController::holder(const Address& address, const std::string& except) const {
  for (const ObjectPtr& service : services_.byIndex(kByAddress, addressText(address))) {
    if (service->key() != except) return std::string(service->key());
  }
  for (const auto& [service, addresses] : given_) {
    if (service != except && std::find(addresses.begin(), addresses.end(), address) != addresses.end()) return service;
  }
  return "";
}

ServiceLoadBalancerController::Choice ServiceLoadBalancerController::choose(const Object& service,
                                                                            const std::vector<Address>& has) const {
  const std::string key(service.key());
  const std::string wanted(text(service.root(), {"spec", "loadBalancerIP"}));
  const std::string poolName(service.annotation(kPoolAnnotation));
  std::vector<Pool> all = pools();
  if (all.empty()) {
    return {{},
            "This cluster has no pool of load balancer addresses: EXTERNAL-IP stays pending. The service answers on "
            "its cluster address and on its node port of every node"};
  }
  if (!poolName.empty()) {
    std::erase_if(all, [&](const Pool& pool) { return pool.name != poolName; });
    if (all.empty()) return {{}, fmt::format("the address pool {} does not exist", poolName)};
  }
  if (all.size() == 1 && !all[0].overlap.empty()) return {{}, all[0].overlap};
  std::erase_if(all, [](const Pool& pool) { return !pool.overlap.empty(); });
  if (!wanted.empty()) {
    auto address = parseAddress(wanted);
    if (!address) return {{}, fmt::format("spec.loadBalancerIP \"{}\" is no IP address", wanted)};
    if (std::none_of(all.begin(), all.end(), [&](const Pool& pool) { return pool.contains(*address); })) {
      return {{},
              poolName.empty() ? fmt::format("{} is in no address pool", wanted)
                               : fmt::format("{} is not in the address pool {}", wanted, poolName)};
    }
    if (std::string other = holder(*address, key); !other.empty())
      return {{}, fmt::format("{} belongs to the service {}", wanted, other)};
    return {{*address}, ""};
  }
  if (poolName.empty()) std::erase_if(all, [](const Pool& pool) { return !pool.automatic; });
  if (all.empty()) return {{}, "no address pool assigns addresses to services that do not ask for it"};
  const std::vector<std::string> families = familiesOf(service);
  std::set<Address> promised;  // to others, and perhaps not written yet
  for (const auto& [other, addresses] : given_) {
    if (other != key) promised.insert(addresses.begin(), addresses.end());
  }
  auto isFree = [&](const Address& address) {
    if (promised.contains(address)) return false;
    const auto holders = services_.byIndex(kByAddress, addressText(address));
    return std::all_of(holders.begin(), holders.end(), [&](const ObjectPtr& holder) { return holder->key() == key; });
  };
  Choice out;
  for (const std::string& family : families) {
    const bool v6 = family == "IPv6";
    std::optional<Address> found;
    for (const Address& address : has) {
      if (isV6(address) == v6) found = address;
    }
    for (const Pool& pool : all) {
      for (const AddressRange& range : pool.ranges) {
        if (isV6(range.first) != v6) continue;
        for (Address at = range.first; !found; at = dhow::object::next(at)) {
          if (isFree(at)) found = at;
          if (at == range.last) break;
        }
      }
    }
    if (found) out.addresses.push_back(*found);
  }
  if (!out.addresses.empty()) return out;
  std::vector<std::string> names;
  for (const Pool& pool : all) names.push_back(pool.name);
  out.problem = fmt::format("no {} address is left in the address pool{} {}", join(families, " or "),
                            names.size() == 1 ? "" : "s", join(names, ", "));
  return out;
}

// The pool that the cluster was started with. An administrator may change it; a changed option changes it, too.
Task<Result<>> ServiceLoadBalancerController::seed(std::string key) {
  json::array addresses;
  for (const std::string& range : rangesIn(range_)) addresses.push_back(json::value(range));
  const json::object spec{{"addresses", std::move(addresses)}};
  ObjectPtr pool = pools_.get("", kDefaultPool);
  if (!pool) {
    parked_.insert(std::move(key));
    const json::object metadata{{"name", kDefaultPool}, {"annotations", {{kConfigured, range_}}}};
    Result<ObjectPtr> made =
        co_await context_.client.create(kAddressPools, "", json::object{{"metadata", metadata}, {"spec", spec}});
    if (!made.ok() && !made.error().is(Code::kAlreadyExists)) co_return std::move(made).error();
    co_return Result<>();
  }
  const std::string_view before = pool->annotation(kConfigured);
  if (!before.empty() && before != range_) {
    Result<ObjectPtr> changed = co_await context_.client.patch(
        kAddressPools, "", kDefaultPool, "", PatchType::kMerge,
        guardedPatch(*pool, json::object{{"metadata", {{"annotations", {{kConfigured, range_}}}}}, {"spec", spec}}));
    if (!changed.ok()) co_return std::move(changed).error();
  }
  seeded_ = true;
  controller_.queue().add(std::move(key));
  co_return Result<>();
}

Task<Result<>> ServiceLoadBalancerController::reconcile(std::string key) {
  if (!seeded_) {
    Result<> made = co_await seed(std::move(key));
    co_return made;
  }
  if (key == kPoolsKey) {
    Result<> told = co_await tellPools();
    co_return told;
  }
  Result<> done = co_await reconcileService(std::move(key));
  co_return done;
}

Task<Result<>> ServiceLoadBalancerController::tellPools() {
  std::vector<std::pair<ObjectPtr, json::object>> changes;
  const std::vector<ObjectPtr> services = services_.list();
  for (const Pool& pool : pools()) {
    ObjectPtr object = pools_.get("", pool.name);
    if (!object) continue;
    uint64_t used = 0;
    for (const ObjectPtr& service : services) {
      for (const Address& address : addressesOf(*service)) used += pool.contains(address) ? 1 : 0;
    }
    const uint64_t free = pool.overlap.empty() ? pool.size() - std::min(used, pool.size()) : 0;
    json::object status = client::object(object->root(), {"status"});
    status["used"] = static_cast<int64_t>(used);
    status["free"] = static_cast<int64_t>(free);
    const std::string reason = !pool.overlap.empty() ? "Overlaps" : free == 0 ? "Exhausted" : "AddressesFree";
    const std::string message = !pool.overlap.empty() ? pool.overlap : free == 0 ? "all addresses are in use" : "";
    setCondition(status, "Ready", pool.overlap.empty() ? "True" : "False", reason, message, context_.loop.wallNow());
    if (status != client::object(object->root(), {"status"})) changes.emplace_back(object, std::move(status));
  }
  for (auto& [pool, status] : changes) {
    Result<ObjectPtr> written =
        co_await context_.client.patch(kAddressPools, "", std::string(pool->name()), "status", PatchType::kMerge,
                                       guardedPatch(*pool, json::object{{"status", std::move(status)}}));
    if (!written.ok() && !written.error().is(Code::kNotFound)) co_return std::move(written).error();
  }
  co_return Result<>();
}

void ServiceLoadBalancerController::tell(const Object& service, std::string_view reason, std::string message) {
  std::string& before = told_[std::string(service.key())];
  if (before == message) return;
  before = message;
  events_.warning(service, reason, std::move(message));
}

Task<Result<>> ServiceLoadBalancerController::reconcileService(std::string key) {
  auto [ns, name] = splitKey(key);
  ObjectPtr service = services_.get(ns, name);
  if (!service || !balanced(*service) || ofAnotherClass(*service)) {
    told_.erase(key);
    const bool given = given_.erase(key) > 0;
    if (given) released();
    if (!service || service->deleting() || ofAnotherClass(*service)) co_return Result<>();
    const auto addresses = addressesOf(*service);
    if (addresses.empty()) co_return Result<>();
    // What another has given, where there are no pools, is that one's to take.
    const auto all = pools();
    const bool ours = given || std::any_of(all.begin(), all.end(),
                                           [&](const Pool& pool) { return pool.contains(addresses.front()); });
    if (!ours) co_return Result<>();
    Result<> cleared = co_await writeAddresses(service, {});
    co_return cleared;
  }
  auto present = addressesOf(*service);
  if (!present.empty()) {
    // It stays what it is, even out of a pool that is gone, until the service asks for another one.
    const auto wanted = parseAddress(text(service->root(), {"spec", "loadBalancerIP"}));
    const std::string_view poolName = service->annotation(kPoolAnnotation);
    bool fits = !wanted || std::find(present.begin(), present.end(), *wanted) != present.end();
    for (const Pool& pool : pools()) {
      if (pool.name == poolName && !wanted && !pool.contains(present.front())) fits = false;
    }
    // A second family comes and goes with the service's policy; what it asked for by name stays alone.
    if (fits && !wanted) {
      Choice families = choose(*service, present);
      if (!families.addresses.empty() && families.addresses != present) {
        given_[key] = families.addresses;
        Result<> written = co_await writeAddresses(service, std::move(families.addresses));
        co_return written;
      }
    }
    if (fits) {
      told_.erase(key);
      given_[key] = std::move(present);
      co_return Result<>();
    }
    given_.erase(key);
  }
  auto held = given_.find(key);
  Choice choice = held != given_.end() ? Choice{held->second, ""} : choose(*service, {});
  if (choice.addresses.empty()) {
    if (pools().empty()) {
      tell(*service, "LoadBalancerPending", std::move(choice.problem));
    } else {
      tell(*service, "SyncLoadBalancerFailed",
           fmt::format("Error syncing load balancer: {}{}", choice.problem,
                       present.empty() ? "" : fmt::format("; it keeps {}", addressText(present.front()))));
    }
    if (!present.empty()) given_[key] = std::move(present);
    co_return Result<>();
  }
  given_[key] = choice.addresses;
  Result<> written = co_await writeAddresses(service, std::move(choice.addresses));
  if (written.ok()) {
    told_.erase(key);
    events_.normal(*service, "EnsuredLoadBalancer", "Ensured load balancer");
  }
  co_return written;
}

Task<Result<>> ServiceLoadBalancerController::writeAddresses(ObjectPtr service, std::vector<Address> addresses) {
  json::object balancer{{"ingress", nullptr}};
  if (!addresses.empty()) {
    json::array ingress;
    for (const Address& address : addresses)
      ingress.push_back(json::object{{"ip", addressText(address)}, {"ipMode", "VIP"}});
    balancer["ingress"] = std::move(ingress);
  }
  json::object change{{"status", json::object{{"loadBalancer", std::move(balancer)}}}};
  Result<ObjectPtr> written =
      co_await context_.client.patch(kServices, std::string(service->ns()), std::string(service->name()), "status",
                                     PatchType::kMerge, guardedPatch(*service, std::move(change)));
  if (!written.ok()) co_return std::move(written).error();
  co_return Result<>();
}

}  // namespace dhow::controllers
