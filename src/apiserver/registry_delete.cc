// Deletion: grace periods, finalizers, preconditions, whole collections.
#include "apiserver/registry.h"
#include "base/time.h"
#include "client/fields.h"
#include "errors.h"

namespace dhow::apiserver {

using client::text;

namespace {

constexpr int kAttempts = 30;
constexpr int64_t kDefaultGrace = 30;
constexpr size_t kTogether = 64;

Result<> checkPreconditions(const KindInfo& kind, const DeleteQuery& query, const object::Object& old) {
  if (!query.uid.empty() && query.uid != old.uid()) {
    return conflict(
        kind.resource(), old.name(),
        fmt::format("Precondition failed: UID in precondition: {}, UID in object meta: {}", query.uid, old.uid()));
  }
  auto version = text(old.metadata(), "resourceVersion");
  if (!query.resourceVersion.empty() && query.resourceVersion != version) {
    return conflict(
        kind.resource(), old.name(),
        fmt::format("Precondition failed: ResourceVersion in precondition: {}, ResourceVersion in object meta: {}",
                    query.resourceVersion, version));
  }
  return {};
}

// The finalizers after the propagation policy has added or removed its own.
json::array finalizersFor(const object::Object& old, std::string_view policy) {
  json::array finalizers;
  for (const auto& one : client::array(old.metadata(), {"finalizers"})) {
    bool own = one == "orphan" || one == "foregroundDeletion";
    if (!own || policy.empty()) finalizers.push_back(one);
  }
  if (policy == "Orphan") finalizers.emplace_back("orphan");
  if (policy == "Foreground") finalizers.emplace_back("foregroundDeletion");
  return finalizers;
}

int64_t graceOf(const KindInfo& kind, const object::Object& old, const DeleteQuery& query) {
  if (!kind.group.empty() || kind.plural != "pods") return 0;
  auto phase = text(old.root(), {"status", "phase"});
  if (text(old.root(), {"spec", "nodeName"}).empty() || phase == "Succeeded" || phase == "Failed") return 0;
  int64_t grace = query.gracePeriodSeconds.value_or(
      client::number(old.root(), {"spec", "terminationGracePeriodSeconds"}, kDefaultGrace));
  return grace < 0 ? 1 : grace;
}

}  // namespace

// Decides what a delete does to the object: `now` is set when it goes at once, else `document` is its next version
// (empty: no change).
Result<Outcome> Registry::startDeletion(const KindInfo& kind, const object::Object& old, const DeleteQuery& query,
                                        json::object& document, bool& now) {
  RETURN_IF_ERROR(checkPreconditions(kind, query, old));
  auto& strategy = strategyOf(kind);
  RETURN_IF_ERROR(strategy.beforeDelete({}, old));
  int64_t grace = graceOf(kind, old, query);
  json::array finalizers = finalizersFor(old, query.propagationPolicy);
  bool held = !finalizers.empty() || strategy.holdsDeletion(old.root());
  if (grace == 0 && !held) {
    now = true;
    return Outcome{};
  }
  WallTime deadline = loop_.wallNow() + std::chrono::seconds(grace);
  if (old.deleting()) {
    int64_t before = client::number(old.metadata(), {"deletionGracePeriodSeconds"}, 0);
    bool shorter = grace < before && (query.gracePeriodSeconds || grace == 0);
    bool other = finalizers != client::array(old.metadata(), {"finalizers"});
    if (!shorter && !other) return Outcome{};
    if (!shorter) grace = before;
    auto began = parseTime(text(old.metadata(), "deletionTimestamp"));
    if (began) deadline = *began - std::chrono::seconds(before - grace);
  }
  document = old.root();
  auto& metadata = client::metadataOf(document);
  metadata["deletionTimestamp"] = formatTime(deadline);
  metadata["deletionGracePeriodSeconds"] = grace;
  if (finalizers.empty())
    metadata.erase("finalizers");
  else
    metadata["finalizers"] = std::move(finalizers);
  if (metadata.contains("generation") && !old.deleting())
    metadata["generation"] = client::number(metadata, {"generation"}, 0) + 1;
  if (kind.plural == "namespaces" && kind.group.empty()) client::objectAt(document, "status")["phase"] = "Terminating";
  return Outcome{};
}

Task<Result<Outcome>> Registry::remove(Context context, const KindInfo& asked, std::string ns, std::string name,
                                       DeleteQuery query) {
  const KindInfo& kind = stored(asked);
  for (auto policy : {"", "Background", "Foreground", "Orphan"}) {
    if (query.propagationPolicy == policy) break;
    if (std::string_view(policy) == "Orphan") {
      co_return invalid(
          "DeleteOptions", "meta.k8s.io", "",
          {{"FieldValueNotSupported",
            fmt::format("Unsupported value: \"{}\": supported values: \"Background\", \"Foreground\", \"Orphan\"",
                        query.propagationPolicy),
            "propagationPolicy"}});
    }
  }
  auto held = co_await locks_.acquire(storeKey(kind.resource(), ns, name));
  for (int attempt = 1;; ++attempt) {
    CO_RETURN_IF_ERROR(co_await caches_.catchUp());
    auto old = caches_.of(kind.resource()).get(ns, name);
    if (!old) co_return missing(kind, asked.resource(), ns, name);
    json::object document;
    bool now = false;
    CO_ASSIGN_OR_RETURN(Outcome outcome, startDeletion(kind, *old, query, document, now));
    outcome.gone = now;
    if (context.dryRun || (!now && document.empty())) {
      outcome.object = convertObject(kind, asked, old);
      co_return outcome;
    }
    Result<ObjectPtr> written = Error(Code::kInternal, "");
    if (now)
      written = co_await erase(kind, old);
    else
      written = co_await write(kind, ns, name, old, std::move(document));
    if (written.ok()) {
      outcome.object = convertObject(kind, asked, *written);
      co_return outcome;
    }
    if (!written.error().is(Code::kConflict) || attempt >= kAttempts) co_return std::move(written).error();
  }
}

Task<> Registry::removeOne(Context context, const KindInfo* kind, ObjectPtr object, DeleteQuery query,
                           ListOutcome* removed, std::optional<Error>* failure) {
  auto outcome = co_await remove(std::move(context), *kind, std::string(object->ns()), std::string(object->name()),
                                 std::move(query));
  if (outcome.ok())
    removed->items.push_back(outcome->object);
  else if (!outcome.error().is(Code::kNotFound) && !*failure)
    *failure = outcome.error();
}

Task<Result<ListOutcome>> Registry::removeCollection(Context context, const KindInfo& kind, ListQuery selection,
                                                     DeleteQuery query) {
  CO_ASSIGN_OR_RETURN(ListOutcome list, co_await this->list(kind, std::move(selection)));
  ListOutcome removed;
  removed.revision = list.revision;
  std::optional<Error> failure;
  // Side by side, so that they share commits.
  for (size_t at = 0; at < list.items.size() && !failure;) {
    Gate gate(loop_);
    for (size_t end = std::min(at + kTogether, list.items.size()); at < end; ++at) {
      gate.spawn(removeOne(context, &kind, list.items[at], query, &removed, &failure));
    }
    co_await gate.close();
  }
  if (failure) co_return *failure;
  co_return removed;
}

}  // namespace dhow::apiserver
