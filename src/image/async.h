// A counted permit among tasks of one loop, for limits and for critical sections.
#pragma once

#include "base/gate.h"

namespace dhow::image {

class Permits {
 public:
  Permits(Loop& loop, size_t count) : free_(count), released_(loop) {}

  class Held {
   public:
    Held() = default;
    explicit Held(Permits* owner) : owner_(owner) {}
    Held(Held&& other) noexcept : owner_(std::exchange(other.owner_, nullptr)) {}
    Held& operator=(Held&& other) noexcept {
      release();
      owner_ = std::exchange(other.owner_, nullptr);
      return *this;
    }
    ~Held() { release(); }
    void release() {
      if (!owner_) return;
      ++owner_->free_;
      owner_->released_.notify();
      owner_ = nullptr;
    }

   private:
    Permits* owner_ = nullptr;
  };

  bool available() const { return free_ > 0; }
  Task<Held> take() {
    while (free_ == 0) co_await released_.wait();
    --free_;
    co_return Held(this);
  }

 private:
  size_t free_;
  Signal released_;
};

}  // namespace dhow::image
