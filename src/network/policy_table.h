// Network policies by nftables, in a table of its own in the caller's namespace (a node's), for the pods of this node.
// Rules are data in sets and maps, as services are: the first packet of a connection costs the same however many
// policies there are, later ones a look at connection tracking, and a change is the elements that it changes, in one
// batch. IPv6 has a table of its own with the same name and the same sets. While a pod stays isolated there is no
// moment in which it is not, and a packet that is allowed before and after a change is not lost meanwhile. Traffic from
// the node itself to its pods always passes (probes), so do a pod's connections with itself and its questions to the
// cluster's DNS. Any thread; calls block.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "network/policy.h"

namespace dhow {

struct PolicyTableOptions {
  std::string table = "dhow_policies";
  std::vector<IpAddress> dns;  // addresses of this node that answer questions on port 53
  bool ipv6 = false;           // pods have IPv6 addresses, too
};

class PolicyTable {
 public:
  // Reads nothing: the rules of a former process hold until the first apply() replaces them in one batch.
  static Result<std::unique_ptr<PolicyTable>> open(PolicyTableOptions options);
  ~PolicyTable();  // leaves the rules in place

  using Subjects = std::map<IpAddress, PolicySubject>;
  using Peers = std::map<IpAddress, std::optional<PolicyPeer>>;  // nullopt: no pod has the address any more

  // Makes these the pods of this node, and changes some of the cluster's pods. On error the kernel keeps what it had,
  // and the next call tries again all that was asked for. Without an isolated pod there is no table.
  Result<> apply(Subjects subjects, const Peers& changed);

  struct Stats {
    size_t classes = 0, identities = 0;  // different rules of pods here, different kinds of peers
    size_t elements = 0;                 // set elements in the kernel
    size_t lastChanges = 0;              // of the last batch
  };
  Stats stats() const;

 private:
  struct Rep;
  explicit PolicyTable(std::unique_ptr<Rep> rep);
  std::unique_ptr<Rep> rep_;
};

}  // namespace dhow
