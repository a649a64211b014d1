// A whole cluster on this machine: brought up, looked at, taken down. Blocking parts run on the pool.
//
// Masters and nodes are machines (system containers, runtime/spec.h), each in its namespace on its zone's segment. The
// region and the engine are processes of their own on this machine; while the region runs, machines are its matter.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/blocking.h"
#include "base/loop.h"
#include "base/result.h"
#include "platform/config.h"
#include "platform/members.h"
#include "platform/programs.h"
#include "platform/progress.h"
#include "platform/provider.h"
#include "store/snapshot.h"

namespace dhow::platform {

struct ClusterState {
  bool down = false;  // nothing of it runs
  bool serverAnswers = false;
  bool engineAnswers = false;
  bool regionAnswers = false;  // when not, it is not known what runs
  std::vector<MachineInfo> machines;
  std::string leader;                        // the master that runs controllers and scheduler; empty: not known
  std::vector<MemberState> members;          // of the store that several masters share
  std::map<std::string, bool> mastersAlive;  // as the API's address sees them
  std::map<std::string, bool> nodesReady;    // as the API tells; empty when it does not answer
  std::string regionProgram, engineProgram;  // what they run (programs.h); empty: not known
};

class Cluster {
 public:
  Cluster(Loop& loop, BlockingPool& pool, Programs programs);
  ~Cluster();

  struct Up {
    ClusterConfig config;
    std::string before;             // what the cluster ran until now, where this started it with other programs
    std::vector<std::string> urls;  // of the example's load-balanced services
  };
  // Starts what does not run and leaves the rest alone; a cluster that exists keeps its configuration, and a request
  // that differs from it is kInvalid. Ends when every node is Ready and the example (platform/deploy.h; empty: none)
  // answers. One that runs goes on with the programs that it has, and one that was down starts with these.
  Task<Result<Up>> up(ClusterRequest request, std::string example, Progress progress);
  // Stops and removes everything but, with keepData, what is under its data folder.
  Task<Result<>> down(ClusterPaths paths, bool keepData, Progress progress);
  Task<Result<ClusterState>> state(const ClusterConfig& config);
  // One machine: "<cluster>-master-1", "<cluster>-node-2".
  Task<Result<>> startMachine(const ClusterConfig& config, std::string name);
  Task<Result<>> stopMachine(const ClusterConfig& config, std::string name);
  struct Zone {
    std::string name;
    bool up = true;
    int masters = 0, nodes = 0;
  };
  Task<Result<std::vector<Zone>>> zones(const ClusterConfig& config);
  // Cuts the zone's segment from the network, or puts it back. kNotFound with the zones that there are.
  Task<Result<>> setZone(const ClusterConfig& config, std::string zone, bool up);

  struct Restored {
    store::SnapshotInfo snapshot;
    std::string kept;  // the file with what the store held before
  };
  // Replaces the content of the store by a snapshot's: all masters stop for that. One that is not whole (kDataLoss) or,
  // unless asked for, of another cluster (kFailedPrecondition) changes nothing. Pods run on; those that are in both
  // states are not restarted.
  Task<Result<Restored>> restore(const ClusterConfig& config, std::string file, bool otherCluster, Progress progress);
  // Moves a cluster with one master from the embedded store to a member of etcd beside it. The master stops for that.
  // Cut short, it is completed by up(): until the copy is whole the old store is in charge, and the new one after that.
  Task<Result<>> moveToEtcd(ClusterConfig config, Progress progress);

  // Replaces region, masters, nodes and the engine one after the other, each by what runs `to`: a folder, a program,
  // one that the cluster has by its id; empty: these programs. Containers go on. Refused (kFailedPrecondition) where
  // the versions are too far apart, or something is not well. What does not come up goes back to what it ran before,
  // and the error tells what is mixed then. Cut short at any moment, it is completed by the next.
  Task<Result<Upgraded>> upgrade(ClusterConfig config, std::string to, Progress progress);

  struct Rep;  // of this folder alone

 private:
  std::unique_ptr<Rep> rep_;
};

}  // namespace dhow::platform
