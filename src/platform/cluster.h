// A whole cluster on this machine: brought up, looked at, taken down. Blocking parts run on the pool.
//
// The master and the nodes are machines (system containers, runtime/spec.h); the master's is in this machine's own
// network, a node's in its namespace on its zone's segment. The engine is a process of its own.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/blocking.h"
#include "base/loop.h"
#include "base/result.h"
#include "platform/config.h"

namespace dhow::platform {

// Called as each step ends: what it was and how long it took.
using Progress = std::function<void(const std::string& step, Duration took)>;

struct MachineState {
  std::string name;
  bool running = false;
  int pid = 0;
};

struct NodeState {
  std::string name, zone, address;
  bool ready = false;
};

struct ClusterState {
  bool serverAnswers = false;
  bool engineAnswers = false;
  std::vector<MachineState> machines;
  std::vector<NodeState> nodes;  // as the API tells; empty when the server does not answer
};

class Cluster {
 public:
  // The programs that this machine runs: dhow itself and dhow-shim beside it.
  struct Programs {
    std::string dhow;
    std::string shim;
    static Result<Programs> ofThisProcess();
  };
  Cluster(Loop& loop, BlockingPool& pool, Programs programs);
  ~Cluster();

  struct Up {
    ClusterConfig config;
    std::vector<std::string> urls;  // of the example's load-balanced services
  };
  // Starts what does not run and leaves the rest alone; a cluster that exists keeps its configuration, and a request
  // that differs from it is kInvalid. Ends when every node is Ready and the example (platform/deploy.h; empty: none)
  // answers.
  Task<Result<Up>> up(ClusterRequest request, std::string example, Progress progress);
  // Stops and removes everything but, with keepData, what is under its data folder.
  Task<Result<>> down(ClusterPaths paths, bool keepData, Progress progress);
  Task<Result<ClusterState>> state(const ClusterConfig& config);
  // One machine: "<cluster>-master-1", "<cluster>-node-2".
  Task<Result<>> startMachine(const ClusterConfig& config, std::string name);
  Task<Result<>> stopMachine(const ClusterConfig& config, std::string name);

 private:
  struct Rep;
  std::unique_ptr<Rep> rep_;
};

std::string masterName(const ClusterConfig& config);

}  // namespace dhow::platform
