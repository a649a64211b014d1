// The engine of every kind: create, get, list, watch, update, patch, delete and the subresources, over the store and
// the watch caches. It does not ask who may do what: the HTTP front does. All on the loop's thread.
#pragma once

#include <boost/json/object.hpp>
#include <boost/json/value.hpp>

#include <functional>
#include <map>
#include <memory>
#include <optional>

#include "apiserver/admission.h"
#include "apiserver/strategy.h"
#include "apiserver/watch_cache.h"
#include "base/key_locks.h"
#include "client/client.h"
#include "object/kinds.h"
#include "object/selector.h"
#include "store/store.h"

namespace dhow::apiserver {

using client::PatchType;
using object::KindInfo;

struct ListQuery {
  std::string ns;
  std::string labelSelector;
  std::string fieldSelector;
  int64_t limit = 0;
  std::string continueToken;
  std::string resourceVersion;
  std::string resourceVersionMatch;
  std::vector<std::string>* warnings = nullptr;  // as of get()
};

struct ListOutcome {
  std::vector<ObjectPtr> items;
  Revision revision = 0;
  std::string continueToken;
  std::optional<int64_t> remaining;
};

struct WatchQuery {
  std::string ns;
  std::string labelSelector;
  std::string fieldSelector;
  std::string resourceVersion;
  bool sendInitialEvents = false;
  bool legacyInitial = false;  // set by watch(): the initial events came without being asked for
};

struct Outcome {
  ObjectPtr object;
  bool created = false;
  bool gone = false;  // of a delete: nothing is left
};

struct DeleteQuery {
  std::optional<int64_t> gracePeriodSeconds;
  std::string propagationPolicy;
  std::string uid;
  std::string resourceVersion;
};

// A POST to a subresource, as "pods/binding": gives what is answered.
using SubresourceCreate =
    std::function<Task<Result<ObjectPtr>>(Context context, std::string ns, std::string name, json::object body)>;

class Registry {
 public:
  Registry(Loop& loop, store::Store& store, WatchCache& caches, const object::Kinds& kinds,
           const StrategyOptions& options, PodSecurityOptions security = {});

  const object::Kinds& kinds() const { return kinds_; }
  WatchCache& caches() { return caches_; }
  Loop& loop() { return loop_; }

  Task<Result<Outcome>> create(Context context, const KindInfo& kind, std::string ns, json::object body);
  Task<Result<ObjectPtr>> createSubresource(Context context, const KindInfo& kind, std::string ns, std::string name,
                                            std::string subresource, json::object body);
  // Without a quorum: with `warnings` an answer that may be old, and it says so there; else kUnavailable.
  // `resourceVersion` "0": an old one will do.
  Task<Result<ObjectPtr>> get(const KindInfo& kind, std::string ns, std::string name, std::string subresource = "",
                              std::vector<std::string>* warnings = nullptr, std::string resourceVersion = "");
  Task<Result<ListOutcome>> list(const KindInfo& kind, ListQuery query);
  Task<Result<std::unique_ptr<KindWatch>>> watch(const KindInfo& kind, WatchQuery query);
  Task<Result<Outcome>> update(Context context, const KindInfo& kind, std::string ns, std::string name,
                               std::string subresource, json::object body);
  Task<Result<Outcome>> patch(Context context, const KindInfo& kind, std::string ns, std::string name,
                              std::string subresource, PatchType type, json::value body);
  Task<Result<Outcome>> remove(Context context, const KindInfo& kind, std::string ns, std::string name,
                               DeleteQuery query);
  Task<Result<ListOutcome>> removeCollection(Context context, const KindInfo& kind, ListQuery selection,
                                             DeleteQuery query);

  void onSubresource(std::string kindAndName, SubresourceCreate create) {
    creates_[std::move(kindAndName)] = std::move(create);
  }
  // Writes the claims of objects that were stored without them. Several servers may do it at the same time.
  Task<Result<>> mendClaims();
  // Writes anew what the store holds in plain text or under an old key. Several servers may do it at the same time.
  Task<Result<>> sealAnew();
  // Asked before each write with the document as it would be; `old` is null on create. One guard: authorization sets
  // it.
  using Guard = std::function<Result<>(const Context& context, const KindInfo& kind, std::string_view subresource,
                                       const json::object& document, const object::Object* old)>;
  void setGuard(Guard guard) { guard_ = std::move(guard); }
  // Answers what is only asked and never stored (SubjectAccessReview and the like).
  using Review = std::function<Result<json::object>(const Context& context, const KindInfo& kind, std::string_view ns,
                                                    json::object body)>;
  void onReview(Review review) { review_ = std::move(review); }
  // Objects of a kind that are made when they are asked for, and never stored (PodSessions); of all namespaces where
  // `ns` is empty.
  using Compute = std::function<std::vector<ObjectPtr>(std::string_view ns)>;
  void onList(const object::Resource& resource, Compute compute);
  // The kind as it is stored; itself for most.
  const KindInfo& stored(const KindInfo& kind) const;

 private:
  // How an attempt to change something ended.
  enum class Attempt {
    kDecided,  // by what the caches hold, which may be old
    kLost,     // somebody else was faster
    kWritten,  // the store has spoken
  };
  // Makes the new document out of the present one; run again when somebody else was faster.
  using Change = std::function<Result<json::object>(const object::Object& old)>;

  Strategy& strategyOf(const KindInfo& kind);
  ObjectPtr find(const KindInfo& kind, std::string_view ns, std::string_view name);
  std::vector<ObjectPtr> all(const KindInfo& kind, std::string_view ns);
  Task<Result<>> catchUp(std::vector<std::string>* warnings);
  // kInternal when the object is in the store and cannot be read.
  Result<> checkReadable(const KindInfo& kind, std::string_view ns, std::string_view name);
  Error missing(const KindInfo& kind, const Resource& asked, std::string_view ns, std::string_view name);
  // Adds what the change from one document to the other means for claims; null: there is none.
  void addClaims(const KindInfo& kind, std::string_view holder, const json::object* before, const json::object* after,
                 store::Txn& txn);
  Task<Result<ObjectPtr>> write(const KindInfo& kind, std::string ns, std::string name, ObjectPtr old,
                                json::object document);
  Task<Result<ObjectPtr>> erase(const KindInfo& kind, ObjectPtr old);
  // `fresh`: after catching up; what is refused otherwise may be refused by an old state.
  Task<Result<Outcome>> createOnce(Context context, const KindInfo& kind, std::string ns, json::object document,
                                   bool applied, bool fresh);
  Task<Result<Outcome>> createSoon(Context context, const KindInfo& kind, std::string ns, json::object document,
                                   bool applied);
  Task<Result<Outcome>> changeOnce(const Context& context, const KindInfo& kind, std::string ns, std::string name,
                                   std::string subresource, bool applied, const Change& make, Attempt& attempt);
  Task<Result<Outcome>> change(Context context, const KindInfo& kind, std::string ns, std::string name,
                               std::string subresource, bool retry, bool applied, Change make);
  Result<json::object> settle(const Context& context, const KindInfo& kind, std::string_view subresource,
                              json::object document, const object::Object& old, bool applied);
  Task<Result<Outcome>> changeScale(Context context, const KindInfo& kind, std::string ns, std::string name, bool retry,
                                    std::function<Result<json::object>(const json::object& scale)> make);
  Result<Outcome> startDeletion(const KindInfo& kind, const object::Object& old, const DeleteQuery& query,
                                json::object& document, bool& now);
  Task<> removeOne(Context context, const KindInfo* kind, ObjectPtr object, DeleteQuery query, ListOutcome* removed,
                   std::optional<Error>* failure);
  Task<Result<Outcome>> answer(Context context, const KindInfo& kind, std::string ns, json::object body);
  Task<Result<ObjectPtr>> bind(Context context, std::string ns, std::string name, json::object binding);
  Task<Result<>> bindOnce(std::string ns, std::string name, const json::object& binding, bool dryRun, Attempt& attempt);
  // eviction.cc
  Task<Result<>> takeFromBudget(Context context, ObjectPtr pod);
  Task<Result<ObjectPtr>> evict(Context context, std::string ns, std::string name, json::object eviction);

  std::string randomSuffix();
  std::string randomUid();

  Loop& loop_;
  store::Store& store_;
  WatchCache& caches_;
  const object::Kinds& kinds_;
  Admission admission_;
  KeyLocks locks_;
  std::map<std::string, std::unique_ptr<Strategy>> strategies_;  // by "plural.group"
  std::unique_ptr<Strategy> plain_;
  std::map<std::string, SubresourceCreate> creates_;
  Guard guard_;
  Review review_;
  std::map<std::string, Compute> computed_;  // by "plural.group"
};

// events.k8s.io/v1 to core/v1 and back; other kinds have one form.
json::object convertDocument(const KindInfo& from, const KindInfo& to, json::object document);
ObjectPtr convertObject(const KindInfo& from, const KindInfo& to, const ObjectPtr& object);

// The scale subresource of an object. kInternal when the kind has none.
Result<json::object> scaleOf(const KindInfo& kind, const object::Object& object);

}  // namespace dhow::apiserver
