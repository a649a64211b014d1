// The masters as the API names them, for a node that follows them (options.h). Kept on disk, so that a node that starts
// while the master that it joined is gone finds the others.
#pragma once

#include <string>
#include <vector>

#include "json.h"

namespace dhow::node {

// "https://10.0.0.1:6443" of each address in the EndpointSlice default/kubernetes, in order; empty when it is another
// slice, or names none.
std::vector<std::string> mastersOf(const Object& slice);

// One a line.
std::vector<std::string> loadMasters(const std::string& file);
Result<> saveMasters(const std::string& file, const std::vector<std::string>& masters);

// `first`, then those of `others` that are not among them.
std::vector<std::string> merged(std::vector<std::string> first, const std::vector<std::string>& others);

}  // namespace dhow::node
