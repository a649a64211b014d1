// Services as this node sees them: what the proxy and DNS are told when Services and EndpointSlices change, piece by
// piece.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "base/gate.h"
#include "client/cache.h"
#include "floors.h"
#include "json.h"
#include "network/address_election.h"
#include "network/bridge_network.h"
#include "network/dns.h"
#include "network/service_proxy.h"
#include "node/service_ports.h"
#include "service_health.h"

namespace dhow::node {

ClusterDns::Service dnsService(const Object& service, const std::vector<ObjectPtr>& slices);
// Who may answer neighbours for the service's load-balanced addresses: any node, or, of a service whose outside traffic
// stays on the node that it reached, those with a ready pod. Addresses that another class of load balancer has given
// are its own.
AddressElection::Wanted announcedAddresses(const Object& service, const std::vector<ObjectPtr>& slices);

// Where it goes; a fake in tests.
class ServiceSink {
 public:
  virtual ~ServiceSink() = default;
  // These may block.
  virtual Result<> applyAll(std::vector<ServicePort> ports, ServiceProxy::Snapshot kind) = 0;
  virtual Result<> update(std::vector<ServicePort> changed, std::vector<std::string> removed) = 0;
  virtual void setDns(const ClusterDns::Service& service) = 0;
  virtual void removeDns(const std::string& ns, const std::string& name) = 0;
  virtual void setAnnounced(const std::string& /*service*/, AddressElection::Wanted) {}
  // Without a port: its health is no longer told.
  virtual void setHealth(const std::string& ns, const std::string& name, ServiceHealth health) = 0;
};

class ServiceFeed final : public ServiceSource {
 public:
  // `file`: where services are kept for a start without a master; empty: nowhere.
  ServiceFeed(Loop& loop, client::Cache& services, client::Cache& slices, ServiceSink& sink, Offload& offload,
              ServiceView view, std::string file);
  void start();
  Task<> stop();
  std::vector<ObjectPtr> services(std::string_view ns) const override;
  // All changes of EndpointSlices up to this revision are in force in the proxy and DNS.
  uint64_t applied() const;
  // The node's zone is another one than it was: who is near is found anew.
  void setZone(const std::string& zone);
  // Waits until that is so of `revision`, at most `limit`; gives what is applied then.
  Task<uint64_t> untilApplied(uint64_t revision, Duration limit);

 private:
  void changed(const std::string& key);
  void wake();
  static Task<> waitSynced(ServiceFeed* self);
  static Task<> flush(ServiceFeed* self);
  Result<> load();
  std::vector<ObjectPtr> slicesOf(const std::string& key) const;
  void keepSoon();

  Loop& loop_;
  client::Cache& services_;
  client::Cache& slices_;
  ServiceSink& sink_;
  Offload& offload_;
  ServiceView view_;
  std::string file_;
  std::map<std::string, std::set<std::string>> told_;  // service -> port keys that the proxy has
  std::set<std::string> dirty_;
  std::vector<ObjectPtr> remembered_;  // from the file, until the caches are filled
  uint64_t applied_ = 0;               // by the last flush
  bool full_ = false, synced_ = false, flushing_ = false, stopping_ = false;
  Timer keep_, retry_;
  std::vector<std::unique_ptr<client::Cache::Subscription>> subscriptions_;
  Signal flushed_;
  Gate gate_;
};

}  // namespace dhow::node
