// The one address of a cluster's API: passes TCP connections on to masters, without looking into them (TLS ends at the
// master). Living masters take turns; one that refuses is passed over, and when it is known to be dead the connections
// to it end at once, so that their clients come again and reach another.
//
// A process that is replaced hands its sockets over to the program that takes its place: nobody is refused meanwhile,
// and what is connected stays so.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/fd.h"
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

  // Port 0 picks one; gives the port. One that was taken over is listening already.
  Result<uint16_t> listen(const std::string& address, uint16_t port);
  // What is known about a master; at first each is taken to live. A dead one is tried only when no other takes a
  // connection.
  void setAlive(const std::string& master, bool alive);
  bool alive(const std::string& master) const;
  size_t connections() const;
  // Ends what is open.
  Task<> stop();
  // Stops and gives a memory file that tells of all sockets; they and it are inherited by the program that this process
  // executes next.
  Task<Result<UniqueFd>> handOver();
  // Goes on with them, before listen(). A socket that is not what the file says is an error, and is closed.
  Result<> takeOver(UniqueFd file);

 private:
  struct Rep;
  std::unique_ptr<Rep> rep_;
};

}  // namespace dhow::platform
