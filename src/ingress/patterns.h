// Regular expressions that people write. Private to this folder.
#pragma once

#include <string>

namespace dhow::ingress {

// Whether HAProxy will most likely take it. What it refuses all the same is left out when it does (accepted_config.h).
bool isPattern(const std::string& pattern);

}  // namespace dhow::ingress
