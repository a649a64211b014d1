// The filter (edge_filter.h) as a process beside HAProxy: it outlives the agent, as HAProxy does. One of another build
// is replaced without a lost request: the new one takes the socket's name, the old one answers on the connections that
// it has. Blocks; one call at a time. Private to this folder.
#pragma once

#include <string>

#include "kept_process.h"

namespace dhow::ingress {

class FilterProcess {
 public:
  struct Options {
    std::string program;   // dhow; empty: somebody else runs it
    std::string socket;    // where HAProxy's workers can reach it
    std::string rules;     // the folder of files that questions name
    std::string run;       // of its own files
    std::string findings;  // the pipe that it writes them into
    std::string log;
  };
  explicit FilterProcess(Options options) : options_(std::move(options)) {}

  Result<> ensure();
  void stop();
  bool running() const { return process_.running(); }
  const UniqueFd& pidfd() const { return process_.pidfd; }

 private:
  Result<> start();
  std::string pidFile() const { return options_.run + "/filter.pid"; }

  const Options options_;
  KeptProcess process_;
};

// And the folder that was made for it.
void removeFilterSocket(const std::string& socket);

}  // namespace dhow::ingress
