#include "apiserver/audit.h"

#include "base/log.h"

namespace dhow::apiserver {

Audit::Audit(Loop& loop, BlockingPool& pool, AuditOptions options)
    : loop_(loop),
      pool_(pool),
      maxQueued_(options.maxQueued),
      file_({options.path, options.maxSize, options.maxFiles}),
      gate_(loop) {}
Audit::~Audit() = default;

void Audit::add(std::string line) {
  if (stopped_) return;
  if (queued_.size() + line.size() > maxQueued_) {
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
    auto done = co_await self->pool_.run(self->loop_, [self, &lines] { return self->file_.append(lines); });
    if (!done.ok()) log::error("audit", "requests are missing in the audit log: {}", done.error().message());
  }
  self->writing_ = false;
}

Task<> Audit::stop() {
  stopped_ = true;
  co_await gate_.close();
}

}  // namespace dhow::apiserver
