// May this caller do that? system:masters may do all; a node what belongs to its pods; everyone else what RBAC grants.
// Reads the watch caches: a change of a role holds from the next request on.
#pragma once

#include <boost/json/array.hpp>

#include <functional>

#include "apiserver/caller.h"
#include "apiserver/watch_cache.h"
#include "edge_secrets.h"
#include "object/kinds.h"

namespace dhow::apiserver {

struct Attributes {
  std::string verb;
  // Of a resource; else `path` counts.
  bool isResource = true;
  std::string group;
  std::string plural;
  std::string subresource;
  std::string ns;
  std::string name;
  std::string path;
  std::string fieldSelector;  // as sent, for nodes that list their own pods
  bool podAddresses = false;  // only who pods are and where (pod_address.h)
};

struct Decision {
  bool allowed = false;
  std::string reason;
};

class Authorizer {
 public:
  explicit Authorizer(WatchCache& caches);
  Decision authorize(const Caller& caller, const Attributes& attributes) const;
  // The kPermissionDenied that tells what was refused.
  static Error refusal(const Caller& caller, const Attributes& attributes, std::string_view reason);
  // Every rule that holds for the caller in a namespace.
  json::array rulesFor(const Caller& caller, std::string_view ns) const;
  // Whether the caller may write this role or binding: it must hold what it grants.
  Result<> mayGrant(const Caller& caller, const object::KindInfo& kind, const json::object& document,
                    const object::Object* old) const;
  // Whether the caller may approve (or deny) certificates of this signer, or sign them: the verbs `approve` and `sign`
  // on `signers` of certificates.k8s.io, by the signer's name or its domain as "example.com/*".
  Result<> mayCertify(const Caller& caller, const object::KindInfo& kind, std::string_view subresource,
                      const json::object& document, const object::Object* old) const;

 private:
  // Calls for each rule with the words that say where it comes from; stops when `each` gives false.
  using EachRule = std::function<bool(const json::object& rule, const std::string& source)>;
  bool visitRules(const Caller& caller, std::string_view ns, const EachRule& each) const;
  bool visitBindings(const KindCache& bindings, const Caller& caller, std::string_view ns, const EachRule& each) const;
  bool holdsRule(const Caller& caller, std::string_view ns, const json::object& rule) const;
  bool nodeMay(std::string_view node, const Attributes& attributes) const;
  bool podsOfNodeUse(std::string_view node, const Attributes& attributes) const;

  KindCache& roles_;
  KindCache& roleBindings_;
  KindCache& clusterRoles_;
  KindCache& clusterRoleBindings_;
  KindCache& pods_;
  EdgeSecrets edge_;
};

}  // namespace dhow::apiserver
