// Reads the logs that the shim writes (CRI format: "<RFC 3339 nano> stdout|stderr F|P <text>"), through its rotated
// files, oldest first, and follows them by inotify while the container runs. Both docker logs and kubectl logs read
// through this. For the loop's thread. Reads are short and come from the page cache.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "base/loop.h"
#include "base/result.h"

namespace dhow::runtime {

struct LogQuery {
  std::string path;  // the live file; older ones are path.1, path.2, ...
  bool follow = false;
  std::optional<uint64_t> tail;   // only so many of the last lines
  std::optional<WallTime> since;  // from then on
  std::optional<WallTime> until;
};

struct LogEntry {
  WallTime time{};
  bool error = false;    // standard error
  bool partial = false;  // the line goes on in the next entry
  std::string text;      // without the end of line
};

class LogReader {
 public:
  // A missing file is an empty log; with `follow` it may appear later (its folder must exist).
  static Result<std::unique_ptr<LogReader>> open(Loop& loop, LogQuery query);
  virtual ~LogReader() = default;

  // The next entry; nothing at the end. While following the end comes with finish() or close().
  virtual Task<Result<std::optional<LogEntry>>> next() = 0;
  // What is there without waiting.
  virtual Result<std::optional<LogEntry>> tryNext() = 0;
  // Nothing more will be written: next() gives what is left and then ends.
  virtual void finish() = 0;
  // Ends next() at once.
  virtual void close() = 0;
};

// Parses one line without its end. Nothing when it is not in the format.
std::optional<LogEntry> parseLogLine(std::string_view line);

}  // namespace dhow::runtime
