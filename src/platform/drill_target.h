// Which thing a drill breaks: chosen or checked by name against what the cluster is made of, broken, and put back.
#pragma once

#include <map>
#include <set>
#include <string>

#include "base/blocking.h"
#include "base/loop.h"
#include "base/result.h"
#include "platform/cluster.h"
#include "platform/drill_report.h"
#include "platform/region_api.h"

namespace dhow::platform {

struct DrillTarget {
  DrillKind kind = DrillKind::kZone;
  std::string name;             // a zone's or a machine's
  std::set<std::string> nodes;  // that lie in it
  bool led = false;             // a master that leads, of several
  bool onlyMaster = false;
  bool member = false;  // of the masters' etcd
  std::string address;  // of a master

  // Whoever minds it brings it back.
  bool repairsItself() const { return kind == DrillKind::kNode || kind == DrillKind::kStore; }
};

// The cluster before a drill.
struct DrillView {
  ClusterState state;
  std::vector<ZoneInfo> zones;
  std::map<std::string, std::string> phases;  // of zones, as the API tells
  bool foreignStore = false;
};

// kFailedPrecondition with what is broken already.
Result<> checkWhole(const DrillView& view);
// `name`: empty for what is best broken. kNotFound with the names that there are; kInvalid where nobody would be left.
Result<DrillTarget> chooseTarget(const DrillView& view, DrillKind kind, const std::string& name);

Task<Result<>> breakTarget(Loop& loop, BlockingPool& pool, const ClusterConfig& config, RegionClient& region,
                           const DrillTarget& target);
// Fine where it is back already.
Task<Result<>> restoreTarget(RegionClient& region, const DrillTarget& target);
// In words: "zone local-east-2 is cut off".
std::string brokenText(const DrillTarget& target);
std::string restoredText(const DrillTarget& target);

}  // namespace dhow::platform
