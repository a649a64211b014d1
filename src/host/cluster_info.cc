#include "host/cluster_info.h"

#include <algorithm>

#include "base/pki.h"
#include "base/strings.h"
#include "base/yaml.h"
#include "client/bootstrap_token.h"
#include "client/fields.h"
#include "host/config.h"
#include "master_keys.h"
#include "network/ip.h"

namespace dhow::host {

namespace json = boost::json;
namespace resources = object::resources;
using client::text;

namespace {

constexpr const char* kRbac = "rbac.authorization.k8s.io";
constexpr size_t kMaxInfo = 256 << 10;

std::string infoKubeconfig(const ClusterInfo& info) {
  return fmt::format(
      "apiVersion: v1\n"
      "kind: Config\n"
      "clusters:\n"
      "- name: \"\"\n"
      "  cluster:\n"
      "    server: {}\n"
      "    certificate-authority-data: {}\n"
      "contexts: []\n"
      "current-context: \"\"\n"
      "users: []\n",
      info.server, toBase64(info.authorityPem));
}

json::object subject(std::string_view kind, std::string_view name) {
  return {{"kind", kind}, {"apiGroup", kRbac}, {"name", name}};
}

json::object named(std::string_view apiVersion, std::string_view kind, std::string_view ns, std::string_view name) {
  json::object metadata{{"name", name}};
  if (!ns.empty()) metadata["namespace"] = ns;
  return {{"apiVersion", apiVersion}, {"kind", kind}, {"metadata", std::move(metadata)}};
}

// Who may read one object: a Role and its binding of one name.
struct Reading {
  const char* ns;
  const char* name;
  const char* kind;    // "configmaps" or "secrets"
  const char* object;  // its name
  json::array subjects;
};

json::array words(std::initializer_list<std::string_view> list) {
  json::array out;
  for (auto word : list) out.emplace_back(word);
  return out;
}

// Brings the fields of `wanted` to their value.
Task<Result<>> ensure(client::Client* client, object::Resource resource, json::object wanted) {
  const std::string ns(text(wanted, {"metadata", "namespace"})), name(text(wanted, {"metadata", "name"}));
  auto present = co_await client->get(resource, ns, name);
  if (!present.ok() && !present.error().is(Code::kNotFound)) co_return std::move(present).error();
  if (!present.ok()) {
    auto made = co_await client->create(resource, ns, wanted);
    if (made.ok()) co_return Result<>();
    // Another master that starts, too.
    if (!made.error().is(Code::kAlreadyExists)) co_return std::move(made).error();
    present = co_await client->get(resource, ns, name);
    CO_RETURN_IF_ERROR(present);
  }
  json::object document = (*present)->root();
  bool right = true;
  for (const auto& [key, value] : wanted) {
    if (key == "metadata" || key == "apiVersion" || key == "kind") continue;
    const auto* now = document.if_contains(key);
    if (now && *now == value) continue;
    right = false;
    document[key] = value;
  }
  if (right) co_return Result<>();
  auto done = co_await client->update(resource, ns, name, "", std::move(document));
  CO_RETURN_IF_ERROR(done);
  co_return Result<>();
}

Task<Result<>> letRead(client::Client* client, Reading reading) {
  auto role = named("rbac.authorization.k8s.io/v1", "Role", reading.ns, reading.name);
  role["rules"] = json::array{json::object{{"apiGroups", words({""})},
                                           {"resources", words({reading.kind})},
                                           {"resourceNames", words({reading.object})},
                                           {"verbs", words({"get"})}}};
  auto done = co_await ensure(client, resources::kRoles, std::move(role));
  CO_RETURN_IF_ERROR(done);
  auto binding = named("rbac.authorization.k8s.io/v1", "RoleBinding", reading.ns, reading.name);
  binding["roleRef"] = json::object{{"apiGroup", kRbac}, {"kind", "Role"}, {"name", reading.name}};
  binding["subjects"] = std::move(reading.subjects);
  done = co_await ensure(client, resources::kRoleBindings, std::move(binding));
  co_return done;
}

}  // namespace

Task<Result<>> publish(client::Client& client, ClusterInfo info) {
  auto discovery = named("v1", "ConfigMap", "kube-public", kClusterInfo);
  discovery["data"] = json::object{{"kubeconfig", infoKubeconfig(info)}};
  auto done = co_await ensure(&client, resources::kConfigMaps, std::move(discovery));
  CO_RETURN_IF_ERROR(done);
  auto config = named("v1", "ConfigMap", "kube-system", kDhowConfig);
  config["data"] = json::object{{"cluster", info.cluster},   {"region", info.region},
                                {"podRange", info.podRange}, {"serviceRange", info.serviceRange},
                                {"domain", info.domain},     {"memberOnEach", info.memberOnEach ? "true" : "false"}};
  auto& data = config["data"].get_object();
  if (info.ipv6First) {
    // As the command line takes them: hosts of before this was known cannot read two.
    data["podRange"] = FamilyRanges{info.podRange, info.podRange6, true}.text();
    data["serviceRange"] = FamilyRanges{info.serviceRange, info.serviceRange6, true}.text();
  } else if (!info.podRange6.empty()) {
    data["podRange6"] = info.podRange6;
    data["serviceRange6"] = info.serviceRange6;
  }
  done = co_await ensure(&client, resources::kConfigMaps, std::move(config));
  CO_RETURN_IF_ERROR(done);
  done = co_await letRead(&client, {"kube-public", "kubeadm:bootstrap-signer-clusterinfo", "configmaps", kClusterInfo,
                                    json::array{subject("User", "system:anonymous")}});
  CO_RETURN_IF_ERROR(done);
  done = co_await letRead(&client,
                          {"kube-system", "dhow:dhow-config", "configmaps", kDhowConfig,
                           json::array{subject("Group", client::kBootstrapGroup), subject("Group", "system:nodes")}});
  CO_RETURN_IF_ERROR(done);
  done = co_await letRead(&client, {"kube-system", "dhow:dhow-certs", "secrets", kMasterKeys,
                                    json::array{subject("Group", kMasterTokenGroup)}});
  CO_RETURN_IF_ERROR(done);
  auto nodes = named("rbac.authorization.k8s.io/v1", "ClusterRole", "", "kubeadm:get-nodes");
  nodes["rules"] =
      json::array{json::object{{"apiGroups", words({""})}, {"resources", words({"nodes"})}, {"verbs", words({"get"})}}};
  done = co_await ensure(&client, resources::kClusterRoles, std::move(nodes));
  CO_RETURN_IF_ERROR(done);
  auto binding = named("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", "", "kubeadm:get-nodes");
  binding["roleRef"] = json::object{{"apiGroup", kRbac}, {"kind", "ClusterRole"}, {"name", "kubeadm:get-nodes"}};
  binding["subjects"] = json::array{subject("Group", client::kBootstrapGroup)};
  done = co_await ensure(&client, resources::kClusterRoleBindings, std::move(binding));
  co_return done;
}

Result<std::string> authorityIn(const client::Object& clusterInfo) {
  auto broken = [] { return Error(Code::kInvalid, "the server's cluster-info holds no cluster with an authority"); };
  const auto kubeconfig = text(clusterInfo.root(), {"data", "kubeconfig"});
  if (kubeconfig.empty() || kubeconfig.size() > kMaxInfo) return broken();
  ASSIGN_OR_RETURN(auto parsed, parseYaml(kubeconfig));
  if (!parsed.is_object()) return broken();
  for (const auto& entry : client::array(parsed.get_object(), {"clusters"})) {
    if (!entry.is_object()) continue;
    auto pem = fromBase64(text(entry.get_object(), {"cluster", "certificate-authority-data"}));
    if (pem && !certificatesOf(*pem).empty()) return std::move(*pem);
  }
  return broken();
}

Result<std::string> pinnedAuthority(const std::string& authorityPem, const std::vector<std::string>& pins) {
  std::string trusted;
  std::vector<std::string> found;
  for (const auto& certificate : certificatesOf(authorityPem)) {
    auto pin = pinOf(certificate);
    if (!pin.ok()) continue;
    if (std::find(pins.begin(), pins.end(), *pin) != pins.end()) trusted += certificate;
    found.push_back(std::move(*pin));
  }
  if (!trusted.empty()) return trusted;
  return Error(
      Code::kPermissionDenied,
      fmt::format("the authority of the cluster that answers is {}, not what --ca-hash says: it may be another "
                  "cluster, or somebody in between. `dhow token create --print-join-command` on the right "
                  "master shows the right one",
                  found.empty() ? "unreadable" : join(found, ", ")));
}

Result<ClusterInfo> clusterOf(const client::Object& config) {
  ClusterInfo info;
  const std::pair<const char*, std::string*> fields[] = {{"cluster", &info.cluster},
                                                         {"region", &info.region},
                                                         {"podRange", &info.podRange},
                                                         {"serviceRange", &info.serviceRange},
                                                         {"domain", &info.domain}};
  for (const auto& [name, into] : fields) {
    *into = text(config.root(), {"data", name});
    if (into->empty()) return Error(Code::kInvalid, fmt::format("the cluster's dhow-config has no {}", name));
  }
  ASSIGN_OR_RETURN(const auto pods, familyRanges("podRange", info.podRange));
  ASSIGN_OR_RETURN(const auto services, familyRanges("serviceRange", info.serviceRange));
  if (pods.v6First) {
    info.ipv6First = true;
    info.podRange = pods.v4;
    info.serviceRange = services.v4;
    info.podRange6 = pods.v6;
    info.serviceRange6 = services.v6;
  } else {
    info.podRange6 = text(config.root(), {"data", "podRange6"});
    info.serviceRange6 = text(config.root(), {"data", "serviceRange6"});
  }
  if (info.podRange6.empty() != info.serviceRange6.empty())
    return Error(Code::kInvalid, "the cluster's dhow-config has only one of podRange6 and serviceRange6");
  for (const auto* range : {&info.podRange, &info.serviceRange, &info.podRange6, &info.serviceRange6}) {
    if (range->empty()) continue;
    auto parsed = IpPrefix::parse(*range);
    if (!parsed.ok()) return std::move(parsed).error().wrap("read the cluster's dhow-config");
  }
  info.memberOnEach = text(config.root(), {"data", "memberOnEach"}) == "true";
  return info;
}

}  // namespace dhow::host
