#include "namespace.h"

#include "base/strings.h"
#include "workload.h"

namespace dhow::controllers {

using namespace client;
using object::resources::kNamespaces;

namespace {
constexpr char kFinalizer[] = "kubernetes";

bool holdsFinalizer(const Object& ns) {
  for (const json::value& finalizer : array(ns.root(), {"spec", "finalizers"})) {
    if (finalizer == kFinalizer) return true;
  }
  return false;
}
}  // namespace

NamespaceController::NamespaceController(Context context, std::vector<Resource> contents)
    : context_(context),
      contents_(std::move(contents)),
      namespaces_(context.caches.of(kNamespaces)),
      controller_(context.loop, {.name = "namespace"}, [this](std::string key) { return reconcile(std::move(key)); }) {
  controller_.watchOwn(namespaces_);
  for (const Resource& resource : contents_) {
    controller_.watch(context.caches.of(resource),
                      [this](const ObjectPtr& before, const ObjectPtr& after, WorkQueue& queue) {
                        if (after) return;
                        ObjectPtr ns = namespaces_.get("", before->ns());
                        if (ns && ns->deleting()) queue.add(std::string(before->ns()));
                      });
  }
}

Task<Result<>> NamespaceController::reconcile(std::string key) {
  ObjectPtr ns = namespaces_.get("", key);
  if (!ns || !ns->deleting() || !holdsFinalizer(*ns)) co_return Result<>();
  Result<Remaining> remaining = co_await empty(key);
  if (!remaining.ok()) co_return std::move(remaining).error();
  if (remaining->byKind.empty()) {
    Result<> released = co_await release(ns);
    co_return released;
  }
  // The deletions' own events bring the key back.
  Result<> reported = co_await report(ns, std::move(*remaining));
  co_return reported;
}

Task<Result<NamespaceController::Remaining>> NamespaceController::empty(std::string ns) {
  Remaining remaining;
  for (const Resource& resource : contents_) {
    // From the API itself: the cache may lag behind what was created just before the namespace began to end.
    Result<List> list = co_await context_.client.list(resource, {.ns = ns});
    if (!list.ok()) co_return std::move(list).error();
    for (const ObjectPtr& object : list->items) {
      if (!object->deleting()) {
        DeleteOptions options;
        options.uid = object->uid();
        options.propagationPolicy = "Background";
        Result<> removed =
            co_await context_.client.remove(resource, ns, std::string(object->name()), std::move(options));
        if (!removed.ok() && !removed.error().is(Code::kNotFound) && !removed.error().is(Code::kConflict))
          co_return std::move(removed).error();
      }
      Result<ObjectPtr> left = co_await context_.client.get(resource, ns, std::string(object->name()));
      if (!left.ok()) continue;
      ++remaining.byKind[resource.plural + "." + resource.group];
      for (const json::value& finalizer : array((*left)->root(), {"metadata", "finalizers"})) {
        if (finalizer.is_string()) ++remaining.byFinalizer[std::string(finalizer.get_string())];
      }
    }
  }
  co_return remaining;
}

Task<Result<>> NamespaceController::report(ObjectPtr ns, Remaining remaining) {
  json::object status = client::object(ns->root(), {"status"});
  const WallTime now = context_.loop.wallNow();
  std::vector<std::string> kinds, finalizers;
  for (const auto& [kind, count] : remaining.byKind)
    kinds.push_back(fmt::format("{} has {} resource instances", kind, count));
  for (const auto& [finalizer, count] : remaining.byFinalizer)
    finalizers.push_back(fmt::format("{} in {} resource instances", finalizer, count));
  bool changed = setCondition(status, "NamespaceContentRemaining", "True", "SomeResourcesRemain",
                              "Some resources are remaining: " + join(kinds, ", "), now);
  if (finalizers.empty()) {
    changed = setCondition(status, "NamespaceFinalizersRemaining", "False", "ContentHasNoFinalizers",
                           "All content-preserving finalizers finished", now) ||
              changed;
  } else {
    changed = setCondition(status, "NamespaceFinalizersRemaining", "True", "SomeFinalizersRemain",
                           "Some content in the namespace has finalizers remaining: " + join(finalizers, ", "), now) ||
              changed;
  }
  if (!changed) co_return Result<>();
  json::object change{{"status", json::object{{"conditions", status["conditions"]}}}};
  Result<ObjectPtr> written = co_await context_.client.patch(kNamespaces, "", std::string(ns->name()), "status",
                                                             PatchType::kMerge, std::move(change));
  if (!written.ok() && !written.error().is(Code::kNotFound)) co_return std::move(written).error();
  co_return Result<>();
}

Task<Result<>> NamespaceController::release(ObjectPtr ns) {
  json::object document = copyOf(ns);
  json::array kept;
  for (const json::value& finalizer : array(document, {"spec", "finalizers"})) {
    if (finalizer != kFinalizer) kept.push_back(finalizer);
  }
  objectAt(document, "spec")["finalizers"] = std::move(kept);
  Result<ObjectPtr> written =
      co_await context_.client.update(kNamespaces, "", std::string(ns->name()), "finalize", std::move(document));
  if (!written.ok() && !written.error().is(Code::kNotFound)) co_return std::move(written).error();
  co_return Result<>();
}

}  // namespace dhow::controllers
