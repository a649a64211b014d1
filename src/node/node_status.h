// The Node object and its lease: registers the node, tells its state on change (and every five minutes), renews the
// lease every few seconds (client/node_lease.h). While no master answers it tries on, with growing delays.
#pragma once

#include <deque>
#include <functional>
#include <optional>
#include <string>

#include "base/gate.h"
#include "client/client.h"
#include "floors.h"
#include "json.h"
#include "options.h"

namespace dhow::node {

struct MachineFacts {
  int64_t cpus = 1;
  uint64_t memory = 0;   // bytes
  uint64_t storage = 0;  // bytes of the file system that holds dataDir
  std::string machineId, bootId, systemUuid, kernel, osImage, architecture, hostname;
};
MachineFacts readMachine(const std::string& dataDir);
// {"cpu": "2", "memory": "4026532Ki", ...}
std::map<std::string, std::string> capacityOf(const MachineFacts& machine, const NodeOptions& options);
std::map<std::string, std::string> allocatableOf(const std::map<std::string, std::string>& capacity,
                                                 const NodeOptions& options);

class NodeStatus {
 public:
  // `leases`: for the lease alone, as its calls must end soon, whatever becomes of others.
  NodeStatus(Loop& loop, client::Client& client, client::Client& leases, const NodeOptions& options,
             MachineFacts machine, Images& images);
  void start();
  Task<> stop();
  // The pod network works: the node can take pods.
  void setNetworkReady(bool ready);
  // Requests for Ingresses are served here. Nodes that never did do not speak of it.
  void setServesIngress(bool serves);
  // Those who are served here still are, but nobody new (client::kIngressLeaves).
  void setIngressLeaves(bool leaves);
  // Before start(): whether pods can have user namespaces of their own.
  void setUserNamespaces(bool can) { userNamespaces_ = can; }
  // Contact with a master was made: try now.
  void poke();
  // Calls with the Node as the API has it, after each write: it may have the pods' range by now.
  std::function<void(const object::Object& node)> onRange;
  std::function<void()> onRegistered;
  // The lease was renewed by a request that was sent then; or every master refused to be connected with since then.
  std::function<void(TimePoint sent)> onRenewed;
  json::object status() const;

 private:
  static Task<> keepNode(NodeStatus* self);
  static Task<> keepLease(NodeStatus* self);
  Task<Result<>> writeNode();
  Task<Result<>> writeLease();
  void refused(TimePoint sent);
  json::object metadata() const;
  json::array conditions() const;
  json::object conditionOf(std::string_view type, bool holds, std::string_view reason, std::string_view message) const;

  Loop& loop_;
  client::Client& client_;
  client::Client& leases_;
  const NodeOptions& options_;
  MachineFacts machine_;
  Images& images_;
  json::object reported_;
  std::optional<bool> servesIngress_;
  bool ingressLeaves_ = false;
  bool networkReady_ = false, userNamespaces_ = false, registered_ = false, stopping_ = false;
  // The lease had lapsed: the master may have put its own word in the place of ours.
  bool statusDue_ = false;
  std::optional<TimePoint> leaseWritten_;
  std::deque<TimePoint> refusals_;  // in a row
  std::string uid_;
  ObjectPtr lease_;
  Signal changed_, leaseWake_;
  Gate gate_;
};

}  // namespace dhow::node
