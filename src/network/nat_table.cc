#include "network/nat_table.h"

#include <netinet/in.h>
#include <sys/socket.h>

#include <cstring>
#include <mutex>

#include "nft.h"

namespace dhow {

namespace {

constexpr const char* kByPort = "published";
constexpr const char* kByAddress = "published-address";
constexpr const char* kBridges = "bridges";
constexpr int kRawPriority = -300, kDestinationNat = -100, kSourceNat = 100;
const IpPrefix kLoopback = {IpAddress::v4(0x7f000000), 8};
const IpPrefix kLoopback6 = IpPrefix::host(IpAddress::v6({}).plus(1));

struct Held {
  PublishedPort port;
  UniqueFd reservation;
};

IpFamily familyOf(const PublishedPort& port) {
  return port.containerAddress.isV6() ? IpFamily::kV6 : IpFamily::kV4;
}

bool everywhere(const PublishedPort& port) {
  return port.hostAddress.empty() || port.hostAddress.isUnspecified();
}

const char* setOf(const PublishedPort& port) {
  return everywhere(port) ? kByPort : kByAddress;
}

NftBatch::Element elementOf(const PublishedPort& port) {
  NftKey key, data;
  if (!everywhere(port)) key.address(port.hostAddress);
  key.protocol(port.protocol).port(port.hostPort);
  data.address(port.containerAddress).port(port.containerPort);
  return {.key = key, .keyEnd = "", .data = data, .verdict = ""};
}

NftBatch::Element bridgeElement(const std::string& name) {
  return {.key = NftKey().interface(name), .keyEnd = "", .data = "", .verdict = ""};
}

std::string whereOf(const PublishedPort& port) {
  const bool v6 = familyOf(port) == IpFamily::kV6;
  const std::string host = port.hostAddress.empty() ? (v6 ? "::" : "0.0.0.0") : port.hostAddress.str();
  return fmt::format("{}{}{}:{}", v6 ? "[" : "", host, v6 ? "]" : "", port.hostPort);
}

// Binds the port, so that a port in use is an error and one that we publish is nobody else's.
Result<UniqueFd> reserve(PublishedPort& port) {
  if (port.protocol == Protocol::kSctp) {
    if (port.hostPort == 0) return Error(Code::kInvalid, "an SCTP port to publish needs a host port");
    return UniqueFd();
  }
  const bool udp = port.protocol == Protocol::kUdp, v6 = familyOf(port) == IpFamily::kV6;
  UniqueFd fd(::socket(v6 ? AF_INET6 : AF_INET, (udp ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC, 0));
  if (!fd) return Error::fromErrno("reserve host port");
  sockaddr_storage address{};
  auto& four = reinterpret_cast<sockaddr_in&>(address);
  auto& six = reinterpret_cast<sockaddr_in6&>(address);
  const int one = 1;
  address.ss_family = v6 ? AF_INET6 : AF_INET;
  if (v6) {
    ::setsockopt(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one);
    six.sin6_port = htons(port.hostPort);
    std::memcpy(&six.sin6_addr, port.hostAddress.bytes().data(), port.hostAddress.bytes().size());
  } else {
    four.sin_port = htons(port.hostPort);
    four.sin_addr.s_addr = htonl(port.hostAddress.v4Value());
  }
  // Connections that linger in TIME_WAIT do not hold the port; a listener still does.
  if (!udp) ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  const std::string where = whereOf(port);
  socklen_t size = v6 ? sizeof six : sizeof four;
  if (::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), size) != 0) {
    if (errno == EADDRINUSE) {
      return Error(Code::kAlreadyExists, "Bind for " + where + " failed: port is already allocated", EADDRINUSE);
    }
    return Error::fromErrno("bind " + where);
  }
  if (::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &size) != 0)
    return Error::fromErrno("bind " + where);
  port.hostPort = ntohs(v6 ? six.sin6_port : four.sin_port);
  return fd;
}

Result<> checkPort(const PublishedPort& port) {
  if (port.containerAddress.empty() || port.containerPort == 0)
    return Error(Code::kInvalid, "a published port needs the container's address and port");
  if (!port.hostAddress.empty() && !port.hostAddress.is(familyOf(port))) {
    return Error(Code::kInvalid, fmt::format("{} and {} are not of the same family", port.hostAddress.str(),
                                             port.containerAddress.str()));
  }
  return {};
}

}  // namespace

struct NatTable::Rep {
  mutable std::mutex mutex;
  std::string table;
  NetlinkSocket socket;
  bool deferred = false;
  bool has6 = false;  // the table of IPv6 is ours
  std::map<std::string, Network> networks;
  std::map<std::string, std::vector<Held>> ports;

  void buildTable(NftBatch& batch);
  void buildNetworkRules(NftBatch& batch);
  Result<> rebuild6();
  Result<> rebuild();
  bool wants6() const;
  Result<> commit(NftBatch& batch);
  using Change = void (NftBatch::*)(const std::string&, const std::vector<NftBatch::Element>&);
  Result<> commitPorts(const std::vector<PublishedPort>& ports, Change change);  // in the table of each one's family
  Result<> checkFree(const PublishedPort& port);
};

namespace {

// The maps of published ports of the batch's family, and the rules that ask them.
void buildPublishing(NftBatch& batch, const std::map<std::string, std::vector<Held>>& ports) {
  const IpFamily family = batch.family();
  batch.addSet({.name = kByPort, .fields = {kNftProtocol, kNftPort}, .data = {kNftAddress, kNftPort}});
  batch.addSet({.name = kByAddress, .fields = {kNftAddress, kNftProtocol, kNftPort}, .data = {kNftAddress, kNftPort}});
  batch.addHook("prerouting", "nat", NftHook::kPrerouting, kDestinationNat);
  batch.addHook("output", "nat", NftHook::kOutput, kDestinationNat);
  const int width = addressRegisters(family), found = width + 3;
  for (auto* chain : {"prerouting", "output"}) {
    NftRule byAddress(family), byPort(family);
    byAddress.destinationAddress(1).protocol(1 + width).destinationPort(2 + width);
    batch.addRule(chain, byAddress.map(kByAddress, 1, found).destinationNat(found, found + width));
    byPort.destinationIsLocal();
    // Nothing leaves the machine with the address ::1.
    if (family == IpFamily::kV6) byPort.destinationIn(kLoopback6, true);
    byPort.protocol(1).destinationPort(2);
    batch.addRule(chain, byPort.map(kByPort, 1, found).destinationNat(found, found + width));
  }
  std::vector<NftBatch::Element> byPort, byAddress;
  for (auto& [owner, held] : ports) {
    for (auto& one : held) {
      if (familyOf(one.port) == family) (everywhere(one.port) ? byPort : byAddress).push_back(elementOf(one.port));
    }
  }
  batch.addElements(kByPort, byPort);
  batch.addElements(kByAddress, byAddress);
}

}  // namespace

void NatTable::Rep::buildTable(NftBatch& batch) {
  batch.addTable();
  batch.deleteTable();
  batch.addTable();
  batch.addSet({.name = kBridges, .fields = {kNftInterface}, .data = {}});
  batch.addHook("raw", "filter", NftHook::kPrerouting, kRawPriority);
  batch.addHook("postrouting", "nat", NftHook::kPostrouting, kSourceNat);
  batch.addHook("forward", "filter", NftHook::kForward, 0);
  buildPublishing(batch, ports);
  // route_localnet on our bridges must not open the machine's loopback services to containers.
  NftRule guard;
  guard.destinationIn(kLoopback).inInterface(1).in(kBridges, 1).drop();
  batch.addRule("raw", guard);
  buildNetworkRules(batch);
  std::vector<NftBatch::Element> bridges;
  for (auto& [name, network] : networks) bridges.push_back(bridgeElement(name));
  batch.addElements(kBridges, bridges);
}

void NatTable::Rep::buildNetworkRules(NftBatch& batch) {
  auto rule = [&](const char* chain, NftRule& r) { batch.addRule(chain, r); };
  for (auto& [bridge, n] : networks) {
    const bool v4 = !n.subnet.address.empty();
    if (!n.routed && v4) {
      NftRule hairpin;
      hairpin.sourceIn(n.subnet).destinationIn(n.subnet).destinationTranslated().masquerade();
      rule("postrouting", hairpin);
    }
    NftRule loopback;
    loopback.sourceIn(kLoopback).outInterface(1).interfaceIs(1, bridge).masquerade();
    rule("postrouting", loopback);
    if (n.masquerade && !n.internal && v4) {
      NftRule out;
      out.sourceIn(n.subnet).outInterface(1).interfaceIs(1, bridge, true);
      for (auto& prefix : n.noMasquerade) {
        if (prefix.address.isV4()) out.destinationIn(prefix, true);
      }
      out.masquerade();
      rule("postrouting", out);
    }
    if (n.internal) {
      NftRule out, in;
      out.inInterface(1).interfaceIs(1, bridge).outInterface(1).interfaceIs(1, bridge, true).drop();
      in.outInterface(1).interfaceIs(1, bridge).inInterface(1).interfaceIs(1, bridge, true).drop();
      rule("forward", out);
      rule("forward", in);
    }
  }
  NftRule published;
  published.destinationTranslated().leave();
  rule("forward", published);
  for (auto& [bridge, n] : networks) {
    if (n.isolated) {
      NftRule inside;
      inside.inInterface(1).interfaceIs(1, bridge).outInterface(1).interfaceIs(1, bridge).drop();
      rule("forward", inside);
    }
    if (n.apartFromOthers && networks.size() > 1) {
      NftRule apart;
      apart.outInterface(1).interfaceIs(1, bridge).inInterface(1).interfaceIs(1, bridge, true).in(kBridges, 1).drop();
      rule("forward", apart);
    }
  }
}

bool NatTable::Rep::wants6() const {
  auto isV6 = [](const Held& held) { return familyOf(held.port) == IpFamily::kV6; };
  return std::any_of(networks.begin(), networks.end(),
                     [](const auto& entry) { return !entry.second.subnet6.address.empty(); }) ||
         std::any_of(ports.begin(), ports.end(),
                     [&](const auto& entry) { return std::any_of(entry.second.begin(), entry.second.end(), isV6); });
}

// Networks are few and change seldom: as a whole.
Result<> NatTable::Rep::rebuild6() {
  const bool wanted = wants6();
  if (!wanted && !has6) return {};
  NftBatch batch(table, IpFamily::kV6);
  batch.addTable();
  batch.deleteTable();
  if (wanted) {
    batch.addTable();
    buildPublishing(batch, ports);
    batch.addHook("postrouting", "nat", NftHook::kPostrouting, kSourceNat);
    batch.addHook("redirects", "filter", NftHook::kOutput, 0);
    for (auto& [bridge, n] : networks) {
      if (n.subnet6.address.empty()) continue;
      if (n.routed) {
        // The kernel has no setting for it, as IPv4 has (send_redirects): containers are not to go past this machine.
        NftRule redirect(IpFamily::kV6);
        redirect.outInterface(1).interfaceIs(1, bridge).icmpV6(kRedirect, kRedirect).drop();
        batch.addRule("redirects", redirect);
      }
      if (!n.masquerade || n.internal) continue;
      NftRule out(IpFamily::kV6);
      out.sourceIn(n.subnet6).outInterface(1).interfaceIs(1, bridge, true);
      for (auto& prefix : n.noMasquerade) {
        if (prefix.address.isV6()) out.destinationIn(prefix, true);
      }
      batch.addRule("postrouting", out.masquerade());
    }
  }
  RETURN_IF_ERROR(batch.commit(socket));
  has6 = wanted;
  return {};
}

Result<> NatTable::Rep::rebuild() {
  NftBatch batch(table);
  buildTable(batch);
  RETURN_IF_ERROR(batch.commit(socket));
  return rebuild6();
}

// A change that does not fit what the kernel has (somebody flushed the ruleset) puts everything back.
Result<> NatTable::Rep::commit(NftBatch& batch) {
  if (deferred || batch.empty()) return {};
  auto done = batch.commit(socket);
  if (done.ok()) return done;
  return batch.family() == IpFamily::kV6 ? rebuild6() : rebuild();
}

Result<> NatTable::Rep::commitPorts(const std::vector<PublishedPort>& changed, Change change) {
  for (const IpFamily family : {IpFamily::kV4, IpFamily::kV6}) {
    NftBatch batch(table, family);
    for (const PublishedPort& port : changed) {
      if (familyOf(port) == family) (batch.*change)(setOf(port), {elementOf(port)});
    }
    RETURN_IF_ERROR(commit(batch));
  }
  return {};
}

Result<> NatTable::Rep::checkFree(const PublishedPort& port) {
  for (auto& [owner, held] : ports) {
    for (auto& other : held) {
      const auto& p = other.port;
      if (p.hostPort != port.hostPort || p.protocol != port.protocol || familyOf(p) != familyOf(port)) continue;
      if (everywhere(p) || everywhere(port) || p.hostAddress == port.hostAddress) {
        return Error(Code::kAlreadyExists, fmt::format("Bind for {} failed: port is already allocated", whereOf(port)));
      }
    }
  }
  return {};
}

NatTable::NatTable(std::unique_ptr<Rep> rep) : rep_(std::move(rep)) {}
NatTable::~NatTable() = default;

Result<std::unique_ptr<NatTable>> NatTable::open(const std::string& tableName, bool restoring) {
  auto rep = std::make_unique<Rep>();
  rep->table = tableName;
  ASSIGN_OR_RETURN(rep->socket, NetlinkSocket::open(NETLINK_NETFILTER));
  rep->deferred = restoring;
  if (!restoring) RETURN_IF_ERROR(rep->rebuild());
  return std::unique_ptr<NatTable>(new NatTable(std::move(rep)));
}

Result<> NatTable::install() {
  std::lock_guard lock(rep_->mutex);
  RETURN_IF_ERROR(rep_->rebuild());
  rep_->deferred = false;
  return {};
}

Result<std::vector<PublishedPort>> NatTable::publish(const std::string& owner,
                                                     const std::vector<PublishedPort>& ports) {
  std::lock_guard lock(rep_->mutex);
  std::vector<Held> added;
  std::vector<PublishedPort> out;
  for (auto port : ports) {
    RETURN_IF_ERROR(checkPort(port));
    if (port.hostPort != 0) RETURN_IF_ERROR(rep_->checkFree(port));
    ASSIGN_OR_RETURN(auto fd, reserve(port));
    added.push_back({port, std::move(fd)});
    out.push_back(port);
  }
  auto& held = rep_->ports[owner];
  size_t before = held.size();
  for (auto& one : added) held.push_back(std::move(one));
  auto done = rep_->commitPorts(out, &NftBatch::addElements);
  if (!done.ok()) {
    held.erase(held.begin() + static_cast<std::ptrdiff_t>(before), held.end());
    if (held.empty()) rep_->ports.erase(owner);
    (void)rep_->rebuild();  // one family may have them already
    return std::move(done).error().wrap("publish ports");
  }
  return out;
}

Result<> NatTable::unpublish(const std::string& owner) {
  std::lock_guard lock(rep_->mutex);
  auto it = rep_->ports.find(owner);
  if (it == rep_->ports.end()) return {};
  auto held = std::move(it->second);
  rep_->ports.erase(it);
  std::vector<PublishedPort> gone;
  for (auto& one : held) gone.push_back(one.port);
  return rep_->commitPorts(gone, &NftBatch::deleteElements);
}

std::vector<PublishedPort> NatTable::published(const std::string& owner) const {
  std::lock_guard lock(rep_->mutex);
  std::vector<PublishedPort> out;
  auto it = rep_->ports.find(owner);
  if (it == rep_->ports.end()) return out;
  for (auto& one : it->second) out.push_back(one.port);
  return out;
}

Result<> NatTable::setNetwork(const Network& network) {
  std::lock_guard lock(rep_->mutex);
  NftBatch batch(rep_->table);
  bool known = rep_->networks.count(network.bridge) > 0;
  rep_->networks[network.bridge] = network;
  batch.flushChain("postrouting");
  batch.flushChain("forward");
  if (!known) batch.addElements(kBridges, {bridgeElement(network.bridge)});
  rep_->buildNetworkRules(batch);
  RETURN_IF_ERROR(rep_->commit(batch));
  return rep_->deferred ? Result<>() : rep_->rebuild6();
}

Result<> NatTable::removeNetwork(const std::string& bridge) {
  std::lock_guard lock(rep_->mutex);
  if (rep_->networks.erase(bridge) == 0) return {};
  NftBatch batch(rep_->table);
  batch.flushChain("postrouting");
  batch.flushChain("forward");
  batch.deleteElements(kBridges, {bridgeElement(bridge)});
  rep_->buildNetworkRules(batch);
  RETURN_IF_ERROR(rep_->commit(batch));
  return rep_->deferred ? Result<>() : rep_->rebuild6();
}

Result<> NatTable::destroy() {
  std::lock_guard lock(rep_->mutex);
  rep_->ports.clear();
  rep_->networks.clear();
  // Or one that a former process left.
  ASSIGN_OR_RETURN(rep_->has6, nftTableExists(rep_->socket, rep_->table, IpFamily::kV6));
  RETURN_IF_ERROR(rep_->rebuild6());
  NftBatch batch(rep_->table);
  batch.addTable();
  batch.deleteTable();
  return batch.commit(rep_->socket);
}

}  // namespace dhow
