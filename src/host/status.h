// What `dhow status` shows on a host: what it is, and how its cluster fares as far as it can see.
#pragma once

#include <string>
#include <vector>

#include "base/loop.h"
#include "host/config.h"

namespace dhow::host {

struct NodeState {
  std::string name, state, zone, address;  // state as kubectl's: Ready, NotReady, Unknown
  std::string program;                     // that its agent runs (platform/programs.h); empty: not told
};

struct HostState {
  std::string server;  // that was asked
  bool answers = false;
  std::vector<std::string> masters;  // addresses, as the service `kubernetes` has them
  std::vector<NodeState> nodes;
};

// Asks as the administrator on a master, and as the node elsewhere.
Task<Result<HostState>> stateOf(Loop& loop, HostConfig config);

}  // namespace dhow::host
