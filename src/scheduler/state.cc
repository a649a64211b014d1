#include "state.h"

#include "client/fields.h"
#include "object/labels.h"
#include "object/quantity.h"

namespace dhow::scheduler {

using namespace client;

namespace {
constexpr size_t kCountsKept = 1000;
}  // namespace

bool Count::matches(const PodInfo& pod) const {
  if (pod.terminating) return false;
  for (const PodMatch& match : all) {
    if (!match.matches(pod.ns, pod.labels)) return false;
  }
  return true;
}

void State::setNode(const ObjectPtr& object) {
  const std::string name(object->name());
  auto [place, isNew] = slots_.try_emplace(name, 0);
  if (isNew) {
    if (free_.empty()) {
      place->second = nodes_.size();
      nodes_.emplace_back();
      for (auto& [key, counted] : counts_) counted.count->byNode.push_back(0);
    } else {
      place->second = free_.back();
      free_.pop_back();
    }
    reorder_ = true;
  }
  const size_t slot = place->second;
  Node& node = nodes_[slot];
  for (const auto& [image, size] : node.images) --imageSpread_[image];
  node.images.clear();
  node.node = object;
  node.name = name;
  const std::string_view zone = object->label(object::kZoneLabel);
  if (node.zone != zone) reorder_ = true;
  node.zone = zone;
  node.taints.clear();
  for (const json::value& value : array(object->root(), {"spec", "taints"})) {
    if (!value.is_object()) continue;
    const json::object& t = value.get_object();
    node.taints.push_back({std::string(text(t, "key")), std::string(text(t, "value")), std::string(text(t, "effect"))});
  }
  node.unschedulable = flag(object->root(), {"spec", "unschedulable"});
  const json::object& allocatable = client::object(object->root(), {"status", "allocatable"});
  node.allocatable = parseResources(allocatable);
  const json::value* limit = allocatable.if_contains("pods");
  node.podLimit = limit == nullptr ? 0 : dhow::object::Quantity::from(limit).value();
  for (const json::value& value : array(object->root(), {"status", "images"})) {
    if (!value.is_object()) continue;
    const int64_t size = number(value.get_object(), {"sizeBytes"}, 0);
    for (std::string& image : strings(array(value.get_object(), {"names"}))) {
      if (node.images.try_emplace(image, size).second) ++imageSpread_[image];
    }
  }
  if (!isNew) return;
  if (auto waiting = homeless_.extract(name); !waiting.empty()) {
    for (const auto& [uid, pod] : waiting.mapped()) this->place(pod, slot);
  }
}

void State::removeNode(std::string_view name) {
  auto found = slots_.find(std::string(name));
  if (found == slots_.end()) return;
  const size_t slot = found->second;
  std::vector<PodInfoPtr> pods = nodes_[slot].pods;
  for (const PodInfoPtr& pod : pods) {
    unplace(pod, slot);
    homeless_[found->first].emplace(pod->uid, pod);
  }
  for (const auto& [image, size] : nodes_[slot].images) --imageSpread_[image];
  nodes_[slot] = Node();
  free_.push_back(slot);
  slots_.erase(found);
  reorder_ = true;
}

void State::addPod(PodInfoPtr pod) {
  auto [known, isNew] = pods_.try_emplace(pod->uid, pod);
  if (!isNew) {
    const PodInfoPtr old = known->second;
    auto home = slots_.find(pod->node);
    if (home != slots_.end() && old->node == pod->node && old->terminating == pod->terminating &&
        *old->labels == *pod->labels) {
      // The usual case, a new status: nothing that is counted has changed, but for a resize.
      Node& node = nodes_[home->second];
      auto place = std::find(node.pods.begin(), node.pods.end(), old);
      if (place != node.pods.end()) {
        node.requested.add(old->requests, -1);
        node.requested.add(pod->requests);
        node.scoredCpu += pod->scoredCpu - old->scoredCpu;
        node.scoredMemory += pod->scoredMemory - old->scoredMemory;
        *place = pod;
        known->second = std::move(pod);
        return;
      }
    }
    removePod(pod->uid);
    pods_[pod->uid] = pod;
  }
  auto slot = slots_.find(pod->node);
  if (slot != slots_.end()) {
    place(pod, slot->second);
  } else {
    homeless_[pod->node].emplace(pod->uid, pod);
  }
}

void State::removePod(const std::string& uid) {
  auto known = pods_.find(uid);
  if (known == pods_.end()) return;
  PodInfoPtr pod = std::move(known->second);
  pods_.erase(known);
  auto slot = slots_.find(pod->node);
  if (slot != slots_.end()) {
    unplace(pod, slot->second);
  } else if (auto waiting = homeless_.find(pod->node); waiting != homeless_.end()) {
    waiting->second.erase(pod->uid);
    if (waiting->second.empty()) homeless_.erase(waiting);
  }
}

PodInfoPtr State::pod(const std::string& uid) const {
  auto found = pods_.find(uid);
  return found == pods_.end() ? nullptr : found->second;
}

void State::place(const PodInfoPtr& pod, size_t slot) {
  Node& node = nodes_[slot];
  node.pods.push_back(pod);
  node.requested.add(pod->requests);
  node.scoredCpu += pod->scoredCpu;
  node.scoredMemory += pod->scoredMemory;
  tally(*pod, slot, 1);
}

void State::unplace(const PodInfoPtr& pod, size_t slot) {
  Node& node = nodes_[slot];
  auto found = std::find(node.pods.begin(), node.pods.end(), pod);
  if (found == node.pods.end()) return;
  *found = node.pods.back();
  node.pods.pop_back();
  node.requested.add(pod->requests, -1);
  node.scoredCpu -= pod->scoredCpu;
  node.scoredMemory -= pod->scoredMemory;
  tally(*pod, slot, -1);
}

void State::tally(const PodInfo& pod, size_t slot, int sign) {
  for (auto& [key, counted] : counts_) {
    if (counted.count->matches(pod)) counted.count->byNode[slot] += sign;
  }
  carry(antiAffinity_, pod.antiAffinity, slot, sign);
  carry(affinity_, pod.affinity, slot, sign);
  carry(preferredAffinity_, pod.preferredAffinity, slot, sign);
  carry(preferredAntiAffinity_, pod.preferredAntiAffinity, slot, sign);
}

void State::carry(Group& group, const std::vector<AffinityTerm>& terms, size_t slot, int sign) {
  for (const AffinityTerm& term : terms) {
    auto [entry, isNew] = group.try_emplace(term.text());
    if (isNew) entry->second.term = term;
    auto& byNode = entry->second.byNode;
    if ((byNode[slot] += sign) <= 0) byNode.erase(slot);
    if (byNode.empty()) group.erase(entry);
  }
}

const std::vector<size_t>& State::order() const {
  if (!reorder_) return order_;
  std::map<std::string, std::vector<size_t>> zones;
  for (size_t slot = 0; slot < nodes_.size(); ++slot) {
    if (nodes_[slot].node) zones[nodes_[slot].zone].push_back(slot);
  }
  order_.clear();
  const size_t count = slots_.size();
  for (size_t turn = 0; order_.size() < count; ++turn) {
    for (const auto& [zone, slots] : zones) {
      if (turn < slots.size()) order_.push_back(slots[turn]);
    }
  }
  reorder_ = false;
  return order_;
}

std::optional<size_t> State::slotOf(std::string_view name) const {
  auto found = slots_.find(std::string(name));
  if (found == slots_.end()) return std::nullopt;
  return found->second;
}

const Count& State::count(const std::vector<PodMatch>& all) {
  std::string key;
  for (const PodMatch& match : all) key += match.text() + ";";
  auto [entry, isNew] = counts_.try_emplace(key);
  if (!isNew) {
    ages_.splice(ages_.end(), ages_, entry->second.age);
    return *entry->second.count;
  }
  entry->second.age = ages_.insert(ages_.end(), key);
  entry->second.count = std::make_unique<Count>();
  Count& count = *entry->second.count;
  count.all = all;
  count.byNode.resize(nodes_.size());
  for (size_t slot = 0; slot < nodes_.size(); ++slot) {
    for (const PodInfoPtr& pod : nodes_[slot].pods) count.byNode[slot] += count.matches(*pod);
  }
  if (counts_.size() > kCountsKept) {
    counts_.erase(ages_.front());
    ages_.pop_front();
  }
  return count;
}

int64_t State::imageSpread(const std::string& image) const {
  auto found = imageSpread_.find(image);
  return found == imageSpread_.end() ? 0 : found->second;
}

}  // namespace dhow::scheduler
