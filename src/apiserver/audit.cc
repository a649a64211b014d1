#include "apiserver/audit.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>

#include "base/files.h"
#include "base/log.h"

namespace dhow::apiserver {

Audit::Audit(Loop& loop, BlockingPool& pool, AuditOptions options)
    : loop_(loop), pool_(pool), options_(std::move(options)), gate_(loop) {}
Audit::~Audit() = default;

void Audit::add(std::string line) {
  if (stopped_) return;
  if (queued_.size() + line.size() > options_.maxQueued) {
    if (dropped_++ == 0) log::error("audit", "the disk does not keep up with the audit log: requests are left out");
    return;
  }
  if (dropped_ > 0) {
    log::error("audit", "{} requests are missing in the audit log", dropped_);
    dropped_ = 0;
  }
  queued_.append(line).push_back('\n');
  if (writing_) return;
  writing_ = true;
  gate_.spawn(write(this));
}

Task<> Audit::write(Audit* self) {
  while (!self->queued_.empty()) {
    std::string lines = std::exchange(self->queued_, {});
    auto done = co_await self->pool_.run(self->loop_, [self, &lines] { return self->append(lines); });
    if (!done.ok()) log::error("audit", "requests are missing in the audit log: {}", done.error().message());
  }
  self->writing_ = false;
}

Task<> Audit::stop() {
  stopped_ = true;
  co_await gate_.close();
}

Result<> Audit::rotate() {
  file_ = UniqueFd();
  size_ = 0;
  for (int i = options_.maxFiles - 1; i > 0; --i) {
    auto from = i == 1 ? options_.path : fmt::format("{}.{}", options_.path, i - 1);
    if (::rename(from.c_str(), fmt::format("{}.{}", options_.path, i).c_str()) != 0 && errno != ENOENT)
      return Error::fromErrno("rotate " + from);
  }
  return {};
}

Result<> Audit::append(std::string_view lines) {
  struct stat info{};
  // What an earlier process has left counts too.
  if (!file_ && ::stat(options_.path.c_str(), &info) == 0) size_ = static_cast<size_t>(info.st_size);
  if (size_ > 0 && size_ + lines.size() > options_.maxSize) RETURN_IF_ERROR(rotate());
  if (!file_) {
    auto slash = options_.path.rfind('/');
    if (slash != std::string::npos) RETURN_IF_ERROR(makeDirs(options_.path.substr(0, slash), 0700));
    file_ = UniqueFd(::open(options_.path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
    if (!file_) return Error::fromErrno("open " + options_.path);
  }
  size_ += lines.size();
  return writeAll(file_.get(), lines, options_.path);
}

}  // namespace dhow::apiserver
