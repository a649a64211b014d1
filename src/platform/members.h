// The members of the etcd that a cluster's masters share: one on each master's machine. What starts one, what keeps
// them all well, and what is told about them.
#pragma once

#include <sys/types.h>

#include <memory>
#include <string>
#include <vector>

#include "base/gate.h"
#include "base/loop.h"
#include "base/result.h"
#include "platform/config.h"
#include "platform/master_options.h"
#include "store/etcd_admin.h"

namespace dhow::platform {

// How the master's store is reached, with the files' contents.
Result<store::EtcdOptions> storeOptions(const MasterOptions& options);

// Adds a master that has joined to the peers and to the ways to the store, or takes one out that has left; false when
// nothing changes.
bool addPeer(MasterOptions& options, const std::string& name, const std::string& address);
bool dropPeer(MasterOptions& options, const std::string& name);
// Whether the store's cluster still has the member of the master at that address.
Task<Result<bool>> hasMember(Loop& loop, store::EtcdOptions options, std::string address);
// Takes the master's own member out of the cluster, whose other members answer; fine when it is the only one.
Task<Result<>> removeOwnMember(Loop& loop, MasterOptions options);

// kNotFound with what to do when the machine has no etcd.
Result<std::string> findEtcd();
// Whether the machine's etcd is another by now than the one that this process runs, as after Debian's upgrades.
bool runsOtherEtcd(pid_t member);

// What runs the master's own member: etcd's program and arguments. A member that has lost its data is taken out of the
// cluster and added anew as a learner first; kUnavailable while the others do not answer, since with an empty log it
// must not vote under its old name.
Task<Result<std::vector<std::string>>> prepareMember(Loop& loop, const MasterOptions& options);

// Run by the leading master: compacts and defragments regularly, and promotes learners that have caught up.
class MemberKeeper {
 public:
  MemberKeeper(Loop& loop, store::EtcdOptions options);
  Result<> replaceEndpoints(const std::vector<std::string>& endpoints);
  void start();
  Task<> stop();

 private:
  static Task<> run(MemberKeeper* self);
  Task<bool> promoteLearners();

  store::EtcdAdmin admin_;
  store::EtcdUpkeep upkeep_;
  bool stopping_ = false;
  Signal stopped_;
  Gate gate_;
};

struct MemberState {
  std::string name, endpoint;
  bool answers = false;
  bool leads = false;
  bool learner = false;
  int64_t bytes = 0;
};
// Of the members that this master knows; empty where it has none of its own.
Task<std::vector<MemberState>> memberStates(Loop& loop, MasterOptions options);
// Of a cluster of this machine; empty for one with the embedded store.
Task<std::vector<MemberState>> memberStates(Loop& loop, const ClusterConfig& config);
Task<bool> memberAnswers(Loop& loop, const ClusterConfig& config, std::string master);

}  // namespace dhow::platform
