// Update and patch: what a new version of an object may be, and the retry when somebody else was faster.
#include <boost/json/serialize.hpp>

#include "apiserver/registry.h"
#include "base/time.h"
#include "client/fields.h"
#include "errors.h"
#include "object/apply.h"
#include "object/defaults.h"
#include "object/patch.h"
#include "object/validate.h"

namespace dhow::apiserver {

using client::text;

namespace {

constexpr int kAttempts = 30;

void keep(json::object& metadata, const json::object& old, std::string_view field) {
  if (const auto* value = old.if_contains(field))
    metadata[field] = *value;
  else
    metadata.erase(field);
}

// Whether something changed beside metadata and status: what counts for metadata.generation.
bool desiredChanged(const json::object& before, const json::object& after) {
  auto counts = [](std::string_view key) {
    return key != "metadata" && key != "status" && key != "kind" && key != "apiVersion";
  };
  for (const auto& [key, value] : after) {
    if (!counts(key)) continue;
    const auto* was = before.if_contains(key);
    if (!was || *was != value) return true;
  }
  for (const auto& [key, value] : before) {
    if (counts(key) && !after.contains(key)) return true;
  }
  return false;
}

// Of a resize: the resources of each container, by name.
void takeResources(const json::object& from, json::object& into) {
  for (std::string_view list : {"containers", "initContainers"}) {
    for (auto& value : client::arrayAt(into, list)) {
      if (!value.is_object()) continue;
      auto& container = value.get_object();
      for (const auto& wanted : client::array(from, {list})) {
        if (!wanted.is_object() || text(wanted.get_object(), "name") != text(container, "name")) continue;
        if (const auto* resources = wanted.get_object().if_contains("resources")) container["resources"] = *resources;
      }
    }
    if (client::array(into, {list}).empty()) into.erase(list);
  }
}

Result<> checkIdentity(const KindInfo& kind, const json::object& metadata, const object::Object& old) {
  auto version = text(metadata, "resourceVersion");
  if (!version.empty() && version != "0" && version != text(old.metadata(), "resourceVersion"))
    return modified(kind.resource(), old.name());
  if (auto uid = text(metadata, "uid"); !uid.empty() && uid != old.uid()) {
    return conflict(
        kind.resource(), old.name(),
        fmt::format("Precondition failed: UID in precondition: {}, UID in object meta: {}", uid, old.uid()));
  }
  if (auto name = text(metadata, "name"); !name.empty() && name != old.name()) {
    return Error(Code::kBadRequest,
                 fmt::format("the name of the object ({}) does not match the name on the URL ({})", name, old.name()));
  }
  if (auto ns = text(metadata, "namespace"); kind.namespaced && !ns.empty() && ns != old.ns()) {
    return Error(Code::kBadRequest,
                 "the namespace of the provided object does not match the namespace sent on the request");
  }
  return {};
}

Result<> checkFinalizers(const KindInfo& kind, const json::object& metadata, const object::Object& old) {
  if (!old.deleting()) return {};
  const auto& before = client::array(old.metadata(), {"finalizers"});
  std::vector<std::string> added;
  for (const auto& one : client::array(metadata, {"finalizers"})) {
    if (std::find(before.begin(), before.end(), one) == before.end() && one.is_string())
      added.push_back(fmt::format("\"{}\"", std::string_view(one.get_string())));
  }
  if (added.empty()) return {};
  return invalid(kind.kind, kind.group, old.name(),
                 {{"FieldValueForbidden",
                   fmt::format("Forbidden: no new finalizers can be added if the object is being deleted, found new "
                               "finalizers []string{{{}}}",
                               fmt::join(added, ", ")),
                   "metadata.finalizers"}});
}

}  // namespace

// Brings a proposed document into the form that may replace `old`.
Result<json::object> Registry::settle(const Context& context, const KindInfo& kind, std::string_view subresource,
                                      json::object document, const object::Object& old, bool applied) {
  const json::object& before = old.root();
  RETURN_IF_ERROR(checkIdentity(kind, client::object(document, {"metadata"}), old));
  auto& strategy = strategyOf(kind);
  if (subresource == "status" || subresource == "approval" || subresource == "finalize") {
    json::object whole = before;
    std::string_view part = subresource == "finalize" ? "spec" : "status";
    if (const auto* value = document.if_contains(part))
      whole[part] = *value;
    else
      whole.erase(part);
    if (applied) {
      if (const auto* fields = client::field(document, {"metadata", "managedFields"}))
        client::metadataOf(whole)["managedFields"] = *fields;
    }
    document = std::move(whole);
  } else if (subresource == "resize") {
    json::object whole = before;
    const auto& spec = client::object(document, {"spec"});
    takeResources(spec, client::objectAt(whole, "spec"));
    document = std::move(whole);
  } else if (kind.subresource("status")) {
    if (const auto* status = before.if_contains("status"))
      document["status"] = *status;
    else
      document.erase("status");
  }
  document["apiVersion"] = kind.apiVersion();
  document["kind"] = kind.kind;
  {
    auto& metadata = client::metadataOf(document);
    for (auto field : {"name", "namespace", "uid", "creationTimestamp", "deletionTimestamp",
                       "deletionGracePeriodSeconds", "generation", "resourceVersion"}) {
      keep(metadata, old.metadata(), field);
    }
    metadata.erase("selfLink");
    if (!metadata.contains("managedFields")) keep(metadata, old.metadata(), "managedFields");
    RETURN_IF_ERROR(checkFinalizers(kind, metadata, old));
  }
  RETURN_IF_ERROR(strategy.beforeUpdate(context, subresource, document, old));
  object::applyDefaults(kind, document);
  object::ValidateOptions options;
  options.before = &before;
  options.subresource = subresource;
  RETURN_IF_ERROR(object::validate(kind, document, options));
  std::vector<ErrorCause> causes;
  strategy.check(subresource, document, &old, causes);
  if (!causes.empty()) return invalid(kind.kind, kind.group, old.name(), std::move(causes));
  RETURN_IF_ERROR(admission_.admitUpdate(context, kind, subresource, document, old));
  if (guard_) RETURN_IF_ERROR(guard_(context, kind, subresource, document, &old));
  if (subresource != "status") RETURN_IF_ERROR(strategy.allocate(context, document, &old));
  if (strategy.hasGeneration() && desiredChanged(before, document)) {
    client::metadataOf(document)["generation"] = client::number(before, {"metadata", "generation"}, 0) + 1;
  }
  if (!applied)
    object::trackUpdate(kind, &before, document, {context.fieldManager, std::string(subresource)}, loop_.wallNow());
  return document;
}

Task<Result<Outcome>> Registry::changeOnce(const Context& context, const KindInfo& kind, std::string ns,
                                           std::string name, std::string subresource, bool applied, const Change& make,
                                           Attempt& attempt) {
  attempt = Attempt::kDecided;
  auto old = caches_.of(kind.resource()).get(ns, name);
  if (!old) co_return missing(kind, kind.resource(), ns, name);
  CO_ASSIGN_OR_RETURN(auto proposed, make(*old));
  auto& strategy = strategyOf(kind);
  auto settled = settle(context, kind, subresource, std::move(proposed), *old, applied);
  CO_ASSIGN_OR_RETURN(auto document, std::move(settled));
  Outcome outcome;
  if (object::sameContent(old->root(), document)) {
    outcome.object = old;
    co_return outcome;
  }
  json::object reserved{{"spec", client::object(document, {"spec"})}};
  if (context.dryRun) {
    strategy.release(reserved);
    outcome.object = object::Object::make(std::move(document));
    co_return outcome;
  }
  bool gone = old->deleting() && client::array(document, {"metadata", "finalizers"}).empty() &&
              !strategy.holdsDeletion(document) &&
              client::number(document, {"metadata", "deletionGracePeriodSeconds"}, 0) == 0;
  Result<ObjectPtr> written = Error(Code::kInternal, "");
  if (gone)
    written = co_await erase(kind, old);
  else
    written = co_await write(kind, ns, name, old, std::move(document));
  strategy.release(reserved);
  attempt = !written.ok() && written.error().is(Code::kConflict) ? Attempt::kLost : Attempt::kWritten;
  CO_ASSIGN_OR_RETURN(outcome.object, std::move(written));
  outcome.gone = gone;
  co_return outcome;
}

// First on the state at hand, which another server may have overtaken; only a write that the store took is believed
// there. All later attempts are on the newest.
Task<Result<Outcome>> Registry::change(Context context, const KindInfo& kind, std::string ns, std::string name,
                                       std::string subresource, bool retry, bool applied, Change make) {
  auto held = co_await locks_.acquire(storeKey(kind.resource(), ns, name));
  for (int round = 0;; ++round) {
    if (round > 0) CO_RETURN_IF_ERROR(co_await caches_.catchUp());
    Attempt attempt{};
    auto outcome = co_await changeOnce(context, kind, ns, name, subresource, applied, make, attempt);
    if (attempt == Attempt::kWritten) co_return outcome;
    if (round == 0) continue;
    if (attempt == Attempt::kDecided || !retry || round >= kAttempts) co_return outcome;
  }
}

Task<Result<Outcome>> Registry::update(Context context, const KindInfo& asked, std::string ns, std::string name,
                                       std::string subresource, json::object body) {
  const KindInfo& kind = stored(asked);
  if (subresource == "scale") {
    auto whole = std::make_shared<json::object>(std::move(body));
    co_return co_await changeScale(std::move(context), kind, std::move(ns), std::move(name), true,
                                   [whole](const json::object&) -> Result<json::object> { return *whole; });
  }
  json::object document = convertDocument(asked, kind, std::move(body));
  std::vector<std::string> warnings;
  CO_RETURN_IF_ERROR(object::conform(kind, document, context.fieldValidation, warnings));
  if (context.warnings) context.warnings->insert(context.warnings->end(), warnings.begin(), warnings.end());
  auto shared = std::make_shared<const json::object>(std::move(document));
  auto outcome = co_await change(std::move(context), kind, std::move(ns), std::move(name), std::move(subresource), true,
                                 false, [shared](const object::Object&) -> Result<json::object> { return *shared; });
  if (outcome.ok()) outcome->object = convertObject(kind, asked, outcome->object);
  co_return outcome;
}

namespace {

Result<json::object> patched(const object::Type* type, PatchType how, const json::object& document,
                             const json::value& patch) {
  switch (how) {
    case PatchType::kJson: {
      ASSIGN_OR_RETURN(auto value, object::applyJsonPatch(document, patch));
      if (!value.is_object()) return Error(Code::kInvalid, "the patched document is not an object");
      return std::move(value.get_object());
    }
    case PatchType::kMerge: {
      if (!patch.is_object()) return Error(Code::kBadRequest, "a merge patch must be an object");
      auto value = object::applyMergePatch(document, patch);
      return std::move(value.get_object());
    }
    case PatchType::kStrategicMerge:
    case PatchType::kApply: break;
  }
  if (!patch.is_object()) return Error(Code::kBadRequest, "a strategic merge patch must be an object");
  return object::applyStrategicPatch(*type, document, patch.get_object());
}

}  // namespace

Task<Result<Outcome>> Registry::patch(Context context, const KindInfo& asked, std::string ns, std::string name,
                                      std::string subresource, PatchType type, json::value body) {
  const KindInfo& kind = stored(asked);
  auto shared = std::make_shared<const json::value>(std::move(body));
  if (subresource == "scale") {
    const auto* scaleKind = kinds_.findKind("autoscaling/v1", "Scale");
    if (!scaleKind || type == PatchType::kApply)
      co_return Error(Code::kUnsupportedMediaType, "the scale subresource does not take this kind of patch");
    auto make = [shared, type, scaleKind](const json::object& scale) {
      return patched(scaleKind->type, type, scale, *shared);
    };
    co_return co_await changeScale(std::move(context), kind, std::move(ns), std::move(name), true, make);
  }
  auto warnings = std::make_shared<std::vector<std::string>>();
  Result<Outcome> outcome = Error(Code::kInternal, "");
  if (type == PatchType::kApply) {
    if (!shared->is_object()) co_return Error(Code::kBadRequest, "an apply patch must be an object");
    if (context.fieldManager.empty()) {
      co_return invalid("PatchOptions", "meta.k8s.io", "",
                        {{"FieldValueRequired", "Required value: is required for apply patch", "fieldManager"}});
    }
    json::object config = convertDocument(asked, kind, shared->get_object());
    CO_RETURN_IF_ERROR(object::conform(kind, config, context.fieldValidation, *warnings));
    if (const auto* fields = client::field(config, {"metadata", "managedFields"});
        fields && !fields->is_null() && !(fields->is_array() && fields->get_array().empty())) {
      co_return Error(Code::kBadRequest, "metadata.managedFields must be nil");
    }
    object::ApplyOptions options{{context.fieldManager, subresource}, context.force, loop_.wallNow()};
    auto wanted = std::make_shared<const json::object>(std::move(config));
    for (int attempt = 0; attempt < 3; ++attempt) {
      CO_RETURN_IF_ERROR(co_await caches_.catchUp());
      if (!caches_.of(kind.resource()).get(ns, name) && subresource.empty()) {
        if (!text(*wanted, {"metadata", "uid"}).empty())
          co_return conflict(kind.resource(), name,
                             "uid mismatch: the provided object specified a uid, and no existing object was found");
        CO_ASSIGN_OR_RETURN(auto fresh, object::applyConfig(kind, nullptr, *wanted, options));
        client::metadataOf(fresh)["name"] = name;
        client::metadataOf(fresh).erase("resourceVersion");
        outcome = co_await createSoon(context, kind, ns, std::move(fresh), true);
        if (outcome.ok() || !outcome.error().is(Code::kAlreadyExists)) break;
        continue;
      }
      outcome = co_await change(context, kind, ns, name, subresource, true, true,
                                [wanted, options, &kind](const object::Object& old) {
                                  return object::applyConfig(kind, &old.root(), *wanted, options);
                                });
      if (outcome.ok() || !outcome.error().is(Code::kNotFound) || !subresource.empty()) break;
    }
  } else {
    auto make = [shared, type, &kind, &asked, validation = context.fieldValidation,
                 warnings](const object::Object& old) -> Result<json::object> {
      json::object from = convertDocument(kind, asked, old.root());
      ASSIGN_OR_RETURN(auto document, patched(asked.type, type, from, *shared));
      document = convertDocument(asked, kind, std::move(document));
      warnings->clear();
      RETURN_IF_ERROR(object::conform(kind, document, validation, *warnings));
      return document;
    };
    outcome = co_await change(context, kind, std::move(ns), std::move(name), std::move(subresource), true, false, make);
  }
  if (context.warnings) context.warnings->insert(context.warnings->end(), warnings->begin(), warnings->end());
  if (outcome.ok()) outcome->object = convertObject(kind, asked, outcome->object);
  co_return outcome;
}

}  // namespace dhow::apiserver
