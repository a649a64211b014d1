// What EtcdStore and its watchers share. Private to this folder.
#pragma once

#include <deque>
#include <unordered_map>
#include <unordered_set>

#include "etcd_cluster.h"
#include "etcd_wire.h"
#include "store/etcd_store.h"

namespace dhow::store {

class EtcdWatcher;

// A key of the store is `prefix` + key in etcd; it does not begin with '!'. Under the prefix are also two of our own.
inline constexpr std::string_view kBaseKey = "!base";  // how far the store's revisions are ahead of etcd's
inline constexpr std::string_view kMarkKey = "!mark";  // under a watcher's prefix: written to learn how far it is

struct EtcdStore::Rep : std::enable_shared_from_this<EtcdStore::Rep> {
  explicit Rep(std::shared_ptr<EtcdCluster> cluster) : cluster(std::move(cluster)) {}
  Loop& loop() { return cluster->loop(); }
  Revision ours(Revision etcds) const { return etcds + base; }
  Revision etcds(Revision ours) const { return ours - base; }
  void heard(Revision etcds) { newest = std::max(newest, etcds); }

  // Values that this process has sent and that a watcher will meet again.
  void expect(const Txn& txn);
  void forget(const Txn& txn);
  // The value as its writer has it, when it is the one that was sent.
  std::optional<Value> recall(const std::string& key, const std::string& bytes);

  static Task<Result<etcd::RangeResponse>> range(std::shared_ptr<Rep> rep, etcd::RangeRequest request);
  static Task<Result<bool>> page(std::shared_ptr<Rep> rep, etcd::RangeRequest* request, std::vector<Entry>* entries);
  static Task<> readCurrent(std::shared_ptr<Rep> rep);
  // What became of a repeated transaction whose compares do not hold: of an earlier attempt, or of somebody else.
  static Task<Result<Revision>> resolve(std::shared_ptr<Rep> rep, Txn txn);

  struct CurrentRead {
    explicit CurrentRead(Loop& loop) : done(loop) {}
    Signal done;
    std::optional<Result<Revision>> result;
  };

  const std::shared_ptr<EtcdCluster> cluster;
  Revision base = 0;
  Revision newest = 0;  // etcd's
  bool closed = false;
  bool reading = false;
  std::shared_ptr<CurrentRead> nextRead;
  std::unordered_map<std::string, Value> expected;
  std::deque<std::string> expectedOrder;
  std::unordered_set<EtcdWatcher*> watchers;
};

Result<std::unique_ptr<Watcher>> watchEtcd(std::shared_ptr<EtcdStore::Rep> rep, std::string prefix, Revision after,
                                           bool previous);
void closeEtcdWatchers(EtcdStore::Rep& rep);

}  // namespace dhow::store
