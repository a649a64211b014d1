#include "apiserver/admission.h"

#include "base/pki.h"
#include "base/strings.h"
#include "client/fields.h"
#include "errors.h"

namespace dhow::apiserver {

using client::array;
using client::text;

namespace {

constexpr std::string_view kTokenPath = "/var/run/secrets/kubernetes.io/serviceaccount";
// How long a pod waits for the account of a namespace that has just been made.
constexpr Duration kAccountPatience = std::chrono::seconds(2);

void addDefaultTolerations(json::object& spec) {
  auto tolerated = [&](std::string_view key) {
    for (const auto& value : array(spec, {"tolerations"})) {
      if (!value.is_object()) continue;
      const auto& one = value.get_object();
      auto effect = text(one, "effect");
      if ((text(one, "key") == key || text(one, "key").empty()) && (effect == "NoExecute" || effect.empty()))
        return true;
    }
    return false;
  };
  for (std::string_view key : {"node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"}) {
    if (tolerated(key)) continue;
    client::arrayAt(spec, "tolerations")
        .push_back(
            json::object{{"key", key}, {"operator", "Exists"}, {"effect", "NoExecute"}, {"tolerationSeconds", 300}});
  }
}

Result<> givePriority(json::object& pod) {
  auto& spec = client::objectAt(pod, "spec");
  std::string name(text(spec, "priorityClassName"));
  int64_t value = 0;
  if (name == "system-cluster-critical")
    value = 2'000'000'000;
  else if (name == "system-node-critical")
    value = 2'000'001'000;
  else if (!name.empty()) {
    return forbidden(object::resources::kPods, text(pod, {"metadata", "name"}),
                     fmt::format("no PriorityClass with name {} was found", name));
  }
  if (auto given = client::number(spec, {"priority"}); given && *given != value) {
    return forbidden(object::resources::kPods, text(pod, {"metadata", "name"}),
                     fmt::format("the integer value of priority ({}) must not be provided in pod spec; priority "
                                 "admission controller computed {} from the given PriorityClass name",
                                 *given, value));
  }
  spec["priority"] = value;
  if (!spec.contains("preemptionPolicy")) spec["preemptionPolicy"] = "PreemptLowerPriority";
  return {};
}

void mountToken(json::object& spec, const std::string& suffix) {
  std::string volume;
  auto mounted = [](const json::object& container) {
    for (const auto& mount : array(container, {"volumeMounts"})) {
      if (mount.is_object() && text(mount.get_object(), "mountPath") == kTokenPath) return true;
    }
    return false;
  };
  for (std::string_view list : {"initContainers", "containers"}) {
    auto* containers = spec.contains(list) ? spec[list].if_array() : nullptr;
    if (!containers) continue;
    for (auto& value : *containers) {
      if (!value.is_object() || mounted(value.get_object())) continue;
      if (volume.empty()) volume = "kube-api-access-" + suffix;
      client::arrayAt(value.get_object(), "volumeMounts")
          .push_back(json::object{{"name", volume}, {"readOnly", true}, {"mountPath", kTokenPath}});
    }
  }
  if (volume.empty()) return;
  json::array sources;
  sources.push_back(
      json::object{{"serviceAccountToken", json::object{{"expirationSeconds", 3607}, {"path", "token"}}}});
  json::array certificate;
  certificate.push_back(json::object{{"key", "ca.crt"}, {"path", "ca.crt"}});
  sources.push_back(
      json::object{{"configMap", json::object{{"name", "kube-root-ca.crt"}, {"items", std::move(certificate)}}}});
  json::array own;
  own.push_back(json::object{{"path", "namespace"},
                             {"fieldRef", json::object{{"apiVersion", "v1"}, {"fieldPath", "metadata.namespace"}}}});
  sources.push_back(json::object{{"downwardAPI", json::object{{"items", std::move(own)}}}});
  client::arrayAt(spec, "volumes")
      .push_back(json::object{{"name", volume},
                              {"projected", json::object{{"sources", std::move(sources)}, {"defaultMode", 420}}}});
}

// The newest default class; of those made in one second the first by name (Kubernetes' DefaultIngressClass).
void giveIngressClass(WatchCache& caches, json::object& ingress) {
  const auto& annotations = client::object(ingress, {"metadata", "annotations"});
  if (annotations.contains("kubernetes.io/ingress.class")) return;
  if (const auto* name = client::field(ingress, {"spec", "ingressClassName"}); name && !name->is_null()) return;
  object::ObjectPtr chosen;
  for (const auto& one : caches.of(object::resources::kIngressClasses).list()) {
    if (text(one->root(), {"metadata", "annotations", "ingressclass.kubernetes.io/is-default-class"}) != "true")
      continue;
    auto made = [](const object::ObjectPtr& object) { return text(object->root(), {"metadata", "creationTimestamp"}); };
    if (!chosen || made(one) > made(chosen) || (made(one) == made(chosen) && one->name() < chosen->name()))
      chosen = one;
  }
  if (chosen) client::objectAt(ingress, "spec")["ingressClassName"] = chosen->name();
}

}  // namespace

Admission::Admission(Loop& loop, WatchCache& caches, PodSecurityOptions security)
    : loop_(loop),
      caches_(caches),
      security_(std::move(security)),
      namespaces_(caches.of(object::resources::kNamespaces)),
      serviceAccounts_(caches.of(object::resources::kServiceAccounts)) {}

Result<> Admission::checkNamespace(const object::KindInfo& kind, std::string_view ns, std::string_view name) const {
  auto space = namespaces_.get("", ns);
  if (!space) return notFound(object::resources::kNamespaces, ns);
  if (space->deleting()) {
    ErrorCause cause{"NamespaceTerminating", fmt::format("namespace {} is being terminated", ns), "metadata.namespace"};
    return forbidden(kind.resource(), name,
                     fmt::format("unable to create new content in namespace {} because it is being terminated", ns))
        .withCauses({cause});
  }
  return {};
}

Task<Result<>> Admission::admitCreate(const object::KindInfo& kind, std::string ns, json::object& document) {
  if (kind.namespaced) {
    CO_RETURN_IF_ERROR(checkNamespace(kind, ns, text(document, {"metadata", "name"})));
  }
  if (kind.group == "networking.k8s.io" && kind.plural == "ingresses") giveIngressClass(caches_, document);
  if (!kind.group.empty() || kind.plural != "pods") co_return Result<>();
  CO_RETURN_IF_ERROR(givePriority(document));
  addDefaultTolerations(client::objectAt(document, "spec"));
  security_.giveOwnUsers(ns, client::objectAt(document, "spec"));
  co_return co_await giveServiceAccount(std::move(ns), document);
}

Task<Result<>> Admission::giveServiceAccount(std::string ns, json::object& pod) {
  auto& spec = client::objectAt(pod, "spec");
  std::string name(text(spec, "serviceAccountName"));
  if (name.empty()) name = text(spec, "serviceAccount");
  if (name.empty()) name = "default";
  spec["serviceAccountName"] = name;
  spec["serviceAccount"] = name;
  auto account = serviceAccounts_.get(ns, name);
  if (!account) {
    // The account of a new namespace is made by a controller right now.
    KindWatch::Options options;
    options.ns = ns;
    options.sendInitial = true;
    auto watch = KindWatch::open(loop_, caches_, serviceAccounts_, std::move(options));
    CO_RETURN_IF_ERROR(watch);
    TimePoint end = loop_.now() + kAccountPatience;
    while (!account && loop_.now() < end) {
      auto batch = co_await (*watch)->next(end - loop_.now());
      CO_RETURN_IF_ERROR(batch);
      account = serviceAccounts_.get(ns, name);
    }
    if (!account) {
      co_return forbidden(
          object::resources::kPods, text(pod, {"metadata", "name"}),
          fmt::format("error looking up service account {}/{}: serviceaccount \"{}\" not found", ns, name, name));
    }
  }
  auto& live = client::objectAt(pod, "spec");
  const auto* wanted = client::field(live, {"automountServiceAccountToken"});
  bool automount = wanted && wanted->is_bool() ? wanted->get_bool()
                                               : client::flag(account->root(), {"automountServiceAccountToken"}, true);
  if (automount) {
    constexpr std::string_view letters = "bcdfghjklmnpqrstvwxz2456789";
    std::string suffix;
    for (int i = 0; i < 5; ++i) suffix.push_back(letters[loop_.random() % letters.size()]);
    mountToken(live, suffix);
  }
  if (array(live, {"imagePullSecrets"}).empty()) {
    const auto& secrets = array(account->root(), {"imagePullSecrets"});
    if (!secrets.empty()) live["imagePullSecrets"] = secrets;
  }
  co_return Result<>();
}

namespace {

bool isKind(const object::KindInfo& kind, std::string_view group, std::string_view plural) {
  return kind.group == group && kind.plural == plural;
}

// Those that make pods of a template.
bool hasTemplate(const object::KindInfo& kind) {
  if (kind.group == "apps")
    return kind.plural == "deployments" || kind.plural == "replicasets" || kind.plural == "statefulsets" ||
           kind.plural == "daemonsets";
  return isKind(kind, "batch", "jobs") || isKind(kind, "", "replicationcontrollers");
}

// Attempts that are repeated warn once.
void warn(const Context& context, std::string text) {
  if (context.warnings &&
      std::find(context.warnings->begin(), context.warnings->end(), text) == context.warnings->end())
    context.warnings->push_back(std::move(text));
}

std::string wouldViolate(const PodPolicy& policy, const std::string& violations) {
  return fmt::format("would violate PodSecurity \"{}\": {}", policy.text(), violations);
}

void note(const Context& context, const char* name, std::string text) {
  if (context.annotations) (*context.annotations)[std::string("pod-security.kubernetes.io/") + name] = std::move(text);
}

}  // namespace

Result<> Admission::checkPod(const Context& context, std::string_view ns, const json::object& pod) {
  auto space = namespaces_.get("", ns);
  if (!space) return {};
  const auto policies = security_.policiesOf(*space);
  if (policies.privileged()) return {};
  note(context, "enforce-policy", policies.enforce.text());
  auto enforced = security_.violations(pod, policies.enforce);
  auto audited = policies.audit == policies.enforce ? enforced : security_.violations(pod, policies.audit);
  if (!audited.empty()) note(context, "audit-violations", wouldViolate(policies.audit, audited));
  if (!enforced.empty()) {
    auto name = text(pod, {"metadata", "name"});
    return forbidden(object::resources::kPods, name.empty() ? text(pod, {"metadata", "generateName"}) : name,
                     fmt::format("violates PodSecurity \"{}\": {}", policies.enforce.text(), enforced));
  }
  if (policies.warn == policies.enforce) return {};
  auto warned = security_.violations(pod, policies.warn);
  if (!warned.empty()) warn(context, wouldViolate(policies.warn, warned));
  return {};
}

void Admission::checkTemplate(const Context& context, std::string_view ns, const json::object& document) {
  if (!context.warnings && !context.annotations) return;
  auto space = namespaces_.get("", ns);
  if (!space) return;
  const auto policies = security_.policiesOf(*space);
  const auto& pod = client::object(document, {"spec", "template"});
  auto warned = security_.violations(pod, policies.warn);
  if (!warned.empty()) warn(context, wouldViolate(policies.warn, warned));
  auto audited = policies.audit == policies.warn ? warned : security_.violations(pod, policies.audit);
  if (!audited.empty()) note(context, "audit-violations", wouldViolate(policies.audit, audited));
}

Result<> Admission::checkNamespaceLabels(const Context& context, const json::object& document,
                                         const object::Object* old) {
  const auto& labels = client::object(document, {"metadata", "labels"});
  if (old && labels == client::object(old->root(), {"metadata", "labels"})) return {};
  std::vector<ErrorCause> causes;
  security_.checkLabels(document, causes);
  auto name = text(document, {"metadata", "name"});
  if (!causes.empty()) return invalid("Namespace", "", name, std::move(causes));
  if (!old || !context.warnings || security_.exempts(name)) return {};
  const auto before = security_.policiesOf(*old).enforce;
  const auto after = security_.policiesOf(*object::Object::make(document)).enforce;
  const bool relaxed = after.minor == before.minor && after.level <= before.level;
  if (after == before || after.level == PodLevel::kPrivileged || relaxed) return {};
  for (auto& text : PodSecurity::violationsIn(name, caches_.of(object::resources::kPods).list(name), after))
    warn(context, std::move(text));
  return {};
}

namespace {

// Nobody becomes an administrator by a request that somebody approves without looking, and a node asks for itself only.
Result<> checkRequestedSubject(const Context& context, const object::KindInfo& kind, const json::object& document) {
  constexpr std::string_view client = "kubernetes.io/kube-apiserver-client";
  const auto signer = text(document, {"spec", "signerName"});
  const auto node = context.caller.node();
  const bool ofNode = !node.empty() && (signer == "kubernetes.io/kubelet-serving" ||
                                        signer == "kubernetes.io/kube-apiserver-client-kubelet");
  if (signer != client && !ofNode) return {};
  ASSIGN_OR_RETURN(auto request,
                   inspectCertificateRequest(fromBase64(text(document, {"spec", "request"})).value_or("")));
  const auto name = text(document, {"metadata", "name"});
  const auto& groups = request.organizations;
  if (signer == client && std::find(groups.begin(), groups.end(), kSystemMasters) != groups.end()) {
    return forbidden(kind.resource(), name,
                     fmt::format("use of {} signer with {} group is not allowed", client, kSystemMasters));
  }
  if (ofNode && request.commonName != context.caller.user) {
    return forbidden(kind.resource(), name, fmt::format("can only create a node CSR with CN={}", context.caller.user));
  }
  return {};
}

}  // namespace

Result<> Admission::admitValid(const Context& context, const object::KindInfo& kind, std::string_view ns,
                               const json::object& document) {
  if (isKind(kind, "", "pods")) return checkPod(context, ns, document);
  if (isKind(kind, "", "namespaces")) return checkNamespaceLabels(context, document, nullptr);
  if (isKind(kind, "certificates.k8s.io", "certificatesigningrequests"))
    return checkRequestedSubject(context, kind, document);
  if (hasTemplate(kind)) checkTemplate(context, ns, document);
  return {};
}

Result<> Admission::admitUpdate(const Context& context, const object::KindInfo& kind, std::string_view subresource,
                                const json::object& document, const object::Object& old) {
  if (subresource.empty() && isKind(kind, "", "namespaces")) return checkNamespaceLabels(context, document, &old);
  if (subresource.empty() && hasTemplate(kind)) {
    const auto& before = client::object(old.root(), {"spec", "template"});
    if (before != client::object(document, {"spec", "template"})) checkTemplate(context, old.ns(), document);
  }
  if (!kind.group.empty() || kind.plural != "pods" || subresource == "status") return {};
  if (changesPodSecurity(old.root(), document)) RETURN_IF_ERROR(checkPod(context, old.ns(), document));
  auto space = namespaces_.get("", old.ns());
  if (!space || space->label("dhow.io/pod-labels") != "immutable") return {};
  if (client::object(document, {"metadata", "labels"}) == client::object(old.root(), {"metadata", "labels"})) return {};
  return forbidden(kind.resource(), old.name(),
                   fmt::format("the labels of pods in namespace \"{}\" cannot be edited "
                               "(dhow.io/pod-labels=immutable); change the labels in the "
                               "template of the pod's controller, which then makes new pods, or delete the pod and "
                               "create it with the labels that you want",
                               old.ns()));
}

}  // namespace dhow::apiserver
