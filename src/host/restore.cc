#include "host/restore.h"

#include "base/files.h"
#include "host/services.h"
#include "platform/master_options.h"
#include "platform/members.h"
#include "platform/snapshots.h"
#include "store/generation.h"

namespace dhow::host {

using platform::MasterOptions;
using platform::ReplacedStore;
using store::Generations;

namespace {

struct Restoring {
  Loop& loop;
  BlockingPool& pool;
  HostConfig config;
  std::string file, ownId, expectedId;
};

Task<Result<ReplacedStore>> restoreEmbedded(Restoring what, std::string path) {
  auto lock = lockFile(path + ".lock");
  if (!lock.ok())
    co_return Error(
        Code::kFailedPrecondition,
        "the master runs: `systemctl stop dhow-server` (without systemd: `dhow service stop`), restore, and start it "
        "again");
  lock->reset();
  auto replaced = co_await platform::replaceEmbedded(what.loop, what.pool, path, what.expectedId, what.file);
  co_return replaced;
}

Task<Result<ReplacedStore>> fillNext(Restoring what, Generations* generations, store::EtcdOptions etcd) {
  const std::string root = etcd.prefix, next = platform::generationAt(what.loop.wallNow());
  CO_ASSIGN_OR_RETURN(auto used, co_await generations->read());
  if (used.current == next)
    co_return Error(Code::kTooManyRequests, "the store was restored this very second; try again");
  // Every master has long left the one before.
  if (used.changed) {
    auto left = etcd;
    left.prefix = Generations::prefixOf(root, used.before);
    co_await platform::clearContent(what.loop, std::move(left));
  }
  etcd.prefix = Generations::prefixOf(root, used.current);
  auto filled = co_await platform::fillBeside(what.loop, what.pool, etcd, Generations::prefixOf(root, next), what.ownId,
                                              what.expectedId, what.file, what.config.paths().snapshots());
  CO_RETURN_IF_ERROR(filled);
  auto changed = co_await generations->change(used, next);
  if (changed.ok()) co_return filled;
  etcd.prefix = Generations::prefixOf(root, next);
  co_await platform::clearContent(what.loop, std::move(etcd));
  co_return std::move(changed).error().wrap("another restore was under way");
}

Task<Result<ReplacedStore>> restoreShared(Restoring what, MasterOptions options) {
  CO_ASSIGN_OR_RETURN(auto etcd, platform::storeOptions(options));
  CO_ASSIGN_OR_RETURN(auto generations, co_await Generations::open(what.loop, etcd));
  auto filled = co_await fillNext(what, generations.get(), std::move(etcd));
  co_await generations->close();
  CO_RETURN_IF_ERROR(filled);
  for (const auto& service : servicesOf(what.config)) {
    if (!service.master || servicePid(what.config, service) == 0) continue;
    auto restarted = co_await restartService(what.loop, what.pool, what.config, service);
    if (!restarted.ok()) co_return std::move(restarted).error().wrap("the store is restored; start the master with it");
  }
  co_return filled;
}

}  // namespace

Task<Result<ReplacedStore>> restore(Loop& loop, BlockingPool& pool, HostConfig config, std::string file,
                                    bool otherCluster) {
  if (!config.master) co_return Error(Code::kFailedPrecondition, "this machine is a node: the store is on its masters");
  CO_ASSIGN_OR_RETURN(auto options, platform::loadMasterOptions(config.paths().masterConfig()));
  CO_ASSIGN_OR_RETURN(auto authority, readFile(options.caFile, 1 << 20));
  const auto id = platform::clusterIdOf(options.cluster, authority);
  CO_RETURN_IF_ERROR(platform::checkSnapshot(file, id, otherCluster));
  Restoring what{loop, pool, config, std::move(file), id, otherCluster ? std::string() : id};
  auto restored = options.store.empty() ? co_await restoreShared(std::move(what), options)
                                        : co_await restoreEmbedded(std::move(what), options.store);
  co_return restored;
}

}  // namespace dhow::host
