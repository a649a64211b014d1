// EndpointSlices for the Endpoints that somebody wrote by hand for a service without a selector (or another controller,
// as older ones do), so that the proxy and DNS, which read slices alone, serve them. As Kubernetes'
// endpointslicemirroring controller (KEP-0752); one with the label endpointslice.kubernetes.io/skip-mirror, or one that
// is a leader's lock, is left alone.
#pragma once

#include "component.h"
#include "workload.h"

namespace dhow::controllers {

class EndpointsMirrorController final : public Component {
 public:
  explicit EndpointsMirrorController(Context context);

  void start() override { controller_.start(); }
  Task<> stop() override { return controller_.stop(); }
  bool idle() const override { return controller_.idle(); }
  Task<Result<>> reconcile(std::string key);

 private:
  Context context_;
  client::Cache& services_;
  client::Cache& endpoints_;
  client::Cache& slices_;
  client::Controller controller_;
};

}  // namespace dhow::controllers
