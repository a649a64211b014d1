// What a master's process reads: `dhow server --config <file>`. One JSON object:
//
//   name             "dhow-master-1"
//   cluster, region  their names
//   zones, nodes     ["local-east-1", ...] and how many nodes a new cluster begins with
//   address, port    where its API server listens
//   advertise        the address under which every client finds the API: the region's
//   podRange, serviceRange, loadBalancerRange      of IPv4
//   podRange6, serviceRange6, loadBalancerRange6   of IPv6; those of one family may be empty
//   ipv6First        true: of two families IPv6 is the first one
//                    Without a load balancer's range services of type LoadBalancer stay pending
//   caFile           PEM of the cluster's authority
//   caKeyFile        its key, which signs certificates (controllers/certificates.h); empty: they are signed elsewhere
//   certificateSeconds   how long the certificates that it signs hold at most; 0: a year
//   certFile, keyFile   serves the API, and is shown to the region. One file that is given twice is renewed in place
//   adminFile, kubeconfigFile   the administrator's identity, renewed here, and the kubeconfig that is made of it;
//   empty:
//                    others keep them
//   serviceAccountKeyFile
//   restricted       whether Pod Security is enforced at the level restricted where a namespace does not say otherwise
//   auditFile        the audit log (apiserver/audit.h); empty: none
//   encryptionFile   how values are encrypted in the store (apiserver/value_cipher.h); empty: not at all
//   regionUrl        the region's API (platform/region_api.h); empty: machines are separate hosts that join by
//                    themselves (host/), and `advertise` is this master's own address
//   store            path of the embedded store's file, or
//   etcd             ["https://10.89.1.3:2379", ...] with etcdCaFile, etcdCertFile, etcdKeyFile (empty for http://)
//   etcdCaKeyFile    the key of etcd's authority; empty: etcd's certificates are renewed elsewhere
//   storePrefix      put before each key: where several clusters share one etcd
//   storeFrom        path of an embedded store's file whose content moves into `etcd` first, while it is there
//   snapshots        folder; with snapshotEvery, in seconds: how often the leading master saves one there (0: never)
//   member           where this machine keeps its own member of that etcd (`dhow member`); empty: it has none
//   memberReady      socket file that the member tells when it serves; empty: nobody waits for it
//   peers            {"<master>": "<address>"}: who the members are, this one among them
#pragma once

#include <boost/json/object.hpp>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/result.h"

namespace dhow::platform {

struct MasterOptions {
  std::string name;
  std::string cluster, region;
  std::vector<std::string> zones;
  int nodes = 0;
  std::string address;
  uint16_t port = 0;
  std::string advertise;
  std::string podRange, serviceRange, loadBalancerRange;
  std::string podRange6, serviceRange6, loadBalancerRange6;
  bool ipv6First = false;
  std::string caFile, caKeyFile, certFile, keyFile, serviceAccountKeyFile;
  std::string adminFile, kubeconfigFile;
  bool restricted = false;
  std::string auditFile, encryptionFile;
  std::string regionUrl;
  std::string store;
  std::vector<std::string> etcd;
  std::string etcdCaFile, etcdCaKeyFile, etcdCertFile, etcdKeyFile;
  std::string storePrefix;
  std::string storeFrom;
  std::string snapshots;
  int snapshotEvery = 0;
  int certificateSeconds = 0;
  std::string member, memberReady;
  std::map<std::string, std::string> peers;

  // One for each family, the first one's first.
  std::vector<std::string> podRanges() const;
  std::vector<std::string> serviceRanges() const;
  std::vector<std::string> loadBalancerRanges() const;
};

// kInvalid names the field that is wrong or missing; one that is not known is another version's.
Result<MasterOptions> parseMasterOptions(std::string_view json);
Result<MasterOptions> loadMasterOptions(const std::string& path);
boost::json::object toJson(const MasterOptions& options);

}  // namespace dhow::platform
