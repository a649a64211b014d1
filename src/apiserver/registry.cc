#include "apiserver/registry.h"

#include "base/log.h"
#include "base/strings.h"
#include "base/time.h"
#include "client/fields.h"
#include "errors.h"
#include "object/apply.h"
#include "object/defaults.h"
#include "object/names.h"
#include "object/validate.h"

#include <algorithm>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <set>

namespace dhow::apiserver {

using client::text;

namespace {
constexpr int kNameAttempts = 8;
constexpr std::string_view kLetters = "bcdfghjklmnpqrstvwxz2456789";
constexpr size_t kMaxObject = 3 << 19;  // 1.5 MiB
constexpr std::string_view kClaims = "/registry/claims/";
constexpr int kAttempts = 30;
constexpr int kMendRounds = 10;

// Whether the refusal may come from a state that is not the newest.
bool mayBeOld(const Error& error) {
  return !error.is(Code::kUnavailable) && !error.is(Code::kDeadlineExceeded) && !error.is(Code::kTooLarge);
}
}  // namespace

Registry::Registry(Loop& loop, store::Store& store, WatchCache& caches, const object::Kinds& kinds,
                   const StrategyOptions& options, PodSecurityOptions security)
    : loop_(loop),
      store_(store),
      caches_(caches),
      kinds_(kinds),
      admission_(loop, caches, std::move(security)),
      locks_(loop),
      plain_(makePlainStrategy()) {
  strategies_["pods"] = makePodStrategy();
  strategies_["services"] = makeServiceStrategy(loop, caches, options);
  strategies_["namespaces"] = makeNamespaceStrategy();
  strategies_["secrets"] = makeSecretStrategy();
  for (auto name : {"deployments.apps", "replicasets.apps", "poddisruptionbudgets.policy"})
    strategies_[name] = makeWorkloadStrategy();
  strategies_["networkpolicies.networking.k8s.io"] = makeGenerationStrategy();
  for (auto name : {"ingressclasses.networking.k8s.io", "referencegrants.gateway.networking.k8s.io"})
    strategies_[name] = makeGenerationStrategy();
  for (auto name : {"ingresses.networking.k8s.io", "gatewayclasses.gateway.networking.k8s.io",
                    "gateways.gateway.networking.k8s.io", "httproutes.gateway.networking.k8s.io",
                    "grpcroutes.gateway.networking.k8s.io", "tlsroutes.gateway.networking.k8s.io",
                    "tcproutes.gateway.networking.k8s.io", "backendtlspolicies.gateway.networking.k8s.io"})
    strategies_[name] = makeWorkloadStrategy();
  strategies_["regions.dhow.io"] = makeRegionStrategy(caches);
  strategies_["zones.dhow.io"] = makeZoneStrategy(caches);
  strategies_["nodepools.dhow.io"] = makeNodePoolStrategy(caches);
  strategies_["machines.dhow.io"] = makeMachineStrategy(caches);
  strategies_["certificatesigningrequests.certificates.k8s.io"] = makeCertificateStrategy(loop);
  onSubresource("pods/binding", [this](Context context, std::string ns, std::string name, json::object body) {
    return bind(std::move(context), std::move(ns), std::move(name), std::move(body));
  });
  onSubresource("pods/eviction", [this](Context context, std::string ns, std::string name, json::object body) {
    return evict(std::move(context), std::move(ns), std::move(name), std::move(body));
  });
}

Strategy& Registry::strategyOf(const KindInfo& kind) {
  auto found = strategies_.find(qualified(kind.plural, kind.group));
  return found == strategies_.end() ? *plain_ : *found->second;
}

const KindInfo& Registry::stored(const KindInfo& kind) const {
  if (kind.storedAsKind.empty()) return kind;
  const auto* other = kinds_.findKind(kind.storedAsApiVersion, kind.storedAsKind);
  return other ? *other : kind;
}

std::string Registry::randomSuffix() {
  std::string suffix;
  for (int i = 0; i < 5; ++i) suffix.push_back(kLetters[loop_.random() % kLetters.size()]);
  return suffix;
}

std::string Registry::randomUid() {
  uint64_t a = loop_.random();
  uint64_t b = loop_.random();
  return fmt::format("{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}", a >> 32, (a >> 16) & 0xffff, a & 0xfff,
                     0x8000 | (b >> 48 & 0x3fff), b & 0xffffffffffff);
}

void Registry::addClaims(const KindInfo& kind, std::string_view holder, const json::object* before,
                         const json::object* after, store::Txn& txn) {
  auto& strategy = strategyOf(kind);
  auto had = before ? strategy.claims(*before) : std::vector<std::string>();
  auto has = after ? strategy.claims(*after) : std::vector<std::string>();
  auto add = [&](store::Operation::Type type, const std::string& claim) {
    store::Operation operation;
    operation.type = type;
    operation.key = std::string(kClaims) + claim;
    if (type == store::Operation::Type::kPut) {
      operation.value.bytes = std::make_shared<const std::string>(holder);
      txn.compares.push_back({operation.key, 0});
    }
    txn.operations.push_back(std::move(operation));
  };
  for (const auto& claim : has) {
    if (std::find(had.begin(), had.end(), claim) == had.end()) add(store::Operation::Type::kPut, claim);
  }
  for (const auto& claim : had) {
    if (std::find(has.begin(), has.end(), claim) == has.end()) add(store::Operation::Type::kDelete, claim);
  }
}

Task<Result<>> Registry::mendClaims() {
  for (int round = 0; round < kMendRounds; ++round) {
    CO_ASSIGN_OR_RETURN(auto present, co_await store_.list(std::string(kClaims)));
    std::set<std::string, std::less<>> held;
    for (const auto& entry : present.entries) held.insert(entry.key.substr(kClaims.size()));
    CO_RETURN_IF_ERROR(co_await caches_.waitFor(present.revision));
    std::vector<store::Txn> missing;
    for (const auto& kind : kinds_.all()) {
      auto* cache = kind.stored && kind.storedAsKind.empty() ? caches_.find(kind.group, kind.plural) : nullptr;
      if (!cache || !strategies_.contains(qualified(kind.plural, kind.group))) continue;
      for (const auto& object : cache->list()) {
        store::Txn txn;
        for (const auto& claim : strategyOf(kind).claims(object->root())) {
          if (!held.insert(claim).second) continue;
          std::string key = std::string(kClaims) + claim;
          txn.compares.push_back({key, 0});
          store::Operation put{store::Operation::Type::kPut, std::move(key), {}};
          put.value.bytes = std::make_shared<const std::string>(object->key());
          txn.operations.push_back(std::move(put));
        }
        if (txn.operations.empty()) continue;
        txn.compares.push_back({storeKey(kind.resource(), object->ns(), object->name()),
                                static_cast<Revision>(object->resourceVersion())});
        missing.push_back(std::move(txn));
      }
    }
    if (missing.empty()) co_return Result<>();
    for (auto& txn : missing) {
      auto done = co_await store_.txn(std::move(txn));
      // Another server was faster, or the object has changed: the next round sees.
      if (!done.ok() && !done.error().is(Code::kConflict)) co_return std::move(done).error();
    }
  }
  co_return Error(Code::kConflict, "the claims of objects change too fast to be completed");
}

// Puts the document where `old` is (null: nowhere yet) and gives it as everyone sees it from now on.
Task<Result<ObjectPtr>> Registry::write(const KindInfo& kind, std::string ns, std::string name, ObjectPtr old,
                                        json::object document) {
  Resource resource = kind.resource();
  client::metadataOf(document).erase("resourceVersion");
  bool mayClaim = strategies_.contains(qualified(kind.plural, kind.group));
  auto claiming = mayClaim ? std::make_unique<json::object>(document) : nullptr;
  auto draft = std::make_shared<Draft>(std::move(document));
  store::Txn txn;
  std::string holder = ns.empty() ? name : fmt::format("{}/{}", ns, name);
  store::Operation put;
  put.key = storeKey(resource, ns, name);
  put.value.bytes = std::make_shared<const std::string>(draft->encode());
  put.value.decoded = draft;
  if (const auto* cipher = caches_.cipher(); cipher && cipher->covers(put.key))
    put.value.bytes = std::make_shared<const std::string>(cipher->seal(put.key, *put.value.bytes));
  if (put.value.bytes->size() > kMaxObject) {
    co_return Error(Code::kTooLarge, fmt::format("Request entity too large: limit is {}", kMaxObject));
  }
  txn.compares.push_back({put.key, old ? static_cast<Revision>(old->resourceVersion()) : 0});
  txn.operations.push_back(std::move(put));
  addClaims(kind, holder, old ? &old->root() : nullptr, claiming.get(), txn);
  if (!old && kind.namespaced) {
    // Nothing enters a namespace that another server has begun to empty.
    auto space = caches_.of(object::resources::kNamespaces).get("", ns);
    if (!space || space->deleting()) co_return modified(resource, name);
    txn.compares.push_back(
        {storeKey(object::resources::kNamespaces, "", ns), static_cast<Revision>(space->resourceVersion())});
  }
  auto revision = co_await store_.txn(std::move(txn));
  if (!revision.ok()) {
    if (!revision.error().is(Code::kConflict)) co_return std::move(revision).error();
    co_return modified(resource, name);
  }
  // It is done, whether or not the caches come to show it in time.
  (void)co_await caches_.waitFor(*revision);
  co_return draft->at(*revision);
}

Task<Result<ObjectPtr>> Registry::erase(const KindInfo& kind, ObjectPtr old) {
  Resource resource = kind.resource();
  store::Txn txn;
  store::Operation operation;
  operation.type = store::Operation::Type::kDelete;
  operation.key = storeKey(resource, old->ns(), old->name());
  txn.compares.push_back({operation.key, static_cast<Revision>(old->resourceVersion())});
  txn.operations.push_back(std::move(operation));
  addClaims(kind, old->key(), &old->root(), nullptr, txn);
  auto revision = co_await store_.txn(std::move(txn));
  if (!revision.ok()) {
    if (revision.error().is(Code::kConflict)) co_return modified(resource, old->name());
    co_return std::move(revision).error();
  }
  (void)co_await caches_.waitFor(*revision);
  co_return atRevision(old, *revision);
}

Task<Result<Outcome>> Registry::create(Context context, const KindInfo& asked, std::string ns, json::object body) {
  if (!asked.stored) co_return co_await answer(std::move(context), asked, std::move(ns), std::move(body));
  const KindInfo& kind = stored(asked);
  json::object document = convertDocument(asked, kind, std::move(body));
  std::vector<std::string> warnings;
  auto conformed = object::conform(kind, document, context.fieldValidation, warnings);
  CO_RETURN_IF_ERROR(conformed);
  if (context.warnings) context.warnings->insert(context.warnings->end(), warnings.begin(), warnings.end());
  {
    // These two come first in what is stored and shown.
    json::object ordered{{"kind", kind.kind}, {"apiVersion", kind.apiVersion()}};
    for (auto& [key, value] : document) {
      if (key != "kind" && key != "apiVersion") ordered.emplace(key, std::move(value));
    }
    document = std::move(ordered);
  }
  auto& metadata = client::metadataOf(document);
  std::string base(text(metadata, "generateName"));
  bool generated = text(metadata, "name").empty() && !base.empty();
  if (base.size() > 58) base.resize(58);
  for (int attempt = 1;; ++attempt) {
    json::object copy = document;
    if (generated) client::metadataOf(copy)["name"] = base + randomSuffix();
    auto outcome = co_await createSoon(context, kind, ns, std::move(copy), false);
    bool again = generated && !outcome.ok() && outcome.error().is(Code::kAlreadyExists) && attempt < kNameAttempts;
    if (again) continue;
    if (outcome.ok()) outcome->object = convertObject(kind, asked, outcome->object);
    co_return outcome;
  }
}

Task<Result<Outcome>> Registry::answer(Context context, const KindInfo& kind, std::string ns, json::object body) {
  if (!review_) co_return Error(Code::kNotFound, "the server could not find the requested resource");
  CO_RETURN_IF_ERROR(co_await caches_.catchUpIfPossible(context.warnings));
  CO_ASSIGN_OR_RETURN(auto answered, review_(context, kind, ns, std::move(body)));
  co_return Outcome{object::Object::make(std::move(answered)), true};
}

// First from the state at hand, which another server may have overtaken; what that refuses is asked of the newest.
Task<Result<Outcome>> Registry::createSoon(Context context, const KindInfo& kind, std::string ns, json::object document,
                                           bool applied) {
  for (int attempt = 0;; ++attempt) {
    json::object copy = document;
    auto outcome = co_await createOnce(context, kind, ns, std::move(copy), applied, attempt > 0);
    if (outcome.ok() || !mayBeOld(outcome.error())) co_return outcome;
    bool lost = outcome.error().is(Code::kConflict);
    if (attempt > 0 && (!lost || attempt >= kAttempts)) co_return outcome;
  }
}

Task<Result<Outcome>> Registry::createOnce(Context context, const KindInfo& kind, std::string ns, json::object document,
                                           bool applied, bool fresh) {
  Resource resource = kind.resource();
  if (fresh) CO_RETURN_IF_ERROR(co_await caches_.catchUp());
  {
    auto& metadata = client::metadataOf(document);
    if (kind.namespaced) {
      auto own = text(metadata, "namespace");
      if (!own.empty() && own != ns)
        co_return Error(Code::kBadRequest,
                        "the namespace of the provided object does not match the namespace sent on the request");
      metadata["namespace"] = ns;
    } else if (auto own = text(metadata, "namespace"); !own.empty()) {
      metadata.erase("namespace");
    }
    if (auto version = text(metadata, "resourceVersion"); !version.empty() && version != "0") {
      co_return Error(Code::kBadRequest, "resourceVersion should not be set on objects to be created");
    }
    for (auto field : {"resourceVersion", "selfLink", "deletionTimestamp", "deletionGracePeriodSeconds", "generation"})
      metadata.erase(field);
    if (!applied) metadata.erase("managedFields");
    metadata["uid"] = randomUid();
    metadata["creationTimestamp"] = formatTime(loop_.wallNow());
  }
  auto& strategy = strategyOf(kind);
  CO_RETURN_IF_ERROR(co_await admission_.admitCreate(kind, ns, document));
  CO_RETURN_IF_ERROR(strategy.beforeCreate(context, document));
  object::applyDefaults(kind, document);
  auto valid = object::validate(kind, document);
  CO_RETURN_IF_ERROR(valid);
  std::string name(text(document, {"metadata", "name"}));
  if (name.empty()) {
    co_return invalid(kind.kind, kind.group, "",
                      {{"FieldValueRequired", "Required value: name or generateName is required", "metadata.name"}});
  }
  if (caches_.of(resource).get(ns, name)) co_return alreadyExists(resource, name);
  CO_RETURN_IF_ERROR(checkReadable(kind, ns, name));
  if (guard_) CO_RETURN_IF_ERROR(guard_(context, kind, "", document, nullptr));
  CO_RETURN_IF_ERROR(admission_.admitValid(context, kind, ns, document));
  CO_RETURN_IF_ERROR(strategy.allocate(context, document, nullptr));
  std::vector<ErrorCause> causes;
  strategy.check("", document, nullptr, causes);
  if (!causes.empty()) {
    strategy.release(document);
    co_return invalid(kind.kind, kind.group, name, std::move(causes));
  }
  if (strategy.hasGeneration()) client::metadataOf(document)["generation"] = 1;
  if (!applied) object::trackUpdate(kind, nullptr, document, {context.fieldManager, ""}, loop_.wallNow());
  Outcome outcome;
  outcome.created = true;
  if (context.dryRun) {
    strategy.release(document);
    outcome.object = object::Object::make(std::move(document));
    co_return outcome;
  }
  json::object reserved{{"spec", client::object(document, {"spec"})}};
  auto written = co_await write(kind, ns, name, nullptr, std::move(document));
  strategy.release(reserved);
  CO_ASSIGN_OR_RETURN(outcome.object, std::move(written));
  co_return outcome;
}

Task<Result<ObjectPtr>> Registry::createSubresource(Context context, const KindInfo& kind, std::string ns,
                                                    std::string name, std::string subresource, json::object body) {
  auto found = creates_.find(kind.plural + "/" + subresource);
  if (found == creates_.end())
    co_return Error(Code::kMethodNotAllowed, "the server does not allow this method on the requested resource");
  if (!caches_.of(kind.resource()).get(ns, name)) {
    CO_RETURN_IF_ERROR(co_await caches_.catchUp());
    if (!caches_.of(kind.resource()).get(ns, name)) co_return notFound(kind.resource(), name);
  }
  auto create = found->second;
  co_return co_await create(std::move(context), std::move(ns), std::move(name), std::move(body));
}

Result<> Registry::checkReadable(const KindInfo& kind, std::string_view ns, std::string_view name) {
  const auto& unreadable = caches_.of(kind.resource()).unreadable();
  if (unreadable.empty()) return {};
  auto found = unreadable.find(ns.empty() ? std::string(name) : fmt::format("{}/{}", ns, name));
  if (found == unreadable.end()) return {};
  return Error(Code::kInternal, fmt::format("Internal error occurred: unable to read key \"{}\" of the store: {}",
                                            storeKey(kind.resource(), ns, name), found->second));
}

Error Registry::missing(const KindInfo& kind, const Resource& asked, std::string_view ns, std::string_view name) {
  auto readable = checkReadable(kind, ns, name);
  return readable.ok() ? notFound(asked, name) : std::move(readable).error();
}

Task<Result<>> Registry::sealAnew() {
  for (const auto& kind : kinds_.all()) {
    auto* cache = kind.stored && kind.storedAsKind.empty() ? caches_.find(kind.group, kind.plural) : nullptr;
    if (!cache) continue;
    const auto stale = cache->stale();
    size_t written = 0;
    for (const auto& key : stale) {
      auto slash = key.find('/');
      std::string ns = slash == key.npos ? "" : key.substr(0, slash);
      std::string name = slash == key.npos ? key : key.substr(slash + 1);
      auto object = cache->get(ns, name);
      if (!object) continue;
      auto done = co_await write(kind, ns, name, object, object->root());
      // Who was faster has sealed it.
      if (!done.ok() && !done.error().is(Code::kConflict)) co_return std::move(done).error();
      ++written;
    }
    if (written > 0) log::info("apiserver", "{} {} are encrypted with the newest key now", written, kind.plural);
  }
  co_return Result<>();
}

Task<Result<>> Registry::catchUp(std::vector<std::string>* warnings) {
  return warnings ? caches_.catchUpIfPossible(warnings) : caches_.catchUp();
}

void Registry::onList(const object::Resource& resource, Compute compute) {
  computed_[qualified(resource)] = std::move(compute);
}

ObjectPtr Registry::find(const KindInfo& kind, std::string_view ns, std::string_view name) {
  if (!computed_.contains(qualified(kind.plural, kind.group))) return caches_.of(kind.resource()).get(ns, name);
  for (ObjectPtr& object : all(kind, ns))
    if (object->name() == name) return std::move(object);
  return nullptr;
}

std::vector<ObjectPtr> Registry::all(const KindInfo& kind, std::string_view ns) {
  auto computed = computed_.find(qualified(kind.plural, kind.group));
  return computed == computed_.end() ? caches_.of(kind.resource()).list(ns) : computed->second(ns);
}

Task<Result<ObjectPtr>> Registry::get(const KindInfo& asked, std::string ns, std::string name, std::string subresource,
                                      std::vector<std::string>* warnings, std::string resourceVersion) {
  const KindInfo& kind = stored(asked);
  if (resourceVersion != "0") CO_RETURN_IF_ERROR(co_await catchUp(warnings));
  auto object = find(kind, ns, name);
  if (!object) co_return missing(kind, asked.resource(), ns, name);
  if (subresource == "scale") {
    CO_ASSIGN_OR_RETURN(auto scale, scaleOf(kind, *object));
    co_return object::Object::make(std::move(scale));
  }
  co_return convertObject(kind, asked, object);
}

namespace {

struct Continue {
  Revision revision = 0;
  std::string start;  // "ns/name", the last one given

  // In the order of the cache: by namespace, then by name.
  bool passed(const object::Object& object) const {
    auto slash = start.find('/');
    std::string_view text = start;
    std::string_view ns = slash == start.npos ? std::string_view() : text.substr(0, slash);
    std::string_view name = slash == start.npos ? text : text.substr(slash + 1);
    return std::pair(object.ns(), object.name()) <= std::pair(ns, name);
  }
};
std::string encodeContinue(const Continue& token) {
  return toBase64Url(
      json::serialize(json::object{{"v", "meta.k8s.io/v1"}, {"rv", token.revision}, {"start", token.start}}));
}
Result<Continue> decodeContinue(std::string_view text) {
  auto bytes = fromBase64(text);
  boost::system::error_code error;
  auto value = bytes ? json::parse(*bytes, error) : json::value();
  if (!bytes || error || !value.is_object())
    return Error(Code::kBadRequest, "continue key is not valid: it cannot be decoded");
  Continue token;
  token.revision = client::number(value.get_object(), {"rv"}, 0);
  token.start = client::text(value.get_object(), "start");
  if (token.revision <= 0 || token.start.empty())
    return Error(Code::kBadRequest, "continue key is not valid: it lacks its parts");
  return token;
}

Result<Revision> parseRevision(std::string_view text) {
  auto value = parseInt(text);
  if (!value || *value < 0)
    return Error(Code::kBadRequest, fmt::format("Invalid value: \"{}\": resourceVersion must be a number", text));
  return *value;
}

struct Selection {
  object::LabelSelector labels;
  object::FieldSelector fields;
  bool matches(const object::Object& object) const { return labels.matches(object) && fields.matches(object); }
  bool everything() const { return labels.everything() && fields.everything(); }
};
Result<Selection> parseSelection(const KindInfo& kind, std::string_view labels, std::string_view fields) {
  Selection selection;
  ASSIGN_OR_RETURN(selection.labels, object::LabelSelector::parse(labels));
  ASSIGN_OR_RETURN(selection.fields, object::FieldSelector::parse(fields, kind));
  return selection;
}

}  // namespace

Task<Result<ListOutcome>> Registry::list(const KindInfo& asked, ListQuery query) {
  const KindInfo& kind = stored(asked);
  CO_ASSIGN_OR_RETURN(Selection selection, parseSelection(kind, query.labelSelector, query.fieldSelector));
  ListOutcome outcome;
  Continue from;
  if (!query.continueToken.empty()) {
    CO_ASSIGN_OR_RETURN(from, decodeContinue(query.continueToken));
    if (!query.resourceVersion.empty() && query.resourceVersion != "0") {
      co_return Error(Code::kBadRequest, "specifying resource version is not allowed when using continue");
    }
  }
  CO_ASSIGN_OR_RETURN(Revision wanted,
                      query.resourceVersion.empty() ? Result<Revision>(0) : parseRevision(query.resourceVersion));
  if (!query.resourceVersionMatch.empty()) {
    if (query.resourceVersionMatch != "Exact" && query.resourceVersionMatch != "NotOlderThan") {
      co_return Error(Code::kInvalid,
                      fmt::format("ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Unsupported value: "
                                  "\"{}\": supported values: \"Exact\", \"NotOlderThan\"",
                                  query.resourceVersionMatch));
    }
    if (query.resourceVersion.empty()) {
      co_return Error(Code::kInvalid,
                      "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: resourceVersionMatch "
                      "is forbidden unless resourceVersion is provided");
    }
  }
  // Version 0: whatever is at hand. Another: at least that. None: the newest.
  bool newest = query.resourceVersion.empty() || wanted > caches_.revision() || from.revision > caches_.revision();
  if (newest) CO_RETURN_IF_ERROR(co_await catchUp(query.warnings));
  outcome.revision = caches_.revision();
  auto& cache = caches_.of(kind.resource());
  if (query.warnings) {
    for (const auto& [key, why] : cache.unreadable()) {
      if (query.ns.empty() || key.starts_with(query.ns + "/"))
        query.warnings->push_back(fmt::format("{} \"{}\" is left out, it cannot be read: {}", kind.plural, key, why));
    }
  }
  if (wanted > outcome.revision) {
    co_return Error(Code::kDeadlineExceeded,
                    fmt::format("Too large resource version: {}, current: {}", wanted, outcome.revision))
        .withRetryAfter(1);
  }
  if (query.resourceVersionMatch == "Exact" && wanted != outcome.revision) {
    co_return Error(Code::kExpired, fmt::format("The resourceVersion for the provided list is too old: {}", wanted));
  }
  std::vector<ObjectPtr> objects;
  std::string_view only = selection.fields.exact("metadata.name");
  std::string_view onlyNs = selection.fields.exact("metadata.namespace");
  if (query.ns.empty() && !onlyNs.empty() && kind.namespaced) query.ns = onlyNs;
  if (!only.empty() && (!query.ns.empty() || !kind.namespaced)) {
    if (auto one = find(kind, query.ns, only)) objects.push_back(std::move(one));
  } else {
    objects = all(kind, query.ns);
  }
  int64_t left = 0;
  for (auto& object : objects) {
    if (!from.start.empty() && from.passed(*object)) continue;
    if (!selection.matches(*object)) continue;
    if (query.limit > 0 && static_cast<int64_t>(outcome.items.size()) == query.limit) {
      ++left;
      continue;
    }
    outcome.items.push_back(convertObject(kind, asked, object));
  }
  if (left > 0) {
    outcome.continueToken = encodeContinue({outcome.revision, outcome.items.back()->key()});
    if (selection.everything()) outcome.remaining = left;
  }
  co_return outcome;
}

Task<Result<std::unique_ptr<KindWatch>>> Registry::watch(const KindInfo& asked, WatchQuery query) {
  const KindInfo& kind = stored(asked);
  CO_ASSIGN_OR_RETURN(Selection selection, parseSelection(kind, query.labelSelector, query.fieldSelector));
  KindWatch::Options options;
  CO_ASSIGN_OR_RETURN(options.after,
                      query.resourceVersion.empty() ? Result<Revision>(0) : parseRevision(query.resourceVersion));
  options.ns = query.ns;
  if (!selection.everything()) {
    options.filter = [selection = std::move(selection)](const object::Object& object) {
      return selection.matches(object);
    };
  }
  if (&kind != &asked)
    options.convert = [&kind, &asked](const ObjectPtr& object) { return convertObject(kind, asked, object); };
  options.sendInitial = query.sendInitialEvents || options.after == 0;
  if (query.resourceVersion.empty() || options.after > caches_.revision()) {
    CO_RETURN_IF_ERROR(co_await caches_.catchUpIfPossible());
  }
  if (options.after > caches_.revision()) {
    co_return Error(Code::kExpired,
                    fmt::format("too large resource version: {}, current: {}", options.after, caches_.revision()));
  }
  co_return KindWatch::open(loop_, caches_, caches_.of(kind.resource()), std::move(options));
}

}  // namespace dhow::apiserver
