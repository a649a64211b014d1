// Keeps the Machines of each NodePool as node_pool_plan.h says, and tells in the pool's status how it stands.
#pragma once

#include <map>
#include <set>

#include "node_pool_plan.h"
#include "own_writes.h"

namespace dhow::controllers {

class NodePoolController final : public Component {
 public:
  // Machines of the pool "default" are named <cluster>-node-<n>, those of others <cluster>-<pool>-<n>.
  NodePoolController(Context context, std::string cluster);
  void start() override { controller_.start(); }
  Task<> stop() override;
  bool idle() const override { return controller_.idle(); }
  Task<Result<>> reconcile(std::string key);
  // Whether, as the caches have it, stand-ins of a pool that has machines in the zone are still to move.
  bool spreading(std::string_view zone);

 private:
  PoolStep plan(const Object& pool, const std::string& version);
  std::vector<PoolMachine> machinesOf(const Object& pool, const std::string& version) const;
  std::vector<PoolZone> zonesOf(const Object& pool);
  Task<Result<>> createMachine(ObjectPtr pool, PoolStep::Create what, std::string name, std::string version);
  Task<Result<>> removeMachine(ObjectPtr pool, std::string name);
  Task<Result<>> renewMachine(ObjectPtr pool, std::string name, std::string version);
  Task<Result<>> writeStatus(ObjectPtr pool, const PoolStep& step, std::string version);
  std::string nameFor(const Object& pool, const PoolStep::Create& what, std::set<std::string>& taken) const;

  Context context_;
  std::string cluster_;
  client::Cache& pools_;
  client::Cache& machines_;
  client::Cache& zones_;
  client::Cache& pods_;
  std::map<std::string, TimePoint> full_;  // zones that refused a machine lately, and until when that counts
  OwnWrites own_;                          // machines are not made or taken twice because the cache is late
  client::EventRecorder events_;
  client::Controller controller_;
};

// Of a pool's template: machines with another one are outdated.
std::string templateVersion(const Object& pool);
// `surge` of the pool as a number of machines.
int64_t surgeOf(const Object& pool);
// The only zone that the pod can run in, when it says so; empty otherwise.
std::string zoneNeededBy(const Object& pod);
bool waitsForRoom(const Object& pod);  // pending, and no node takes it

}  // namespace dhow::controllers
