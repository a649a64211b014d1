#include "drill_story.h"

#include <fmt/format.h>

#include "client/fields.h"
#include "client/node_lease.h"

namespace dhow::platform {

using namespace client;

namespace {

constexpr char kNodeLeases[] = "kube-node-lease";
constexpr char kMasterLease[] = "dhow-master";

std::string_view phaseOf(const ObjectPtr& object) {
  return object ? text(object->root(), {"status", "phase"}) : std::string_view();
}

std::string_view holderOf(const ObjectPtr& lease) {
  return lease ? text(lease->root(), {"spec", "holderIdentity"}) : std::string_view();
}

// Statuses tell whole seconds.
bool startedSince(const Object& pod, WallTime when) {
  const auto since = std::chrono::floor<std::chrono::seconds>(when);
  for (const auto& value : array(pod.root(), {"status", "containerStatuses"})) {
    const auto started =
        value.is_object() ? client::time(value.get_object(), {"state", "running", "startedAt"}) : std::nullopt;
    if (!started || *started < since) return false;
  }
  return true;
}

}  // namespace

DrillStory::DrillStory(Loop& loop, Subject subject, Caches caches, Tell tell)
    : loop_(loop), subject_(std::move(subject)), caches_(caches), tell_(std::move(tell)) {
  subscriptions_.push_back(caches_.zones.subscribe(
      [this](const ObjectPtr& before, const ObjectPtr& after) { tellPhases(before, after, "zone"); }));
  subscriptions_.push_back(caches_.machines.subscribe(
      [this](const ObjectPtr& before, const ObjectPtr& after) { tellPhases(before, after, "machine"); }));
  for (Cache* cache : {&caches_.nodes, &caches_.pods})
    subscriptions_.push_back(cache->subscribe([this](const ObjectPtr&, const ObjectPtr&) { look(); }));
  subscriptions_.push_back(caches_.leases.subscribe([this](const ObjectPtr& before, const ObjectPtr& after) {
    if (breaking_ && after && after->name() == kMasterLease && holderOf(before) != holderOf(after)) {
      const std::string leads = fmt::format("{} leads", holderOf(after));
      if (subject_.led && holderOf(after) != subject_.target)
        detect(leads);
      else
        tell_(DrillMark::kNone, leads);
    }
    look();
  }));
}

DrillStory::~DrillStory() = default;

void DrillStory::breaking() {
  breaking_ = true;
  brokenAt_ = loop_.now();
}

void DrillStory::broken() {
  broken_ = true;
  brokenAt_ = loop_.now();
  brokenWall_ = loop_.wallNow();
  look();
}

void DrillStory::restored() {
  restored_ = true;
  restoredWall_ = loop_.wallNow();
  look();
}

void DrillStory::acknowledged(TimePoint sent) {
  if (!broken_ || written_ || sent < brokenAt_) return;
  // With one master everything goes through it: a write is acknowledged when it is back.
  if (!isNodes() && !detected_ && (subject_.led || subject_.onlyMaster)) return;
  written_ = true;
  if (!isNodes()) tell_(DrillMark::kNone, "writes are acknowledged");
  look();
}

void DrillStory::contact(bool connected) {
  if (!breaking_ || connected || isNodes() || !subject_.onlyMaster) return;
  detect("the API does not answer");
}

void DrillStory::targetServes() {
  serves_ = true;
  look();
}

void DrillStory::detect(std::string text) {
  if (std::exchange(detected_, true)) return tell_(DrillMark::kNone, std::move(text));
  tell_(DrillMark::kDetected, std::move(text));
}

void DrillStory::tellPhases(const ObjectPtr& before, const ObjectPtr& after, std::string_view kind) {
  if (!breaking_ || (before && after && phaseOf(before) == phaseOf(after))) return look();
  const Object& object = after ? *after : *before;
  const std::string_view original = text(object.root(), {"spec", "standInFor", "machine"});
  std::string text = fmt::format("{} {} is {}", kind, object.name(),
                                 after ? phaseOf(after).empty() ? "planned" : phaseOf(after) : "gone");
  if (!original.empty()) text += fmt::format(", the stand-in for {}", original);
  const std::string_view phase = phaseOf(after);
  const bool noticed = kind == "zone"
                           ? subject_.kind == DrillKind::kZone && object.name() == subject_.target && phase == "Down"
                           : subject_.kind != DrillKind::kZone && subject_.nodes.contains(std::string(object.name())) &&
                                 (phase == "Silent" || phase == "Repairing" || phase == "Lost");
  if (noticed)
    detect(std::move(text));
  else if (!phase.empty() || !after)
    tell_(DrillMark::kNone, std::move(text));
  look();
}

bool DrillStory::nodesAreBack() const {
  // Whatever was cut comes back when it is put back, what was killed whenever it can.
  const bool cut = subject_.kind != DrillKind::kNode;
  if (cut && !restored_) return false;
  const WallTime since = cut ? restoredWall_ : brokenWall_;
  for (const std::string& name : subject_.nodes) {
    ObjectPtr node = caches_.nodes.get("", name);
    ObjectPtr lease = caches_.leases.get(kNodeLeases, name);
    if (!node || !lease || !conditionTrue(node->root(), "Ready")) return false;
    const auto renewed = client::time(lease->root(), {"spec", "renewTime"});
    if (!renewed || *renewed <= since) return false;
  }
  return true;
}

bool DrillStory::machinesAreBack() const {
  for (const ObjectPtr& machine : caches_.machines.list()) {
    const bool ours = subject_.nodes.contains(std::string(machine->name()));
    if (ours && phaseOf(machine) != "Running") return false;
    if (subject_.nodes.contains(std::string(text(machine->root(), {"spec", "standInFor", "machine"})))) return false;
  }
  for (const ObjectPtr& zone : caches_.zones.list()) {
    if (subject_.kind == DrillKind::kZone && zone->name() == subject_.target && phaseOf(zone) != "Up") return false;
  }
  return true;
}

bool DrillStory::counts(const object::Object& pod) const {
  if (pod.deleting() || !conditionTrue(pod.root(), "Ready")) return false;
  if (!breaking_ || !subject_.nodes.contains(std::string(text(pod.root(), {"spec", "nodeName"})))) return true;
  // What a machine that lost its power ran has ended, whatever its pods' status still says.
  if (subject_.kind == DrillKind::kNode && !startedSince(pod, brokenWall_)) return false;
  return returned_;
}

bool DrillStory::whole() const {
  size_t replicas = 0, identities = 0;
  for (const ObjectPtr& pod : caches_.pods.list(subject_.ns)) {
    if (!counts(*pod)) continue;
    if (subject_.identities.contains(std::string(pod->name())))
      ++identities;
    else
      ++replicas;
  }
  return replicas >= subject_.replicas && identities == subject_.identities.size();
}

void DrillStory::look() {
  if (!broken_) return;
  if (!returned_) {
    const bool back = isNodes() ? nodesAreBack() && machinesAreBack() : serves_;
    if (back) {
      returned_ = true;
      tell_(DrillMark::kReturned, fmt::format("{} is back", subject_.target));
    }
  }
  if (!healed_ && (detected_ || returned_ || (!isNodes() && !subject_.led && !subject_.onlyMaster))) {
    if (isNodes() ? whole() : written_) {
      healed_ = true;
      tell_(DrillMark::kHealed, isNodes() ? "all of the load runs" : "the API takes writes");
    }
  }
}

}  // namespace dhow::platform
