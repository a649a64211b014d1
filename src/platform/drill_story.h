// Learns from what the API tells how far a cluster has come in a drill: that it noticed what was broken, that it has
// its capacity again, that what was broken is back. It only reads caches, and judges anew with each change of them.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "client/cache.h"
#include "platform/drill_report.h"

namespace dhow::platform {

class DrillStory {
 public:
  struct Subject {
    DrillKind kind = DrillKind::kZone;
    std::string target;           // a zone's name or a machine's
    std::set<std::string> nodes;  // that lie in it; empty for a master
    bool led = false;             // a master that led, of several
    bool onlyMaster = false;
    size_t replicas = 0;  // of the load's Deployment
    std::set<std::string> identities;
    std::string ns;
  };
  struct Caches {
    client::Cache& zones;
    client::Cache& machines;
    client::Cache& nodes;
    client::Cache& leases;
    client::Cache& pods;
  };
  using Tell = std::function<void(DrillMark mark, std::string text)>;
  DrillStory(Loop& loop, Subject subject, Caches caches, Tell tell);
  ~DrillStory();

  // What is noted from now on is because of the break, which is done with broken().
  void breaking();
  void broken();
  // Ours was put back, or whatever was killed starts by itself.
  void restored();
  void acknowledged(TimePoint sent);  // a write
  void contact(bool connected);       // with the API's address
  void targetServes();                // the master or member that was broken answers again

  bool whole() const;  // all of the load runs, none of it where it was broken and is not back
  bool healed() const { return healed_; }
  bool returned() const { return returned_; }

 private:
  void look();
  void tellPhases(const client::ObjectPtr& before, const client::ObjectPtr& after, std::string_view kind);
  void detect(std::string text);
  bool nodesAreBack() const;
  bool machinesAreBack() const;
  bool counts(const object::Object& pod) const;  // runs where it is not broken
  bool isNodes() const { return !subject_.nodes.empty(); }

  Loop& loop_;
  const Subject subject_;
  Caches caches_;
  Tell tell_;
  bool breaking_ = false, broken_ = false, restored_ = false;
  bool detected_ = false, healed_ = false, returned_ = false;
  bool serves_ = false, written_ = false;
  TimePoint brokenAt_;
  WallTime brokenWall_, restoredWall_;
  std::vector<std::unique_ptr<client::Cache::Subscription>> subscriptions_;
};

}  // namespace dhow::platform
