// What is added to a new object, or forbids it, for reasons that lie outside it: its namespace, its service account,
// cluster-wide defaults.
#pragma once

#include "apiserver/pod_security.h"
#include "apiserver/strategy.h"
#include "apiserver/watch_cache.h"

namespace dhow::apiserver {

class Admission {
 public:
  Admission(Loop& loop, WatchCache& caches, PodSecurityOptions security);
  // Before defaults and validation; may add to the document. `ns` is empty for cluster-scoped kinds.
  Task<Result<>> admitCreate(const object::KindInfo& kind, std::string ns, json::object& document);
  // After validation, of a new object.
  Result<> admitValid(const Context& context, const object::KindInfo& kind, std::string_view ns,
                      const json::object& document);
  Result<> admitUpdate(const Context& context, const object::KindInfo& kind, std::string_view subresource,
                       const json::object& document, const object::Object& old);

 private:
  Result<> checkNamespace(const object::KindInfo& kind, std::string_view ns, std::string_view name) const;
  Task<Result<>> giveServiceAccount(std::string ns, json::object& pod);

  Result<> checkPod(const Context& context, std::string_view ns, const json::object& pod);
  void checkTemplate(const Context& context, std::string_view ns, const json::object& document);
  Result<> checkNamespaceLabels(const Context& context, const json::object& document, const object::Object* old);

  Loop& loop_;
  WatchCache& caches_;
  PodSecurity security_;
  KindCache& namespaces_;
  KindCache& serviceAccounts_;
};

}  // namespace dhow::apiserver
