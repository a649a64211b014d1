// Folders into tar: from files of this machine (assemble), and from a container's writable layer with overlay's marks
// turned back into whiteouts (commit). Blocks.
#pragma once

#include "image/store.h"
#include "tar.h"

namespace dhow::image {

// Adds what lies at `path` as `name` (relative, no trailing slash), and below it.
struct PackOptions {
  bool overlay = false;                                // whiteouts are translated back
  std::optional<std::pair<unsigned, unsigned>> owner;  // instead of the file's own
  int mode = -1;                                       // of files that are not folders
};
class Packer {
 public:
  explicit Packer(TarWriter& tar) : tar_(tar) {}
  Result<> add(const std::string& path, const std::string& name, const PackOptions& options);
  // Folders above `name` that nothing has added yet, mode 0755.
  Result<> addParents(const std::string& name);

 private:
  Result<> addOne(const std::string& path, const std::string& name, const PackOptions& options, int depth);
  TarWriter& tar_;
  std::set<std::string> folders_;
  std::map<std::pair<dev_t, ino_t>, std::string> links_;
};

}  // namespace dhow::image
