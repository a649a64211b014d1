// What the service proxy of a node costs in a large cluster: the time from the documents of 10,000 services with 50,000
// endpoints to rules in the kernel, from nothing, and of one changed endpoint among them. In a namespace of its own.
//   service-bench [SERVICES [ENDPOINTS-OF-EACH]]
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>

#include "network/links.h"
#include "network/service_proxy.h"
#include "node/service_ports.h"

using namespace dhow;

namespace {

constexpr int kChanges = 201;
constexpr double kInstallGoal = 2000, kChangeGoal = 5;  // milliseconds
const node::ServiceView kView{"node-1", "zone-1", "10.96.0.10"};

template <class T>
T must(Result<T> result) {
  if (result.ok()) return std::move(*result);
  std::fprintf(stderr, "%s\n", result.error().message().c_str());
  std::exit(1);
}
void must(Result<> result) {
  if (result.ok()) return;
  std::fprintf(stderr, "%s\n", result.error().message().c_str());
  std::exit(1);
}

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
  const bool reached = read + install < kInstallGoal && median < kChangeGoal;
  std::printf("%d services with %d endpoints: %.0f ms from nothing (%.0f of them read documents), goal %.0f ms\n",
              services, services * each, read + install, read, kInstallGoal);
  std::printf("one endpoint changed: median %.2f ms, p99 %.2f ms, goal %.0f ms\n", median, high, kChangeGoal);
  return reached ? 0 : 1;
}
