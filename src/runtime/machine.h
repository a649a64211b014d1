// Machines: system containers, each a sandbox of one whose PID 1 is the shim as an init.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "runtime/runtime.h"
#include "sandbox.h"

namespace dhow::runtime {

class Machines {
 public:
  Machines(Runtime& runtime, Core& core) : runtime_(runtime), core_(core) {}

  Task<Result<>> create(MachineSpec spec);
  Task<Result<pid_t>> start(std::string name);
  Task<Result<>> stop(std::string name, Duration grace);
  Task<Result<>> kill(std::string name);
  Task<Result<>> remove(std::string name);
  Task<Result<std::vector<MachineStatus>>> list();

 private:
  std::shared_ptr<Sandbox> find(const std::string& name) const;

  Runtime& runtime_;
  Core& core_;
  std::map<std::string, MachineSpec> specs_;
};

}  // namespace dhow::runtime
