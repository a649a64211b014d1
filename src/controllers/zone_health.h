// Tells the failure of a zone from that of a node, a pool or the master itself, and writes it into the Zone's status.
//
//   Up         as a rule
//   Down       all its nodes fell silent together, or its only node did and its provider does not answer either, while
//              most zones were heard after that. Its nodes bear dhow.io/zone-down:NoSchedule.
//   Returning  nodes are heard again and were so for a while: the longer, the more often it was lost within the hour.
//              Pods come back (returns.h), stand-ins go (node_pool.h); then it is Up.
//
// A cut of the master looks like silence of most zones: then nothing is declared, and masterCut() holds. A silent zone
// is only declared Down when something shows that the master is not the one that is cut off:
//
//   - half of the zones or more, itself not among them, have been heard without a gap; or
//   - some zone has, and what this master writes through a quorum of the store comes back to it: with members in zones
//     of their own (three masters and more), a master that leads is connected to most of them; or
//   - some zone has, and the provider of machines answers and says that the silent zone is out, or that all its
//     machines are off (one master, or a store whose members lie who knows where).
//
// When nobody is heard nothing is ever declared.
#pragma once

#include "heartbeats.h"
#include "inventory.h"
#include "platform_conditions.h"

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
  using Views = std::map<std::string, View>;
  Views look() const;
  // Whether the master was connected all the time, as the zones show. Nothing: it cannot be told yet.
  std::optional<bool> connected(const Views& views) const;
  // Whether it is the silent zone that is lost. Nothing: it cannot be told (yet).
  std::optional<bool> lost(const View& view, const Views& views) const;
  Task<Result<>> askProvider(const Views& views);
  void concludeCut(const Views& views);
  Task<Result<>> judge(const View& view, const Views& views);
  Task<Result<>> write(const View& view, ZonePhase phase, std::string message, bool inDoubt, json::object extra);
  Task<Result<>> taint(ObjectPtr node, bool down);
  Task<Result<>> countRegions();
  Duration holdOf(size_t losses) const;
  ZoneFacts factsOf(const View& view) const;

  Context context_;
  Heartbeats& heartbeats_;
  Inventory& inventory_;
  Options options_;
  client::Cache& zones_;
  client::Cache& regions_;
  client::Cache& nodes_;
  client::Cache& machines_;
  bool masterCut_ = false;
  TimePoint cutSince_;
  client::EventRecorder events_;
  client::Controller controller_;
  std::unique_ptr<Heartbeats::Subscription> heard_;
};

}  // namespace dhow::controllers
