// One writer at a time for each key: those who change the same object take turns in place of losing to each other.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <string>

#include "base/gate.h"

namespace dhow {

class KeyLocks {
 public:
  explicit KeyLocks(Loop& loop) : loop_(loop) {}

  class Held {
   public:
    Held(KeyLocks* locks, std::string key) : locks_(locks), key_(std::move(key)) {}
    Held(Held&& other) noexcept : locks_(std::exchange(other.locks_, nullptr)), key_(std::move(other.key_)) {}
    Held& operator=(Held&&) = delete;
    ~Held() {
      if (locks_) locks_->release(key_);
    }

   private:
    KeyLocks* locks_;
    std::string key_;
  };

  // First come, first served.
  Task<Held> acquire(std::string key) {
    auto [at, fresh] = entries_.try_emplace(key);
    if (!fresh) {
      auto turn = std::make_shared<Turn>(loop_);
      at->second.waiting.push_back(turn);
      while (!turn->mine) co_await turn->signal.wait();
    }
    co_return Held(this, std::move(key));
  }

 private:
  struct Turn {
    explicit Turn(Loop& loop) : signal(loop) {}
    Signal signal;
    bool mine = false;
  };
  struct Entry {
    std::deque<std::shared_ptr<Turn>> waiting;
  };
  void release(const std::string& key) {
    auto found = entries_.find(key);
    if (found->second.waiting.empty()) {
      entries_.erase(found);
      return;
    }
    auto next = std::move(found->second.waiting.front());
    found->second.waiting.pop_front();
    next->mine = true;
    next->signal.notify();
  }

  Loop& loop_;
  std::map<std::string, Entry> entries_;
};

}  // namespace dhow
