#include <arpa/inet.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>

#include "service_elements.h"

namespace dhow::services {

namespace {

struct Flow {
  IpAddress destination, answeredBy;
  uint16_t port = 0;
  uint8_t protocol = 0;
};

// `which`: as of IPv4.
IpAddress addressIn(const nlattr* tuple, uint16_t which) {
  if (tuple == nullptr) return {};
  auto parts = nestedAttributes(tuple, CTA_TUPLE_PROTO);
  if (parts[CTA_TUPLE_IP] == nullptr) return {};
  auto ip = nestedAttributes(parts[CTA_TUPLE_IP], CTA_IP_V6_DST);
  const auto* found = ip[which] != nullptr ? ip[which] : ip[which == CTA_IP_V4_DST ? CTA_IP_V6_DST : CTA_IP_V6_SRC];
  if (found == nullptr) return {};
  return IpAddress::fromBytes({static_cast<const char*>(mnl_attr_get_payload(found)), mnl_attr_get_payload_len(found)});
}

Flow readFlow(const nlattr* original, const nlattr* reply) {
  Flow flow;
  flow.destination = addressIn(original, CTA_IP_V4_DST);
  flow.answeredBy = addressIn(reply, CTA_IP_V4_SRC);
  auto parts = nestedAttributes(original, CTA_TUPLE_PROTO);
  if (parts[CTA_TUPLE_PROTO] == nullptr) return flow;
  auto proto = nestedAttributes(parts[CTA_TUPLE_PROTO], CTA_PROTO_DST_PORT);
  if (proto[CTA_PROTO_NUM]) flow.protocol = mnl_attr_get_u8(proto[CTA_PROTO_NUM]);
  if (proto[CTA_PROTO_DST_PORT]) flow.port = ntohs(mnl_attr_get_u16(proto[CTA_PROTO_DST_PORT]));
  return flow;
}

bool isStale(const Flow& flow, const std::vector<StaleFlows>& stale) {
  for (auto& s : stale) {
    if (flow.port != s.frontend.port || flow.protocol != static_cast<uint8_t>(s.frontend.protocol)) continue;
    if (!s.frontend.address.empty() && flow.destination != s.frontend.address) continue;
    if (s.endpoints.count(flow.answeredBy) > 0) return true;
    if (s.unserved && !s.frontend.address.empty() && flow.answeredBy == flow.destination) return true;
  }
  return false;
}

}  // namespace

Result<size_t> forgetFlows(NetlinkSocket& socket, IpFamily family, const std::vector<StaleFlows>& stale) {
  if (stale.empty()) return size_t{0};
  const uint8_t protocolFamily = family == IpFamily::kV4 ? AF_INET : AF_INET6;
  std::vector<std::unique_ptr<NetlinkMessage>> deletions;
  NetlinkMessage m(NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET, NLM_F_DUMP);
  m.extra<nfgenmsg>()->nfgen_family = protocolFamily;
  auto visit = [&](const nlmsghdr* h) {
    auto attributes = netlinkAttributes(h, sizeof(nfgenmsg), CTA_ZONE);
    auto* original = attributes[CTA_TUPLE_ORIG];
    if (original == nullptr || attributes[CTA_TUPLE_REPLY] == nullptr) return;
    if (!isStale(readFlow(original, attributes[CTA_TUPLE_REPLY]), stale)) return;
    auto& remove =
        *deletions.emplace_back(std::make_unique<NetlinkMessage>(NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE, 0));
    remove.extra<nfgenmsg>()->nfgen_family = protocolFamily;
    for (uint16_t type : {CTA_TUPLE_ORIG, CTA_ID, CTA_ZONE}) {
      if (attributes[type] == nullptr) continue;
      remove.put(static_cast<uint16_t>(type == CTA_TUPLE_ORIG ? type | NLA_F_NESTED : type),
                 {static_cast<const char*>(mnl_attr_get_payload(attributes[type])),
                  mnl_attr_get_payload_len(attributes[type])});
    }
  };
  RETURN_IF_ERROR(socket.dump(m, visit, "list connections"));
  for (auto& remove : deletions) {
    auto done = socket.request(*remove, "forget connection");
    if (!done.ok() && done.error().errnum() != ENOENT) return done.error();
  }
  return deletions.size();
}

}  // namespace dhow::services
