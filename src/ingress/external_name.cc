#include "external_name.h"

#include <arpa/inet.h>
#include <ifaddrs.h>

#include <memory>
#include <set>

#include "base/log.h"
#include "base/result.h"
#include "base/strings.h"

namespace dhow::ingress {

namespace {

// Loopback, link-local, of no host, of many; an IPv4 address in one of IPv6 is found by the former.
constexpr std::string_view kNobodyElse =
    "0.0.0.0/8\n127.0.0.0/8\n169.254.0.0/16\n224.0.0.0/3\n::/127\nfe80::/10\nff00::/8\n";

}  // namespace

void externalNameLines(std::vector<std::string>& out, const std::string& name, int64_t port, std::string_view family,
                       const std::string& options, Files& files) {
  files.emplace(kOwnAddresses, kNobodyElse);
  out.push_back(fmt::format("http-request do-resolve(txn.elsewhere,cluster,{}) str({})", family, name));
  constexpr std::string_view kRefuse =
      "http-request return status 503 content-type 'text/plain; charset=utf-8' string '{}' {}";
  out.push_back(fmt::format(kRefuse, "the name leads nowhere", "unless { var(txn.elsewhere) -m found }"));
  out.push_back(fmt::format(kRefuse, "the name leads to the node itself",
                            fmt::format("if {{ var(txn.elsewhere) -m ip -f @{} }}", kOwnAddresses)));
  out.emplace_back("http-request set-dst var(txn.elsewhere)");
  out.push_back(fmt::format("server external 0.0.0.0:{} {}", port, options));
}

void addOwnAddresses(Files& files) {
  auto file = files.find(kOwnAddresses);
  if (file == files.end()) return;
  struct ifaddrs* first = nullptr;
  if (::getifaddrs(&first) != 0) {
    log::error("ingress", "{}", Error::fromErrno("list addresses").message());
    return;
  }
  const std::unique_ptr<struct ifaddrs, decltype(&::freeifaddrs)> all(first, &::freeifaddrs);
  std::set<std::string> own;
  for (const struct ifaddrs* one = first; one != nullptr; one = one->ifa_next) {
    if (one->ifa_addr == nullptr) continue;
    char text[INET6_ADDRSTRLEN];
    const void* address = nullptr;
    if (one->ifa_addr->sa_family == AF_INET)
      address = &reinterpret_cast<const sockaddr_in*>(one->ifa_addr)->sin_addr;
    else if (one->ifa_addr->sa_family == AF_INET6)
      address = &reinterpret_cast<const sockaddr_in6*>(one->ifa_addr)->sin6_addr;
    if (address != nullptr && ::inet_ntop(one->ifa_addr->sa_family, address, text, sizeof text) != nullptr)
      own.emplace(text);
  }
  for (const std::string& address : own) file->second += address + "\n";
}

}  // namespace dhow::ingress
