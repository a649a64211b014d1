// The kernel's links, addresses, routes and namespaces over rtnetlink. Mechanism only: each call does what it
// says and returns what the kernel said. Creating what exists is kAlreadyExists, touching what does not is kNotFound.
// Calls block for tens of microseconds; any thread (a NetLinks serializes its own calls).
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "network/ip.h"

namespace dhow {

struct OwnedNetns;

// A network namespace held by a descriptor.
class Netns {
 public:
  static Result<Netns> current();
  static Result<Netns> open(const std::string& path);  // a bind-mounted file or /proc/<pid>/ns/net
  static Result<Netns> ofProcess(int pid);
  // A new namespace that lives as long as a descriptor, a process or a mount holds it. loopback is up.
  static Result<Netns> create();
  // The same, owned by a new user namespace that has no ids yet: those in it that get its ids administer the network.
  static Result<OwnedNetns> createOwned();
  Netns() = default;
  explicit Netns(UniqueFd fd) : fd_(std::move(fd)) {}

  int fd() const { return fd_.get(); }
  explicit operator bool() const { return static_cast<bool>(fd_); }
  Result<Netns> duplicate() const;
  // Makes the namespace reachable as a file (created when missing), so that it outlives us and OCI runtimes can
  // join it by path. unpin() of a path that is no mount only removes the file.
  Result<> pin(const std::string& path) const;
  static Result<> unpin(const std::string& path);

 private:
  UniqueFd fd_;
};

struct OwnedNetns {
  Netns net;
  UniqueFd users;
};

// Runs `work` on a thread of its own inside the namespace and returns its result. Sockets opened there stay there.
Result<> runInNetns(int netnsFd, std::function<Result<>()> work);
// A socket(2) that lives in the namespace (-1: the caller's).
Result<UniqueFd> socketInNetns(int netnsFd, int domain, int type, int protocol);

// A sysctl of the calling thread's namespace: "net/ipv4/ip_forward". Already holding that value is success, even
// where /proc/sys is read-only.
Result<> setSysctl(const std::string& name, std::string_view value);

// Forwards IPv6 in the calling thread's namespace. Links that learn routes from router advertisements, which a router
// else would pass over, go on to.
Result<> forwardIpv6();

struct Link {
  int index = 0;
  std::string name;
  std::string kind;  // "veth", "bridge", "vxlan", or empty
  std::string mac;
  int mtu = 0;
  int master = 0;
  bool up = false;
};

struct VethSpec {
  std::string name;      // this end, in the namespace of the NetLinks
  std::string peerName;  // the other end
  int peerNetnsFd = -1;  // created there at once; -1: in the same namespace
  std::string peerMac;   // empty: random
  int mtu = 0;           // 0: the kernel's default
  int master = 0;        // bridge that this end joins
  bool up = true;        // brings this end up
};

struct Route {
  IpPrefix destination;      // length 0: default
  IpAddress gateway;         // empty: on link
  int link = 0;              // 0: the kernel finds it by the gateway
  IpAddress source;          // preferred source address
  bool onLink = false;       // take the gateway to be on the link
  bool unreachable = false;  // who sends there is told that there is no way
};

class NetLinks {
 public:
  static Result<NetLinks> open();  // the calling thread's namespace
  static Result<NetLinks> openIn(int netnsFd);
  NetLinks(NetLinks&&) noexcept;
  NetLinks& operator=(NetLinks&&) noexcept;
  ~NetLinks();

  Result<Link> find(const std::string& name);  // kNotFound
  Result<std::vector<Link>> list();
  Result<int> createBridge(const std::string& name, const std::string& mac = "", int mtu = 0);
  Result<int> createVeth(const VethSpec& spec);  // index of this end
  // Point-to-point tunnel end; remote ends are neighbours and FDB entries.
  Result<int> createVxlan(const std::string& name, uint32_t id, const IpAddress& local, uint16_t port, int mtu = 0,
                          const std::string& mac = "");  // empty: macFor(local)
  Result<> remove(int link);                             // waits for the kernel; tens of milliseconds for a veth
  // Deletes the links of these names together, which takes as long as deleting one; missing ones are fine.
  Result<> removeTogether(const std::vector<std::string>& names);
  Result<> setUp(int link, bool up = true);
  Result<> setMtu(int link, int mtu);
  Result<> setMac(int link, const std::string& mac);
  Result<> setMaster(int link, int bridge);  // 0: none
  Result<> setName(int link, const std::string& name);
  Result<> setBridgePort(int link, bool isolated, bool hairpin);
  Result<> moveTo(int link, int netnsFd, const std::string& newName = "");

  Result<> addAddress(int link, const IpPrefix& address);     // existing is fine
  Result<> removeAddress(int link, const IpPrefix& address);  // missing is fine
  Result<std::vector<IpPrefix>> addresses(int link);          // 0: of all links
  Result<> setRoute(const Route& route);                      // adds or replaces
  Result<> removeRoute(const Route& route);                   // missing is fine
  Result<std::vector<Route>> routes();                        // main table
  Result<> setNeighbour(int link, const IpAddress& address, const std::string& mac);
  // Where a VXLAN sends frames for a MAC address.
  Result<> setForwarding(int link, const std::string& mac, const IpAddress& remote);

  // Addresses, routes and "up" for the inside of a container in one batch: lo and the link named so.
  Result<> configureInside(int link, const std::vector<IpPrefix>& addresses, const std::vector<Route>& routes);

 private:
  struct Rep;
  explicit NetLinks(std::unique_ptr<Rep> rep);
  std::unique_ptr<Rep> rep_;
};

}  // namespace dhow
