#include "evacuation.h"

#include "base/log.h"
#include "client/node_lease.h"

namespace dhow::controllers {

using namespace client;
namespace kinds = dhow::object::resources;

EvacuationController::EvacuationController(Context context, Heartbeats& heartbeats, Inventory& inventory)
    : context_(context),
      heartbeats_(heartbeats),
      inventory_(inventory),
      pods_(context.caches.of(kinds::kPods)),
      nodes_(context.caches.of(kinds::kNodes)),
      zones_(context.caches.of(kinds::kZones)),
      events_(context.loop, context.client, {.component = "zone-controller"}),
      controller_(context.loop, {.name = "evacuation", .queue = {.maxDelay = std::chrono::seconds(5)}},
                  [this](std::string key) { return reconcile(std::move(key)); }) {
  indexByNode(pods_);
  controller_.watch(pods_, [this](const ObjectPtr& before, const ObjectPtr& after, WorkQueue& queue) {
    if (!after || text(after->root(), {"spec", "nodeName"}).empty()) return;
    const bool news =
        !before || text(before->root(), {"spec", "nodeName"}).empty() || before->deleting() != after->deleting();
    if (news && heartbeats_.silent(text(after->root(), {"spec", "nodeName"}))) queue.add(after->key());
  });
  controller_.watch(zones_, [this](const ObjectPtr& before, const ObjectPtr& after, WorkQueue&) {
    if (!after || phaseOf(after.get()) != ZonePhase::kDown || phaseOf(before.get()) == ZonePhase::kDown) return;
    for (const ObjectPtr& node : nodes_.list()) {
      if (node->label(kZoneLabel) == after->name()) addPodsOf(node->name());
    }
  });
  controller_.require(nodes_);
  heard_ = heartbeats_.onChange([this](const std::string& node) {
    if (heartbeats_.silent(node)) addPodsOf(node);
  });
  inventory_.onChange([this](const std::string& machine, const std::string&) {
    if (inventory_.off(machine)) addPodsOf(machine);
  });
}

Task<> EvacuationController::stop() {
  co_await controller_.stop();
  co_await events_.stop();
}

void EvacuationController::addPodsOf(std::string_view node) {
  for (const ObjectPtr& pod : pods_.byIndex(kPodsOfNode, node)) controller_.queue().add(pod->key());
}

Task<Result<>> EvacuationController::reconcile(std::string key) {
  auto [ns, name] = splitKey(key);
  ObjectPtr pod = pods_.get(ns, name);
  if (!pod || boundToNode(*pod)) co_return Result<>();
  const std::string nodeName(text(pod->root(), {"spec", "nodeName"}));
  ObjectPtr node = nodes_.get("", nodeName);
  if (!node || !heartbeats_.silent(nodeName)) co_return Result<>();
  // Machines carry the names of their nodes.
  const bool off = inventory_.off(nodeName);
  ObjectPtr zone = zones_.get("", node->label(kZoneLabel));
  const bool down = phaseOf(zone.get()) == ZonePhase::kDown;
  const bool again = controllerOf(*pod) != nullptr;
  if (off && pod->deleting()) {
    Result<> erased = co_await eraseDeadPod(context_, pod);
    co_return erased;
  }
  if (!down || !again) co_return Result<>();
  if (hasIdentity(*pod)) {
    if (!off && !heartbeats_.fenced(nodeName)) co_return Result<>();  // comes again when it is
    events_.normal(*pod, "Fenced",
                   fmt::format("node {} has fenced itself; the pod moves out of zone {}", nodeName, zone->name()));
    log::info("evacuation", "pod {} was on node {}, which is fenced", key, nodeName);
    Result<> erased = co_await eraseDeadPod(context_, pod);
    co_return erased;
  }
  if (pod->deleting()) co_return Result<>();
  events_.normal(*pod, "ZoneDown", fmt::format("zone {} is down; the pod moves", zone->name()));
  DeleteOptions options;
  options.uid = pod->uid();
  Result<> removed = co_await context_.client.remove(kinds::kPods, std::string(ns), std::string(name), options);
  co_return unlessGone(std::move(removed));
}

}  // namespace dhow::controllers
