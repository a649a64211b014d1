// Gives Services of type LoadBalancer addresses out of AddressPools, and takes them back. What carries the traffic
// there reads status.loadBalancer. A service gets one address for each of its IP families: spec.loadBalancerIP when it
// asks so, of the pool that its annotation dhow.io/address-pool names, else of any that assigns by itself, the first by
// name. Its events say what it waits for; nothing is tried again before a pool or another service has changed.
#pragma once

#include <map>
#include <set>
#include <vector>

#include "component.h"
#include "object/address_range.h"

namespace dhow::controllers {

inline constexpr char kPoolAnnotation[] = "dhow.io/address-pool";

class ServiceLoadBalancerController final : public Component {
 public:
  // `range`: of the pool "default", which is made of it: "10.89.0.128/25", or with
  // two families "10.89.0.128/25,2001:db8::/112"; empty: none is made.
  ServiceLoadBalancerController(Context context, std::string range);

  void start() override { controller_.start(); }
  Task<> stop() override;
  bool idle() const override { return controller_.idle(); }
  Task<Result<>> reconcile(std::string key);

 private:
  using Address = object::AddressNumber;
  struct Pool {
    std::string name;
    bool automatic = true;
    std::vector<object::AddressRange> ranges;
    std::string overlap;  // why it gives nothing
    uint64_t size() const;
    bool contains(const Address& address) const;
  };
  struct Choice {
    std::vector<Address> addresses;
    std::string problem;  // when there are none
  };
  std::vector<Pool> pools() const;
  // One of each of the service's families; those that it has stay.
  Choice choose(const client::Object& service, const std::vector<Address>& has) const;
  // Who has it; empty: nobody.
  std::string holder(const Address& address, const std::string& except) const;

  Task<Result<>> seed(std::string key);
  Task<Result<>> tellPools();
  Task<Result<>> reconcileService(std::string key);
  Task<Result<>> writeAddresses(client::ObjectPtr service, std::vector<Address> addresses);
  void tell(const client::Object& service, std::string_view reason, std::string message);
  void released();

  Context context_;
  const std::string range_;
  bool seeded_ = false;
  client::Cache& services_;
  client::Cache& pools_;
  std::set<std::string> parked_;                       // keys that wait for the pool "default"
  std::map<std::string, std::string> told_;            // services that wait, and what they were told
  std::map<std::string, std::vector<Address>> given_;  // by service
  client::EventRecorder events_;
  client::Controller controller_;
};

}  // namespace dhow::controllers
