// The programs that the machines of a cluster run: dhow itself and dhow-shim beside it.
#pragma once

#include <string>

#include "base/result.h"

namespace dhow::platform {

struct Programs {
  std::string dhow;
  std::string shim;

  std::string folder() const { return dhow.substr(0, dhow.rfind('/')); }
  // kNotFound when one is missing.
  static Result<Programs> ofThisProcess();
};

}  // namespace dhow::platform
