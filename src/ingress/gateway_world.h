// What a node watches for Gateways: Gateways alone while there are none, and everything that they may need from the
// first one on. On the loop's thread. Private to this folder.
#pragma once

#include <functional>
#include <memory>

#include "client/cache.h"
#include "ingress/edge.h"
#include "ingress/gateway.h"

namespace dhow::ingress {

class GatewayWorld {
 public:
  // `changed` is called when something does, and when all is known.
  GatewayWorld(client::Caches& caches, std::function<void()> changed);
  void subscribe();
  void stop() { subscriptions_.clear(); }
  // For the Gateways; what they need may come later.
  Task<> waitSynced() { return gateways_.waitSynced(); }
  bool synced() const;
  // Without functions. Adds what is named.
  GatewayDocuments documents(std::set<NamedObjects::Name>& names) const;

 private:
  void open();
  client::Cache& cacheOf(const client::Resource& resource) const { return *others_.at(resource); }

  client::Caches& caches_;
  client::Cache& gateways_;
  std::function<void()> changed_;
  std::map<client::Resource, client::Cache*> others_;
  std::vector<std::unique_ptr<client::Cache::Subscription>> subscriptions_;
};

}  // namespace dhow::ingress
