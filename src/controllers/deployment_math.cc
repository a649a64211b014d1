#include <boost/json/serialize.hpp>

#include "base/strings.h"
#include "deployment.h"
#include "object/quantity.h"

namespace dhow::controllers {

using client::field;
using client::number;
using client::text;

int64_t replicasOf(const Object& object) {
  return std::max<int64_t>(number(object.root(), {"spec", "replicas"}, 1), 0);
}

int64_t statusOf(const Object& object, std::string_view name) {
  return number(object.root(), {"status", name}, 0);
}

int64_t sumReplicas(const std::vector<ObjectPtr>& sets) {
  int64_t sum = 0;
  for (const ObjectPtr& set : sets) sum += replicasOf(*set);
  return sum;
}

int64_t sumStatus(const std::vector<ObjectPtr>& sets, std::string_view name) {
  int64_t sum = 0;
  for (const ObjectPtr& set : sets) sum += statusOf(*set, name);
  return sum;
}

bool observed(const Object& set) {
  return number(set.root(), {"metadata", "generation"}, 0) <= statusOf(set, "observedGeneration");
}

bool observed(const std::vector<ObjectPtr>& sets) {
  return std::all_of(sets.begin(), sets.end(), [](const ObjectPtr& set) { return observed(*set); });
}

int64_t sumPods(const std::vector<ObjectPtr>& sets) {
  int64_t sum = 0;
  for (const ObjectPtr& set : sets) sum += std::max(replicasOf(*set), statusOf(*set, "replicas"));
  return sum;
}

int64_t availableOf(const Object& set) {
  return std::min(replicasOf(set), statusOf(set, "availableReplicas"));
}

int64_t sumAvailable(const std::vector<ObjectPtr>& sets) {
  int64_t sum = 0;
  for (const ObjectPtr& set : sets) sum += availableOf(*set);
  return sum;
}

bool isRolling(const Object& deployment) {
  return text(deployment.root(), {"spec", "strategy", "type"}) != "Recreate";
}

namespace {

int64_t limitOf(const Object& deployment, std::string_view name, bool roundUp) {
  const json::value* value = field(deployment.root(), {"spec", "strategy", "rollingUpdate", name});
  const object::IntOrString limit(value);
  static const json::value kDefault("25%");
  const auto scaled =
      (limit.present() ? limit : object::IntOrString(&kDefault)).scaled(replicasOf(deployment), roundUp);
  return scaled.ok() ? std::max<int64_t>(*scaled, 0) : 0;
}

}  // namespace

int64_t maxSurge(const Object& deployment) {
  return isRolling(deployment) ? limitOf(deployment, "maxSurge", true) : 0;
}

int64_t maxUnavailable(const Object& deployment) {
  if (!isRolling(deployment) || replicasOf(deployment) == 0) return 0;
  const int64_t limit = limitOf(deployment, "maxUnavailable", false);
  // Both zero, by rounding down, would leave no way to go on.
  if (limit == 0 && maxSurge(deployment) == 0) return 1;
  return std::min(limit, replicasOf(deployment));
}

int64_t revisionOf(const Object& object) {
  return parseInt(object.annotation(kRevision)).value_or(0);
}

namespace {
json::object bareTemplate(const Object& object) {
  json::object out = client::object(object.root(), {"spec", "template"});
  if (json::value* metadata = out.if_contains("metadata"); metadata != nullptr && metadata->is_object()) {
    metadata->get_object().erase("creationTimestamp");
    if (json::value* labels = metadata->get_object().if_contains("labels"); labels != nullptr && labels->is_object()) {
      labels->get_object().erase(kTemplateHash);
      if (labels->get_object().empty()) metadata->get_object().erase("labels");
    }
    if (metadata->get_object().empty()) out.erase("metadata");
  }
  return out;
}

// The same for equal values, whatever the order of their members.
void canonical(const json::value& value, std::string& out) {
  if (const json::object* object = value.if_object()) {
    std::vector<const json::key_value_pair*> members;
    for (const json::key_value_pair& member : *object) members.push_back(&member);
    std::sort(members.begin(), members.end(), [](auto* a, auto* b) { return a->key() < b->key(); });
    out += '{';
    for (const auto* member : members) {
      out += json::serialize(json::value(member->key()));
      out += ':';
      canonical(member->value(), out);
      out += ',';
    }
    out += '}';
  } else if (const json::array* array = value.if_array()) {
    out += '[';
    for (const json::value& entry : *array) {
      canonical(entry, out);
      out += ',';
    }
    out += ']';
  } else {
    out += json::serialize(value);
  }
}
}  // namespace

bool sameTemplate(const Object& deployment, const Object& set) {
  return bareTemplate(deployment) == bareTemplate(set);
}

std::string templateHash(const Object& deployment, int64_t collisions) {
  std::string text;
  canonical(bareTemplate(deployment), text);
  if (collisions > 0) text += std::to_string(collisions);
  uint32_t hash = 2166136261u;  // FNV-1a
  for (unsigned char c : text) hash = (hash ^ c) * 16777619u;
  static constexpr std::string_view kLetters = "bcdfghjklmnpqrstvwxz2456789";
  std::string out;
  for (char digit : std::to_string(hash)) out += kLetters[static_cast<size_t>(digit) % kLetters.size()];
  return out;
}

int64_t currentTarget(const Object& deployment, const std::vector<ObjectPtr>& all, const Object* current) {
  const int64_t wanted = replicasOf(deployment);
  if (!isRolling(deployment)) return wanted;
  const int64_t now = current != nullptr ? replicasOf(*current) : 0;
  // Pods that another set has not deleted yet count, too, and what it has not heard of cannot be counted on.
  const int64_t room = wanted + maxSurge(deployment) - sumPods(all);
  if (room <= 0 || !observed(all)) return now;
  return now + std::min(room, std::max<int64_t>(wanted - now, 0));
}

bool complete(const Object& deployment, const json::object& status) {
  const int64_t wanted = replicasOf(deployment);
  return number(status, {"updatedReplicas"}, 0) == wanted && number(status, {"replicas"}, 0) == wanted &&
         number(status, {"availableReplicas"}, 0) == wanted &&
         number(status, {"observedGeneration"}, 0) >= number(deployment.root(), {"metadata", "generation"}, 0);
}

bool inheritAnnotations(const Object& deployment, json::object& annotations) {
  bool changed = false;
  for (const auto& [key, value] : client::object(deployment.metadata(), {"annotations"})) {
    const std::string_view name = key;
    if (name == "kubectl.kubernetes.io/last-applied-configuration" || name == kRevision || name == kRevisionHistory ||
        name == kDesiredReplicas || name == kMaxReplicas || name == "deprecated.deployment.rollback.to") {
      continue;
    }
    json::value& own = annotations[name];
    if (own == value) continue;
    own = value;
    changed = true;
  }
  return changed;
}

void sortByCreation(std::vector<ObjectPtr>& sets) {
  std::sort(sets.begin(), sets.end(), [](const ObjectPtr& a, const ObjectPtr& b) {
    const auto left = text(a->metadata(), "creationTimestamp");
    const auto right = text(b->metadata(), "creationTimestamp");
    return left != right ? left < right : a->name() < b->name();
  });
}

}  // namespace dhow::controllers
