// Gives Services of type LoadBalancer an address out of a pool, and takes it back. What carries the traffic there reads
// status.loadBalancer. Without a pool services stay pending, and an event of theirs says so.
#pragma once

#include <map>
#include <optional>
#include <set>

#include "component.h"
#include "ipv4.h"

namespace dhow::controllers {

class ServiceLoadBalancerController final : public Component {
 public:
  ServiceLoadBalancerController(Context context, std::string pool);  // "10.89.0.128/25"; empty: there is none

  void start() override { controller_.start(); }
  Task<> stop() override;
  bool idle() const override { return controller_.idle(); }
  Task<Result<>> reconcile(std::string key);

 private:
  Task<Result<>> writeAddress(client::ObjectPtr service, std::string address);
  // The wanted address when it is free, else any; 0 when none is left.
  uint32_t choose(uint32_t wanted) const;

  Context context_;
  std::optional<Ipv4Range> pool_;
  std::set<std::string> told_;  // services that wait for a pool
  client::Cache& services_;
  std::map<std::string, uint32_t> given_;  // by service
  client::EventRecorder events_;
  client::Controller controller_;
};

}  // namespace dhow::controllers
