#include <arpa/inet.h>
#include <libnftnl/expr.h>
#include <libnftnl/rule.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_conntrack_common.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/rtnetlink.h>
#include <netinet/in.h>

#include "base/check.h"
#include "nft.h"

namespace dhow {

namespace {
constexpr uint32_t kFirstRegister = NFT_REG32_00;
constexpr size_t kInterfaceBytes = 16;
uint32_t reg(int n) {
  return kFirstRegister + static_cast<uint32_t>(n);
}
}  // namespace

NftKey& NftKey::address(const IpAddress& a) {
  bytes_ += a.bytes();
  return *this;
}
NftKey& NftKey::protocol(Protocol p) {
  bytes_ += static_cast<char>(p);
  bytes_.append(3, '\0');
  return *this;
}
NftKey& NftKey::port(uint16_t p) {
  bytes_ += static_cast<char>(p >> 8);
  bytes_ += static_cast<char>(p & 0xff);
  bytes_.append(2, '\0');
  return *this;
}
NftKey& NftKey::number(uint32_t n) {
  bytes_.append(reinterpret_cast<const char*>(&n), sizeof n);
  return *this;
}
NftKey& NftKey::interface(const std::string& name) {
  std::string padded = name;
  padded.resize(kInterfaceBytes);
  bytes_ += padded;
  return *this;
}

NftRule::NftRule(IpFamily family) : rule_(nftnl_rule_alloc()), family_(family) {
  CHECK(rule_ != nullptr, "out of memory");
}
NftRule::NftRule(NftRule&& other) noexcept : rule_(std::exchange(other.rule_, nullptr)), family_(other.family_) {}
NftRule::~NftRule() {
  if (rule_ != nullptr) nftnl_rule_free(rule_);
}

nftnl_expr* NftRule::add(const char* name) {
  nftnl_expr* e = nftnl_expr_alloc(name);
  CHECK(e != nullptr, "no nftables expression {}", name);
  nftnl_rule_add_expr(rule_, e);
  return e;
}

namespace {
void payload(nftnl_expr* e, uint32_t base, uint32_t offset, uint32_t length, int to) {
  nftnl_expr_set_u32(e, NFTNL_EXPR_PAYLOAD_BASE, base);
  nftnl_expr_set_u32(e, NFTNL_EXPR_PAYLOAD_OFFSET, offset);
  nftnl_expr_set_u32(e, NFTNL_EXPR_PAYLOAD_LEN, length);
  nftnl_expr_set_u32(e, NFTNL_EXPR_PAYLOAD_DREG, reg(to));
}
void loadMeta(nftnl_expr* e, uint32_t key, int to) {
  nftnl_expr_set_u32(e, NFTNL_EXPR_META_KEY, key);
  nftnl_expr_set_u32(e, NFTNL_EXPR_META_DREG, reg(to));
}
void compare(nftnl_expr* e, int from, bool equal, const void* data, size_t size) {
  nftnl_expr_set_u32(e, NFTNL_EXPR_CMP_SREG, reg(from));
  nftnl_expr_set_u32(e, NFTNL_EXPR_CMP_OP, equal ? NFT_CMP_EQ : NFT_CMP_NEQ);
  nftnl_expr_set(e, NFTNL_EXPR_CMP_DATA, data, static_cast<uint32_t>(size));
}
void bitwise(nftnl_expr* e, int at, uint32_t mask, uint32_t flip) {
  nftnl_expr_set_u32(e, NFTNL_EXPR_BITWISE_SREG, reg(at));
  nftnl_expr_set_u32(e, NFTNL_EXPR_BITWISE_DREG, reg(at));
  nftnl_expr_set_u32(e, NFTNL_EXPR_BITWISE_LEN, 4);
  nftnl_expr_set(e, NFTNL_EXPR_BITWISE_MASK, &mask, 4);
  nftnl_expr_set(e, NFTNL_EXPR_BITWISE_XOR, &flip, 4);
}
}  // namespace

namespace {
// Where the addresses stand in the header.
struct AddressField {
  uint32_t source, destination, size;
};
constexpr AddressField kAddressV4 = {12, 16, 4}, kAddressV6 = {8, 24, 16};
const AddressField& fieldOf(IpFamily family) {
  return family == IpFamily::kV4 ? kAddressV4 : kAddressV6;
}
}  // namespace

NftRule& NftRule::sourceAddress(int to) {
  const AddressField& field = fieldOf(family_);
  payload(add("payload"), NFT_PAYLOAD_NETWORK_HEADER, field.source, field.size, to);
  return *this;
}
NftRule& NftRule::destinationAddress(int to) {
  const AddressField& field = fieldOf(family_);
  payload(add("payload"), NFT_PAYLOAD_NETWORK_HEADER, field.destination, field.size, to);
  return *this;
}
NftRule& NftRule::destinationPort(int to) {
  payload(add("payload"), NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2, to);
  return *this;
}
NftRule& NftRule::sourcePort(int to) {
  payload(add("payload"), NFT_PAYLOAD_TRANSPORT_HEADER, 0, 2, to);
  return *this;
}
NftRule& NftRule::protocol(int to) {
  loadMeta(add("meta"), NFT_META_L4PROTO, to);
  return *this;
}
NftRule& NftRule::inInterface(int to) {
  loadMeta(add("meta"), NFT_META_IIFNAME, to);
  return *this;
}
NftRule& NftRule::outInterface(int to) {
  loadMeta(add("meta"), NFT_META_OIFNAME, to);
  return *this;
}

NftRule& NftRule::random(int to, uint32_t modulus, uint32_t offset) {
  nftnl_expr* e = add("numgen");
  nftnl_expr_set_u32(e, NFTNL_EXPR_NG_DREG, reg(to));
  nftnl_expr_set_u32(e, NFTNL_EXPR_NG_MODULUS, modulus);
  nftnl_expr_set_u32(e, NFTNL_EXPR_NG_TYPE, NFT_NG_RANDOM);
  if (offset != 0) nftnl_expr_set_u32(e, NFTNL_EXPR_NG_OFFSET, offset);
  return *this;
}

NftRule& NftRule::constant(int to, std::string_view bytes) {
  nftnl_expr* e = add("immediate");
  nftnl_expr_set_u32(e, NFTNL_EXPR_IMM_DREG, reg(to));
  nftnl_expr_set(e, NFTNL_EXPR_IMM_DATA, bytes.data(), static_cast<uint32_t>(bytes.size()));
  return *this;
}

NftRule& NftRule::within(uint32_t offset, const IpPrefix& prefix, bool invert) {
  CHECK(prefix.address.is(family_), "{} in a rule of another family", prefix.str());
  const uint32_t size = fieldOf(family_).size;
  payload(add("payload"), NFT_PAYLOAD_NETWORK_HEADER, offset, size, 0);
  uint8_t mask[16] = {};
  for (int bit = 0; bit < prefix.length; bit++) mask[bit / 8] |= static_cast<uint8_t>(0x80 >> bit % 8);
  const uint8_t zero[16] = {};
  nftnl_expr* e = add("bitwise");
  nftnl_expr_set_u32(e, NFTNL_EXPR_BITWISE_SREG, reg(0));
  nftnl_expr_set_u32(e, NFTNL_EXPR_BITWISE_DREG, reg(0));
  nftnl_expr_set_u32(e, NFTNL_EXPR_BITWISE_LEN, size);
  nftnl_expr_set(e, NFTNL_EXPR_BITWISE_MASK, mask, size);
  nftnl_expr_set(e, NFTNL_EXPR_BITWISE_XOR, zero, size);
  auto network = prefix.network();
  compare(add("cmp"), 0, !invert, network.bytes().data(), size);
  return *this;
}
NftRule& NftRule::sourceIn(const IpPrefix& prefix, bool invert) {
  return within(fieldOf(family_).source, prefix, invert);
}
NftRule& NftRule::destinationIn(const IpPrefix& prefix, bool invert) {
  return within(fieldOf(family_).destination, prefix, invert);
}

NftRule& NftRule::destinationIsLocal(bool invert) {
  nftnl_expr* e = add("fib");
  nftnl_expr_set_u32(e, NFTNL_EXPR_FIB_FLAGS, NFTA_FIB_F_DADDR);
  nftnl_expr_set_u32(e, NFTNL_EXPR_FIB_RESULT, NFT_FIB_RESULT_ADDRTYPE);
  nftnl_expr_set_u32(e, NFTNL_EXPR_FIB_DREG, reg(0));
  uint32_t local = RTN_LOCAL;
  compare(add("cmp"), 0, !invert, &local, sizeof local);
  return *this;
}

NftRule& NftRule::interfaceIs(int at, const std::string& name, bool invert) {
  std::string bytes = NftKey().interface(name);
  compare(add("cmp"), at, !invert, bytes.data(), bytes.size());
  return *this;
}

NftRule& NftRule::protocolIs(Protocol p) {
  protocol(0);
  uint8_t number = static_cast<uint8_t>(p);
  compare(add("cmp"), 0, true, &number, 1);
  return *this;
}

NftRule& NftRule::portIs(int at, uint16_t port) {
  uint16_t bytes = htons(port);
  compare(add("cmp"), at, true, &bytes, sizeof bytes);
  return *this;
}

NftRule& NftRule::connectionState(uint32_t states) {
  nftnl_expr* e = add("ct");
  nftnl_expr_set_u32(e, NFTNL_EXPR_CT_KEY, NFT_CT_STATE);
  nftnl_expr_set_u32(e, NFTNL_EXPR_CT_DREG, reg(0));
  bitwise(add("bitwise"), 0, states, 0);
  uint32_t zero = 0;
  compare(add("cmp"), 0, false, &zero, 4);
  return *this;
}
NftRule& NftRule::newConnection() {
  return connectionState(NF_CT_STATE_BIT(IP_CT_NEW));
}
NftRule& NftRule::knownConnection() {
  return connectionState(NF_CT_STATE_BIT(IP_CT_ESTABLISHED) | NF_CT_STATE_BIT(IP_CT_RELATED));
}

NftRule& NftRule::destinationTranslated() {
  nftnl_expr* e = add("ct");
  nftnl_expr_set_u32(e, NFTNL_EXPR_CT_KEY, NFT_CT_STATUS);
  nftnl_expr_set_u32(e, NFTNL_EXPR_CT_DREG, reg(0));
  bitwise(add("bitwise"), 0, IPS_DST_NAT, 0);
  uint32_t zero = 0;
  compare(add("cmp"), 0, false, &zero, 4);
  return *this;
}

NftRule& NftRule::icmpV6(uint8_t firstType, uint8_t lastType) {
  constexpr uint8_t kIcmpV6 = 58;
  protocol(0);
  compare(add("cmp"), 0, true, &kIcmpV6, 1);
  payload(add("payload"), NFT_PAYLOAD_TRANSPORT_HEADER, 0, 1, 0);
  for (auto [operation, bound] : {std::pair{NFT_CMP_GTE, firstType}, std::pair{NFT_CMP_LTE, lastType}}) {
    nftnl_expr* e = add("cmp");
    nftnl_expr_set_u32(e, NFTNL_EXPR_CMP_SREG, reg(0));
    nftnl_expr_set_u32(e, NFTNL_EXPR_CMP_OP, static_cast<uint32_t>(operation));
    nftnl_expr_set(e, NFTNL_EXPR_CMP_DATA, &bound, 1);
  }
  return *this;
}

NftRule& NftRule::markBit(uint32_t bit) {
  loadMeta(add("meta"), NFT_META_MARK, 0);
  bitwise(add("bitwise"), 0, bit, 0);
  compare(add("cmp"), 0, true, &bit, 4);
  return *this;
}

NftRule& NftRule::in(const std::string& set, int from, bool invert) {
  nftnl_expr* e = add("lookup");
  nftnl_expr_set_u32(e, NFTNL_EXPR_LOOKUP_SREG, reg(from));
  nftnl_expr_set_str(e, NFTNL_EXPR_LOOKUP_SET, set.c_str());
  if (invert) nftnl_expr_set_u32(e, NFTNL_EXPR_LOOKUP_FLAGS, NFT_LOOKUP_F_INV);
  return *this;
}
NftRule& NftRule::map(const std::string& set, int from, int to) {
  nftnl_expr* e = add("lookup");
  nftnl_expr_set_u32(e, NFTNL_EXPR_LOOKUP_SREG, reg(from));
  nftnl_expr_set_u32(e, NFTNL_EXPR_LOOKUP_DREG, reg(to));
  nftnl_expr_set_str(e, NFTNL_EXPR_LOOKUP_SET, set.c_str());
  return *this;
}
NftRule& NftRule::verdictMap(const std::string& set, int from) {
  nftnl_expr* e = add("lookup");
  nftnl_expr_set_u32(e, NFTNL_EXPR_LOOKUP_SREG, reg(from));
  nftnl_expr_set_u32(e, NFTNL_EXPR_LOOKUP_DREG, NFT_REG_VERDICT);
  nftnl_expr_set_str(e, NFTNL_EXPR_LOOKUP_SET, set.c_str());
  return *this;
}

NftRule& NftRule::markOperation(uint32_t keep, uint32_t flip) {
  loadMeta(add("meta"), NFT_META_MARK, 0);
  bitwise(add("bitwise"), 0, keep, flip);
  nftnl_expr* e = add("meta");
  nftnl_expr_set_u32(e, NFTNL_EXPR_META_KEY, NFT_META_MARK);
  nftnl_expr_set_u32(e, NFTNL_EXPR_META_SREG, reg(0));
  return *this;
}
NftRule& NftRule::setMarkBit(uint32_t bit) {
  return markOperation(~bit, bit);
}
NftRule& NftRule::clearMarkBit(uint32_t bit) {
  return markOperation(~bit, 0);
}

NftRule& NftRule::remember(const std::string& set, int keyReg, int dataReg, uint32_t seconds) {
  nftnl_expr* e = add("dynset");
  nftnl_expr_set_u32(e, NFTNL_EXPR_DYNSET_SREG_KEY, reg(keyReg));
  if (dataReg >= 0) nftnl_expr_set_u32(e, NFTNL_EXPR_DYNSET_SREG_DATA, reg(dataReg));
  nftnl_expr_set_u32(e, NFTNL_EXPR_DYNSET_OP, NFT_DYNSET_OP_UPDATE);
  nftnl_expr_set_u64(e, NFTNL_EXPR_DYNSET_TIMEOUT, uint64_t{seconds} * 1000);
  nftnl_expr_set_str(e, NFTNL_EXPR_DYNSET_SET_NAME, set.c_str());
  return *this;
}

NftRule& NftRule::destinationNat(int addressReg, int portReg) {
  nftnl_expr* e = add("nat");
  nftnl_expr_set_u32(e, NFTNL_EXPR_NAT_TYPE, NFT_NAT_DNAT);
  nftnl_expr_set_u32(e, NFTNL_EXPR_NAT_FAMILY, family_ == IpFamily::kV4 ? NFPROTO_IPV4 : NFPROTO_IPV6);
  nftnl_expr_set_u32(e, NFTNL_EXPR_NAT_REG_ADDR_MIN, reg(addressReg));
  nftnl_expr_set_u32(e, NFTNL_EXPR_NAT_REG_PROTO_MIN, reg(portReg));
  return *this;
}

NftRule& NftRule::masquerade() {
  nftnl_expr* e = add("masq");
  nftnl_expr_set_u32(e, NFTNL_EXPR_MASQ_FLAGS, 1u << 4);  // NF_NAT_RANGE_PROTO_RANDOM_FULLY
  return *this;
}

NftRule& NftRule::rejectTcp() {
  nftnl_expr* e = add("reject");
  nftnl_expr_set_u32(e, NFTNL_EXPR_REJECT_TYPE, NFT_REJECT_TCP_RST);
  return *this;
}
NftRule& NftRule::reject() {
  nftnl_expr* e = add("reject");
  nftnl_expr_set_u32(e, NFTNL_EXPR_REJECT_TYPE, NFT_REJECT_ICMP_UNREACH);
  // Port unreachable: of ICMP and of ICMPv6.
  nftnl_expr_set_u8(e, NFTNL_EXPR_REJECT_CODE, family_ == IpFamily::kV4 ? 3 : 4);
  return *this;
}

NftRule& NftRule::verdict(int code, const std::string& chain) {
  nftnl_expr* e = add("immediate");
  nftnl_expr_set_u32(e, NFTNL_EXPR_IMM_DREG, NFT_REG_VERDICT);
  nftnl_expr_set_u32(e, NFTNL_EXPR_IMM_VERDICT, static_cast<uint32_t>(code));
  if (!chain.empty()) nftnl_expr_set_str(e, NFTNL_EXPR_IMM_CHAIN, chain.c_str());
  return *this;
}
NftRule& NftRule::jump(const std::string& chain) {
  return verdict(NFT_JUMP, chain);
}
NftRule& NftRule::go(const std::string& chain) {
  return verdict(NFT_GOTO, chain);
}
NftRule& NftRule::drop() {
  return verdict(NF_DROP, "");
}
NftRule& NftRule::accept() {
  return verdict(NF_ACCEPT, "");
}
NftRule& NftRule::leave() {
  return verdict(NFT_RETURN, "");
}
NftRule& NftRule::noTrack() {
  add("notrack");
  return *this;
}

}  // namespace dhow
