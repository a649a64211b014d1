// A log file that is rotated by size: the older ones are <path>.1, <path>.2, ... Blocks; one thread at a time.
#pragma once

#include <string>
#include <string_view>

#include "base/fd.h"
#include "base/result.h"

namespace dhow {

struct RotatedFileOptions {
  std::string path;  // its folder is made
  size_t maxSize = 32 << 20;
  int maxFiles = 8;  // all together
};

class RotatedFile {
 public:
  explicit RotatedFile(RotatedFileOptions options) : options_(std::move(options)) {}
  // Whole lines; those of one call stay in one file.
  Result<> append(std::string_view lines);

 private:
  Result<> rotate();

  const RotatedFileOptions options_;
  size_t size_ = 0;
  UniqueFd file_;
};

}  // namespace dhow
