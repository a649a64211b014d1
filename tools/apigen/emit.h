#pragma once

#include <map>
#include <string>

#include "model.h"

namespace dhow::apigen {

// File name (relative to the include folder) to content.
std::map<std::string, std::string> emitViews(const Model& model);
std::string emitSchema(const Model& model);

}  // namespace dhow::apigen
