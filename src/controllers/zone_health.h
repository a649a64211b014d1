// Tells the failure of a zone from that of a node, a pool or the master itself, and writes it into the Zone's status.
//
//   Up         as a rule
//   Down       all its nodes fell silent together, or its only node did and its provider does not answer either, while
//              most zones were heard after that. Its nodes bear dhow.io/zone-down:NoSchedule.
//   Returning  nodes are heard again and were so for a while: the longer, the more often it was lost within the hour.
//              Pods come back (returns.h), stand-ins go (node_pool.h); then it is Up.
//
// A cut of the master looks like silence of most zones: then nothing is declared, and masterCut() holds. A zone is
// therefore only declared Down when half of the zones or more, itself not among them, have been heard without a gap.
#pragma once

#include "heartbeats.h"
#include "inventory.h"
#include "platform.h"

namespace dhow::controllers {

class ZoneHealthController final : public Component {
 public:
  struct Options {
    Duration hold = std::chrono::seconds(5);  // heard for so long before it counts as returned; doubles with each loss
    Duration longestHold = std::chrono::minutes(5);
    Duration memory = std::chrono::hours(1);      // of losses
    Duration together = std::chrono::minutes(1);  // nodes that fell silent longer ago than this failed by themselves
  };
  ZoneHealthController(Context context, Heartbeats& heartbeats, Inventory& inventory, Options options);

  void start() override { controller_.start(); }
  Task<> stop() override;
  bool idle() const override { return controller_.idle(); }
  // Most zones are silent: it is this process that is cut off. Nothing is to be concluded from silence.
  bool masterCut() const { return masterCut_; }
  Task<Result<>> reconcile(std::string key);

 private:
  struct View {
    ObjectPtr zone;
    std::vector<ObjectPtr> nodes;
    size_t silent = 0;
    size_t heard = 0;     // a renewal was seen, and lately
    size_t steady = 0;    // heard without a gap
    size_t together = 0;  // silent ones that were heard within a minute of the last
    TimePoint last;       // when any of them was heard
    bool quiet() const { return !nodes.empty() && silent == nodes.size(); }
  };
  std::map<std::string, View> look() const;
  // Whether the master was connected all the time, as most zones show. Nothing: it cannot be told yet.
  std::optional<bool> connected(const std::map<std::string, View>& views) const;
  Task<Result<>> judge(const View& view, const std::map<std::string, View>& views);
  Task<Result<>> write(const View& view, ZonePhase phase, std::string message, json::object extra);
  Task<Result<>> taint(ObjectPtr node, bool down);
  Task<Result<>> countRegions();
  Duration holdOf(const Object& zone) const;
  size_t standInsOf(std::string_view zone) const;

  Context context_;
  Heartbeats& heartbeats_;
  Inventory& inventory_;
  Options options_;
  client::Cache& zones_;
  client::Cache& regions_;
  client::Cache& nodes_;
  client::Cache& machines_;
  bool masterCut_ = false;
  client::EventRecorder events_;
  client::Controller controller_;
};

}  // namespace dhow::controllers
