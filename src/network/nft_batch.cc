#include <arpa/inet.h>
#include <libnftnl/chain.h>
#include <libnftnl/common.h>
#include <libnftnl/rule.h>
#include <libnftnl/set.h>
#include <libnftnl/table.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <sys/socket.h>

#include "base/check.h"
#include "nft.h"

namespace dhow {

namespace {

constexpr size_t kScratch = 96 << 10;
constexpr size_t kElementsPerMessage = 400;  // an attribute holds at most 64 KiB
constexpr uint32_t kVerdictType = 0xffffff00;

uint16_t protocolFamily(IpFamily family) {
  return family == IpFamily::kV4 ? NFPROTO_IPV4 : NFPROTO_IPV6;
}

}  // namespace

uint32_t NftBatch::typeOf(const std::vector<uint8_t>& fields) const {
  constexpr uint8_t kAddressV6 = 8;
  uint32_t type = 0;
  for (uint8_t field : fields)
    type = type << 6 | (field == kNftAddress && family_ == IpFamily::kV6 ? kAddressV6 : field);
  return type;
}
uint32_t NftBatch::unpaddedBytes(uint8_t field) const {
  switch (field) {
    case kNftProtocol: return 1;
    case kNftPort: return 2;
    case kNftInterface: return 16;
    case kNftAddress: return family_ == IpFamily::kV4 ? 4 : 16;
    default: return 4;
  }
}
uint32_t NftBatch::bytesOf(const std::vector<uint8_t>& fields) const {
  uint32_t size = 0;
  for (uint8_t field : fields) size += std::max(4U, unpaddedBytes(field));
  return size;
}

NftBatch::NftBatch(std::string table, IpFamily family) : table_(std::move(table)), family_(family), scratch_(kScratch) {
  nftnl_batch_begin(scratch_.data(), sequence_++);
  bytes_.append(scratch_.data(), reinterpret_cast<nlmsghdr*>(scratch_.data())->nlmsg_len);
}

nlmsghdr* NftBatch::begin(uint16_t type, uint16_t flags) {
  return nftnl_nlmsg_build_hdr(scratch_.data(), type, protocolFamily(family_), flags, sequence_++);
}

void NftBatch::finish(nlmsghdr* header) {
  lastAt_ = bytes_.size();
  bytes_.append(reinterpret_cast<char*>(header), MNL_ALIGN(header->nlmsg_len));
  count_++;
}

void NftBatch::addTable() {
  nftnl_table* t = nftnl_table_alloc();
  nftnl_table_set_str(t, NFTNL_TABLE_NAME, table_.c_str());
  nftnl_table_set_u32(t, NFTNL_TABLE_FAMILY, protocolFamily(family_));
  nlmsghdr* h = begin(NFT_MSG_NEWTABLE, NLM_F_CREATE);
  nftnl_table_nlmsg_build_payload(h, t);
  finish(h);
  nftnl_table_free(t);
}

void NftBatch::deleteTable() {
  nftnl_table* t = nftnl_table_alloc();
  nftnl_table_set_str(t, NFTNL_TABLE_NAME, table_.c_str());
  nlmsghdr* h = begin(NFT_MSG_DELTABLE, 0);
  nftnl_table_nlmsg_build_payload(h, t);
  finish(h);
  nftnl_table_free(t);
}

void NftBatch::addChain(const std::string& name) {
  nftnl_chain* c = nftnl_chain_alloc();
  nftnl_chain_set_str(c, NFTNL_CHAIN_TABLE, table_.c_str());
  nftnl_chain_set_str(c, NFTNL_CHAIN_NAME, name.c_str());
  nlmsghdr* h = begin(NFT_MSG_NEWCHAIN, NLM_F_CREATE);
  nftnl_chain_nlmsg_build_payload(h, c);
  finish(h);
  nftnl_chain_free(c);
}

void NftBatch::addHook(const std::string& name, const char* type, NftHook hook, int priority) {
  nftnl_chain* c = nftnl_chain_alloc();
  nftnl_chain_set_str(c, NFTNL_CHAIN_TABLE, table_.c_str());
  nftnl_chain_set_str(c, NFTNL_CHAIN_NAME, name.c_str());
  nftnl_chain_set_str(c, NFTNL_CHAIN_TYPE, type);
  nftnl_chain_set_u32(c, NFTNL_CHAIN_HOOKNUM, static_cast<uint32_t>(hook));
  nftnl_chain_set_s32(c, NFTNL_CHAIN_PRIO, priority);
  nftnl_chain_set_u32(c, NFTNL_CHAIN_POLICY, NF_ACCEPT);
  nlmsghdr* h = begin(NFT_MSG_NEWCHAIN, NLM_F_CREATE);
  nftnl_chain_nlmsg_build_payload(h, c);
  finish(h);
  nftnl_chain_free(c);
}

void NftBatch::flushChain(const std::string& name) {
  nlmsghdr* h = begin(NFT_MSG_DELRULE, 0);
  mnl_attr_put_strz(h, NFTA_RULE_TABLE, table_.c_str());
  mnl_attr_put_strz(h, NFTA_RULE_CHAIN, name.c_str());
  finish(h);
}

void NftBatch::deleteChain(const std::string& name) {
  nlmsghdr* h = begin(NFT_MSG_DELCHAIN, 0);
  mnl_attr_put_strz(h, NFTA_CHAIN_TABLE, table_.c_str());
  mnl_attr_put_strz(h, NFTA_CHAIN_NAME, name.c_str());
  finish(h);
}

void NftBatch::addSet(const NftSet& set) {
  nftnl_set* s = nftnl_set_alloc();
  nftnl_set_set_str(s, NFTNL_SET_TABLE, table_.c_str());
  nftnl_set_set_str(s, NFTNL_SET_NAME, set.name.c_str());
  nftnl_set_set_u32(s, NFTNL_SET_FAMILY, protocolFamily(family_));
  nftnl_set_set_u32(s, NFTNL_SET_ID, ++setId_);
  nftnl_set_set_u32(s, NFTNL_SET_KEY_TYPE, typeOf(set.fields));
  nftnl_set_set_u32(s, NFTNL_SET_KEY_LEN, bytesOf(set.fields));
  uint32_t flags = 0;
  if (set.verdicts) {
    flags |= NFT_SET_MAP;
    nftnl_set_set_u32(s, NFTNL_SET_DATA_TYPE, kVerdictType);
    nftnl_set_set_u32(s, NFTNL_SET_DATA_LEN, 16);
  } else if (!set.data.empty()) {
    flags |= NFT_SET_MAP;
    nftnl_set_set_u32(s, NFTNL_SET_DATA_TYPE, typeOf(set.data));
    nftnl_set_set_u32(s, NFTNL_SET_DATA_LEN, bytesOf(set.data));
  }
  if (set.dynamic) {
    flags |= NFT_SET_EVAL | NFT_SET_TIMEOUT;
    nftnl_set_set_u32(s, NFTNL_SET_DESC_SIZE, 1 << 20);
  }
  if (set.intervals) {
    flags |= NFT_SET_INTERVAL | NFT_SET_CONCAT;
    std::vector<uint8_t> lengths;
    for (uint8_t field : set.fields) lengths.push_back(static_cast<uint8_t>(unpaddedBytes(field)));
    nftnl_set_set_data(s, NFTNL_SET_DESC_CONCAT, lengths.data(), static_cast<uint32_t>(lengths.size()));
  }
  nftnl_set_set_u32(s, NFTNL_SET_FLAGS, flags);
  nlmsghdr* h = begin(NFT_MSG_NEWSET, NLM_F_CREATE);
  nftnl_set_nlmsg_build_payload(h, s);
  finish(h);
  nftnl_set_free(s);
}

void NftBatch::flushSet(const std::string& name) {
  nlmsghdr* h = begin(NFT_MSG_DELSETELEM, 0);
  mnl_attr_put_strz(h, NFTA_SET_ELEM_LIST_TABLE, table_.c_str());
  mnl_attr_put_strz(h, NFTA_SET_ELEM_LIST_SET, name.c_str());
  finish(h);
}

void NftBatch::addRule(const std::string& chain, NftRule& rule) {
  CHECK(rule.family_ == family_, "a rule of another family for {}", chain);
  nftnl_rule_set_str(rule.rule_, NFTNL_RULE_TABLE, table_.c_str());
  nftnl_rule_set_str(rule.rule_, NFTNL_RULE_CHAIN, chain.c_str());
  nftnl_rule_set_u32(rule.rule_, NFTNL_RULE_FAMILY, protocolFamily(family_));
  nlmsghdr* h = begin(NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND);
  nftnl_rule_nlmsg_build_payload(h, rule.rule_);
  finish(h);
}

void NftBatch::elements(uint16_t type, uint16_t flags, const std::string& set, const std::vector<Element>& all) {
  auto value = [](nlmsghdr* h, uint16_t attribute, const std::string& bytes) {
    nlattr* nest = mnl_attr_nest_start(h, attribute);
    mnl_attr_put(h, NFTA_DATA_VALUE, bytes.size(), bytes.data());
    mnl_attr_nest_end(h, nest);
  };
  for (size_t at = 0; at < all.size(); at += kElementsPerMessage) {
    nlmsghdr* h = begin(type, flags);
    mnl_attr_put_strz(h, NFTA_SET_ELEM_LIST_TABLE, table_.c_str());
    mnl_attr_put_strz(h, NFTA_SET_ELEM_LIST_SET, set.c_str());
    nlattr* list = mnl_attr_nest_start(h, NFTA_SET_ELEM_LIST_ELEMENTS);
    for (size_t i = at; i < std::min(all.size(), at + kElementsPerMessage); i++) {
      const Element& e = all[i];
      nlattr* item = mnl_attr_nest_start(h, NFTA_LIST_ELEM);
      value(h, NFTA_SET_ELEM_KEY, e.key);
      if (!e.keyEnd.empty()) value(h, NFTA_SET_ELEM_KEY_END, e.keyEnd);
      if (!e.data.empty()) value(h, NFTA_SET_ELEM_DATA, e.data);
      if (!e.verdict.empty()) {
        nlattr* data = mnl_attr_nest_start(h, NFTA_SET_ELEM_DATA);
        nlattr* verdict = mnl_attr_nest_start(h, NFTA_DATA_VERDICT);
        bool drop = e.verdict == "drop";
        mnl_attr_put_u32(h, NFTA_VERDICT_CODE, htonl(static_cast<uint32_t>(drop ? NF_DROP : NFT_GOTO)));
        if (!drop) mnl_attr_put_strz(h, NFTA_VERDICT_CHAIN, e.verdict.c_str());
        mnl_attr_nest_end(h, verdict);
        mnl_attr_nest_end(h, data);
      }
      mnl_attr_nest_end(h, item);
    }
    mnl_attr_nest_end(h, list);
    CHECK(h->nlmsg_len < kScratch, "too large an nftables message: {}", h->nlmsg_len);
    finish(h);
  }
}

void NftBatch::addElements(const std::string& set, const std::vector<Element>& all) {
  elements(NFT_MSG_NEWSETELEM, NLM_F_CREATE | NLM_F_EXCL, set, all);
}
void NftBatch::deleteElements(const std::string& set, const std::vector<Element>& all) {
  elements(NFT_MSG_DELSETELEM, 0, set, all);
}

// The kernel works a batch off inside send(), so all answers are waiting when it returns.
Result<> NftBatch::commit(NetlinkSocket& socket) {
  if (count_ == 0) return {};
  reinterpret_cast<nlmsghdr*>(bytes_.data() + lastAt_)->nlmsg_flags |= NLM_F_ACK;
  nftnl_batch_end(scratch_.data(), sequence_++);
  bytes_.append(scratch_.data(), reinterpret_cast<nlmsghdr*>(scratch_.data())->nlmsg_len);
  if (bytes_.size() > 4 << 20) {
    int size = static_cast<int>(bytes_.size());
    ::setsockopt(socket.fd(), SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size);
  }
  auto attempted = "change nftables table " + table_;
  ssize_t n;
  do {
    n = ::send(socket.fd(), bytes_.data(), bytes_.size(), 0);
  } while (n < 0 && errno == EINTR);
  if (n < 0) return Error::fromErrno(attempted);
  int error = 0;
  bool answered = false;
  alignas(8) char buffer[16384];
  for (;;) {
    ssize_t got = ::recv(socket.fd(), buffer, sizeof buffer, MSG_DONTWAIT);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && errno == EAGAIN) break;
    if (got < 0) return Error::fromErrno(attempted);
    int left = static_cast<int>(got);
    for (auto* h = reinterpret_cast<nlmsghdr*>(buffer); mnl_nlmsg_ok(h, left); h = mnl_nlmsg_next(h, &left)) {
      if (h->nlmsg_type != NLMSG_ERROR) continue;
      answered = true;
      int code = -static_cast<nlmsgerr*>(mnl_nlmsg_get_payload(h))->error;
      if (code != 0 && error == 0) error = code;
    }
  }
  if (error != 0) return Error::fromErrno(error, attempted);
  if (!answered) return Error(Code::kUnavailable, attempted + ": no answer from the kernel");
  return {};
}

Result<bool> nftTableExists(NetlinkSocket& socket, const std::string& table, IpFamily family) {
  NetlinkMessage m(NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETTABLE, 0);
  m.extra<nfgenmsg>()->nfgen_family = static_cast<uint8_t>(protocolFamily(family));
  m.putString(NFTA_TABLE_NAME, table);
  auto result = socket.dump(m, [](const nlmsghdr*) {}, "find nftables table " + table);
  if (result.ok()) return true;
  if (result.error().errnum() == ENOENT) return false;
  return result.error();
}

Result<std::vector<NftBatch::Element>> nftListElements(NetlinkSocket& socket, const std::string& table,
                                                       const std::string& set, IpFamily family) {
  NetlinkMessage m(NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETSETELEM, NLM_F_DUMP);
  m.extra<nfgenmsg>()->nfgen_family = static_cast<uint8_t>(protocolFamily(family));
  m.putString(NFTA_SET_ELEM_LIST_TABLE, table);
  m.putString(NFTA_SET_ELEM_LIST_SET, set);
  std::vector<NftBatch::Element> out;
  auto valueOf = [](const nlattr* nest) -> std::string {
    auto inner = nestedAttributes(nest, NFTA_DATA_VERDICT);
    if (!inner[NFTA_DATA_VALUE]) return "";
    return {static_cast<const char*>(mnl_attr_get_payload(inner[NFTA_DATA_VALUE])),
            mnl_attr_get_payload_len(inner[NFTA_DATA_VALUE])};
  };
  auto read = [&](const nlmsghdr* h) {
    auto attributes = netlinkAttributes(h, sizeof(nfgenmsg), NFTA_SET_ELEM_LIST_ELEMENTS);
    if (!attributes[NFTA_SET_ELEM_LIST_ELEMENTS]) return;
    const nlattr* list = attributes[NFTA_SET_ELEM_LIST_ELEMENTS];
    auto* end = static_cast<const char*>(mnl_attr_get_payload(list)) + mnl_attr_get_payload_len(list);
    for (auto* item = static_cast<const nlattr*>(mnl_attr_get_payload(list));
         mnl_attr_ok(item, static_cast<int>(end - reinterpret_cast<const char*>(item))); item = mnl_attr_next(item)) {
      auto fields = nestedAttributes(item, NFTA_SET_ELEM_KEY_END);
      NftBatch::Element e;
      if (fields[NFTA_SET_ELEM_KEY]) e.key = valueOf(fields[NFTA_SET_ELEM_KEY]);
      if (fields[NFTA_SET_ELEM_KEY_END]) e.keyEnd = valueOf(fields[NFTA_SET_ELEM_KEY_END]);
      if (fields[NFTA_SET_ELEM_DATA]) e.data = valueOf(fields[NFTA_SET_ELEM_DATA]);
      out.push_back(std::move(e));
    }
  };
  RETURN_IF_ERROR(socket.dump(m, read, "list nftables set " + set));
  return out;
}

}  // namespace dhow
