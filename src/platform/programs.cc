#include "platform/programs.h"

#include <unistd.h>

#include "base/files.h"

namespace dhow::platform {

Result<Programs> Programs::ofThisProcess() {
  char path[4096];
  ssize_t n = ::readlink("/proc/self/exe", path, sizeof path);
  if (n <= 0) return Error::fromErrno("find this program");
  Programs programs;
  programs.dhow.assign(path, static_cast<size_t>(n));
  programs.shim = programs.folder() + "/dhow-shim";
  if (!pathExists(programs.shim)) return Error(Code::kNotFound, programs.shim + " is missing; it belongs beside dhow");
  return programs;
}

}  // namespace dhow::platform
