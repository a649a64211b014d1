// Cluster::restore and moveToEtcd: the store of a running cluster, changed under its masters.
#include "base/files.h"
#include "base/log.h"
#include "base/strings.h"
#include "base/time.h"
#include "cluster_rep.h"
#include "platform/identities.h"
#include "platform/master_options.h"
#include "platform/members.h"
#include "platform/snapshots.h"
#include "platform/store_change.h"

namespace dhow::platform {

namespace {

Result<std::string> idOf(const ClusterConfig& config) {
  ASSIGN_OR_RETURN(auto authority, loadAuthorityCertificate(config.paths()));
  return clusterIdOf(config.request.name, authority);
}

Result<store::EtcdOptions> etcdOf(const ClusterConfig& config) {
  ASSIGN_OR_RETURN(auto options, loadMasterOptions(config.paths().masterConfig(config.masterPlans()[0].name)));
  ASSIGN_OR_RETURN(auto etcd, storeOptions(options));
  etcd.prefix = config.storePrefix();
  return etcd;
}

}  // namespace

struct StoreChange {
  Cluster::Rep& rep;
  const ClusterConfig& config;
  std::string file, clusterId;

  Task<Result<std::vector<MachineInfo>>> machines() {
    auto region = rep.regionOf(config);
    auto listed = co_await region.list();
    CO_RETURN_IF_ERROR(listed);
    co_return std::move(listed->machines);
  }
  Task<Result<>> startMasters() {
    auto all = co_await machines();
    CO_RETURN_IF_ERROR(all);
    auto started = co_await rep.startMasters(config, *all);
    co_return started;
  }
  Task<Result<Cluster::Restored>> embedded(Stopwatch* watch);
  Task<Result<Cluster::Restored>> etcd(Stopwatch* watch);
};

Task<Result<Cluster::Restored>> StoreChange::embedded(Stopwatch* watch) {
  auto stopped = co_await rep.stopMasters(config);
  watch->step("master stopped");
  Result<ReplacedStore> replaced(Error(Code::kInternal, "nothing was replaced"));
  if (stopped.ok()) {
    const std::string path = config.paths().store(config.masterPlans()[0].name);
    replaced = co_await replaceEmbedded(rep.loop, rep.pool, path, clusterId, file);
    watch->step("store replaced");
  }
  // Whatever became of it, the cluster gets its master back.
  auto started = co_await startMasters();
  CO_RETURN_IF_ERROR(stopped);
  CO_RETURN_IF_ERROR(replaced);
  CO_RETURN_IF_ERROR(started);
  watch->step("master started");
  co_return Cluster::Restored{std::move(replaced->snapshot), std::move(replaced->kept)};
}

Task<Result<Cluster::Restored>> StoreChange::etcd(Stopwatch* watch) {
  ClusterConfig next = config;
  next.request.storeGeneration = generationAt(rep.loop.wallNow());
  if (next.request.storeGeneration == config.request.storeGeneration)
    co_return Error(Code::kTooManyRequests, "the store was restored this very second; try again");
  CO_ASSIGN_OR_RETURN(auto now, etcdOf(config));
  CO_ASSIGN_OR_RETURN(auto id, idOf(config));
  auto restored = co_await fillBeside(rep.loop, rep.pool, now, next.storePrefix(), std::move(id), clusterId, file,
                                      config.paths().snapshots());
  CO_RETURN_IF_ERROR(restored);
  watch->step("snapshot copied");
  auto stopped = co_await rep.stopMasters(config);
  watch->step("masters stopped");
  // From here on the restored content is the cluster's, whoever starts the masters.
  Result<> chosen = stopped.ok() ? saveConfig(next) : std::move(stopped);
  auto started = co_await startMasters();
  if (!chosen.ok()) now.prefix = next.storePrefix();
  co_await clearContent(rep.loop, std::move(now));
  CO_RETURN_IF_ERROR(chosen);
  CO_RETURN_IF_ERROR(started);
  watch->step("masters started");
  co_return Cluster::Restored{std::move(restored->snapshot), std::move(restored->kept)};
}

Task<Result<Cluster::Restored>> Cluster::restore(const ClusterConfig& config, std::string file, bool otherCluster,
                                                 Progress progress) {
  Stopwatch watch{rep_->loop, progress};
  CO_RETURN_IF_ERROR(checkUp(config));
  CO_ASSIGN_OR_RETURN(auto id, idOf(config));
  CO_RETURN_IF_ERROR(checkSnapshot(file, id, otherCluster));
  CO_ASSIGN_OR_RETURN(auto lock, lockCluster(config.paths()));
  StoreChange change{*rep_, config, std::move(file), otherCluster ? std::string() : std::move(id)};
  // Nothing is stopped that nobody could start again.
  auto reached = co_await change.machines();
  CO_RETURN_IF_ERROR(reached);
  const bool shared = !config.storeEndpoints().empty();
  auto restored = shared ? co_await change.etcd(&watch) : co_await change.embedded(&watch);
  co_return restored;
}

Task<Result<>> Cluster::moveToEtcd(ClusterConfig config, Progress progress) {
  Stopwatch watch{rep_->loop, progress};
  CO_RETURN_IF_ERROR(checkUp(config));
  CO_RETURN_IF_ERROR(findEtcd());
  CO_ASSIGN_OR_RETURN(auto lock, lockCluster(config.paths()));
  CO_ASSIGN_OR_RETURN(config, loadConfig(config.paths()));
  if (!config.storeEndpoints().empty())
    co_return Error(Code::kFailedPrecondition,
                    fmt::format("cluster \"{}\" has its store in etcd already", config.request.name));
  const ClusterConfig before = config;
  config.request.movedToEtcd = true;
  StoreChange change{*rep_, config, "", ""};
  auto reached = co_await change.machines();
  CO_RETURN_IF_ERROR(reached);
  auto prepared = co_await rep_->pool.run(
      rep_->loop, [&]() -> Result<> { return ensureIdentities(config, std::chrono::system_clock::now()); });
  CO_RETURN_IF_ERROR(prepared);
  auto stopped = co_await rep_->stopMasters(config);
  CO_RETURN_IF_ERROR(stopped);
  CO_RETURN_IF_ERROR(saveConfig(config));
  watch.step("master stopped");
  auto started = co_await change.startMasters();
  if (started.ok()) {
    watch.step("store copied, master started");
    co_return Result<>();
  }
  const std::string name = config.masterPlans()[0].name;
  if (!pathExists(config.paths().store(name))) co_return started;
  // The old store is still in charge: the master goes on with it.
  auto ended = co_await rep_->stopMasters(config);
  CO_RETURN_IF_ERROR(ended);
  if (!pathExists(config.paths().store(name))) co_return started;
  CO_RETURN_IF_ERROR(saveConfig(before));
  StoreChange back{*rep_, before, "", ""};
  auto again = co_await back.startMasters();
  CO_RETURN_IF_ERROR(again);
  co_return std::move(started).error().wrap("the cluster keeps its embedded store");
}

}  // namespace dhow::platform
