// Writes the EndpointSlices (discovery.k8s.io/v1, at most 100 endpoints each) and the Endpoints (v1, at most 1000) of
// Services with a selector.
#pragma once

#include "component.h"
#include "workload.h"

namespace dhow::controllers {

// A port that a service offers, as one pod serves it.
struct EndpointPort {
  std::string name, protocol, appProtocol;
  int64_t number = 0;
  auto operator<=>(const EndpointPort&) const = default;
};

// The pod's own numbers for the service's ports; a named port that the pod lacks is left out.
std::vector<EndpointPort> resolvePorts(const Object& service, const Object& pod);

class EndpointSliceController final : public Component {
 public:
  explicit EndpointSliceController(Context context);

  void start() override { controller_.start(); }
  Task<> stop() override { return controller_.stop(); }
  bool idle() const override { return controller_.idle(); }
  Task<Result<>> reconcile(std::string key);

 private:
  void podChanged(const ObjectPtr& before, const ObjectPtr& after, client::WorkQueue& queue);
  void nodeChanged(const ObjectPtr& before, const ObjectPtr& after, client::WorkQueue& queue);
  // Those that select the pod as it was or is.
  void addServicesOf(const ObjectPtr& before, const ObjectPtr& after, client::WorkQueue& queue);
  std::vector<ObjectPtr> podsOf(const Object& service) const;
  Task<Result<>> syncSlices(ObjectPtr service, std::vector<ObjectPtr> pods);
  Task<Result<>> syncEndpoints(ObjectPtr service, std::vector<ObjectPtr> pods);

  Context context_;
  client::Cache& services_;
  client::Cache& pods_;
  client::Cache& nodes_;
  client::Cache& slices_;
  client::Cache& endpoints_;
  client::Controller controller_;
};

}  // namespace dhow::controllers
