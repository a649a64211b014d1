// The audit log: a line of JSON for each request, a Kubernetes Event (audit.k8s.io/v1). Who asked what, when, and what
// became of it; of writes also the object, except where that would tell secrets. Lines are written by the pool while
// the loop goes on, into a file that is rotated by size.
#pragma once

#include <string>
#include <string_view>

#include "base/blocking.h"
#include "base/gate.h"
#include "base/loop.h"
#include "base/rotated_file.h"

namespace dhow::apiserver {

struct AuditOptions {
  std::string path;  // its folder is made; older files are <path>.1, <path>.2, ...
  size_t maxSize = 32 << 20;
  int maxFiles = 8;  // all together
  size_t maxQueued = 16 << 20;
};

class Audit {
 public:
  Audit(Loop& loop, BlockingPool& pool, AuditOptions options);
  ~Audit();

  // One line, without its end. While more than maxQueued waits for the disk lines are dropped; how many, the log tells.
  void add(std::string line);
  // Writes what is queued. What comes after it is dropped.
  Task<> stop();

 private:
  static Task<> write(Audit* self);

  Loop& loop_;
  BlockingPool& pool_;
  const size_t maxQueued_;
  std::string queued_;
  bool writing_ = false, stopped_ = false;
  uint64_t dropped_ = 0;
  RotatedFile file_;  // the writer's alone
  Gate gate_;
};

}  // namespace dhow::apiserver
