// From a container to what the runtime runs.
#pragma once

#include "container.h"
#include "image/store.h"
#include "runtime/runtime.h"

namespace dhow::engine {

runtime::Resources resourcesOf(const boost::json::object& hostConfig);

struct LaunchPaths {
  std::string folder;  // hosts, hostname, resolv.conf
  std::string log;
};

// Blocks: reads the image's users, writes the container's own files under /etc.
Result<runtime::ContainerSpec> containerSpec(const Container& container, const image::Snapshot& snapshot,
                                             const LaunchPaths& paths);
runtime::SandboxSpec sandboxSpec(const Container& container);
// A process that `docker exec` asks for, in a container.
Result<runtime::ProcessSpec> execSpec(const Container& container, const image::Snapshot& snapshot,
                                      const boost::json::object& exec);

// "SIGTERM", "TERM", "15". 0 when it is none.
int signalOf(std::string_view name);

}  // namespace dhow::engine
