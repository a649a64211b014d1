#include "gateway.h"

#include <algorithm>

#include "base/strings.h"
#include "client/fields.h"
#include "gateway_status.h"
#include "object/labels.h"
#include "object/resource_names.h"

namespace dhow::controllers {

using namespace client;
namespace resources = object::resources;
using ingress::RouteKind;

namespace {

constexpr const char* kManager = object::kGatewaySliceController;
constexpr const char* kEverything = "all";
constexpr const char* kByService = "gateway-service";

const Resource& resourceOf(RouteKind kind) {
  switch (kind) {
    case RouteKind::kHttp: return resources::kHTTPRoutes;
    case RouteKind::kGrpc: return resources::kGRPCRoutes;
    case RouteKind::kTls: return resources::kTLSRoutes;
    case RouteKind::kTcp: break;
  }
  return resources::kTCPRoutes;
}

// Whether more than its status has changed.
bool differs(const ObjectPtr& before, const ObjectPtr& after) {
  if (!before || !after || before->deleting() != after->deleting()) return true;
  return client::object(before->root(), {"spec"}) != client::object(after->root(), {"spec"}) ||
         client::object(before->root(), {"metadata", "labels"}) !=
             client::object(after->root(), {"metadata", "labels"});
}

}  // namespace

GatewayController::GatewayController(Context context)
    : context_(context),
      classes_(context.caches.of(resources::kGatewayClasses)),
      gateways_(context.caches.of(resources::kGateways)),
      grants_(context.caches.of(resources::kReferenceGrants)),
      policies_(context.caches.of(resources::kBackendTLSPolicies)),
      services_(context.caches.of(resources::kServices)),
      slices_(context.caches.of(resources::kEndpointSlices)),
      secrets_(context.caches.of(resources::kSecrets)),
      configMaps_(context.caches.of(resources::kConfigMaps)),
      namespaces_(context.caches.of(resources::kNamespaces)),
      edge_(context, kManager),
      controller_(context.loop, {.name = "gateway", .workers = 1},
                  [this](std::string key) { return reconcile(std::move(key)); }) {
  auto always = [](const ObjectPtr&, const ObjectPtr&, WorkQueue& queue) { queue.add(kEverything); };
  auto ifDiffers = [](const ObjectPtr& before, const ObjectPtr& after, WorkQueue& queue) {
    if (differs(before, after)) queue.add(kEverything);
  };
  controller_.watch(classes_, always);
  controller_.watch(gateways_, always);
  controller_.watch(grants_, always);
  controller_.watch(policies_, always);
  controller_.watch(namespaces_, ifDiffers);
  for (RouteKind kind : ingress::kRouteKinds) controller_.watch(context.caches.of(resourceOf(kind)), always);
  edge_.watch(controller_, [](WorkQueue& queue) { queue.add(kEverything); });
  auto used = [this](Cache& cache, const std::set<std::string>& names) {
    controller_.watch(cache, [&names](const ObjectPtr& before, const ObjectPtr& after, WorkQueue& queue) {
      if (names.contains((after ? after : before)->key())) queue.add(kEverything);
    });
  };
  used(services_, usedServices_);
  used(secrets_, usedSecrets_);
  used(configMaps_, usedConfigMaps_);
  slices_.addIndex(kByService,
                   [](const ObjectPtr& slice, std::vector<std::string>& keys) { keys.push_back(serviceOf(*slice)); });
  controller_.watch(slices_, [this](const ObjectPtr& before, const ObjectPtr& after, WorkQueue& queue) {
    if (decisive_.contains(serviceOf(after ? *after : *before))) queue.add(kEverything);
  });
}

ingress::GatewayVerdicts GatewayController::judge() {
  ingress::GatewayDocuments documents;
  for (const ObjectPtr& gateway : gateways_.list()) {
    ObjectPtr found = classes_.get("", text(gateway->root(), {"spec", "gatewayClassName"}));
    if (!gateway->deleting() && found && text(found->root(), {"spec", "controllerName"}) == ingress::kGatewayController)
      documents.gateways.push_back(gateway);
  }
  std::set<std::string> services, secrets, configMaps;
  auto finder = [](Cache& cache, std::set<std::string>& names) {
    return [&cache, &names](std::string_view ns, std::string_view name) {
      names.insert(fmt::format("{}/{}", ns, name));
      return cache.get(ns, name);
    };
  };
  documents.service = finder(services_, services);
  documents.secret = finder(secrets_, secrets);
  documents.configMap = finder(configMaps_, configMaps);
  // Of pods nothing here depends; where endpoints are somebody's they decide whether connections go around.
  documents.slices = [this](std::string_view ns, std::string_view name) {
    const ObjectPtr service = services_.get(ns, name);
    const bool ofPods = !service || !client::object(service->root(), {"spec", "selector"}).empty();
    return ofPods ? std::vector<ObjectPtr>() : slices_.byIndex(kByService, fmt::format("{}/{}", ns, name));
  };
  documents.ns = [this](std::string_view name) { return namespaces_.get("", name); };
  if (!documents.gateways.empty()) {
    for (RouteKind kind : ingress::kRouteKinds)
      for (const ObjectPtr& route : context_.caches.of(resourceOf(kind)).list())
        if (!route->deleting()) documents.routes.push_back({kind, route});
    documents.grants = grants_.list();
    documents.backendTlsPolicies = policies_.list();
  }
  ingress::Config config;
  ingress::GatewayVerdicts out = ingress::compileGateways(documents, config);
  usedServices_ = std::move(services);
  usedSecrets_ = std::move(secrets);
  usedConfigMaps_ = std::move(configMaps);
  decisive_ = std::move(config.decisive);
  return out;
}

Task<Result<>> GatewayController::reconcile(std::string) {
  CO_RETURN_IF_ERROR(co_await keepClasses());
  const ingress::GatewayVerdicts verdicts = judge();
  CO_RETURN_IF_ERROR(co_await keepServices(verdicts));
  for (const ingress::GatewayVerdict& gateway : verdicts.gateways) CO_RETURN_IF_ERROR(co_await keepGateway(gateway));
  for (RouteKind kind : ingress::kRouteKinds)
    CO_RETURN_IF_ERROR(
        co_await keepParents(resourceOf(kind), "parents", "parentRef", verdicts.routes[static_cast<size_t>(kind)]));
  co_return co_await keepParents(resources::kBackendTLSPolicies, "ancestors", "ancestorRef", verdicts.policies);
}

Task<Result<>> GatewayController::keepClasses() {
  for (const ObjectPtr& one : classes_.list()) {
    if (text(one->root(), {"spec", "controllerName"}) != ingress::kGatewayController) continue;
    CO_RETURN_IF_ERROR(
        co_await writeStatus(resources::kGatewayClasses, one, gatewayClassStatus(*one, context_.loop.wallNow())));
  }
  co_return Result<>();
}

// A listener's port keeps the nodes' port that it has.
std::vector<EdgeServices::Port> GatewayController::portsFor(const ingress::GatewayVerdict& verdict,
                                                            std::set<uint16_t>& taken) const {
  const std::string name = ingress::gatewayService(*verdict.gateway);
  std::map<uint16_t, uint16_t> present;
  if (auto given = given_.find(name); given != given_.end()) {
    for (const auto& port : given->second)
      present[static_cast<uint16_t>(port.port)] = static_cast<uint16_t>(port.nodePort);
  } else if (ObjectPtr service = edge_.find(name)) {
    present = ingress::nodePortsOf(*service);
  }
  std::vector<EdgeServices::Port> out;
  for (uint16_t port : verdict.ports) {
    auto has = present.find(port);
    uint16_t nodePort = has == present.end() ? 0 : has->second;
    for (uint16_t next = ingress::kFirstGatewayPort; nodePort == 0 && next <= ingress::kLastGatewayPort; ++next)
      if (!taken.contains(next)) nodePort = next;
    if (nodePort == 0) continue;  // all are taken
    taken.insert(nodePort);
    out.push_back({fmt::format("port-{}", port), port, nodePort});
  }
  return out;
}

Task<Result<>> GatewayController::keepServices(const ingress::GatewayVerdicts& verdicts) {
  std::set<uint16_t> taken;
  std::set<std::string> wanted;
  for (const ObjectPtr& service : edge_.all())
    for (const auto& [port, nodePort] : ingress::nodePortsOf(*service)) taken.insert(nodePort);
  for (const auto& [name, ports] : given_)
    for (const auto& port : ports) taken.insert(static_cast<uint16_t>(port.nodePort));
  for (const ingress::GatewayVerdict& verdict : verdicts.gateways) {
    const ingress::ObjectPtr& gateway = verdict.gateway;
    EdgeServices::Wanted service;
    service.name = ingress::gatewayService(*gateway);
    service.ports = portsFor(verdict, taken);
    if (service.ports.empty()) continue;
    wanted.insert(service.name);
    const json::object& infrastructure = client::object(gateway->root(), {"spec", "infrastructure"});
    service.labels = client::object(infrastructure, {"labels"});
    service.annotations = client::object(infrastructure, {"annotations"});
    service.labels["gateway.networking.k8s.io/gateway-name"] = gateway->name();
    service.annotations["dhow.io/gateway"] = gateway->key();
    const json::array& addresses = array(gateway->root(), {"spec", "addresses"});
    service.loadBalancerIp =
        addresses.empty() || !addresses[0].is_object() ? "" : std::string(text(addresses[0].get_object(), "value"));
    given_[service.name] = service.ports;
    CO_RETURN_IF_ERROR(co_await edge_.keep(std::move(service)));
  }
  std::erase_if(given_, [&](const auto& one) { return !wanted.contains(one.first); });
  for (const ObjectPtr& service : edge_.all())
    if (!wanted.contains(std::string(service->name())))
      CO_RETURN_IF_ERROR(co_await edge_.remove(std::string(service->name())));
  co_return Result<>();
}

Task<Result<>> GatewayController::keepGateway(const ingress::GatewayVerdict& verdict) {
  GatewayProgress progress;
  progress.addresses = edge_.addresses(ingress::gatewayService(*verdict.gateway));
  progress.addressAsked = !array(verdict.gateway->root(), {"spec", "addresses"}).empty();
  progress.nodes = edge_.anyNode();
  auto given = given_.find(ingress::gatewayService(*verdict.gateway));
  progress.ports = (given == given_.end() ? 0 : given->second.size()) == verdict.ports.size();
  co_return co_await writeStatus(resources::kGateways, verdict.gateway,
                                 gatewayStatus(verdict, progress, context_.loop.wallNow()));
}

Task<Result<>> GatewayController::keepParents(Resource resource, std::string list, std::string reference,
                                              const std::vector<ingress::AttachmentVerdict>& verdicts) {
  std::map<std::string, const ingress::AttachmentVerdict*> byKey;
  for (const ingress::AttachmentVerdict& one : verdicts) byKey[one.object->key()] = &one;
  for (const ObjectPtr& one : context_.caches.of(resource).list()) {
    auto found = byKey.find(one->key());
    json::array parents =
        parentStatuses(*one, list, reference, found == byKey.end() ? nullptr : found->second, context_.loop.wallNow());
    json::object status;
    status[list] = std::move(parents);
    if (status[list].as_array().empty() && array(one->root(), {"status", list}).empty()) continue;
    CO_RETURN_IF_ERROR(co_await writeStatus(resource, one, std::move(status)));
  }
  co_return Result<>();
}

// Writes what differs.
Task<Result<>> GatewayController::writeStatus(Resource resource, ObjectPtr object, json::object status) {
  bool same = true;
  for (const auto& member : status) {
    const auto* present = field(object->root(), {"status", member.key()});
    same = same &&
           (present ? *present == member.value() : member.value().is_array() && member.value().get_array().empty());
  }
  if (same) co_return Result<>();
  json::object change;
  change["status"] = std::move(status);
  auto written = co_await context_.client.patch(resource, std::string(object->ns()), std::string(object->name()),
                                                "status", PatchType::kMerge, guardedPatch(*object, std::move(change)));
  // It goes, or comes again as it is now.
  if (!written.ok() && !written.error().is(Code::kNotFound) && !written.error().is(Code::kConflict))
    co_return std::move(written).error();
  co_return Result<>();
}

}  // namespace dhow::controllers
