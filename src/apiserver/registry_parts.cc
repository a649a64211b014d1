// The subresources scale and binding, and the kinds that have two forms.
#include "apiserver/registry.h"
#include "base/strings.h"
#include "base/time.h"
#include "client/fields.h"
#include "errors.h"
#include "object/decode.h"
#include "object/labels.h"

namespace dhow::apiserver {

using client::text;

namespace {

constexpr int kAttempts = 30;

// ".spec.replicas" -> the value there.
const json::value* follow(const json::object& root, std::string_view path) {
  const json::object* here = &root;
  const json::value* value = nullptr;
  for (const auto& step : split(path.starts_with('.') ? path.substr(1) : path, '.')) {
    if (!here) return nullptr;
    value = here->if_contains(step);
    if (!value) return nullptr;
    here = value->if_object();
  }
  return value;
}

void put(json::object& root, std::string_view path, json::value value) {
  auto steps = split(path.starts_with('.') ? path.substr(1) : path, '.');
  json::object* here = &root;
  for (size_t i = 0; i + 1 < steps.size(); ++i) here = &client::objectAt(*here, steps[i]);
  (*here)[steps.back()] = std::move(value);
}

}  // namespace

Result<json::object> scaleOf(const KindInfo& kind, const object::Object& object) {
  const auto* scale = kind.subresource("scale");
  if (!scale) return Error(Code::kNotFound, "the server could not find the requested resource");
  auto number = [&](const std::string& path) -> int64_t {
    const auto* value = follow(object.root(), path);
    return value && value->is_int64() ? value->get_int64() : 0;
  };
  json::object metadata;
  for (auto field : {"name", "namespace", "uid", "resourceVersion", "creationTimestamp"}) {
    if (const auto* value = object.metadata().if_contains(field)) metadata[field] = *value;
  }
  json::object status{{"replicas", number(scale->statusReplicas)}};
  if (auto selector = object::LabelSelector::fromDocument(follow(object.root(), scale->selector)); selector.ok()) {
    status["selector"] = selector->text();
  }
  return json::object{{"kind", "Scale"},
                      {"apiVersion", "autoscaling/v1"},
                      {"metadata", std::move(metadata)},
                      {"spec", json::object{{"replicas", number(scale->specReplicas)}}},
                      {"status", std::move(status)}};
}

Task<Result<Outcome>> Registry::changeScale(Context context, const KindInfo& kind, std::string ns, std::string name,
                                            bool retry,
                                            std::function<Result<json::object>(const json::object& scale)> make) {
  const auto* scale = kind.subresource("scale");
  if (!scale) co_return Error(Code::kNotFound, "the server could not find the requested resource");
  auto change = [scale, make = std::move(make), &kind](const object::Object& old) -> Result<json::object> {
    ASSIGN_OR_RETURN(auto present, scaleOf(kind, old));
    ASSIGN_OR_RETURN(auto wanted, make(present));
    auto replicas = client::number(wanted, {"spec", "replicas"}, 0);
    if (replicas < 0) {
      return invalid(
          "Scale", "autoscaling", old.name(),
          {{"FieldValueInvalid", fmt::format("Invalid value: {}: must be greater than or equal to 0", replicas),
            "spec.replicas"}});
    }
    json::object document = old.root();
    put(document, scale->specReplicas, replicas);
    // A version in the scale stands for the object's.
    if (const auto* version = client::field(wanted, {"metadata", "resourceVersion"}))
      client::metadataOf(document)["resourceVersion"] = *version;
    return document;
  };
  auto outcome = co_await this->change(std::move(context), kind, std::move(ns), std::move(name), "scale", retry, false,
                                       std::move(change));
  if (!outcome.ok()) co_return outcome;
  CO_ASSIGN_OR_RETURN(auto document, scaleOf(kind, *outcome->object));
  outcome->object = object::Object::make(std::move(document));
  co_return outcome;
}

// A pod carries the topology of its node, so that it can know it by the downward API (KEP-4742).
void copyTopology(const ObjectPtr& node, json::object& pod) {
  if (!node) return;
  for (std::string_view label : {object::kZoneLabel, object::kRegionLabel}) {
    auto value = node->label(label);
    if (!value.empty()) client::objectAt(client::metadataOf(pod), "labels")[label] = value;
  }
}

Task<Result<>> Registry::bindOnce(std::string ns, std::string name, const json::object& binding, bool dryRun,
                                  Attempt& attempt) {
  attempt = Attempt::kDecided;
  const auto* kind = kinds_.find(object::resources::kPods);
  Resource bindings{"", "v1", "pods/binding"};
  auto old = caches_.of(kind->resource()).get(ns, name);
  if (!old) co_return notFound(kind->resource(), name);
  auto uid = text(binding, {"metadata", "uid"});
  if (!uid.empty() && uid != old->uid()) {
    co_return conflict(
        kind->resource(), name,
        fmt::format("Precondition failed: UID in precondition: {}, UID in object meta: {}", uid, old->uid()));
  }
  if (old->deleting())
    co_return conflict(bindings, name, fmt::format("pod {} is being deleted, cannot be assigned to a host", name));
  if (auto present = text(old->root(), {"spec", "nodeName"}); !present.empty()) {
    co_return conflict(bindings, name, fmt::format("pod {} is already assigned to node \"{}\"", name, present));
  }
  std::string node(text(binding, {"target", "name"}));
  json::object pod = old->root();
  client::objectAt(pod, "spec")["nodeName"] = node;
  copyTopology(caches_.of(object::resources::kNodes).get("", node), pod);
  auto& conditions = client::arrayAt(client::objectAt(pod, "status"), "conditions");
  json::object scheduled{{"type", "PodScheduled"},
                         {"status", "True"},
                         {"lastProbeTime", nullptr},
                         {"lastTransitionTime", formatTime(loop_.wallNow())}};
  bool replaced = false;
  for (auto& one : conditions) {
    if (one.is_object() && text(one.get_object(), "type") == "PodScheduled") {
      one = scheduled;
      replaced = true;
    }
  }
  if (!replaced) conditions.push_back(std::move(scheduled));
  for (const auto& [key, value] : client::object(binding, {"metadata", "annotations"}))
    client::objectAt(client::metadataOf(pod), "annotations")[key] = value;
  if (dryRun) co_return Result<>();
  auto written = co_await write(*kind, ns, name, old, std::move(pod));
  attempt = !written.ok() && written.error().is(Code::kConflict) ? Attempt::kLost : Attempt::kWritten;
  CO_RETURN_IF_ERROR(written);
  co_return Result<>();
}

// The scheduler's word: the pod runs on that node.
Task<Result<ObjectPtr>> Registry::bind(Context context, std::string ns, std::string name, json::object binding) {
  auto kindOfTarget = text(binding, {"target", "kind"});
  if (!kindOfTarget.empty() && kindOfTarget != "Node") {
    co_return invalid("Binding", "", name,
                      {{"FieldValueNotSupported",
                        fmt::format("Unsupported value: \"{}\": supported values: \"Node\", \"<empty>\"", kindOfTarget),
                        "target.kind"}});
  }
  if (text(binding, {"target", "name"}).empty())
    co_return invalid("Binding", "", name, {{"FieldValueRequired", "Required value", "target.name"}});
  auto held = co_await locks_.acquire(storeKey(object::resources::kPods, ns, name));
  for (int round = 0;; ++round) {
    if (round > 0) CO_RETURN_IF_ERROR(co_await caches_.catchUp());
    Attempt attempt{};
    auto bound = co_await bindOnce(ns, name, binding, context.dryRun, attempt);
    bool again = attempt != Attempt::kWritten && (round == 0 || (attempt == Attempt::kLost && round < kAttempts));
    if (again) continue;
    CO_RETURN_IF_ERROR(bound);
    co_return object::Object::make(json::object{
        {"kind", "Status"}, {"apiVersion", "v1"}, {"metadata", json::object()}, {"status", "Success"}, {"code", 201}});
  }
}

namespace {

void move(json::object& document, std::string_view from, std::string_view to) {
  auto at = document.find(from);
  if (at == document.end()) return;
  json::value value = std::move(at->value());
  document.erase(at);
  document[to] = std::move(value);
}

struct Renamed {
  std::string_view core;
  std::string_view events;
};
constexpr Renamed kEventFields[] = {
    {"involvedObject", "regarding"},
    {"message", "note"},
    {"reportingComponent", "reportingController"},
    {"source", "deprecatedSource"},
    {"firstTimestamp", "deprecatedFirstTimestamp"},
    {"lastTimestamp", "deprecatedLastTimestamp"},
    {"count", "deprecatedCount"},
};

}  // namespace

json::object convertDocument(const KindInfo& from, const KindInfo& to, json::object document) {
  if (&from == &to) return document;
  const bool toStored = !from.storedAsKind.empty();
  if ((toStored ? from : to).convert == "event") {
    for (const auto& field : kEventFields)
      move(document, toStored ? field.events : field.core, toStored ? field.core : field.events);
  }
  document["apiVersion"] = to.apiVersion();
  document["kind"] = to.kind;
  return document;
}

ObjectPtr convertObject(const KindInfo& from, const KindInfo& to, const ObjectPtr& object) {
  if (&from == &to || !object) return object;
  return object::Object::make(convertDocument(from, to, object->root()));
}

}  // namespace dhow::apiserver
