// What a node pool needs next: pure functions, so that the rules of spreading, standing in and upgrading can be read
// and tested without an API.
//
//   spread      originals (machines that are not stand-ins) are put where there are fewest and taken where there are
//               most; no live zone of the pool has two more than another, stand-ins for those of lost zones among them
//   stand-ins   each original of a zone that is down has one, in the live zone with the fewest machines; it goes when
//               the original is ready again. While one zone is back and another is not, stand-ins move until no live
//               zone has two machines more than another: first made there, once the zone's own machines are ready
//   upgrades    a surge machine first, then one outdated machine for each surge machine at a time; none begins while a
//               drain is stuck or a zone is not up
#pragma once

#include <string>
#include <vector>

#include "platform.h"

namespace dhow::controllers {

struct PoolMachine {
  std::string name;
  std::string zone;
  std::string original;  // whom it stands in for; empty: it is an original itself
  int64_t number = 0;
  bool surge = false;
  bool deleting = false;
  bool ready = false;
  bool creating = false;  // on its way for the first time
  bool current = true;    // of the pool's present template
  bool idle = false;
  bool noRoom = false;
  bool blocked = false;  // a pod does not leave it; `message` says which and why
  bool stuck = false;    // its drain's deadline has passed
  std::string message;   // why it does not go on
};

struct PoolZone {
  std::string name;
  ZonePhase phase = ZonePhase::kUp;
  bool open = true;
  int64_t room = 1 << 20;  // machines that still fit, of any pool
  int64_t wanted = 0;      // pods that wait for a machine here and nowhere else
};

struct PoolWish {
  int64_t count = 1;
  int64_t surge = 1;
};

struct PoolStep {
  struct Create {
    std::string zone;
    std::string original;  // a stand-in for it
    std::string originalZone;
    bool surge = false;
    bool operator==(const Create&) const = default;
  };
  std::vector<Create> create;
  std::vector<std::string> remove;
  std::vector<std::string> renew;  // to the present template, under their names
  std::string message;             // what it waits for
  bool upgrading = false;          // machines of an old template are replaced, or shall be
  bool stuck = false;              // an upgrade that does not go on by itself
  bool spreading = false;          // stand-ins are made, or move to where there are fewer
  bool empty() const { return create.empty() && remove.empty() && renew.empty(); }
};

// `zones` are those of the pool, in its order.
PoolStep planPool(const PoolWish& wish, const std::vector<PoolMachine>& machines, const std::vector<PoolZone>& zones);

}  // namespace dhow::controllers
