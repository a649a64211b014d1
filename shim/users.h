// The sandbox's user namespace.
#pragma once

#include "steps.h"

// Makes it, or maps the one at `path` that has no map yet; context.userNs holds it from then on. The namespaces that it
// shall own are made inside it and joined by the caller, who stays where he is himself.
long makeUserNamespace(const char* path, const dhow::runtime::wire::Step& step, StepContext& context);
// Files are made as `id`, user and group; no capability is lost by it.
long setFileIds(uint64_t id);
// For good. Standard streams become those of the root inside.
long enterUsers(const dhow::runtime::wire::Step& step, const StepContext& context);
