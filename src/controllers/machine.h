// Keeps each Machine: made by the provider, repaired under its own name (power off and on, then made anew), made anew
// when its template changed, and taken away when it was deleted: drained first, and only forgotten when nothing of it
// can run any more.
//
// While its zone is down and the zone's provider does not answer it is Lost and let alone. While the master may be cut
// off, only what the provider surely knows to be off is repaired.
#pragma once

#include <set>

#include "heartbeats.h"
#include "inventory.h"
#include "pod_mover.h"
#include "zone_health.h"

namespace dhow::controllers {

class MachineController final : public Component {
 public:
  struct Options {
    Duration silentPatience = std::chrono::seconds(45);  // after it fell silent, before it is repaired
    Duration startPatience = std::chrono::seconds(60);   // for a machine to be heard after a restart
    Duration makePatience = std::chrono::seconds(180);   // after it was made
    Duration againPatience = std::chrono::seconds(10);   // between repairs that all worked; longer from turn to turn
    Duration healthyFor = std::chrono::minutes(10);      // then earlier repairs are forgotten
  };
  MachineController(Context context, MachineProvider& provider, Heartbeats& heartbeats, Inventory& inventory,
                    const ZoneHealthController& zones, Options options);
  void start() override { controller_.start(); }
  Task<> stop() override;
  bool idle() const override { return controller_.idle(); }
  Task<Result<>> reconcile(std::string key);

 private:
  Task<Result<>> make(ObjectPtr machine);
  Task<Result<>> keepRunning(ObjectPtr machine, ObjectPtr node);
  Task<Result<>> repair(ObjectPtr machine, std::string why);
  Task<Result<>> renew(ObjectPtr machine, ObjectPtr node);
  Task<Result<>> retire(ObjectPtr machine, ObjectPtr node, bool zoneDown);
  // Whether the node is empty; tells in the machine's status what is left and what keeps it.
  Task<Result<bool>> drain(ObjectPtr machine, ObjectPtr node);
  Task<Result<std::string>> letClientsGo(ObjectPtr machine, ObjectPtr node, WallTime deadline);
  Task<Result<>> takeAway(ObjectPtr machine);  // by the provider, and the pods of its node with it
  Task<Result<>> forgetNode(std::string name);
  Task<Result<>> setPhase(ObjectPtr machine, std::string_view phase, std::string message);
  bool backSinceRepair(const Object& machine) const;
  bool recovering(const Object& machine, Duration patience) const;

  Context context_;
  MachineProvider& provider_;
  Heartbeats& heartbeats_;
  Inventory& inventory_;
  const ZoneHealthController& zoneHealth_;
  Options options_;
  client::Cache& machines_;
  client::Cache& nodes_;
  client::Cache& pods_;
  client::Cache& zones_;
  PodMover mover_;
  std::set<std::string> draining_;
  std::set<std::string> repaired_;  // by this process: heartbeats know what was heard since
  client::EventRecorder events_;
  client::Controller controller_;
  std::unique_ptr<Heartbeats::Subscription> heard_;
};

MachineRequest requestFor(const Object& machine);

}  // namespace dhow::controllers
