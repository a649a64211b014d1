#include "node_lifecycle.h"

#include "base/log.h"
#include "base/time.h"
#include "client/node_lease.h"
#include "object/labels.h"

namespace dhow::controllers {

using namespace client;
using object::resources::kNodes;
using object::resources::kPods;

namespace {

constexpr char kByNode[] = "podsOfNode";
constexpr char kNotReady[] = "node.kubernetes.io/not-ready";
constexpr char kUnreachable[] = "node.kubernetes.io/unreachable";
constexpr char kUnschedulable[] = "node.kubernetes.io/unschedulable";

struct PressureTaint {
  std::string_view condition;
  std::string_view key;
};
constexpr PressureTaint kPressures[] = {{"MemoryPressure", "node.kubernetes.io/memory-pressure"},
                                        {"DiskPressure", "node.kubernetes.io/disk-pressure"},
                                        {"PIDPressure", "node.kubernetes.io/pid-pressure"},
                                        {"NetworkUnavailable", "node.kubernetes.io/network-unavailable"}};

bool isOurs(std::string_view key) {
  if (key == kNotReady || key == kUnreachable || key == kUnschedulable) return true;
  return std::any_of(std::begin(kPressures), std::end(kPressures),
                     [&](const auto& pressure) { return pressure.key == key; });
}

std::string_view readiness(const Object& node) {
  const json::object* ready = condition(node.root(), "Ready");
  return ready == nullptr ? "Unknown" : text(*ready, "status");
}

// The key of the taint that the node's silence or its own word puts on it; empty when it is ready.
std::string_view readyTaint(const Object& node) {
  const std::string_view ready = readiness(node);
  if (ready == "True") return {};
  return ready == "Unknown" && condition(node.root(), "Ready") != nullptr ? kUnreachable : kNotReady;
}

// What the node should bear, besides what others put on it. NoExecute is not among it.
std::vector<std::pair<std::string, std::string>> wantedTaints(const Object& node) {
  std::vector<std::pair<std::string, std::string>> wanted;
  if (const std::string_view key = readyTaint(node); !key.empty()) wanted.emplace_back(key, "NoSchedule");
  for (const auto& pressure : kPressures) {
    if (conditionTrue(node.root(), pressure.condition)) wanted.emplace_back(pressure.key, "NoSchedule");
  }
  if (flag(node.root(), {"spec", "unschedulable"})) wanted.emplace_back(kUnschedulable, "NoSchedule");
  return wanted;
}

std::string zoneOf(const Object& node) {
  return fmt::format("{}/{}", node.label(object::kRegionLabel), node.label(object::kZoneLabel));
}

const json::array& taintsOf(const Object& node) {
  return array(node.root(), {"spec", "taints"});
}

Result<> unlessGone(Result<ObjectPtr> done) {
  if (!done.ok() && !done.error().is(Code::kNotFound)) return std::move(done).error();
  return {};
}

}  // namespace

bool tolerates(const json::object& toleration, const json::object& taint) {
  const std::string_view effect = text(toleration, "effect"), key = text(toleration, "key"),
                         op = text(toleration, "operator");
  if (!effect.empty() && effect != text(taint, "effect")) return false;
  if (!key.empty() && key != text(taint, "key")) return false;
  if (op == "Exists") return true;
  return !key.empty() && text(toleration, "value") == text(taint, "value");
}

NodeLifecycleController::NodeLifecycleController(Context context, Heartbeats& heartbeats, Options options)
    : context_(context),
      heartbeats_(heartbeats),
      options_(options),
      nodes_(context.caches.of(kNodes)),
      pods_(context.caches.of(kPods)),
      events_(context.loop, context.client, {.component = "node-controller"}),
      nodesController_(context.loop, {.name = "node-lifecycle"},
                       [this](std::string key) { return reconcileNode(std::move(key)); }),
      podsController_(context.loop, {.name = "taint-eviction"},
                      [this](std::string key) { return reconcilePod(std::move(key)); }) {
  pods_.addIndex(kByNode, [](const ObjectPtr& pod, std::vector<std::string>& keys) {
    keys.emplace_back(text(pod->root(), {"spec", "nodeName"}));
  });
  nodesController_.watch(nodes_, [this](const ObjectPtr& before, const ObjectPtr& after, WorkQueue& queue) {
    const ObjectPtr& node = after ? after : before;
    queue.add(std::string(node->name()));
    const bool taintsChanged = !before || !after || taintsOf(*before) != taintsOf(*after);
    if (!taintsChanged) return;
    for (const ObjectPtr& pod : pods_.byIndex(kByNode, node->name())) podsController_.queue().add(pod->key());
  });
  podsController_.watch(pods_, [](const ObjectPtr& before, const ObjectPtr& after, WorkQueue& queue) {
    const bool bound = after && !text(after->root(), {"spec", "nodeName"}).empty() &&
                       (!before || text(before->root(), {"spec", "nodeName"}).empty());
    if (bound) queue.add(after->key());
  });
  podsController_.require(nodes_);
  heard_ = heartbeats_.onChange([this](const std::string& node) { nodesController_.queue().add(node); });
}

void NodeLifecycleController::start() {
  nodesController_.start();
  podsController_.start();
}

Task<> NodeLifecycleController::stop() {
  co_await nodesController_.stop();
  co_await podsController_.stop();
  co_await events_.stop();
}

bool NodeLifecycleController::evictionAllowed() const {
  std::map<std::string, bool> alive;  // by zone
  for (const ObjectPtr& node : nodes_.list()) {
    bool& zone = alive[zoneOf(*node)];
    zone = zone || (readiness(*node) == "True" && !heartbeats_.silent(node->name()));
  }
  const auto some = std::count_if(alive.begin(), alive.end(), [](const auto& zone) { return zone.second; });
  return some > 0 && 2 * static_cast<size_t>(some) >= alive.size();
}

NodeLifecycleController::Eviction NodeLifecycleController::evictionOf(const Object& node) {
  const std::string zone = zoneOf(node);
  size_t total = 0, silent = 0;
  if (!evictionAllowed()) return Eviction::kNever;
  for (const ObjectPtr& other : nodes_.list()) {
    const bool ready = readiness(*other) == "True" && !heartbeats_.silent(other->name());
    if (zoneOf(*other) != zone) continue;
    ++total;
    silent += !ready;
  }
  const bool most = silent > 2 && silent < total &&
                    static_cast<double>(silent) >= options_.unhealthyZoneShare * static_cast<double>(total);
  if (most && total <= options_.largeZone) return Eviction::kNotNow;
  auto [place, isNew] = nextEviction_.try_emplace(zone, context_.loop.now());
  if (place->second > context_.loop.now()) return Eviction::kLater;
  place->second = context_.loop.now() + (most ? options_.slowEvictionPause : options_.evictionPause);
  return Eviction::kNow;
}

Task<Result<>> NodeLifecycleController::reconcileNode(std::string key) {
  ObjectPtr node = nodes_.get("", key);
  if (!node) {
    // Pods of a node that is gone have nobody to end them.
    for (const ObjectPtr& pod : pods_.byIndex(kByNode, key)) podsController_.queue().add(pod->key());
    co_return Result<>();
  }
  if (heartbeats_.silent(key)) {
    // First of all nobody is sent there any more. A master that hears nobody leaves the pods where clients find them.
    if (evictionAllowed()) {
      Result<> pods = co_await markPodsNotReady(key);
      if (!pods.ok()) co_return pods;
    }
    if (readiness(*node) != "Unknown") {
      Result<> marked = co_await markUnknown(node);
      co_return marked;  // the change of the node brings it back for its taints
    }
  }
  Result<> synced = co_await syncTaints(node);
  co_return synced;
}

Task<Result<>> NodeLifecycleController::markUnknown(ObjectPtr node) {
  json::object status = client::object(node->root(), {"status"});
  const WallTime now = context_.loop.wallNow();
  for (std::string_view type : {"Ready", "MemoryPressure", "DiskPressure", "PIDPressure"})
    setCondition(status, type, "Unknown", "NodeStatusUnknown", "Kubelet stopped posting node status.", now);
  json::object change{{"status", json::object{{"conditions", status["conditions"]}}}};
  Result<ObjectPtr> written = co_await context_.client.patch(kNodes, "", std::string(node->name()), "status",
                                                             PatchType::kMerge, guardedPatch(*node, std::move(change)));
  if (written.ok()) {
    log::warn("node-lifecycle", "node {} is silent", node->name());
    events_.normal(*node, kNodeNotReady, fmt::format("Node {} status is now: NodeNotReady", node->name()));
  }
  co_return unlessGone(std::move(written));
}

Task<Result<>> NodeLifecycleController::markPodsNotReady(std::string node) {
  for (const ObjectPtr& pod : pods_.byIndex(kByNode, node)) {
    if (!podReady(*pod)) continue;
    json::object status = client::object(pod->root(), {"status"});
    setCondition(status, "Ready", "False", kNodeNotReady, "", context_.loop.wallNow());
    json::object change{{"status", json::object{{"conditions", status["conditions"]}}}};
    Result<ObjectPtr> written =
        co_await context_.client.patch(kPods, std::string(pod->ns()), std::string(pod->name()), "status",
                                       PatchType::kMerge, guardedPatch(*pod, std::move(change)));
    Result<> done = unlessGone(std::move(written));
    if (!done.ok()) co_return done;
    events_.warning(*pod, kNodeNotReady, "Node is not ready");
  }
  co_return Result<>();
}

Task<Result<>> NodeLifecycleController::syncTaints(ObjectPtr node) {
  auto wanted = wantedTaints(*node);
  if (const std::string key(readyTaint(*node)); !key.empty()) {
    bool there = false;
    for (const json::value& value : taintsOf(*node)) {
      if (!value.is_object() || text(value.get_object(), "effect") != "NoExecute") continue;
      there = there || text(value.get_object(), "key") == kNotReady || text(value.get_object(), "key") == kUnreachable;
    }
    // From one of the two to the other needs no new turn.
    const Eviction eviction = there && evictionAllowed() ? Eviction::kNow : evictionOf(*node);
    if (eviction == Eviction::kNow) wanted.emplace_back(key, "NoExecute");
    if (eviction == Eviction::kLater || eviction == Eviction::kNotNow || eviction == Eviction::kNever) {
      nodesController_.queue().addAfter(std::string(node->name()), options_.evictionPause);
    }
  }
  json::array taints;
  bool changed = false;
  for (const json::value& value : taintsOf(*node)) {
    if (!value.is_object()) continue;
    const json::object& taint = value.get_object();
    auto same = std::find(wanted.begin(), wanted.end(),
                          std::pair(std::string(text(taint, "key")), std::string(text(taint, "effect"))));
    if (same != wanted.end()) {
      wanted.erase(same);
    } else if (isOurs(text(taint, "key"))) {
      changed = true;
      continue;
    }
    taints.push_back(value);
  }
  for (const auto& [key, effect] : wanted) {
    json::object taint{{"key", key}, {"effect", effect}};
    if (effect == "NoExecute") taint["timeAdded"] = formatTime(context_.loop.wallNow());
    taints.push_back(std::move(taint));
    changed = true;
  }
  if (!changed) co_return Result<>();
  json::object spec;
  if (taints.empty())
    spec["taints"] = nullptr;
  else
    spec["taints"] = std::move(taints);
  json::object change{{"spec", std::move(spec)}};
  Result<ObjectPtr> written = co_await context_.client.patch(kNodes, "", std::string(node->name()), "",
                                                             PatchType::kMerge, guardedPatch(*node, std::move(change)));
  co_return unlessGone(std::move(written));
}

Task<Result<>> NodeLifecycleController::reconcilePod(std::string key) {
  auto [ns, name] = splitKey(key);
  ObjectPtr pod = pods_.get(ns, name);
  if (!pod) co_return Result<>();
  const std::string_view nodeName = text(pod->root(), {"spec", "nodeName"});
  if (nodeName.empty()) co_return Result<>();
  ObjectPtr node = nodes_.get("", nodeName);
  if (!node) {
    DeleteOptions options;
    options.uid = pod->uid();
    options.gracePeriodSeconds = 0;
    Result<> removed = co_await context_.client.remove(kPods, std::string(ns), std::string(name), std::move(options));
    co_return removed.ok() || removed.error().is(Code::kNotFound) ? Result<>() : std::move(removed);
  }
  if (pod->deleting()) co_return Result<>();
  std::optional<WallTime> deadline;
  for (const json::value& value : taintsOf(*node)) {
    if (!value.is_object() || text(value.get_object(), "effect") != "NoExecute") continue;
    const json::object& taint = value.get_object();
    bool tolerated = false, forever = false;
    std::optional<int64_t> seconds;
    for (const json::value& toleration : array(pod->root(), {"spec", "tolerations"})) {
      if (!toleration.is_object() || !tolerates(toleration.get_object(), taint)) continue;
      tolerated = true;
      auto limit = number(toleration.get_object(), {"tolerationSeconds"});
      if (!limit)
        forever = true;
      else
        seconds = std::min(seconds.value_or(*limit), *limit);
    }
    if (!tolerated)
      seconds = 0;
    else if (forever && !seconds)
      continue;
    const WallTime from = client::time(taint, {"timeAdded"}).value_or(context_.loop.wallNow());
    const WallTime due = from + boundedSeconds(std::max<int64_t>(seconds.value_or(0), 0));
    deadline = std::min(deadline.value_or(due), due);
  }
  if (!deadline) co_return Result<>();
  const Duration left = *deadline - context_.loop.wallNow();
  if (left > Duration{}) {
    podsController_.queue().addAfter(key, left);
    co_return Result<>();
  }
  Result<> evicted = co_await evict(pod, std::string(nodeName));
  co_return evicted;
}

Task<Result<>> NodeLifecycleController::evict(ObjectPtr pod, std::string node) {
  events_.normal(*pod, "TaintManagerEviction", fmt::format("Marking for deletion Pod {}", pod->key()));
  DeleteOptions options;
  options.uid = pod->uid();
  Result<> removed =
      co_await context_.client.remove(kPods, std::string(pod->ns()), std::string(pod->name()), std::move(options));
  if (!removed.ok() && !removed.error().is(Code::kNotFound)) co_return removed;
  log::info("taint-eviction", "pod {} leaves node {}", pod->key(), node);
  co_return Result<>();
}

}  // namespace dhow::controllers
