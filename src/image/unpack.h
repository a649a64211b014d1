// A layer's tar into a folder, in overlay's form: whiteouts become character devices 0/0, opaque folders carry
// trusted.overlay.opaque. Nothing is written outside the folder, whatever the archive says: every path is resolved by
// the kernel inside it (openat2 RESOLVE_IN_ROOT). Blocks. Needs root for owners, devices and whiteouts.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "byte_source.h"

namespace dhow::image {

struct Unpacked {
  uint64_t size = 0;  // bytes of all files
  uint64_t entries = 0;
  std::vector<std::string>
      implicitFolders;  // made only because something lies in them; relative, sorted; "" is the root
};

enum class UnpackForm {
  kOverlayLayer,  // whiteouts are translated
  kPlain,         // names are taken as they are (docker cp, import)
};

// `tar` is the decompressed archive. The folder must exist and be empty.
Result<Unpacked> unpackTar(ByteSource& tar, const std::string& folder, UnpackForm form = UnpackForm::kOverlayLayer);

}  // namespace dhow::image
