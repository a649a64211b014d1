// Files and folders. All functions block; call them on a BlockingPool when the size or the disk may make it felt.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/fd.h"
#include "base/result.h"

namespace dhow {

// Reads at most `limit` bytes; a longer file is kTooLarge.
Result<std::string> readFile(const std::string& path, size_t limit = 64 << 20);
// Replaces the file as a whole: a crash leaves the old content or the new, on disk before this returns
// (temporary file in the same folder, fsync, rename, fsync of the folder).
Result<> writeFileDurably(const std::string& path, std::string_view content, int mode = 0644);
// Replaces the file as a whole, without waiting for the disk.
Result<> writeFile(const std::string& path, std::string_view content, int mode = 0644);
// Writes all of it into an open file; `path` is for the error's text.
Result<> writeAll(int fd, std::string_view content, const std::string& path);
// What was made, renamed or removed in the folder of `path` is on disk when this returns.
Result<> syncFolder(const std::string& path);
// Writes into an existing file in one write(2), as cgroup and proc files want it.
Result<> writeControlFile(const std::string& path, std::string_view content);
// mkdir -p
Result<> makeDirs(const std::string& path, int mode = 0755);
// rm -rf, without following links and without leaving the file system it starts on. Missing is fine.
Result<> removeTree(const std::string& path);
// Names in a folder, sorted, without "." and "..".
Result<std::vector<std::string>> listDir(const std::string& path);
bool pathExists(const std::string& path);
// A new folder under `parent` with a random name, for its owner alone.
Result<std::string> makeTempDir(const std::string& parent, std::string_view prefix);
// Exclusive lock on a file that is created when missing; fails with kFailedPrecondition when another process
// holds it. Closing the descriptor unlocks.
Result<UniqueFd> lockFile(const std::string& path, bool wait = false);

}  // namespace dhow
