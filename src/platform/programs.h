// The programs that the machines of a cluster run: dhow itself and dhow-shim beside it. A cluster of this machine, and
// a host of a cluster of separate ones, has its own, below its data (layout.h), so that who builds does not change what
// runs; each process starts through a link of its own, which is what an upgrade changes.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "base/result.h"
#include "base/version.h"
#include "platform/layout.h"

namespace dhow::platform {

// Processes that are not machines and have a link.
inline constexpr const char* kRegionProcess = "region";
inline constexpr const char* kEngineProcess = "engine";

struct Programs {
  std::string dhow;
  std::string shim;
  ProgramInfo info;
  std::string id;  // "0.1.0-3f2a9c1b77de": version and build of both

  std::string folder() const { return dhow.substr(0, dhow.rfind('/')); }
  // kNotFound when one is missing.
  static Result<Programs> ofThisProcess();
  // From a folder, or the path of dhow in it. kInvalid when it does not run or is no dhow. Runs it; blocks.
  static Result<Programs> at(const std::string& path);
};

// What an upgrade did.
struct Upgraded {
  std::string from, to;  // ids; the same where all ran them already and nothing was done
  std::string snapshot;  // the file with what the store held before; empty when there is none
  int members = 0;       // of the store, started anew with another etcd
};

// The version in an id.
Version versionOf(const std::string& id);

// Puts them among those of `paths`, sharing the bytes on disk where the file system can. Those that are there stay.
Result<Programs> installPrograms(const ProgramPaths& paths, const Programs& programs);
// Those that are there, by id. kNotFound, or kDataLoss when they are not what their name says.
Result<Programs> installedPrograms(const ProgramPaths& paths, const std::string& id);
std::vector<std::string> installedIds(const ProgramPaths& paths);
// Those that somebody asked for: a folder, a program, or the id of ones that are there; empty: `own`. Blocks.
Result<Programs> choosePrograms(const ProgramPaths& paths, const Programs& own, const std::string& to);
// Removes all but these and those that a process has a link to.
void removeOtherPrograms(const ProgramPaths& paths, const std::vector<std::string>& keep);

// What `process` (a machine's name, kRegionProcess, kEngineProcess) starts from next; empty: no link yet.
std::string linkedProgram(const ProgramPaths& paths, const std::string& process);
Result<> linkProgram(const ProgramPaths& paths, const std::string& process, const std::string& id);
// Only where there is none that leads to a program.
Result<> ensureLinked(const ProgramPaths& paths, const std::string& process, const std::string& id);
// The id of what a running process was started from; empty when it is none of the cluster's programs, or gone.
std::string runningProgram(const ProgramPaths& paths, pid_t pid);
// The child of a machine's PID 1 (or of the region's) whose command line begins with these words; one that is just
// being started counts. 0: none.
pid_t findRole(pid_t init, const std::vector<std::string>& command);

}  // namespace dhow::platform
