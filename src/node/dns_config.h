// What an administrator says about names that are not the cluster's: the ConfigMap kube-system/dhow-dns, in the form
// that kube-dns had (https://kubernetes.io/docs/tasks/administer-cluster/dns-custom-nameservers/). Each value is JSON:
//
//   stubDomains: {"corp.example": ["10.0.0.53", "10.0.1.53:5353"]}   names in these domains are asked of these alone
//   upstreamNameservers: ["192.0.2.53"]                              all others; missing: those of the node's
//   resolv.conf
//
// In CoreDNS's words: a `forward` per domain and one for "."; the cache is always there. Other keys are passed over.
#pragma once

#include <boost/json/object.hpp>

#include "base/result.h"
#include "network/dns.h"
#include "volume_content.h"

namespace dhow::node {

inline const ObjectRef kDnsConfig{"configmaps", "kube-system", "dhow-dns"};

// `data` of the ConfigMap; `own`: the node's nameservers. kInvalid names the key.
Result<DnsForwarding> readDnsConfig(const boost::json::object& data, const std::vector<DnsUpstream>& own);

}  // namespace dhow::node
