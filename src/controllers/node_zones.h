// Makes a Zone for each zone that a node names, and the Region of both. For clusters whose machines nobody provides:
// hosts that join bring their zones along. What is made stays when its last node goes.
#pragma once

#include "platform.h"

namespace dhow::controllers {

class NodeZonesController final : public Component {
 public:
  NodeZonesController(Context context, std::string region);

  void start() override { controller_.start(); }
  Task<> stop() override { return controller_.stop(); }
  bool idle() const override { return controller_.idle(); }
  Task<Result<>> reconcile(std::string key);

 private:
  Task<Result<>> ensure(client::Resource kind, std::string name, json::object body);

  Context context_;
  std::string region_;
  client::Cache& nodes_;
  client::Cache& zones_;
  client::Cache& regions_;
  client::Controller controller_;
};

}  // namespace dhow::controllers
