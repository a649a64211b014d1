// Answers neighbours on a link for load-balanced addresses, by ARP and neighbour discovery, as AddressElection decides
// with the nodes on the same segment. No link is given the addresses: what comes for them is the service proxy's, and a
// process that ends answers no more. Needs CAP_NET_RAW. On the loop's thread.
#pragma once

#include <memory>
#include <string>

#include "base/loop.h"
#include "base/result.h"
#include "network/address_election.h"

namespace dhow {

class AddressAnnouncer {
 public:
  struct Options {
    std::string node;  // this one
    std::string link;  // of the caller's network namespace
    Duration beat = std::chrono::milliseconds(300);
    Duration silence = std::chrono::seconds(1);  // after which a node counts as dead
  };
  AddressAnnouncer(Loop& loop, Options options);
  ~AddressAnnouncer();

  Result<> start();
  // Tells the others, so that they take over at once.
  void stop();
  void setWanted(AddressElection::Wanted wanted);
  void setHealth(NodeHealth health);
  const std::set<IpAddress>& held() const;

 private:
  struct Rep;
  std::shared_ptr<Rep> rep_;
};

}  // namespace dhow
