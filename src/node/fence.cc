#include "fence.h"

#include "base/files.h"
#include "base/log.h"
#include "base/strings.h"
#include "client/node_lease.h"

namespace dhow::node {

Fence::Fence(Loop& loop, std::string file) : loop_(loop), file_(std::move(file)) {
  auto bytes = readFile(file_, 64);
  auto ticks = bytes.ok() ? parseInt(trim(*bytes)) : std::nullopt;
  if (!ticks) return;
  const TimePoint left{Duration(*ticks)};
  if (left > loop_.now()) return;  // of another boot
  last_ = left;
  held_ = holds();
  if (held_) arm();
}

bool Fence::holds() const {
  return last_ && loop_.now() - *last_ < client::kSelfFenceAfter;
}

void Fence::renewed(TimePoint sent) {
  if (last_ && sent <= *last_) return;
  last_ = sent;
  // Not durably: a reboot ends the pods, and this with them.
  auto kept = writeFile(file_, std::to_string(sent.time_since_epoch().count()) + "\n");
  if (!kept.ok()) log::warn("node", "{}", kept.error().message());
  if (!holds()) return;  // it took too long: as good as none
  arm();
  if (std::exchange(held_, true)) return;
  if (onHeld) onHeld();
}

void Fence::arm() {
  timer_ = loop_.after(*last_ + client::kSelfFenceAfter - loop_.now(), [this] {
    if (holds()) return arm();
    held_ = false;
    log::warn("node", "no master has answered for {} s: pods with an identity end here",
              std::chrono::duration_cast<std::chrono::seconds>(client::kSelfFenceAfter).count());
    if (onLost) onLost();
  });
}

}  // namespace dhow::node
