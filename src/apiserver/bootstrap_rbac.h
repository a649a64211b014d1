// bootstrap_rbac.yaml, compiled in.
#pragma once

#include <string_view>

namespace dhow::apiserver {
extern const std::string_view kBootstrapRbac;
}
