// Services by nftables: ClusterIP, NodePort, LoadBalancer and external addresses, in one table of maps in the
// namespace of the caller (a node's own, or the host's so that the machine itself reaches the cluster). A packet
// finds its endpoint in constant time; a change costs as many set elements as it changes, in one atomic batch. IPv6 has
// a table of its own with the same name and the same maps.
// Existing connections stay where they are; flows without connections of their own (UDP), and SCTP associations, which
// a client opens again from the same port, are forgotten by connection tracking when their endpoint is gone.
// kube-proxy's nftables mode is the model of behaviour. Any thread; calls block.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "network/ip.h"

namespace dhow {

struct ServiceEndpoint {
  IpAddress address;
  uint16_t port = 0;
  bool local = false;  // on this node
  auto operator<=>(const ServiceEndpoint&) const = default;
};

// One port of one Service, with the endpoints that may get new connections. The caller has chosen them: ready ones, or
// serving ones when none is ready; nearest zone or node when trafficDistribution asks for it. Those for a policy Local
// are a list of their own, since neither choice is the same within one node.
struct ServicePort {
  std::string key;  // "namespace/name:port", unique in a snapshot
  Protocol protocol = Protocol::kTcp;
  uint16_t port = 0;
  std::vector<IpAddress> clusterIps;
  uint16_t nodePort = 0;  // 0: none
  std::vector<IpAddress> loadBalancerIps;
  std::vector<IpAddress> externalIps;
  std::vector<IpPrefix> loadBalancerSourceRanges;  // empty: anyone
  int affinitySeconds = 0;                         // sessionAffinity ClientIP; 0: none
  bool internalLocal = false;                      // internalTrafficPolicy: Local
  bool externalLocal = false;                      // externalTrafficPolicy: Local
  std::vector<ServiceEndpoint> endpoints;
  std::vector<ServiceEndpoint> localEndpoints;  // what a policy Local sends to, all on this node
  // UDP and SCTP: others that get nothing new but keep the flows that they have.
  std::vector<ServiceEndpoint> standing;
  bool operator==(const ServicePort&) const = default;
};

struct ServiceProxyOptions {
  std::string table = "dhow";
  // Sources that need no masquerade: the cluster's range of each family. Without one of IPv6, IPv6 is not handled.
  std::vector<IpPrefix> podRanges;
  std::vector<IpPrefix> serviceRanges;  // unknown addresses in them are refused
  // Addresses of this namespace on which DNS is served: their UDP port 53 is kept out of connection tracking.
  std::vector<IpAddress> untrackedDns;
  std::vector<IpPrefix> nodePortAddresses;  // empty: every address of the namespace but loopback
};

class ServiceProxy {
 public:
  // Reads nothing: rules of a former process keep working until the first apply() replaces them in one batch.
  static Result<std::unique_ptr<ServiceProxy>> open(ServiceProxyOptions options);
  ~ServiceProxy();  // leaves the rules in place

  // What flows of before may tell of the truth: kSure forgets all that are not led where the snapshot leads; kUnsure,
  // for a snapshot that may be old, none.
  enum class Snapshot { kSure, kUnsure };
  // Makes the rules say exactly this. Two ports that claim the same address, protocol and port: the first in order
  // of key gets it. On error the kernel keeps what it had (of the family that failed; each changes in a batch of its
  // own).
  Result<> apply(const std::vector<ServicePort>& snapshot, Snapshot kind = Snapshot::kSure);
  // Adds or replaces some and removes others by key, leaving the rest.
  Result<> update(const std::vector<ServicePort>& changed, const std::vector<std::string>& removed);
  // Deletes the table.
  Result<> destroy();

  struct Stats {
    size_t services = 0;     // frontends: address, protocol, port
    size_t elements = 0;     // set elements in the kernel
    size_t lastChanges = 0;  // of the last batch
  };
  Stats stats() const;

 private:
  struct Rep;
  explicit ServiceProxy(std::unique_ptr<Rep> rep);
  std::unique_ptr<Rep> rep_;
};

}  // namespace dhow
