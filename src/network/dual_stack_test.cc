// Both families side by side: pods, services and policies of nodes that have a range of each.
#include <fcntl.h>

#include <span>

#include "base/files.h"
#include "network/bridge_network.h"
#include "network/nat_table.h"
#include "network/policy_table.h"
#include "network/service_proxy.h"
#include "testing.h"

namespace dhow {
namespace {

constexpr int kShort = 300;  // milliseconds, where nothing is to arrive

IpAddress ip(const std::string& text) {
  return IpAddress::parse(text).value();
}
IpPrefix prefix(const std::string& text) {
  return IpPrefix::parse(text).value();
}

// A node, its number in the addresses; eth0 leads to whoever the test puts there.
struct Node {
  Netns netns;
  std::unique_ptr<NatTable> nat;
  std::unique_ptr<BridgeNetwork> network;
  std::unique_ptr<ServiceProxy> proxy;
  std::unique_ptr<PolicyTable> policies;

  enum class Families { kBoth, kIpv6 };
  explicit Node(int number, Families families = Families::kBoth) {
    const bool both = families == Families::kBoth;
    const auto range6 = prefix(fmt::format("fd00:10:244:{}::/64", number));
    netns = std::move(*Netns::create());
    within(netns, [&] {
      auto opened = NatTable::open("dhow-nodes");
      ASSERT_OK(opened);
      nat = std::move(*opened);
      auto started = BridgeNetwork::start({.bridge = "dhow0",
                                           .subnet = both ? prefix(fmt::format("10.244.{}.0/24", number)) : range6,
                                           .subnet6 = both ? range6 : IpPrefix(),
                                           .routed = true,
                                           .ownNamespace = true,
                                           .noMasquerade = {prefix("10.244.0.0/16"), prefix("fd00:10:244::/56")}},
                                          *nat);
      ASSERT_OK(started);
      network = std::move(*started);
      auto services = ServiceProxy::open({.podRanges = {prefix("10.244.0.0/16"), prefix("fd00:10:244::/56")},
                                          .serviceRanges = {prefix("10.96.0.0/16"), prefix("fd00:10:96::/108")}});
      ASSERT_OK(services);
      proxy = std::move(*services);
      auto table = PolicyTable::open({.dns = {}, .ipv6 = true});
      ASSERT_OK(table);
      policies = std::move(*table);
    });
  }
};

struct Pod {
  AcquiredNamespace made;
  std::unique_ptr<TestServer> four, six;
  std::string address() const { return made.attachment.address.address.str(); }
  std::string address6() const { return made.attachment.address6.str(); }
};

Pod podOn(Node& node, const std::string& name) {
  Pod pod{std::move(*node.network->acquire(name)), nullptr, nullptr};
  pod.four = std::make_unique<TestServer>(pod.made.netns, name, 80);
  pod.six = std::make_unique<TestServer>(pod.made.netns, name, 80, false, "::");
  return pod;
}

class DualStackTest : public testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root to make network namespaces";
    if (!pathExists("/proc/sys/net/ipv6")) GTEST_SKIP() << "needs a kernel with IPv6";
    node_ = std::make_unique<Node>(1);
    world_ = std::move(*Netns::create());
    within(node_->netns, [&] {
      auto links = NetLinks::open();
      auto uplink = links->createVeth({.name = "eth0", .peerName = "eth0", .peerNetnsFd = world_.fd()});
      ASSERT_OK(uplink);
      ASSERT_OK(links->addAddress(*uplink, prefix("192.0.2.1/24")));
      ASSERT_OK(links->addAddress(*uplink, prefix("2001:db8::1/64")));
      ASSERT_OK(links->setRoute({.destination = {}, .gateway = ip("192.0.2.2")}));
      ASSERT_OK(links->setRoute({.destination = {}, .gateway = ip("2001:db8::2")}));
    });
    auto links = NetLinks::openIn(world_.fd());
    ASSERT_OK(links->configureInside(
        links->find("eth0")->index, {prefix("192.0.2.2/24"), prefix("2001:db8::2/64")},
        {{.destination = {}, .gateway = ip("192.0.2.1")}, {.destination = {}, .gateway = ip("2001:db8::1")}}));
    for (int i = 0; i < 3; i++) pods_.push_back(podOn(*node_, fmt::format("pod{}", i)));
  }
  ServicePort web(std::initializer_list<size_t> which) {
    ServicePort out{.key = "default/web:http",
                    .port = 8080,
                    .clusterIps = {ip("10.96.0.20"), ip("fd00:10:96::20")},
                    .nodePort = 30080};
    for (size_t i : which) {
      out.endpoints.push_back({ip(pods_[i].address()), 80, true});
      out.endpoints.push_back({ip(pods_[i].address6()), 80, true});
    }
    return out;
  }
  std::set<std::string> ask(const Netns& from, const std::string& address, uint16_t port, int times) {
    std::set<std::string> out;
    for (int i = 0; i < times; i++) out.insert(TestClient(from, address, port).server());
    return out;
  }
  Netns& inPod(size_t i) { return pods_[i].made.netns; }

  std::unique_ptr<Node> node_;
  Netns world_;
  std::vector<Pod> pods_;
};

using Names = std::set<std::string>;

TEST_F(DualStackTest, PodsHaveTheSameNumberInBothRangesAndReachEachOtherAndTheWorld) {
  EXPECT_EQ(pods_[0].address(), "10.244.1.2");
  EXPECT_EQ(pods_[0].address6(), "fd00:10:244:1::2");
  EXPECT_EQ("pod1 fd00:10:244:1::2", TestClient(inPod(0), "fd00:10:244:1::3", 80).first());
  EXPECT_EQ("pod1 10.244.1.2", TestClient(inPod(0), "10.244.1.3", 80).first());
  EXPECT_EQ("pod1 fd00:10:244:1::1", TestClient(node_->netns, "fd00:10:244:1::3", 80).first());
  TestServer world(world_, "world", 90, false, "::"), onNode(node_->netns, "node", 91, false, "::");
  EXPECT_EQ("world 2001:db8::1", TestClient(inPod(0), "2001:db8::2", 90).first()) << "masqueraded";
  EXPECT_EQ("node fd00:10:244:1::2", TestClient(inPod(0), "fd00:10:244:1::1", 91).first());
  // An agent that comes back knows both of a pod.
  node_->network->detach("pod2");
  ASSERT_OK(node_->network->adopt("again", ip("10.244.1.77"), "veth-none"));
  for (const auto& attachment : node_->network->attachments()) {
    if (attachment.containerId == "again") EXPECT_EQ(attachment.address6.str(), "fd00:10:244:1::4d");
  }
  ASSERT_OK(node_->network->adopt("other", ip("fd00:10:244:1::4e"), "veth-none"));
  for (const auto& attachment : node_->network->attachments()) {
    if (attachment.containerId == "other") EXPECT_EQ(attachment.address.str(), "10.244.1.78/24");
  }
}

TEST_F(DualStackTest, ServicesAnswerOnEachOfTheirAddresses) {
  ASSERT_OK(node_->proxy->apply({web({0, 1, 2})}));
  const Names all = {"pod0", "pod1", "pod2"};
  for (const auto* from : {&inPod(0), &node_->netns, &world_}) {
    EXPECT_EQ(ask(*from, "fd00:10:96::20", 8080, 40), all);
    EXPECT_EQ(ask(*from, "10.96.0.20", 8080, 40), all);
  }
  EXPECT_EQ(ask(world_, "2001:db8::1", 30080, 40), all) << "node port";
  EXPECT_EQ(ask(node_->netns, "2001:db8::1", 30080, 40), all);
  EXPECT_EQ(ask(inPod(0), "fd00:10:244:1::1", 30080, 40), all);
  EXPECT_EQ("refused", TestClient(node_->netns, "::1", 30080).first()) << "not on the loopback";
  ASSERT_OK(node_->proxy->update({web({0})}, {}));
  EXPECT_EQ("pod0 fd00:10:244:1::1", TestClient(inPod(0), "fd00:10:96::20", 8080).first()) << "by way of the node";
  EXPECT_EQ("pod0 fd00:10:244:1::3", TestClient(inPod(1), "fd00:10:96::20", 8080).first()) << "pods keep theirs";
  ASSERT_OK(node_->proxy->update({web({})}, {}));
  EXPECT_EQ("refused", TestClient(inPod(0), "fd00:10:96::20", 8080).first());
  EXPECT_EQ("refused", TestClient(world_, "2001:db8::1", 30080).first());
  EXPECT_EQ("refused", TestClient(inPod(0), "fd00:10:96::abc", 80).first()) << "no such service";
}

TEST_F(DualStackTest, AServiceOfOneFamilyIsNotServedInTheOther) {
  auto four = web({0}), six = web({1});
  four.clusterIps = {ip("10.96.0.20")};
  six.key = "default/six:http";
  six.clusterIps = {ip("fd00:10:96::21")};
  six.nodePort = 30081;
  ASSERT_OK(node_->proxy->apply({four, six}));
  EXPECT_EQ(ask(world_, "192.0.2.1", 30080, 1), Names{"pod0"});
  EXPECT_EQ("refused", TestClient(world_, "2001:db8::1", 30080).first());
  EXPECT_EQ(ask(world_, "2001:db8::1", 30081, 1), Names{"pod1"});
  EXPECT_EQ("refused", TestClient(world_, "192.0.2.1", 30081).first());
  EXPECT_EQ(ask(inPod(2), "fd00:10:96::21", 8080, 1), Names{"pod1"});
  // The first one gets a second family.
  ASSERT_OK(node_->proxy->update({web({0})}, {"default/six:http"}));
  EXPECT_EQ(ask(world_, "2001:db8::1", 30080, 1), Names{"pod0"});
  EXPECT_EQ("refused", TestClient(world_, "2001:db8::1", 30081).first());
  EXPECT_OK(node_->proxy->destroy());
}

TEST_F(DualStackTest, AffinitySourceRangesAndLocalPoliciesHoldInBoth) {
  auto sticky = web({0, 1, 2});
  sticky.affinitySeconds = 60;
  sticky.loadBalancerIps = {ip("192.0.2.50"), ip("2001:db8:1::50")};
  sticky.loadBalancerSourceRanges = {prefix("2001:db8:0:0::/64")};
  ASSERT_OK(node_->proxy->apply({sticky}));
  EXPECT_EQ(ask(inPod(0), "fd00:10:96::20", 8080, 20).size(), 1u);
  EXPECT_EQ(ask(inPod(0), "10.96.0.20", 8080, 20).size(), 1u);
  EXPECT_EQ(ask(world_, "2001:db8:1::50", 8080, 20).size(), 1u);
  EXPECT_EQ("timeout", TestClient(world_, "192.0.2.50", 8080, false, kShort).first()) << "no range of IPv4 is allowed";
  sticky.loadBalancerSourceRanges = {prefix("2001:db8:7::/64")};
  sticky.affinitySeconds = 0;
  sticky.externalLocal = true;
  sticky.localEndpoints = {sticky.endpoints[1]};
  ASSERT_OK(node_->proxy->apply({sticky}));
  EXPECT_EQ("timeout", TestClient(world_, "2001:db8:1::50", 8080, false, kShort).first());
  EXPECT_EQ("pod0 2001:db8::2", TestClient(world_, "2001:db8::1", 30080).first()) << "who asks is seen";
}

TEST_F(DualStackTest, PoliciesAreJudgedByTheAddressThatIsUsed) {
  PolicySubject closed;
  closed.ingress = std::vector<PolicyRule>{};
  const IpAddress four = ip(pods_[0].address()), six = ip(pods_[0].address6());
  auto from = [&](const Netns& netns, const IpAddress& to) { return TestClient(netns, to.str(), 80).server(); };
  auto dropped = [&](const Netns& netns, const IpAddress& to) {
    return TestClient(netns, to.str(), 80, false, kShort).server() == "timeout";
  };
  within(node_->netns, [&] { ASSERT_OK(node_->policies->apply({{four, closed}, {six, closed}}, {})); });
  for (const auto* netns : {&inPod(1), &world_}) {
    EXPECT_TRUE(dropped(*netns, four));
    EXPECT_TRUE(dropped(*netns, six));
  }
  EXPECT_EQ(from(node_->netns, six), "pod0") << "its node reaches it";
  EXPECT_EQ(from(inPod(0), six), "pod0") << "so does it itself";

  PolicySubject some;
  some.ingress = {{.groups = {1}, .everyPort = true},
                  {.blocks = {{.cidr = prefix("2001:db8::/64"), .except = {prefix("2001:db8::2/128")}},
                              {.cidr = prefix("192.0.2.0/24"), .except = {}}},
                   .ports = {{Protocol::kTcp, 80, 80}}}};
  PolicyTable::Peers peers = {{ip(pods_[1].address()), PolicyPeer{.groups = {1}, .ports = {}}},
                              {ip(pods_[1].address6()), PolicyPeer{.groups = {1}, .ports = {}}}};
  within(node_->netns, [&] { ASSERT_OK(node_->policies->apply({{four, some}, {six, some}}, peers)); });
  EXPECT_EQ(from(inPod(1), six), "pod0");
  EXPECT_EQ(from(inPod(1), four), "pod0");
  EXPECT_TRUE(dropped(inPod(2), six));
  EXPECT_EQ(from(world_, four), "pod0");
  EXPECT_TRUE(dropped(world_, six)) << "left out";
  some.ingress->back().blocks[0].except.clear();
  within(node_->netns, [&] { ASSERT_OK(node_->policies->apply({{four, some}, {six, some}}, {})); });
  EXPECT_EQ(from(world_, six), "pod0");

  // Who may send nowhere still finds its gateway, and answers who asks.
  PolicySubject silent;
  silent.egress = std::vector<PolicyRule>{};
  within(node_->netns, [&] { ASSERT_OK(node_->policies->apply({{four, silent}, {six, silent}}, {})); });
  EXPECT_TRUE(dropped(inPod(0), ip(pods_[1].address6())));
  EXPECT_EQ(from(world_, six), "pod0");
  within(node_->netns, [&] { ASSERT_OK(node_->policies->apply({}, {})); });
  EXPECT_EQ(from(inPod(0), ip(pods_[1].address6())), "pod1");
}

// Both on one segment, with these addresses and the next ones.
void connect(const Netns& segment, std::span<Node> nodes, const std::vector<IpPrefix>& first) {
  auto links = NetLinks::openIn(segment.fd());
  auto bridge = links->createBridge("zone0");
  ASSERT_OK(bridge);
  for (size_t i = 0; i < nodes.size(); i++) {
    ASSERT_OK(links->createVeth(
        {.name = fmt::format("n{}", i), .peerName = "eth0", .peerNetnsFd = nodes[i].netns.fd(), .master = *bridge}));
    within(nodes[i].netns, [] { ASSERT_OK(setSysctl("net/ipv6/conf/eth0/accept_dad", "0")); });
    auto inside = NetLinks::openIn(nodes[i].netns.fd());
    std::vector<IpPrefix> own;
    for (const IpPrefix& one : first) own.push_back({one.address.plus(i), one.length});
    ASSERT_OK(inside->configureInside(inside->find("eth0")->index, own, {}));
  }
}

TEST(DualStackNodesTest, PodsOfTwoNodesReachEachOtherDirectlyAndByTunnel) {
  SKIP_UNLESS_ROOT();
  if (!pathExists("/proc/sys/net/ipv6")) GTEST_SKIP() << "needs a kernel with IPv6";
  auto segment = Netns::create();
  ASSERT_OK(segment);
  Node nodes[] = {Node(1), Node(2)};
  connect(*segment, nodes, {prefix("192.168.100.1/24"), prefix("2001:db8::1/64")});
  Pod a = podOn(nodes[0], "a"), b = podOn(nodes[1], "b");
  for (bool direct : {true, false}) {
    for (int i = 0; i < 2; i++) {
      NodeRoute other{.podRange = prefix(fmt::format("10.244.{}.0/24", 2 - i)),
                      .nodeAddress = ip("192.168.100.2"),
                      .podRange6 = prefix(fmt::format("fd00:10:244:{}::/64", 2 - i))};
      if (i == 1) other.nodeAddress = ip("192.168.100.1");
      if (direct) other.nodeAddress6 = ip(i == 0 ? "2001:db8::2" : "2001:db8::1");
      within(nodes[i].netns, [&] { ASSERT_OK(nodes[i].network->setNodeRoutes({other})); });
    }
    EXPECT_EQ("b fd00:10:244:1::2", TestClient(a.made.netns, "fd00:10:244:2::2", 80).first()) << direct;
    EXPECT_EQ("b 10.244.1.2", TestClient(a.made.netns, "10.244.2.2", 80).first()) << direct;
    EXPECT_EQ("b", TestClient(nodes[0].netns, "fd00:10:244:2::2", 80).server()) << "from the node";
  }
  within(nodes[0].netns, [&] { ASSERT_OK(nodes[0].network->setNodeRoutes({})); });
  EXPECT_NE("b", TestClient(a.made.netns, "fd00:10:244:2::2", 80, false, kShort).server());
}

TEST(DualStackNodesTest, BothFamiliesGoByATunnelOfIpv6) {
  SKIP_UNLESS_ROOT();
  if (!pathExists("/proc/sys/net/ipv6")) GTEST_SKIP() << "needs a kernel with IPv6";
  auto segment = Netns::create();
  ASSERT_OK(segment);
  Node nodes[] = {Node(1), Node(2)};
  connect(*segment, nodes, {prefix("2001:db8::1/64")});
  Pod a = podOn(nodes[0], "a"), b = podOn(nodes[1], "b");
  for (int i = 0; i < 2; i++) {
    const NodeRoute other{.podRange = prefix(fmt::format("10.244.{}.0/24", 2 - i)),
                          .nodeAddress = ip(i == 0 ? "2001:db8::2" : "2001:db8::1"),
                          .onSegment = false,
                          .podRange6 = prefix(fmt::format("fd00:10:244:{}::/64", 2 - i))};
    within(nodes[i].netns, [&] { ASSERT_OK(nodes[i].network->setNodeRoutes({other})); });
  }
  EXPECT_EQ("b fd00:10:244:1::2", TestClient(a.made.netns, "fd00:10:244:2::2", 80).first());
  EXPECT_EQ("b 10.244.1.2", TestClient(a.made.netns, "10.244.2.2", 80).first());
}

TEST(Ipv6OnlyTest, PodsReachEachOtherTheirNodeAndTheWorld) {
  SKIP_UNLESS_ROOT();
  if (!pathExists("/proc/sys/net/ipv6")) GTEST_SKIP() << "needs a kernel with IPv6";
  auto segment = Netns::create();
  ASSERT_OK(segment);
  Node nodes[] = {Node(1, Node::Families::kIpv6), Node(2, Node::Families::kIpv6)};
  connect(*segment, nodes, {prefix("2001:db8::1/64")});
  std::vector<AcquiredNamespace> pods;
  std::vector<std::unique_ptr<TestServer>> servers;
  for (const auto& [node, name] : {std::pair(0, "a"), {0, "c"}, {1, "b"}}) {
    auto made = nodes[node].network->acquire(name);
    ASSERT_OK(made);
    EXPECT_TRUE(made->attachment.address6.empty());
    servers.push_back(std::make_unique<TestServer>(made->netns, name, 80, false, "::"));
    pods.push_back(std::move(*made));
  }
  EXPECT_EQ(pods[0].attachment.address.str(), "fd00:10:244:1::2/64");
  EXPECT_EQ("c fd00:10:244:1::2", TestClient(pods[0].netns, "fd00:10:244:1::3", 80).first());
  EXPECT_EQ("c fd00:10:244:1::1", TestClient(nodes[0].netns, "fd00:10:244:1::3", 80).first());
  TestServer world(nodes[1].netns, "world", 90, false, "::");
  EXPECT_EQ("world 2001:db8::1", TestClient(pods[0].netns, "2001:db8::2", 90).first()) << "masqueraded";
  for (bool direct : {true, false}) {
    for (int i = 0; i < 2; i++) {
      const NodeRoute other{.podRange = prefix(fmt::format("fd00:10:244:{}::/64", 2 - i)),
                            .nodeAddress = ip(i == 0 ? "2001:db8::2" : "2001:db8::1"),
                            .onSegment = direct};
      within(nodes[i].netns, [&] { ASSERT_OK(nodes[i].network->setNodeRoutes({other})); });
    }
    EXPECT_EQ("b fd00:10:244:1::2", TestClient(pods[0].netns, "fd00:10:244:2::2", 80).first()) << direct;
    EXPECT_EQ("b", TestClient(nodes[0].netns, "fd00:10:244:2::2", 80).server()) << "from the node";
  }
  ASSERT_OK(nodes[0].network->adopt("again", ip("fd00:10:244:1::4d"), "veth-none"));
  EXPECT_FALSE(nodes[0].network->adopt("other", ip("fd00:10:244:1::4d"), "veth-none").ok());
}

}  // namespace
}  // namespace dhow
