// Services that are a name elsewhere (ExternalName), for Ingresses. The name is looked up when a request needs it, and
// its address looked at before it is connected to: it may not be the node itself, which trusts more than pods may
// reach. Private to this folder.
#pragma once

#include <string>
#include <vector>

#include "filter_lines.h"

namespace dhow::ingress {

// Of Config::files: addresses that no name may lead to.
constexpr const char* kOwnAddresses = "own_addresses";

// Adds a section's lines, and the file, to which a node adds its own addresses. `options`: of the server's line.
// `family`: "ipv4" or "ipv6", which is taken where the name has addresses of both.
void externalNameLines(std::vector<std::string>& out, const std::string& name, int64_t port, std::string_view family,
                       const std::string& options, Files& files);
// This network namespace's, where `files` has the file.
void addOwnAddresses(Files& files);

}  // namespace dhow::ingress
