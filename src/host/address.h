// This machine's place in the network: the address that others reach it by, what its links lead to already, and the
// kernel settings that a node changes. Nothing is changed here but by giveBack(). Calls block briefly.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/result.h"

namespace dhow::host {

// Of one link. That of the cluster's first family is there, that of the other one may be empty.
struct HostAddress {
  std::string address;
  std::string segment;  // "192.168.7.0/24": whoever is inside is reached without a router
  std::string address6, segment6;

  const std::string& first(bool ipv6First) const { return ipv6First ? address6 : address; }
};

// Of the link that has the default route of the first family, or `wanted`, which must be one of this machine's and of
// that family. kNotFound with what to do.
Result<HostAddress> findAddress(const std::string& wanted, bool ipv6First);

// kConflict when this machine already reaches something else in one of the ranges; empty ones are passed over.
Result<> checkRangesFree(const std::vector<std::string>& ranges);

// kConflict when somebody listens there.
Result<> checkPortFree(const std::string& address, uint16_t port);

// The settings that a node's network changes, as they are now.
std::map<std::string, std::string> networkSettings(bool ipv6);
void giveBack(const std::map<std::string, std::string>& settings);

// Where nameservers stand that pods can ask, too: systemd-resolved's stub answers on this machine's loopback only.
std::string resolverFile();

}  // namespace dhow::host
