// A configuration file that HAProxy accepts. Private to this folder.
#pragma once

#include "base/result.h"
#include "render.h"

namespace dhow::ingress {

// Writes it to `path`. What HAProxy refuses is taken out of `wanted`, so that nothing that one Ingress or Gateway says
// stops the others: a section answers 503, a frontend does without the lines. Blocks.
Result<> writeAccepted(const std::string& program, const std::string& path, Config& wanted,
                       const std::map<std::string, Slots>& slots, const Layout& layout);

}  // namespace dhow::ingress
