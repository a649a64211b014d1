// What network policies cost: CPU time per packet of a connection and per new connection between two pods of a node,
// without policies and with a thousand rules, in turns, in namespaces of its own.
#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "measure.h"
#include "network/bridge_network.h"
#include "network/nat_table.h"
#include "network/policy_table.h"

namespace {

using namespace dhow;
using bench::cpuSeconds;
using bench::must;

constexpr uint16_t kPort = 8080;
constexpr int kDatagrams = 20'000, kConnections = 1'000, kTurns = 61;

sockaddr_in at(const IpAddress& address, uint16_t port) {
  sockaddr_in out{};
  out.sin_family = AF_INET;
  out.sin_port = htons(port);
  out.sin_addr.s_addr = htonl(address.v4Value());
  return out;
}

struct Bench {
  Netns node = must(Netns::create());
  std::unique_ptr<NatTable> nat;
  std::unique_ptr<BridgeNetwork> network;
  std::unique_ptr<PolicyTable> table;
  AcquiredNamespace server, client;

  void setUp() {
    must(runInNetns(node.fd(), [this]() -> Result<> {
      ASSIGN_OR_RETURN(nat, NatTable::open("dhow-nodes"));
      ASSIGN_OR_RETURN(IpPrefix subnet, IpPrefix::parse("10.244.1.0/24"));
      BridgeNetworkOptions options{.bridge = "dhow0", .subnet = subnet, .routed = true, .ownNamespace = true};
      ASSIGN_OR_RETURN(network, BridgeNetwork::start(std::move(options), *nat));
      ASSIGN_OR_RETURN(table, PolicyTable::open({}));
      return {};
    }));
    server = must(network->acquire("server"));
    client = must(network->acquire("client"));
  }

  // Half of the rules are for the server's ingress, half for the client's egress; the last of each is the one that
  // allows. Pods of a thousand groups are known, and addresses are cut by blocks.
  void setRules(int rules) {
    PolicyTable::Subjects subjects;
    PolicyTable::Peers peers;
    for (int i = 0; i < rules; i++) {
      auto& pod = subjects[i % 2 == 0 ? server.attachment.address.address : client.attachment.address.address];
      auto& direction = i % 2 == 0 ? pod.ingress : pod.egress;
      if (!direction) direction.emplace();
      PolicyRule rule;
      if (i % 10 == 4) {
        rule.blocks.push_back({{IpAddress::v4(0xac100000 + (static_cast<uint32_t>(i) << 8)), 24}, {}});
      } else {
        rule.groups.push_back(static_cast<uint32_t>(i));
      }
      const auto port = static_cast<uint16_t>(i >= rules - 2 ? kPort : 10'000 + i);
      rule.ports = {{Protocol::kTcp, port, port}, {Protocol::kUdp, port, port}};
      direction->push_back(std::move(rule));
      peers[IpAddress::v4(0x0af40400 + static_cast<uint32_t>(i))] = PolicyPeer{.groups = {static_cast<uint32_t>(i)}};
    }
    PolicyPeer both;
    for (int i = std::max(0, rules - 10); i < rules; i++) both.groups.push_back(static_cast<uint32_t>(i));
    peers[server.attachment.address.address] = peers[client.attachment.address.address] = both;
    must(table->apply(std::move(subjects), peers));
  }

  double datagrams() {
    UniqueFd to = must(socketInNetns(server.netns.fd(), AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0));
    UniqueFd from = must(socketInNetns(client.netns.fd(), AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0));
    auto here = at(server.attachment.address.address, kPort);
    if (bind(to.get(), reinterpret_cast<sockaddr*>(&here), sizeof here) != 0) std::exit(1);
    if (connect(from.get(), reinterpret_cast<sockaddr*>(&here), sizeof here) != 0) std::exit(1);
    char bytes[64] = {};
    sockaddr_in peer{};
    socklen_t size = sizeof peer;
    // An answer makes it a connection.
    (void)send(from.get(), bytes, sizeof bytes, 0);
    while (recvfrom(to.get(), bytes, sizeof bytes, 0, reinterpret_cast<sockaddr*>(&peer), &size) < 0) usleep(100);
    (void)sendto(to.get(), bytes, sizeof bytes, 0, reinterpret_cast<sockaddr*>(&peer), size);
    const double before = cpuSeconds();
    int got = 0;
    for (int i = 0; i < kDatagrams; i++) {
      (void)send(from.get(), bytes, sizeof bytes, 0);
      while (recv(to.get(), bytes, sizeof bytes, 0) > 0) got++;
    }
    const double used = cpuSeconds() - before;
    if (got < kDatagrams * 9 / 10) {
      std::fprintf(stderr, "only %d of %d datagrams arrived\n", got, kDatagrams);
      std::exit(1);
    }
    return used / kDatagrams * 1e9;
  }

  double connections() {
    UniqueFd to = must(socketInNetns(server.netns.fd(), AF_INET, SOCK_STREAM, 0));
    auto here = at(server.attachment.address.address, kPort);
    int one = 1;
    setsockopt(to.get(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(to.get(), reinterpret_cast<sockaddr*>(&here), sizeof here) != 0 || listen(to.get(), 64) != 0) std::exit(1);
    const double before = cpuSeconds();
    for (int i = 0; i < kConnections; i++) {
      UniqueFd from = must(socketInNetns(client.netns.fd(), AF_INET, SOCK_STREAM, 0));
      linger reset{1, 0};
      setsockopt(from.get(), SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
      if (connect(from.get(), reinterpret_cast<sockaddr*>(&here), sizeof here) != 0) {
        std::perror("connect");
        std::exit(1);
      }
      UniqueFd accepted(accept(to.get(), nullptr, nullptr));
    }
    return (cpuSeconds() - before) / kConnections * 1e9;
  }
};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

}  // namespace

int main(int argc, char** argv) {
  const int rules = argc > 1 ? std::atoi(argv[1]) : 1000;
  Bench bench;
  bench.setUp();
  std::vector<double> packets[2], openings[2];
  for (int turn = 0; turn < kTurns; turn++) {
    for (int with : {turn % 2, 1 - turn % 2}) {
      bench.setRules(with != 0 ? rules : 0);
      packets[with].push_back(bench.datagrams());
      openings[with].push_back(bench.connections());
    }
  }
  auto print = [&](const char* what, std::vector<double>* values) {
    // Neighbouring turns have the same machine around them, whatever else runs.
    std::vector<double> ratios;
    for (size_t i = 0; i < values[0].size(); i++) ratios.push_back(values[1][i] / values[0][i]);
    std::printf("%-24s %8.0f ns without, %8.0f ns with %d rules: %+.1f %%\n", what, median(values[0]),
                median(values[1]), rules, (median(ratios) - 1) * 100);
  };
  print("a packet", packets);
  print("a new connection", openings);
  bench.network->stop();
  return 0;
}
