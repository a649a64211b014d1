// Gives a new cluster its Region, its Zones and the NodePool "default", once. The Region is annotated until all is
// made, so that a master that ends in between is followed by one that goes on.
#pragma once

#include "platform.h"

namespace dhow::controllers {

class PlatformSeed final : public Component {
 public:
  struct Plan {
    std::string region;
    std::vector<std::string> zones;
    int nodes = 0;
  };
  PlatformSeed(Context context, Plan plan);
  void start() override;
  Task<> stop() override { return controller_.stop(); }
  bool idle() const override { return controller_.idle(); }
  Task<Result<>> reconcile(std::string key);

 private:
  Task<Result<>> make(client::Resource kind, std::string name, json::object body);

  Context context_;
  Plan plan_;
  client::Cache& regions_;
  client::Controller controller_;
};

}  // namespace dhow::controllers
