// Connections with those that are no more. The kernel gives one up after a quarter of an hour (tcp_retries2), and who
// waits on it waits as long.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "base/result.h"
#include "ip.h"

namespace dhow {

using TcpPeer = std::pair<IpAddress, uint16_t>;

// Ends the TCP connections of the calling thread's network namespace with these: whoever waits there gets ECONNABORTED
// at once. Established ones alone: what a peer has said before it closed is still read. Gives how many there were.
// sock_diag(7), SOCK_DESTROY; EOPNOTSUPP where the kernel is built without CONFIG_INET_DIAG_DESTROY.
Result<size_t> endConnectionsWith(const std::vector<TcpPeer>& peers);

}  // namespace dhow
