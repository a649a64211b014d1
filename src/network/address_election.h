// Who of the nodes on a segment answers for each load-balanced address. No node decides for others, and no master is
// needed: each tells the others in beats what it holds and how it is, and all follow the same rules.
//
// - An address stays with its holder. It moves when the holder has been silent for `silence`, may not have it any more,
//   or is cut off from the masters while others are not.
// - Of those that may take an address, each has a rank by a hash of node and address, so that addresses are spread. The
//   first takes it at once; the next one when nobody has for another `silence` each.
// - When two hold the same one (their segment was parted), the one with the lower rank gives it up at the next beat.
//
// A state machine without I/O; all on one thread.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "base/time.h"
#include "network/ip.h"

namespace dhow {

// How sure a node's place in the cluster is. Dead masters make all nodes unsure together, which moves nothing.
enum class NodeHealth : uint8_t { kWell = 0, kUnsure = 1, kCutOff = 2 };

struct AnnounceBeat {
  std::string node;
  NodeHealth health = NodeHealth::kWell;
  bool leaving = false;  // the last beat of a node that stops
  bool more = false;     // another part follows, with further addresses
  std::vector<IpAddress> held;
  bool operator==(const AnnounceBeat&) const = default;
};

class AddressElection {
 public:
  struct Options {
    std::string self;
    Duration silence = std::chrono::seconds(1);
  };
  // Who may have an address: these, or any node when there are none given and `any`.
  struct Candidates {
    bool any = true;
    std::set<std::string> nodes;
    bool operator==(const Candidates&) const = default;
  };
  using Wanted = std::map<IpAddress, Candidates>;
  struct Decision {
    std::vector<IpAddress> taken, givenUp;
    std::vector<IpAddress> again;  // held, and to be told anew: another one told that it has them
  };

  explicit AddressElection(Options options) : options_(std::move(options)) {}
  void setWanted(Wanted wanted, TimePoint now);
  void setHealth(NodeHealth health) { health_ = health; }
  // Whether it told anything new.
  bool heard(const AnnounceBeat& beat, TimePoint now);
  // To be called after each change, and at next().
  Decision decide(TimePoint now);
  // When something may change though nobody is heard; TimePoint::max(): never.
  TimePoint next(TimePoint now) const;

  bool wanted() const { return !wanted_.empty(); }
  const std::set<IpAddress>& held() const { return held_; }
  AnnounceBeat beat() const;

 private:
  struct Peer {
    NodeHealth health = NodeHealth::kWell;
    TimePoint heard{};
    bool inParts = false;  // the last beat was one of several
    std::map<IpAddress, TimePoint> claims;
  };
  // Those that may have it now, the first first.
  std::vector<std::string> order(const IpAddress& address, const Candidates& candidates) const;
  uint64_t rank(const IpAddress& address, const std::string& node) const;

  Options options_;
  NodeHealth health_ = NodeHealth::kWell;
  Wanted wanted_;
  TimePoint listensUntil_{};  // others are heard first
  std::map<std::string, Peer> peers_;
  std::set<IpAddress> held_;
  std::map<IpAddress, TimePoint> unheld_;  // since when nobody has it
};

}  // namespace dhow
