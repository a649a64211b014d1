// Capabilities by name.
#pragma once

#include <cstdint>
#include <string_view>

#include "base/result.h"
#include "runtime/spec.h"

namespace dhow::runtime {

// Bit of "CAP_NET_ADMIN" or "net_admin". An unknown name is kInvalid.
Result<uint64_t> capabilityBit(std::string_view name);
// The set that a process is to have: Docker's 14 with capAdd and capDrop, or its own list, or all.
Result<uint64_t> capabilitiesOf(const ProcessSpec& process);
// What this program may hand on itself.
uint64_t permittedCapabilities();

}  // namespace dhow::runtime
