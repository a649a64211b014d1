#include "drill_workload.h"
#include "base/url_host.h"

#include <fmt/format.h>

#include "client/fields.h"
#include "object/kinds.h"
#include "object/labels.h"

namespace dhow::platform {

namespace json = boost::json;
using namespace std::chrono_literals;
using client::ObjectPtr;
namespace kinds = object::resources;

namespace {

constexpr char kName[] = "load";
constexpr char kOwner[] = "identities";
constexpr Duration kRetry = 200ms;

json::object labels(const char* app) {
  return {{"app", app}};
}

json::object podSpec(const std::string& image, const char* app) {
  json::array spread;
  for (const char* key : {object::kZoneLabel, object::kHostnameLabel}) {
    spread.push_back(json::object{{"maxSkew", 1},
                                  {"topologyKey", key},
                                  {"whenUnsatisfiable", "ScheduleAnyway"},
                                  {"labelSelector", {{"matchLabels", labels(app)}}}});
  }
  // As a restricted cluster asks of pods.
  return {{"securityContext",
           {{"runAsNonRoot", true}, {"runAsUser", 65532}, {"seccompProfile", {{"type", "RuntimeDefault"}}}}},
          {"terminationGracePeriodSeconds", 5},
          {"topologySpreadConstraints", std::move(spread)},
          {"containers",
           json::array{{{"name", app},
                        {"image", image},
                        {"securityContext",
                         {{"allowPrivilegeEscalation", false}, {"capabilities", {{"drop", json::array{"ALL"}}}}}},
                        {"ports", json::array{{{"containerPort", 8080}}}},
                        {"readinessProbe", {{"httpGet", {{"path", "/healthz"}, {"port", 8080}}}, {"periodSeconds", 1}}},
                        {"resources", {{"requests", {{"cpu", "10m"}, {"memory", "8Mi"}}}}}}}}};
}

bool ended(const object::Object& pod) {
  const auto phase = client::text(pod.root(), {"status", "phase"});
  return phase == "Failed" || phase == "Succeeded";
}

// Watches one object until `done` holds for it; null: it is gone.
Task<Result<>> waitUntil(Loop& loop, client::Client& api, client::Resource resource, std::string ns, std::string name,
                         Duration limit, std::function<bool(const ObjectPtr&)> done) {
  const TimePoint end = loop.now() + limit;
  while (true) {
    auto read = co_await api.get(resource, ns, name);
    if (!read.ok() && !read.error().is(Code::kNotFound)) co_return std::move(read).error();
    if (done(read.ok() ? *read : nullptr)) co_return Result<>();
    if (!read.ok()) co_return std::move(read).error();
    client::ListOptions select;
    select.ns = ns;
    select.fieldSelector = "metadata.name=" + name;
    auto opened = co_await api.watch(resource, std::move(select), std::to_string((*read)->resourceVersion()));
    CO_RETURN_IF_ERROR(opened);
    std::shared_ptr<client::Watcher> watcher = std::move(*opened);
    Timer timer = loop.after(end - loop.now(), [watcher] { watcher->close(); });
    bool holds = false;
    while (!holds) {
      auto event = co_await watcher->next();
      if (!event.ok()) break;
      if (event->type == client::WatchEvent::Type::kBookmark) continue;
      holds = done(event->type == client::WatchEvent::Type::kDeleted ? nullptr : event->object);
    }
    watcher->close();
    if (holds) co_return Result<>();
    if (loop.now() >= end) co_return Error(Code::kDeadlineExceeded, fmt::format("{} {}", resource.plural, name));
  }
}

}  // namespace

Task<Result<>> removeDrillNamespace(Loop& loop, client::Client& api, Duration limit) {
  auto removed = co_await api.remove(kinds::kNamespaces, "", kDrillNamespace, {});
  if (!removed.ok() && removed.error().is(Code::kNotFound)) co_return Result<>();
  // One that is ending already is waited for.
  if (!removed.ok() && !removed.error().is(Code::kConflict)) co_return removed;
  auto gone = co_await waitUntil(loop, api, kinds::kNamespaces, "", kDrillNamespace, limit,
                                 [](const ObjectPtr& ns) { return ns == nullptr; });
  co_return gone;
}

DrillWorkload::DrillWorkload(Loop& loop, client::Client& api, Options options)
    : loop_(loop), api_(api), options_(std::move(options)), stopped_(loop), gate_(loop) {}

std::set<std::string> DrillWorkload::identities() const {
  std::set<std::string> names;
  for (int i = 0; i < options_.identities; ++i) names.insert(fmt::format("identity-{}", i));
  return names;
}

Task<Result<>> DrillWorkload::make(const client::Resource& resource, json::object body) {
  const bool namespaced = resource.namespaced;
  auto made = co_await api_.create(resource, namespaced ? kDrillNamespace : "", std::move(body));
  if (!made.ok()) co_return std::move(made).error().wrap("create " + resource.plural);
  if (resource == kinds::kConfigMaps) ownerUid_ = (*made)->uid();
  co_return Result<>();
}

Task<Result<>> DrillWorkload::deploy(client::Cache& pods) {
  auto ns = co_await make(kinds::kNamespaces, {{"metadata", {{"name", kDrillNamespace}}}});
  CO_RETURN_IF_ERROR(ns);
  auto owner = co_await make(kinds::kConfigMaps, {{"metadata", {{"name", kOwner}, {"namespace", kDrillNamespace}}}});
  CO_RETURN_IF_ERROR(owner);
  // Restricted clusters let nobody in otherwise.
  json::object open{{"metadata", {{"name", kName}, {"namespace", kDrillNamespace}}},
                    {"spec",
                     {{"podSelector", {{"matchLabels", labels(kName)}}},
                      {"policyTypes", json::array{"Ingress"}},
                      {"ingress", json::array{{{"ports", json::array{{{"port", 8080}}}}}}}}}};
  auto opened = co_await make(kinds::kNetworkPolicies, std::move(open));
  CO_RETURN_IF_ERROR(opened);
  json::object deployment{
      {"metadata", {{"name", kName}, {"namespace", kDrillNamespace}}},
      {"spec",
       {{"replicas", options_.replicas},
        {"selector", {{"matchLabels", labels(kName)}}},
        {"template", {{"metadata", {{"labels", labels(kName)}}}, {"spec", podSpec(options_.image, kName)}}}}}};
  auto deployed = co_await make(kinds::kDeployments, std::move(deployment));
  CO_RETURN_IF_ERROR(deployed);
  json::object service{{"metadata", {{"name", kName}, {"namespace", kDrillNamespace}}},
                       {"spec",
                        {{"type", "LoadBalancer"},
                         {"selector", labels(kName)},
                         {"ports", json::array{{{"port", 80}, {"targetPort", 8080}}}}}}};
  auto served = co_await make(kinds::kServices, std::move(service));
  CO_RETURN_IF_ERROR(served);
  subscription_ = pods.subscribe([this](const ObjectPtr& before, const ObjectPtr& after) {
    const std::string name((after ? after : before)->name());
    if (!identities().contains(name)) return;
    if (!after)
      gate_.spawn(makeIdentity(this, name));
    else if (!after->deleting() && ended(*after) && !(before && ended(*before)))
      gate_.spawn(removeIdentity(this, name, std::string(after->uid())));
  });
  for (const std::string& name : identities()) gate_.spawn(makeIdentity(this, name));
  co_return Result<>();
}

Task<> DrillWorkload::makeIdentity(DrillWorkload* self, std::string name) {
  while (!self->stopping_) {
    json::object owner{
        {"apiVersion", "v1"}, {"kind", "ConfigMap"}, {"name", kOwner}, {"uid", self->ownerUid_}, {"controller", true}};
    json::object body{{"metadata",
                       {{"name", name},
                        {"namespace", kDrillNamespace},
                        {"labels", labels("identity")},
                        {"annotations", {{"dhow.io/exclusive", "true"}}},
                        {"ownerReferences", json::array{std::move(owner)}}}},
                      {"spec", podSpec(self->options_.image, "identity")}};
    auto made = co_await self->api_.create(kinds::kPods, kDrillNamespace, std::move(body));
    if (made.ok() || made.error().is(Code::kAlreadyExists)) co_return;
    co_await self->stopped_.waitFor(kRetry);
  }
}

// A pod that was fenced has failed for good: its node says that nothing of it runs.
Task<> DrillWorkload::removeIdentity(DrillWorkload* self, std::string name, std::string uid) {
  client::DeleteOptions options;
  options.gracePeriodSeconds = 0;
  options.uid = uid;
  while (!self->stopping_) {
    auto removed = co_await self->api_.remove(kinds::kPods, kDrillNamespace, name, options);
    const bool over = removed.ok() || removed.error().is(Code::kNotFound) || removed.error().is(Code::kConflict);
    if (over) co_return;
    co_await self->stopped_.waitFor(kRetry);
  }
}

Task<> DrillWorkload::stop() {
  stopping_ = true;
  subscription_.reset();
  stopped_.notify();
  co_await gate_.close();
}

Task<Result<std::string>> DrillWorkload::url(Duration limit) {
  std::string address;
  auto given = co_await waitUntil(
      loop_, api_, kinds::kServices, kDrillNamespace, kName, limit, [&address](const ObjectPtr& service) {
        if (!service) return false;
        const auto& ingress = client::array(service->root(), {"status", "loadBalancer", "ingress"});
        if (ingress.empty() || !ingress[0].is_object()) return false;
        address = client::text(ingress[0].get_object(), "ip");
        return !address.empty();
      });
  CO_RETURN_IF_ERROR(given);
  co_return fmt::format("http://{}/", urlHost(address));
}

}  // namespace dhow::platform
