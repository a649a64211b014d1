// Keeps the status of PodDisruptionBudgets (policy/v1): how many of a budget's pods are healthy, how many have to be,
// and how many may be evicted. pods/eviction takes from that number; what it took is confirmed here when the pod goes,
// and given back when it has not gone within two minutes.
#pragma once

#include "component.h"
#include "workload.h"

namespace dhow::controllers {

class DisruptionController final : public Component {
 public:
  explicit DisruptionController(Context context);

  void start() override { controller_.start(); }
  Task<> stop() override;
  bool idle() const override { return controller_.idle(); }
  Task<Result<>> reconcile(std::string key);

 private:
  struct Wanted {
    int64_t expected = 0;
    int64_t healthy = 0;
  };
  void podChanged(const ObjectPtr& before, const ObjectPtr& after, client::WorkQueue& queue);
  void ownerChanged(const ObjectPtr& before, const ObjectPtr& after, client::WorkQueue& queue);
  // How many pods there should be, and how many of them healthy.
  Result<Wanted> wantedOf(const Object& budget, const std::vector<ObjectPtr>& pods);
  Result<int64_t> expectedOf(const Object& budget, const std::vector<ObjectPtr>& pods);

  Context context_;
  client::Cache& budgets_;
  client::Cache& pods_;
  client::Cache& sets_;
  client::Cache& deployments_;
  client::EventRecorder events_;
  client::Controller controller_;
};

}  // namespace dhow::controllers
