// Removes Events an hour after they were last written (kube-apiserver's --event-ttl). The whole cluster's at once, and
// no sooner than the oldest is due; who leads does it.
#pragma once

#include "component.h"
#include "workload.h"

namespace dhow::controllers {

class EventExpiry final : public Component {
 public:
  EventExpiry(Context context, Duration ttl);

  void start() override;
  Task<> stop() override { return controller_.stop(); }
  bool idle() const override { return controller_.idle(); }
  Task<Result<>> reconcile(std::string key);

 private:
  Context context_;
  const Duration ttl_;
  client::Cache& events_;
  client::Controller controller_;
};

}  // namespace dhow::controllers
