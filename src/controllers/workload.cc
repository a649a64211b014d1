#include "workload.h"

#include "base/gate.h"
#include "base/time.h"

namespace dhow::controllers {

using client::array;
using client::condition;
using client::number;
using client::text;

void indexByOwner(client::Cache& cache) {
  cache.addIndex(kByOwner, [](const ObjectPtr& object, std::vector<std::string>& keys) {
    const std::string_view uid = client::controllerUid(*object);
    if (!uid.empty()) keys.emplace_back(uid);
  });
  cache.addIndex(kOrphans, [](const ObjectPtr& object, std::vector<std::string>& keys) {
    if (client::controllerOf(*object) == nullptr) keys.emplace_back(object->ns());
  });
}

bool podFinished(const Object& pod) {
  const std::string_view phase = text(pod.root(), {"status", "phase"});
  return phase == "Succeeded" || phase == "Failed";
}

bool podActive(const Object& pod) {
  return !pod.deleting() && !podFinished(pod);
}

bool podReady(const Object& pod) {
  return client::conditionTrue(pod.root(), "Ready");
}

bool podAvailable(const Object& pod, int64_t minReadySeconds, WallTime now) {
  const json::object* ready = condition(pod.root(), "Ready");
  if (ready == nullptr || text(*ready, "status") != "True") return false;
  if (minReadySeconds <= 0) return true;
  const auto since = client::time(*ready, {"lastTransitionTime"});
  return since && *since + std::chrono::seconds(minReadySeconds) <= now;
}

object::LabelSelector selectorOf(const Object& owner) {
  auto selector = object::LabelSelector::fromDocument(client::field(owner.root(), {"spec", "selector"}));
  return selector.ok() ? std::move(*selector) : object::LabelSelector::nothing();
}

std::string nameSuffix(uint64_t random, size_t length) {
  // Without vowels and look-alikes, so that no suffix reads as a word.
  static constexpr std::string_view kLetters = "bcdfghjklmnpqrstvwxz2456789";
  std::string out;
  for (size_t i = 0; i < length; ++i) {
    out += kLetters[random % kLetters.size()];
    random /= kLetters.size();
  }
  return out;
}

bool setCondition(json::object& status, std::string_view type, std::string_view value, std::string_view reason,
                  std::string_view message, WallTime now) {
  json::array& conditions = client::arrayAt(status, "conditions");
  const std::string time = formatTime(now);
  for (json::value& entry : conditions) {
    if (!entry.is_object() || text(entry.get_object(), "type") != type) continue;
    json::object& found = entry.get_object();
    if (text(found, "status") == value && text(found, "reason") == reason && text(found, "message") == message)
      return false;
    if (text(found, "status") != value) found["lastTransitionTime"] = time;
    found["status"] = value;
    found["reason"] = reason;
    found["message"] = message;
    return true;
  }
  conditions.push_back(json::object{
      {"type", type}, {"status", value}, {"lastTransitionTime", time}, {"reason", reason}, {"message", message}});
  return true;
}

bool removeCondition(json::object& status, std::string_view type) {
  json::value* conditions = status.if_contains("conditions");
  if (conditions == nullptr || !conditions->is_array()) return false;
  json::array& all = conditions->get_array();
  for (auto entry = all.begin(); entry != all.end(); ++entry) {
    if (entry->is_object() && text(entry->get_object(), "type") == type) {
      all.erase(entry);
      return true;
    }
  }
  return false;
}

namespace {

Task<Result<ObjectPtr>> setOwners(Context context, client::Resource resource, ObjectPtr object, json::array owners) {
  json::object change{{"metadata", {{"ownerReferences", std::move(owners)}}}};
  Result<ObjectPtr> patched =
      co_await context.client.patch(resource, std::string(object->ns()), std::string(object->name()), "",
                                    client::PatchType::kMerge, client::guardedPatch(*object, std::move(change)));
  co_return patched;
}

}  // namespace

Task<Result<std::vector<ObjectPtr>>> claim(Context context, client::Resource resource, client::Resource ownerResource,
                                           ObjectPtr owner, object::LabelSelector selector,
                                           std::vector<ObjectPtr> candidates) {
  std::vector<ObjectPtr> claimed;
  bool asked = false;
  for (const ObjectPtr& candidate : candidates) {
    const json::object* controller = client::controllerOf(*candidate);
    if (controller != nullptr && text(*controller, "uid") != owner->uid()) continue;
    const bool matches = selector.matches(*candidate);
    if (controller != nullptr) {
      if (matches) {
        claimed.push_back(candidate);
        continue;
      }
      if (owner->deleting() || candidate->deleting()) continue;
      json::array others;
      for (const json::value& entry : array(candidate->metadata(), {"ownerReferences"})) {
        if (!entry.is_object() || text(entry.get_object(), "uid") != owner->uid()) others.push_back(entry);
      }
      Result<ObjectPtr> released = co_await setOwners(context, resource, candidate, std::move(others));
      // Gone already is as good as released.
      if (!released.ok() && !released.error().is(Code::kNotFound)) co_return std::move(released).error();
      continue;
    }
    if (!matches || owner->deleting() || candidate->deleting()) continue;
    if (!asked) {
      Result<ObjectPtr> fresh =
          co_await context.client.get(ownerResource, std::string(owner->ns()), std::string(owner->name()));
      if (!fresh.ok()) co_return std::move(fresh).error();
      if ((*fresh)->uid() != owner->uid() || (*fresh)->deleting()) {
        co_return Error(Code::kConflict, fmt::format("{} is being deleted and adopts nothing", owner->key()));
      }
      asked = true;
    }
    json::array owners = array(candidate->metadata(), {"ownerReferences"});
    owners.push_back(client::controllerReference(*owner));
    Result<ObjectPtr> adopted = co_await setOwners(context, resource, candidate, std::move(owners));
    if (adopted.ok()) {
      claimed.push_back(*adopted);
    } else if (!adopted.error().is(Code::kNotFound)) {
      co_return std::move(adopted).error();
    }
  }
  co_return claimed;
}

namespace {

struct Joint {
  explicit Joint(Loop& loop) : done(loop) {}
  std::vector<std::optional<Result<>>> results;
  size_t left = 0;
  Signal done;
};

Task<> one(std::shared_ptr<Joint> joint, size_t place, Task<Result<>> task) {
  Result<> result = co_await std::move(task);
  joint->results[place] = std::move(result);
  if (--joint->left == 0) joint->done.notify();
}

}  // namespace

Task<std::vector<Result<>>> together(Loop& loop, std::vector<Task<Result<>>> tasks) {
  auto joint = std::make_shared<Joint>(loop);
  joint->results.resize(tasks.size());
  joint->left = tasks.size();
  // Waited for below, so that they never outlive the caller.
  for (size_t i = 0; i < tasks.size(); ++i) spawn(loop, one(joint, i, std::move(tasks[i])));
  while (joint->left > 0) co_await joint->done.wait();
  std::vector<Result<>> out;
  for (auto& result : joint->results) out.push_back(std::move(*result));
  co_return out;
}

}  // namespace dhow::controllers
