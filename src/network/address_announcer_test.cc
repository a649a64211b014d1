#include "network/address_announcer.h"

#include <net/ethernet.h>

#include <future>

#include "base/process.h"
#include "neighbour_wire.h"
#include "testing.h"

namespace dhow {
namespace {

using namespace std::chrono_literals;
using neighbour::Mac;

IpAddress ip(const std::string& text) {
  return IpAddress::parse(text).value();
}

TEST(NeighbourWire, ArpIsAnsweredInItsForm) {
  const Mac own{2, 0, 0, 0, 0, 1}, other{2, 0, 0, 0, 0, 2};
  auto announced = neighbour::readArp(neighbour::arpAnnouncement(ip("192.0.2.7"), own));
  ASSERT_TRUE(announced);
  EXPECT_EQ(announced->target, ip("192.0.2.7"));
  EXPECT_EQ(announced->from, ip("192.0.2.7"));
  const auto reply = neighbour::arpReply({ip("192.0.2.7"), other, ip("192.0.2.1")}, own);
  EXPECT_EQ(28u, reply.size());
  EXPECT_EQ(2, reply[7]);
  EXPECT_FALSE(neighbour::readArp(reply)) << "no answer is answered";
  EXPECT_FALSE(neighbour::readArp("short"));
}

TEST(NeighbourWire, BeatsAreReadAsWritten) {
  AnnounceBeat beat{.node = "host-a",
                    .health = NodeHealth::kUnsure,
                    .leaving = true,
                    .more = true,
                    .held = {ip("192.0.2.7"), ip("2001:db8::7")}};
  const auto written = neighbour::writeBeat(beat);
  EXPECT_EQ(neighbour::readBeat(written), beat);
  for (size_t cut = 0; cut < written.size(); cut++) EXPECT_FALSE(neighbour::readBeat(written.substr(0, cut))) << cut;
  // What Ethernet adds to short frames is passed over.
  EXPECT_EQ(neighbour::readBeat(written + std::string(20, '\0')), beat);
}

TEST(NeighbourWire, GroupsOfAnAddress) {
  const auto group = neighbour::solicitedNode(ip("2001:db8::1:800:200e:8c6c"));
  EXPECT_EQ("ff02::1:ff0e:8c6c", group.str());
  EXPECT_EQ((Mac{0x33, 0x33, 0xff, 0x0e, 0x8c, 0x6c}), neighbour::groupMac(group));
}

// Two nodes and a client on a segment.
class AnnouncerTest : public testing::Test {
 protected:
  struct Node {
    Netns netns;
    std::unique_ptr<AddressAnnouncer> announcer;
  };
  void SetUp() override {
    SKIP_UNLESS_ROOT();
    middle_ = Netns::create().value();
    auto links = NetLinks::openIn(middle_.fd()).value();
    const int bridge = links.createBridge("seg0").value();
    ASSERT_OK(links.setUp(bridge));
    for (int i = 0; i < 3; i++) {
      Netns netns = Netns::create().value();
      ASSERT_OK(links.createVeth(
          {.name = fmt::format("port{}", i), .peerName = "eth0", .peerNetnsFd = netns.fd(), .master = bridge}));
      auto inside = NetLinks::openIn(netns.fd()).value();
      const int eth = inside.find("eth0").value().index;
      ASSERT_OK(inside.addAddress(eth, IpPrefix::parse(fmt::format("192.0.2.{}/24", i + 1)).value()));
      ASSERT_OK(inside.addAddress(eth, IpPrefix::parse(fmt::format("2001:db8::{}/64", i + 1)).value()));
      ASSERT_OK(inside.setUp(eth));
      nodes_.push_back({std::move(netns), nullptr});
    }
    call([&] {
      for (int i = 1; i < 3; i++) {
        auto& node = nodes_[static_cast<size_t>(i)];
        ASSERT_OK(runInNetns(node.netns.fd(), [&]() -> Result<> {
          node.announcer = std::make_unique<AddressAnnouncer>(
              loop_,
              AddressAnnouncer::Options{.node = fmt::format("n{}", i), .link = "eth0", .beat = 50ms, .silence = 200ms});
          return node.announcer->start();
        }));
        node.announcer->setWanted({{ip("192.0.2.100"), {}}, {ip("2001:db8::100"), {}}});
      }
    });
  }
  void TearDown() override {
    call([&] { nodes_.clear(); });
    loop_.stop();
    thread_.join();
  }
  template <class F>
  void call(F work) {
    std::promise<void> done;
    loop_.post([&] {
      work();
      done.set_value();
    });
    done.get_future().wait();
  }
  // The node that holds it; 0: none or both.
  int holder(const std::string& address) {
    int out = 0;
    call([&] {
      for (int i = 1; i < 3; i++) {
        auto& announcer = nodes_[static_cast<size_t>(i)].announcer;
        if (announcer && announcer->held().contains(ip(address))) out = out == 0 ? i : -1;
      }
    });
    return out;
  }
  // What the client's kernel learns about it.
  std::string neighbour(const std::string& address) {
    std::string out;
    const bool v6 = ip(address).isV6();
    UniqueFd socket = socketInNetns(nodes_[0].netns.fd(), v6 ? AF_INET6 : AF_INET, SOCK_DGRAM, 0).value();
    sockaddr_in6 to6{};
    to6.sin6_family = AF_INET6;
    to6.sin6_port = htons(9);
    inet_pton(AF_INET6, address.c_str(), &to6.sin6_addr);
    auto to4 = socketAddress(v6 ? "0.0.0.0" : address, 9);
    (void)sendto(socket.get(), "x", 1, 0, v6 ? reinterpret_cast<sockaddr*>(&to6) : reinterpret_cast<sockaddr*>(&to4),
                 v6 ? sizeof to6 : sizeof to4);
    within(nodes_[0].netns, [&] {
      auto shown = runCommand({"ip", "neighbour", "show", address});
      if (shown.ok()) out = shown->output;
    });
    return out;
  }
  std::string macOf(int node) {
    return NetLinks::openIn(nodes_[static_cast<size_t>(node)].netns.fd()).value().find("eth0").value().mac;
  }
  RealLoop loop_;
  Timer keep_ = loop_.after(std::chrono::hours(1), [] {});
  std::thread thread_{[this] { loop_.run(); }};
  Netns middle_;
  std::vector<Node> nodes_;
};

TEST_F(AnnouncerTest, OneNodeAnswersAndTheOtherTakesOver) {
  for (const std::string address : {"192.0.2.100", "2001:db8::100"}) {
    ASSERT_TRUE(eventually([&] { return holder(address) > 0; })) << address;
    const int first = holder(address);
    EXPECT_TRUE(eventually([&] { return neighbour(address).find(macOf(first)) != std::string::npos; }))
        << neighbour(address);
  }
  const int first = holder("192.0.2.100");
  call([&] { nodes_[static_cast<size_t>(first)].announcer.reset(); });
  ASSERT_TRUE(eventually([&] { return holder("192.0.2.100") == 3 - first && holder("2001:db8::100") == 3 - first; }));
  // Told without being asked.
  EXPECT_TRUE(eventually([&] { return neighbour("192.0.2.100").find(macOf(3 - first)) != std::string::npos; }));
  EXPECT_TRUE(eventually([&] { return neighbour("2001:db8::100").find(macOf(3 - first)) != std::string::npos; }));
}

}  // namespace
}  // namespace dhow
