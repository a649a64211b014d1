// The region's load balancer as one of those who send to pods (apiserver/drain_barrier.h), asked over the region's API.
#pragma once

#include "apiserver/drain_barrier.h"
#include "platform/region_api.h"

namespace dhow {

class RegionBalancer final : public apiserver::EndpointConsumers {
 public:
  // `options.timeout` bounds a question.
  RegionBalancer(Loop& loop, platform::RegionClient::Options options) : client_(loop, std::move(options)) {}
  // Questions under way end.
  void close() { client_.close(); }
  std::vector<std::string> living() const override { return {"the load balancer"}; }
  Task<Result<uint64_t>> applied(std::string, uint64_t revision, Duration limit) override {
    return client_.applied(revision, limit);
  }

 private:
  platform::RegionClient client_;
};

}  // namespace dhow
