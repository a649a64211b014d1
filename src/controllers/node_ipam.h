// Gives every node a range of pod addresses (spec.podCIDR) out of the cluster's range, and where the cluster has two
// families the /64 with the same number out of the other range (spec.podCIDRs).
#pragma once

#include <map>
#include <set>

#include "component.h"
#include "object/address_range.h"

namespace dhow::controllers {

class NodeIpamController final : public Component {
 public:
  struct Options {
    std::string clusterRange;   // "10.244.0.0/16", IPv4
    int nodeBits = 24;          // length of a node's prefix
    std::string clusterRange6;  // "fd00:10:244::/56"; empty: one family
  };
  static bool isRange6(std::string_view text);  // can be given as clusterRange6
  NodeIpamController(Context context, Options options);

  void start() override { controller_.start(); }
  Task<> stop() override { return controller_.stop(); }
  bool idle() const override { return controller_.idle(); }
  Task<Result<>> reconcile(std::string key);

 private:
  Context context_;
  uint32_t base_ = 0;
  uint32_t count_ = 0;
  int nodeBits_;
  std::optional<object::AddressNumber> base6_;
  client::Cache& nodes_;
  std::map<std::string, uint32_t> promised_;  // by node: written, but not yet in the cache
  client::Controller controller_;
};

}  // namespace dhow::controllers
