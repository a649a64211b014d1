// From what a client asks for at create to a container: defaults, the image's own configuration, mounts, checks in
// Docker's words.
#pragma once

#include "container.h"
#include "image/store.h"
#include "volumes.h"

namespace dhow::engine {

// Fills config, hostConfig and mounts of `container`; makes the volumes that it names. kBadRequest with Docker's text.
Result<> configure(Container& container, const boost::json::object& body, const image::Image& image,
                   const image::Snapshot& snapshot, Volumes& volumes, std::vector<std::string>& warnings);

// Checks limits and restart policy of a container's HostConfig.
Result<> checkLimits(const boost::json::object& host, std::vector<std::string>& warnings);

// Docker's random names: an adjective and a seafarer.
std::string randomName(uint64_t random);
bool validContainerName(std::string_view name);

// "8080:80/tcp" and the like, as PortBindings and ExposedPorts say them; hostPort 0 where the engine chooses.
Result<std::vector<PublishedPort>> wantedPorts(const Container& container);

}  // namespace dhow::engine
