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

Result<> checkSnapshot(const std::string& file, const std::string& clusterId, bool otherCluster) {
  auto info = store::inspectSnapshot(file);
  if (!info.ok() && info.error().is(Code::kDataLoss)) {
    return Error(Code::kDataLoss,
                 info.error().message() + "; nothing was changed. `dhow snapshot list` shows those that are whole");
  }
  RETURN_IF_ERROR(info);
  RETURN_IF_ERROR(store::checkForm(info->form, thisProgram()));
  if (otherCluster || info->cluster == clusterId) return {};
  return Error(Code::kFailedPrecondition,
               fmt::format("snapshot {} is of another cluster (\"{}\"; this one is \"{}\"); nothing was changed. "
                           "--other-cluster restores it all the same",
                           file, info->cluster, clusterId));
}

Task<Result<std::unique_ptr<store::EtcdStore>>> openEtcd(Loop& loop, const ClusterConfig& config) {
  CO_ASSIGN_OR_RETURN(auto options, loadMasterOptions(config.paths().masterConfig(config.masterPlans()[0].name)));
  CO_ASSIGN_OR_RETURN(auto etcd, storeOptions(options));
  etcd.prefix = config.storePrefix();
  auto opened = co_await store::EtcdStore::open(loop, std::move(etcd));
  co_return opened;
}

// What nobody uses any more: a failure leaves bytes, and harms nothing.
Task<> forgetGeneration(Loop* loop, ClusterConfig config) {
  auto opened = co_await openEtcd(*loop, config);
  if (opened.ok()) {
    auto cleared = co_await store::clearStore(**opened);
    co_await (*opened)->close();
    if (cleared.ok()) co_return;
    log::warn("platform", "the old content of the store is left: {}", cleared.error().message());
    co_return;
  }
  log::warn("platform", "the old content of the store is left: {}", opened.error().message());
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
  Task<Result<Cluster::Restored>> fillGeneration(const ClusterConfig& next);
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

// Beside the content that is in use, whose state now is kept as a snapshot.
Task<Result<Cluster::Restored>> StoreChange::fillGeneration(const ClusterConfig& next) {
  CO_ASSIGN_OR_RETURN(auto now, co_await openEtcd(rep.loop, config));
  CO_ASSIGN_OR_RETURN(auto id, idOf(config));
  const std::string kept = config.paths().snapshots() + "/before-restore-" + snapshotName(rep.loop.wallNow(), false);
  auto saved = co_await store::saveSnapshot(rep.loop, rep.pool, *now, std::move(id), kept);
  co_await now->close();
  CO_RETURN_IF_ERROR(saved);
  CO_ASSIGN_OR_RETURN(auto made, co_await openEtcd(rep.loop, next));
  auto restored = co_await store::restoreSnapshot(rep.loop, rep.pool, *made, clusterId, file, saved->revision);
  co_await made->close();
  CO_RETURN_IF_ERROR(restored);
  co_return Cluster::Restored{std::move(*restored), kept};
}

Task<Result<Cluster::Restored>> StoreChange::etcd(Stopwatch* watch) {
  ClusterConfig next = config;
  next.request.storeGeneration = formatTime(rep.loop.wallNow());
  std::erase_if(next.request.storeGeneration, [](char c) { return c == '-' || c == ':'; });
  if (next.request.storeGeneration == config.request.storeGeneration)
    co_return Error(Code::kTooManyRequests, "the store was restored this very second; try again");
  auto restored = co_await fillGeneration(next);
  if (!restored.ok()) {
    co_await forgetGeneration(&rep.loop, next);
    co_return std::move(restored).error();
  }
  watch->step("snapshot copied");
  auto stopped = co_await rep.stopMasters(config);
  watch->step("masters stopped");
  // From here on the restored content is the cluster's, whoever starts the masters.
  Result<> chosen = stopped.ok() ? saveConfig(next) : std::move(stopped);
  auto started = co_await startMasters();
  co_await forgetGeneration(&rep.loop, chosen.ok() ? config : next);
  CO_RETURN_IF_ERROR(chosen);
  CO_RETURN_IF_ERROR(started);
  watch->step("masters started");
  co_return restored;
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
