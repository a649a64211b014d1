#include "returns.h"

#include <map>

#include "base/log.h"
#include "base/time.h"
#include "node_lifecycle.h"

namespace dhow::controllers {

using namespace client;
namespace kinds = dhow::object::resources;

namespace {

constexpr char kAll[] = "zones";
constexpr Duration kLookAgain = std::chrono::seconds(5);
constexpr char kMarked[] = "podsThatLeave";

bool takesPods(const Object& node, const json::array& tolerations) {
  if (!nodeReady(node) || flag(node.root(), {"spec", "unschedulable"})) return false;
  for (const json::value& value : array(node.root(), {"spec", "taints"})) {
    if (!value.is_object() || text(value.get_object(), "effect") == "PreferNoSchedule") continue;
    const bool tolerated = std::any_of(tolerations.begin(), tolerations.end(), [&](const json::value& one) {
      return one.is_object() && tolerates(one.get_object(), value.get_object());
    });
    if (!tolerated) return false;
  }
  return true;
}

}  // namespace

ReturnsController::ReturnsController(Context context, NodePoolController* pools, Options options)
    : context_(context),
      pools_(pools),
      options_(options),
      zones_(context.caches.of(kinds::kZones)),
      machines_(context.caches.of(kinds::kMachines)),
      nodes_(context.caches.of(kinds::kNodes)),
      pods_(context.caches.of(kinds::kPods)),
      sets_(context.caches.of(kinds::kReplicaSets)),
      mover_(context),
      controller_(context.loop, {.name = "returns", .workers = 1, .queue = {.maxDelay = std::chrono::seconds(5)}},
                  [this](std::string key) { return reconcile(std::move(key)); }) {
  pods_.addIndex(kMarked, [](const ObjectPtr& pod, std::vector<std::string>& keys) {
    if (leaving(*pod)) keys.emplace_back(kAll);
  });
  auto returning = [this] {
    for (const ObjectPtr& zone : zones_.list())
      if (phaseOf(zone.get()) == ZonePhase::kReturning) return true;
    return false;
  };
  controller_.watch(zones_, [](const ObjectPtr& before, const ObjectPtr& after, WorkQueue& queue) {
    if (phaseOf(before.get()) != phaseOf(after.get())) queue.add(kAll);
  });
  auto look = [this, returning](const ObjectPtr&, const ObjectPtr&, WorkQueue& queue) {
    if (returning() || !pods_.byIndex(kMarked, kAll).empty()) queue.add(kAll);
  };
  controller_.watch(pods_, look);
  controller_.watch(machines_, look);
  if (pools_ != nullptr) controller_.require(context_.caches.of(kinds::kNodePools));
  controller_.require(nodes_);
  controller_.require(sets_);
}

bool ReturnsController::standInsLeft(std::string_view zone) const {
  for (const ObjectPtr& machine : machines_.list()) {
    if (text(machine->root(), {"spec", "standInFor", "zone"}) != zone) continue;
    // What another lost zone keeps goes when that one is back.
    ObjectPtr where = zones_.get("", text(machine->root(), {"spec", "zone"}));
    if (!machine->deleting() || phaseOf(where.get()) != ZonePhase::kDown) return true;
  }
  return false;
}

Task<Result<>> ReturnsController::reconcile(std::string) {
  Result<> moved = co_await moveMarked();
  CO_RETURN_IF_ERROR(moved);
  std::vector<ObjectPtr> done;
  bool waiting = false;
  const WallTime now = context_.loop.wallNow();
  for (const ObjectPtr& zone : zones_.list()) {
    if (phaseOf(zone.get()) != ZonePhase::kReturning) continue;
    const auto since = client::time(zone->root(), {"status", "since"}).value_or(now);
    const bool late = now - since >= options_.limit;
    if (!late && (standInsLeft(zone->name()) || (pools_ != nullptr && pools_->spreading(zone->name()))))
      waiting = true;
    else
      done.push_back(zone);
  }
  if (done.empty() && !waiting) {
    moves_.clear();
    co_return Result<>();
  }
  controller_.queue().addAfter(kAll, kLookAgain);
  if (done.empty()) co_return Result<>();
  bool busy = false;
  for (const ObjectPtr& set : sets_.list()) {
    Result<bool> one = co_await level(set);
    if (!one.ok()) co_return std::move(one).error();
    busy = busy || *one;
  }
  for (const ObjectPtr& zone : done) {
    const auto since = client::time(zone->root(), {"status", "since"}).value_or(now);
    if (busy && now - since < options_.limit) continue;
    json::object status = client::object(zone->root(), {"status"});
    status["phase"] = phaseName(ZonePhase::kUp);
    status["since"] = formatTime(now);
    status.erase("message");
    Result<> written = co_await writeStatus(context_, kinds::kZones, zone, std::move(status));
    CO_RETURN_IF_ERROR(written);
    log::info("returns", "zone {} is back, and pods are spread as before", zone->name());
  }
  co_return Result<>();
}

// Marked pods on nodes that are drained are the drain's; the others are ours.
Task<Result<>> ReturnsController::moveMarked() {
  for (const ObjectPtr& pod : pods_.byIndex(kMarked, kAll)) {
    ObjectPtr node = nodes_.get("", text(pod->root(), {"spec", "nodeName"}));
    if (pod->deleting() || !node || flag(node->root(), {"spec", "unschedulable"})) continue;
    Result<Move> moved = co_await mover_.step(pod);
    if (!moved.ok() && !moved.error().is(Code::kConflict)) co_return std::move(moved).error();
    controller_.queue().addAfter(kAll, kLookAgain);
  }
  co_return Result<>();
}

Task<Result<bool>> ReturnsController::level(ObjectPtr set) {
  const int64_t wanted = number(set->root(), {"spec", "replicas"}, 1);
  if (wanted < 2 || set->deleting()) co_return false;
  std::vector<ObjectPtr> pods;
  for (const ObjectPtr& pod : pods_.byIndex(kByOwner, set->uid())) {
    if (!podActive(*pod)) continue;
    if (leaving(*pod) || !podReady(*pod)) co_return true;  // one at a time
    pods.push_back(pod);
  }
  if (static_cast<int64_t>(pods.size()) != wanted) co_return true;
  ObjectPtr pod = crowded(*set, pods);
  if (!pod || moves_[std::string(set->uid())]++ >= wanted) co_return false;
  Result<Move> moved = co_await mover_.step(pod);
  if (!moved.ok() && !moved.error().is(Code::kConflict)) co_return std::move(moved).error();
  co_return true;
}

ObjectPtr ReturnsController::crowded(const Object& set, const std::vector<ObjectPtr>& pods) const {
  const json::object& spec = client::object(set.root(), {"spec", "template", "spec"});
  // What chooses its nodes itself is where it wants to be.
  if (has(spec, {"nodeSelector"}) || has(spec, {"affinity"}) || has(spec, {"nodeName"})) return nullptr;
  std::map<std::string, std::map<std::string, std::vector<ObjectPtr>>> places;  // zone, node, pods
  for (const ObjectPtr& node : nodes_.list()) {
    if (takesPods(*node, array(spec, {"tolerations"})))
      places[std::string(node->label(kZoneLabel))][std::string(node->name())];
  }
  for (const ObjectPtr& pod : pods) {
    const std::string node(text(pod->root(), {"spec", "nodeName"}));
    for (auto& [zone, nodes] : places) {
      if (auto found = nodes.find(node); found != nodes.end()) found->second.push_back(pod);
    }
  }
  auto sizeOf = [](const auto& nodes) {
    size_t size = 0;
    for (const auto& [node, there] : nodes) size += there.size();
    return size;
  };
  auto fullest = [](const auto& nodes) {
    return std::max_element(nodes.begin(), nodes.end(),
                            [](const auto& a, const auto& b) { return a.second.size() < b.second.size(); });
  };
  auto emptiest = [](const auto& nodes) {
    return std::min_element(nodes.begin(), nodes.end(),
                            [](const auto& a, const auto& b) { return a.second.size() < b.second.size(); });
  };
  size_t most = 0, least = SIZE_MAX;
  const std::map<std::string, std::vector<ObjectPtr>>* crowd = nullptr;
  for (const auto& [zone, nodes] : places) {
    const size_t size = sizeOf(nodes);
    least = std::min(least, size);
    if (crowd == nullptr || size > most) {
      most = size;
      crowd = &nodes;
    }
  }
  if (crowd != nullptr && most >= least + 2) return fullest(*crowd)->second.back();
  for (const auto& [zone, nodes] : places) {
    if (fullest(nodes)->second.size() >= emptiest(nodes)->second.size() + 2) return fullest(nodes)->second.back();
  }
  return nullptr;
}

}  // namespace dhow::controllers
