#include "expectations.h"

namespace dhow::controllers {

void Expectations::expectCreations(const std::string& owner, size_t count) {
  Pending& pending = pending_[owner];
  pending.creations += count;
  pending.since = loop_.now();
}

void Expectations::creationObserved(const std::string& owner) {
  auto found = pending_.find(owner);
  if (found == pending_.end()) return;
  if (found->second.creations > 0) --found->second.creations;
}

void Expectations::expectDeletion(const std::string& owner, std::string uid) {
  Pending& pending = pending_[owner];
  pending.deletions.insert(std::move(uid));
  pending.since = loop_.now();
}

void Expectations::deletionObserved(const std::string& owner, const std::string& uid) {
  auto found = pending_.find(owner);
  if (found != pending_.end()) found->second.deletions.erase(uid);
}

bool Expectations::satisfied(const std::string& owner) {
  auto found = pending_.find(owner);
  if (found == pending_.end()) return true;
  const Pending& pending = found->second;
  const bool met = pending.creations == 0 && pending.deletions.empty();
  if (!met && loop_.now() - pending.since < std::chrono::minutes(5)) return false;
  pending_.erase(found);
  return true;
}

}  // namespace dhow::controllers
