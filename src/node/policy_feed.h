// Network policies as this node needs them: watches policies, and, while any pod may be isolated, namespaces and the
// addresses of all pods (a short form of them, see apiserver/pod_address.h); tells the table what changed; and lets a
// pod start only when its policies are in force. What was seen last is on disk, for a start without a master.
//
// Why every node reads all pods' addresses: a pod that starts is then told to the nodes by the watch alone. Sets made
// by the masters would have to be written to the store for each pod, for each selector that selects it.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "base/gate.h"
#include "client/reflector.h"
#include "floors.h"
#include "network/policy_table.h"
#include "node/policies.h"

namespace dhow::node {

// Where it goes; a fake in tests.
class PolicySink {
 public:
  virtual ~PolicySink() = default;
  virtual Result<> apply(PolicyTable::Subjects subjects, PolicyTable::Peers changed) = 0;  // may block
};

class PolicyFeed final : public PodPolicies {
 public:
  struct Options {
    bool isolate = false;  // see PolicyModel
    std::string file;      // empty: nowhere
    // A pod starts that is isolated only because `isolate` says so, and that no policy opens.
    std::function<void(const Object& pod)> closed = {};
  };
  PolicyFeed(Loop& loop, client::Client& client, client::Cache& policies, PolicySink& sink, Offload& offload,
             Options options);
  ~PolicyFeed() override;
  // After every pod that runs already was adopted: what an earlier agent left in the kernel holds until then.
  void start();
  Task<> stop();

  Task<Result<>> protect(ObjectPtr pod, std::vector<std::string> addresses) override;
  void adopt(ObjectPtr pod, const std::vector<std::string>& addresses) override;
  void update(ObjectPtr pod) override;
  void release(const std::string& uid) override;

 private:
  struct Local {
    ObjectPtr pod;
    std::vector<IpAddress> addresses;
  };
  // Namespaces and pods, while they matter.
  struct World {
    World(Loop& loop, client::Client& client);
    client::Reflector namespaces, pods;
    std::vector<std::unique_ptr<client::Cache::Subscription>> subscriptions;
    bool synced = false;
  };
  bool ready() const;
  void put(const ObjectPtr& pod);
  void drop(const std::string& key);
  void sawPolicy(const ObjectPtr& before, const ObjectPtr& after);
  void sawNamespace(const ObjectPtr& before, const ObjectPtr& after);
  void sawPod(const ObjectPtr& before, const ObjectPtr& after);
  void look();  // opens or closes the world
  void wake();
  std::optional<PolicyPeer> peerAt(const IpAddress& address) const;
  static Task<> waitPolicies(PolicyFeed* self);
  static Task<> waitWorld(PolicyFeed* self, std::shared_ptr<World> world);
  static Task<> endWorld(std::shared_ptr<World> world);
  static Task<> flush(PolicyFeed* self);
  static Task<> keep(PolicyFeed* self);
  Result<> load();
  void keepSoon(Duration delay);

  Loop& loop_;
  client::Client& client_;
  client::Cache& policies_;
  PolicySink& sink_;
  Offload& offload_;
  const Options options_;
  PolicyModel model_;
  std::map<std::string, ObjectPtr> pods_;         // by key; short forms
  std::map<IpAddress, std::string> owners_;       // whose an address is
  std::map<std::string, Local> locals_;           // by uid
  std::map<IpAddress, std::string> localOwners_;  // by uid
  std::shared_ptr<World> world_;
  PolicyModel::Terms told_;
  std::set<IpAddress> changed_;
  bool dirty_ = false, everyone_ = true;  // something, every address, is to be told
  bool started_ = false, known_ = false, restored_ = false, flushing_ = false, stopping_ = false, keeping_ = false;
  uint64_t wanted_ = 0, done_ = 0, failed_ = 0;  // protections asked for; in force; refused
  std::string failure_;
  Signal settled_;
  Timer keep_, retry_;
  std::unique_ptr<client::Cache::Subscription> subscription_;
  Gate gate_;
};

}  // namespace dhow::node
