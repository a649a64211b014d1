#include "ingress.h"

#include "client/fields.h"
#include "client/node_lease.h"
#include "object/labels.h"
#include "object/resource_names.h"

namespace dhow::controllers {

using namespace client;
namespace resources = object::resources;

namespace {

constexpr const char* kNamespace = "kube-system";
constexpr const char* kName = "dhow-ingress";
constexpr const char* kManager = "ingress-controller.dhow.io";
constexpr const char* kEverything = "all";

json::array portsOf(bool slice) {
  json::array out;
  for (const auto& [name, port] :
       {std::pair{"http", int64_t{ingress::kHttpPort}}, {"https", int64_t{ingress::kHttpsPort}}}) {
    json::object one{{"name", name}, {"port", port}, {"protocol", "TCP"}};
    if (!slice) one["targetPort"] = port;
    out.push_back(std::move(one));
  }
  return out;
}

std::string_view internalAddress(const Object& node) {
  for (const auto& address : array(node.root(), {"status", "addresses"}))
    if (address.is_object() && text(address.get_object(), "type") == "InternalIP")
      return text(address.get_object(), "address");
  return {};
}

json::object sliceOf(const std::vector<ObjectPtr>& nodes) {
  std::vector<ObjectPtr> serving;
  for (const ObjectPtr& node : nodes)
    if (!node->deleting() && conditionTrue(node->root(), kServesIngress) && conditionTrue(node->root(), "Ready") &&
        !internalAddress(*node).empty())
      serving.push_back(node);
  std::sort(serving.begin(), serving.end(), [](const auto& a, const auto& b) { return a->name() < b->name(); });
  json::array endpoints;
  for (const ObjectPtr& node : serving) {
    json::object one{{"addresses", json::array{json::string(internalAddress(*node))}},
                     {"conditions", json::object{{"ready", true}, {"serving", true}, {"terminating", false}}},
                     {"nodeName", node->name()}};
    if (auto zone = node->label(object::kZoneLabel); !zone.empty()) one["zone"] = zone;
    endpoints.push_back(std::move(one));
  }
  return {{"apiVersion", "discovery.k8s.io/v1"},
          {"kind", "EndpointSlice"},
          {"metadata", json::object{{"name", kName},
                                    {"labels", json::object{{object::kServiceNameLabel, kName},
                                                            {object::kSliceManagedByLabel, kManager}}}}},
          {"addressType", "IPv4"},
          {"endpoints", std::move(endpoints)},
          {"ports", portsOf(true)}};
}

}  // namespace

IngressController::IngressController(Context context)
    : context_(context),
      ingresses_(context.caches.of(resources::kIngresses)),
      classes_(context.caches.of(resources::kIngressClasses)),
      services_(context.caches.of(resources::kServices)),
      slices_(context.caches.of(resources::kEndpointSlices)),
      secrets_(context.caches.of(resources::kSecrets)),
      nodes_(context.caches.of(resources::kNodes)),
      events_(context.loop, context.client, {.component = "ingress-controller"}),
      controller_(context.loop, {.name = "ingress", .workers = 1},
                  [this](std::string key) { return reconcile(std::move(key)); }) {
  auto always = [](const ObjectPtr&, const ObjectPtr&, WorkQueue& queue) { queue.add(kEverything); };
  controller_.watch(ingresses_, always);
  controller_.watch(classes_, always);
  auto isOwn = [](const Object& object) { return object.ns() == kNamespace && object.name() == kName; };
  controller_.watch(slices_, [isOwn](const ObjectPtr& before, const ObjectPtr& after, WorkQueue& queue) {
    if (isOwn(after ? *after : *before)) queue.add(kEverything);
  });
  controller_.watch(services_, [this, isOwn](const ObjectPtr& before, const ObjectPtr& after, WorkQueue& queue) {
    const Object& service = after ? *after : *before;
    if (isOwn(service) || usedServices_.contains(service.key())) queue.add(kEverything);
  });
  controller_.watch(secrets_, [this](const ObjectPtr& before, const ObjectPtr& after, WorkQueue& queue) {
    if (usedSecrets_.contains((after ? after : before)->key())) queue.add(kEverything);
  });
  controller_.watch(nodes_, [](const ObjectPtr& before, const ObjectPtr& after, WorkQueue& queue) {
    auto relevant = [](const ObjectPtr& node) {
      return node ? std::tuple(conditionTrue(node->root(), kServesIngress), conditionTrue(node->root(), "Ready"),
                               node->deleting(), std::string(internalAddress(*node)))
                  : std::tuple(false, false, true, std::string());
    };
    if (relevant(before) != relevant(after)) queue.add(kEverything);
  });
}

Task<> IngressController::stop() {
  co_await controller_.stop();
  co_await events_.stop();
}

bool IngressController::isOurs(const Object& ingress) const {
  auto name = ingress::classOf(ingress);
  ObjectPtr found = name.empty() ? nullptr : classes_.get("", name);
  return found && text(found->root(), {"spec", "controller"}) == ingress::kIngressController;
}

Task<Result<>> IngressController::reconcile(std::string) {
  std::vector<ObjectPtr> ours;
  for (const ObjectPtr& ingress : ingresses_.list())
    if (!ingress->deleting() && isOurs(*ingress)) ours.push_back(ingress);
  tellProblems(ours);
  if (ours.empty()) co_return co_await removeService();
  CO_RETURN_IF_ERROR(co_await keepService());
  CO_RETURN_IF_ERROR(co_await keepSlice());
  for (const ObjectPtr& ingress : ours) CO_RETURN_IF_ERROR(co_await keepStatus(ingress));
  co_return Result<>();
}

Task<Result<>> IngressController::keepService() {
  if (services_.get(kNamespace, kName)) co_return Result<>();
  json::object service{
      {"apiVersion", "v1"},
      {"kind", "Service"},
      {"metadata", json::object{{"name", kName}, {"labels", json::object{{"app.kubernetes.io/managed-by", kManager}}}}},
      {"spec", json::object{{"type", "LoadBalancer"}, {"ports", portsOf(false)}}}};
  auto made = co_await context_.client.create(resources::kServices, kNamespace, std::move(service), "");
  if (!made.ok() && !made.error().is(Code::kAlreadyExists)) co_return std::move(made).error();
  co_return Result<>();
}

Task<Result<>> IngressController::keepSlice() {
  json::object wanted = sliceOf(nodes_.list());
  ObjectPtr present = slices_.get(kNamespace, kName);
  if (!present) {
    auto made = co_await context_.client.create(resources::kEndpointSlices, kNamespace, std::move(wanted), "");
    if (!made.ok() && !made.error().is(Code::kAlreadyExists)) co_return std::move(made).error();
    co_return Result<>();
  }
  if (array(present->root(), {"endpoints"}) == wanted["endpoints"].as_array() &&
      array(present->root(), {"ports"}).size() == wanted["ports"].as_array().size())
    co_return Result<>();
  json::object change{{"endpoints", wanted["endpoints"]}, {"ports", wanted["ports"]}};
  auto written = co_await context_.client.patch(resources::kEndpointSlices, kNamespace, kName, "", PatchType::kMerge,
                                                guardedPatch(*present, std::move(change)));
  if (!written.ok()) co_return std::move(written).error();
  co_return Result<>();
}

Task<Result<>> IngressController::removeService() {
  ObjectPtr service = services_.get(kNamespace, kName);
  if (service && service->label("app.kubernetes.io/managed-by") == kManager) {
    auto removed = co_await context_.client.remove(resources::kServices, kNamespace, kName, {});
    if (!removed.ok() && !removed.error().is(Code::kNotFound)) co_return removed;
  }
  ObjectPtr slice = slices_.get(kNamespace, kName);
  if (slice && slice->label(object::kSliceManagedByLabel) == kManager) {
    auto removed = co_await context_.client.remove(resources::kEndpointSlices, kNamespace, kName, {});
    if (!removed.ok() && !removed.error().is(Code::kNotFound)) co_return removed;
  }
  co_return Result<>();
}

Task<Result<>> IngressController::keepStatus(ObjectPtr ingress) {
  json::array wanted;
  if (ObjectPtr service = services_.get(kNamespace, kName)) {
    for (const auto& one : array(service->root(), {"status", "loadBalancer", "ingress"}))
      if (one.is_object() && !text(one.get_object(), "ip").empty())
        wanted.push_back(json::object{{"ip", text(one.get_object(), "ip")}});
  }
  if (array(ingress->root(), {"status", "loadBalancer", "ingress"}) == wanted) co_return Result<>();
  json::object change{{"status", json::object{{"loadBalancer", json::object{{"ingress", std::move(wanted)}}}}}};
  auto written =
      co_await context_.client.patch(resources::kIngresses, std::string(ingress->ns()), std::string(ingress->name()),
                                     "status", PatchType::kMerge, guardedPatch(*ingress, std::move(change)));
  // It goes, or comes again as it is now.
  if (!written.ok() && !written.error().is(Code::kNotFound) && !written.error().is(Code::kConflict))
    co_return std::move(written).error();
  co_return Result<>();
}

void IngressController::tellProblems(const std::vector<ObjectPtr>& ingresses) {
  std::set<std::string> services, secrets;
  ingress::Documents documents;
  documents.ingresses = ingresses;
  documents.service = [&](std::string_view ns, std::string_view name) {
    services.insert(fmt::format("{}/{}", ns, name));
    return services_.get(ns, name);
  };
  documents.secret = [&](std::string_view ns, std::string_view name) {
    secrets.insert(fmt::format("{}/{}", ns, name));
    return secrets_.get(ns, name);
  };
  documents.slices = [](std::string_view, std::string_view) { return std::vector<ObjectPtr>(); };
  std::set<std::string> now;
  for (const ingress::Problem& problem : ingress::compile(documents).problems) {
    std::string key = fmt::format("{} {}", problem.about->uid(), problem.message);
    if (now.insert(key).second && !told_.contains(key))
      events_.warning(*problem.about, problem.reason, problem.message);
  }
  told_ = std::move(now);
  usedServices_ = std::move(services);
  usedSecrets_ = std::move(secrets);
}

}  // namespace dhow::controllers
