#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <netinet/if_ether.h>
#include <sys/socket.h>

#include <cstring>

#include "base/strings.h"
#include "network/links.h"

namespace dhow {

Result<> announceAddress(const std::string& linkName, const IpAddress& address) {
  if (!address.isV4()) return Error(Code::kUnimplemented, "only IPv4 addresses are announced");
  ASSIGN_OR_RETURN(auto links, NetLinks::open());
  ASSIGN_OR_RETURN(auto link, links.find(linkName));
  UniqueFd fd(::socket(AF_PACKET, SOCK_DGRAM | SOCK_CLOEXEC, htons(ETH_P_ARP)));
  if (!fd) return Error::fromErrno("open packet socket");
  ether_arp arp{};
  arp.arp_hrd = htons(ARPHRD_ETHER);
  arp.arp_pro = htons(ETH_P_IP);
  arp.arp_hln = ETH_ALEN;
  arp.arp_pln = 4;
  arp.arp_op = htons(ARPOP_REQUEST);
  auto parts = split(link.mac, ':');
  for (size_t i = 0; i < parts.size() && i < ETH_ALEN; i++) {
    arp.arp_sha[i] = static_cast<uint8_t>(std::strtoul(parts[i].c_str(), nullptr, 16));
  }
  std::memcpy(arp.arp_spa, address.bytes().data(), 4);
  std::memcpy(arp.arp_tpa, address.bytes().data(), 4);
  sockaddr_ll to{};
  to.sll_family = AF_PACKET;
  to.sll_protocol = htons(ETH_P_ARP);
  to.sll_ifindex = link.index;
  to.sll_halen = ETH_ALEN;
  std::memset(to.sll_addr, 0xff, ETH_ALEN);
  if (::sendto(fd.get(), &arp, sizeof arp, 0, reinterpret_cast<sockaddr*>(&to), sizeof to) < 0) {
    return Error::fromErrno("announce " + address.str() + " on " + linkName);
  }
  return {};
}

}  // namespace dhow
