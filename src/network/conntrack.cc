// Connections that connection tracking still leads where the service proxy no longer does.
#include <arpa/inet.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>

#include "service_elements.h"

namespace dhow::services {

namespace {

// Which parts of CTA_TUPLE_ORIG a dump is to match. The kernel keeps the names to itself
// (include/linux/netfilter/nf_internals.h). Those before 5.8 pass over the filter.
constexpr uint32_t kFilterDestination = 1 << 1, kFilterProtocol = 1 << 3, kFilterDestinationPort = 1 << 5;

struct End {
  IpAddress address;
  uint16_t port = 0;
};

// One end of a tuple.
End endIn(const nlattr* tuple, bool source, uint8_t& protocol) {
  End out;
  auto parts = nestedAttributes(tuple, CTA_TUPLE_PROTO);
  if (parts[CTA_TUPLE_IP] == nullptr || parts[CTA_TUPLE_PROTO] == nullptr) return out;
  auto ip = nestedAttributes(parts[CTA_TUPLE_IP], CTA_IP_V6_DST);
  const auto* four = ip[source ? CTA_IP_V4_SRC : CTA_IP_V4_DST];
  const auto* found = four != nullptr ? four : ip[source ? CTA_IP_V6_SRC : CTA_IP_V6_DST];
  if (found == nullptr) return out;
  out.address =
      IpAddress::fromBytes({static_cast<const char*>(mnl_attr_get_payload(found)), mnl_attr_get_payload_len(found)});
  auto proto = nestedAttributes(parts[CTA_TUPLE_PROTO], CTA_PROTO_DST_PORT);
  if (proto[CTA_PROTO_NUM]) protocol = mnl_attr_get_u8(proto[CTA_PROTO_NUM]);
  const auto* port = proto[source ? CTA_PROTO_SRC_PORT : CTA_PROTO_DST_PORT];
  if (port) out.port = ntohs(mnl_attr_get_u16(port));
  return out;
}

std::optional<Flow> readFlow(const nlattr* original, const nlattr* reply) {
  uint8_t protocol = 0, other = 0;
  const End to = endIn(original, false, protocol), by = endIn(reply, true, other);
  for (Protocol known : {Protocol::kTcp, Protocol::kUdp, Protocol::kSctp}) {
    if (static_cast<uint8_t>(known) == protocol) return Flow{known, to.address, to.port, by.address, by.port};
  }
  return std::nullopt;
}

void putFilter(NetlinkMessage& m, const FlowFilter& filter) {
  uint32_t flags = kFilterProtocol;
  auto* tuple = m.nest(CTA_TUPLE_ORIG | NLA_F_NESTED);
  if (!filter.destination.empty()) {
    auto* ip = m.nest(CTA_TUPLE_IP | NLA_F_NESTED);
    m.put(filter.destination.isV4() ? CTA_IP_V4_DST : CTA_IP_V6_DST, filter.destination.bytes());
    m.end(ip);
    flags |= kFilterDestination;
  }
  auto* proto = m.nest(CTA_TUPLE_PROTO | NLA_F_NESTED);
  m.put8(CTA_PROTO_NUM, static_cast<uint8_t>(filter.protocol));
  if (filter.port != 0) {
    m.put16(CTA_PROTO_DST_PORT, htons(filter.port));
    flags |= kFilterDestinationPort;
  }
  m.end(proto);
  m.end(tuple);
  auto* parts = m.nest(CTA_FILTER | NLA_F_NESTED);
  m.put32(CTA_FILTER_ORIG_FLAGS, flags);
  m.put32(CTA_FILTER_REPLY_FLAGS, 0);
  m.end(parts);
}

}  // namespace

Result<size_t> forgetFlows(NetlinkSocket& socket, IpFamily family, const FlowFilter& filter,
                           const std::function<bool(const Flow&)>& stale) {
  const uint8_t protocolFamily = family == IpFamily::kV4 ? AF_INET : AF_INET6;
  NetlinkMessage m(NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET, NLM_F_DUMP);
  m.extra<nfgenmsg>()->nfgen_family = protocolFamily;
  putFilter(m, filter);
  using Name = std::vector<std::pair<uint16_t, std::string>>;  // the attributes that tell it from all others
  std::vector<Name> gone;
  auto visit = [&](const nlmsghdr* h) {
    auto attributes = netlinkAttributes(h, sizeof(nfgenmsg), CTA_ZONE);
    auto* original = attributes[CTA_TUPLE_ORIG];
    if (original == nullptr || attributes[CTA_TUPLE_REPLY] == nullptr) return;
    const auto flow = readFlow(original, attributes[CTA_TUPLE_REPLY]);
    if (!flow || flow->protocol != filter.protocol || !stale(*flow)) return;
    Name& name = gone.emplace_back();
    for (uint16_t type : {CTA_TUPLE_ORIG, CTA_ID, CTA_ZONE}) {
      const auto* attribute = attributes[type];
      if (attribute == nullptr) continue;
      name.emplace_back(
          static_cast<uint16_t>(type == CTA_TUPLE_ORIG ? type | NLA_F_NESTED : type),
          std::string(static_cast<const char*>(mnl_attr_get_payload(attribute)), mnl_attr_get_payload_len(attribute)));
    }
  };
  RETURN_IF_ERROR(socket.dump(m, visit, "list connections"));
  for (const Name& name : gone) {
    NetlinkMessage remove(NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE, 0);
    remove.extra<nfgenmsg>()->nfgen_family = protocolFamily;
    for (const auto& [type, bytes] : name) remove.put(type, bytes);
    auto done = socket.request(remove, "forget connection");
    if (!done.ok() && done.error().errnum() != ENOENT) return done.error();
  }
  return gone.size();
}

}  // namespace dhow::services
