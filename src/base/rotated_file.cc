#include "rotated_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>

#include "files.h"
#include "strings.h"

namespace dhow {

Result<> RotatedFile::rotate() {
  file_.reset();
  size_ = 0;
  for (int i = options_.maxFiles - 1; i > 0; --i) {
    const std::string from = i == 1 ? options_.path : fmt::format("{}.{}", options_.path, i - 1);
    if (::rename(from.c_str(), fmt::format("{}.{}", options_.path, i).c_str()) != 0 && errno != ENOENT)
      return Error::fromErrno("rotate " + from);
  }
  return {};
}

Result<> RotatedFile::append(std::string_view lines) {
  struct stat info{};
  // What an earlier process has left counts too.
  if (!file_ && ::stat(options_.path.c_str(), &info) == 0) size_ = static_cast<size_t>(info.st_size);
  if (size_ > 0 && size_ + lines.size() > options_.maxSize) RETURN_IF_ERROR(rotate());
  if (!file_) {
    const size_t slash = options_.path.rfind('/');
    if (slash != std::string::npos) RETURN_IF_ERROR(makeDirs(options_.path.substr(0, slash), 0700));
    file_ = UniqueFd(::open(options_.path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
    if (!file_) return Error::fromErrno("open " + options_.path);
  }
  size_ += lines.size();
  return writeAll(file_.get(), lines, options_.path);
}

}  // namespace dhow
