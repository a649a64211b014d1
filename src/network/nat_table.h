// The nftables table of one process for its bridge networks: masquerading, isolation between networks and published
// ports (docker -p, a pod's hostPort). IPv6 is masqueraded and published by a table of the same name. One table per
// process and namespace; no other table is read or written, and a drop in the machine's own firewall (forward hook)
// holds. Any thread; calls block for well under a millisecond.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "network/ip.h"

namespace dhow {

struct PublishedPort {
  // Of the container's family. Empty or unspecified: every address of the machine, 127.0.0.1 among them but not ::1.
  IpAddress hostAddress;
  uint16_t hostPort = 0;  // 0: a free one is chosen
  IpAddress containerAddress;
  uint16_t containerPort = 0;
  Protocol protocol = Protocol::kTcp;
  auto operator<=>(const PublishedPort&) const = default;
};

class NatTable {
 public:
  // Makes the table, in the namespace of the caller, in place of one that a former process left. With `restoring`
  // that one works on untouched while networks and ports are told again, until install() puts the new one in its place.
  static Result<std::unique_ptr<NatTable>> open(const std::string& tableName, bool restoring = false);
  Result<> install();
  ~NatTable();  // leaves the table in the kernel

  // Publishes all or none; returns them with their host ports. kAlreadyExists ("port is already allocated") when one
  // is published here or bound by any process. The port stays bound, without listening, so that nobody takes it.
  Result<std::vector<PublishedPort>> publish(const std::string& owner, const std::vector<PublishedPort>& ports);
  Result<> unpublish(const std::string& owner);  // unknown is fine
  std::vector<PublishedPort> published(const std::string& owner) const;

  struct Network {
    std::string bridge;
    IpPrefix subnet;   // of IPv4; empty: none
    IpPrefix subnet6;  // masqueraded likewise; empty: none
    bool masquerade = true;
    std::vector<IpPrefix> noMasquerade;
    bool routed = false;          // inside traffic passes this machine both ways: needs no masquerade
    bool isolated = false;        // no traffic inside
    bool internal = false;        // none to the outside either
    bool apartFromOthers = true;  // other networks of this table may not send to it
  };
  Result<> setNetwork(const Network& network);
  Result<> removeNetwork(const std::string& bridge);

  Result<> destroy();  // deletes the table

 private:
  struct Rep;
  explicit NatTable(std::unique_ptr<Rep> rep);
  std::unique_ptr<Rep> rep_;
};

}  // namespace dhow
