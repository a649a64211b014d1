// What a kind does beyond its schema: allocation, status rules, phases. One file per kind that needs one.
#pragma once

#include <boost/json/object.hpp>

#include <functional>
#include <map>
#include <memory>

#include "apiserver/caller.h"
#include "apiserver/watch_cache.h"
#include "object/decode.h"
#include "object/kinds.h"

namespace dhow::apiserver {

struct Context {
  Caller caller;
  bool dryRun = false;
  std::string fieldManager;
  object::FieldValidation fieldValidation = object::FieldValidation::kIgnore;
  bool force = false;  // of an apply
  std::vector<std::string>* warnings = nullptr;
  std::map<std::string, std::string>* annotations = nullptr;  // of the request's audit event
};

class Strategy {
 public:
  virtual ~Strategy() = default;
  // After decoding, before defaults and validation. `document` is the whole new object.
  virtual Result<> beforeCreate(const Context&, json::object&) { return {}; }
  // After defaults: allocation. An error leaves nothing reserved.
  virtual Result<> allocate(const Context&, json::object&, const object::Object* /*old*/) { return {}; }
  // Called once the write is done or has failed: reservations end.
  virtual void release(const json::object&) {}
  // `subresource` is "" for the object itself.
  virtual Result<> beforeUpdate(const Context&, std::string_view /*subresource*/, json::object&,
                                const object::Object& /*old*/) {
    return {};
  }
  // More causes than the schema can tell.
  virtual void check(std::string_view /*subresource*/, const json::object&, const object::Object* /*old*/,
                     std::vector<ErrorCause>&) {}
  virtual bool hasGeneration() const { return false; }
  // What no two objects may hold at once, as "address/10.96.0.1": written beside the object in the same transaction, so
  // that servers which share a store never give anything twice.
  virtual std::vector<std::string> claims(const json::object&) const { return {}; }
  // Keeps a deleted object until this is false, beside metadata.finalizers.
  virtual bool holdsDeletion(const json::object&) const { return false; }
  virtual Result<> beforeDelete(const Context&, const object::Object&) { return {}; }
};

struct StrategyOptions {
  std::vector<std::string> serviceRanges = {"10.96.0.0/16"};  // one for each family, that of the default first
  uint16_t nodePortFirst = 30000;
  uint16_t nodePortLast = 32767;
};

std::unique_ptr<Strategy> makePodStrategy();
std::unique_ptr<Strategy> makeServiceStrategy(Loop& loop, WatchCache& caches, const StrategyOptions& options);
std::unique_ptr<Strategy> makeNamespaceStrategy();
std::unique_ptr<Strategy> makeSecretStrategy();
std::unique_ptr<Strategy> makeGenerationStrategy();  // generation follows the spec
std::unique_ptr<Strategy> makeWorkloadStrategy();    // the same, and the status begins empty
std::unique_ptr<Strategy> makeCertificateStrategy(Loop& loop);
std::unique_ptr<Strategy> makePlainStrategy();
// dhow.io: what these name must exist; what is named is not deleted.
std::unique_ptr<Strategy> makeRegionStrategy(WatchCache& caches);
std::unique_ptr<Strategy> makeZoneStrategy(WatchCache& caches);
std::unique_ptr<Strategy> makeNodePoolStrategy(WatchCache& caches);
std::unique_ptr<Strategy> makeMachineStrategy(WatchCache& caches);

}  // namespace dhow::apiserver
