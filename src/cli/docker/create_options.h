// The options of `run`, and the request that they make.
#pragma once

#include "docker.h"

namespace dhow::cli::docker {

struct CreateOptions {
  bool detach = false, interactive = false, tty = false, remove = false, readOnly = false, privileged = false,
       publishAll = false, init = false, quiet = false;
  std::vector<std::string> publish, volumes, env, envFiles, labels, capAdd, capDrop, securityOpt, tmpfs, addHost, dns,
      devices, groupAdd, sysctls, expose, attach;
  std::string name, user, workdir, hostname, memory, memorySwap, cpus, cpuShares, cpuset, pids, entrypoint, network,
      restart, platform, stopSignal, pidMode, ipcMode, shmSize, pull = "missing";
  int stopTimeout = -1;
  CLI::Option* entrypointOption = nullptr;
};

void addTo(CLI::App& app, CreateOptions& options);
// `words`: the image, then the command.
Result<json::object> createBody(const CreateOptions& options, const std::vector<std::string>& words);

}  // namespace dhow::cli::docker
