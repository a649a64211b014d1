// Nobody grants what they do not have: roles and bindings are compared with the rights of who writes them.
#include "authorizer.h"
#include "client/fields.h"
#include "errors.h"

namespace dhow::apiserver {

using client::array;
using client::text;

namespace {

constexpr size_t kMaxCombinations = 20'000;

std::vector<std::string> words(const json::object& rule, std::string_view field) {
  return client::strings(array(rule, {field}));
}

std::string printed(const json::object& rule) {
  std::string out = "{";
  for (auto [field, label] : {std::pair("apiGroups", "APIGroups"), std::pair("resources", "Resources"),
                              std::pair("resourceNames", "ResourceNames"),
                              std::pair("nonResourceURLs", "NonResourceURLs"), std::pair("verbs", "Verbs")}) {
    auto values = words(rule, field);
    if (values.empty()) continue;
    if (out.size() > 1) out += ", ";
    out += fmt::format("{}:[", label);
    for (size_t i = 0; i < values.size(); ++i) out += fmt::format("{}\"{}\"", i ? " " : "", values[i]);
    out += "]";
  }
  return out + "}";
}

}  // namespace

bool Authorizer::holdsRule(const Caller& caller, std::string_view ns, const json::object& rule) const {
  auto verbs = words(rule, "verbs");
  auto groups = words(rule, "apiGroups");
  auto resources = words(rule, "resources");
  auto names = words(rule, "resourceNames");
  auto urls = words(rule, "nonResourceURLs");
  if (names.empty()) names.emplace_back();
  if (verbs.size() * (urls.size() + groups.size() * resources.size() * names.size()) > kMaxCombinations) return false;
  for (const auto& verb : verbs) {
    Attributes wanted;
    wanted.verb = verb;
    wanted.isResource = false;
    for (const auto& url : urls) {
      wanted.path = url;
      if (!authorize(caller, wanted).allowed) return false;
    }
    wanted.isResource = true;
    wanted.path.clear();
    wanted.ns = ns;
    for (const auto& group : groups) {
      wanted.group = group;
      for (const auto& resource : resources) {
        auto slash = resource.find('/');
        wanted.plural = resource.substr(0, slash);
        wanted.subresource = slash == std::string::npos ? "" : resource.substr(slash + 1);
        for (const auto& name : names) {
          wanted.name = name;
          if (!authorize(caller, wanted).allowed) return false;
        }
      }
    }
  }
  return true;
}

Result<> Authorizer::mayGrant(const Caller& caller, const object::KindInfo& kind, const json::object& document,
                              const object::Object* old) const {
  if (kind.group != "rbac.authorization.k8s.io" || caller.in(kSystemMasters)) return {};
  bool binding = kind.plural == "rolebindings" || kind.plural == "clusterrolebindings";
  auto ns = text(document, {"metadata", "namespace"});
  auto name = text(document, {"metadata", "name"});
  Attributes exempt;
  exempt.group = kind.group;
  exempt.ns = ns;
  json::array rules;
  if (binding) {
    if (old && client::object(old->root(), {"roleRef"}) == client::object(document, {"roleRef"}) &&
        array(old->root(), {"subjects"}) == array(document, {"subjects"})) {
      return {};
    }
    bool cluster = text(document, {"roleRef", "kind"}) == "ClusterRole";
    exempt.verb = "bind";
    exempt.plural = cluster ? "clusterroles" : "roles";
    exempt.name = text(document, {"roleRef", "name"});
    auto role = cluster ? clusterRoles_.get("", exempt.name) : roles_.get(ns, exempt.name);
    if (!role && !authorize(caller, exempt).allowed) {
      return notFound({"rbac.authorization.k8s.io", "v1", exempt.plural, !cluster}, exempt.name);
    }
    if (role) rules = array(role->root(), {"rules"});
  } else {
    if (old && array(old->root(), {"rules"}) == array(document, {"rules"})) return {};
    exempt.verb = "escalate";
    exempt.plural = kind.plural;
    exempt.name = name;
    rules = array(document, {"rules"});
  }
  if (authorize(caller, exempt).allowed) return {};
  std::string missing;
  for (const auto& value : rules) {
    if (value.is_object() && !holdsRule(caller, ns, value.get_object())) missing += "\n" + printed(value.get_object());
  }
  if (missing.empty()) return {};
  std::string groups;
  for (const auto& group : caller.groups) groups += fmt::format("{}\"{}\"", groups.empty() ? "" : " ", group);
  return forbidden(
      kind.resource(), name,
      fmt::format("user \"{}\" (groups=[{}]) is attempting to grant RBAC permissions not currently held:{}",
                  caller.user, groups, missing));
}

Result<> Authorizer::mayCertify(const Caller& caller, const object::KindInfo& kind, std::string_view subresource,
                                const json::object& document, const object::Object* old) const {
  if (!old || kind.group != "certificates.k8s.io" || kind.plural != "certificatesigningrequests") return {};
  const bool approves = subresource == "approval";
  if (!approves &&
      (subresource != "status" || client::object(old->root(), {"status"}) == client::object(document, {"status"})))
    return {};
  const std::string signer(text(old->root(), {"spec", "signerName"}));
  Attributes wanted;
  wanted.verb = approves ? "approve" : "sign";
  wanted.group = kind.group;
  wanted.plural = "signers";
  for (const auto& name : {signer, signer.substr(0, signer.find('/')) + "/*"}) {
    wanted.name = name;
    if (authorize(caller, wanted).allowed) return {};
  }
  return forbidden(kind.resource(), old->name(),
                   fmt::format("user not permitted to {} requests with signerName \"{}\"", wanted.verb, signer));
}

}  // namespace dhow::apiserver
