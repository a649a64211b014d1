// Sets the count of node pools that have a range: up at once when pods wait for a machine that the pool could give
// them, in the zone that they need; down when a machine has been dispensable for a while (idleSeconds): less than half
// of it is asked for, and all its pods fit on the others. The pool keeps its zones even, so that the machine of one
// zone may bring others along.
#pragma once

#include "node_pool.h"

namespace dhow::controllers {

struct Amount {
  int64_t cpu = 0;     // thousandths of a processor
  int64_t memory = 0;  // bytes
  int64_t pods = 0;
  Amount& operator+=(const Amount& other);
  Amount& operator-=(const Amount& other);
  bool fits(const Amount& room) const { return cpu <= room.cpu && memory <= room.memory && pods <= room.pods; }
};
Amount requestsOf(const Object& pod);
Amount allocatableOf(const Object& node);

class AutoscalerController final : public Component {
 public:
  explicit AutoscalerController(Context context);
  void start() override { controller_.start(); }
  Task<> stop() override;
  bool idle() const override { return controller_.idle(); }
  Task<Result<>> reconcile(std::string key);

 private:
  // Machines of the pool that are no stand-ins, and not on their way out.
  std::vector<ObjectPtr> machinesOf(std::string_view pool) const;
  bool couldTake(const Object& pool, const Object& pod, const Amount& size) const;
  // What one machine of the pool has room for.
  std::optional<Amount> sizeOf(const Object& pool, const std::vector<ObjectPtr>& machines) const;
  struct Room {
    std::string node, zone;
    Amount left;
  };
  // Of machines whose nodes are Ready, and have become so after `since`.
  std::vector<Room> roomsOf(const std::vector<ObjectPtr>& machines, WallTime since = {}) const;
  static bool take(std::vector<Room>& rooms, const Object& pod);  // of the first that has enough
  int64_t wantedFor(const Object& pool, const std::vector<ObjectPtr>& machines, std::vector<Room> fresh) const;
  // A machine that could go, and when it may; null when there is none.
  ObjectPtr dispensable(const Object& pool, const std::vector<ObjectPtr>& machines);
  bool othersTake(const Object& machine, const std::vector<ObjectPtr>& machines) const;
  Task<Result<>> setCount(ObjectPtr pool, int64_t count, std::string why);

  Context context_;
  client::Cache& pools_;
  client::Cache& machines_;
  client::Cache& nodes_;
  client::Cache& pods_;
  std::map<std::string, TimePoint> idleSince_;  // by machine
  client::EventRecorder events_;
  client::Controller controller_;
};

}  // namespace dhow::controllers
