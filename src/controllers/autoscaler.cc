#include "autoscaler.h"

#include "base/log.h"
#include "node_lifecycle.h"
#include "object/quantity.h"

namespace dhow::controllers {

using namespace client;
namespace kinds = dhow::object::resources;

namespace {

constexpr Duration kGather = std::chrono::milliseconds(500);  // pods that come together are counted together
constexpr Duration kLookAgain = std::chrono::seconds(10);
constexpr Duration kFresh = std::chrono::seconds(15);  // the scheduler tries a pod again after ten, at the latest
constexpr int64_t kPodsOfMachine = 110;

int64_t amount(const json::object& values, std::string_view name, int64_t scale) {
  auto parsed = object::Quantity::parse(text(values, name));
  if (!parsed.ok()) return 0;
  return scale == 1000 ? parsed->milliValue() : parsed->value();
}

}  // namespace

Amount& Amount::operator+=(const Amount& other) {
  cpu += other.cpu;
  memory += other.memory;
  pods += other.pods;
  return *this;
}

Amount& Amount::operator-=(const Amount& other) {
  cpu -= other.cpu;
  memory -= other.memory;
  pods -= other.pods;
  return *this;
}

Amount requestsOf(const Object& pod) {
  Amount all;
  for (const json::value& value : array(pod.root(), {"spec", "containers"})) {
    if (!value.is_object()) continue;
    const json::object& requests = client::object(value.get_object(), {"resources", "requests"});
    all += {amount(requests, "cpu", 1000), amount(requests, "memory", 1), 0};
  }
  for (const json::value& value : array(pod.root(), {"spec", "initContainers"})) {
    if (!value.is_object()) continue;
    const json::object& requests = client::object(value.get_object(), {"resources", "requests"});
    all.cpu = std::max(all.cpu, amount(requests, "cpu", 1000));
    all.memory = std::max(all.memory, amount(requests, "memory", 1));
  }
  all.pods = 1;
  return all;
}

Amount allocatableOf(const Object& node) {
  const json::object& values = client::object(node.root(), {"status", "allocatable"});
  return {amount(values, "cpu", 1000), amount(values, "memory", 1), amount(values, "pods", 1)};
}

AutoscalerController::AutoscalerController(Context context)
    : context_(context),
      pools_(context.caches.of(kinds::kNodePools)),
      machines_(context.caches.of(kinds::kMachines)),
      nodes_(context.caches.of(kinds::kNodes)),
      pods_(context.caches.of(kinds::kPods)),
      events_(context.loop, context.client, {.component = "autoscaler"}),
      controller_(context.loop, {.name = "autoscaler", .workers = 1},
                  [this](std::string key) { return reconcile(std::move(key)); }) {
  indexByNode(pods_);
  controller_.watchOwn(pools_);
  auto all = [this](WorkQueue& queue) {
    for (const ObjectPtr& pool : pools_.list()) {
      if (has(pool->root(), {"spec", "max"})) queue.addAfter(std::string(pool->name()), kGather);
    }
  };
  controller_.watch(machines_, [all](const ObjectPtr&, const ObjectPtr&, WorkQueue& queue) { all(queue); });
  controller_.watch(pods_, [all](const ObjectPtr& before, const ObjectPtr& after, WorkQueue& queue) {
    // Those that begin to wait, and those that leave room.
    if (after ? waitsForRoom(*after) && (!before || !waitsForRoom(*before)) : before != nullptr) all(queue);
  });
  controller_.require(nodes_);
}

Task<> AutoscalerController::stop() {
  co_await controller_.stop();
  co_await events_.stop();
}

std::vector<ObjectPtr> AutoscalerController::machinesOf(std::string_view pool) const {
  std::vector<ObjectPtr> out;
  for (ObjectPtr& machine : machines_.list()) {
    if (text(machine->root(), {"spec", "pool"}) != pool || machine->deleting()) continue;
    if (standsInFor(*machine).empty() && machine->label(kSurgeLabel).empty()) out.push_back(std::move(machine));
  }
  return out;
}

std::optional<Amount> AutoscalerController::sizeOf(const Object& pool, const std::vector<ObjectPtr>& machines) const {
  // What a machine of the pool truly offers is known best.
  for (const ObjectPtr& machine : machines) {
    ObjectPtr node = nodes_.get("", nodeNameOf(*machine));
    if (node && has(node->root(), {"status", "allocatable", "cpu"})) return allocatableOf(*node);
  }
  const json::object& size = client::object(pool.root(), {"spec", "template", "size"});
  if (size.empty()) return std::nullopt;
  return Amount{amount(size, "cpu", 1000), amount(size, "memory", 1), kPodsOfMachine};
}

bool AutoscalerController::couldTake(const Object& pool, const Object& pod, const Amount& size) const {
  if (!requestsOf(pod).fits(size)) return false;
  const json::object& labels = client::object(pool.root(), {"spec", "template", "labels"});
  for (const auto& [key, value] : client::object(pod.root(), {"spec", "nodeSelector"})) {
    const std::string_view name = key;
    if (name == kZoneLabel || name == kRegionLabel || name.starts_with("kubernetes.io/")) continue;
    if (name == kPoolLabel ? value != json::value(pool.name()) : !labels.contains(name) || labels.at(name) != value)
      return false;
  }
  for (const json::value& taint : array(pool.root(), {"spec", "template", "taints"})) {
    if (!taint.is_object() || text(taint.get_object(), "effect") == "PreferNoSchedule") continue;
    const json::array& tolerations = array(pod.root(), {"spec", "tolerations"});
    if (std::none_of(tolerations.begin(), tolerations.end(), [&](const json::value& one) {
          return one.is_object() && tolerates(one.get_object(), taint.get_object());
        }))
      return false;
  }
  const std::string zone = zoneNeededBy(pod);
  if (zone.empty())
    return !has(pod.root(), {"spec", "affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution"});
  for (const json::value& one : array(pool.root(), {"spec", "zones"})) {
    if (one == json::value(zone)) return true;
  }
  return false;
}

std::vector<AutoscalerController::Room> AutoscalerController::roomsOf(const std::vector<ObjectPtr>& machines,
                                                                      WallTime since) const {
  std::vector<Room> out;
  for (const ObjectPtr& machine : machines) {
    ObjectPtr node = nodes_.get("", nodeNameOf(*machine));
    if (!node || !nodeReady(*node)) continue;
    if (client::time(*condition(node->root(), "Ready"), {"lastTransitionTime"}).value_or(WallTime()) < since) continue;
    Room room{std::string(node->name()), std::string(node->label(kZoneLabel)), allocatableOf(*node)};
    for (const ObjectPtr& pod : pods_.byIndex(kPodsOfNode, node->name())) {
      if (!podFinished(*pod)) room.left -= requestsOf(*pod);
    }
    out.push_back(std::move(room));
  }
  return out;
}

bool AutoscalerController::take(std::vector<Room>& rooms, const Object& pod) {
  const Amount wish = requestsOf(pod);
  const std::string zone = zoneNeededBy(pod);
  auto room = std::find_if(rooms.begin(), rooms.end(),
                           [&](const Room& one) { return wish.fits(one.left) && (zone.empty() || zone == one.zone); });
  if (room == rooms.end()) return false;
  room->left -= wish;
  return true;
}

int64_t AutoscalerController::wantedFor(const Object& pool, const std::vector<ObjectPtr>& machines,
                                        std::vector<Room> fresh) const {
  const int64_t count = number(pool.root(), {"spec", "count"}, 1);
  const std::optional<Amount> size = sizeOf(pool, machines);
  std::map<std::string, std::vector<Amount>> bins;  // new machines, by the zone that is needed; "": any
  for (const ObjectPtr& pod : pods_.byIndex(kPodsOfNode, "")) {
    if (!waitsForRoom(*pod)) continue;
    const Amount wish = requestsOf(*pod);
    // Of machines whose size nobody knows yet, one is made to see.
    const Amount room = size.value_or(Amount{INT64_MAX / 2, INT64_MAX / 2, kPodsOfMachine});
    if (!couldTake(pool, *pod, room) || take(fresh, *pod)) continue;
    std::vector<Amount>& there = bins[zoneNeededBy(*pod)];
    auto bin = std::find_if(there.begin(), there.end(), [&](const Amount& left) { return wish.fits(left); });
    if (bin == there.end()) bin = there.insert(there.end(), room);
    *bin -= wish;
  }
  if (bins.empty()) return count;
  std::map<std::string, int64_t> need;
  for (const json::value& zone : array(pool.root(), {"spec", "zones"})) {
    if (zone.is_string()) need[std::string(zone.get_string())] = 0;
  }
  for (const ObjectPtr& machine : machines) {
    if (auto zone = need.find(std::string(text(machine->root(), {"spec", "zone"}))); zone != need.end()) ++zone->second;
  }
  int64_t most = 0, added = 0;
  for (const auto& [zone, there] : bins) {
    added += static_cast<int64_t>(there.size());
    if (!zone.empty()) most = std::max(most, need[zone] += static_cast<int64_t>(there.size()));
  }
  // No zone may have two more than another: the one that is needed takes the others along.
  int64_t even = 0;
  for (const auto& [zone, machinesThere] : need) even += std::max(machinesThere, most - 1);
  return std::max(count + added, even);
}

Task<Result<>> AutoscalerController::reconcile(std::string key) {
  ObjectPtr pool = pools_.get("", key);
  if (!pool || pool->deleting()) co_return Result<>();
  const auto least = number(pool->root(), {"spec", "min"}), most = number(pool->root(), {"spec", "max"});
  if (!least || !most) co_return Result<>();
  const std::vector<ObjectPtr> machines = machinesOf(key);
  const int64_t count = number(pool->root(), {"spec", "count"}, 1);
  const bool settled = static_cast<int64_t>(machines.size()) == count &&
                       std::all_of(machines.begin(), machines.end(), [](const ObjectPtr& machine) {
                         return text(machine->root(), {"status", "phase"}) == "Running";
                       });
  if (!settled) {
    // What is on its way may be enough.
    idleSince_.clear();
    co_return Result<>();
  }
  // Nodes that have just come, which the scheduler had no time to fill.
  std::vector<Room> fresh = roomsOf(machines, context_.loop.wallNow() - kFresh);
  if (!fresh.empty()) controller_.queue().addAfter(key, kFresh);
  const int64_t wanted = std::min(wantedFor(*pool, machines, std::move(fresh)), *most);
  if (wanted > count) {
    Result<> grown = co_await setCount(pool, wanted, "pods wait for room");
    co_return grown;
  }
  if (count <= *least) co_return Result<>();
  ObjectPtr machine = dispensable(*pool, machines);
  controller_.queue().addAfter(key, kLookAgain);
  if (!machine) co_return Result<>();
  json::object change{{"metadata", {{"annotations", {{kIdle, "true"}}}}}};
  Result<ObjectPtr> marked = co_await context_.client.patch(kinds::kMachines, "", std::string(machine->name()), "",
                                                            PatchType::kMerge, guardedPatch(*machine, change));
  if (!marked.ok()) co_return std::move(marked).error();
  Result<> shrunk = co_await setCount(pool, count - 1, fmt::format("machine {} is dispensable", machine->name()));
  co_return shrunk;
}

ObjectPtr AutoscalerController::dispensable(const Object& pool, const std::vector<ObjectPtr>& machines) {
  std::map<std::string, int64_t> home;
  int64_t crowd = 0;
  for (const ObjectPtr& machine : machines)
    crowd = std::max(crowd, ++home[std::string(text(machine->root(), {"spec", "zone"}))]);
  const auto patience = std::chrono::seconds(number(pool.root(), {"spec", "idleSeconds"}, 600));
  const TimePoint now = context_.loop.now();
  ObjectPtr found;
  for (const ObjectPtr& machine : machines) {
    const std::string name(machine->name());
    // Only where there are most: the pool stays even.
    const bool could =
        home[std::string(text(machine->root(), {"spec", "zone"}))] == crowd && othersTake(*machine, machines);
    if (!could) {
      idleSince_.erase(name);
      continue;
    }
    const TimePoint since = idleSince_.try_emplace(name, now).first->second;
    if (!found && now - since >= patience) found = machine;
  }
  if (found) idleSince_.clear();
  return found;
}

bool AutoscalerController::othersTake(const Object& machine, const std::vector<ObjectPtr>& machines) const {
  ObjectPtr node = nodes_.get("", nodeNameOf(machine));
  if (!node) return false;
  std::vector<ObjectPtr> moving;
  Amount used;
  for (const ObjectPtr& pod : pods_.byIndex(kPodsOfNode, node->name())) {
    if (boundToNode(*pod)) continue;
    if (controllerOf(*pod) == nullptr) return false;
    used += requestsOf(*pod);
    moving.push_back(pod);
  }
  const Amount whole = allocatableOf(*node);
  if (2 * used.cpu > whole.cpu || 2 * used.memory > whole.memory) return false;
  std::vector<Room> rooms = roomsOf(machines);
  std::erase_if(rooms, [&](const Room& room) { return room.node == node->name(); });
  return std::all_of(moving.begin(), moving.end(), [&](const ObjectPtr& pod) { return take(rooms, *pod); });
}

Task<Result<>> AutoscalerController::setCount(ObjectPtr pool, int64_t count, std::string why) {
  const int64_t before = number(pool->root(), {"spec", "count"}, 1);
  log::info("autoscaler", "pool {}: {} machines instead of {}: {}", pool->name(), count, before, why);
  events_.normal(*pool, count > before ? "ScaleUp" : "ScaleDown",
                 fmt::format("{} machines instead of {}: {}", count, before, why));
  json::object change{{"spec", {{"count", count}}}};
  Result<ObjectPtr> done = co_await context_.client.patch(kinds::kNodePools, "", std::string(pool->name()), "",
                                                          PatchType::kMerge, guardedPatch(*pool, std::move(change)));
  co_return unlessGone(std::move(done));
}

}  // namespace dhow::controllers
