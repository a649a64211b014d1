#include "bootstrap.h"

#include <set>

#include "base/gate.h"
#include "base/yaml.h"
#include "bootstrap_rbac.h"
#include "client/fields.h"
#include "object/address_range.h"
#include "object/labels.h"
#include "service_families.h"

namespace dhow::apiserver {

namespace resources = object::resources;
using client::array;
using client::text;

namespace {

json::object labelled(std::string_view kind, std::string_view name) {
  return {{"apiVersion", "rbac.authorization.k8s.io/v1"},
          {"kind", kind},
          {"metadata",
           json::object{{"name", name},
                        {"labels", json::object{{"kubernetes.io/bootstrapping", "rbac-defaults"}}},
                        {"annotations", json::object{{"rbac.authorization.kubernetes.io/autoupdate", "true"}}}}}};
}

json::array rulesOf(const json::object& role, const std::map<std::string, json::array, std::less<>>& known) {
  json::array rules = array(role, {"rules"});
  for (const auto& other : array(role, {"extends"})) {
    auto found = known.find(std::string_view(other.as_string()));
    CHECK(found != known.end(), "a default role extends an unknown one");
    rules.insert(rules.end(), found->second.begin(), found->second.end());
  }
  return rules;
}

struct Failure {
  std::optional<Error> first;
};

// What exists already stays as it is.
Task<> ensure(LocalClient* client, Resource resource, std::string ns, json::object document, Failure* failure) {
  auto made = co_await client->create(resource, std::move(ns), std::move(document), "", "");
  if (!made.ok() && !made.error().is(Code::kAlreadyExists) && !failure->first) failure->first = made.error();
}

// The one behind the network's own.
Result<std::string> firstAddress(const std::string& range) {
  const auto network = object::parseAddress(range.substr(0, range.find('/')));
  if (!network || !object::AddressRange::parse(range))
    return Error(Code::kInvalid, fmt::format("the service range \"{}\" is no range of addresses", range));
  return object::addressText(object::next(*network));
}

constexpr int kAttempts = 30;

std::set<std::string> addressesOf(const ObjectPtr& endpoints) {
  std::set<std::string> out;
  if (!endpoints) return out;
  for (const auto& subset : array(endpoints->root(), {"subsets"})) {
    if (!subset.is_object()) continue;
    for (const auto& address : array(subset.get_object(), {"addresses"})) {
      if (address.is_object()) out.emplace(text(address.get_object(), "ip"));
    }
  }
  return out;
}

json::object endpointsOf(const std::set<std::string>& addresses, uint16_t port) {
  json::array list;
  for (const auto& address : addresses) list.push_back(json::object{{"ip", address}});
  json::array ports;
  ports.push_back(json::object{{"name", "https"}, {"port", int64_t{port}}, {"protocol", "TCP"}});
  json::array subsets;
  subsets.push_back(json::object{{"addresses", std::move(list)}, {"ports", std::move(ports)}});
  return {{"apiVersion", "v1"},
          {"kind", "Endpoints"},
          {"metadata", json::object{{"name", "kubernetes"},
                                    {"labels", json::object{{"endpointslice.kubernetes.io/skip-mirror", "true"}}}}},
          {"subsets", std::move(subsets)}};
}

json::object sliceOf(const std::set<std::string>& addresses, uint16_t port) {
  json::array entries;
  for (const auto& address : addresses) {
    json::array one;
    one.emplace_back(address);
    entries.push_back(json::object{{"addresses", std::move(one)}, {"conditions", json::object{{"ready", true}}}});
  }
  json::array ports;
  ports.push_back(json::object{{"name", "https"}, {"port", int64_t{port}}, {"protocol", "TCP"}});
  return {{"apiVersion", "discovery.k8s.io/v1"},
          {"kind", "EndpointSlice"},
          {"metadata",
           json::object{{"name", "kubernetes"}, {"labels", json::object{{object::kServiceNameLabel, "kubernetes"}}}}},
          {"addressType", addresses.empty() ? kIpv4 : familyOf(*addresses.begin())},
          {"endpoints", std::move(entries)},
          {"ports", std::move(ports)}};
}

// Brings the fields `wanted` of an object to their value, unless somebody changes it meanwhile (kConflict or
// kAlreadyExists).
Task<Result<>> mend(LocalClient* client, ObjectPtr present, Resource resource, json::object wanted) {
  if (!present) {
    auto done = co_await client->create(resource, "default", std::move(wanted), "", "");
    CO_RETURN_IF_ERROR(done);
    co_return Result<>();
  }
  bool right = true;
  json::object document = present->root();
  for (auto& [key, value] : wanted) {
    if (key == "metadata") continue;
    const auto* now = document.if_contains(key);
    if (now && *now == value) continue;
    right = false;
    document[key] = value;
  }
  if (right) co_return Result<>();
  auto done = co_await client->update(resource, "default", "kubernetes", "", std::move(document));
  CO_RETURN_IF_ERROR(done);
  co_return Result<>();
}

}  // namespace

Task<Result<>> bootstrap(LocalClient& client, WatchCache& caches, StrategyOptions services,
                         std::string advertiseAddress, uint16_t advertisePort, bool shared) {
  Failure failure;
  {
    // All at once: they share a few commits.
    Gate gate(client.loop());
    auto spawn = [&](const Resource& resource, json::object document) {
      if (caches.of(resource).get("", text(document, {"metadata", "name"}))) return;
      gate.spawn(ensure(&client, resource, "", std::move(document), &failure));
    };
    for (auto name : {"default", "kube-system", "kube-public", "kube-node-lease"}) {
      spawn(resources::kNamespaces,
            {{"apiVersion", "v1"}, {"kind", "Namespace"}, {"metadata", json::object{{"name", name}}}});
    }
    spawn(resources::kIngressClasses,
          {{"apiVersion", "networking.k8s.io/v1"},
           {"kind", "IngressClass"},
           {"metadata",
            json::object{{"name", "dhow"},
                         {"annotations", json::object{{"ingressclass.kubernetes.io/is-default-class", "true"}}}}},
           {"spec", json::object{{"controller", "dhow.io/ingress"}}}});
    spawn(resources::kGatewayClasses, {{"apiVersion", "gateway.networking.k8s.io/v1"},
                                       {"kind", "GatewayClass"},
                                       {"metadata", json::object{{"name", "dhow"}}},
                                       {"spec", json::object{{"controllerName", "dhow.io/gateway"},
                                                             {"description", "Served by HAProxy on every node"}}}});
    CO_ASSIGN_OR_RETURN(auto data, parseYaml(kBootstrapRbac));
    std::map<std::string, json::array, std::less<>> known;
    for (const auto& value : array(data.as_object(), {"roles"})) {
      const auto& role = value.as_object();
      json::array rules = rulesOf(role, known);
      known[std::string(text(role, "name"))] = rules;
      json::object document = labelled("ClusterRole", text(role, "name"));
      document["rules"] = std::move(rules);
      spawn(resources::kClusterRoles, std::move(document));
    }
    std::map<std::string, json::array, std::less<>> subjects;
    for (const auto& value : array(data.as_object(), {"bindings"})) {
      const auto& binding = value.as_object();
      subjects[std::string(text(binding, "role"))].push_back(json::object{{"kind", text(binding, "kind")},
                                                                          {"apiGroup", "rbac.authorization.k8s.io"},
                                                                          {"name", text(binding, "subject")}});
    }
    for (auto& [role, list] : subjects) {
      json::object document = labelled("ClusterRoleBinding", role);
      document["roleRef"] =
          json::object{{"apiGroup", "rbac.authorization.k8s.io"}, {"kind", "ClusterRole"}, {"name", role}};
      document["subjects"] = std::move(list);
      spawn(resources::kClusterRoleBindings, std::move(document));
    }
    co_await gate.close();
  }
  if (failure.first) co_return *failure.first;

  CO_ASSIGN_OR_RETURN(std::string address, firstAddress(services.serviceRanges.front()));
  if (!caches.of(resources::kServices).get("default", "kubernetes")) {
    json::array ports;
    ports.push_back(
        json::object{{"name", "https"}, {"protocol", "TCP"}, {"port", 443}, {"targetPort", int64_t{advertisePort}}});
    json::object service{
        {"apiVersion", "v1"},
        {"kind", "Service"},
        {"metadata", json::object{{"name", "kubernetes"},
                                  {"labels", json::object{{"component", "apiserver"}, {"provider", "kubernetes"}}}}},
        {"spec", json::object{{"clusterIP", address}, {"type", "ClusterIP"}, {"ports", std::move(ports)}}}};
    auto made = co_await client.create(resources::kServices, "default", std::move(service), "", "");
    if (!made.ok() && !made.error().is(Code::kAlreadyExists)) co_return std::move(made).error();
  }
  co_return co_await publishMasters(client, caches, {std::move(advertiseAddress)}, !shared, advertisePort);
}

Task<Result<>> publishMasters(LocalClient& client, WatchCache& caches, std::vector<std::string> addresses, bool exact,
                              uint16_t port) {
  for (int attempt = 0;; ++attempt) {
    // What another master wrote a moment ago counts: the slice that is compared must not be an older one.
    CO_RETURN_IF_ERROR(co_await caches.catchUp());
    auto endpoints = caches.of(resources::kEndpoints).get("default", "kubernetes");
    std::set<std::string> wanted(addresses.begin(), addresses.end());
    if (!exact) wanted.merge(addressesOf(endpoints));
    auto done = co_await mend(&client, std::move(endpoints), resources::kEndpoints, endpointsOf(wanted, port));
    if (done.ok()) {
      auto slice = caches.of(resources::kEndpointSlices).get("default", "kubernetes");
      done = co_await mend(&client, std::move(slice), resources::kEndpointSlices, sliceOf(wanted, port));
    }
    // The slice follows the endpoints as they are then.
    auto now = addressesOf(caches.of(resources::kEndpoints).get("default", "kubernetes"));
    if (done.ok() && (exact || now == wanted)) co_return done;
    bool lost = done.ok() || done.error().is(Code::kConflict) || done.error().is(Code::kAlreadyExists);
    if (!lost || attempt >= kAttempts) co_return done;
  }
}

}  // namespace dhow::apiserver
