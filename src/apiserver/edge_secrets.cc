#include "edge_secrets.h"

#include "base/strings.h"
#include "client/fields.h"

namespace dhow::apiserver {

using client::array;
using client::text;

namespace {

namespace resources = object::resources;

constexpr const char* kBySecret = "edge/secret";
constexpr const char* kByConfigMap = "edge/configmap";
constexpr std::string_view kIngressController = "dhow.io/ingress";
constexpr std::string_view kGatewayController = "dhow.io/gateway";

// Annotations that name a secret, of the Ingress's own namespace unless they say another: which is not followed.
constexpr std::string_view kAnnotations[] = {"nginx.ingress.kubernetes.io/auth-secret",
                                             "nginx.ingress.kubernetes.io/auth-tls-secret",
                                             "nginx.ingress.kubernetes.io/proxy-ssl-secret"};

void ingressSecrets(const ObjectPtr& ingress, std::vector<std::string>& keys) {
  for (const auto& entry : array(ingress->root(), {"spec", "tls"})) {
    if (entry.is_object())
      if (auto name = text(entry.get_object(), "secretName"); !name.empty())
        keys.push_back(fmt::format("{}/{}", ingress->ns(), name));
  }
  for (std::string_view annotation : kAnnotations) {
    std::string_view name = text(ingress->root(), {"metadata", "annotations", annotation});
    if (auto parts = splitOnce(name, '/')) {
      if (parts->first != ingress->ns()) continue;
      name = name.substr(name.find('/') + 1);
    }
    if (!name.empty()) keys.push_back(fmt::format("{}/{}", ingress->ns(), name));
  }
}

// Of an Ingress or a Gateway: pages for errors.
void errorPages(const ObjectPtr& object, std::vector<std::string>& keys) {
  const auto name = text(object->root(), {"metadata", "annotations", "dhow.io/error-pages"});
  if (!name.empty()) keys.push_back(fmt::format("{}/{}", object->ns(), name));
}

void gatewaySecrets(const ObjectPtr& gateway, std::vector<std::string>& keys) {
  for (const auto& listener : array(gateway->root(), {"spec", "listeners"})) {
    if (!listener.is_object()) continue;
    for (const auto& ref : array(listener.get_object(), {"tls", "certificateRefs"})) {
      if (!ref.is_object() || !text(ref.get_object(), "group").empty()) continue;
      auto ns = text(ref.get_object(), "namespace");
      keys.push_back(fmt::format("{}/{}", ns.empty() ? gateway->ns() : ns, text(ref.get_object(), "name")));
    }
  }
}

// Authorities of clients' certificates, and of backends'.
void gatewayConfigMaps(const ObjectPtr& gateway, std::vector<std::string>& keys) {
  errorPages(gateway, keys);
  auto add = [&](const boost::json::object& tls) {
    for (const auto& ref : array(tls, {"validation", "caCertificateRefs"})) {
      if (!ref.is_object() || text(ref.get_object(), "kind") != "ConfigMap") continue;
      auto ns = text(ref.get_object(), "namespace");
      keys.push_back(fmt::format("{}/{}", ns.empty() ? gateway->ns() : ns, text(ref.get_object(), "name")));
    }
  };
  add(client::object(gateway->root(), {"spec", "tls", "frontend", "default"}));
  for (const auto& port : array(gateway->root(), {"spec", "tls", "frontend", "perPort"}))
    if (port.is_object()) add(client::object(port.get_object(), {"tls"}));
}

void policyConfigMaps(const ObjectPtr& policy, std::vector<std::string>& keys) {
  for (const auto& ref : array(policy->root(), {"spec", "validation", "caCertificateRefs"}))
    if (ref.is_object() && text(ref.get_object(), "kind") == "ConfigMap")
      keys.push_back(fmt::format("{}/{}", policy->ns(), text(ref.get_object(), "name")));
}

}  // namespace

EdgeSecrets::EdgeSecrets(WatchCache& caches)
    : ingresses_(caches.of(resources::kIngresses)),
      ingressClasses_(caches.of(resources::kIngressClasses)),
      gateways_(caches.of(resources::kGateways)),
      gatewayClasses_(caches.of(resources::kGatewayClasses)),
      grants_(caches.of(resources::kReferenceGrants)),
      policies_(caches.of(resources::kBackendTLSPolicies)) {
  ingresses_.addIndex(kBySecret, ingressSecrets);
  ingresses_.addIndex(kByConfigMap, errorPages);
  gateways_.addIndex(kBySecret, gatewaySecrets);
  gateways_.addIndex(kByConfigMap, gatewayConfigMaps);
  policies_.addIndex(kByConfigMap, policyConfigMaps);
}

bool EdgeSecrets::ingressIsOurs(const object::Object& ingress) const {
  auto name = text(ingress.root(), {"spec", "ingressClassName"});
  if (name.empty()) name = text(ingress.root(), {"metadata", "annotations", "kubernetes.io/ingress.class"});
  auto found = name.empty() ? nullptr : ingressClasses_.get("", name);
  return found && text(found->root(), {"spec", "controller"}) == kIngressController;
}

bool EdgeSecrets::gatewayIsOurs(const object::Object& gateway) const {
  auto found = gatewayClasses_.get("", text(gateway.root(), {"spec", "gatewayClassName"}));
  return found && text(found->root(), {"spec", "controllerName"}) == kGatewayController;
}

bool EdgeSecrets::granted(std::string_view fromNamespace, std::string_view kind, std::string_view ns,
                          std::string_view name) const {
  for (const auto& grant : grants_.list(ns)) {
    bool from = false, to = false;
    for (const auto& one : array(grant->root(), {"spec", "from"})) {
      from =
          from || (one.is_object() && text(one.get_object(), "group") == "gateway.networking.k8s.io" &&
                   text(one.get_object(), "kind") == "Gateway" && text(one.get_object(), "namespace") == fromNamespace);
    }
    for (const auto& one : array(grant->root(), {"spec", "to"})) {
      if (!one.is_object() || !text(one.get_object(), "group").empty() || text(one.get_object(), "kind") != kind)
        continue;
      auto only = text(one.get_object(), "name");
      to = to || only.empty() || only == name;
    }
    if (from && to) return true;
  }
  return false;
}

bool EdgeSecrets::uses(std::string_view plural, std::string_view ns, std::string_view name) const {
  const bool secret = plural == "secrets";
  if (!secret && plural != "configmaps") return false;
  const std::string key = fmt::format("{}/{}", ns, name);
  for (const auto& gateway : gateways_.byIndex(secret ? kBySecret : kByConfigMap, key))
    if (gatewayIsOurs(*gateway) &&
        (gateway->ns() == ns || granted(gateway->ns(), secret ? "Secret" : "ConfigMap", ns, name)))
      return true;
  if (!secret && !policies_.byIndex(kByConfigMap, key).empty()) return true;
  for (const auto& ingress : ingresses_.byIndex(secret ? kBySecret : kByConfigMap, key))
    if (ingressIsOurs(*ingress)) return true;
  return false;
}

}  // namespace dhow::apiserver
