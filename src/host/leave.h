// `dhow leave`: a host is taken out of its cluster, and nothing of it stays: processes, pods, cgroups, mounts, links,
// routes, rules, addresses, files; kernel settings are as they were. The Node object stays in the API.
#pragma once

#include "base/blocking.h"
#include "base/loop.h"
#include "host/config.h"
#include "platform/programs.h"

namespace dhow::host {

// Whether clients of Ingresses may have connections to this host. Blocks.
bool servesIngress(const HostConfig& config);
// Nobody new is sent here, and those who are there end in peace: what they ask is answered, WebSockets end by
// themselves. Before leave(); an error says why somebody may be cut off all the same.
Task<Result<>> letIngressClientsGo(Loop& loop, HostConfig config, Duration limit);

// Idempotent: one that was cut short is run again. What cannot be removed is told, and the rest goes nevertheless.
Task<Result<>> leave(Loop& loop, BlockingPool& pool, HostConfig config, platform::Programs programs);

}  // namespace dhow::host
