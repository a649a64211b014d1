// Child processes, waited for by pidfd: never by polling, never by a signal handler.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/loop.h"
#include "base/result.h"

namespace dhow {

struct ExitStatus {
  int code = 0;    // exit code, or 128 + signal
  int signal = 0;  // 0 when it exited by itself
};

struct SpawnOptions {
  std::vector<std::string> args;  // args[0] is the program's path, or is found on PATH
  std::vector<std::string> env;   // "NAME=value"; empty: inherited
  std::string cwd;
  // Descriptors that become 0, 1, 2, 3, ... in the child; -1 is /dev/null.
  std::vector<int> fds = {-1, 1, 2};
  bool newSession = false;  // survives its parent's terminal
  bool dieWithParent = false;
};

// A process that we started. Destroying it neither kills nor waits.
class Process {
 public:
  static Result<Process> spawn(const SpawnOptions& options);
  pid_t pid() const { return pid_; }
  int pidfd() const { return pidfd_.get(); }
  Result<> kill(int signal);
  // Resumes on `loop` when the process has ended, and reaps it.
  Task<Result<ExitStatus>> wait(Loop& loop);

 private:
  pid_t pid_ = -1;
  UniqueFd pidfd_;
};

// A descriptor that becomes readable when the process ends. kNotFound when there is none.
Result<UniqueFd> pidfdOf(pid_t pid);

// Runs a program to its end; gives its standard output and error together with how it ended. Blocks.
struct CommandOutput {
  ExitStatus status;
  std::string output;
  std::string errors;
};
Result<CommandOutput> runCommand(const std::vector<std::string>& args, const std::string& input = "");

// Resumes when `fd` can be read (or has hung up). For pidfds, netlink sockets and the like.
Task<Result<>> waitReadable(Loop& loop, int fd);

}  // namespace dhow
