// The one address of a cluster's API: passes TCP connections on to masters, without looking into them (TLS ends at the
// master). Living masters take turns; one that refuses is passed over, and when it is known to be dead the connections
// to it end at once, so that their clients come again and reach another.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/loop.h"
#include "base/result.h"

namespace dhow::platform {

class ApiAddress {
 public:
  struct Master {
    std::string name;
    std::string address;
    uint16_t port = 0;
  };
  ApiAddress(Loop& loop, std::vector<Master> masters);
  ~ApiAddress();

  // Port 0 picks one; gives the port.
  Result<uint16_t> listen(const std::string& address, uint16_t port);
  // What is known about a master; at first each is taken to live. A dead one is tried only when no other takes a
  // connection.
  void setAlive(const std::string& master, bool alive);
  bool alive(const std::string& master) const;
  size_t connections() const;
  // Ends what is open.
  Task<> stop();

 private:
  struct Rep;
  std::unique_ptr<Rep> rep_;
};

}  // namespace dhow::platform
