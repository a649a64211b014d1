#include "edge_leave.h"

#include "base/log.h"

namespace dhow::ingress {

namespace {

constexpr Duration kRetryAfter = std::chrono::seconds(2);

}  // namespace

void EdgeLeave::become(State state) {
  state_ = state;
  if (due()) onDue();
}

void EdgeLeave::stop() {
  state_ = State::kStays;
  worker_.reset();
  retry_.cancel();
}

void EdgeLeave::set(bool leaving) {
  if (leaving == (state_ != State::kStays)) return;
  if (leaving) return become(State::kAsk);
  const bool back = left();
  stop();
  if (back) onBack();
}

Task<> EdgeLeave::step(EdgeLeave* self) {
  struct Step {
    Result<> asked;
    std::vector<UniqueFd> workers;
  };
  Haproxy* haproxy = &self->haproxy_;
  const bool first = self->state_ == State::kAsk;
  self->state_ = State::kWait;
  const Step step = co_await self->pool_.run(self->loop_, [haproxy, first] {
    Step out;
    if (first) out.asked = haproxy->endConnections();
    if (out.asked.ok()) out.workers = haproxy->replaced();
    return out;
  });
  if (self->state_ != State::kWait) co_return;
  if (!step.asked.ok()) {
    log::error("ingress", "{}", step.asked.error().message());
    self->state_ = State::kRetry;
    self->retry_ = self->loop_.after(kRetryAfter, [self] { self->become(State::kAsk); });
  } else if (step.workers.empty()) {
    co_await self->pool_.run(self->loop_, [haproxy] { haproxy->stop(); });
    // It may be wanted again meanwhile.
    const bool back = self->state_ != State::kWait;
    if (!back) self->state_ = State::kLeft;
    self->onLeft();
    if (back) self->onBack();
  } else {
    self->worker_.watch(self->loop_, step.workers.front(), [self] { self->become(State::kLook); });
  }
}

}  // namespace dhow::ingress
