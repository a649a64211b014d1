#include "network/service_proxy.h"

#include "base/files.h"
#include "network/bridge_network.h"
#include "network/nat_table.h"
#include "testing.h"

namespace dhow {
namespace {

IpAddress ip(const std::string& text) {
  return IpAddress::parse(text).value();
}
IpPrefix prefix(const char* text) {
  return IpPrefix::parse(text).value();
}

// A node with three pods that serve on port 80, and a client outside of the cluster.
// In a namespace of its own, and where the bridge translates addresses itself (br_netfilter).
class ServiceProxyTest : public testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root to make network namespaces";
    node_ = std::move(*Netns::create());
    client_ = std::move(*Netns::create());
    within(node_, [&] { setUpNode(); });
    auto links = NetLinks::openIn(client_.fd());
    ASSERT_OK(links->configureInside(links->find("eth0")->index, {prefix("192.0.2.2/24")},
                                     {{.destination = {}, .gateway = ip("192.0.2.1")}}));
    for (int i = 0; i < 3; i++) {
      auto pod = network_->acquire(fmt::format("pod{}", i));
      ASSERT_OK(pod);
      servers_.push_back(std::make_unique<TestServer>(pod->netns, fmt::format("pod{}", i), 80));
      servers_.push_back(std::make_unique<TestServer>(pod->netns, fmt::format("pod{}", i), 53, true));
      pods_.push_back(std::move(*pod));
    }
  }
  void setUpNode() {
    auto links = NetLinks::open();
    auto uplink = links->createVeth({.name = "eth0", .peerName = "eth0", .peerNetnsFd = client_.fd()});
    ASSERT_OK(uplink);
    ASSERT_OK(links->addAddress(*uplink, prefix("192.0.2.1/24")));
    ASSERT_OK(links->setRoute({.destination = {}, .gateway = ip("192.0.2.2")}));
    auto nat = NatTable::open("dhow-nodes");
    ASSERT_OK(nat);
    nat_ = std::move(*nat);
    auto network = BridgeNetwork::start({.bridge = "dhow0",
                                         .subnet = prefix("10.244.1.0/24"),
                                         .routed = true,
                                         .ownNamespace = GetParam(),
                                         .noMasquerade = {prefix("10.244.0.0/16")}},
                                        *nat_);
    ASSERT_OK(network);
    network_ = std::move(*network);
    auto proxy =
        ServiceProxy::open({.podRanges = {prefix("10.244.0.0/16")}, .serviceRanges = {prefix("10.96.0.0/16")}});
    ASSERT_OK(proxy);
    proxy_ = std::move(*proxy);
  }
  std::vector<ServiceEndpoint> endpoints(std::initializer_list<int> which, uint16_t port = 80, bool local = true) {
    std::vector<ServiceEndpoint> out;
    for (int i : which) out.push_back({pods_[static_cast<size_t>(i)].attachment.address.address, port, local});
    return out;
  }
  ServicePort web(std::initializer_list<int> which) {
    return {.key = "default/web:http", .port = 8080, .clusterIps = {ip("10.96.0.20")}, .endpoints = endpoints(which)};
  }
  std::map<std::string, int> ask(const Netns& from, const std::string& address, uint16_t port, int times,
                                 bool udp = false) {
    std::map<std::string, int> out;
    for (int i = 0; i < times; i++) out[TestClient(from, address, port, udp).server()]++;
    return out;
  }

  Netns node_, client_;
  std::unique_ptr<NatTable> nat_;
  std::unique_ptr<BridgeNetwork> network_;
  std::unique_ptr<ServiceProxy> proxy_;
  std::vector<AcquiredNamespace> pods_;
  std::vector<std::unique_ptr<TestServer>> servers_;
};

TEST_P(ServiceProxyTest, ClusterIpSpreadsOverAllEndpoints) {
  ASSERT_OK(proxy_->apply({web({0, 1, 2})}));
  for (auto* from : {&pods_[0].netns, &node_, &client_}) {
    auto seen = ask(*from, "10.96.0.20", 8080, 60);
    EXPECT_EQ(3u, seen.size());
    for (auto& [name, count] : seen) EXPECT_GT(count, 5) << name;
  }
  for (int i = 0; i < 20; i++) {
    TestClient call(pods_[0].netns, "10.96.0.20", 8080);
    EXPECT_EQ(call.server() == "pod0" ? "10.244.1.1" : "10.244.1.2", call.seenAs()) << "pods keep their address";
  }
}

TEST_P(ServiceProxyTest, APodReachesItselfThroughItsService) {
  ASSERT_OK(proxy_->apply({web({0})}));
  EXPECT_EQ("pod0 10.244.1.1", TestClient(pods_[0].netns, "10.96.0.20", 8080).first());
}

TEST_P(ServiceProxyTest, RefusesServicesWithoutEndpointsAndUnknownAddressesAtOnce) {
  ASSERT_OK(proxy_->apply({web({})}));
  for (auto* from : {&pods_[0].netns, &node_, &client_}) {
    EXPECT_EQ("refused", TestClient(*from, "10.96.0.20", 8080).first());
    EXPECT_EQ("refused", TestClient(*from, "10.96.0.20", 81).first()) << "no such port";
    EXPECT_EQ("refused", TestClient(*from, "10.96.7.7", 80).first()) << "no such service";
  }
  auto udp = web({});
  udp.protocol = Protocol::kUdp;
  ASSERT_OK(proxy_->apply({udp}));
  EXPECT_EQ("refused", TestClient(pods_[0].netns, "10.96.0.20", 8080, true).first());
}

TEST_P(ServiceProxyTest, NodePortLoadBalancerAndExternalAddressesAnswer) {
  auto port = web({0, 1, 2});
  port.nodePort = 30080;
  port.loadBalancerIps = {ip("198.51.100.7")};
  port.externalIps = {ip("198.51.100.8")};
  ASSERT_OK(proxy_->apply({port}));
  EXPECT_EQ(3u, ask(client_, "192.0.2.1", 30080, 40).size());
  EXPECT_EQ(3u, ask(client_, "198.51.100.7", 8080, 40).size());
  EXPECT_EQ(3u, ask(client_, "198.51.100.8", 8080, 40).size());
  EXPECT_EQ(3u, ask(pods_[1].netns, "192.0.2.1", 30080, 40).size());
  EXPECT_EQ(3u, ask(node_, "192.0.2.1", 30080, 40).size());
  EXPECT_EQ("10.244.1.1", TestClient(client_, "192.0.2.1", 30080).seenAs()) << "masqueraded";
  EXPECT_EQ("refused", TestClient(client_, "192.0.2.1", 30081).first());
}

TEST_P(ServiceProxyTest, LocalTrafficPolicyKeepsTheClientsAddressAndThePods) {
  auto port = web({0});
  port.localEndpoints = port.endpoints;
  port.endpoints.push_back({pods_[1].attachment.address.address, 80, false});
  port.nodePort = 30080;
  port.externalLocal = true;
  ASSERT_OK(proxy_->apply({port}));
  for (int i = 0; i < 20; i++) EXPECT_EQ("pod0 192.0.2.2", TestClient(client_, "192.0.2.1", 30080).first());
  EXPECT_EQ(2u, ask(pods_[2].netns, "192.0.2.1", 30080, 40).size()) << "from inside, all endpoints serve";
  port.endpoints.erase(port.endpoints.begin());
  port.localEndpoints.clear();
  ASSERT_OK(proxy_->apply({port}));
  EXPECT_EQ("timeout", TestClient(client_, "192.0.2.1", 30080, false, 200).first()) << "dropped: none is local";
  EXPECT_EQ("pod1", TestClient(client_, "10.96.0.20", 8080).server());
  port.internalLocal = true;
  ASSERT_OK(proxy_->apply({port}));
  EXPECT_EQ("timeout", TestClient(pods_[2].netns, "10.96.0.20", 8080, false, 200).first());
}

TEST_P(ServiceProxyTest, LocalTrafficPolicySendsToALocalEndpointThatTheOthersNoLongerUse) {
  auto port = web({1});
  port.endpoints[0].local = false;
  port.localEndpoints = endpoints({0});
  port.nodePort = 30080;
  port.externalLocal = true;
  port.affinitySeconds = 100;
  ASSERT_OK(proxy_->apply({port}));
  for (int i = 0; i < 5; i++) EXPECT_EQ("pod0 192.0.2.2", TestClient(client_, "192.0.2.1", 30080).first());
  EXPECT_EQ("pod1", TestClient(client_, "10.96.0.20", 8080).server());
  port.internalLocal = true;
  ASSERT_OK(proxy_->apply({port}));
  EXPECT_EQ("pod0 10.244.1.1", TestClient(pods_[0].netns, "10.96.0.20", 8080).first()) << "itself, by hairpin";
}

TEST_P(ServiceProxyTest, SessionAffinityHoldsUntilTheEndpointGoes) {
  auto port = web({0, 1, 2});
  port.affinitySeconds = 100;
  port.nodePort = 30080;
  ASSERT_OK(proxy_->apply({port}));
  for (auto [address, number] : {std::pair{"10.96.0.20", 8080}, {"192.0.2.1", 30080}}) {
    auto seen = ask(client_, address, static_cast<uint16_t>(number), 30);
    EXPECT_EQ(1u, seen.size()) << address;
  }
  auto mine = TestClient(pods_[1].netns, "10.96.0.20", 8080).server();
  ASSERT_THAT(mine, testing::StartsWith("pod"));
  int index = mine[3] - '0';
  port.endpoints.erase(port.endpoints.begin() + index);
  ASSERT_OK(proxy_->apply({port}));
  auto seen = ask(pods_[1].netns, "10.96.0.20", 8080, 20);
  EXPECT_EQ(0, seen[mine]);
}

TEST_P(ServiceProxyTest, ChangesTouchOnlyWhatChangedAndLeaveConnectionsAlone) {
  std::vector<ServicePort> all = {web({0, 1, 2})};
  for (int i = 0; i < 50; i++) {
    all.push_back({.key = fmt::format("default/s{}:p", i),
                   .port = 80,
                   .clusterIps = {IpAddress::v4(0x0a600100).plus(static_cast<uint64_t>(i))},
                   .endpoints = endpoints({0, 1})});
  }
  ASSERT_OK(proxy_->apply(all));
  TestClient connection(pods_[1].netns, "10.96.0.20", 8080);
  ASSERT_THAT(connection.server(), testing::StartsWith("pod"));
  int index = connection.server()[3] - '0';
  EXPECT_EQ("ping", connection.echo("ping"));
  all[0].endpoints.erase(all[0].endpoints.begin() + index);
  ASSERT_OK(proxy_->apply(all));
  EXPECT_LE(proxy_->stats().lastChanges, 6u);
  EXPECT_EQ("ping", connection.echo("ping")) << "open connections go on";
  EXPECT_EQ(2u, ask(pods_[1].netns, "10.96.0.20", 8080, 30).size());
  ASSERT_OK(proxy_->apply(all));
  EXPECT_EQ(0u, proxy_->stats().lastChanges);
  // A new process: its first apply replaces the table in one batch.
  within(node_, [&] {
    auto next = ServiceProxy::open({.podRanges = {prefix("10.244.0.0/16")}, .serviceRanges = {prefix("10.96.0.0/16")}});
    ASSERT_OK(next);
    proxy_ = std::move(*next);
  });
  EXPECT_EQ(2u, ask(pods_[1].netns, "10.96.0.20", 8080, 30).size()) << "the old rules still work";
  ASSERT_OK(proxy_->apply(all));
  EXPECT_EQ("ping", connection.echo("ping"));
  EXPECT_OK(proxy_->update({}, {"default/web:http"}));
  EXPECT_EQ("refused", TestClient(pods_[1].netns, "10.96.0.20", 8080).first());
  EXPECT_OK(proxy_->destroy());
  EXPECT_NE("pod0", TestClient(pods_[1].netns, "10.96.1.1", 80, false, 200).server());
}

TEST_P(ServiceProxyTest, AFlushedTableIsInstalledAnew) {
  ASSERT_OK(proxy_->apply({web({0})}));
  within(node_, [&] {
    auto other = ServiceProxy::open({});
    ASSERT_OK((*other)->destroy());
  });
  ASSERT_OK(proxy_->apply({web({1})}));
  EXPECT_EQ("pod1", TestClient(pods_[0].netns, "10.96.0.20", 8080).server());
}

// A socket that asks again and again, as one flow.
class Asker {
 public:
  Asker(const Netns& from, const std::string& to, uint16_t port) {
    fd_ = std::move(*socketInNetns(from.fd(), AF_INET, SOCK_DGRAM, 0));
    auto address = socketAddress(to, port);
    EXPECT_EQ(0, connect(fd_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address));
    timeval limit{0, 300000};
    setsockopt(fd_.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  }
  std::string ask() {
    char buffer[100];
    send(fd_.get(), "q", 1, 0);
    ssize_t n = recv(fd_.get(), buffer, sizeof buffer, 0);
    return n < 4 ? "nothing" : std::string(buffer, 4);
  }

 private:
  UniqueFd fd_;
};

ServicePort datagrams(std::vector<ServiceEndpoint> endpoints) {
  return {.key = "shop/questions:53/UDP",
          .protocol = Protocol::kUdp,
          .port = 53,
          .clusterIps = {ip("10.96.0.30")},
          .endpoints = std::move(endpoints)};
}

TEST_P(ServiceProxyTest, UdpFlowsFollowTheEndpoints) {
  ASSERT_OK(proxy_->apply({datagrams(endpoints({0}, 53))}));
  Asker asker(client_, "10.96.0.30", 53);
  EXPECT_EQ("pod0", asker.ask());
  ASSERT_OK(proxy_->apply({datagrams(endpoints({1}, 53))}));
  EXPECT_EQ("pod1", asker.ask()) << "the same socket, a new endpoint";
  ASSERT_OK(proxy_->update({datagrams({})}, {}));
  EXPECT_EQ("nothing", asker.ask());
  ASSERT_OK(proxy_->update({datagrams(endpoints({2}, 53))}, {}));
  EXPECT_EQ("pod2", asker.ask());
  ASSERT_OK(proxy_->update({}, {"shop/questions:53/UDP"}));
  EXPECT_EQ("nothing", asker.ask()) << "the service is gone";
}

TEST_P(ServiceProxyTest, UdpFlowsFollowAnEndpointToItsOtherPort) {
  TestServer other(pods_[0].netns, "next", 5353, true);
  ASSERT_OK(proxy_->apply({datagrams(endpoints({0}, 53))}));
  Asker asker(client_, "10.96.0.30", 53);
  EXPECT_EQ("pod0", asker.ask());
  ASSERT_OK(proxy_->update({datagrams(endpoints({0}, 5353))}, {}));
  EXPECT_EQ("next", asker.ask());
}

TEST_P(ServiceProxyTest, UdpFlowsStayWithWhoStillServesThem) {
  auto port = datagrams(endpoints({0}, 53));
  ASSERT_OK(proxy_->apply({port}));
  Asker asker(client_, "10.96.0.30", 53), other(client_, "192.0.2.1", 30053);
  EXPECT_EQ("pod0", asker.ask());
  port.endpoints = endpoints({1}, 53);
  port.standing = endpoints({0}, 53);
  port.nodePort = 30053;
  ASSERT_OK(proxy_->update({port}, {}));
  EXPECT_EQ("pod0", asker.ask()) << "another one is nearer now, which is no reason to break off";
  EXPECT_EQ("pod1", other.ask());
  port.standing = {};
  ASSERT_OK(proxy_->update({port}, {}));
  EXPECT_EQ("pod1", asker.ask());
}

TEST_P(ServiceProxyTest, AFlowThatFoundNobodyIsLedOnceThereIsSomebody) {
  TestServer elsewhere(client_, "away", 30053, true);
  Asker door(client_, "192.0.2.1", 30053), away(pods_[0].netns, "192.0.2.2", 30053);
  EXPECT_EQ("nothing", door.ask());
  EXPECT_EQ("away", away.ask());
  auto port = datagrams(endpoints({1}, 53));
  port.nodePort = 30053;
  ASSERT_OK(proxy_->apply({port}));
  EXPECT_EQ("pod1", door.ask());
  EXPECT_EQ("away", away.ask()) << "the same port of another machine";
}

TEST_P(ServiceProxyTest, FlowsThatWentStaleWhileNobodyLookedAreForgottenByTheNextProcess) {
  auto gone = datagrams(endpoints({2}, 53));
  gone.key = "shop/gone:53/UDP";
  gone.clusterIps = {ip("10.96.0.31")};
  ASSERT_OK(proxy_->apply({datagrams(endpoints({0}, 53)), gone}));
  Asker asker(client_, "10.96.0.30", 53), left(client_, "10.96.0.31", 53);
  EXPECT_EQ("pod0", asker.ask());
  EXPECT_EQ("pod2", left.ask());
  within(node_, [&] {
    auto next = ServiceProxy::open({.podRanges = {prefix("10.244.0.0/16")}, .serviceRanges = {prefix("10.96.0.0/16")}});
    ASSERT_OK(next);
    proxy_ = std::move(*next);
  });
  ASSERT_OK(proxy_->apply({datagrams(endpoints({1}, 53))}, ServiceProxy::Snapshot::kUnsure));
  EXPECT_EQ("pod0", asker.ask()) << "what is remembered may be older than the flow";
  ASSERT_OK(proxy_->apply({datagrams(endpoints({1}, 53))}));
  EXPECT_EQ("pod1", asker.ask());
  EXPECT_EQ("nothing", left.ask());
}

// The kernel here may have no SCTP of its own, but tracks it: INIT chunks by raw sockets (RFC 9260).
class SctpSender {
 public:
  explicit SctpSender(const Netns& from) {
    fd_ = std::move(*socketInNetns(from.fd(), AF_INET, SOCK_RAW, IPPROTO_SCTP));
  }
  void init(const std::string& to, uint16_t fromPort, uint16_t toPort) {
    std::string packet;
    auto put16 = [&](uint16_t v) { packet += {static_cast<char>(v >> 8), static_cast<char>(v & 0xff)}; };
    auto put32 = [&](uint32_t v) {
      put16(static_cast<uint16_t>(v >> 16));
      put16(static_cast<uint16_t>(v));
    };
    put16(fromPort);
    put16(toPort);
    put32(0);  // no tag yet
    put32(0);  // the checksum's place
    packet += {1, 0, 0, 20};
    put32(4711);  // tag
    put32(65536);
    put16(1);
    put16(1);
    put32(1);
    const uint32_t sum = crc32c(packet);
    for (size_t i = 0; i < 4; i++) packet[8 + i] = static_cast<char>(sum >> 8 * i & 0xff);
    auto address = socketAddress(to, 0);
    EXPECT_EQ(static_cast<ssize_t>(packet.size()), sendto(fd_.get(), packet.data(), packet.size(), 0,
                                                          reinterpret_cast<sockaddr*>(&address), sizeof(sockaddr_in)));
  }

 private:
  static uint32_t crc32c(const std::string& bytes) {
    uint32_t crc = ~0U;
    for (char c : bytes) {
      crc ^= static_cast<uint8_t>(c);
      for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78 : 0);
    }
    return ~crc;
  }
  UniqueFd fd_;
};

class SctpReceiver {
 public:
  explicit SctpReceiver(const Netns& at) {
    fd_ = std::move(*socketInNetns(at.fd(), AF_INET, SOCK_RAW, IPPROTO_SCTP));
    timeval limit{0, 300000};
    setsockopt(fd_.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  }
  // That the next packet came to; 0: none came.
  int port() {
    uint8_t buffer[256];
    const ssize_t n = recv(fd_.get(), buffer, sizeof buffer, 0);
    const size_t header = (buffer[0] & 15U) * 4;
    return n < static_cast<ssize_t>(header + 12) ? 0 : buffer[header + 2] << 8 | buffer[header + 3];
  }

 private:
  UniqueFd fd_;
};

TEST_P(ServiceProxyTest, SctpIsLedAndItsAssociationsForgottenWithTheirEndpoint) {
  ServicePort port{.key = "shop/signals:7/SCTP",
                   .protocol = Protocol::kSctp,
                   .port = 7,
                   .clusterIps = {ip("10.96.0.40")},
                   .endpoints = endpoints({0}, 70)};
  ASSERT_OK(proxy_->apply({port}));
  SctpSender sender(client_);
  SctpReceiver first(pods_[0].netns), second(pods_[1].netns);
  sender.init("10.96.0.40", 1234, 7);
  EXPECT_EQ(70, first.port()) << "translated";
  // Another association stays when one endpoint more comes.
  for (auto* list : {&port.endpoints, &port.standing}) *list = endpoints({0, 1}, 70);
  ASSERT_OK(proxy_->update({port}, {}));
  sender.init("10.96.0.40", 1234, 7);
  EXPECT_EQ(70, first.port());
  port.endpoints = endpoints({1}, 70);
  ASSERT_OK(proxy_->update({port}, {}));
  sender.init("10.96.0.40", 1234, 7);
  EXPECT_EQ(70, first.port()) << "its pod is still there";
  port.standing = {};
  ASSERT_OK(proxy_->update({port}, {}));
  sender.init("10.96.0.40", 1234, 7);
  EXPECT_EQ(70, second.port());
  EXPECT_EQ(0, first.port());
}

TEST_P(ServiceProxyTest, DnsOnTheNodeIsNotTracked) {
  within(node_, [&] {
    auto links = NetLinks::open();
    ASSERT_OK(links->addAddress(links->find("lo")->index, IpPrefix::host(ip("10.96.0.10"))));
    auto proxy = ServiceProxy::open({.podRanges = {prefix("10.244.0.0/16")},
                                     .serviceRanges = {prefix("10.96.0.0/16")},
                                     .untrackedDns = {ip("10.96.0.10")}});
    ASSERT_OK(proxy);
    ASSERT_OK((*proxy)->apply({web({0})}));
  });
  TestServer dns(node_, "dns", 53, true, "10.96.0.10");
  EXPECT_EQ("dns", TestClient(pods_[0].netns, "10.96.0.10", 53, true).server());
  EXPECT_EQ("dns", TestClient(node_, "10.96.0.10", 53, true).server());
  within(node_, [&] {
    auto tracked = readFile("/proc/thread-self/net/nf_conntrack");
    if (tracked.ok()) EXPECT_EQ(tracked->npos, tracked->find("dst=10.96.0.10"));
  });
  EXPECT_EQ("pod0", TestClient(pods_[1].netns, "10.96.0.20", 8080).server());
}

TEST_P(ServiceProxyTest, LoadBalancerSourceRangesAreKept) {
  auto port = web({0});
  port.loadBalancerIps = {ip("198.51.100.7")};
  port.loadBalancerSourceRanges = {prefix("192.0.2.0/25"), prefix("192.0.2.0/24"), prefix("203.0.113.0/24")};
  ASSERT_OK(proxy_->apply({port}));
  EXPECT_EQ("pod0", TestClient(client_, "198.51.100.7", 8080).server());
  port.loadBalancerSourceRanges = {prefix("203.0.113.0/24")};
  ASSERT_OK(proxy_->apply({port}));
  EXPECT_EQ("timeout", TestClient(client_, "198.51.100.7", 8080, false, 200).first());
  EXPECT_EQ("pod0", TestClient(client_, "10.96.0.20", 8080).server());
}

TEST_P(ServiceProxyTest, TheFirstOfTwoClaimantsHoldsAnAddress) {
  auto a = web({0}), b = web({1});
  a.key = "a/web:http";
  b.key = "b/web:http";
  ASSERT_OK(proxy_->apply({a, b}));
  EXPECT_EQ("pod0", TestClient(client_, "10.96.0.20", 8080).server());
  ASSERT_OK(proxy_->apply({b}));
  EXPECT_EQ("pod1", TestClient(client_, "10.96.0.20", 8080).server());
}

TEST_P(ServiceProxyTest, ReportsWhatTenThousandServicesCost) {
  std::vector<ServicePort> all;
  for (int i = 0; i < 10000; i++) {
    ServicePort port{.key = fmt::format("ns/s{:05}:p", i),
                     .port = 80,
                     .clusterIps = {IpAddress::v4(0x0a600100).plus(static_cast<uint64_t>(i))}};
    for (int k = 0; k < 3; k++)
      port.endpoints.push_back({IpAddress::v4(0x0af40000).plus(static_cast<uint64_t>(i * 3 + k)), 80, false});
    all.push_back(port);
  }
  auto time = [](auto&& work) {
    auto start = std::chrono::steady_clock::now();
    work();
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
  };
  double install = time([&] { ASSERT_OK(proxy_->apply(all)); });
  size_t elements = proxy_->stats().elements;
  auto removeOne = [&](size_t at) {
    all[at].endpoints.pop_back();
    auto one = all[at];
    return time([&] { ASSERT_OK(proxy_->update({one}, {})); });
  };
  double first = removeOne(5000);
  std::vector<double> times;
  for (size_t i = 0; i < 21; i++) times.push_back(removeOne(6000 + i));
  std::sort(times.begin(), times.end());
  auto one = all[5000];
  one.endpoints[0].port = 81;
  double replace = time([&] { ASSERT_OK(proxy_->update({one}, {})); });
  double snapshot = time([&] { ASSERT_OK(proxy_->apply(all)); });
  printf(
      "10000 services, 30000 endpoints, %zu elements: installed in %.0f ms; endpoint removed in %.2f ms (the first "
      "time %.2f), replaced in %.2f ms; the same as a snapshot in %.1f ms\n",
      elements, install, times[10], first, replace, snapshot);
  ASSERT_OK(proxy_->update({web({0, 1, 2})}, {}));
  double connect = time([&] { ask(client_, "10.96.0.20", 8080, 50); }) / 50;
  printf("connection through one of them %.2f ms\n", connect);
}

INSTANTIATE_TEST_SUITE_P(Namespaces, ServiceProxyTest, testing::Bool());

}  // namespace
}  // namespace dhow
