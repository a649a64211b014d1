#include "address.h"

#include <netinet/in.h>
#include <stdlib.h>
#include <sys/socket.h>

#include <climits>
#include <cstring>

#include "base/fd.h"
#include "base/files.h"
#include "base/log.h"
#include "base/strings.h"
#include "network/ip.h"
#include "network/links.h"

namespace dhow::host {

namespace {

constexpr const char* kSettings[] = {"net/ipv4/ip_forward", "net/ipv4/conf/all/send_redirects"};
constexpr const char* kForwarding6 = "net/ipv6/conf/all/forwarding";
// The pods' bridge and the tunnel to others' pods.
constexpr std::string_view kOwnLinks = "dhow0";

const IpPrefix kLinkLocal = *IpPrefix::parse("fe80::/10");

// `all`: of the link that has `chosen`, which comes before others of its family.
HostAddress placeOf(const IpPrefix& chosen, const std::vector<IpPrefix>& all) {
  HostAddress out;
  auto take = [&](const IpPrefix& one) {
    auto& address = one.address.isV6() ? out.address6 : out.address;
    auto& segment = one.address.isV6() ? out.segment6 : out.segment;
    if (kLinkLocal.contains(one.address) || !address.empty()) return;
    address = one.address.str();
    segment = one.masked().str();
  };
  take(chosen);
  for (const auto& one : all) take(one);
  return out;
}

const char* nameOf(bool six) {
  return six ? "IPv6" : "IPv4";
}

}  // namespace

Result<HostAddress> findAddress(const std::string& wanted, bool ipv6First) {
  ASSIGN_OR_RETURN(auto links, NetLinks::open());
  if (!wanted.empty()) {
    ASSIGN_OR_RETURN(auto all, links.list());
    for (const auto& link : all) {
      ASSIGN_OR_RETURN(auto addresses, links.addresses(link.index));
      for (const auto& one : addresses) {
        if (one.address.str() != wanted) continue;
        if (one.address.isV6() == ipv6First) return placeOf(one, addresses);
        return Error(Code::kInvalid, fmt::format("{} is no {} address, by which the hosts of this cluster reach each "
                                                 "other; give one that is",
                                                 wanted, nameOf(ipv6First)));
      }
    }
    return Error(Code::kNotFound,
                 fmt::format("{} is no address of this machine (`ip address` shows them); give one that is", wanted));
  }
  ASSIGN_OR_RETURN(auto routes, links.routes());
  for (const auto& route : routes) {
    if (route.destination.length != 0 || route.link == 0 || route.gateway.empty() || route.gateway.isV6() != ipv6First)
      continue;
    ASSIGN_OR_RETURN(auto addresses, links.addresses(route.link));
    for (const auto& one : addresses) {
      if (one.address.isV6() == ipv6First && !kLinkLocal.contains(one.address) &&
          (route.source.empty() || route.source == one.address))
        return placeOf(one, addresses);
    }
  }
  return Error(Code::kNotFound,
               fmt::format("this machine has no default route{} that would tell which of its addresses the others "
                           "reach; give one with --address (of a server: --advertise)",
                           ipv6First ? " of IPv6" : ""));
}

Result<> checkRangesFree(const std::vector<std::string>& ranges) {
  ASSIGN_OR_RETURN(auto links, NetLinks::open());
  ASSIGN_OR_RETURN(auto all, links.list());
  std::map<int, std::string> names;
  for (const auto& link : all) names[link.index] = link.name;
  ASSIGN_OR_RETURN(auto routes, links.routes());
  ASSIGN_OR_RETURN(auto addresses, links.addresses(0));
  for (const auto& range : ranges) {
    if (range.empty()) continue;
    ASSIGN_OR_RETURN(auto wanted, IpPrefix::parse(range));
    auto taken = [&](const IpPrefix& by) {
      return Error(Code::kConflict,
                   fmt::format("the cluster's range {} overlaps {}, which this machine reaches already (`ip route`); a "
                               "cluster's ranges are chosen by `dhow server --pod-range --service-range`",
                               range, by.str()));
    };
    for (const auto& route : routes) {
      if (route.destination.length == 0) continue;
      if (names[route.link].starts_with(kOwnLinks)) continue;
      if (route.destination.overlaps(wanted)) return taken(route.destination);
    }
    for (const auto& address : addresses) {
      if (!address.address.isLoopback() && wanted.contains(address.address)) return taken(address);
    }
  }
  return {};
}

Result<> checkPortFree(const std::string& address, uint16_t port) {
  ASSIGN_OR_RETURN(auto parsed, IpAddress::parse(address));
  const bool six = parsed.isV6();
  UniqueFd fd(::socket(six ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_storage at{};
  auto& in = reinterpret_cast<sockaddr_in&>(at);
  auto& in6 = reinterpret_cast<sockaddr_in6&>(at);
  at.ss_family = six ? AF_INET6 : AF_INET;
  (six ? in6.sin6_port : in.sin_port) = htons(port);
  std::memcpy(six ? static_cast<void*>(&in6.sin6_addr) : &in.sin_addr, parsed.bytes().data(), parsed.bytes().size());
  int on = 1;
  if (fd) ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (fd && ::bind(fd.get(), reinterpret_cast<sockaddr*>(&at), six ? sizeof in6 : sizeof in) == 0) return {};
  return Error(
      Code::kConflict,
      fmt::format("port {} of {} is taken (`ss -ltnp` shows by whom); give another with --port", port, address));
}

std::map<std::string, std::string> networkSettings(bool ipv6) {
  std::map<std::string, std::string> out;
  if (ipv6) {
    auto value = readFile(std::string("/proc/sys/") + kForwarding6, 64);
    if (value.ok()) out[kForwarding6] = trim(*value);
    // What forwardIpv6() changes.
    auto links = listDir("/proc/sys/net/ipv6/conf");
    for (const auto& link : links.ok() ? *links : std::vector<std::string>()) {
      const auto setting = fmt::format("net/ipv6/conf/{}/accept_ra", link);
      auto accepts = readFile("/proc/sys/" + setting, 16);
      if (accepts.ok() && trim(*accepts) == "1") out[setting] = "1";
    }
  }
  for (const char* name : kSettings) {
    auto value = readFile(std::string("/proc/sys/") + name, 64);
    if (value.ok()) out[name] = trim(*value);
  }
  return out;
}

void giveBack(const std::map<std::string, std::string>& settings) {
  for (const auto& [name, was] : settings) {
    auto set = setSysctl(name, was);
    if (!set.ok()) log::warn("host", "{}", set.error().message());
  }
}

std::string resolverFile() {
  constexpr const char* kUsual = "/etc/resolv.conf";
  constexpr const char* kReal = "/run/systemd/resolve/resolv.conf";
  char resolved[PATH_MAX];
  if (!::realpath(kUsual, resolved) || std::string_view(resolved) != "/run/systemd/resolve/stub-resolv.conf")
    return kUsual;
  return pathExists(kReal) ? kReal : kUsual;
}

}  // namespace dhow::host
