// nf_tables transactions, for this folder only: what a batch holds happens as a whole or not at all.
// Families "ip" and "ip6": a table has one. Registers are the 32-bit ones, numbered from 0 to 15; an address takes one
// or four of them.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "netlink.h"
#include "network/ip.h"

struct nftnl_rule;
struct nftnl_expr;

namespace dhow {

// The bytes of a set's key or value: each field padded to four.
class NftKey {
 public:
  NftKey& address(const IpAddress& a);
  NftKey& protocol(Protocol p);
  NftKey& port(uint16_t p);
  NftKey& number(uint32_t n);  // host order
  NftKey& interface(const std::string& name);
  operator const std::string&() const { return bytes_; }

 private:
  std::string bytes_;
};

class NftRule {
 public:
  explicit NftRule(IpFamily family = IpFamily::kV4);
  ~NftRule();
  NftRule(NftRule&& other) noexcept;
  NftRule(const NftRule&) = delete;

  // Loads.
  NftRule& sourceAddress(int reg);
  NftRule& destinationAddress(int reg);
  NftRule& destinationPort(int reg);
  NftRule& sourcePort(int reg);
  NftRule& protocol(int reg);
  NftRule& random(int reg, uint32_t modulus, uint32_t offset = 0);
  NftRule& constant(int reg, std::string_view bytes);
  NftRule& inInterface(int reg);
  NftRule& outInterface(int reg);
  // Matches.
  NftRule& sourceIn(const IpPrefix& prefix, bool invert = false);
  NftRule& destinationIn(const IpPrefix& prefix, bool invert = false);
  NftRule& destinationIsLocal(bool invert = false);  // an address of this namespace
  NftRule& interfaceIs(int reg, const std::string& name, bool invert = false);
  NftRule& protocolIs(Protocol protocol);
  NftRule& portIs(int reg, uint16_t port);
  NftRule& newConnection();
  NftRule& knownConnection();  // established, or related to one that is
  NftRule& destinationTranslated();
  NftRule& icmpV6(uint8_t firstType, uint8_t lastType);
  NftRule& markBit(uint32_t bit);
  NftRule& in(const std::string& set, int reg, bool invert = false);
  NftRule& map(const std::string& set, int reg, int to);
  NftRule& verdictMap(const std::string& set, int reg);
  // Actions.
  NftRule& setMarkBit(uint32_t bit);
  NftRule& clearMarkBit(uint32_t bit);
  NftRule& remember(const std::string& set, int keyReg, int dataReg, uint32_t seconds);  // adds, or renews the time
  NftRule& destinationNat(int addressReg, int portReg);
  NftRule& masquerade();
  NftRule& rejectTcp();
  NftRule& reject();
  NftRule& jump(const std::string& chain);
  NftRule& go(const std::string& chain);
  NftRule& drop();
  NftRule& accept();
  NftRule& leave();  // "return"
  NftRule& noTrack();

 private:
  friend class NftBatch;
  nftnl_expr* add(const char* name);
  NftRule& connectionState(uint32_t states);
  NftRule& verdict(int code, const std::string& chain);
  NftRule& markOperation(uint32_t keep, uint32_t flip);
  NftRule& within(uint32_t offset, const IpPrefix& prefix, bool invert);
  nftnl_rule* rule_;
  IpFamily family_;
};

// Neighbour discovery (RFC 4861), which connection tracking leaves out: from router solicitation to redirect.
inline constexpr uint8_t kFirstDiscovery = 133, kRedirect = 137;

// How many registers an address takes.
inline int addressRegisters(IpFamily family) {
  return family == IpFamily::kV4 ? 1 : 4;
}

struct NftSet {
  std::string name;
  std::vector<uint8_t> fields;  // kNft... types of the key
  std::vector<uint8_t> data;    // of a map's value
  bool verdicts = false;        // a verdict map
  bool dynamic = false;         // filled by packets, entries expire
  bool intervals = false;
};
// Type numbers as nft(8) prints them. An address is of the table's family.
inline constexpr uint8_t kNftAddress = 7, kNftProtocol = 12, kNftPort = 13, kNftNumber = 19, kNftInterface = 41;

enum class NftHook { kPrerouting = 0, kInput = 1, kForward = 2, kOutput = 3, kPostrouting = 4 };

class NftBatch {
 public:
  explicit NftBatch(std::string table, IpFamily family = IpFamily::kV4);
  IpFamily family() const { return family_; }

  void addTable();
  void deleteTable();  // fails the batch when there is none; addTable() first
  void addChain(const std::string& name);
  void addHook(const std::string& name, const char* type, NftHook hook, int priority);
  void flushChain(const std::string& name);
  void deleteChain(const std::string& name);
  void addSet(const NftSet& set);
  void flushSet(const std::string& name);
  void addRule(const std::string& chain, NftRule& rule);

  struct Element {
    std::string key;
    std::string keyEnd;   // of an interval set
    std::string data;     // of a map
    std::string verdict;  // of a verdict map: a chain to go to, or "drop"
    auto operator<=>(const Element&) const = default;
  };
  void addElements(const std::string& set, const std::vector<Element>& elements);
  void deleteElements(const std::string& set, const std::vector<Element>& elements);

  bool empty() const { return count_ == 0; }
  size_t size() const { return count_; }
  Result<> commit(NetlinkSocket& socket);

 private:
  nlmsghdr* begin(uint16_t type, uint16_t flags);
  void finish(nlmsghdr* header);
  void elements(uint16_t type, uint16_t flags, const std::string& set, const std::vector<Element>& elements);

  uint32_t bytesOf(const std::vector<uint8_t>& fields) const;
  uint32_t unpaddedBytes(uint8_t field) const;
  uint32_t typeOf(const std::vector<uint8_t>& fields) const;

  std::string table_;
  IpFamily family_;
  std::string bytes_;
  std::vector<char> scratch_;
  uint32_t sequence_ = 1;
  uint32_t setId_ = 0;
  size_t count_ = 0;
  size_t lastAt_ = 0;
};

// Whether a table of that name is there; the keys and values of one of its sets.
Result<bool> nftTableExists(NetlinkSocket& socket, const std::string& table, IpFamily family = IpFamily::kV4);
Result<std::vector<NftBatch::Element>> nftListElements(NetlinkSocket& socket, const std::string& table,
                                                       const std::string& set, IpFamily family = IpFamily::kV4);

}  // namespace dhow
