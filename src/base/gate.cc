#include "base/gate.h"

#include <boost/asio/async_result.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <utility>

namespace dhow {

namespace asio = boost::asio;

// A waiter is woken once, by whoever comes first: a notify, its time limit, or the end of the signal.
struct Signal::Waiter {
  std::function<void(bool)> wake;
  Timer limit;
};

namespace {
// Resumes later from the loop, never inside notify(): the notifier's state is whole by then.
template <class Waiter>
void wakeLater(Loop& loop, const std::shared_ptr<Waiter>& waiter, bool notified) {
  auto wake = std::exchange(waiter->wake, nullptr);
  waiter->limit.cancel();
  if (wake) loop.post([wake = std::move(wake), notified] { wake(notified); });
}
}  // namespace

Signal::~Signal() {
  notify();
}

void Signal::notify() {
  auto waiters = std::exchange(waiters_, {});
  for (auto& waiter : waiters) wakeLater(*loop_, waiter, true);
}

Task<> Signal::wait() {
  auto start = [this](auto handler) {
    auto shared = std::make_shared<decltype(handler)>(std::move(handler));
    auto waiter = std::make_shared<Waiter>();
    waiter->wake = [shared](bool) { std::move (*shared)(); };
    waiters_.push_back(std::move(waiter));
  };
  co_await asio::async_initiate<const asio::use_awaitable_t<>&, void()>(std::move(start), asio::use_awaitable);
}

Task<bool> Signal::waitFor(Duration limit) {
  bool notified = false;
  auto start = [this, limit, &notified](auto handler) {
    auto shared = std::make_shared<decltype(handler)>(std::move(handler));
    auto waiter = std::make_shared<Waiter>();
    waiter->wake = [shared, &notified](bool value) {
      notified = value;
      std::move (*shared)();
    };
    waiter->limit = loop_->after(limit, [this, weak = std::weak_ptr(waiter)] {
      auto late = weak.lock();
      if (!late || !late->wake) return;
      std::erase(waiters_, late);
      wakeLater(*loop_, late, false);
    });
    waiters_.push_back(std::move(waiter));
  };
  co_await asio::async_initiate<const asio::use_awaitable_t<>&, void()>(std::move(start), asio::use_awaitable);
  co_return notified;
}

Gate::~Gate() {
  CHECK(inside_ == 0, "a gate is destroyed with {} tasks inside", inside_);
}

void Gate::spawn(Task<> task) {
  if (closed_) return;
  ++inside_;
  dhow::spawn(loop_, enter(this, std::move(task)));
}

Task<> Gate::enter(Gate* gate, Task<> task) {
  co_await std::move(task);
  if (--gate->inside_ == 0) gate->empty_.notify();
}

Task<> Gate::close() {
  closed_ = true;
  while (inside_ > 0) co_await empty_.wait();
}

}  // namespace dhow
