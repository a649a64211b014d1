// Gives every node a range of pod addresses out of each of the cluster's ranges: those with the same number
// (spec.podCIDRs), and that of the first family as spec.podCIDR.
#pragma once

#include <map>
#include <set>
#include <vector>

#include "component.h"
#include "object/address_range.h"

namespace dhow::controllers {

class NodeIpamController final : public Component {
 public:
  struct Options {
    // One, or one of each family, the first family's first: "10.244.0.0/16", "fd00:10:244::/56".
    std::vector<std::string> clusterRanges;
    int nodeBits = 24;  // length of a node's prefix of IPv4; of IPv6 it is 64
  };
  // kInvalid names the range that cannot be read or that holds no node's.
  static Result<> check(const Options& options);
  NodeIpamController(Context context, const Options& options);

  void start() override { controller_.start(); }
  Task<> stop() override { return controller_.stop(); }
  bool idle() const override { return controller_.idle(); }
  Task<Result<>> reconcile(std::string key);

 private:
  // Numbers are those of object::AddressNumber, lengths counted in its 128 bits.
  struct Range {
    object::AddressNumber base{};
    int length = 0, nodeLength = 0;
    static std::optional<Range> parse(std::string_view text, int nodeBits);
    bool v4() const;
    std::string ofNode(uint32_t index) const;
    std::optional<uint32_t> indexOf(std::string_view nodeRange) const;
  };

  Context context_;
  std::vector<Range> ranges_;
  uint32_t count_ = 0;
  client::Cache& nodes_;
  std::map<std::string, uint32_t> promised_;  // by node: written, but not yet in the cache
  client::Controller controller_;
};

}  // namespace dhow::controllers
