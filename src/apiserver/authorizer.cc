#include "authorizer.h"

#include <algorithm>

#include "base/strings.h"
#include "client/fields.h"
#include "errors.h"

namespace dhow::apiserver {

using client::array;
using client::text;

namespace {

constexpr const char* kBySubject = "authorizer/subject";
constexpr const char* kByNode = "authorizer/node";

bool holds(const json::array& values, std::string_view wanted) {
  return std::any_of(values.begin(), values.end(),
                     [&](const json::value& value) { return value.is_string() && value.get_string() == wanted; });
}
bool holdsOrAll(const json::array& values, std::string_view wanted) {
  return holds(values, "*") || holds(values, wanted);
}

std::string subjectKey(const json::object& subject, std::string_view ns) {
  auto kind = text(subject, "kind");
  auto name = text(subject, "name");
  if (kind == "ServiceAccount") {
    auto own = text(subject, "namespace");
    return fmt::format("User:system:serviceaccount:{}:{}", own.empty() ? ns : own, name);
  }
  return fmt::format("{}:{}", kind, name);
}

void subjectsOf(const ObjectPtr& binding, std::vector<std::string>& keys) {
  for (const auto& subject : array(binding->root(), {"subjects"})) {
    if (subject.is_object()) keys.push_back(subjectKey(subject.get_object(), binding->ns()));
  }
}

bool pathMatches(std::string_view pattern, std::string_view path) {
  if (pattern == "*" || pattern == path) return true;
  return pattern.ends_with('*') && path.starts_with(pattern.substr(0, pattern.size() - 1));
}

bool ruleAllows(const json::object& rule, const Attributes& wanted) {
  if (!holdsOrAll(array(rule, {"verbs"}), wanted.verb)) return false;
  if (!wanted.isResource) {
    const auto& urls = array(rule, {"nonResourceURLs"});
    return std::any_of(urls.begin(), urls.end(), [&](const json::value& url) {
      return url.is_string() && pathMatches(url.get_string(), wanted.path);
    });
  }
  if (!holdsOrAll(array(rule, {"apiGroups"}), wanted.group)) return false;
  const auto& resources = array(rule, {"resources"});
  std::string combined = wanted.subresource.empty() ? wanted.plural : wanted.plural + "/" + wanted.subresource;
  if (!holdsOrAll(resources, combined) && (wanted.subresource.empty() || !holds(resources, "*/" + wanted.subresource)))
    return false;
  const auto& names = array(rule, {"resourceNames"});
  return names.empty() || holds(names, wanted.name);
}

bool selectorNames(std::string_view selector, std::string_view field, std::string_view value) {
  for (const auto& part : split(selector, ',')) {
    std::string_view term = trim(part);
    for (std::string_view sign : {"==", "="}) {
      auto at = term.find(sign);
      if (at == term.npos) continue;
      if (trim(term.substr(0, at)) == field && trim(term.substr(at + sign.size())) == value) return true;
      break;
    }
  }
  return false;
}

}  // namespace

Authorizer::Authorizer(WatchCache& caches)
    : roles_(caches.of(object::resources::kRoles)),
      roleBindings_(caches.of(object::resources::kRoleBindings)),
      clusterRoles_(caches.of(object::resources::kClusterRoles)),
      clusterRoleBindings_(caches.of(object::resources::kClusterRoleBindings)),
      pods_(caches.of(object::resources::kPods)),
      edge_(caches) {
  roleBindings_.addIndex(kBySubject, subjectsOf);
  clusterRoleBindings_.addIndex(kBySubject, subjectsOf);
  pods_.addIndex(kByNode, [](const ObjectPtr& pod, std::vector<std::string>& keys) {
    if (auto node = text(pod->root(), {"spec", "nodeName"}); !node.empty()) keys.emplace_back(node);
  });
}

bool Authorizer::visitBindings(const KindCache& bindings, const Caller& caller, std::string_view ns,
                               const EachRule& each) const {
  std::vector<std::string> subjects{"User:" + caller.user};
  for (const auto& group : caller.groups) subjects.push_back("Group:" + group);
  for (const auto& subject : subjects) {
    for (const auto& binding : bindings.byIndex(kBySubject, subject)) {
      if (binding->ns() != ns) continue;
      auto kind = text(binding->root(), {"roleRef", "kind"});
      auto name = text(binding->root(), {"roleRef", "name"});
      auto role = kind == "ClusterRole" ? clusterRoles_.get("", name) : roles_.get(ns, name);
      if (!role) continue;
      std::string source = fmt::format("RBAC: allowed by {} \"{}\" of {} \"{}\" to {} \"{}\"",
                                       ns.empty() ? "ClusterRoleBinding" : "RoleBinding",
                                       ns.empty() ? std::string(binding->name()) : binding->key(), kind, name,
                                       subject.substr(0, subject.find(':')), subject.substr(subject.find(':') + 1));
      for (const auto& rule : array(role->root(), {"rules"})) {
        if (rule.is_object() && !each(rule.get_object(), source)) return false;
      }
    }
  }
  return true;
}

bool Authorizer::visitRules(const Caller& caller, std::string_view ns, const EachRule& each) const {
  if (!visitBindings(clusterRoleBindings_, caller, "", each)) return false;
  return ns.empty() || visitBindings(roleBindings_, caller, ns, each);
}

Decision Authorizer::authorize(const Caller& caller, const Attributes& attributes) const {
  if (caller.in(kSystemMasters)) return {true, ""};
  if (auto node = caller.node(); !node.empty() && nodeMay(node, attributes)) return {true, "node"};
  Decision decision;
  visitRules(caller, attributes.isResource ? attributes.ns : "",
             [&](const json::object& rule, const std::string& source) {
               if (!ruleAllows(rule, attributes)) return true;
               decision = {true, source};
               return false;
             });
  if (!decision.allowed && !caller.node().empty()) {
    decision.reason = fmt::format("node '{}' cannot {} what does not belong to it", caller.node(), attributes.verb);
  }
  return decision;
}

json::array Authorizer::rulesFor(const Caller& caller, std::string_view ns) const {
  json::array rules;
  visitRules(caller, ns, [&](const json::object& rule, const std::string&) {
    rules.push_back(rule);
    return true;
  });
  return rules;
}

Error Authorizer::refusal(const Caller& caller, const Attributes& wanted, std::string_view reason) {
  std::string text;
  if (!wanted.isResource) {
    text = fmt::format("forbidden: User \"{}\" cannot {} path \"{}\"", caller.user, wanted.verb, wanted.path);
  } else {
    std::string resource = wanted.subresource.empty() ? wanted.plural : wanted.plural + "/" + wanted.subresource;
    std::string what = qualified(wanted.plural, wanted.group);
    if (!wanted.name.empty()) what += fmt::format(" \"{}\"", wanted.name);
    std::string where =
        wanted.ns.empty() ? " at the cluster scope" : fmt::format(" in the namespace \"{}\"", wanted.ns);
    text = fmt::format("{} is forbidden: User \"{}\" cannot {} resource \"{}\" in API group \"{}\"{}", what,
                       caller.user, wanted.verb, resource, wanted.group, where);
  }
  if (!reason.empty()) text += fmt::format(": {}", reason);
  return Error(Code::kPermissionDenied, std::move(text));
}

// What a node may do beyond RBAC. It reads the objects that its network and DNS need; it writes itself, its lease and
// its pods.
bool Authorizer::nodeMay(std::string_view node, const Attributes& a) const {
  if (!a.isResource) return false;
  bool read = a.verb == "get" || a.verb == "list" || a.verb == "watch";
  bool change = a.verb == "update" || a.verb == "patch";
  if (a.group == "coordination.k8s.io" && a.plural == "leases") {
    return a.ns == "kube-node-lease" &&
           (a.verb == "create" || (a.name == node && (a.verb == "get" || change || a.verb == "delete")));
  }
  if (a.group == "discovery.k8s.io") return a.plural == "endpointslices" && read;
  if (a.group == "networking.k8s.io") {
    return read && a.subresource.empty() &&
           (a.plural == "networkpolicies" || a.plural == "ingresses" || a.plural == "ingressclasses");
  }
  if (a.group == "gateway.networking.k8s.io") return read && a.subresource.empty();
  if (a.group == "events.k8s.io" && a.plural == "events") return a.verb == "create" || change;
  if (a.group == "certificates.k8s.io") {
    return a.plural == "certificatesigningrequests" && a.subresource.empty() && (a.verb == "create" || read);
  }
  if (a.group == "authentication.k8s.io") return a.plural == "tokenreviews" && a.verb == "create";
  if (!a.group.empty()) return false;
  if (a.plural == "nodes") {
    if (read && a.subresource.empty()) return true;
    if (a.verb == "create") return a.subresource.empty() && (a.name.empty() || a.name == node);
    return a.name == node && (change || read) && (a.subresource.empty() || a.subresource == "status");
  }
  if (a.plural == "services" || a.plural == "endpoints" || a.plural == "namespaces")
    return read && a.subresource.empty();
  if (a.plural == "events") return a.verb == "create" || change;
  if (a.plural == "pods") {
    if (a.verb == "list" || a.verb == "watch")
      return a.podAddresses || selectorNames(a.fieldSelector, "spec.nodeName", node);
    auto pod = pods_.get(a.ns, a.name);
    bool own = pod && text(pod->root(), {"spec", "nodeName"}) == node;
    if (!own) return false;
    if (a.subresource.empty()) return a.verb == "get" || a.verb == "delete";
    return a.subresource == "status" ? (change || a.verb == "get") : a.subresource == "eviction" && a.verb == "create";
  }
  if (a.plural == "secrets" || a.plural == "configmaps") {
    if (a.name.empty()) return false;
    bool one = a.verb == "get" ||
               ((a.verb == "list" || a.verb == "watch") && selectorNames(a.fieldSelector, "metadata.name", a.name));
    const bool dns = a.plural == "configmaps" && a.ns == "kube-system" && a.name == "dhow-dns";
    return one && (dns || podsOfNodeUse(node, a) || edge_.uses(a.plural, a.ns, a.name));
  }
  if (a.plural == "serviceaccounts") {
    bool wanted = a.subresource == "token" ? a.verb == "create" : a.subresource.empty() && a.verb == "get";
    return wanted && podsOfNodeUse(node, a);
  }
  return false;
}

namespace {

bool volumesUse(const json::object& spec, std::string_view plural, std::string_view name) {
  bool secret = plural == "secrets";
  auto source = [&](const json::object& volume) {
    return secret ? text(volume, {"secret", "secretName"}) == name || text(volume, {"secret", "name"}) == name
                  : text(volume, {"configMap", "name"}) == name;
  };
  for (const auto& volume : array(spec, {"volumes"})) {
    if (!volume.is_object()) continue;
    if (source(volume.get_object())) return true;
    for (const auto& part : array(volume.get_object(), {"projected", "sources"})) {
      if (part.is_object() && source(part.get_object())) return true;
    }
  }
  return false;
}

bool environmentUses(const json::object& container, std::string_view plural, std::string_view name) {
  bool secret = plural == "secrets";
  for (const auto& variable : array(container, {"env"})) {
    if (variable.is_object() &&
        text(variable.get_object(), {"valueFrom", secret ? "secretKeyRef" : "configMapKeyRef", "name"}) == name)
      return true;
  }
  for (const auto& from : array(container, {"envFrom"})) {
    if (from.is_object() && text(from.get_object(), {secret ? "secretRef" : "configMapRef", "name"}) == name)
      return true;
  }
  return false;
}

}  // namespace

bool Authorizer::podsOfNodeUse(std::string_view node, const Attributes& a) const {
  for (const auto& pod : pods_.byIndex(kByNode, node)) {
    if (pod->ns() != a.ns) continue;
    const auto& spec = client::object(pod->root(), {"spec"});
    if (a.plural == "serviceaccounts") {
      if (text(spec, "serviceAccountName") == a.name) return true;
      continue;
    }
    if (volumesUse(spec, a.plural, a.name)) return true;
    for (std::string_view list : {"containers", "initContainers", "ephemeralContainers"}) {
      for (const auto& container : array(spec, {list})) {
        if (container.is_object() && environmentUses(container.get_object(), a.plural, a.name)) return true;
      }
    }
    for (const auto& secret : array(spec, {"imagePullSecrets"})) {
      if (a.plural == "secrets" && secret.is_object() && text(secret.get_object(), "name") == a.name) return true;
    }
  }
  return false;
}

}  // namespace dhow::apiserver
