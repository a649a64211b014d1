#include "service_account.h"

#include "client/fields.h"

namespace dhow::controllers {

using namespace client;
using object::resources::kConfigMaps;
using object::resources::kNamespaces;
using object::resources::kServiceAccounts;

namespace {
constexpr char kAccount[] = "default";
constexpr char kRootCa[] = "kube-root-ca.crt";
constexpr char kRootCaKey[] = "ca.crt";

// What others made meanwhile is as good.
Result<> unlessThere(Result<ObjectPtr> created) {
  if (created.ok() || created.error().is(Code::kAlreadyExists)) return {};
  return std::move(created).error();
}
}  // namespace

ServiceAccountController::ServiceAccountController(Context context, std::string rootCaPem)
    : context_(context),
      rootCa_(std::move(rootCaPem)),
      namespaces_(context.caches.of(kNamespaces)),
      accounts_(context.caches.of(kServiceAccounts)),
      configMaps_(context.caches.of(kConfigMaps)),
      controller_(context.loop, {.name = "serviceaccount"},
                  [this](std::string key) { return reconcile(std::move(key)); }) {
  controller_.watchOwn(namespaces_);
  auto ofName = [](const char* name) {
    return [name](const ObjectPtr& before, const ObjectPtr& after, WorkQueue& queue) {
      const ObjectPtr& object = after ? after : before;
      if (object->name() == name) queue.add(std::string(object->ns()));
    };
  };
  controller_.watch(accounts_, ofName(kAccount));
  controller_.watch(configMaps_, ofName(kRootCa));
}

Task<Result<>> ServiceAccountController::reconcile(std::string key) {
  ObjectPtr ns = namespaces_.get("", key);
  if (!ns || ns->deleting()) co_return Result<>();
  Result<> account = co_await ensureAccount(key);
  if (!account.ok()) co_return account;
  Result<> rootCa = co_await ensureRootCa(key);
  co_return rootCa;
}

Task<Result<>> ServiceAccountController::ensureAccount(const std::string& ns) {
  if (accounts_.get(ns, kAccount)) co_return Result<>();
  json::object account{{"apiVersion", "v1"},
                       {"kind", "ServiceAccount"},
                       {"metadata", json::object{{"name", kAccount}, {"namespace", ns}}}};
  Result<ObjectPtr> created = co_await context_.client.create(kServiceAccounts, ns, std::move(account));
  co_return unlessThere(std::move(created));
}

Task<Result<>> ServiceAccountController::ensureRootCa(const std::string& ns) {
  ObjectPtr existing = configMaps_.get(ns, kRootCa);
  if (!existing) {
    json::object map{
        {"apiVersion", "v1"},
        {"kind", "ConfigMap"},
        {"metadata",
         json::object{
             {"name", kRootCa},
             {"namespace", ns},
             {"annotations", json::object{{"kubernetes.io/description",
                                           "The certificate authority that signs the API server's certificate."}}}}},
        {"data", json::object{{kRootCaKey, rootCa_}}}};
    Result<ObjectPtr> created = co_await context_.client.create(kConfigMaps, ns, std::move(map));
    co_return unlessThere(std::move(created));
  }
  if (text(existing->root(), {"data", kRootCaKey}) == rootCa_) co_return Result<>();
  json::object change{{"data", json::object{{kRootCaKey, rootCa_}}}};
  Result<ObjectPtr> written = co_await context_.client.patch(kConfigMaps, ns, kRootCa, "", PatchType::kMerge,
                                                             guardedPatch(*existing, std::move(change)));
  if (!written.ok()) co_return std::move(written).error();
  co_return Result<>();
}

}  // namespace dhow::controllers
