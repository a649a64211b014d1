#include "service_lb.h"

#include "client/fields.h"

namespace dhow::controllers {

using namespace client;
using object::resources::kServices;

namespace {

// Of a class of its own, another controller takes care.
bool wantsAddress(const Object& service) {
  return text(service.root(), {"spec", "type"}) == "LoadBalancer" &&
         text(service.root(), {"spec", "loadBalancerClass"}).empty() && !service.deleting();
}

std::string_view addressOf(const Object& service) {
  const json::array& ingress = array(service.root(), {"status", "loadBalancer", "ingress"});
  return ingress.empty() || !ingress[0].is_object() ? std::string_view() : text(ingress[0].get_object(), "ip");
}

}  // namespace

ServiceLoadBalancerController::ServiceLoadBalancerController(Context context, std::string pool)
    : context_(context),
      services_(context.caches.of(kServices)),
      events_(context.loop, context.client, {.component = "service-controller"}),
      controller_(context.loop, {.name = "service-lb", .workers = 1},
                  [this](std::string key) { return reconcile(std::move(key)); }) {
  pool_ = Ipv4Range::parse(pool);
  CHECK(pool_ || pool.empty(), "{} is no range", pool);
  controller_.watchOwn(services_);
}

Task<> ServiceLoadBalancerController::stop() {
  co_await controller_.stop();
  co_await events_.stop();
}

uint32_t ServiceLoadBalancerController::choose(uint32_t wanted) const {
  std::set<uint32_t> used;
  for (const auto& [service, address] : given_) used.insert(address);
  for (const ObjectPtr& service : services_.list()) {
    if (auto address = parseIpv4(addressOf(*service))) used.insert(*address);
  }
  if (wanted != 0 && pool_->contains(wanted) && !used.contains(wanted)) return wanted;
  // Neither the network's nor the broadcast address.
  for (uint32_t address = pool_->first + 1; address < pool_->first + pool_->size() - 1; ++address) {
    if (!used.contains(address)) return address;
  }
  return 0;
}

Task<Result<>> ServiceLoadBalancerController::reconcile(std::string key) {
  auto [ns, name] = splitKey(key);
  ObjectPtr service = services_.get(ns, name);
  if (!pool_) {
    // Whatever address it has is somebody else's to give and to take.
    if (!service || !wantsAddress(*service) || !addressOf(*service).empty()) {
      told_.erase(key);
    } else if (told_.insert(key).second) {
      events_.warning(*service, "LoadBalancerPending",
                      "This cluster has no pool of load balancer addresses: EXTERNAL-IP stays pending. The service "
                      "answers on its cluster address and on its node port of every node");
    }
    co_return Result<>();
  }
  if (!service || !wantsAddress(*service)) {
    given_.erase(key);
    if (!service || service->deleting() || addressOf(*service).empty()) co_return Result<>();
    Result<> cleared = co_await writeAddress(service, "");
    co_return cleared;
  }
  if (auto address = parseIpv4(addressOf(*service))) {
    given_[key] = *address;
    co_return Result<>();
  }
  auto held = given_.find(key);
  uint32_t address = held != given_.end()
                         ? held->second
                         : choose(parseIpv4(text(service->root(), {"spec", "loadBalancerIP"})).value_or(0));
  if (address == 0) {
    events_.warning(*service, "SyncLoadBalancerFailed",
                    fmt::format("Error syncing load balancer: no address is left in {}", pool_->str()));
    co_return Error(Code::kUnavailable, "no load balancer address is left in " + pool_->str());
  }
  given_[key] = address;
  Result<> written = co_await writeAddress(service, ipv4Text(address));
  if (written.ok()) events_.normal(*service, "EnsuredLoadBalancer", "Ensured load balancer");
  co_return written;
}

Task<Result<>> ServiceLoadBalancerController::writeAddress(ObjectPtr service, std::string address) {
  json::object balancer;
  if (address.empty()) {
    balancer["ingress"] = nullptr;
  } else {
    balancer["ingress"] = json::array{json::object{{"ip", address}, {"ipMode", "VIP"}}};
  }
  json::object change{{"status", json::object{{"loadBalancer", std::move(balancer)}}}};
  Result<ObjectPtr> written =
      co_await context_.client.patch(kServices, std::string(service->ns()), std::string(service->name()), "status",
                                     PatchType::kMerge, guardedPatch(*service, std::move(change)));
  if (!written.ok()) co_return std::move(written).error();
  co_return Result<>();
}

}  // namespace dhow::controllers
