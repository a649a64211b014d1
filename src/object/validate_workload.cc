// Rules of everything but pods that the schema cannot say.
#include <boost/json/serialize.hpp>

#include "base/strings.h"
#include "object/names.h"
#include "object/selector.h"
#include "rules.h"

namespace dhow::object::rules {
namespace {

constexpr size_t kDataLimit = 1024 * 1024;

void workload(const json::object& value, const json::object*, Context& context) {
  if (context.subresource == "status") return;
  static const json::object kNone;
  const json::object* given = child(value, "spec");
  const json::object& spec = given ? *given : kNone;
  const json::value* selector = spec.if_contains("selector");
  const json::object* templ = child(spec, "template");
  if (!templ) context.problems.required("spec.template");
  if (!selector || !selector->is_object()) {
    context.problems.required("spec.selector");
    return;
  }
  auto parsed = LabelSelector::fromDocument(selector);
  if (!parsed.ok()) return;  // told by the rules of the selector itself
  if (parsed->everything()) {
    context.problems.invalid("spec.selector", *selector, "empty selector is invalid for " + toLower(context.kind.kind));
    return;
  }
  const json::object* metadata = templ ? child(*templ, "metadata") : nullptr;
  const json::object* labels = metadata ? child(*metadata, "labels") : nullptr;
  if (templ && !parsed->matchesLabels(labels)) {
    context.problems.invalid("spec.template.metadata.labels",
                             labels ? json::value(*labels) : json::value(json::object()),
                             "`selector` does not match template `labels`");
  }
  const json::object* podSpec = templ ? child(*templ, "spec") : nullptr;
  if (podSpec && text(*podSpec, "restartPolicy") != "Always" && !text(*podSpec, "restartPolicy").empty()) {
    context.problems.notSupported("spec.template.spec.restartPolicy", json::value(text(*podSpec, "restartPolicy")),
                                  {"Always"});
  }
  if (podSpec && podSpec->contains("activeDeadlineSeconds")) {
    context.problems.forbidden("spec.template.spec.activeDeadlineSeconds",
                               "activeDeadlineSeconds in " + context.kind.kind + " is not Supported");
  }
}

bool isZero(const json::value* value) {
  return value &&
         ((value->is_int64() && value->get_int64() == 0) || (value->is_string() && value->get_string() == "0%"));
}

void deploymentStrategy(const json::object& value, const json::object*, Context& context) {
  const json::object* rolling = child(value, "rollingUpdate");
  if (text(value, "type") == "Recreate" && rolling) {
    context.problems.forbidden(context.at("rollingUpdate"), "may not be specified when strategy `type` is 'Recreate'");
  }
  if (text(value, "type") != "RollingUpdate" || !rolling) return;
  const json::value* unavailable = rolling->if_contains("maxUnavailable");
  if (isZero(unavailable) && isZero(rolling->if_contains("maxSurge"))) {
    context.problems.invalid(context.at("rollingUpdate.maxUnavailable"), *unavailable,
                             "may not be 0 when `maxSurge` is 0");
  }
}

void disruptionBudget(const json::object& value, const json::object*, Context& context) {
  if (value.contains("minAvailable") && value.contains("maxUnavailable")) {
    context.problems.invalid("spec", json::value(value), "minAvailable and maxUnavailable cannot be both set");
  }
}

void keys(const json::object& value, std::string_view field, size_t& size, Context& context) {
  const json::object* map = child(value, field);
  if (!map) return;
  for (const auto& member : *map) {
    if (std::string problem = checkConfigKey(member.key()); !problem.empty()) {
      context.problems.invalid(fmt::format("{}[{}]", field, std::string_view(member.key())), json::value(member.key()),
                               problem);
    }
    if (member.value().is_string()) size += member.value().get_string().size();
  }
}

void fixedOnceImmutable(const json::object& value, const json::object* before,
                        std::initializer_list<std::string_view> fields, Context& context) {
  const json::value* old = before ? before->if_contains("immutable") : nullptr;
  if (!old || !old->is_bool() || !old->get_bool()) return;
  constexpr std::string_view kText = "field is immutable when `immutable` is set";
  const json::value* now = value.if_contains("immutable");
  if (!now || !(*now == *old)) context.problems.forbidden("immutable", kText);
  for (std::string_view field : fields) {
    const json::value* a = value.if_contains(field);
    const json::value* b = before->if_contains(field);
    if (bool(a) != bool(b) || (a && !(*a == *b))) context.problems.forbidden(std::string(field), kText);
  }
}

void configMap(const json::object& value, const json::object* before, Context& context) {
  size_t size = 0;
  keys(value, "data", size, context);
  keys(value, "binaryData", size, context);
  if (size > kDataLimit) context.problems.tooLong("[]", kDataLimit);
  const json::object* data = child(value, "data");
  const json::object* binary = child(value, "binaryData");
  if (data && binary)
    for (const auto& member : *data)
      if (binary->contains(member.key())) {
        context.problems.invalid(fmt::format("data[{}]", std::string_view(member.key())), json::value(member.key()),
                                 "duplicate of key present in binaryData");
      }
  fixedOnceImmutable(value, before, {"data", "binaryData"}, context);
}

void secret(const json::object& value, const json::object* before, Context& context) {
  size_t size = 0;
  keys(value, "data", size, context);
  if (size / 4 * 3 > kDataLimit) context.problems.tooLong("data", kDataLimit);
  const json::object* data = child(value, "data");
  auto required = [&](std::string_view key) {
    if (!data || !data->contains(key)) context.problems.required(fmt::format("data[{}]", key));
  };
  std::string_view type = text(value, "type");
  if (type == "kubernetes.io/dockerconfigjson") required(".dockerconfigjson");
  if (type == "kubernetes.io/dockercfg") required(".dockercfg");
  if (type == "kubernetes.io/ssh-auth") required("ssh-privatekey");
  if (type == "kubernetes.io/tls") {
    required("tls.crt");
    required("tls.key");
  }
  if (type == "kubernetes.io/basic-auth" && (!data || (!data->contains("username") && !data->contains("password")))) {
    required("username");
    required("password");
  }
  if (type == "kubernetes.io/service-account-token") {
    const json::object* metadata = child(value, "metadata");
    const json::object* annotations = metadata ? child(*metadata, "annotations") : nullptr;
    if (!annotations || text(*annotations, "kubernetes.io/service-account.name").empty()) {
      context.problems.required("metadata.annotations[kubernetes.io/service-account.name]");
    }
  }
  fixedOnceImmutable(value, before, {"data"}, context);
}

constexpr std::string_view kRbac = "rbac.authorization.k8s.io";

void roleRef(const json::object& value, const json::object*, Context& context) {
  if (text(value, "apiGroup") != kRbac)
    context.problems.notSupported(context.at("apiGroup"), json::value(text(value, "apiGroup")), {std::string(kRbac)});
  std::string_view kind = text(value, "kind");
  std::vector<std::string> supported = {"ClusterRole"};
  if (context.kind.namespaced) supported.push_back("Role");
  if (!kind.empty() && std::find(supported.begin(), supported.end(), kind) == supported.end()) {
    context.problems.notSupported(context.at("kind"), json::value(kind), supported);
  }
}

void subject(const json::object& value, const json::object*, Context& context) {
  if (text(value, "kind") == "ServiceAccount") {
    if (text(value, "namespace").empty()) context.problems.required(context.at("namespace"));
    if (std::string problem = checkDns1123Subdomain(text(value, "name"));
        !problem.empty() && !text(value, "name").empty()) {
      context.problems.invalid(context.at("name"), json::value(text(value, "name")), problem);
    }
  }
}

void policyRule(const json::object& value, const json::object*, Context& context) {
  auto empty = [&](std::string_view key) {
    const json::array* items = list(value, key);
    return !items || items->empty();
  };
  if (empty("verbs")) context.problems.required(context.at("verbs"), "verbs must contain at least one value");
  if (!empty("nonResourceURLs")) {
    if (context.kind.namespaced)
      context.problems.invalid(context.at("nonResourceURLs"), value.at("nonResourceURLs"),
                               "namespaced rules cannot apply to non-resource URLs");
    if (!empty("apiGroups") || !empty("resources") || !empty("resourceNames")) {
      context.problems.invalid(context.at("nonResourceURLs"), value.at("nonResourceURLs"),
                               "rules cannot apply to both regular resources and non-resource URLs");
    }
    return;
  }
  if (empty("apiGroups"))
    context.problems.required(context.at("apiGroups"), "resource rules must supply at least one api group");
  if (empty("resources"))
    context.problems.required(context.at("resources"), "resource rules must supply at least one resource");
}

constexpr Entry kRules[] = {{"workload", workload},     {"deploymentStrategy", deploymentStrategy},
                            {"configMap", configMap},   {"secret", secret},
                            {"roleRef", roleRef},       {"subject", subject},
                            {"policyRule", policyRule}, {"disruptionBudget", disruptionBudget}};

}  // namespace

std::span<const Entry> workloadRules() {
  return kRules;
}

}  // namespace dhow::object::rules
