// Removes the oldest finished pods when there are more of them than a limit. Pods of removed nodes are
// node_lifecycle.h's.
#pragma once

#include "component.h"
#include "workload.h"

namespace dhow::controllers {

class PodGarbageCollector final : public Component {
 public:
  PodGarbageCollector(Context context, size_t limit);

  void start() override { controller_.start(); }
  Task<> stop() override { return controller_.stop(); }
  bool idle() const override { return controller_.idle(); }
  Task<Result<>> reconcile(std::string key);

 private:
  Context context_;
  size_t limit_;
  client::Cache& pods_;
  client::Controller controller_;
};

}  // namespace dhow::controllers
