// Sees with the kernel's eyes whether an identity ever runs twice: finds the processes of the pods that bear it,
// whatever network they are cut off from, and notes when each began and ended.
#pragma once

#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/blocking.h"
#include "base/loop.h"
#include "client/cache.h"

namespace dhow::platform {

// Of one process of a pod; times are those of the loop's clock.
struct IdentitySpan {
  std::string identity, podUid;
  int pid = 0;
  TimePoint began;
  std::optional<TimePoint> ended;
};
// One line for each two that overlap and are not of the same pod.
std::vector<std::string> overlaps(const std::vector<IdentitySpan>& spans);

class DrillIdentities {
 public:
  DrillIdentities(Loop& loop, BlockingPool& pool, std::set<std::string> names);
  ~DrillIdentities();
  void start(client::Cache& pods);
  Task<> stop();
  size_t processes() const;
  std::vector<std::string> doubled() const;

 private:
  struct Rep;
  std::shared_ptr<Rep> rep_;
};

}  // namespace dhow::platform
