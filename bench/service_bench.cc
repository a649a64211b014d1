// What the service proxy of a node costs in a large cluster: the time from the documents of 10,000 services with 50,000
// endpoints to rules in the kernel, from nothing, and of one changed endpoint among them; and the CPU time of a request
// and of a new connection between two pods by a service's address and by the pod's own, in turns. In namespaces of its
// own.
//   service-bench [SERVICES [ENDPOINTS-OF-EACH]]
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>

#include "measure.h"
#include "network/bridge_network.h"
#include "network/nat_table.h"
#include "network/service_proxy.h"
#include "node/service_ports.h"

using namespace dhow;
using bench::cpuSeconds;
using bench::must;

namespace {

constexpr int kChanges = 201, kTurns = 41, kRequests = 2000, kConnections = 300;
constexpr uint16_t kPort = 8080;
constexpr double kShareGoal = 0.95;
constexpr double kInstallGoal = 2000, kChangeGoal = 5;  // milliseconds
const node::ServiceView kView{"node-1", "zone-1", {IpAddress::parse("10.96.0.10").value()}};

template <class Work>
double milliseconds(const Work& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count();
}

std::string serviceText(int i) {
  const auto address = IpAddress::v4(0x0a600100 + static_cast<uint32_t>(i)).str();
  return fmt::format(
      R"({{"kind":"Service","apiVersion":"v1","metadata":{{"name":"service-{0}","namespace":"shop"}},"spec":{{"clusterIP":"{1}",
"clusterIPs":["{1}"],"type":"ClusterIP","selector":{{"app":"app-{0}"}},"ports":[{{"name":"http","port":80,"protocol":"TCP"}}]}}}})",
      i, address);
}

std::string sliceText(int i, int endpoints, int shift) {
  std::string list;
  for (int k = 0; k < endpoints; k++) {
    const auto address = IpAddress::v4(0x0af40000 + static_cast<uint32_t>(i * endpoints + k)).str();
    list += fmt::format(
        R"({}{{"addresses":["{}"],"nodeName":"node-{}","zone":"zone-1","conditions":{{"ready":true,"serving":true,"terminating":false}}}})",
        k > 0 ? "," : "",
        k == 0 && shift > 0 ? IpAddress::v4(0x0ac80000 + static_cast<uint32_t>(shift)).str() : address, k);
  }
  return fmt::format(
      R"({{"kind":"EndpointSlice","apiVersion":"discovery.k8s.io/v1","metadata":{{"name":"service-{0}-x","namespace":"shop",
"labels":{{"kubernetes.io/service-name":"service-{0}"}}}},"addressType":"IPv4","ports":[{{"name":"http","port":8080,"protocol":"TCP"}}],
"endpoints":[{1}]}})",
      i, list);
}

std::vector<ServicePort> portsOf(const std::string& service, const std::string& slice) {
  return node::servicePorts(*must(object::Object::parse(service)), {must(object::Object::parse(slice))}, kView);
}

// A pod that serves and one that asks; both ends are played by this thread.
struct Pods {
  std::unique_ptr<NatTable> nat;
  std::unique_ptr<BridgeNetwork> network;
  AcquiredNamespace server, client;
  UniqueFd listener;

  Result<> setUp() {
    ASSIGN_OR_RETURN(nat, NatTable::open("dhow-nodes"));
    BridgeNetworkOptions options;
    options.bridge = "dhow0";
    ASSIGN_OR_RETURN(options.subnet, IpPrefix::parse("10.247.1.0/24"));
    options.routed = options.ownNamespace = true;
    ASSIGN_OR_RETURN(network, BridgeNetwork::start(std::move(options), *nat));
    ASSIGN_OR_RETURN(server, network->acquire("server"));
    ASSIGN_OR_RETURN(client, network->acquire("client"));
    ASSIGN_OR_RETURN(listener, socketInNetns(server.netns.fd(), AF_INET, SOCK_STREAM, 0));
    const sockaddr_in here = at(server.attachment.address.address, kPort);
    if (bind(listener.get(), reinterpret_cast<const sockaddr*>(&here), sizeof here) != 0 ||
        listen(listener.get(), 64) != 0)
      return Error::fromErrno("listen");
    return {};
  }
  static sockaddr_in at(const IpAddress& address, uint16_t port) {
    sockaddr_in out{};
    out.sin_family = AF_INET;
    out.sin_port = htons(port);
    out.sin_addr.s_addr = htonl(address.v4Value());
    return out;
  }
  std::pair<UniqueFd, UniqueFd> open(const IpAddress& address, uint16_t port) const {
    UniqueFd from = must(socketInNetns(client.netns.fd(), AF_INET, SOCK_STREAM, 0));
    const linger reset{1, 0};
    const int one = 1;
    setsockopt(from.get(), SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    setsockopt(from.get(), IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    const sockaddr_in to = at(address, port);
    if (connect(from.get(), reinterpret_cast<const sockaddr*>(&to), sizeof to) != 0) must(Error::fromErrno("connect"));
    UniqueFd accepted(accept(listener.get(), nullptr, nullptr));
    setsockopt(accepted.get(), IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return {std::move(from), std::move(accepted)};
  }
  // Microseconds of CPU time; of the two ends and of all between them.
  double request(const IpAddress& address, uint16_t port) const {
    auto [from, to] = open(address, port);
    char bytes[256] = {};
    const double before = cpuSeconds();
    for (int i = 0; i < kRequests; i++) {
      for (auto [sender, receiver] : {std::pair{from.get(), to.get()}, {to.get(), from.get()}}) {
        if (send(sender, bytes, sizeof bytes, 0) != sizeof bytes ||
            recv(receiver, bytes, sizeof bytes, MSG_WAITALL) != sizeof bytes)
          must(Error::fromErrno("exchange"));
      }
    }
    return (cpuSeconds() - before) / kRequests * 1e6;
  }
  double connection(const IpAddress& address, uint16_t port) const {
    const double before = cpuSeconds();
    for (int i = 0; i < kConnections; i++) (void)open(address, port);
    return (cpuSeconds() - before) / kConnections * 1e6;
  }
};

double medianOf(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// How much of what the pod's own address gives the service's gives, for the same CPU time.
bool compare(const Pods& pods, const IpAddress& service) {
  bool reached = true;
  const IpAddress own = pods.server.attachment.address.address;
  using Measure = double (Pods::*)(const IpAddress&, uint16_t) const;
  for (auto [what, measure] :
       {std::pair<const char*, Measure>{"a request", &Pods::request}, {"a new connection", &Pods::connection}}) {
    std::vector<double> direct, through, shares;
    for (int turn = 0; turn < kTurns; turn++) {
      double by[2];
      for (int which : {turn % 2, 1 - turn % 2})
        by[which] = which == 0 ? (pods.*measure)(own, kPort) : (pods.*measure)(service, 80);
      direct.push_back(by[0]);
      through.push_back(by[1]);
      shares.push_back(by[0] / by[1]);
    }
    std::printf("%s: %.1f us of CPU time by the pod's address, %.1f us by the service's: %.3f, goal %.2f of requests\n",
                what, medianOf(direct), medianOf(through), medianOf(shares), kShareGoal);
    if (measure == &Pods::request) reached = medianOf(shares) >= kShareGoal;
  }
  return reached;
}

}  // namespace

int main(int argc, char** argv) {
  const int services = argc > 1 ? std::atoi(argv[1]) : 10000, each = argc > 2 ? std::atoi(argv[2]) : 5;
  if (services <= 0 || services > 65000 || each <= 0 || each > 100) return 2;
  std::vector<std::string> serviceTexts, sliceTexts;
  for (int i = 0; i < services; i++) {
    serviceTexts.push_back(serviceText(i));
    sliceTexts.push_back(sliceText(i, each, 0));
  }
  Netns node = must(Netns::create());
  std::unique_ptr<ServiceProxy> proxy;
  must(runInNetns(node.fd(), [&]() -> Result<> {
    ServiceProxyOptions options;
    options.podRanges = {must(IpPrefix::parse("10.244.0.0/14"))};
    options.serviceRanges = {must(IpPrefix::parse("10.96.0.0/12"))};
    ASSIGN_OR_RETURN(proxy, ServiceProxy::open(std::move(options)));
    return {};
  }));
  std::vector<ServicePort> all;
  const double read = milliseconds([&] {
    for (size_t i = 0; i < serviceTexts.size(); i++) {
      for (auto& port : portsOf(serviceTexts[i], sliceTexts[i])) all.push_back(std::move(port));
    }
  });
  const double install = milliseconds([&] { must(proxy->apply(all)); });
  std::vector<double> changes;
  for (int i = 0; i < kChanges; i++) {
    const int which = static_cast<int>(int64_t{i} * services / kChanges);
    const std::string text = sliceText(which, each, i + 1);
    changes.push_back(
        milliseconds([&] { must(proxy->update(portsOf(serviceTexts[static_cast<size_t>(which)], text), {})); }));
  }
  std::sort(changes.begin(), changes.end());
  const double median = changes[changes.size() / 2], high = changes[changes.size() * 99 / 100];
  bool reached = read + install < kInstallGoal && median < kChangeGoal;
  std::printf("%d services with %d endpoints: %.0f ms from nothing (%.0f of them read documents), goal %.0f ms\n",
              services, services * each, read + install, read, kInstallGoal);
  std::printf("one endpoint changed: median %.2f ms, p99 %.2f ms, goal %.0f ms\n", median, high, kChangeGoal);
  Pods pods;
  must(runInNetns(node.fd(), [&] { return pods.setUp(); }));
  ServicePort web;
  web.key = "shop/web:80/tcp";
  web.port = 80;
  web.clusterIps = {must(IpPrefix::parse("10.111.0.1/32")).address};
  web.endpoints = {{pods.server.attachment.address.address, kPort, true}};
  must(proxy->update({web}, {}));
  reached &= compare(pods, web.clusterIps.front());
  pods.network->stop();
  return reached ? 0 : 1;
}
