#include "network/links.h"

#include <linux/if_bridge.h>
#include <linux/if_link.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>

#include <mutex>

#include "base/files.h"
#include "base/strings.h"
#include "netlink.h"

namespace dhow {

struct NetLinks::Rep {
  std::mutex mutex;
  NetlinkSocket socket;
};

NetLinks::NetLinks(std::unique_ptr<Rep> rep) : rep_(std::move(rep)) {}
NetLinks::NetLinks(NetLinks&&) noexcept = default;
NetLinks& NetLinks::operator=(NetLinks&&) noexcept = default;
NetLinks::~NetLinks() = default;

namespace {

Result<std::string> macBytes(const std::string& text) {
  std::string out;
  for (auto& part : split(text, ':')) {
    char* end = nullptr;
    unsigned long value = std::strtoul(part.c_str(), &end, 16);
    if (part.size() != 2 || *end != 0) break;
    out.push_back(static_cast<char>(value));
  }
  if (out.size() != 6 || text.size() != 17) return Error(Code::kInvalid, "invalid MAC address \"" + text + "\"");
  return out;
}

std::string macText(std::string_view bytes) {
  std::string out;
  for (unsigned char c : bytes) out += fmt::format("{}{:02x}", out.empty() ? "" : ":", c);
  return out;
}

Result<> checkName(const std::string& name) {
  if (name.empty() || name.size() >= IFNAMSIZ || name == "." || name == ".." ||
      name.find_first_of("/: \t\n%") != std::string::npos) {
    return Error(Code::kInvalid, "invalid interface name \"" + name + "\"");
  }
  return {};
}

std::string_view bytesOf(const nlattr* a) {
  return {static_cast<const char*>(mnl_attr_get_payload(a)), mnl_attr_get_payload_len(a)};
}

Link readLink(const nlmsghdr* h) {
  Link link;
  auto* info = static_cast<const ifinfomsg*>(mnl_nlmsg_get_payload(h));
  link.index = info->ifi_index;
  link.up = (info->ifi_flags & IFF_UP) != 0;
  auto attributes = netlinkAttributes(h, sizeof(ifinfomsg), IFLA_LINKINFO);
  if (attributes[IFLA_IFNAME]) link.name = mnl_attr_get_str(attributes[IFLA_IFNAME]);
  if (attributes[IFLA_ADDRESS]) link.mac = macText(bytesOf(attributes[IFLA_ADDRESS]));
  if (attributes[IFLA_MTU]) link.mtu = static_cast<int>(mnl_attr_get_u32(attributes[IFLA_MTU]));
  if (attributes[IFLA_MASTER]) link.master = static_cast<int>(mnl_attr_get_u32(attributes[IFLA_MASTER]));
  if (attributes[IFLA_LINKINFO]) {
    auto inner = nestedAttributes(attributes[IFLA_LINKINFO], IFLA_INFO_KIND);
    if (inner[IFLA_INFO_KIND]) link.kind = mnl_attr_get_str(inner[IFLA_INFO_KIND]);
  }
  return link;
}

uint8_t familyOf(const IpAddress& address) {
  return address.isV6() ? AF_INET6 : AF_INET;
}

void buildAddress(NetlinkMessage& m, int link, const IpPrefix& address) {
  auto* head = m.extra<ifaddrmsg>();
  head->ifa_family = familyOf(address.address);
  head->ifa_prefixlen = static_cast<uint8_t>(address.length);
  head->ifa_index = static_cast<uint32_t>(link);
  if (address.address.isLoopback()) head->ifa_scope = RT_SCOPE_HOST;
  if (address.address.isV6()) head->ifa_flags = IFA_F_NODAD;
  m.put(IFA_LOCAL, address.address.bytes());
  m.put(IFA_ADDRESS, address.address.bytes());
  if (address.address.isV4() && address.length < 31 && !address.address.isLoopback()) {
    uint32_t hostBits = address.length == 0 ? ~0u : (1u << (32 - address.length)) - 1;
    m.put(IFA_BROADCAST, IpAddress::v4(address.address.v4Value() | hostBits).bytes());
  }
}

void buildRoute(NetlinkMessage& m, const Route& route) {
  auto* head = m.extra<rtmsg>();
  const IpAddress& any = route.destination.address.empty() ? route.gateway : route.destination.address;
  head->rtm_family = familyOf(any);
  head->rtm_dst_len = static_cast<uint8_t>(route.destination.length);
  head->rtm_table = RT_TABLE_MAIN;
  head->rtm_protocol = RTPROT_STATIC;
  head->rtm_scope = route.gateway.empty() ? RT_SCOPE_LINK : RT_SCOPE_UNIVERSE;
  head->rtm_type = route.unreachable ? RTN_UNREACHABLE : RTN_UNICAST;
  if (route.onLink) head->rtm_flags = RTNH_F_ONLINK;
  if (route.destination.length > 0) m.put(RTA_DST, route.destination.network().bytes());
  if (!route.gateway.empty()) m.put(RTA_GATEWAY, route.gateway.bytes());
  if (!route.source.empty()) m.put(RTA_PREFSRC, route.source.bytes());
  if (route.link != 0) m.put32(RTA_OIF, static_cast<uint32_t>(route.link));
}

Result<> ignoring(Result<> result, std::initializer_list<int> fine) {
  if (!result.ok()) {
    for (int code : fine) {
      if (result.error().errnum() == code) return {};
    }
  }
  return result;
}

}  // namespace

Result<NetLinks> NetLinks::open() {
  auto rep = std::make_unique<Rep>();
  ASSIGN_OR_RETURN(rep->socket, NetlinkSocket::open(NETLINK_ROUTE));
  return NetLinks(std::move(rep));
}

Result<NetLinks> NetLinks::openIn(int netnsFd) {
  std::optional<NetLinks> out;
  RETURN_IF_ERROR(runInNetns(netnsFd, [&]() -> Result<> {
    ASSIGN_OR_RETURN(out, open());
    return {};
  }));
  return std::move(*out);
}

Result<Link> NetLinks::find(const std::string& name) {
  RETURN_IF_ERROR(checkName(name));
  NetlinkMessage m(RTM_GETLINK, 0);
  m.extra<ifinfomsg>();
  m.putString(IFLA_IFNAME, name);
  Link link;
  std::lock_guard lock(rep_->mutex);
  auto result = rep_->socket.dump(m, [&](const nlmsghdr* h) { link = readLink(h); }, "find interface " + name);
  if (!result.ok()) {
    if (result.error().errnum() == ENODEV) return Error(Code::kNotFound, "interface " + name + " not found", ENODEV);
    return result.error();
  }
  return link;
}

Result<std::vector<Link>> NetLinks::list() {
  NetlinkMessage m(RTM_GETLINK, NLM_F_DUMP);
  m.extra<ifinfomsg>();
  std::vector<Link> links;
  std::lock_guard lock(rep_->mutex);
  RETURN_IF_ERROR(rep_->socket.dump(m, [&](const nlmsghdr* h) { links.push_back(readLink(h)); }, "list interfaces"));
  return links;
}

Result<int> NetLinks::createBridge(const std::string& name, const std::string& mac, int mtu) {
  RETURN_IF_ERROR(checkName(name));
  NetlinkMessage m(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL);
  auto* info = m.extra<ifinfomsg>();
  info->ifi_flags = IFF_UP;
  info->ifi_change = IFF_UP;
  m.putString(IFLA_IFNAME, name);
  if (mtu > 0) m.put32(IFLA_MTU, static_cast<uint32_t>(mtu));
  if (!mac.empty()) {
    ASSIGN_OR_RETURN(auto bytes, macBytes(mac));
    m.put(IFLA_ADDRESS, bytes);
  }
  auto* outer = m.nest(IFLA_LINKINFO);
  m.putString(IFLA_INFO_KIND, "bridge");
  auto* data = m.nest(IFLA_INFO_DATA);
  m.put32(IFLA_BR_FORWARD_DELAY, 0);
  m.put32(IFLA_BR_STP_STATE, 0);
  m.put8(IFLA_BR_MCAST_SNOOPING, 0);
  m.end(data);
  m.end(outer);
  {
    std::lock_guard lock(rep_->mutex);
    RETURN_IF_ERROR(rep_->socket.request(m, "create bridge " + name));
  }
  ASSIGN_OR_RETURN(auto link, find(name));
  return link.index;
}

Result<int> NetLinks::createVeth(const VethSpec& spec) {
  RETURN_IF_ERROR(checkName(spec.name));
  RETURN_IF_ERROR(checkName(spec.peerName));
  NetlinkMessage m(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL);
  auto* info = m.extra<ifinfomsg>();
  if (spec.up) info->ifi_flags = info->ifi_change = IFF_UP;
  m.putString(IFLA_IFNAME, spec.name);
  if (spec.mtu > 0) m.put32(IFLA_MTU, static_cast<uint32_t>(spec.mtu));
  if (spec.master > 0) m.put32(IFLA_MASTER, static_cast<uint32_t>(spec.master));
  auto* outer = m.nest(IFLA_LINKINFO);
  m.putString(IFLA_INFO_KIND, "veth");
  auto* data = m.nest(IFLA_INFO_DATA);
  auto* peer = m.nest(VETH_INFO_PEER);
  m.raw<ifinfomsg>();
  m.putString(IFLA_IFNAME, spec.peerName);
  if (spec.mtu > 0) m.put32(IFLA_MTU, static_cast<uint32_t>(spec.mtu));
  if (spec.peerNetnsFd >= 0) m.put32(IFLA_NET_NS_FD, static_cast<uint32_t>(spec.peerNetnsFd));
  if (!spec.peerMac.empty()) {
    ASSIGN_OR_RETURN(auto bytes, macBytes(spec.peerMac));
    m.put(IFLA_ADDRESS, bytes);
  }
  m.end(peer);
  m.end(data);
  m.end(outer);
  {
    std::lock_guard lock(rep_->mutex);
    RETURN_IF_ERROR(rep_->socket.request(m, fmt::format("create veth {} and {}", spec.name, spec.peerName)));
  }
  ASSIGN_OR_RETURN(auto link, find(spec.name));
  return link.index;
}

Result<int> NetLinks::createVxlan(const std::string& name, uint32_t id, const IpAddress& local, uint16_t port, int mtu,
                                  const std::string& mac) {
  RETURN_IF_ERROR(checkName(name));
  NetlinkMessage m(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL);
  auto* info = m.extra<ifinfomsg>();
  info->ifi_flags = info->ifi_change = IFF_UP;
  m.putString(IFLA_IFNAME, name);
  if (mtu > 0) m.put32(IFLA_MTU, static_cast<uint32_t>(mtu));
  ASSIGN_OR_RETURN(auto own, macBytes(mac.empty() ? macFor(local) : mac));
  m.put(IFLA_ADDRESS, own);
  auto* outer = m.nest(IFLA_LINKINFO);
  m.putString(IFLA_INFO_KIND, "vxlan");
  auto* data = m.nest(IFLA_INFO_DATA);
  m.put32(IFLA_VXLAN_ID, id);
  m.put(local.isV6() ? IFLA_VXLAN_LOCAL6 : IFLA_VXLAN_LOCAL, local.bytes());
  m.put8(IFLA_VXLAN_LEARNING, 0);
  m.put16(IFLA_VXLAN_PORT, static_cast<uint16_t>(port << 8 | port >> 8));
  m.end(data);
  m.end(outer);
  {
    std::lock_guard lock(rep_->mutex);
    RETURN_IF_ERROR(rep_->socket.request(m, "create vxlan " + name));
  }
  ASSIGN_OR_RETURN(auto link, find(name));
  return link.index;
}

Result<> NetLinks::remove(int link) {
  NetlinkMessage m(RTM_DELLINK, 0);
  m.extra<ifinfomsg>()->ifi_index = link;
  std::lock_guard lock(rep_->mutex);
  return rep_->socket.request(m, "delete interface");
}

Result<> NetLinks::removeTogether(const std::vector<std::string>& names) {
  constexpr uint32_t kDoomedGroup = 0x64686f77;
  std::vector<std::unique_ptr<NetlinkMessage>> messages;
  for (auto& name : names) {
    auto& m = *messages.emplace_back(std::make_unique<NetlinkMessage>(RTM_NEWLINK, 0));
    m.extra<ifinfomsg>();
    m.putString(IFLA_IFNAME, name);
    m.put32(IFLA_GROUP, kDoomedGroup);
  }
  NetlinkMessage m(RTM_DELLINK, 0);
  m.extra<ifinfomsg>();
  m.put32(IFLA_GROUP, kDoomedGroup);
  std::lock_guard lock(rep_->mutex);
  RETURN_IF_ERROR(ignoring(rep_->socket.batch(messages, "mark interfaces for deletion"), {ENODEV}));
  return ignoring(rep_->socket.request(m, "delete interfaces"), {ENODEV});
}

Result<> NetLinks::setUp(int link, bool up) {
  NetlinkMessage m(RTM_NEWLINK, 0);
  auto* info = m.extra<ifinfomsg>();
  info->ifi_index = link;
  info->ifi_flags = up ? IFF_UP : 0;
  info->ifi_change = IFF_UP;
  std::lock_guard lock(rep_->mutex);
  return rep_->socket.request(m, up ? "bring interface up" : "bring interface down");
}

Result<> NetLinks::setMtu(int link, int mtu) {
  NetlinkMessage m(RTM_NEWLINK, 0);
  m.extra<ifinfomsg>()->ifi_index = link;
  m.put32(IFLA_MTU, static_cast<uint32_t>(mtu));
  std::lock_guard lock(rep_->mutex);
  return rep_->socket.request(m, "set MTU");
}

Result<> NetLinks::setMac(int link, const std::string& mac) {
  ASSIGN_OR_RETURN(auto bytes, macBytes(mac));
  NetlinkMessage m(RTM_NEWLINK, 0);
  m.extra<ifinfomsg>()->ifi_index = link;
  m.put(IFLA_ADDRESS, bytes);
  std::lock_guard lock(rep_->mutex);
  return rep_->socket.request(m, "set MAC address");
}

Result<> NetLinks::setMaster(int link, int bridge) {
  NetlinkMessage m(RTM_NEWLINK, 0);
  m.extra<ifinfomsg>()->ifi_index = link;
  m.put32(IFLA_MASTER, static_cast<uint32_t>(bridge));
  std::lock_guard lock(rep_->mutex);
  return rep_->socket.request(m, "set bridge of interface");
}

Result<> NetLinks::setName(int link, const std::string& name) {
  RETURN_IF_ERROR(checkName(name));
  NetlinkMessage m(RTM_NEWLINK, 0);
  m.extra<ifinfomsg>()->ifi_index = link;
  m.putString(IFLA_IFNAME, name);
  std::lock_guard lock(rep_->mutex);
  return rep_->socket.request(m, "rename interface to " + name);
}

Result<> NetLinks::setBridgePort(int link, bool isolated, bool hairpin) {
  NetlinkMessage m(RTM_SETLINK, 0);
  auto* info = m.extra<ifinfomsg>();
  info->ifi_family = PF_BRIDGE;
  info->ifi_index = link;
  auto* port = m.nest(IFLA_PROTINFO | NLA_F_NESTED);
  m.put8(IFLA_BRPORT_ISOLATED, isolated ? 1 : 0);
  m.put8(IFLA_BRPORT_MODE, hairpin ? 1 : 0);
  m.end(port);
  std::lock_guard lock(rep_->mutex);
  return rep_->socket.request(m, "set bridge port");
}

Result<> NetLinks::moveTo(int link, int netnsFd, const std::string& newName) {
  NetlinkMessage m(RTM_NEWLINK, 0);
  m.extra<ifinfomsg>()->ifi_index = link;
  m.put32(IFLA_NET_NS_FD, static_cast<uint32_t>(netnsFd));
  if (!newName.empty()) {
    RETURN_IF_ERROR(checkName(newName));
    m.putString(IFLA_IFNAME, newName);
  }
  std::lock_guard lock(rep_->mutex);
  return rep_->socket.request(m, "move interface to another namespace");
}

Result<> NetLinks::addAddress(int link, const IpPrefix& address) {
  NetlinkMessage m(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL);
  buildAddress(m, link, address);
  std::lock_guard lock(rep_->mutex);
  return ignoring(rep_->socket.request(m, "add address " + address.str()), {EEXIST});
}

Result<> NetLinks::removeAddress(int link, const IpPrefix& address) {
  NetlinkMessage m(RTM_DELADDR, 0);
  buildAddress(m, link, address);
  std::lock_guard lock(rep_->mutex);
  return ignoring(rep_->socket.request(m, "remove address " + address.str()), {EADDRNOTAVAIL, ENODEV});
}

Result<std::vector<IpPrefix>> NetLinks::addresses(int link) {
  NetlinkMessage m(RTM_GETADDR, NLM_F_DUMP);
  m.extra<ifaddrmsg>();
  std::vector<IpPrefix> out;
  auto read = [&](const nlmsghdr* h) {
    auto* head = static_cast<const ifaddrmsg*>(mnl_nlmsg_get_payload(h));
    if (link != 0 && static_cast<int>(head->ifa_index) != link) return;
    auto attributes = netlinkAttributes(h, sizeof(ifaddrmsg), IFA_LOCAL);
    auto* found = attributes[IFA_LOCAL] ? attributes[IFA_LOCAL] : attributes[IFA_ADDRESS];
    if (found) out.push_back({IpAddress::fromBytes(bytesOf(found)), head->ifa_prefixlen});
  };
  std::lock_guard lock(rep_->mutex);
  RETURN_IF_ERROR(rep_->socket.dump(m, read, "list addresses"));
  return out;
}

Result<> NetLinks::setRoute(const Route& route) {
  NetlinkMessage m(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE);
  buildRoute(m, route);
  std::lock_guard lock(rep_->mutex);
  return rep_->socket.request(m, "set route " + route.destination.str());
}

Result<> NetLinks::removeRoute(const Route& route) {
  NetlinkMessage m(RTM_DELROUTE, 0);
  buildRoute(m, route);
  std::lock_guard lock(rep_->mutex);
  return ignoring(rep_->socket.request(m, "remove route " + route.destination.str()), {ESRCH, ENODEV});
}

Result<std::vector<Route>> NetLinks::routes() {
  NetlinkMessage m(RTM_GETROUTE, NLM_F_DUMP);
  m.extra<rtmsg>();
  std::vector<Route> out;
  auto read = [&](const nlmsghdr* h) {
    auto* head = static_cast<const rtmsg*>(mnl_nlmsg_get_payload(h));
    if (head->rtm_table != RT_TABLE_MAIN || head->rtm_type != RTN_UNICAST) return;
    auto attributes = netlinkAttributes(h, sizeof(rtmsg), RTA_PREFSRC);
    Route route;
    route.destination.length = head->rtm_dst_len;
    if (attributes[RTA_DST]) route.destination.address = IpAddress::fromBytes(bytesOf(attributes[RTA_DST]));
    if (attributes[RTA_GATEWAY]) route.gateway = IpAddress::fromBytes(bytesOf(attributes[RTA_GATEWAY]));
    if (attributes[RTA_PREFSRC]) route.source = IpAddress::fromBytes(bytesOf(attributes[RTA_PREFSRC]));
    if (attributes[RTA_OIF]) route.link = static_cast<int>(mnl_attr_get_u32(attributes[RTA_OIF]));
    route.onLink = (head->rtm_flags & RTNH_F_ONLINK) != 0;
    out.push_back(std::move(route));
  };
  std::lock_guard lock(rep_->mutex);
  RETURN_IF_ERROR(rep_->socket.dump(m, read, "list routes"));
  return out;
}

Result<> NetLinks::setNeighbour(int link, const IpAddress& address, const std::string& mac) {
  ASSIGN_OR_RETURN(auto bytes, macBytes(mac));
  NetlinkMessage m(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE);
  auto* head = m.extra<ndmsg>();
  head->ndm_family = familyOf(address);
  head->ndm_ifindex = link;
  head->ndm_state = NUD_PERMANENT;
  m.put(NDA_DST, address.bytes());
  m.put(NDA_LLADDR, bytes);
  std::lock_guard lock(rep_->mutex);
  return rep_->socket.request(m, "set neighbour " + address.str());
}

Result<> NetLinks::setForwarding(int link, const std::string& mac, const IpAddress& remote) {
  ASSIGN_OR_RETURN(auto bytes, macBytes(mac));
  NetlinkMessage m(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE);
  auto* head = m.extra<ndmsg>();
  head->ndm_family = PF_BRIDGE;
  head->ndm_ifindex = link;
  head->ndm_state = NUD_PERMANENT;
  head->ndm_flags = NTF_SELF;
  m.put(NDA_LLADDR, bytes);
  m.put(NDA_DST, remote.bytes());
  std::lock_guard lock(rep_->mutex);
  return rep_->socket.request(m, "set tunnel to " + remote.str());
}

Result<> NetLinks::configureInside(int link, const std::vector<IpPrefix>& addresses, const std::vector<Route>& routes) {
  std::vector<std::unique_ptr<NetlinkMessage>> messages;
  auto add = [&](uint16_t type, uint16_t flags) -> NetlinkMessage& {
    return *messages.emplace_back(std::make_unique<NetlinkMessage>(type, flags));
  };
  for (const auto& address : addresses) buildAddress(add(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE), link, address);
  auto* info = add(RTM_NEWLINK, 0).extra<ifinfomsg>();
  info->ifi_index = link;
  info->ifi_flags = info->ifi_change = IFF_UP;
  for (auto& route : routes) buildRoute(add(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE), route);
  std::lock_guard lock(rep_->mutex);
  return rep_->socket.batch(messages,
                            "configure interface with " + (addresses.empty() ? "no address" : addresses[0].str()));
}

Result<> forwardIpv6() {
  const std::string folder = "/proc/sys/net/ipv6/conf", forwarding = "net/ipv6/conf/all/forwarding";
  auto now = readFile("/proc/sys/" + forwarding, 16);
  if (now.ok() && trim(*now) == "1") return {};
  ASSIGN_OR_RETURN(auto names, listDir(folder));
  for (const auto& name : names) {
    const auto setting = fmt::format("net/ipv6/conf/{}/accept_ra", name);
    auto accepts = readFile("/proc/sys/" + setting, 16);
    if (accepts.ok() && trim(*accepts) == "1") RETURN_IF_ERROR(setSysctl(setting, "2"));
  }
  return setSysctl(forwarding, "1");
}

}  // namespace dhow
