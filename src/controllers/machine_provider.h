// Who makes machines: all that the platform knows of a cloud. The local one (system containers of the region) and any
// other stand behind this interface; controllers/machine.h is its caller. On the loop's thread.
//
// A machine has a stable name, which is also its node's. A provider keeps no plan of its own: it makes, restarts and
// removes what it is told, and tells what is there. All calls are idempotent and may be given up and asked again.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/task.h"

namespace dhow::controllers {

struct MachineTaint {
  std::string key, value, effect;
  bool operator==(const MachineTaint&) const = default;
};

struct MachineRequest {
  std::string name;                           // "dhow-node-1"
  std::string zone;                           // "local-east-1"
  std::string pool;                           // "default"
  std::string cpu;                            // quantity ("2", "500m"); empty: the provider's own default
  std::string memory;                         // quantity ("4Gi"); empty: the provider's own default
  std::string version;                        // of the pool's template; given back by list()
  std::map<std::string, std::string> labels;  // that the node registers with, besides the well-known ones
  std::vector<MachineTaint> taints;           // that the node registers with
};

struct MachineInfo {
  // kStopped: surely nothing of it runs (powered off, crashed, its process tree is gone): as good as fenced.
  enum class State { kCreating, kRunning, kStopped, kDeleting };
  std::string name;
  std::string zone;
  State state = State::kCreating;
  std::string version;  // of the request that it was last made from
  bool held = false;    // stopped on purpose by its owner (dhow machine stop): it is not repaired
  std::string address;  // of its node, where it is known
  std::string message;  // why it is not running
};

class MachineProvider {
 public:
  virtual ~MachineProvider() = default;

  // Makes the machine and starts it; done when the making has begun (list() and subscribe() tell the rest). Done at
  // once when it exists, whatever its state.
  //   kInvalid             the zone or the size does not exist here: asking again does not help
  //   kFailedPrecondition  no room in this zone now
  //   kUnavailable         the zone or the provider does not answer now
  virtual Task<Result<>> create(MachineRequest request) = 0;
  // Ends it, and everything on it, hard and for good; done when nothing of it runs any more. Done at once when there
  // is none.
  //   kUnavailable         the zone or the provider does not answer: it may still run
  virtual Task<Result<>> remove(std::string name) = 0;
  // Power off and on; starts a stopped one. Its disk stays. kNotFound: there is none. kUnavailable: as above.
  virtual Task<Result<>> restart(std::string name) = 0;
  // What is there: of one zone, or of all when `zone` is empty. Machines of zones that do not answer are left out when
  // all are asked for. For one zone the errors are how a zone that is out (cut off, without power) is told from one
  // whose machines have failed one by one:
  //   kFailedPrecondition  the provider answers, the zone does not: it is the zone that is out
  //   kUnavailable         it cannot be told: zone, provider or the way there
  //   kNotFound            the provider has no such zone
  virtual Task<Result<std::vector<MachineInfo>>> list(std::string zone) = 0;

  // `changed` is called (on the loop, never from within a call of this interface) when a machine changed; with an
  // empty name when any may have: look again. Late and doubled calls are fine, lost ones are not, short of an outage,
  // after which an empty name is told.
  using Changed = std::function<void(const std::string& name)>;
  class Subscription {
   public:
    virtual ~Subscription() = default;
  };
  [[nodiscard]] virtual std::unique_ptr<Subscription> subscribe(Changed changed) = 0;
};

}  // namespace dhow::controllers
