// Requests as HAProxy tells of them, a line of JSON each (access_record.h), in a file that is rotated
// by size. HAProxy writes into a named pipe and never waits: what comes while nobody reads stays in the pipe, and what
// does not fit there is lost. So an agent that restarts finds what came meanwhile. On the loop's thread; files on the
// pool.
#pragma once

#include <memory>
#include <string>

#include "base/blocking.h"
#include "base/fd.h"
#include "base/gate.h"
#include "base/loop.h"
#include "base/rotated_file.h"

namespace dhow::ingress {

// The records of whole lines; where the pipe was full one may have been cut.
std::string recordsIn(std::string_view lines);

// Opens the pipe for both ends, and makes it when it is not there: neither end closes it for the other.
Result<UniqueFd> openLogPipe(const std::string& path);

class AccessLog {
 public:
  AccessLog(Loop& loop, BlockingPool& pool, std::string pipe, std::string file);
  ~AccessLog();
  void start();
  Task<> stop();

 private:
  struct Rep;
  std::unique_ptr<Rep> rep_;
};

}  // namespace dhow::ingress
