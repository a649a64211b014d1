// The end of a zone's return: when its originals are ready and their stand-ins have gone, and those of zones that are
// still lost are spread over it too (node_pool_plan.h), pods are spread again as evenly as a fresh start would have put
// them, one pod of a ReplicaSet at a time, made before it is deleted (pod_mover.h). Then the zone is Up.
#pragma once

#include "node_pool.h"
#include "pod_mover.h"

namespace dhow::controllers {

class ReturnsController final : public Component {
 public:
  struct Options {
    Duration limit = std::chrono::minutes(10);  // so long a zone is Returning at most
  };
  // `pools` is null where no provider makes machines.
  ReturnsController(Context context, NodePoolController* pools, Options options);
  void start() override { controller_.start(); }
  Task<> stop() override { return controller_.stop(); }
  bool idle() const override { return controller_.idle(); }
  Task<Result<>> reconcile(std::string key);

 private:
  // Whether some pod still moves or should.
  Task<Result<bool>> level(ObjectPtr set);
  // The next pod of the set to move, null when it is even.
  ObjectPtr crowded(const Object& set, const std::vector<ObjectPtr>& pods) const;
  Task<Result<>> moveMarked();
  bool standInsLeft(std::string_view zone) const;

  Context context_;
  NodePoolController* pools_;
  Options options_;
  client::Cache& zones_;
  client::Cache& machines_;
  client::Cache& nodes_;
  client::Cache& pods_;
  client::Cache& sets_;
  std::map<std::string, int64_t> moves_;  // by set, while a zone returns
  PodMover mover_;
  client::Controller controller_;
};

}  // namespace dhow::controllers
