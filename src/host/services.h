// The processes of a host and what keeps them running: systemd's units where it is the machine's first process, else
// `dhow-shim init` in the foreground. Pods' containers outlive both a restart of their agent and its end.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "base/blocking.h"
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
  bool master = false;  // the API server's
};
// In the order in which they are started, each through its link to the host's own programs.
std::vector<Service> servicesOf(const HostConfig& config);
// Takes these programs over as the host's own where it has none yet.
Result<> ensurePrograms(const HostConfig& config, const platform::Programs& programs);
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

// The process of a service; 0: none just now.
pid_t servicePid(const HostConfig& config, const Service& service);
// Returns when the service has told that it is ready, or `serves` says so: for one that is just being started.
// kDeadlineExceeded.
Task<Result<>> awaitService(Loop& loop, BlockingPool& pool, HostConfig config, Service service,
                            std::function<Task<bool>()> serves);
// Ends a service's process, and returns when the one that takes its place tells that it is ready. kDeadlineExceeded
// when none does.
Task<Result<>> restartService(Loop& loop, BlockingPool& pool, HostConfig config, Service service);

}  // namespace dhow::host
