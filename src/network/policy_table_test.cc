// The kernel's verdicts against the pure evaluator, with packets of pods, a node, and a world of pods elsewhere and of
// strangers.
#include "network/policy_table.h"

#include <fcntl.h>
#include <atomic>
#include <random>

#include "network/bridge_network.h"
#include "network/nat_table.h"
#include "network/service_proxy.h"
#include "testing.h"

namespace dhow {
namespace {

constexpr Protocol kTcp = Protocol::kTcp, kUdp = Protocol::kUdp;
constexpr uint16_t kPorts[] = {53, 80, 81, 8080};
constexpr int kPods = 4;
constexpr auto kPatience = std::chrono::seconds(20);

IpAddress ip(const std::string& text) {
  return IpAddress::parse(text).value();
}
IpPrefix prefix(const char* text) {
  return IpPrefix::parse(text).value();
}

// One end of connections: in a namespace, with an address, listening on all ports.
struct End {
  int netns = -1;
  IpAddress address;
  enum class Kind { kHere, kPodElsewhere, kStranger, kNode } kind = Kind::kHere;
  std::map<uint16_t, UniqueFd> tcp, udp;
};

UniqueFd boundSocket(int netns, bool udp, const IpAddress& address, uint16_t port) {
  auto made = socketInNetns(netns, AF_INET, (udp ? SOCK_DGRAM : SOCK_STREAM) | SOCK_NONBLOCK, 0);
  EXPECT_TRUE(made.ok());
  int one = 1;
  setsockopt(made->get(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  auto at = socketAddress(address.str(), port);
  EXPECT_EQ(0, bind(made->get(), reinterpret_cast<sockaddr*>(&at), sizeof at))
      << address.str() << ":" << port << " " << strerror(errno);
  return std::move(*made);
}

struct Probe {
  size_t from = 0, to = 0;
  Protocol protocol = kTcp;
  uint16_t port = 0;
  bool expected = false;
  UniqueFd socket;
};

class PolicyTableTest : public testing::Test {
 protected:
  void openProxy(std::unique_ptr<ServiceProxy>& proxy) {
    within(node_, [&] {
      auto opened =
          ServiceProxy::open({.podRanges = {prefix("10.244.0.0/16")}, .serviceRanges = {prefix("10.96.0.0/16")}});
      ASSERT_OK(opened);
      proxy = std::move(*opened);
    });
  }
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root to make network namespaces";
    node_ = std::move(*Netns::create());
    world_ = std::move(*Netns::create());
    within(node_, [&] { setUpNode(); });
    auto links = NetLinks::openIn(world_.fd());
    const int eth0 = links->find("eth0")->index;
    ASSERT_OK(
        links->configureInside(eth0, {prefix("192.0.2.2/24")}, {{.destination = {}, .gateway = ip("192.0.2.1")}}));
    for (int i = 0; i < kPods; i++) {
      auto pod = network_->acquire(fmt::format("pod{}", i));
      ASSERT_OK(pod);
      addEnd(pod->netns.fd(), pod->attachment.address.address, End::Kind::kHere);
      pods_.push_back(std::move(*pod));
    }
    addEnd(node_.fd(), ip("192.0.2.1"), End::Kind::kNode);
    for (const char* elsewhere : {"10.244.2.3", "10.244.2.130", "198.51.100.7", "203.0.113.200"}) {
      ASSERT_OK(links->addAddress(eth0, IpPrefix::host(ip(elsewhere))));
      const bool pod = std::string_view(elsewhere).starts_with("10.");
      addEnd(world_.fd(), ip(elsewhere), pod ? End::Kind::kPodElsewhere : End::Kind::kStranger);
    }
    openTable();
  }
  void setUpNode() {
    auto links = NetLinks::open();
    auto uplink = links->createVeth({.name = "eth0", .peerName = "eth0", .peerNetnsFd = world_.fd()});
    ASSERT_OK(uplink);
    ASSERT_OK(links->addAddress(*uplink, prefix("192.0.2.1/24")));
    ASSERT_OK(links->setRoute({.destination = {}, .gateway = ip("192.0.2.2")}));
    auto nat = NatTable::open("dhow-nodes");
    ASSERT_OK(nat);
    nat_ = std::move(*nat);
    auto network = BridgeNetwork::start({.bridge = "dhow0",
                                         .subnet = prefix("10.244.1.0/24"),
                                         .routed = true,
                                         .ownNamespace = true,
                                         .noMasquerade = {prefix("10.244.0.0/16")}},
                                        *nat_);
    ASSERT_OK(network);
    network_ = std::move(*network);
  }
  void openTable() {
    within(node_, [&] {
      auto opened = PolicyTable::open({.dns = {ip("192.0.2.1")}});
      ASSERT_OK(opened);
      table_ = std::move(*opened);
    });
  }
  void addEnd(int netns, const IpAddress& address, End::Kind kind) {
    End end{.netns = netns, .address = address, .kind = kind};
    for (uint16_t port : kPorts) {
      end.tcp[port] = boundSocket(netns, false, address, port);
      EXPECT_EQ(0, listen(end.tcp[port].get(), 512));
      end.udp[port] = boundSocket(netns, true, address, port);
    }
    ends_.push_back(std::move(end));
  }

  const PolicyPeer* peerAt(const IpAddress& address) const {
    auto it = peers_.find(address);
    return it == peers_.end() || !it->second ? nullptr : &*it->second;
  }
  bool allowed(const End& from, const End& to, Protocol protocol, uint16_t port) const {
    if (&from == &to || from.kind == End::Kind::kNode) return true;
    auto one = [&](const End& self, const End& other, bool egress) {
      auto subject = subjects_.find(self.address);
      if (self.kind != End::Kind::kHere || subject == subjects_.end()) return true;
      const auto& rules = egress ? subject->second.egress : subject->second.ingress;
      if (egress && to.kind == End::Kind::kNode && port == 53) return true;
      return !rules || allowingRule(*rules, other.address, peerAt(other.address), protocol, port);
    };
    return one(from, to, true) && one(to, from, false);
  }

  std::vector<Probe> allProbes() const {
    std::vector<Probe> out;
    for (size_t from = 0; from < ends_.size(); from++) {
      for (size_t to = 0; to < ends_.size(); to++) {
        if (ends_[from].kind != End::Kind::kHere && ends_[to].kind != End::Kind::kHere) continue;
        for (Protocol protocol : {kTcp, kUdp}) {
          for (uint16_t port : kPorts)
            out.push_back({from, to, protocol, port, allowed(ends_[from], ends_[to], protocol, port), UniqueFd()});
        }
      }
    }
    return out;
  }
  std::string describe(const Probe& p) const {
    return fmt::format("{} -> {} {}/{}", ends_[p.from].address.str(), ends_[p.to].address.str(), p.port,
                       protocolName(p.protocol));
  }
  void shoot(Probe& p, uint32_t number) {
    p.socket = boundSocket(ends_[p.from].netns, p.protocol == kUdp, ends_[p.from].address, 0);
    linger reset{1, 0};
    if (p.protocol == kTcp) setsockopt(p.socket.get(), SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    auto at = socketAddress(ends_[p.to].address.str(), p.port);
    (void)connect(p.socket.get(), reinterpret_cast<sockaddr*>(&at), sizeof at);
    if (p.protocol == kUdp) (void)send(p.socket.get(), &number, sizeof number, 0);
  }
  static bool connected(const Probe& p) {
    pollfd polled{p.socket.get(), POLLOUT, 0};
    if (poll(&polled, 1, 0) != 1) return false;
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(p.socket.get(), SOL_SOCKET, SO_ERROR, &error, &size);
    return error == 0;
  }
  // What has come, by number.
  void receive() {
    for (End& end : ends_) {
      for (auto& [port, socket] : end.udp) {
        uint32_t number = 0;
        while (recv(socket.get(), &number, sizeof number, 0) == sizeof number) came_.insert(number);
      }
      for (auto& [port, socket] : end.tcp) {
        while (true) {
          UniqueFd accepted(accept4(socket.get(), nullptr, nullptr, SOCK_CLOEXEC));
          if (!accepted) break;
        }
      }
    }
  }
  // Every pair of ends, both protocols, all ports, by new connections: exactly what is allowed arrives.
  void check() {
    std::vector<Probe> probes = allProbes();
    const uint32_t base = next_;
    next_ += static_cast<uint32_t>(probes.size());
    for (size_t i = 0; i < probes.size(); i++) shoot(probes[i], base + static_cast<uint32_t>(i));
    std::set<size_t> through;
    auto look = [&] {
      receive();
      bool missing = false;
      for (size_t i = 0; i < probes.size(); i++) {
        const bool got =
            probes[i].protocol == kUdp ? came_.contains(base + static_cast<uint32_t>(i)) : connected(probes[i]);
        if (got) through.insert(i);
        missing |= probes[i].expected && !through.contains(i);
      }
      return !missing;
    };
    // The kernel drops what it cannot hold while it asks for a neighbour: what is allowed is sent again, as TCP does.
    auto sendAgain = [&] {
      for (size_t i = 0; i < probes.size(); i++) {
        const uint32_t number = base + static_cast<uint32_t>(i);
        if (probes[i].protocol == kUdp && probes[i].expected && !through.contains(i))
          (void)send(probes[i].socket.get(), &number, sizeof number, 0);
      }
    };
    const auto end = std::chrono::steady_clock::now() + kPatience;
    for (int turn = 1; !look() && std::chrono::steady_clock::now() < end; ++turn) {
      poll(nullptr, 0, 1);
      if (turn % 200 == 0) sendAgain();
    }
    look();
    for (size_t i = 0; i < probes.size(); i++)
      EXPECT_EQ(probes[i].expected, through.contains(i)) << describe(probes[i]) << " round " << base;
  }

  void apply(PolicyTable::Peers changed) {
    for (const auto& [address, peer] : changed) peers_[address] = peer;
    ASSERT_OK(table_->apply(subjects_, changed));
  }

  Netns node_, world_;
  std::unique_ptr<NatTable> nat_;
  std::unique_ptr<BridgeNetwork> network_;
  std::unique_ptr<PolicyTable> table_;
  std::vector<AcquiredNamespace> pods_;
  std::vector<End> ends_;
  PolicyTable::Subjects subjects_;
  PolicyTable::Peers peers_;
  std::set<uint32_t> came_;
  uint32_t next_ = 1;
};

class Dice {
 public:
  explicit Dice(uint64_t seed) : random_(seed) {}
  size_t below(size_t n) { return std::uniform_int_distribution<size_t>(0, n - 1)(random_); }
  bool oneIn(size_t n) { return below(n) == 0; }

  PolicyRule rule() {
    PolicyRule out;
    out.everyone = oneIn(6);
    if (!out.everyone) {
      for (size_t i = below(3); i > 0; i--) out.groups.push_back(static_cast<uint32_t>(below(4)));
      for (size_t i = below(3); i > 0; i--) out.blocks.push_back(block());
    }
    out.everyPort = oneIn(4);
    if (out.everyPort) return out;
    for (size_t i = below(3); i > 0; i--) {
      const uint16_t first = kPorts[below(std::size(kPorts))];
      const uint16_t last = oneIn(2) ? first : static_cast<uint16_t>(first + below(100));
      out.ports.push_back(oneIn(5) ? PortRange{protocol()} : PortRange{protocol(), first, last});
    }
    if (oneIn(3)) out.names.push_back({oneIn(2) ? "a" : "b", protocol(), 0});
    return out;
  }
  std::optional<std::vector<PolicyRule>> rules() {
    if (oneIn(3)) return std::nullopt;
    std::vector<PolicyRule> out;
    for (size_t i = below(4); i > 0; i--) out.push_back(rule());
    return out;
  }
  PolicyPeer peer() {
    PolicyPeer out;
    for (uint32_t group = 0; group < 4; group++) {
      if (oneIn(3)) out.groups.push_back(group);
    }
    for (const char* name : {"a", "b"}) {
      if (oneIn(2)) out.ports.push_back({name, protocol(), kPorts[below(std::size(kPorts))]});
    }
    return out;
  }

 private:
  Protocol protocol() { return oneIn(2) ? kTcp : kUdp; }
  PolicyBlock block() {
    static const char* const kCidrs[] = {"0.0.0.0/0",       "10.0.0.0/8",   "10.244.0.0/16", "10.244.2.0/24",
                                         "198.51.100.7/32", "192.0.2.0/24", "128.0.0.0/1",   "2001:db8::/32"};
    static const char* const kHoles[] = {"10.244.1.0/24", "10.244.2.128/25", "198.51.100.0/24", "203.0.113.200/32",
                                         "10.244.1.2/31"};
    PolicyBlock out{prefix(kCidrs[below(std::size(kCidrs))]), {}};
    for (size_t i = below(3); i > 0; i--) {
      IpPrefix hole = prefix(kHoles[below(std::size(kHoles))]);
      if (out.cidr.contains(hole.address) && hole.length > out.cidr.length) out.except.push_back(hole);
    }
    return out;
  }
  std::mt19937_64 random_;
};

TEST_F(PolicyTableTest, TheKernelJudgesAsTheEvaluatorDoes) {
  const char* text = std::getenv("DHOW_SEEDS");
  const int rounds = text ? std::atoi(text) : 25;
  const char* first = std::getenv("DHOW_FIRST_SEED");
  for (int round = 0; round < rounds && !HasFailure(); round++) {
    Dice dice((first ? std::strtoull(first, nullptr, 10) : 1) + static_cast<uint64_t>(round));
    PolicyTable::Peers changed;
    for (const End& end : ends_) {
      if (end.kind != End::Kind::kHere && end.kind != End::Kind::kPodElsewhere) continue;
      if (round > 0 && !dice.oneIn(3)) continue;
      changed[end.address] = dice.oneIn(5) ? std::nullopt : std::optional(dice.peer());
    }
    for (const End& end : ends_) {
      if (end.kind != End::Kind::kHere || (round > 0 && !dice.oneIn(2))) continue;
      PolicySubject subject{dice.rules(), dice.rules()};
      if (subject.ingress) {
        const PolicyPeer* own = peerAt(end.address);
        subject.ingress = resolveNames(*subject.ingress, own ? own->ports : std::vector<NamedPort>());
      }
      subjects_[end.address] = subject;
    }
    if (dice.oneIn(6)) {
      // Another agent takes over what this one left.
      openTable();
      for (const auto& [address, peer] : peers_) changed.try_emplace(address, peer);
    }
    apply(changed);
    check();
  }
}

TEST_F(PolicyTableTest, WithoutIsolatedPodsThereIsNoTable) {
  subjects_[ends_[0].address] = {.ingress = std::vector<PolicyRule>(), .egress = {}};
  apply({});
  EXPECT_GT(table_->stats().elements, 0U);
  check();
  subjects_[ends_[0].address] = {};
  apply({});
  EXPECT_EQ(table_->stats().elements, 0U);
  check();
  // Nor does a new process keep one that it does not need.
  subjects_[ends_[0].address] = {.ingress = std::vector<PolicyRule>(), .egress = {}};
  apply({});
  openTable();
  subjects_.clear();
  apply({});
  check();
}

TEST_F(PolicyTableTest, OneMorePeerIsOneMoreElement) {
  subjects_[ends_[0].address] = {.ingress = std::vector<PolicyRule>{{.groups = {1}, .everyPort = true}}, .egress = {}};
  PolicyTable::Peers many;
  for (uint32_t i = 0; i < 1000; i++) many[IpAddress::v4(0x0af40400 + i)] = PolicyPeer{.groups = {1}};
  apply(many);
  apply({{ends_[5].address, PolicyPeer{.groups = {1}}}});
  EXPECT_EQ(table_->stats().lastChanges, 1U);
  EXPECT_EQ(table_->stats().identities, 1U);
  check();
  apply({{ends_[5].address, std::nullopt}});
  EXPECT_EQ(table_->stats().lastChanges, 1U);
  check();
}

// A stream of first packets while rules are edited around them, and while another process takes the table over.
TEST_F(PolicyTableTest, EditsNeverOpenWhatIsClosedNorCloseWhatIsOpen) {
  const End &target = ends_[0], &friendly = ends_[1], &hostile = ends_[2];
  const IpAddress stranger = ends_[7].address;
  peers_[friendly.address] = PolicyPeer{.groups = {1}};
  peers_[hostile.address] = PolicyPeer{.groups = {2}};
  auto edit = [&](int i) {
    PolicyRule pods{.groups = {1, static_cast<uint32_t>(10 + i % 3)},
                    .ports = {{kUdp, 80, static_cast<uint16_t>(80 + i % 4)}}};
    PolicyRule block{.blocks = {{prefix("0.0.0.0/0"), {prefix("10.0.0.0/8")}}}, .ports = {{kUdp, 80, 80}}};
    if (i % 2 == 0) block.blocks[0].except.push_back(prefix(i % 4 == 0 ? "172.16.0.0/12" : "192.168.0.0/16"));
    subjects_[target.address].ingress = std::vector<PolicyRule>{pods, block};
    subjects_[ends_[3].address].egress = i % 10 == 0 ? std::nullopt : std::optional(std::vector<PolicyRule>{block});
    PolicyTable::Peers changed{
        {ip(fmt::format("10.244.3.{}", i % 250 + 1)), PolicyPeer{.groups = {static_cast<uint32_t>(i)}}}};
    if (i == 0) changed.insert(peers_.begin(), peers_.end());
    apply(changed);
    if (i % 16 == 0) {
      openTable();
      apply(peers_);
    }
  };
  edit(0);
  std::atomic<bool> over = false;
  std::atomic<uint32_t> sent = 0;
  struct Sender {
    int netns;
    IpAddress from;
    uint32_t tag;
  };
  const Sender senders[] = {{friendly.netns, friendly.address, 1U << 28},
                            {hostile.netns, hostile.address, 2U << 28},
                            {world_.fd(), stranger, 3U << 28}};
  std::thread traffic([&] {
    auto at = socketAddress(target.address.str(), 80);
    while (!over) {
      for (const Sender& sender : senders) {
        UniqueFd socket = boundSocket(sender.netns, true, sender.from, 0);
        const uint32_t number = sender.tag | sent;
        (void)sendto(socket.get(), &number, sizeof number, 0, reinterpret_cast<sockaddr*>(&at), sizeof at);
      }
      sent++;
      receive();
    }
  });
  for (int i = 1; i <= 300; i++) edit(i);
  over = true;
  traffic.join();
  auto count = [&](uint32_t tag) {
    return static_cast<uint32_t>(std::count_if(came_.begin(), came_.end(), [&](uint32_t n) { return n >> 28 == tag; }));
  };
  const auto end = std::chrono::steady_clock::now() + kPatience;
  while ((count(1) < sent || count(3) < sent) && std::chrono::steady_clock::now() < end) {
    poll(nullptr, 0, 1);
    receive();
  }
  EXPECT_GT(sent, 100U);
  EXPECT_EQ(count(1), sent);
  EXPECT_EQ(count(2), 0U);
  EXPECT_EQ(count(3), sent);
}

// Two states of the table, turned into one another again and again while packets come: a packet that both allow always
// arrives, one that neither allows never does.
struct TableState {
  std::vector<PolicyRule> ingress;
  bool isolated = true;
  std::vector<uint32_t> groups = {1};  // of the friend
  std::optional<std::vector<PolicyRule>> egress = std::nullopt;
};
struct Edit {
  const char* name;
  TableState one, other;
  friend void PrintTo(const Edit& edit, std::ostream* out) { *out << edit.name; }
};
class PolicyTableEditTest : public PolicyTableTest, public testing::WithParamInterface<Edit> {
 protected:
  void enter(const TableState& state) {
    subjects_[target().address] = {.ingress = state.isolated ? std::optional(state.ingress) : std::nullopt,
                                   .egress = state.egress};
    apply({{friendly().address, PolicyPeer{.groups = state.groups}}});
  }
  const End& target() const { return ends_[0]; }
  const End& friendly() const { return ends_[1]; }
  const End& hostile() const { return ends_[2]; }
};

TEST_P(PolicyTableEditTest, LosesNothingThatIsAllowedBeforeAndAfterIt) {
  std::unique_ptr<ServiceProxy> proxy;
  openProxy(proxy);
  ServicePort toTarget;
  toTarget.key = "target";
  toTarget.protocol = kUdp;
  toTarget.port = 80;
  toTarget.clusterIps = {ip("10.96.0.30")};
  toTarget.endpoints = {{target().address, 80, true}};
  ASSERT_OK(proxy->apply({toTarget}));
  struct Stream {
    const End *from, *to;
    IpAddress at;
    bool always = true, ever = false;
    UniqueFd socket = {};
    uint32_t sent = 0, came = 0;
  };
  std::vector<Stream> streams;
  streams.push_back({&friendly(), &target(), target().address});
  streams.push_back({&target(), &friendly(), friendly().address});
  streams.push_back({&hostile(), &target(), target().address});
  streams.push_back({&target(), &target(), toTarget.clusterIps[0]});
  peers_[hostile().address] = PolicyPeer{.groups = {9}};
  apply(peers_);
  for (const TableState* state : {&GetParam().one, &GetParam().other}) {
    enter(*state);
    for (Stream& stream : streams) {
      const bool open = allowed(*stream.from, *stream.to, kUdp, 80);
      stream.always &= open;
      stream.ever |= open;
    }
  }
  std::erase_if(streams, [](const Stream& stream) { return stream.ever && !stream.always; });
  for (Stream& stream : streams) stream.socket = boundSocket(stream.from->netns, true, stream.from->address, 0);
  // Nobody answers, so each packet is one of a new connection.
  std::atomic<bool> over = false;
  std::atomic<uint32_t> turns = 0;
  auto arrived = [&] {
    uint32_t number = 0;
    for (const End* end : {&target(), &friendly()}) {
      while (recv(end->udp.at(80).get(), &number, sizeof number, 0) == sizeof number) streams[number].came++;
    }
  };
  std::thread traffic([&] {
    for (uint32_t turn = 0; !over; turn++) {
      // The first most of all.
      const uint32_t number = turn % 4 == 0 ? turn / 4 % static_cast<uint32_t>(streams.size()) : 0;
      auto at = socketAddress(streams[number].at.str(), 80);
      (void)sendto(streams[number].socket.get(), &number, sizeof number, 0, reinterpret_cast<sockaddr*>(&at),
                   sizeof at);
      streams[number].sent++;
      turns++;
      if (turn % 8 == 0) arrived();
    }
  });
  for (int i = 0; i < 1000; i++) {
    // No packet is held up through two edits, as one is when the machine stops a processor.
    const uint32_t before = turns;
    enter(i % 2 == 0 ? GetParam().one : GetParam().other);
    while (turns - before < 2) std::this_thread::yield();
  }
  over = true;
  traffic.join();
  const auto end = std::chrono::steady_clock::now() + kPatience;
  auto missing = [](const Stream& stream) { return stream.always && stream.came < stream.sent; };
  arrived();
  while (std::any_of(streams.begin(), streams.end(), missing) && std::chrono::steady_clock::now() < end) {
    poll(nullptr, 0, 1);
    arrived();
  }
  for (const Stream& stream : streams) {
    EXPECT_GT(stream.sent, 0U);
    EXPECT_EQ(stream.came, stream.always ? stream.sent : 0U) << stream.from->address.str() << " -> " << stream.at.str();
  }
}

PolicyRule forGroup(uint32_t group, uint16_t first, uint16_t last) {
  return {.groups = {group}, .ports = {{kUdp, first, last}}};
}
PolicyRule allPortsFor(uint32_t group) {
  return {.groups = {group}, .everyPort = true};
}
PolicyRule forBlock(const char* hole) {
  return {.blocks = {{prefix("0.0.0.0/0"), {prefix("10.0.0.0/8"), prefix(hole)}}}, .ports = {{kUdp, 80, 80}}};
}
PolicyRule forAll() {
  return {.everyone = true, .everyPort = true};
}

INSTANTIATE_TEST_SUITE_P(
    All, PolicyTableEditTest,
    testing::Values(Edit{"PeerFromARangeToAPort",
                         {.ingress = {forGroup(1, 80, 90), forGroup(2, 80, 80)}},
                         {.ingress = {forGroup(1, 80, 90), forGroup(2, 80, 80)}, .groups = {2}}},
                    Edit{"PeerFromARangeToAllPorts",
                         {.ingress = {forGroup(1, 80, 90), allPortsFor(2)}},
                         {.ingress = {forGroup(1, 80, 90), allPortsFor(2)}, .groups = {2}}},
                    Edit{"RuleFromARangeToAllPorts", {.ingress = {forGroup(1, 80, 90)}}, {.ingress = {allPortsFor(1)}}},
                    Edit{"RuleFromARangeToEverybody", {.ingress = {forGroup(1, 80, 90)}}, {.ingress = {forAll()}}},
                    Edit{"RuleAndPeerTogether",
                         {.ingress = {forGroup(1, 80, 80)}},
                         {.ingress = {forGroup(2, 80, 80)}, .groups = {2}}},
                    Edit{"RuleAndPeerAndBlock",
                         {.ingress = {forGroup(1, 80, 80), forBlock("172.16.0.0/12")}},
                         {.ingress = {forGroup(2, 80, 80), forBlock("192.168.0.0/16")}, .groups = {2}}},
                    Edit{"RuleAndPeerAndRange",
                         {.ingress = {forGroup(1, 80, 90)}},
                         {.ingress = {forGroup(2, 70, 85)}, .groups = {2}}},
                    Edit{"Egress",
                         {.ingress = {}, .egress = std::vector{forGroup(1, 80, 90), forBlock("172.16.0.0/12")}},
                         {.ingress = {}, .groups = {2}, .egress = std::vector{forGroup(2, 80, 80), allPortsFor(3)}}},
                    Edit{"Isolation", {.ingress = {forGroup(1, 80, 90)}}, {.ingress = {}, .isolated = false}},
                    Edit{"IsolationInTheOtherDirection",
                         {.ingress = {allPortsFor(1)}},
                         {.ingress = {}, .isolated = false, .egress = std::vector{allPortsFor(1)}}}),
    [](const auto& info) { return std::string(info.param.name); });

// What was let through once goes on; a new connection is judged anew.
TEST_F(PolicyTableTest, ConnectionsOutliveTheirPermission) {
  TestServer server(pods_[0].netns, "pod0", 9000);
  subjects_[ends_[0].address] = {.ingress = std::vector<PolicyRule>{{.everyone = true, .everyPort = true}},
                                 .egress = {}};
  apply({});
  TestClient client(pods_[1].netns, ends_[0].address.str(), 9000);
  EXPECT_EQ(client.server(), "pod0");
  subjects_[ends_[0].address].ingress = std::vector<PolicyRule>();
  subjects_[ends_[0].address].egress = std::vector<PolicyRule>();
  apply({});
  EXPECT_EQ(client.echo("still here\n"), "still here");
  EXPECT_EQ(TestClient(pods_[1].netns, ends_[0].address.str(), 9000, false, 300).first(), "timeout");
}

// A service's address is nobody's: the pod behind it is the one that is judged, the caller itself when it is that.
TEST_F(PolicyTableTest, ServicesAreJudgedByThePodBehind) {
  std::unique_ptr<ServiceProxy> proxy;
  openProxy(proxy);
  auto service = [&](const char* name, const char* address, size_t pod) {
    ServicePort port;
    port.key = name;
    port.port = 80;
    port.clusterIps = {ip(address)};
    port.endpoints = {{ends_[pod].address, 9000, true}};
    return port;
  };
  ASSERT_OK(proxy->apply({service("a", "10.96.0.20", 0), service("b", "10.96.0.21", 1)}));
  TestServer server0(pods_[0].netns, "pod0", 9000), server1(pods_[1].netns, "pod1", 9000);
  peers_[ends_[0].address] = PolicyPeer{.groups = {1}};
  PolicyRule toPods{.groups = {1}, .ports = {{kTcp, 9000, 9000}}};
  subjects_[ends_[2].address].egress = std::vector<PolicyRule>{toPods};
  subjects_[ends_[0].address].ingress = subjects_[ends_[0].address].egress = std::vector<PolicyRule>();
  subjects_[ends_[0].address].ingress->push_back({.groups = {2}, .everyPort = true});
  apply({{ends_[0].address, PolicyPeer{.groups = {1}}}, {ends_[2].address, PolicyPeer{.groups = {2}}}});
  EXPECT_EQ(TestClient(pods_[2].netns, "10.96.0.20", 80).server(), "pod0");
  EXPECT_EQ(TestClient(pods_[2].netns, "10.96.0.21", 80, false, 300).first(), "timeout");
  EXPECT_EQ(TestClient(pods_[3].netns, "10.96.0.20", 80, false, 300).first(), "timeout");
  EXPECT_EQ(TestClient(pods_[3].netns, "10.96.0.21", 80).server(), "pod1");
  // Closed in both directions but for group 2, it still reaches itself.
  EXPECT_EQ(TestClient(pods_[0].netns, "10.96.0.20", 80).server(), "pod0");
}

}  // namespace
}  // namespace dhow
