#include "controllers/manager.h"

#include "autoscaler.h"
#include "base/strings.h"
#include "certificates.h"
#include "deployment.h"
#include "disruption.h"
#include "endpoints_mirror.h"
#include "endpointslice.h"
#include "evacuation.h"
#include "event_expiry.h"
#include "garbage_collector.h"
#include "gateway.h"
#include "heartbeats.h"
#include "ingress.h"
#include "inventory.h"
#include "machine.h"
#include "namespace.h"
#include "node_ipam.h"
#include "node_lifecycle.h"
#include "node_pool.h"
#include "node_zones.h"
#include "object/address_range.h"
#include "object/kinds.h"
#include "platform_seed.h"
#include "pod_gc.h"
#include "replicaset.h"
#include "returns.h"
#include "service_account.h"
#include "service_lb.h"
#include "token_cleaner.h"
#include "zone_health.h"

namespace dhow::controllers {

Result<> check(const Options& options) {
  RETURN_IF_ERROR(NodeIpamController::check({options.clusterCidrs, options.nodeMaskSize}));
  if (!options.loadBalancerPool.empty()) {
    for (const std::string& range : split(options.loadBalancerPool, ',')) {
      if (!object::AddressRange::parse(range))
        return Error(Code::kInvalid, fmt::format("the load balancer pool \"{}\" is no range of addresses", range));
    }
  }
  return {};
}

struct Manager::Rep {
  std::unique_ptr<Heartbeats> ownHeartbeats;
  std::unique_ptr<Inventory> inventory;
  std::vector<std::unique_ptr<Component>> components;
};

namespace {

// Every stored kind that can be deleted. Events own nothing, nobody owns them, and there are many.
std::vector<GarbageCollector::Kind> collectedKinds() {
  std::vector<GarbageCollector::Kind> out;
  for (const object::KindInfo& kind : object::Kinds::builtin().all()) {
    if (!kind.stored || kind.plural.empty() || !kind.storedAsKind.empty() || !kind.has("delete")) continue;
    if (kind.resource() != object::resources::kEvents) out.push_back({kind.resource(), kind.kind});
  }
  return out;
}

std::vector<client::Resource> namespaceContents() {
  std::vector<client::Resource> out;
  for (const object::KindInfo& kind : object::Kinds::builtin().all()) {
    if (!kind.stored || kind.plural.empty() || !kind.storedAsKind.empty() || !kind.has("delete")) continue;
    if (kind.namespaced) out.push_back(kind.resource());
  }
  return out;
}

}  // namespace

// Zones, pools and machines, which share what they know of heartbeats and of the provider.
void Manager::addPlatform(Rep& rep, const Context& context, Heartbeats& heartbeats, const Options& options) {
  rep.inventory = std::make_unique<Inventory>(context, options.machines);
  auto health =
      std::make_unique<ZoneHealthController>(context, heartbeats, *rep.inventory, ZoneHealthController::Options{});
  const ZoneHealthController& zones = *health;
  rep.components.push_back(std::move(health));
  rep.components.push_back(std::make_unique<EvacuationController>(context, heartbeats, *rep.inventory));
  std::unique_ptr<NodePoolController> pools;
  if (options.machines != nullptr) pools = std::make_unique<NodePoolController>(context, options.clusterName);
  rep.components.push_back(std::make_unique<ReturnsController>(context, pools.get(), ReturnsController::Options{}));
  if (!options.region.empty() && !options.zones.empty()) {
    rep.components.push_back(
        std::make_unique<PlatformSeed>(context, PlatformSeed::Plan{options.region, options.zones, options.nodes}));
  }
  if (options.machines == nullptr) {
    if (!options.region.empty())
      rep.components.push_back(std::make_unique<NodeZonesController>(context, options.region));
    return;
  }
  rep.components.push_back(std::make_unique<MachineController>(context, *options.machines, heartbeats, *rep.inventory,
                                                               zones, MachineController::Options{}));
  rep.components.push_back(std::move(pools));
  rep.components.push_back(std::make_unique<AutoscalerController>(context));
}

Manager::Manager(Loop& loop, client::Client& client, client::Caches& caches, Options options)
    : rep_(std::make_unique<Rep>()) {
  Context context{loop, client, caches};
  if (options.heartbeats == nullptr) rep_->ownHeartbeats = std::make_unique<Heartbeats>(loop, caches);
  Heartbeats& heartbeats = options.heartbeats != nullptr ? *options.heartbeats : *rep_->ownHeartbeats;
  auto add = [&](std::string_view name, auto make) {
    if (!options.disabled.contains(std::string(name))) rep_->components.push_back(make());
  };
  add("deployment", [&] { return std::make_unique<DeploymentController>(context); });
  add("replicaset", [&] { return std::make_unique<ReplicaSetController>(context); });
  add("disruption", [&] { return std::make_unique<DisruptionController>(context); });
  add("endpointslice", [&] { return std::make_unique<EndpointSliceController>(context); });
  add("endpointslicemirroring", [&] { return std::make_unique<EndpointsMirrorController>(context); });
  add("garbagecollector", [&] { return std::make_unique<GarbageCollector>(context, collectedKinds()); });
  add("podgc", [&] { return std::make_unique<PodGarbageCollector>(context, options.terminatedPodLimit); });
  add("eventexpiry", [&] { return std::make_unique<EventExpiry>(context, options.eventTtl); });
  add("namespace", [&] { return std::make_unique<NamespaceController>(context, namespaceContents()); });
  add("nodelifecycle", [&] {
    return std::make_unique<NodeLifecycleController>(context, heartbeats, NodeLifecycleController::Options{});
  });
  add("serviceaccount", [&] { return std::make_unique<ServiceAccountController>(context, options.rootCaPem); });
  add("certificates", [&] {
    CertificatesController::Options certificates;
    certificates.validity = options.certificateLife;
    if (!options.caKeyPem.empty()) certificates.authority = Identity{options.rootCaPem, options.caKeyPem};
    return std::make_unique<CertificatesController>(context, std::move(certificates));
  });
  add("tokencleaner", [&] { return std::make_unique<TokenCleaner>(context); });
  if (!options.clusterCidrs.empty()) {
    add("nodeipam", [&] {
      return std::make_unique<NodeIpamController>(
          context, NodeIpamController::Options{options.clusterCidrs, options.nodeMaskSize});
    });
  }
  add("loadbalancer",
      [&] { return std::make_unique<ServiceLoadBalancerController>(context, options.loadBalancerPool); });
  add("ingress", [&] { return std::make_unique<IngressController>(context); });
  add("gateway", [&] { return std::make_unique<GatewayController>(context); });
  if (!options.disabled.contains("platform")) addPlatform(*rep_, context, heartbeats, options);
}

Manager::~Manager() = default;

void Manager::start() {
  if (rep_->ownHeartbeats) rep_->ownHeartbeats->start();
  if (rep_->inventory) rep_->inventory->start();
  for (auto& component : rep_->components) component->start();
}

Task<> Manager::stop() {
  std::vector<Component*> all;
  for (auto& component : rep_->components) all.push_back(component.get());
  if (rep_->ownHeartbeats) rep_->ownHeartbeats->stop();
  if (rep_->inventory) co_await rep_->inventory->stop();
  for (Component* component : all) co_await component->stop();
}

bool Manager::idle() const {
  if (rep_->inventory && !rep_->inventory->idle()) return false;
  return std::all_of(rep_->components.begin(), rep_->components.end(),
                     [](const auto& component) { return component->idle(); });
}

}  // namespace dhow::controllers
