// A cluster's snapshots: how they are named, which are kept, and what saves them regularly.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/gate.h"
#include "base/loop.h"
#include "base/result.h"
#include "platform/layout.h"
#include "store/snapshot.h"

namespace dhow::platform {

inline constexpr const char* kUsualSnapshotEvery = "1h";

// What a cluster's snapshots carry: its name and the digest of its authority's certificate.
std::string clusterIdOf(const std::string& name, const std::string& authorityPem);

// "20260101T000000Z.snapshot"; those of the schedule begin with "auto-", and are removed by it.
std::string snapshotName(WallTime taken, bool scheduled);
// The time in the name of a scheduled one; nothing for all others.
std::optional<WallTime> scheduledTime(const std::string& name);
// Scheduled ones that are not among the newest 24, nor the newest of one of the last 7 days that have any.
std::vector<std::string> outdatedSnapshots(const std::vector<std::string>& names);

struct SnapshotFile {
  std::string name;
  store::SnapshotInfo info;
  std::optional<Error> damage;
};
// All of a folder, oldest first. Reads them whole; blocks.
Result<std::vector<SnapshotFile>> listSnapshots(const std::string& folder);

// Has a master stream one into the file.
Task<Result<store::SnapshotInfo>> fetchSnapshot(Loop& loop, std::string kubeconfigFile, std::string file);

// Saves one whenever the newest scheduled one is `every` old, and removes those that are outdated.
class SnapshotKeeper {
 public:
  struct Options {
    Duration every{};
    std::string folder;
    std::function<Task<Result<>>(std::string path)> save;
  };
  SnapshotKeeper(Loop& loop, Options options);
  void start();
  Task<> stop();

 private:
  static Task<> run(SnapshotKeeper* self);
  Duration untilNext() const;
  Task<Result<>> saveOne();

  Loop& loop_;
  const Options options_;
  TimePoint began_;
  bool stopping_ = false;
  Signal stopped_;
  Gate gate_;
};

}  // namespace dhow::platform
