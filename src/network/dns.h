// A DNS server for a cluster's or a Docker network's names; everything else goes to upstream resolvers. UDP and TCP.
// All on the loop's thread. Sources: RFC 1035, 2308, 6891,
// 8767; Kubernetes DNS specification 1.1.0.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/gate.h"
#include "base/loop.h"
#include "base/result.h"
#include "network/ip.h"

namespace dhow {

enum DnsType : uint16_t {
  kDnsA = 1,
  kDnsNs = 2,
  kDnsCname = 5,
  kDnsSoa = 6,
  kDnsPtr = 12,
  kDnsTxt = 16,
  kDnsAaaa = 28,
  kDnsSrv = 33,
  kDnsAny = 255
};

// Names are lower case, without the final dot.
struct DnsRecord {
  std::string name;
  uint16_t type = kDnsA;
  uint32_t ttl = 30;
  IpAddress address;                            // A, AAAA
  std::string target;                           // CNAME, PTR, SRV, SOA (mname), NS
  std::string text;                             // TXT
  uint16_t priority = 0, weight = 0, port = 0;  // SRV
  bool operator==(const DnsRecord&) const = default;
};

// Where answers come from. Called on the loop for each question, must not block.
class DnsSource {
 public:
  struct Answer {
    enum class Kind { kNotMine, kNoName, kRecords } kind = Kind::kNotMine;
    std::vector<DnsRecord> records;  // kRecords without any: the name exists, the type does not
    std::vector<DnsRecord> extra;    // additional section (addresses of SRV targets)
    std::string zone;                // for the SOA of a negative answer
    // The records are a CNAME to this name, whose own records belong to the answer: the source is asked for them,
    // and upstream resolvers when it does not have them. (ExternalName; the last step of a client's search path.)
    std::string canonical;
  };
  virtual ~DnsSource() = default;
  virtual Answer answer(std::string_view name, uint16_t type, const IpAddress& client) const = 0;
};

// Kubernetes' names, kept up to date service by service.
class ClusterDns final : public DnsSource {
 public:
  struct Options {
    std::string domain = "cluster.local";
    uint32_t ttl = 5;
    std::vector<IpPrefix> reverseRanges;  // pod and service ranges: PTR questions in them are ours
  };
  struct Port {
    std::string name;
    Protocol protocol = Protocol::kTcp;
    uint16_t port = 0;
  };
  struct Endpoint {
    IpAddress address;
    std::string hostname;     // empty: made from the address
    std::vector<Port> ports;  // headless services publish the endpoints' ports
  };
  struct Service {
    std::string ns, name;
    std::vector<IpAddress> clusterIps;  // empty: headless (or ExternalName)
    std::string externalName;
    std::vector<Port> ports;
    std::vector<Endpoint> endpoints;  // headless only: the ready ones (all when publishNotReadyAddresses)
  };

  explicit ClusterDns(Options options);
  ~ClusterDns() override;
  void set(const Service& service);
  void remove(const std::string& ns, const std::string& name);
  void replaceAll(const std::vector<Service>& services);
  // Namespaces that exist: a pod's a-b-c-d name is answered in these (any while none was given).
  void setNamespaces(std::vector<std::string> namespaces);
  // Who asks from this address, so that its search path is resolved on the server side.
  void setClientNamespace(const IpAddress& pod, const std::string& ns);
  void removeClient(const IpAddress& pod);

  Answer answer(std::string_view name, uint16_t type, const IpAddress& client) const override;

 private:
  struct Rep;
  std::unique_ptr<Rep> rep_;
};

// Docker's embedded DNS: names of containers, each visible to containers on a shared network.
class ContainerDns final : public DnsSource {
 public:
  ContainerDns();
  ~ContainerDns() override;
  // `names`: container name, short id, aliases.
  void set(const std::string& network, const std::string& containerId, const IpAddress& address,
           const std::vector<std::string>& names);
  void remove(const std::string& network, const std::string& containerId);
  Answer answer(std::string_view name, uint16_t type, const IpAddress& client) const override;

 private:
  struct Rep;
  std::unique_ptr<Rep> rep_;
};

struct DnsUpstream {
  IpAddress address;
  uint16_t port = 53;
  bool operator==(const DnsUpstream&) const = default;
  std::string str() const;                                    // "192.0.2.1:53", "[2001:db8::1]:53"
  static std::optional<DnsUpstream> parse(std::string_view);  // the same, or an address alone
};

// Who is asked for what is not ours.
struct DnsForwarding {
  std::vector<DnsUpstream> upstreams;  // in order, beginning with the one that answered last
  // Names in these domains (lower case, without the final dot) are asked of these alone; the longest domain counts.
  std::map<std::string, std::vector<DnsUpstream>> stubDomains;
  bool operator==(const DnsForwarding&) const = default;
};

class DnsServer {
 public:
  struct Options {
    struct Listen {
      IpAddress address;
      uint16_t port = 53;
      int netnsFd = -1;  // the socket's namespace; -1: ours
    };
    std::vector<Listen> listen;
    DnsForwarding forwarding;
    Duration upstreamTimeout = std::chrono::seconds(2);  // then the next one is asked
    size_t maxInFlight = 1000;                           // forwarded questions; beyond: SERVFAIL
    size_t cacheEntries = 10000;
    // How long answers are given that have ended, while nobody can be asked for newer ones (RFC 8767).
    Duration staleFor = std::chrono::hours(24);
    size_t maxTcpClients = 100;
  };
  struct Stats {
    uint64_t questions = 0, answered = 0, forwarded = 0, cacheHits = 0, stale = 0, malformed = 0, failed = 0;
  };
  DnsServer(Loop& loop, const DnsSource& source, Options options);
  ~DnsServer();

  Result<> start();                               // binds; kAlreadyExists when an address is taken
  Result<> listen(const Options::Listen& where);  // one more
  void unlisten(const IpAddress& address, int netnsFd = -1);
  Task<> stop();
  uint16_t port() const;                         // of the first address; for port 0
  void setForwarding(DnsForwarding forwarding);  // forgets what was cached when it is another
  Stats stats() const;

 private:
  struct Rep;
  std::shared_ptr<Rep> rep_;
};

// The nameservers of a resolv.conf text, at most three.
std::vector<IpAddress> parseNameservers(std::string_view resolvConf);

}  // namespace dhow
