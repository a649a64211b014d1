// One network of containers on a bridge: the pods of a node, or a Docker network. Gives each container an interface,
// an address and a way out. Lives in the namespace of the process that makes it (a node's own, or the host's).
//
// Ready-made namespaces: with poolSize > 0 a background thread keeps that many namespaces with interface, address
// and routes ready, so that acquire() costs microseconds. They are held by descriptors only: if the process dies,
// the kernel removes them with their links. As many are kept of those that a user namespace owns, once one was
// acquired.
//
// Any thread. attach() and acquire() on an empty pool block for 1 to 2 ms; links are deleted in the background.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "network/ip.h"
#include "network/links.h"

namespace dhow {

class NatTable;

struct BridgeNetworkOptions {
  std::string bridge;  // link name, at most 15 bytes
  IpPrefix subnet;     // 10.244.1.0/24, or fd00:10:244:1::/64 where there is IPv6 alone
  // Beside one of IPv4, fd00:10:244:1::/64: each address of `subnet` has its like in it, with the same number, and
  // whoever is given one has the other, too. Empty: one family alone.
  IpPrefix subnet6;
  IpAddress gateway;      // empty: the first address of the subnet
  IpPrefix allocateFrom;  // empty: the whole subnet
  // Pods: every packet is routed by the node (address /32, ports isolated from each other), so that services and
  // policies see it whatever the bridge's netfilter settings are. Otherwise containers see each other directly.
  bool routed = false;
  // The namespace is this network's alone (a local node): bridge-nf-call-iptables may be turned off in it, so that
  // routed packets pass the rules once.
  bool ownNamespace = false;
  bool isolated = false;               // containers of this network may not talk to each other (icc=false)
  bool internal = false;               // no way out, no default route
  bool masquerade = true;              // traffic that leaves takes the node's address ...
  std::vector<IpPrefix> noMasquerade;  // ... unless it goes to one of these (the cluster's pod range)
  bool loopbackPublish = true;         // published ports answer on 127.0.0.1 too (route_localnet on our bridge only)
  int mtu = 0;                         // 0: 1500
  int poolSize = 0;
  std::string stateDir;  // journal of addresses; empty: none
};

struct Attachment {
  std::string containerId;
  std::string interface;      // inside: "eth0"
  std::string hostInterface;  // outside: "veth..."
  IpPrefix address;           // with the subnet's length
  IpAddress address6;         // its like in subnet6; empty: none
  IpAddress gateway;          // empty on an internal network
  std::string mac;
  int mtu = 0;
};

struct AcquiredNamespace {
  Netns netns;  // the container joins this; keep or pin it as long as the container lives
  Attachment attachment;
  UniqueFd users;  // its owner, without ids yet, if that was asked for
};

// The way to another node's pods.
struct NodeRoute {
  IpPrefix podRange;      // of IPv4, or of IPv6 where that is all it has
  IpAddress nodeAddress;  // of either family; inside the VXLAN's packets outside
  bool onSegment = true;  // false: through `via`, or by VXLAN when `via` is empty
  IpAddress via;
  IpPrefix podRange6;      // beside one of IPv4; empty: it has none
  IpAddress nodeAddress6;  // the next hop; empty: by VXLAN
};

class BridgeNetwork {
 public:
  // Makes the bridge, or takes it over as a former process left it. `nat` must outlive the network.
  static Result<std::unique_ptr<BridgeNetwork>> start(BridgeNetworkOptions options, NatTable& nat);
  ~BridgeNetwork();

  struct AttachOptions {
    std::string interface = "eth0";
    IpAddress address;         // empty: any free one
    std::string mac;           // empty: from the address
    bool defaultRoute = true;  // false for second networks of a container
  };
  // Gives the container in `netnsFd` an interface. The same container twice is kAlreadyExists.
  Result<Attachment> attach(const std::string& containerId, int netnsFd, const AttachOptions& options);
  Result<Attachment> attach(const std::string& containerId, int netnsFd) { return attach(containerId, netnsFd, {}); }
  enum class Owner { kSystem, kOwnUsers };  // the initial user namespace, or a new one for each network namespace
  // A ready namespace with eth0, for a container about to start.
  Result<AcquiredNamespace> acquire(const std::string& containerId, Owner owner = Owner::kSystem);
  // The container is still there from before a restart of this process. `address`: one of its two.
  Result<> adopt(const std::string& containerId, const IpAddress& address, const std::string& hostInterface);
  // Takes the interface away and frees the address; links go in the background. Unknown is fine.
  void detach(const std::string& containerId);
  // Frees the addresses that the journal still gives to containers not in `live`.
  void releaseAllBut(const std::vector<std::string>& live);
  std::vector<Attachment> attachments() const;

  // Replaces the routes to the other nodes' pods; what did not change is not touched.
  Result<> setNodeRoutes(const std::vector<NodeRoute>& routes);

  const BridgeNetworkOptions& options() const;
  size_t ready(Owner owner = Owner::kSystem) const;  // namespaces waiting in the pool
  // Blocks until the pool holds as many (at most poolSize).
  void waitReady(size_t count, Owner owner = Owner::kSystem);
  // Ends the pool's thread and background deletions; containers keep their network.
  void stop();
  // stop(), then removes bridge, routes and rules.
  Result<> destroy();

 private:
  struct Rep;
  explicit BridgeNetwork(std::unique_ptr<Rep> rep);
  std::unique_ptr<Rep> rep_;
};

}  // namespace dhow
