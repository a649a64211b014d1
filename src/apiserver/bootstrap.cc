#include "bootstrap.h"

#include <arpa/inet.h>

#include "base/gate.h"
#include "base/yaml.h"
#include "bootstrap_rbac.h"
#include "client/fields.h"

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

Result<std::string> firstAddress(const std::string& range) {
  in_addr address{};
  if (::inet_pton(AF_INET, range.substr(0, range.find('/')).c_str(), &address) != 1) {
    return Error(Code::kInvalid, fmt::format("the service range \"{}\" is not an IPv4 range", range));
  }
  address.s_addr = htonl(ntohl(address.s_addr) + 1);
  char buffer[INET_ADDRSTRLEN];
  return std::string(::inet_ntop(AF_INET, &address, buffer, sizeof buffer));
}

// Brings the fields `wanted` of an object to their value.
Task<Result<>> mend(LocalClient* client, WatchCache* caches, Resource resource, std::string ns, std::string name,
                    json::object wanted) {
  auto present = caches->of(resource).get(ns, name);
  bool right = present != nullptr;
  for (const auto& [key, value] : wanted) {
    if (key == "metadata" || !right) continue;
    const auto* now = present->root().if_contains(key);
    if (!now || *now != value) right = false;
  }
  if (right) co_return Result<>();
  if (present) {
    json::object patch = wanted;
    patch.erase("metadata");
    auto done = co_await client->patch(resource, ns, name, "", client::PatchType::kMerge, std::move(patch));
    CO_RETURN_IF_ERROR(done);
    co_return Result<>();
  }
  auto done = co_await client->create(resource, ns, std::move(wanted), "", "");
  CO_RETURN_IF_ERROR(done);
  co_return Result<>();
}

}  // namespace

Task<Result<>> bootstrap(LocalClient& client, WatchCache& caches, StrategyOptions services,
                         std::string advertiseAddress, uint16_t advertisePort) {
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

  CO_ASSIGN_OR_RETURN(std::string address, firstAddress(services.serviceRange));
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
    CO_RETURN_IF_ERROR(made);
  }
  json::array ports;
  ports.push_back(json::object{{"name", "https"}, {"port", int64_t{advertisePort}}, {"protocol", "TCP"}});
  json::array addresses;
  addresses.push_back(json::object{{"ip", advertiseAddress}});
  json::array subsets;
  subsets.push_back(json::object{{"addresses", std::move(addresses)}, {"ports", ports}});
  json::object endpoints{
      {"apiVersion", "v1"},
      {"kind", "Endpoints"},
      {"metadata", json::object{{"name", "kubernetes"},
                                {"labels", json::object{{"endpointslice.kubernetes.io/skip-mirror", "true"}}}}},
      {"subsets", std::move(subsets)}};
  CO_RETURN_IF_ERROR(
      co_await mend(&client, &caches, resources::kEndpoints, "default", "kubernetes", std::move(endpoints)));
  json::array list;
  list.emplace_back(advertiseAddress);
  json::array entries;
  entries.push_back(json::object{{"addresses", std::move(list)}, {"conditions", json::object{{"ready", true}}}});
  json::object slice{{"apiVersion", "discovery.k8s.io/v1"},
                     {"kind", "EndpointSlice"},
                     {"metadata", json::object{{"name", "kubernetes"},
                                               {"labels", json::object{{"kubernetes.io/service-name", "kubernetes"}}}}},
                     {"addressType", "IPv4"},
                     {"endpoints", std::move(entries)},
                     {"ports", std::move(ports)}};
  co_return co_await mend(&client, &caches, resources::kEndpointSlices, "default", "kubernetes", std::move(slice));
}

}  // namespace dhow::apiserver
