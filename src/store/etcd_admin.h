// The upkeep of an etcd cluster: who its members are, how they are, and what must be done now and then so that it never
// stops for want of space. Every call has a deadline; errors are those of EtcdStore.
#pragma once

#include <cstdint>

#include "base/blocking.h"
#include "base/gate.h"
#include "store/etcd_store.h"

namespace dhow::store {

class EtcdAdmin {
 public:
  EtcdAdmin(Loop& loop, EtcdOptions options);
  ~EtcdAdmin();

  // The members may change while it is used.
  Result<> replaceEndpoints(std::vector<std::string> endpoints);

  struct Member {
    uint64_t id = 0;
    std::string name;  // empty until it has started once
    std::vector<std::string> peerUrls;
    std::vector<std::string> clientUrls;
    bool learner = false;
  };
  struct Status {
    std::string endpoint;
    std::string version;
    uint64_t clusterId = 0;
    uint64_t memberId = 0;
    uint64_t leaderId = 0;  // 0: none
    int64_t fileBytes = 0;
    int64_t usedBytes = 0;  // what defragment() would leave
    uint64_t raftTerm = 0;
    uint64_t raftIndex = 0;
    uint64_t appliedIndex = 0;
    Revision revision = 0;  // etcd's own
    bool learner = false;
    std::vector<std::string> errors;
    bool leads() const { return leaderId != 0 && leaderId == memberId; }
  };
  struct Alarm {
    enum class Kind { kNoSpace, kCorrupt };
    uint64_t memberId = 0;
    Kind kind = Kind::kNoSpace;
  };

  Task<Result<std::vector<Member>>> members();
  // A learner copies everything before it is promoted; adding one never endangers the quorum. kFailedPrecondition until
  // the members that there are have all been well for five seconds.
  Task<Result<Member>> addMember(std::vector<std::string> peerUrls, bool learner = true);
  // kFailedPrecondition while it has not caught up.
  Task<Result<>> promoteMember(uint64_t id);
  Task<Result<>> removeMember(uint64_t id);
  Task<Result<>> updateMember(uint64_t id, std::vector<std::string> peerUrls);
  Task<Result<>> moveLeader(uint64_t toMember);

  // Of one member, by its endpoint; it answers even without a quorum.
  Task<Result<Status>> status(std::string endpoint);
  // Whether the member takes part in a quorum: a linearizable read through it.
  Task<Result<>> health(std::string endpoint);
  Task<Result<std::vector<Alarm>>> alarms();
  Task<Result<>> disarm(Alarm alarm);
  Task<Result<>> compact(Revision etcdRevision);
  // Gives space back to the file system; the member answers nobody meanwhile.
  Task<Result<>> defragment(std::string endpoint);
  // One member after another, the leader last, each only when all others are well. Members whose file is under
  // `leastBytes` or has less than `leastFree` of it free are left alone. Gives the number that were defragmented.
  Task<Result<size_t>> defragmentAll(int64_t leastBytes = 64 << 20, double leastFree = 0.5);
  // Compacts what was current when this was last called, so that watchers have the time between two calls to catch up;
  // disarms a space alarm once there is space again. For the leader's timer; the first call only remembers.
  Task<Result<>> maintain();
  // The member's whole database in etcd's own format (etcdctl snapshot restore), verified by the digest at its end.
  // Written to a temporary file, renamed when whole.
  Task<Result<>> saveDatabase(BlockingPool& pool, std::string endpoint, std::string path);

 private:
  struct Rep;
  std::shared_ptr<Rep> rep_;
};

// Calls maintain() and defragmentAll() every `interval` between start() and stop(): only the leader runs it.
class EtcdUpkeep {
 public:
  EtcdUpkeep(Loop& loop, EtcdOptions options, Duration interval = std::chrono::minutes(5));
  Result<> replaceEndpoints(std::vector<std::string> endpoints) {
    return admin_.replaceEndpoints(std::move(endpoints));
  }
  void start();
  Task<> stop();

 private:
  Task<> work();
  EtcdAdmin admin_;
  const Duration interval_;
  Gate gate_;
  Signal stopping_;
  bool stopped_ = false;
};

}  // namespace dhow::store
