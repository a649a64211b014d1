#include "network/bridge_network.h"

#include <fcntl.h>
#include <linux/nsfs.h>
#include <net/ethernet.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/files.h"
#include "network/nat_table.h"
#include "testing.h"

namespace dhow {
namespace {

IpAddress ip(const char* text) {
  return IpAddress::parse(text).value();
}
IpPrefix prefix(const char* text) {
  return IpPrefix::parse(text).value();
}
double milliseconds(std::chrono::steady_clock::time_point since) {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - since).count();
}

// A machine: a namespace with a table and networks.
struct Machine {
  Netns netns;
  std::unique_ptr<NatTable> nat;

  Machine() {
    netns = std::move(*Netns::create());
    within(netns, [&] {
      auto made = NatTable::open("dhow-test");
      ASSERT_TRUE(made.ok()) << made.error().message();
      nat = std::move(*made);
    });
  }
  std::unique_ptr<BridgeNetwork> network(BridgeNetworkOptions options) {
    std::unique_ptr<BridgeNetwork> out;
    within(netns, [&] {
      auto made = BridgeNetwork::start(std::move(options), *nat);
      ASSERT_TRUE(made.ok()) << made.error().message();
      out = std::move(*made);
    });
    return out;
  }
};

BridgeNetworkOptions podOptions(const char* range) {
  return {.bridge = "dhow0", .subnet = prefix(range), .routed = true, .noMasquerade = {prefix("10.244.0.0/16")}};
}

TEST(BridgeNetworkTest, PodsReachEachOtherAndTheGateway) {
  SKIP_UNLESS_ROOT();
  Machine node;
  auto network = node.network(podOptions("10.244.1.0/24"));
  auto a = network->acquire("a");
  auto b = network->acquire("b");
  ASSERT_OK(a);
  ASSERT_OK(b);
  EXPECT_EQ("10.244.1.2/24", a->attachment.address.str());
  EXPECT_EQ("10.244.1.3/24", b->attachment.address.str());
  TestServer inB(b->netns, "b", 80), onNode(node.netns, "node", 81);
  EXPECT_EQ("b 10.244.1.2", TestClient(a->netns, "10.244.1.3", 80).first());
  EXPECT_EQ("node 10.244.1.2", TestClient(a->netns, "10.244.1.1", 81).first());
  EXPECT_EQ("b 10.244.1.1", TestClient(node.netns, "10.244.1.3", 80).first());
  EXPECT_OK(network->destroy());
}

TEST(BridgeNetworkTest, DockerNetworksMasqueradeAndAreApart) {
  SKIP_UNLESS_ROOT();
  Machine host;
  auto one = host.network({.bridge = "br-one", .subnet = prefix("172.18.0.0/16")});
  auto two = host.network({.bridge = "br-two", .subnet = prefix("172.19.0.0/16")});
  auto inside = host.network({.bridge = "br-in", .subnet = prefix("172.20.0.0/16"), .internal = true});
  auto a = one->acquire("a"), b = one->acquire("b"), c = two->acquire("c"), d = inside->acquire("d");
  ASSERT_OK(a);
  ASSERT_OK(b);
  ASSERT_OK(c);
  ASSERT_OK(d);
  // The world outside of the machine.
  auto outside = Netns::create();
  ASSERT_OK(outside);
  within(host.netns, [&] {
    auto links = NetLinks::open();
    auto veth = links->createVeth({.name = "up0", .peerName = "eth0", .peerNetnsFd = outside->fd()});
    ASSERT_OK(veth);
    ASSERT_OK(links->addAddress(*veth, prefix("192.0.2.1/24")));
  });
  auto far = NetLinks::openIn(outside->fd());
  ASSERT_OK(far->configureInside(far->find("eth0")->index, {prefix("192.0.2.2/24")}, {}));
  TestServer world(*outside, "world", 80), inB(b->netns, "b", 80), inC(c->netns, "c", 80);
  EXPECT_EQ("world 192.0.2.1", TestClient(a->netns, "192.0.2.2", 80).first());
  EXPECT_EQ("b 172.18.0.2", TestClient(a->netns, "172.18.0.3", 80).first());
  EXPECT_EQ("timeout", TestClient(a->netns, "172.19.0.2", 80, false, 200).first());
  EXPECT_NE("world", TestClient(d->netns, "192.0.2.2", 80, false, 200).server());

  // Published: from outside, from the machine by address and by loopback, and from another network.
  Result<std::vector<PublishedPort>> ports = Error(Code::kInternal, "not run");
  within(host.netns, [&] {
    ports = host.nat->publish(
        "b", {{.hostAddress = {}, .hostPort = 8080, .containerAddress = ip("172.18.0.3"), .containerPort = 80}});
  });
  ASSERT_OK(ports);
  EXPECT_EQ("b 192.0.2.2", TestClient(*outside, "192.0.2.1", 8080).first());
  EXPECT_EQ("b", TestClient(host.netns, "192.0.2.1", 8080).server());
  EXPECT_EQ("b", TestClient(host.netns, "127.0.0.1", 8080).server());
  EXPECT_EQ("b", TestClient(c->netns, "192.0.2.1", 8080).server());
  EXPECT_EQ("b", TestClient(a->netns, "192.0.2.1", 8080).server()) << "from the same network";
  EXPECT_EQ("b", TestClient(b->netns, "192.0.2.1", 8080).server()) << "from itself";
  within(host.netns, [&] {
    auto again = host.nat->publish(
        "x", {{.hostAddress = {}, .hostPort = 8080, .containerAddress = ip("172.18.0.2"), .containerPort = 80}});
    ASSERT_FALSE(again.ok());
    EXPECT_TRUE(again.error().is(Code::kAlreadyExists));
    EXPECT_THAT(again.error().message(), testing::HasSubstr("port is already allocated"));
    auto loopbackOnly = host.nat->publish(
        "lo",
        {{.hostAddress = ip("127.0.0.1"), .hostPort = 0, .containerAddress = ip("172.18.0.3"), .containerPort = 80}});
    ASSERT_OK(loopbackOnly);
    EXPECT_NE(0, (*loopbackOnly)[0].hostPort);
    EXPECT_EQ("b", TestClient(host.netns, "127.0.0.1", (*loopbackOnly)[0].hostPort).server());
    EXPECT_EQ("refused", TestClient(*outside, "192.0.2.1", (*loopbackOnly)[0].hostPort).first());
  });
  // A port that any process listens on is taken, too.
  TestServer taken(host.netns, "process", 9090);
  within(host.netns, [&] {
    auto busy = host.nat->publish("x", {{.hostPort = 9090, .containerAddress = ip("172.18.0.2"), .containerPort = 80}});
    ASSERT_FALSE(busy.ok());
    EXPECT_TRUE(busy.error().is(Code::kAlreadyExists));
  });
  // route_localnet does not open the machine's loopback to containers.
  auto route = NetLinks::openIn(a->netns.fd());
  ASSERT_OK(route);
  EXPECT_NE("process", TestClient(a->netns, "127.0.0.1", 9090, false, 200).server());
  ASSERT_OK(host.nat->unpublish("b"));
  EXPECT_EQ("refused", TestClient(*outside, "192.0.2.1", 8080).first());
  EXPECT_OK(host.nat->destroy());
}

TEST(BridgeNetworkTest, PodsOfTwoNodesReachEachOtherDirectlyAndByTunnel) {
  SKIP_UNLESS_ROOT();
  auto segment = Netns::create();
  ASSERT_OK(segment);
  Machine nodes[2];
  auto links = NetLinks::openIn(segment->fd());
  auto bridge = links->createBridge("zone0");
  ASSERT_OK(bridge);
  for (int i = 0; i < 2; i++) {
    ASSERT_OK(links->createVeth(
        {.name = fmt::format("n{}", i), .peerName = "eth0", .peerNetnsFd = nodes[i].netns.fd(), .master = *bridge}));
    auto inside = NetLinks::openIn(nodes[i].netns.fd());
    IpPrefix address{IpAddress::v4(0xc0a86401).plus(static_cast<uint64_t>(i)), 24};
    ASSERT_OK(inside->configureInside(inside->find("eth0")->index, {address}, {}));
  }
  auto one = nodes[0].network(podOptions("10.244.1.0/24"));
  auto two = nodes[1].network(podOptions("10.244.2.0/24"));
  auto a = one->acquire("a"), b = two->acquire("b");
  ASSERT_OK(a);
  ASSERT_OK(b);
  TestServer inB(b->netns, "b", 80);
  for (bool onSegment : {true, false}) {
    within(nodes[0].netns, [&] {
      ASSERT_OK(one->setNodeRoutes(
          {{.podRange = prefix("10.244.2.0/24"), .nodeAddress = ip("192.168.100.2"), .onSegment = onSegment}}));
    });
    within(nodes[1].netns, [&] {
      ASSERT_OK(two->setNodeRoutes(
          {{.podRange = prefix("10.244.1.0/24"), .nodeAddress = ip("192.168.100.1"), .onSegment = onSegment}}));
    });
    EXPECT_EQ("b 10.244.1.2", TestClient(a->netns, "10.244.2.2", 80).first()) << (onSegment ? "direct" : "tunnel");
  }
  within(nodes[0].netns, [&] { ASSERT_OK(one->setNodeRoutes({})); });
  EXPECT_NE("b", TestClient(a->netns, "10.244.2.2", 80, false, 200).server());
}

TEST(BridgeNetworkTest, NamespacesCanBelongToAUserNamespaceOfTheirOwn) {
  SKIP_UNLESS_ROOT();
  Machine node;
  auto options = podOptions("10.244.1.0/24");
  options.poolSize = 2;
  auto network = node.network(options);
  auto inode = [](int fd) {
    struct stat status{};
    return ::fstat(fd, &status) == 0 ? status.st_ino : 0;
  };
  auto ownerOf = [&](const AcquiredNamespace& made) {
    UniqueFd owner(::ioctl(made.netns.fd(), NS_GET_USERNS));
    return owner ? inode(owner.get()) : 0;
  };
  struct stat ours{};
  ASSERT_EQ(::stat("/proc/self/ns/user", &ours), 0);
  std::set<ino_t> owners;
  // The first is made when it is asked for; then the pool keeps some.
  for (const char* id : {"first", "second", "third"}) {
    auto made = network->acquire(id, BridgeNetwork::Owner::kOwnUsers);
    ASSERT_OK(made);
    ASSERT_TRUE(made->users);
    EXPECT_EQ(ownerOf(*made), inode(made->users.get()));
    owners.insert(inode(made->users.get()));
    network->waitReady(2, BridgeNetwork::Owner::kOwnUsers);
    within(made->netns, [&] { EXPECT_EQ(system("ip -br link show lo | grep -q UNKNOWN"), 0) << "loopback is up"; });
  }
  EXPECT_EQ(owners.size(), 3u);
  EXPECT_FALSE(owners.contains(ours.st_ino));
  auto plain = network->acquire("plain");
  ASSERT_OK(plain);
  EXPECT_FALSE(plain->users);
  EXPECT_EQ(ownerOf(*plain), ours.st_ino);
}

TEST(BridgeNetworkTest, ThePoolRefillsAndReleasesItsAddresses) {
  SKIP_UNLESS_ROOT();
  Machine node;
  auto options = podOptions("10.244.1.0/28");
  options.poolSize = 4;
  auto dir = makeTempDir("/tmp", "pool");
  ASSERT_OK(dir);
  options.stateDir = *dir;
  auto network = node.network(options);
  network->waitReady(4);
  EXPECT_EQ(4u, network->ready());
  std::set<std::string> addresses;
  std::string last;
  for (int i = 0; i < 10; i++) {
    auto pod = network->acquire(fmt::format("pod{}", i));
    ASSERT_OK(pod);
    last = pod->attachment.address.str();
    addresses.insert(last);
    if (i == 0) {
      EXPECT_TRUE(network->acquire("pod0").error().is(Code::kAlreadyExists));
    }
  }
  EXPECT_EQ(10u, addresses.size());
  for (int i = 0; i < 9; i++) network->detach(fmt::format("pod{}", i));
  network->waitReady(4);
  network.reset();
  // As after a kill: the next process reads the journal; what waited in the pool is free again.
  auto again = node.network(options);
  again->releaseAllBut({"pod9"});
  again->waitReady(4);
  for (int i = 0; i < 12; i++) {
    auto pod = again->acquire(fmt::format("new{}", i));
    ASSERT_OK(pod);
    EXPECT_NE(last, pod->attachment.address.str()) << "still pod9's";
  }
  EXPECT_EQ(Code::kUnavailable, again->acquire("onemore").error().code());
  ASSERT_OK(removeTree(*dir));
}

size_t veths(const Netns& netns) {
  auto links = NetLinks::openIn(netns.fd());
  auto all = links->list();
  return static_cast<size_t>(std::count_if(all->begin(), all->end(), [](const Link& l) { return l.kind == "veth"; }));
}

// Waits for the kernel's own clean-up, which tells nobody when it is done.
TEST(BridgeNetworkTest, AKilledProcessLeavesNoReadyNamespaces) {
  SKIP_UNLESS_ROOT();
  Machine node;
  int ready[2];
  ASSERT_EQ(0, ::pipe2(ready, O_CLOEXEC));
  pid_t child = ::fork();
  if (child == 0) {
    auto options = podOptions("10.244.1.0/24");
    options.poolSize = 3;
    auto network = node.network(options);
    network->waitReady(3);
    if (::write(ready[1], "x", 1) != 1) ::_exit(1);
    ::pause();
    ::_exit(0);
  }
  char byte;
  ASSERT_EQ(1, ::read(ready[0], &byte, 1));
  EXPECT_LE(3u, veths(node.netns));
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  ::close(ready[0]);
  ::close(ready[1]);
  EXPECT_TRUE(eventually([&] { return veths(node.netns) == 0; }));
}

TEST(BridgeNetworkTest, DetachedLinksGoInTheBackgroundAndTheirAddressesWhenTheyAreNeeded) {
  SKIP_UNLESS_ROOT();
  Machine node;
  auto options = podOptions("10.244.1.0/30");
  auto network = node.network(options);
  auto a = network->acquire("a");
  ASSERT_OK(a);
  EXPECT_EQ(Code::kUnavailable, network->acquire("b").error().code());
  network->detach("a");
  network->detach("a");
  EXPECT_OK(network->acquire("b"));
  EXPECT_TRUE(network->attach("b", a->netns.fd()).error().is(Code::kAlreadyExists));
  network->detach("b");
  EXPECT_TRUE(eventually([&] { return veths(node.netns) == 0; }));
}

TEST(BridgeNetworkTest, MoreContainersComeAndGoThanThereAreAddresses) {
  SKIP_UNLESS_ROOT();
  Machine node;
  auto network = node.network(podOptions("10.244.1.0/28"));
  std::string before;
  for (int i = 0; i < 40; i++) {
    auto pod = network->acquire(fmt::format("pod{}", i));
    ASSERT_OK(pod);
    EXPECT_NE(before, pod->attachment.address.str()) << "still the one's before";
    before = pod->attachment.address.str();
    if (i > 0) network->detach(fmt::format("pod{}", i - 1));
  }
  network->detach("pod39");
  // Stopping takes down what waits for others to go with.
  network->stop();
  EXPECT_TRUE(eventually([&] { return veths(node.netns) == 0; }));
}

TEST(LinksTest, ErrorsHaveTheirCodes) {
  SKIP_UNLESS_ROOT();
  auto netns = Netns::create();
  auto links = NetLinks::openIn(netns->fd());
  EXPECT_EQ(Code::kNotFound, links->find("nothing0").error().code());
  EXPECT_EQ(Code::kInvalid, links->createBridge("a name/too long for it").error().code());
  ASSERT_OK(links->createBridge("br0"));
  EXPECT_EQ(Code::kAlreadyExists, links->createBridge("br0").error().code());
  EXPECT_FALSE(links->setRoute({.destination = prefix("10.0.0.0/8"), .gateway = ip("192.0.2.1")}).ok());
  EXPECT_OK(links->removeRoute({.destination = prefix("10.0.0.0/8"), .link = links->find("br0")->index}));
  EXPECT_FALSE(Netns::open("/nowhere/net").ok());
}

TEST(BridgeNetworkTest, ReportsWhatAttachingCosts) {
  SKIP_UNLESS_ROOT();
  Machine node;
  auto options = podOptions("10.244.0.0/20");
  options.poolSize = 50;
  auto network = node.network(options);
  auto start = std::chrono::steady_clock::now();
  network->waitReady(50);
  double fill = milliseconds(start) / 50;
  std::vector<AcquiredNamespace> kept;
  start = std::chrono::steady_clock::now();
  for (int i = 0; i < 20; i++) {
    auto pod = network->acquire(fmt::format("p{}", i));
    ASSERT_OK(pod);
    kept.push_back(std::move(*pod));
  }
  double acquired = milliseconds(start) / 20;
  network->stop();
  auto netns = Netns::create();
  start = std::chrono::steady_clock::now();
  for (int i = 0; i < 20; i++) {
    ASSERT_OK(network->attach(fmt::format("q{}", i), netns->fd(),
                              {.interface = fmt::format("eth{}", i), .defaultRoute = false}));
  }
  double attached = milliseconds(start) / 20;
  printf("namespace made ready %.2f ms, acquired %.3f ms, interface attached %.2f ms\n", fill, acquired, attached);
  EXPECT_LT(attached, 50);
}

}  // namespace
}  // namespace dhow
