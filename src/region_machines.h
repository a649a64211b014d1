// The machines of a local region as the control plane asks for them: controllers/machine_provider.h over the region's
// API (platform/region_api.h).
#pragma once

#include <memory>
#include <set>

#include "base/gate.h"
#include "controllers/machine_provider.h"
#include "platform/region_api.h"

namespace dhow {

class RegionMachines final : public controllers::MachineProvider {
 public:
  RegionMachines(Loop& loop, platform::RegionClient::Options options);
  ~RegionMachines() override;
  void start();
  Task<> stop();

  Task<Result<>> create(controllers::MachineRequest request) override;
  Task<Result<>> remove(std::string name) override;
  Task<Result<>> restart(std::string name) override;
  Task<Result<std::vector<controllers::MachineInfo>>> list(std::string zone) override;
  std::unique_ptr<Subscription> subscribe(Changed changed) override;

 private:
  struct Listeners;
  class Entry;
  static Task<> follow(RegionMachines* self);

  platform::RegionClient client_;
  platform::RegionClient changes_;  // its stream is ended by closing it
  std::shared_ptr<Listeners> listeners_;
  bool stopping_ = false;
  Signal stopped_;
  Gate gate_;
};

}  // namespace dhow
