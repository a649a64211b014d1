#include "apiserver/admission.h"

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

}  // namespace

Admission::Admission(Loop& loop, WatchCache& caches)
    : loop_(loop),
      caches_(caches),
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

Task<Result<>> Admission::admitCreate(const Context& context, const object::KindInfo& kind, std::string ns,
                                      json::object& document) {
  (void)context;
  if (kind.namespaced) {
    CO_RETURN_IF_ERROR(checkNamespace(kind, ns, text(document, {"metadata", "name"})));
  }
  if (!kind.group.empty() || kind.plural != "pods") co_return Result<>();
  CO_RETURN_IF_ERROR(givePriority(document));
  addDefaultTolerations(client::objectAt(document, "spec"));
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

Result<> Admission::admitUpdate(const Context&, const object::KindInfo& kind, std::string_view subresource,
                                const json::object& document, const object::Object& old) {
  if (!kind.group.empty() || kind.plural != "pods" || subresource == "status") return {};
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
