// The processes of a host and what keeps them running: systemd's units where it is the machine's first process, else
// `dhow-shim init` in the foreground. Pods' containers outlive both a restart of their agent and its end.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "base/loop.h"
#include "base/result.h"
#include "host/config.h"
#include "platform/programs.h"

namespace dhow::host {

struct Service {
  std::string name;  // "dhow-server"
  std::string description;
  std::vector<std::string> args;
  bool tellsReady = true;  // by NOTIFY_SOCKET
  bool containers = false;
};
// In the order in which they are started.
std::vector<Service> servicesOf(const HostConfig& config, const platform::Programs& programs);
std::string unitText(const Service& service);

// systemd runs this machine.
bool haveSystemd();
// Writes the units, enables and starts them; returns when all are ready. kFailedPrecondition without systemd. Blocks.
Result<> installServices(const HostConfig& config, const platform::Programs& programs);
// Stops and removes every unit of ours; those that are not there are fine. Blocks.
Result<> uninstallServices();
bool servicesInstalled();

// Runs them until SIGTERM or SIGINT comes, or the host is taken out of its cluster. `ready` is called once all are; its
// error ends them again. kAlreadyExists when they run. What is killed here alone leaves them running.
Task<Result<>> runServices(RealLoop& loop, HostConfig config, platform::Programs programs,
                           std::function<Task<Result<>>()> ready);
// Ends what runServices() has started, whoever did. Fine when nothing runs.
Task<Result<>> stopServices(Loop& loop, HostConfig config);

}  // namespace dhow::host
