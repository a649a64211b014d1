// The drain barrier: a pod's containers get their stop signal only after everybody who sends to pods by what
// EndpointSlices say has confirmed that the pod's end is in force there. The agent that stops the pod asks any master
// (client/draining.h); nothing is written for it.
//
// pass() waits, in this order and each within a bound:
//   1. until the slices of every service that selects the pod say that it is terminating (the endpointslice controller
//      runs on the leader; the watch cache tells), and
//   2. until every consumer that lives has applied what the slices were then. Slices are applied in order, so the pods
//      that take the place of this one are known by then, too.
// A terminating pod that is the last to serve is still sent to, as in Kubernetes; that state has been applied then.
// On the loop's thread.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "base/gate.h"
#include "client/cache.h"
#include "client/draining.h"

namespace dhow::apiserver {

// Parties that send to pods by EndpointSlices: the nodes' proxies and DNS servers, a load balancer, an ingress.
class EndpointConsumers {
 public:
  virtual ~EndpointConsumers() = default;
  // By name, those that live: the others send to nobody.
  virtual std::vector<std::string> living() const = 0;
  // Asks one whether all changes of EndpointSlices up to `revision` are in force there; returns how far it has come
  // once it has come so far, or after about `limit`. One that is mute may keep the question for longer. kUnimplemented:
  // it knows no such question.
  virtual Task<Result<uint64_t>> applied(std::string consumer, uint64_t revision, Duration limit) = 0;
};

class DrainBarrier {
 public:
  struct Options {
    Duration slicesLimit = std::chrono::seconds(5);     // longer than it takes that another master leads
    Duration confirmLimit = std::chrono::seconds(2);    // for one that is mute
    Duration behindLimit = std::chrono::seconds(10);    // for one that tells that it has not come so far yet
    Duration askAgain = std::chrono::milliseconds(50);  // after an error; doubles
  };
  DrainBarrier(Loop& loop, client::Caches& caches, Options options);
  DrainBarrier(Loop& loop, client::Caches& caches) : DrainBarrier(loop, caches, Options()) {}
  ~DrainBarrier();
  // They outlive stop().
  void add(EndpointConsumers& consumers) { parties_.push_back(&consumers); }
  void start();
  Task<> stop();

  // The pod's deletion is in the caches. Without a pod's name the slices of that revision are waited for alone.
  // kUnavailable after stop(); else what was passed, and without whom.
  Task<Result<client::Drained>> pass(client::DrainQuestion question);

 private:
  struct Asked;
  std::set<std::string> tellersOf(const client::DrainQuestion& question) const;
  bool told(const client::DrainQuestion& question, const std::set<std::string>& services) const;
  Task<std::vector<std::string>> unconfirmed(uint64_t revision);
  std::shared_ptr<Asked> ask(EndpointConsumers& party, const std::string& name, uint64_t revision);
  static Task<> askOne(DrainBarrier* self, std::shared_ptr<Asked> asked);

  Loop& loop_;
  const Options options_;
  client::Cache& pods_;
  client::Cache& services_;
  client::Cache& slices_;
  std::vector<EndpointConsumers*> parties_;
  std::map<std::pair<EndpointConsumers*, std::string>, std::shared_ptr<Asked>> asked_;  // questions under way
  std::map<std::string, TimePoint, std::less<>> touched_;  // namespace -> when its slices last changed
  std::vector<std::unique_ptr<client::Cache::Subscription>> subscriptions_;
  bool stopping_ = false;
  Signal slicesChanged_, answered_, stopped_;
  Gate gate_;
};

}  // namespace dhow::apiserver
