// Hands out the addresses of one range, each to one owner at a time; the one released longest ago is used first.
// With a journal file the assignments survive a kill -9 of the process (not a crash of the machine: then the
// containers are gone too; put the file where a reboot clears it, or release what no longer lives). Any thread.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "network/ip.h"

namespace dhow {

class Ipam {
 public:
  struct Options {
    // Its network and broadcast address are never handed out (/30 and larger). Of IPv6 the first 65,536 are used.
    IpPrefix range;
    IpPrefix within;                  // hand out only from this part ("--ip-range"); empty: the whole range
    std::vector<IpAddress> reserved;  // the gateway, for example
    std::string journal;              // empty: in memory only
  };
  static Result<std::unique_ptr<Ipam>> open(Options options);
  ~Ipam();

  Result<IpAddress> allocate(const std::string& owner);               // kUnavailable when all are in use
  Result<> take(const std::string& owner, const IpAddress& address);  // a given one; kConflict when another has it
  void rename(const std::string& from, const std::string& to);        // all addresses of `from` are now `to`'s
  void release(const std::string& owner);                             // all of its addresses; unknown is fine
  void releaseAddress(const IpAddress& address);
  std::vector<IpAddress> of(const std::string& owner) const;
  std::vector<std::string> owners() const;
  size_t used() const;
  uint64_t capacity() const;

 private:
  struct Rep;
  explicit Ipam(std::unique_ptr<Rep> rep);
  std::unique_ptr<Rep> rep_;
};

}  // namespace dhow
