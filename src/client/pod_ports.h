// The ports that a pod's containers offer, as a name for one is looked up: containers first, then init containers that
// run beside them (sidecars, KEP-753); those that end before have none to offer.
#pragma once

#include <string>
#include <vector>

#include "client/client.h"

namespace dhow::client {

struct PodPort {
  std::string name;  // may be empty
  std::string protocol = "TCP";
  uint16_t number = 0;
};
std::vector<PodPort> podPorts(const Object& pod);

}  // namespace dhow::client
