// What a controller did and has not yet seen in its cache. While anything is expected the cache is known to be stale,
// so that it must not decide how many to create or delete. An expectation that stays unmet for five minutes is given
// up, as a missed event must not stop a controller for good.
#pragma once

#include <set>
#include <string>
#include <unordered_map>

#include "base/loop.h"

namespace dhow::controllers {

class Expectations {
 public:
  explicit Expectations(Loop& loop) : loop_(loop) {}

  void expectCreations(const std::string& owner, size_t count);
  void creationObserved(const std::string& owner);
  void expectDeletion(const std::string& owner, std::string uid);
  void deletionObserved(const std::string& owner, const std::string& uid);
  bool satisfied(const std::string& owner);
  void forget(const std::string& owner) { pending_.erase(owner); }

 private:
  struct Pending {
    size_t creations = 0;
    std::set<std::string> deletions;
    TimePoint since{};
  };
  Loop& loop_;
  std::unordered_map<std::string, Pending> pending_;
};

}  // namespace dhow::controllers
