#include "platform/region.h"

#include "base/files.h"
#include "base/log.h"
#include "base/strings.h"
#include "network/links.h"
#include "network/nat_table.h"

namespace dhow::platform {

namespace {

std::string uplinkName(const ClusterConfig& config) {
  return fmt::format("dhow{}", config.index);
}
std::string zoneBridge(int zone) {
  return fmt::format("zone{}", zone);
}
// The router's end of a machine's link is named after the last part of its address, which is unique in the region.
std::string portOf(const MachinePlan& machine) {
  return "n" + machine.address.substr(machine.address.rfind('.') + 1);
}
std::string natTable(const ClusterConfig& config) {
  return fmt::format("dhow-uplink-{}", config.index);
}
std::string forwardFile(const ClusterConfig& config) {
  return config.paths().run + "/ip_forward";
}
std::string forwardFile6(const ClusterConfig& config) {
  return config.paths().run + "/ip6_forward";
}
constexpr const char* kForwarding6 = "net/ipv6/conf/all/forwarding";

constexpr int kSegment6 = 64, kUplink6 = 112;

Result<IpPrefix> prefix(const std::string& address, int length) {
  ASSIGN_OR_RETURN(auto ip, IpAddress::parse(address));
  return IpPrefix{ip, length};
}

// Existing is fine.
Result<int> ensureBridge(NetLinks& links, const std::string& name) {
  auto made = links.createBridge(name);
  if (made.ok() || !made.error().is(Code::kAlreadyExists)) return made;
  ASSIGN_OR_RETURN(auto found, links.find(name));
  return found.index;
}

// Links' own addresses, in whose name neighbours are asked, are there at once. Before the link has a carrier.
Result<> skipDetection(const std::string& link) {
  return setSysctl(fmt::format("net/ipv6/conf/{}/accept_dad", link), "0");
}

Result<> setUpRouter6(const ClusterConfig& config, NetLinks& links, int uplink) {
  RETURN_IF_ERROR(forwardIpv6());
  ASSIGN_OR_RETURN(auto address, prefix(config.routerAddress6(), kUplink6));
  RETURN_IF_ERROR(links.addAddress(uplink, address));
  Route outside;
  ASSIGN_OR_RETURN(outside.gateway, IpAddress::parse(config.hostAddress6()));
  RETURN_IF_ERROR(links.setRoute(outside));
  Route others;
  ASSIGN_OR_RETURN(others.destination, IpPrefix::parse(kAllSegments6));
  others.unreachable = true;
  return links.setRoute(others);
}

Result<> setUpRouter(const ClusterConfig& config) {
  RETURN_IF_ERROR(setSysctl("net/ipv4/ip_forward", "1"));
  ASSIGN_OR_RETURN(auto links, NetLinks::open());
  for (int zone = 1; zone <= config.request.zones; ++zone) {
    ASSIGN_OR_RETURN(int bridge, ensureBridge(links, zoneBridge(zone)));
    ASSIGN_OR_RETURN(auto address, prefix(config.zoneGateway(zone), 24));
    RETURN_IF_ERROR(links.addAddress(bridge, address));
    RETURN_IF_ERROR(links.setUp(bridge));
    // Who is not there is told within half a second, and who just came is found within a tenth, instead of whole
    // seconds.
    RETURN_IF_ERROR(setSysctl(fmt::format("net/ipv4/neigh/{}/retrans_time_ms", zoneBridge(zone)), "100"));
    RETURN_IF_ERROR(setSysctl(fmt::format("net/ipv4/neigh/{}/mcast_solicit", zoneBridge(zone)), "5"));
    if (!config.ipv6()) continue;
    RETURN_IF_ERROR(skipDetection(zoneBridge(zone)));
    // Of IPv6 the kernel else takes it away when the zone is cut off.
    RETURN_IF_ERROR(setSysctl(fmt::format("net/ipv6/conf/{}/keep_addr_on_down", zoneBridge(zone)), "1"));
    ASSIGN_OR_RETURN(auto address6, prefix(config.zoneGateway6(zone), kSegment6));
    RETURN_IF_ERROR(links.addAddress(bridge, address6));
    RETURN_IF_ERROR(setSysctl(fmt::format("net/ipv6/neigh/{}/retrans_time_ms", zoneBridge(zone)), "100"));
    RETURN_IF_ERROR(setSysctl(fmt::format("net/ipv6/neigh/{}/mcast_solicit", zoneBridge(zone)), "5"));
  }
  ASSIGN_OR_RETURN(auto uplink, links.find("uplink"));
  ASSIGN_OR_RETURN(auto address, prefix(config.routerAddress(), 25));
  RETURN_IF_ERROR(links.addAddress(uplink.index, address));
  if (config.ipv6()) RETURN_IF_ERROR(skipDetection("uplink"));
  RETURN_IF_ERROR(links.setUp(uplink.index));
  ASSIGN_OR_RETURN(auto host, IpAddress::parse(config.hostAddress()));
  Route outside;
  outside.destination = IpPrefix{IpAddress::v4(0), 0};
  outside.gateway = host;
  RETURN_IF_ERROR(links.setRoute(outside));
  // The ranges that clusters have, but for its own: nothing goes from one to another through this machine.
  for (const char* range : {kAllSegments, kAllEngines}) {
    Route others;
    ASSIGN_OR_RETURN(others.destination, IpPrefix::parse(range));
    others.unreachable = true;
    RETURN_IF_ERROR(links.setRoute(others));
  }
  if (config.ipv6()) RETURN_IF_ERROR(setUpRouter6(config, links, uplink.index));
  Route engine;
  ASSIGN_OR_RETURN(engine.destination, IpPrefix::parse(config.engineSubnet()));
  engine.gateway = host;
  return links.setRoute(engine);
}

Result<> setUpHost6(const ClusterConfig& config, NetLinks& links, int uplink) {
  ASSIGN_OR_RETURN(auto address, prefix(config.hostAddress6(), kUplink6));
  RETURN_IF_ERROR(links.addAddress(uplink, address));
  Route route;
  route.link = uplink;
  ASSIGN_OR_RETURN(route.gateway, IpAddress::parse(config.routerAddress6()));
  for (const auto& range : {config.allSegments6(), config.loadBalancerRange6()}) {
    ASSIGN_OR_RETURN(route.destination, IpPrefix::parse(range));
    RETURN_IF_ERROR(links.setRoute(route));
  }
  ASSIGN_OR_RETURN(auto forwarding, readFile(std::string("/proc/sys/") + kForwarding6, 16));
  if (trim(forwarding) == "0") RETURN_IF_ERROR(writeFile(forwardFile6(config), "0\n"));
  return forwardIpv6();
}

// The machine's end: an address, the way to the segments and the load balancer's addresses, and masquerading for what
// the nodes send to the outside.
Result<> setUpHost(const ClusterConfig& config, NetLinks& links) {
  ASSIGN_OR_RETURN(auto uplink, links.find(uplinkName(config)));
  ASSIGN_OR_RETURN(auto address, prefix(config.hostAddress(), 25));
  RETURN_IF_ERROR(links.addAddress(uplink.index, address));
  RETURN_IF_ERROR(links.setUp(uplink.index));
  ASSIGN_OR_RETURN(auto router, IpAddress::parse(config.routerAddress()));
  for (const auto& range : {config.allSegments(), config.loadBalancerRange()}) {
    Route route;
    ASSIGN_OR_RETURN(route.destination, IpPrefix::parse(range));
    route.gateway = router;
    route.link = uplink.index;
    RETURN_IF_ERROR(links.setRoute(route));
  }
  ASSIGN_OR_RETURN(auto forwarding, readFile("/proc/sys/net/ipv4/ip_forward", 16));
  if (trim(forwarding) == "0") {
    RETURN_IF_ERROR(writeFile(forwardFile(config), "0\n"));
    RETURN_IF_ERROR(setSysctl("net/ipv4/ip_forward", "1"));
  }
  if (config.ipv6()) RETURN_IF_ERROR(setUpHost6(config, links, uplink.index));
  ASSIGN_OR_RETURN(auto nat, NatTable::open(natTable(config)));
  NatTable::Network network;
  network.bridge = uplinkName(config);
  ASSIGN_OR_RETURN(network.subnet, IpPrefix::parse(config.allSegments()));
  if (config.ipv6()) {
    ASSIGN_OR_RETURN(network.subnet6, IpPrefix::parse(config.allSegments6()));
  }
  network.apartFromOthers = false;
  return nat->setNetwork(network);
}

}  // namespace

bool regionExists(const ClusterConfig& config) {
  return Netns::open(config.paths().regionNamespace()).ok();
}

Result<> createRegion(const ClusterConfig& config) {
  auto paths = config.paths();
  ASSIGN_OR_RETURN(auto links, NetLinks::open());
  auto router = Netns::open(paths.regionNamespace());
  if (!router.ok()) {
    router = Netns::create();
    if (!router.ok()) return std::move(router).error().wrap("create the region's network");
    RETURN_IF_ERROR(router->pin(paths.regionNamespace()));
  }
  VethSpec uplink;
  uplink.name = uplinkName(config);
  uplink.peerName = "uplink";
  uplink.peerNetnsFd = router->fd();
  auto made = links.createVeth(uplink);
  if (!made.ok() && !made.error().is(Code::kAlreadyExists))
    return std::move(made).error().wrap("create the region's uplink");
  RETURN_IF_ERROR(runInNetns(router->fd(), [&config] { return setUpRouter(config); }));
  return setUpHost(config, links);
}

Result<> createMachineLink(const ClusterConfig& config, const MachinePlan& machine) {
  auto path = config.paths().machineNamespace(machine.name);
  if (Netns::open(path).ok()) return {};
  ASSIGN_OR_RETURN(auto router, Netns::open(config.paths().regionNamespace()));
  ASSIGN_OR_RETURN(auto netns, Netns::create());
  std::string port = portOf(machine);
  RETURN_IF_ERROR(runInNetns(router.fd(), [&]() -> Result<> {
    ASSIGN_OR_RETURN(auto links, NetLinks::open());
    ASSIGN_OR_RETURN(auto bridge, links.find(zoneBridge(machine.zoneIndex)));
    if (auto old = links.find(port); old.ok()) RETURN_IF_ERROR(links.remove(old->index));
    VethSpec veth;
    veth.name = port;
    veth.peerName = "eth0";
    veth.peerNetnsFd = netns.fd();
    veth.master = bridge.index;
    auto made = links.createVeth(veth);
    return made.ok() ? Result<>() : Result<>(std::move(made).error());
  }));
  RETURN_IF_ERROR(runInNetns(netns.fd(), [&]() -> Result<> {
    ASSIGN_OR_RETURN(auto links, NetLinks::open());
    ASSIGN_OR_RETURN(auto eth0, links.find("eth0"));
    ASSIGN_OR_RETURN(auto address, prefix(machine.address, 24));
    ASSIGN_OR_RETURN(auto gateway, IpAddress::parse(config.zoneGateway(machine.zoneIndex)));
    Route out;
    out.destination = IpPrefix{IpAddress::v4(0), 0};
    out.gateway = gateway;
    if (machine.address6.empty()) return links.configureInside(eth0.index, {address}, {out});
    RETURN_IF_ERROR(skipDetection("eth0"));
    ASSIGN_OR_RETURN(auto address6, prefix(machine.address6, kSegment6));
    Route out6;
    ASSIGN_OR_RETURN(out6.gateway, IpAddress::parse(config.zoneGateway6(machine.zoneIndex)));
    return links.configureInside(eth0.index, {address, address6}, {out, out6});
  }));
  return netns.pin(path);
}

Result<> removeMachineLink(const ClusterConfig& config, const std::string& machine) {
  return Netns::unpin(config.paths().machineNamespace(machine));
}

Result<> setMachineLink(const ClusterConfig& config, const MachinePlan& machine, bool up) {
  ASSIGN_OR_RETURN(auto router, Netns::open(config.paths().regionNamespace()));
  return runInNetns(router.fd(), [&]() -> Result<> {
    ASSIGN_OR_RETURN(auto links, NetLinks::open());
    ASSIGN_OR_RETURN(auto port, links.find(portOf(machine)));
    return links.setUp(port.index, up);
  });
}

Result<> setZoneLink(const ClusterConfig& config, int zone, bool up) {
  ASSIGN_OR_RETURN(auto router, Netns::open(config.paths().regionNamespace()));
  return runInNetns(router.fd(), [&]() -> Result<> {
    ASSIGN_OR_RETURN(auto links, NetLinks::open());
    ASSIGN_OR_RETURN(auto bridge, links.find(zoneBridge(zone)));
    return links.setUp(bridge.index, up);
  });
}

Result<> removeRegion(const ClusterConfig& config) {
  auto paths = config.paths();
  ASSIGN_OR_RETURN(auto links, NetLinks::open());
  if (auto uplink = links.find(uplinkName(config)); uplink.ok()) RETURN_IF_ERROR(links.remove(uplink->index));
  ASSIGN_OR_RETURN(auto nat, NatTable::open(natTable(config)));
  RETURN_IF_ERROR(nat->destroy());
  if (pathExists(forwardFile(config))) {
    ASSIGN_OR_RETURN(auto clusters, knownClusters());
    // Another cluster may need forwarding by now.
    if (clusters.size() <= 1) RETURN_IF_ERROR(setSysctl("net/ipv4/ip_forward", "0"));
  }
  if (pathExists(forwardFile6(config))) {
    ASSIGN_OR_RETURN(auto clusters, knownClusters());
    if (clusters.size() <= 1) RETURN_IF_ERROR(setSysctl(kForwarding6, "0"));
  }
  return Netns::unpin(paths.regionNamespace());
}

Result<std::string> rangeInUse(const ClusterConfig& config) {
  ASSIGN_OR_RETURN(auto links, NetLinks::open());
  ASSIGN_OR_RETURN(auto all, links.list());
  for (const auto& link : all) {
    if (link.name == uplinkName(config)) return config.allSegments();
  }
  ASSIGN_OR_RETURN(auto routes, links.routes());
  std::vector<std::string> ranges = {config.allSegments(), config.podRange, config.serviceRange};
  if (config.ipv6()) ranges.insert(ranges.end(), {config.allSegments6(), config.podRange6, config.serviceRange6});
  std::erase(ranges, "");
  for (const auto& range : ranges) {
    ASSIGN_OR_RETURN(auto wanted, IpPrefix::parse(range));
    for (const auto& route : routes) {
      if (route.destination.length > 0 && route.destination.overlaps(wanted)) return range;
    }
  }
  return std::string();
}

Result<int> freeClusterIndex(const std::set<int>& kept, const std::string& ipFamilies) {
  ClusterRequest request;
  request.ipFamilies = ipFamilies;
  for (int index = 0; index < kMaxClusters; ++index) {
    ASSIGN_OR_RETURN(auto used, rangeInUse(configFor(request, index)));
    if (used.empty() && !kept.contains(index)) return index;
  }
  return Error(
      Code::kUnavailable,
      fmt::format("this machine has {} clusters already, the most that its address ranges hold", kMaxClusters));
}

}  // namespace dhow::platform
