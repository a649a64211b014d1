// The nodes as those who send to pods: each one's proxy and DNS server, asked through the tunnel that its agent keeps.
// A node lives while it is Ready and its lease is renewed, as this process sees it.
#pragma once

#include <map>

#include "apiserver/drain_barrier.h"
#include "tunnels.h"

namespace dhow::apiserver {

class NodeConsumers final : public EndpointConsumers {
 public:
  NodeConsumers(Loop& loop, client::Caches& caches, const Tunnels& tunnels);
  void start();
  void stop();
  std::vector<std::string> living() const override;
  // Those with an edge that are not known to be dead: an edge may have users while nothing has been heard yet.
  std::vector<std::string> edges() const;
  Task<Result<uint64_t>> applied(std::string node, uint64_t revision, Duration limit) override;

 private:
  Loop& loop_;
  client::Cache& nodes_;
  client::Cache& leases_;
  const Tunnels& tunnels_;
  TimePoint started_{};
  std::map<std::string, TimePoint, std::less<>> heard_;
  std::vector<std::unique_ptr<client::Cache::Subscription>> subscriptions_;
};

}  // namespace dhow::apiserver
