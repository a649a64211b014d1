#include "ingress.h"

#include "client/fields.h"
#include "object/labels.h"
#include "object/resource_names.h"

namespace dhow::controllers {

using namespace client;
namespace resources = object::resources;

namespace {

constexpr const char* kName = "dhow-ingress";
constexpr const char* kEverything = "all";

}  // namespace

IngressController::IngressController(Context context)
    : context_(context),
      ingresses_(context.caches.of(resources::kIngresses)),
      classes_(context.caches.of(resources::kIngressClasses)),
      services_(context.caches.of(resources::kServices)),
      secrets_(context.caches.of(resources::kSecrets)),
      configMaps_(context.caches.of(resources::kConfigMaps)),
      edge_(context, object::kIngressSliceController),
      events_(context.loop, context.client, {.component = "ingress-controller"}),
      controller_(context.loop, {.name = "ingress", .workers = 1},
                  [this](std::string key) { return reconcile(std::move(key)); }) {
  auto always = [](const ObjectPtr&, const ObjectPtr&, WorkQueue& queue) { queue.add(kEverything); };
  controller_.watch(ingresses_, always);
  controller_.watch(classes_, always);
  edge_.watch(controller_, [](WorkQueue& queue) { queue.add(kEverything); });
  controller_.watch(services_, [this](const ObjectPtr& before, const ObjectPtr& after, WorkQueue& queue) {
    if (usedServices_.contains((after ? after : before)->key())) queue.add(kEverything);
  });
  controller_.watch(secrets_, [this](const ObjectPtr& before, const ObjectPtr& after, WorkQueue& queue) {
    if (usedSecrets_.contains((after ? after : before)->key())) queue.add(kEverything);
  });
  controller_.watch(configMaps_, [this](const ObjectPtr& before, const ObjectPtr& after, WorkQueue& queue) {
    if (usedConfigMaps_.contains((after ? after : before)->key())) queue.add(kEverything);
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
  if (ours.empty()) co_return co_await edge_.remove(kName);
  EdgeServices::Wanted wanted;
  wanted.name = kName;
  wanted.ports = {{"http", ingress::kHttpPort, ingress::kHttpPort},
                  {"https", ingress::kHttpsPort, ingress::kHttpsPort}};
  CO_RETURN_IF_ERROR(co_await edge_.keep(std::move(wanted)));
  for (const ObjectPtr& ingress : ours) CO_RETURN_IF_ERROR(co_await keepStatus(ingress));
  co_return Result<>();
}

Task<Result<>> IngressController::keepStatus(ObjectPtr ingress) {
  json::array wanted;
  for (const std::string& address : edge_.addresses(kName)) wanted.push_back(json::object{{"ip", address}});
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
  std::set<std::string> services, secrets, configMaps;
  ingress::Documents documents;
  documents.classes = classes_.list();
  documents.ingresses = ingresses;
  documents.service = [&](std::string_view ns, std::string_view name) {
    services.insert(fmt::format("{}/{}", ns, name));
    return services_.get(ns, name);
  };
  documents.secret = [&](std::string_view ns, std::string_view name) {
    secrets.insert(fmt::format("{}/{}", ns, name));
    return secrets_.get(ns, name);
  };
  documents.configMap = [&](std::string_view ns, std::string_view name) {
    configMaps.insert(fmt::format("{}/{}", ns, name));
    return configMaps_.get(ns, name);
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
  usedConfigMaps_ = std::move(configMaps);
}

}  // namespace dhow::controllers
