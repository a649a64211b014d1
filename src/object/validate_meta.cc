// Rules of metadata, the same for all kinds, and the table of named functions.
#include "object/names.h"
#include "rules.h"

namespace dhow::object::rules {
namespace {

constexpr size_t kAnnotationsLimit = 256 * 1024;

void immutable(const json::object& now, const json::object& before, std::string_view key, Problems& problems) {
  std::string_view old = text(before, key), fresh = text(now, key);
  if (!old.empty() && old != fresh)
    problems.invalid("metadata." + std::string(key), json::value(fresh), "field is immutable");
}

void annotations(const json::object& metadata, Problems& problems) {
  const json::object* map = child(metadata, "annotations");
  if (!map) return;
  size_t size = 0;
  for (const auto& member : *map) {
    std::string key(member.key());
    for (char& c : key)
      if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
    if (std::string problem = checkQualifiedName(key); !problem.empty()) {
      problems.invalid("metadata.annotations", json::value(member.key()), problem);
    }
    size += member.key().size() + (member.value().is_string() ? member.value().get_string().size() : 0);
  }
  if (size > kAnnotationsLimit) problems.tooLong("metadata.annotations", kAnnotationsLimit);
}

void owners(const json::object& metadata, Problems& problems) {
  const json::array* refs = list(metadata, "ownerReferences");
  if (!refs) return;
  int controllers = 0;
  for (size_t i = 0; i < refs->size(); ++i) {
    const json::object* ref = (*refs)[i].if_object();
    if (!ref) continue;
    std::string path = "metadata.ownerReferences[" + std::to_string(i) + "]";
    for (std::string_view key : {"apiVersion", "kind", "name", "uid"})
      if (text(*ref, key).empty())
        problems.invalid(path + "." + std::string(key), "", std::string(key) + " must not be empty");
    const json::value* controller = ref->if_contains("controller");
    if (controller && controller->is_bool() && controller->get_bool()) ++controllers;
  }
  if (controllers > 1) {
    problems.invalid("metadata.ownerReferences", json::value(*refs),
                     "Only one reference can have Controller set to true");
  }
}

void finalizers(const json::object& metadata, const json::object* before, Problems& problems) {
  const json::array* names = list(metadata, "finalizers");
  if (!names) return;
  const json::array* old = before ? list(*before, "finalizers") : nullptr;
  bool deleting = before && !text(*before, "deletionTimestamp").empty();
  for (const json::value& name : *names) {
    if (!name.is_string()) continue;
    if (std::string problem = checkQualifiedName(name.get_string()); !problem.empty())
      problems.invalid("metadata.finalizers", name, problem);
    bool known = old && std::find(old->begin(), old->end(), name) != old->end();
    if (deleting && !known) {
      problems.forbidden(
          "metadata.finalizers",
          "no new finalizers can be added if the object is being deleted, found new finalizers []string{\"" +
              std::string(name.get_string()) + "\"}");
    }
  }
}

}  // namespace

void metadata(const KindInfo& kind, const json::object& now, const json::object* beforeRoot, Problems& problems) {
  const json::object* before = beforeRoot ? child(*beforeRoot, "metadata") : nullptr;
  std::string_view name = text(now, "name"), prefix = text(now, "generateName");
  if (name.empty() && prefix.empty()) problems.required("metadata.name", "name or generateName is required");
  if (!name.empty() && !before) {
    if (std::string problem = check(kind.nameFormat, json::value(name)); !problem.empty())
      problems.invalid("metadata.name", json::value(name), problem);
  } else if (!prefix.empty() && name.empty()) {
    // A trailing dash is fine: characters follow.
    std::string whole = std::string(prefix) + "x";
    if (std::string problem = check(kind.nameFormat, json::value(whole)); !problem.empty()) {
      problems.invalid("metadata.generateName", json::value(prefix), problem);
    }
  }
  std::string_view ns = text(now, "namespace");
  if (kind.namespaced && ns.empty()) problems.required("metadata.namespace");
  if (!kind.namespaced && !ns.empty()) problems.forbidden("metadata.namespace", "not allowed on this type");
  if (kind.namespaced && !ns.empty() && !before) {
    if (std::string problem = checkDns1123Label(ns); !problem.empty())
      problems.invalid("metadata.namespace", json::value(ns), problem);
  }
  if (const json::value* labels = now.if_contains("labels")) checkLabels(*labels, "metadata.labels", problems);
  annotations(now, problems);
  owners(now, problems);
  finalizers(now, before, problems);
  if (before)
    for (std::string_view key : {"name", "namespace", "uid", "creationTimestamp"})
      immutable(now, *before, key, problems);
}

Function find(std::string_view name) {
  for (auto entries :
       {podRules(), workloadRules(), networkRules(), ingressRules(), gatewayRules(), dhowRules(), certificateRules()})
    for (const Entry& entry : entries)
      if (entry.name == name) return entry.function;
  return nullptr;
}

}  // namespace dhow::object::rules
