#include "garbage_collector.h"

#include "base/strings.h"

namespace dhow::controllers {

using namespace client;

namespace {

constexpr char kForeground[] = "foregroundDeletion";
constexpr char kOrphan[] = "orphan";
constexpr char kByAnyOwner[] = "ownerUids";

bool hasFinalizer(const Object& object, std::string_view wanted) {
  for (const json::value& finalizer : array(object.root(), {"metadata", "finalizers"})) {
    if (finalizer.is_string() && finalizer.get_string() == wanted) return true;
  }
  return false;
}

const json::array& referencesOf(const Object& object) {
  return array(object.root(), {"metadata", "ownerReferences"});
}

const json::object* referenceTo(const Object& object, std::string_view uid) {
  for (const json::value& reference : referencesOf(object)) {
    if (reference.is_object() && text(reference.get_object(), "uid") == uid) return &reference.get_object();
  }
  return nullptr;
}

Result<> unlessGone(Result<> done) {
  if (!done.ok() && (done.error().is(Code::kNotFound) || done.error().is(Code::kConflict))) return {};
  return done;
}

Result<> unlessGone(Result<ObjectPtr> done) {
  if (!done.ok() && !done.error().is(Code::kNotFound)) return std::move(done).error();
  return {};
}

}  // namespace

GarbageCollector::GarbageCollector(Context context, std::vector<Kind> kinds)
    : context_(context),
      kinds_(std::move(kinds)),
      controller_(context.loop, {.name = "gc", .workers = 20},
                  [this](std::string key) { return reconcile(std::move(key)); }) {
  for (size_t i = 0; i < kinds_.size(); ++i) {
    Cache& cache = context_.caches.of(kinds_[i].resource);
    caches_.push_back(&cache);
    cache.addIndex(kByAnyOwner, [](const ObjectPtr& object, std::vector<std::string>& keys) {
      for (const json::value& reference : referencesOf(*object)) {
        if (reference.is_object()) keys.emplace_back(text(reference.get_object(), "uid"));
      }
    });
    controller_.watch(cache, [this, i](const ObjectPtr& before, const ObjectPtr& after, WorkQueue& queue) {
      changed(i, before, after, queue);
    });
  }
}

void GarbageCollector::changed(size_t kind, const ObjectPtr& before, const ObjectPtr& after, WorkQueue& queue) {
  auto keyOf = [](size_t index, const Object& object) { return fmt::format("{}|{}", index, object.key()); };
  if (after && (!before || after->deleting() || referencesOf(*before) != referencesOf(*after))) {
    if (after->deleting() || !referencesOf(*after).empty()) queue.add(keyOf(kind, *after));
  }
  if (after) return;
  for (const Dependent& dependent : dependentsOf(*before)) queue.add(keyOf(dependent.kind, *dependent.object));
  // An owner may have waited for this one.
  for (const json::value& value : referencesOf(*before)) {
    if (!value.is_object()) continue;
    const Kind* owner = kindOf(value.get_object());
    if (owner == nullptr) continue;
    const auto index = static_cast<size_t>(owner - kinds_.data());
    ObjectPtr object =
        caches_[index]->get(owner->resource.namespaced ? before->ns() : "", text(value.get_object(), "name"));
    if (object && object->deleting()) queue.add(keyOf(index, *object));
  }
}

std::vector<GarbageCollector::Dependent> GarbageCollector::dependentsOf(const Object& owner) const {
  std::vector<Dependent> dependents;
  for (size_t i = 0; i < caches_.size(); ++i) {
    for (ObjectPtr& object : caches_[i]->byIndex(kByAnyOwner, owner.uid()))
      dependents.push_back({i, std::move(object)});
  }
  return dependents;
}

const GarbageCollector::Kind* GarbageCollector::kindOf(const json::object& reference) const {
  for (const Kind& kind : kinds_) {
    if (kind.kind == text(reference, "kind") && kind.resource.apiVersion() == text(reference, "apiVersion"))
      return &kind;
  }
  return nullptr;
}

Task<Result<GarbageCollector::Owner>> GarbageCollector::judge(std::string ns, json::object reference) {
  const Kind* kind = kindOf(reference);
  if (kind == nullptr) co_return Owner::kSolid;
  if (!kind->resource.namespaced) ns.clear();
  const std::string name(text(reference, "name")), uid(text(reference, "uid"));
  ObjectPtr owner = caches_[static_cast<size_t>(kind - kinds_.data())]->get(ns, name);
  if (!owner || owner->uid() != uid) {
    // The cache may lag: only the API's word counts for a deletion.
    Result<ObjectPtr> live = co_await context_.client.get(kind->resource, ns, name);
    if (!live.ok() && !live.error().is(Code::kNotFound)) co_return std::move(live).error();
    if (!live.ok() || (*live)->uid() != uid) co_return Owner::kGone;
    owner = std::move(*live);
  }
  const bool waits = owner->deleting() && hasFinalizer(*owner, kForeground) && flag(reference, {"blockOwnerDeletion"});
  co_return waits ? Owner::kWaiting : Owner::kSolid;
}

Task<Result<>> GarbageCollector::reconcile(std::string key) {
  auto parts = splitOnce(key, '|');
  const size_t kind = static_cast<size_t>(parseUint(parts->first).value_or(0));
  auto [ns, name] = splitKey(parts->second);
  ObjectPtr object = caches_[kind]->get(ns, name);
  if (!object) co_return Result<>();
  if (object->deleting()) {
    Result<> done;
    if (hasFinalizer(*object, kOrphan))
      done = co_await orphanDependents(kind, object);
    else if (hasFinalizer(*object, kForeground))
      done = co_await finishForeground(kind, object);
    co_return done;
  }
  json::array solid;
  bool gone = false, waiting = false;
  const json::array references = referencesOf(*object);
  for (const json::value& value : references) {
    if (!value.is_object()) continue;
    Result<Owner> owner = co_await judge(std::string(ns), value.get_object());
    if (!owner.ok()) co_return std::move(owner).error();
    if (*owner == Owner::kSolid) solid.push_back(value);
    gone = gone || *owner == Owner::kGone;
    waiting = waiting || *owner == Owner::kWaiting;
  }
  if (!gone && !waiting) co_return Result<>();
  const Resource& resource = kinds_[kind].resource;
  if (!solid.empty()) {
    json::object change{{"metadata", json::object{{"ownerReferences", std::move(solid)}}}};
    Result<ObjectPtr> written = co_await context_.client.patch(
        resource, std::string(ns), std::string(name), "", PatchType::kMerge, guardedPatch(*object, std::move(change)));
    co_return unlessGone(std::move(written));
  }
  DeleteOptions options;
  options.uid = object->uid();
  options.propagationPolicy = waiting && !dependentsOf(*object).empty() ? "Foreground" : "Background";
  Result<> removed = co_await context_.client.remove(resource, std::string(ns), std::string(name), std::move(options));
  co_return unlessGone(std::move(removed));
}

Task<Result<>> GarbageCollector::finishForeground(size_t kind, ObjectPtr object) {
  bool blocked = false;
  for (const Dependent& dependent : dependentsOf(*object)) {
    controller_.queue().add(fmt::format("{}|{}", dependent.kind, dependent.object->key()));
    const json::object* reference = referenceTo(*dependent.object, object->uid());
    blocked = blocked || (reference != nullptr && flag(*reference, {"blockOwnerDeletion"}));
  }
  if (blocked) co_return Result<>();
  Result<> dropped = co_await dropFinalizer(kind, object, kForeground);
  co_return dropped;
}

Task<Result<>> GarbageCollector::orphanDependents(size_t kind, ObjectPtr object) {
  for (const Dependent& dependent : dependentsOf(*object)) {
    json::array kept;
    for (const json::value& reference : referencesOf(*dependent.object)) {
      if (!reference.is_object() || text(reference.get_object(), "uid") != object->uid()) kept.push_back(reference);
    }
    json::object change{{"metadata", json::object{{"ownerReferences", std::move(kept)}}}};
    Result<ObjectPtr> written = co_await context_.client.patch(
        kinds_[dependent.kind].resource, std::string(dependent.object->ns()), std::string(dependent.object->name()), "",
        PatchType::kMerge, guardedPatch(*dependent.object, std::move(change)));
    Result<> done = unlessGone(std::move(written));
    if (!done.ok()) co_return done;
  }
  Result<> dropped = co_await dropFinalizer(kind, object, kOrphan);
  co_return dropped;
}

Task<Result<>> GarbageCollector::dropFinalizer(size_t kind, ObjectPtr object, std::string_view finalizer) {
  json::array kept;
  for (const json::value& value : array(object->root(), {"metadata", "finalizers"})) {
    if (!value.is_string() || value.get_string() != finalizer) kept.push_back(value);
  }
  json::object change{{"metadata", json::object{{"finalizers", std::move(kept)}}}};
  Result<ObjectPtr> written =
      co_await context_.client.patch(kinds_[kind].resource, std::string(object->ns()), std::string(object->name()), "",
                                     PatchType::kMerge, guardedPatch(*object, std::move(change)));
  co_return unlessGone(std::move(written));
}

}  // namespace dhow::controllers
