// `dhow join`: a machine becomes a node, or a further master, of a cluster of separate hosts. Nothing secret is sent
// before the cluster's authority is known by its pin, and nothing is written before all is judged:
//
//   1. the ConfigMap cluster-info, from whoever answers; its authority must have one of the pins
//   2. over TLS that this authority vouches for: the cluster's names and ranges, shown the token
//   3. whether the node's name, this machine's address and the ranges are free
//   4. a certificate for system:node:<name>; of a further master the keys of those that there are (master_keys.h)
//   5. the files; host.json last
#pragma once

#include "base/loop.h"
#include "host/config.h"

namespace dhow::host {

Task<Result<HostConfig>> join(Loop& loop, JoinRequest request);

// Ends when the host's Node is Ready; asked with the node's own certificate.
Task<Result<>> waitReady(Loop& loop, HostConfig config, Duration limit);

}  // namespace dhow::host
