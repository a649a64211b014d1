// What a node is told about itself and its cluster: one JSON file, written by whoever made the machine.
//
//   name           the Node's name; the client certificate is for system:node:<name>
//   zone, region   labels topology.kubernetes.io/zone and /region; may be empty
//   servers        ["https://10.89.0.1:6443", ...]: the masters
//   followMasters  true: the masters are those that the API names (the endpoints of the service kubernetes) as soon as
//                  it has; the last ones are kept in dataDir, and `servers` stay as a way to the API
//   caFile, certFile, keyFile   PEM files: who is trusted, and this node's client certificate and key. One file that is
//                  given for both is renewed in place
//   dataDir        images, pods (volumes, logs, last seen specifications); survives a reboot
//   runDir         sandboxes' state; a reboot may clear it
//   cgroupParent   "/dhow-node": all cgroups of the node's pods are below it
//   shimPath       dhow-shim; empty: beside this program
//   address        of this node, as other nodes reach it
//   segment        "10.89.1.0/24": nodes inside it are reached directly, others by VXLAN; empty: all directly
//   podRange       of the whole cluster: "10.244.0.0/16"; empty: it has IPv6 alone
//   serviceRange   "10.96.0.0/16"
//   podRange6, serviceRange6   of IPv6, where the cluster has that: "fd00:10:244::/56", "fd00:10:96::/108"
//   ipv6First      true: of two families IPv6 is the first one
//   address6, segment6   of this node: where nodes with an address inside are reached directly by IPv6; may be empty
//   dnsAddress     "10.96.0.10"; answered on this node, and so is dnsAddressesOf()'s of the other family
//   domain         "cluster.local"
//   resolvConf     whose nameservers answer what is not the cluster's; default /etc/resolv.conf
//   registries     as `registries:` in registries.yaml (image/hosts.h)
//   registriesFile path of such a file; read again when it changes; may be missing
//   labels         {"key": "value"} put on the Node when it registers
//   taints         [{"key", "value", "effect"}] put on the Node when it registers
//   maxPods        default 110
//   firstUser      of the ids of pods with user namespaces of their own: 65536 for each of maxPods; default 65536
//   resources      {"cpu": "2", "memory": "4Gi"}: capacity instead of what the machine has
//   reserved       {"cpu": "100m", "memory": "128Mi"}: kept from the pods: allocatable is capacity less this
//   poolSize       ready-made pod networks; default 4
//   announceAddresses   true: this node and others of its segment answer neighbours for load-balanced addresses
//   isolatePods    true: pods outside kube-system are isolated but for what network policies allow
//   logMaxSize, logMaxFiles   default 10 MiB and 5
// What another version has written and this one does not know is passed over.
#pragma once

#include <boost/json/object.hpp>

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "network/ip.h"

namespace dhow::node {

struct Taint {
  std::string key, value, effect;
};

struct NodeOptions {
  std::string name, zone, region;
  std::vector<std::string> servers;
  bool followMasters = false;
  std::string caFile, certFile, keyFile;
  std::string dataDir, runDir, cgroupParent = "/dhow-node", shimPath;
  std::string address, segment;
  std::string podRange = "10.244.0.0/16", serviceRange = "10.96.0.0/16";
  std::string podRange6, serviceRange6, address6, segment6;
  std::string dnsAddress = "10.96.0.10", domain = "cluster.local";
  std::string resolvConf = "/etc/resolv.conf";
  std::string registriesFile;
  boost::json::object registries;
  std::map<std::string, std::string> labels;
  std::vector<Taint> taints;
  int64_t maxPods = 110;
  uint32_t firstUser = 65536;
  std::map<std::string, std::string> resources, reserved;
  int poolSize = 4;
  bool isolatePods = false, announceAddresses = false, ipv6First = false;
  uint64_t logMaxSize = 10 << 20;
  uint32_t logMaxFiles = 5;
  std::string program;  // what the agent runs, for the Node to tell; not from the file
};

// kInvalid names the field that is wrong.
Result<NodeOptions> parseNodeOptions(std::string_view json);
Result<NodeOptions> loadNodeOptions(const std::string& path);
boost::json::object toJson(const NodeOptions& options);
// Where this node answers questions for names: dnsAddress, and in clusters of two families the tenth of the other one's
// range. kInvalid when they are no addresses.
Result<std::vector<IpAddress>> dnsAddressesOf(const NodeOptions& options);
// The node's own, of the families that the cluster has, the first one's first.
std::vector<std::string> nodeAddressesOf(const NodeOptions& options);

}  // namespace dhow::node
