// Which secrets and config maps the nodes' proxies need: those that an Ingress or Gateway of a class of ours names, or
// a BackendTLSPolicy, and no others. A Gateway may name one of another namespace, when a ReferenceGrant there allows
// it.
#pragma once

#include "apiserver/watch_cache.h"

namespace dhow::apiserver {

class EdgeSecrets {
 public:
  explicit EdgeSecrets(WatchCache& caches);
  bool uses(std::string_view plural, std::string_view ns, std::string_view name) const;

 private:
  bool ingressIsOurs(const object::Object& ingress) const;
  bool gatewayIsOurs(const object::Object& gateway) const;
  bool granted(std::string_view fromNamespace, std::string_view kind, std::string_view ns, std::string_view name) const;

  KindCache& ingresses_;
  KindCache& ingressClasses_;
  KindCache& gateways_;
  KindCache& gatewayClasses_;
  KindCache& grants_;
  KindCache& policies_;
};

}  // namespace dhow::apiserver
