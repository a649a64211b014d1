// What the operations on a whole cluster share. Private to this folder.
#pragma once

#include "base/fd.h"
#include "base/gate.h"
#include "base/notify.h"
#include "client/http_client.h"
#include "platform/cluster.h"
#include "platform/region_api.h"

namespace dhow::platform {

using client::HttpClient;

inline constexpr Duration kStartLimit = std::chrono::seconds(60);

// Held while a command changes a cluster.
Result<UniqueFd> lockCluster(const ClusterPaths& paths);
// kFailedPrecondition where the cluster is down.
Result<> checkUp(const ClusterConfig& config);

// The engine's process; 0 when none runs.
pid_t findEngine(const ClusterPaths& paths);
// kFailedPrecondition where programs cannot follow those that the cluster ran.
Result<> checkFollows(const ClusterConfig& config, const Programs& next, const std::string& before);

// Runs starts beside each other and keeps the first failure.
struct Together {
  explicit Together(Loop& loop) : gate(loop) {}
  Gate gate;
  Result<> first;
  static Task<> one(Together* self, Task<Result<>> task) {
    auto done = co_await std::move(task);
    if (!done.ok() && self->first.ok()) self->first = std::move(done);
  }
};

struct Cluster::Rep {
  Loop& loop;
  BlockingPool& pool;
  Programs programs;

  RegionClient regionOf(const ClusterConfig& config) {
    RegionClient::Options options;
    options.unixSocket = config.paths().regionSocket();
    return RegionClient(loop, std::move(options));
  }

  Result<std::unique_ptr<HttpClient>> clientOf(const ClusterConfig& config);

  Task<Result<>> stopMasters(const ClusterConfig& config);
  Task<Result<>> startMasters(const ClusterConfig& config, const std::vector<MachineInfo>& machines);
  Task<Result<>> startMaster(const ClusterConfig& config, std::string name);
  // Of the etcd beside a master: `ready` was made before it was started.
  Task<Result<>> waitMember(const ClusterConfig& config, std::string name, ReadySocket& ready, Duration limit);
  Task<Result<>> waitMaster(const ClusterConfig& config, std::string name, ReadySocket& ready);
  Task<bool> masterAnswers(const ClusterConfig& config, std::string name);
  Task<Result<>> startMachine(const ClusterConfig& config, std::string name);
  Task<Result<>> startEngine(const ClusterConfig& config, Duration limit = kStartLimit);
  Task<Result<>> startNodes(const ClusterConfig& config, const std::vector<MachineInfo>& machines);
  Task<Result<>> waitNodesReady(const ClusterConfig& config, const std::vector<MachineInfo>& machines);
  Task<Result<>> publishExample(const ClusterConfig& config, std::string folder);
  Task<bool> engineAnswers(const ClusterConfig& config);
};

}  // namespace dhow::platform
