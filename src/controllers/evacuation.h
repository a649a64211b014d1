// Pods of a zone that is down move at once: those of its silent nodes are deleted, so that their owners make others.
// Pods with an identity (client/node_lease.h) move only when their node has surely fenced itself or its machine is
// surely off; then they are erased, so that their owner can give the identity anew. Pods that nobody would make again
// stay. On a machine that is off, whatever its zone, pods that were deleted are erased: nobody is left to end them.
#pragma once

#include "heartbeats.h"
#include "inventory.h"
#include "platform.h"

namespace dhow::controllers {

class EvacuationController final : public Component {
 public:
  EvacuationController(Context context, Heartbeats& heartbeats, Inventory& inventory);
  void start() override { controller_.start(); }
  Task<> stop() override;
  bool idle() const override { return controller_.idle(); }
  Task<Result<>> reconcile(std::string key);

 private:
  void addPodsOf(std::string_view node);

  Context context_;
  Heartbeats& heartbeats_;
  Inventory& inventory_;
  client::Cache& pods_;
  client::Cache& nodes_;
  client::Cache& zones_;
  client::EventRecorder events_;
  client::Controller controller_;
  std::unique_ptr<Heartbeats::Subscription> heard_;
};

}  // namespace dhow::controllers
