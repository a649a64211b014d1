// A process that outlives this one, which finds it again by a file: its id, and when it started, which together name a
// process for good. Blocks. Private to this folder.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <optional>
#include <string>

#include "base/fd.h"
#include "base/result.h"

namespace dhow::ingress {

struct KeptProcess {
  pid_t pid = -1;
  UniqueFd pidfd;
  bool running() const;
};

// The one that the file names, when it runs.
std::optional<KeptProcess> findKept(const std::string& file);
// Asks the one that the file names to end, ends it after `patience`, and removes the file.
void endKept(const std::string& file, std::chrono::milliseconds patience);
// A child, which the file names from now on.
Result<KeptProcess> keep(const std::string& file, pid_t pid);

}  // namespace dhow::ingress
