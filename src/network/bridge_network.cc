#include "network/bridge_network.h"

#include <netinet/in.h>
#include <sys/socket.h>

#include <array>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <mutex>
#include <thread>

#include "base/digest.h"
#include "base/files.h"
#include "base/log.h"
#include "base/strings.h"
#include "network/ipam.h"
#include "network/nat_table.h"

namespace dhow {

namespace {

constexpr int kDefaultMtu = 1500, kVxlanOverhead = 50, kVxlanOverhead6 = 70;
constexpr uint32_t kVxlanId = 4096;
constexpr uint16_t kVxlanPort = 4789;
const std::string kPoolOwner = "ready:", kGoneOwner = "gone:";
constexpr const char* kFilters = "net/bridge/bridge-nf-call-iptables";
constexpr const char* kFilters6 = "net/bridge/bridge-nf-call-ip6tables";

// While the kernel takes a link or a namespace down, it stalls everybody who makes one, for tens of milliseconds. So
// they go together, when nothing else happens here for a moment; at the latest after a while, or when they are many.
constexpr auto kQuiet = std::chrono::milliseconds(100), kLongest = std::chrono::milliseconds(1000);
constexpr size_t kMostDoomed = 32;

// A container's network after its end. The address is nobody else's until the link is gone.
struct Doomed {
  std::string link, owner;
  Netns netns;
};

struct Ready {
  Netns netns;
  UniqueFd users;
  Attachment attachment;
  std::string owner;  // of its address
};

struct Pool {
  std::deque<Ready> ready;
  size_t size = 0;  // as many are wanted
  bool short_() const { return ready.size() < size; }
};

void trySysctl(const std::string& name, std::string_view value) {
  if (auto set = setSysctl(name, value); !set.ok()) log::warn("network", "{}", set.error().message());
}

// The address from which this machine talks to another.
Result<IpAddress> sourceTowards(const IpAddress& other) {
  UniqueFd fd(::socket(other.isV6() ? AF_INET6 : AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  sockaddr_storage address{};
  auto& four = reinterpret_cast<sockaddr_in&>(address);
  auto& six = reinterpret_cast<sockaddr_in6&>(address);
  address.ss_family = other.isV6() ? AF_INET6 : AF_INET;
  (other.isV6() ? six.sin6_port : four.sin_port) = htons(kVxlanPort);
  std::memcpy(other.isV6() ? static_cast<void*>(&six.sin6_addr) : &four.sin_addr, other.bytes().data(),
              other.bytes().size());
  socklen_t size = other.isV6() ? sizeof six : sizeof four;
  if (!fd || ::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), size) != 0 ||
      ::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &size) != 0) {
    return Error::fromErrno("find the way to " + other.str());
  }
  const void* found = other.isV6() ? static_cast<const void*>(&six.sin6_addr) : &four.sin_addr;
  return IpAddress::fromBytes({static_cast<const char*>(found), other.bytes().size()});
}

// Four bytes that tell a node's end of the tunnel from all others, written as an address: the node's own, or where that
// is of IPv6 what its pods' range has before their own part.
IpAddress tunnelId(const IpAddress& node, const IpPrefix& podRange) {
  constexpr size_t kPodsPart = 8, kSize = 4;
  if (node.isV4()) return node;
  if (podRange.address.isV4()) return podRange.network();
  const IpAddress network = podRange.network();
  return IpAddress::fromBytes(network.bytes().substr(kPodsPart - kSize, kSize));
}

}  // namespace

struct BridgeNetwork::Rep {
  Rep(BridgeNetworkOptions o, NatTable& n, NetLinks l) : options(std::move(o)), nat(n), links(std::move(l)) {}

  BridgeNetworkOptions options;
  NatTable& nat;
  NetLinks links;
  std::unique_ptr<Ipam> ipam;
  int bridge = 0;
  bool bridgeFilters = false;  // bridged frames pass the IP hooks

  mutable std::mutex mutex;
  std::condition_variable changed;
  bool stopping = false;
  std::map<std::string, Attachment> attachments;
  std::array<Pool, 2> pools;                // by Owner
  std::map<std::string, Netns> namespaces;  // of attachments that came ready-made
  std::vector<Doomed> doomed;
  std::chrono::steady_clock::time_point doomedSince, lastUse;
  bool hurry = false;    // the doomed go at once
  bool reaping = false;  // some are on their way
  uint64_t made = 0;
  bool making = false;  // one more for the pool
  std::thread refiller, reaper;
  std::map<std::string, Route> nodeRoutes;
  bool routesRead = false;

  Result<> setUp();
  Result<Attachment> connect(const std::string& owner, int netnsFd, const AttachOptions& how);
  Result<> connectLinks(Attachment& a, int netnsFd, const AttachOptions& how);
  Result<Ready> makeReady(const std::string& owner, Owner kind);
  Pool& pool(Owner kind) { return pools[static_cast<size_t>(kind)]; }
  IpAddress likeIn6(const IpAddress& address) const;
  IpAddress likeIn4(const IpAddress& address) const;
  Result<> takeAddress(const IpPrefix& own);
  Result<> setUp4();
  Result<> setUp6(const IpPrefix& own);
  Result<int> tunnelTo(const NodeRoute& node, const IpAddress& remote);
  Result<Route> tunnelRoute(const NodeRoute& node, const IpPrefix& destination);
  Result<Route> routeTo(const NodeRoute& node);
  Result<Route> routeTo6(const NodeRoute& node);
  std::optional<Ready> takeReady(Owner kind);
  bool giveUpReady();
  void refill();
  void doom(std::string link, std::string owner, Netns netns);
  void reap();
  bool reapNow(std::unique_lock<std::mutex>& lock);
  void stop();
};

Result<> BridgeNetwork::Rep::setUp() {
  auto& o = options;
  constexpr int kBits4 = 32, kBits6 = 128;
  const bool v4 = o.subnet.address.isV4(), dual = !o.subnet6.address.empty();
  if (dual && (!v4 || !o.subnet6.address.isV6() || kBits6 - o.subnet6.length < kBits4 - o.subnet.length))
    return Error(Code::kInvalid,
                 fmt::format("{} holds no like of each address of {}", o.subnet6.str(), o.subnet.str()));
  if (o.gateway.empty()) o.gateway = o.subnet.network().plus(1);
  if (o.mtu == 0) o.mtu = kDefaultMtu;
  if (!o.subnet.contains(o.gateway)) {
    return Error(Code::kInvalid, fmt::format("gateway {} is not in {}", o.gateway.str(), o.subnet.str()));
  }
  std::string journal = o.stateDir.empty() ? "" : o.stateDir + "/" + o.bridge + ".addresses";
  ASSIGN_OR_RETURN(
      ipam,
      Ipam::open({.range = o.subnet.masked(), .within = o.allocateFrom, .reserved = {o.gateway}, .journal = journal}));
  for (auto& owner : ipam->owners()) {
    if (owner.starts_with(kPoolOwner) || owner.starts_with(kGoneOwner)) ipam->release(owner);
  }
  auto existing = links.find(o.bridge);
  if (existing.ok()) {
    if (existing->kind != "bridge") return Error(Code::kAlreadyExists, "interface " + o.bridge + " is no bridge");
    bridge = existing->index;
    RETURN_IF_ERROR(links.setUp(bridge));
  } else {
    ASSIGN_OR_RETURN(bridge, links.createBridge(o.bridge, macFor(o.gateway), o.mtu));
  }
  const IpPrefix own{o.gateway, o.subnet.length};
  RETURN_IF_ERROR(v4 ? setUp4() : setUp6(own));
  auto filtering = readFile(std::string("/proc/sys/") + (v4 ? kFilters : kFilters6), 16);
  bridgeFilters = filtering.ok() && trim(*filtering) != "0";
  if (dual) RETURN_IF_ERROR(setUp6({likeIn6(o.gateway), o.subnet6.length}));
  return nat.setNetwork({.bridge = o.bridge,
                         .subnet = v4 ? o.subnet.masked() : IpPrefix(),
                         .subnet6 = (v4 ? o.subnet6 : o.subnet).masked(),
                         .masquerade = o.masquerade,
                         .noMasquerade = o.noMasquerade,
                         .routed = o.routed,
                         .isolated = o.isolated,
                         .internal = o.internal});
}

IpAddress BridgeNetwork::Rep::likeIn6(const IpAddress& address) const {
  if (options.subnet6.address.empty()) return {};
  return options.subnet6.network().plus(address.v4Value() - options.subnet.network().v4Value());
}

IpAddress BridgeNetwork::Rep::likeIn4(const IpAddress& address) const {
  constexpr size_t kNumber = 4;  // bytes
  auto low = [](const IpAddress& of) {
    return IpAddress::fromBytes(of.bytes().substr(of.bytes().size() - kNumber)).v4Value();
  };
  return options.subnet.network().plus(low(address) - low(options.subnet6.network()));
}

// The bridge's only one of that family, but for a link's own.
Result<> BridgeNetwork::Rep::takeAddress(const IpPrefix& own) {
  const IpPrefix linkLocal = *IpPrefix::parse("fe80::/10");
  ASSIGN_OR_RETURN(auto addresses, links.addresses(bridge));
  for (auto& address : addresses) {
    if (address.address.isV6() == own.address.isV6() && address != own && !linkLocal.contains(address.address))
      RETURN_IF_ERROR(links.removeAddress(bridge, address));
  }
  return links.addAddress(bridge, own);
}

Result<> BridgeNetwork::Rep::setUp4() {
  auto& o = options;
  RETURN_IF_ERROR(takeAddress({o.gateway, o.subnet.length}));
  if (!o.internal) trySysctl("net/ipv4/ip_forward", "1");
  if (o.routed && o.ownNamespace && pathExists(std::string("/proc/sys/") + kFilters)) trySysctl(kFilters, "0");
  if (o.routed) {
    trySysctl("net/ipv4/conf/all/send_redirects", "0");
    trySysctl("net/ipv4/conf/" + o.bridge + "/send_redirects", "0");
  }
  if (o.loopbackPublish && !o.internal) trySysctl("net/ipv4/conf/" + o.bridge + "/route_localnet", "1");
  return {};
}

Result<> BridgeNetwork::Rep::setUp6(const IpPrefix& own) {
  auto& o = options;
  // Neighbours are asked in the name of the link's own address, at once and not after seconds of detection.
  trySysctl("net/ipv6/conf/" + o.bridge + "/accept_dad", "0");
  RETURN_IF_ERROR(takeAddress(own));
  if (!o.internal) {
    if (auto set = forwardIpv6(); !set.ok()) log::warn("network", "{}", set.error().message());
  }
  if (o.routed && o.ownNamespace && pathExists(std::string("/proc/sys/") + kFilters6)) trySysctl(kFilters6, "0");
  trySysctl("net/ipv6/conf/" + o.bridge + "/accept_ra", "0");
  return {};
}

Result<Attachment> BridgeNetwork::Rep::connect(const std::string& owner, int netnsFd, const AttachOptions& how) {
  Attachment a;
  a.interface = how.interface;
  a.hostInterface = "veth" + randomHex(10);
  a.mtu = options.mtu;
  if (!options.internal) a.gateway = options.gateway;
  a.address.length = options.subnet.length;
  if (how.address.empty()) {
    ASSIGN_OR_RETURN(a.address.address, ipam->allocate(owner));
  } else {
    RETURN_IF_ERROR(ipam->take(owner, how.address));
    a.address.address = how.address;
  }
  a.address6 = likeIn6(a.address.address);
  a.mac = how.mac.empty() ? macFor(a.address.address) : how.mac;
  auto done = connectLinks(a, netnsFd, how);
  if (!done.ok()) {
    ipam->releaseAddress(a.address.address);
    return std::move(done).error();
  }
  return a;
}

Result<> BridgeNetwork::Rep::connectLinks(Attachment& a, int netnsFd, const AttachOptions& how) {
  ASSIGN_OR_RETURN(int outside, links.createVeth({.name = a.hostInterface,
                                                  .peerName = a.interface,
                                                  .peerNetnsFd = netnsFd,
                                                  .peerMac = a.mac,
                                                  .mtu = a.mtu,
                                                  .master = bridge}));
  auto configure = [&]() -> Result<> {
    // Where the bridge itself translates addresses (br_netfilter), a frame may have to leave to another port or to the
    // one it came from: a container that calls its own published port, a pod that calls a service.
    bool isolated = (options.routed && !bridgeFilters) || options.isolated;
    RETURN_IF_ERROR(links.setBridgePort(outside, isolated, !isolated));
    ASSIGN_OR_RETURN(auto inside, NetLinks::openIn(netnsFd));
    ASSIGN_OR_RETURN(auto link, inside.find(a.interface));
    std::vector<Route> routes;
    std::vector<IpPrefix> addresses;
    auto add = [&](IpPrefix address, const IpAddress& gateway) {
      if (options.routed) {
        address = IpPrefix::host(address.address);
        routes.push_back({.destination = IpPrefix::host(gateway), .link = link.index});
      }
      addresses.push_back(address);
      if (how.defaultRoute && !options.internal)
        routes.push_back({.destination = {}, .gateway = gateway, .link = link.index});
    };
    add(a.address, options.gateway);
    if (!a.address6.empty()) add({a.address6, options.subnet6.length}, likeIn6(options.gateway));
    return inside.configureInside(link.index, addresses, routes);
  };
  auto done = configure();
  if (!done.ok()) {
    std::lock_guard lock(mutex);
    doom(a.hostInterface, "", {});
    hurry = true;  // its address is free already
    changed.notify_all();
  }
  return done;
}

Result<Ready> BridgeNetwork::Rep::makeReady(const std::string& owner, Owner kind) {
  Ready out;
  out.owner = owner;
  if (kind == Owner::kOwnUsers) {
    ASSIGN_OR_RETURN(auto owned, Netns::createOwned());
    out.netns = std::move(owned.net);
    out.users = std::move(owned.users);
  } else {
    ASSIGN_OR_RETURN(out.netns, Netns::create());
  }
  ASSIGN_OR_RETURN(out.attachment, connect(owner, out.netns.fd(), {}));
  return out;
}

void BridgeNetwork::Rep::refill() {
  std::unique_lock lock(mutex);
  while (!stopping) {
    if (!pools[0].short_() && !pools[1].short_()) {
      changed.wait(lock);
      continue;
    }
    const auto kind = pools[0].short_() ? Owner::kSystem : Owner::kOwnUsers;
    auto owner = fmt::format("{}{}", kPoolOwner, made++);
    making = true;
    lock.unlock();
    auto ready = makeReady(owner, kind);
    lock.lock();
    making = false;
    changed.notify_all();
    if (ready.ok()) {
      pool(kind).ready.push_back(std::move(*ready));
      continue;
    }
    // Most often no address is free; the next detach tries again.
    log::warn("network", "cannot prepare a namespace on {}: {}", options.bridge, ready.error().message());
    changed.wait(lock);
  }
}

std::optional<Ready> BridgeNetwork::Rep::takeReady(Owner kind) {
  auto& waiting = pool(kind).ready;
  if (waiting.empty()) return std::nullopt;
  std::optional<Ready> out = std::move(waiting.front());
  waiting.pop_front();
  changed.notify_all();
  return out;
}

// Gives back the address of one that waits in the pool; false when none does.
bool BridgeNetwork::Rep::giveUpReady() {
  std::lock_guard lock(mutex);
  for (auto& [ready, size] : pools) {
    if (ready.empty()) continue;
    ipam->release(ready.front().owner);
    ready.pop_front();
    return true;
  }
  return false;
}

// The caller holds the mutex.
void BridgeNetwork::Rep::doom(std::string link, std::string owner, Netns netns) {
  if (doomed.empty()) doomedSince = std::chrono::steady_clock::now();
  doomed.push_back({std::move(link), std::move(owner), std::move(netns)});
}

void BridgeNetwork::Rep::reap() {
  std::unique_lock lock(mutex);
  while (!stopping || !doomed.empty()) {
    if (doomed.empty()) {
      changed.wait(lock);
      continue;
    }
    auto due = std::min(lastUse + kQuiet, doomedSince + kLongest);
    if (!stopping && !hurry && doomed.size() < kMostDoomed && std::chrono::steady_clock::now() < due) {
      changed.wait_until(lock, due);
      continue;
    }
    auto batch = std::exchange(doomed, {});
    hurry = false;
    reaping = true;
    lock.unlock();
    std::vector<std::string> names;
    for (const auto& each : batch) names.push_back(each.link);
    auto done = links.removeTogether(names);
    for (const auto& each : batch) {
      if (!each.owner.empty()) ipam->release(each.owner);
    }
    batch.clear();
    lock.lock();
    reaping = false;
    changed.notify_all();
    if (!done.ok()) log::warn("network", "{}", done.error().message());
  }
}

// Waits until the addresses of those that have gone are free; false when there were none.
bool BridgeNetwork::Rep::reapNow(std::unique_lock<std::mutex>& lock) {
  if (stopping || (doomed.empty() && !reaping)) return false;
  hurry = !doomed.empty();
  changed.notify_all();
  changed.wait(lock, [&] { return stopping || (doomed.empty() && !reaping); });
  return !stopping;
}

void BridgeNetwork::Rep::stop() {
  {
    std::lock_guard lock(mutex);
    stopping = true;
    changed.notify_all();
  }
  if (refiller.joinable()) refiller.join();
  if (reaper.joinable()) reaper.join();
  std::lock_guard lock(mutex);
  for (auto& [waiting, size] : pools) {
    for (auto& ready : waiting) ipam->release(ready.owner);
    waiting.clear();  // the kernel removes the namespaces with their links
  }
}

BridgeNetwork::BridgeNetwork(std::unique_ptr<Rep> rep) : rep_(std::move(rep)) {}
BridgeNetwork::~BridgeNetwork() {
  rep_->stop();
}

Result<std::unique_ptr<BridgeNetwork>> BridgeNetwork::start(BridgeNetworkOptions options, NatTable& nat) {
  ASSIGN_OR_RETURN(auto links, NetLinks::open());
  auto rep = std::make_unique<Rep>(std::move(options), nat, std::move(links));
  RETURN_IF_ERROR(rep->setUp());
  Rep* r = rep.get();
  if (r->options.poolSize > 0) {
    r->pool(Owner::kSystem).size = static_cast<size_t>(r->options.poolSize);
    r->refiller = std::thread([r] { r->refill(); });
  }
  r->reaper = std::thread([r] { r->reap(); });
  return std::unique_ptr<BridgeNetwork>(new BridgeNetwork(std::move(rep)));
}

Result<Attachment> BridgeNetwork::attach(const std::string& containerId, int netnsFd, const AttachOptions& options) {
  {
    std::lock_guard lock(rep_->mutex);
    if (rep_->attachments.count(containerId) > 0) {
      return Error(Code::kAlreadyExists,
                   fmt::format("container {} is already on network {}", containerId, rep_->options.bridge));
    }
    rep_->attachments[containerId] = {};
  }
  auto made = rep_->connect(containerId, netnsFd, options);
  auto freeOne = [&] {
    std::unique_lock lock(rep_->mutex);
    return rep_->reapNow(lock);
  };
  while (!made.ok() && made.error().is(Code::kUnavailable) && (freeOne() || rep_->giveUpReady())) {
    made = rep_->connect(containerId, netnsFd, options);
  }
  std::lock_guard lock(rep_->mutex);
  if (!made.ok()) {
    rep_->attachments.erase(containerId);
    return std::move(made).error().wrap(fmt::format("connect container to {}", rep_->options.bridge));
  }
  made->containerId = containerId;
  rep_->attachments[containerId] = *made;
  return made;
}

Result<AcquiredNamespace> BridgeNetwork::acquire(const std::string& containerId, Owner owner) {
  std::optional<Ready> ready;
  {
    std::lock_guard lock(rep_->mutex);
    if (rep_->attachments.count(containerId) > 0) {
      return Error(Code::kAlreadyExists,
                   fmt::format("container {} is already on network {}", containerId, rep_->options.bridge));
    }
    rep_->attachments[containerId] = {};
    ready = rep_->takeReady(owner);
    rep_->pool(owner).size = static_cast<size_t>(std::max(0, rep_->options.poolSize));
    rep_->changed.notify_all();
  }
  if (!ready) {
    auto made = rep_->makeReady(containerId, owner);
    std::unique_lock lock(rep_->mutex);
    if (!made.ok() && made.error().is(Code::kUnavailable) && rep_->reapNow(lock)) {
      lock.unlock();
      made = rep_->makeReady(containerId, owner);
      lock.lock();
    }
    if (made.ok()) {
      ready = std::move(*made);
    } else {
      // The last address may be on its way into the pool.
      rep_->changed.wait(lock, [&] { return !rep_->making; });
      ready = rep_->takeReady(owner);
      if (!ready && made.error().is(Code::kUnavailable)) {
        // Or it waits in the other pool.
        lock.unlock();
        if (rep_->giveUpReady()) made = rep_->makeReady(containerId, owner);
        lock.lock();
        if (made.ok()) ready = std::move(*made);
      }
    }
    if (!ready) {
      rep_->attachments.erase(containerId);
      return std::move(made).error().wrap(fmt::format("prepare network of {}", containerId));
    }
  }
  rep_->ipam->rename(ready->owner, containerId);
  ready->attachment.containerId = containerId;
  auto held = ready->netns.duplicate();
  std::lock_guard lock(rep_->mutex);
  rep_->attachments[containerId] = ready->attachment;
  rep_->lastUse = std::chrono::steady_clock::now();
  if (held.ok()) rep_->namespaces[containerId] = std::move(*held);
  return AcquiredNamespace{std::move(ready->netns), std::move(ready->attachment), std::move(ready->users)};
}

Result<> BridgeNetwork::adopt(const std::string& containerId, const IpAddress& either,
                              const std::string& hostInterface) {
  const bool second = rep_->options.subnet.address.isV4() && either.isV6() && !rep_->options.subnet6.address.empty();
  const IpAddress address = second ? rep_->likeIn4(either) : either;
  RETURN_IF_ERROR(rep_->ipam->take(containerId, address));
  Attachment a;
  a.containerId = containerId;
  a.interface = "eth0";
  a.hostInterface = hostInterface;
  a.address = {address, rep_->options.subnet.length};
  a.address6 = rep_->likeIn6(address);
  if (!rep_->options.internal) a.gateway = rep_->options.gateway;
  a.mac = macFor(address);
  a.mtu = rep_->options.mtu;
  std::lock_guard lock(rep_->mutex);
  rep_->attachments[containerId] = a;
  return {};
}

void BridgeNetwork::detach(const std::string& containerId) {
  std::lock_guard lock(rep_->mutex);
  auto it = rep_->attachments.find(containerId);
  if (it == rep_->attachments.end()) return;
  rep_->lastUse = std::chrono::steady_clock::now();
  auto owner = fmt::format("{}{}", kGoneOwner, rep_->made++);
  rep_->ipam->rename(containerId, owner);
  auto held = rep_->namespaces.extract(containerId);
  rep_->doom(it->second.hostInterface, owner, held ? std::move(held.mapped()) : Netns());
  rep_->attachments.erase(it);
  rep_->changed.notify_all();
}

void BridgeNetwork::releaseAllBut(const std::vector<std::string>& live) {
  std::set<std::string> keep(live.begin(), live.end());
  std::lock_guard lock(rep_->mutex);
  for (auto& owner : rep_->ipam->owners()) {
    if (keep.count(owner) == 0 && !owner.starts_with(kPoolOwner) && !owner.starts_with(kGoneOwner) &&
        rep_->attachments.count(owner) == 0) {
      rep_->ipam->release(owner);
    }
  }
}

std::vector<Attachment> BridgeNetwork::attachments() const {
  std::lock_guard lock(rep_->mutex);
  std::vector<Attachment> out;
  for (auto& [id, attachment] : rep_->attachments) {
    if (!attachment.containerId.empty()) out.push_back(attachment);
  }
  return out;
}

Result<Route> BridgeNetwork::Rep::routeTo(const NodeRoute& node) {
  Route route{.destination = node.podRange.masked()};
  if (node.onSegment || !node.via.empty()) {
    route.gateway = node.onSegment ? node.nodeAddress : node.via;
    return route;
  }
  return tunnelRoute(node, route.destination);
}

// By the same tunnel, whatever it has outside.
Result<Route> BridgeNetwork::Rep::routeTo6(const NodeRoute& node) {
  Route route{.destination = node.podRange6.masked(), .gateway = node.nodeAddress6};
  if (!route.gateway.empty()) return route;
  return tunnelRoute(node, route.destination);
}

Result<Route> BridgeNetwork::Rep::tunnelRoute(const NodeRoute& node, const IpPrefix& destination) {
  Route route{.destination = destination, .gateway = destination.network()};
  // A link's own address, which no other route can lead elsewhere; never that of the network itself.
  if (destination.address.isV6())
    route.gateway =
        IpPrefix::parse("fe80::1:0:0/64")->address.plus(tunnelId(node.nodeAddress, node.podRange).v4Value());
  ASSIGN_OR_RETURN(route.link, tunnelTo(node, route.gateway));
  route.onLink = destination.address.isV4();
  return route;
}

// The tunnel, in which the node is found by the address `remote`.
Result<int> BridgeNetwork::Rep::tunnelTo(const NodeRoute& node, const IpAddress& remote) {
  auto name = options.bridge.substr(0, 12) + "-vx";
  auto tunnel = links.find(name);
  if (!tunnel.ok()) {
    ASSIGN_OR_RETURN(auto local, sourceTowards(node.nodeAddress));
    const int mtu = options.mtu - (local.isV6() ? kVxlanOverhead6 : kVxlanOverhead);
    const auto mac = macFor(tunnelId(local, options.subnet));
    ASSIGN_OR_RETURN(int made, links.createVxlan(name, kVxlanId, local, kVxlanPort, mtu, mac));
    if (options.subnet.address.isV4())
      RETURN_IF_ERROR(links.addAddress(made, IpPrefix::host(options.subnet.network())));
    tunnel = links.find(name);
    if (!tunnel.ok()) return tunnel.error();
  }
  const auto mac = macFor(tunnelId(node.nodeAddress, node.podRange));
  RETURN_IF_ERROR(links.setNeighbour(tunnel->index, remote, mac));
  RETURN_IF_ERROR(links.setForwarding(tunnel->index, mac, node.nodeAddress));
  return tunnel->index;
}

Result<> BridgeNetwork::setNodeRoutes(const std::vector<NodeRoute>& nodes) {
  auto& r = *rep_;
  std::map<std::string, Route> wanted;
  for (auto& node : nodes) {
    if (node.podRange.masked() == r.options.subnet.masked()) continue;
    ASSIGN_OR_RETURN(auto route, r.routeTo(node));
    wanted[route.destination.str()] = route;
    if (node.podRange6.address.empty() || r.options.subnet6.address.empty()) continue;
    ASSIGN_OR_RETURN(auto route6, r.routeTo6(node));
    wanted[route6.destination.str()] = route6;
  }
  if (!std::exchange(r.routesRead, true)) {
    // What a former process left: routes inside the cluster's range that are not this node's own.
    ASSIGN_OR_RETURN(auto present, r.links.routes());
    for (auto& route : present) {
      bool ours = false;
      for (auto& range : r.options.noMasquerade)
        ours |= route.destination.length > 0 && range.contains(route.destination.address);
      if (ours && !route.gateway.empty()) r.nodeRoutes[route.destination.str()] = route;
    }
  }
  for (auto& [key, route] : wanted) {
    auto it = r.nodeRoutes.find(key);
    bool same = it != r.nodeRoutes.end() && it->second.gateway == route.gateway && it->second.onLink == route.onLink &&
                (route.link == 0 || it->second.link == route.link);
    if (!same) RETURN_IF_ERROR(r.links.setRoute(route));
    r.nodeRoutes[key] = route;
  }
  for (auto it = r.nodeRoutes.begin(); it != r.nodeRoutes.end();) {
    if (wanted.count(it->first) > 0) {
      ++it;
      continue;
    }
    RETURN_IF_ERROR(r.links.removeRoute(it->second));
    it = r.nodeRoutes.erase(it);
  }
  return {};
}

const BridgeNetworkOptions& BridgeNetwork::options() const {
  return rep_->options;
}

size_t BridgeNetwork::ready(Owner owner) const {
  std::lock_guard lock(rep_->mutex);
  return rep_->pool(owner).ready.size();
}

void BridgeNetwork::waitReady(size_t count, Owner owner) {
  std::unique_lock lock(rep_->mutex);
  count = std::min(count, static_cast<size_t>(std::max(0, rep_->options.poolSize)));
  rep_->changed.wait(lock, [&] { return rep_->stopping || rep_->pool(owner).ready.size() >= count; });
}

void BridgeNetwork::stop() {
  rep_->stop();
}

Result<> BridgeNetwork::destroy() {
  rep_->stop();
  RETURN_IF_ERROR(setNodeRoutes({}));
  for (auto& name : {rep_->options.bridge, rep_->options.bridge.substr(0, 12) + "-vx"}) {
    auto link = rep_->links.find(name);
    if (link.ok()) RETURN_IF_ERROR(rep_->links.remove(link->index));
  }
  return rep_->nat.removeNetwork(rep_->options.bridge);
}

}  // namespace dhow
