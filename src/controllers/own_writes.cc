#include "own_writes.h"

#include "base/strings.h"

namespace dhow::controllers {

namespace {

constexpr Duration kPatience = std::chrono::seconds(5);

int64_t versionOf(const Object& object) {
  return parseInt(client::text(object.metadata(), "resourceVersion")).value_or(0);
}

// The API answered, so nothing was written.
bool refused(Code code) {
  switch (code) {
    case Code::kUnknown:
    case Code::kCancelled:
    case Code::kInternal:
    case Code::kUnavailable:
    case Code::kDeadlineExceeded:
    case Code::kDataLoss: return false;
    default: return true;
  }
}

std::pair<std::string, std::string> keyOf(const Object& object) {
  return {std::string(object.ns()), std::string(object.name())};
}

}  // namespace

void OwnWrites::wrote(const std::string& owner, const ObjectPtr& object) {
  Write write{.uid = std::string(object->uid()), .version = versionOf(*object), .since = context_.loop.now()};
  const auto key = keyOf(*object);
  if (!shows(key, write)) pending_[owner].insert_or_assign(key, std::move(write));
}

void OwnWrites::deleted(const std::string& owner, const ObjectPtr& object) {
  Write write{.uid = std::string(object->uid()), .deletion = true, .since = context_.loop.now()};
  const auto key = keyOf(*object);
  if (!shows(key, write)) pending_[owner].insert_or_assign(key, std::move(write));
}

void OwnWrites::failed(const std::string& owner, std::string_view ns, std::string_view name, const Error& error) {
  if (refused(error.code())) return;
  Write write{.doubt = true, .since = context_.loop.now()};
  pending_[owner].insert_or_assign({std::string(ns), std::string(name)}, std::move(write));
}

bool OwnWrites::shows(const std::pair<std::string, std::string>& key, const Write& write) const {
  ObjectPtr there = cache_.get(key.first, key.second);
  const bool same = there && there->uid() == write.uid;
  if (write.deletion) return !same || there->deleting();
  return same && versionOf(*there) >= write.version;
}

Task<Result<bool>> OwnWrites::seen(std::string owner) {
  auto found = pending_.find(owner);
  if (found == pending_.end()) co_return true;
  // Only this call takes away entries of this owner: one key is never worked on twice at once.
  const Writes writes = found->second;
  Writes left;
  for (const auto& [key, known] : writes) {
    Write write = known;
    if (!write.doubt && shows(key, write)) continue;
    if (write.doubt || (context_.loop.now() - write.since >= kPatience && !cache_.get(key.first, key.second))) {
      Result<ObjectPtr> there = co_await context_.client.get(resource_, key.first, key.second);
      if (!there.ok() && !there.error().is(Code::kNotFound)) co_return std::move(there).error();
      ObjectPtr cached = cache_.get(key.first, key.second);
      if (!there.ok()) {
        // Never written, or gone: the cache must not show it any longer either.
        if (!cached || cached->deleting()) continue;
        write = {.uid = std::string(cached->uid()), .deletion = true, .since = write.since};
      } else {
        write = {.uid = std::string((*there)->uid()), .version = versionOf(**there), .since = context_.loop.now()};
        if (shows(key, write)) continue;
      }
    }
    left.emplace(key, std::move(write));
  }
  if (left.empty()) {
    pending_.erase(owner);
    co_return true;
  }
  pending_[owner] = std::move(left);
  co_return false;
}

}  // namespace dhow::controllers
