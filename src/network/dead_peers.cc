#include "network/dead_peers.h"

#include <arpa/inet.h>
#include <linux/inet_diag.h>
#include <linux/sock_diag.h>
#include <netinet/tcp.h>

#include <algorithm>
#include <set>

#include "netlink.h"

namespace dhow {

namespace {

IpAddress peerOf(const inet_diag_msg& connection) {
  const size_t size = connection.idiag_family == AF_INET ? 4 : 16;
  return IpAddress::fromBytes({reinterpret_cast<const char*>(connection.id.idiag_dst), size});
}

Result<> destroy(NetlinkSocket& socket, uint8_t family, const inet_diag_sockid& id) {
  NetlinkMessage message(SOCK_DESTROY, 0);
  auto* wanted = message.extra<inet_diag_req_v2>();
  wanted->sdiag_family = family;
  wanted->sdiag_protocol = IPPROTO_TCP;
  wanted->id = id;
  auto done = socket.request(message, "end a connection");
  if (!done.ok() && done.error().errnum() != ENOENT) return done;
  return {};
}

}  // namespace

Result<size_t> endConnectionsWith(const std::vector<TcpPeer>& peers) {
  // The kernel finds them by port.
  std::set<std::pair<uint8_t, uint16_t>> searches;
  for (const auto& [address, port] : peers)
    searches.emplace(static_cast<uint8_t>(address.isV4() ? AF_INET : AF_INET6), port);
  if (searches.empty()) return size_t{0};
  ASSIGN_OR_RETURN(NetlinkSocket socket, NetlinkSocket::open(NETLINK_SOCK_DIAG));
  size_t ended = 0;
  for (const auto& [family, port] : searches) {
    NetlinkMessage question(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP);
    auto* wanted = question.extra<inet_diag_req_v2>();
    wanted->sdiag_family = family;
    wanted->sdiag_protocol = IPPROTO_TCP;
    wanted->idiag_states = 1 << TCP_ESTABLISHED;
    wanted->id.idiag_dport = htons(port);
    std::vector<inet_diag_sockid> found;
    auto visit = [&, port = port](const nlmsghdr* header) {
      if (mnl_nlmsg_get_payload_len(header) < sizeof(inet_diag_msg)) return;
      const auto* connection = static_cast<const inet_diag_msg*>(mnl_nlmsg_get_payload(header));
      if (std::find(peers.begin(), peers.end(), TcpPeer(peerOf(*connection), port)) != peers.end())
        found.push_back(connection->id);
    };
    RETURN_IF_ERROR(socket.dump(question, visit, "list connections"));
    for (const inet_diag_sockid& id : found) RETURN_IF_ERROR(destroy(socket, family, id));
    ended += found.size();
  }
  return ended;
}

}  // namespace dhow
