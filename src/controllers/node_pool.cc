#include "node_pool.h"

#include <boost/json/serialize.hpp>

#include "base/log.h"
#include "base/strings.h"
#include "base/time.h"

namespace dhow::controllers {

using namespace client;
namespace kinds = dhow::object::resources;

namespace {

constexpr Duration kLookAgain = std::chrono::seconds(5);
constexpr Duration kSeenAgain = std::chrono::milliseconds(500);  // when no change of a machine tells that it was seen
constexpr Duration kFullFor = std::chrono::minutes(1);

std::string prefixOf(const std::string& cluster, std::string_view pool) {
  return fmt::format("{}-{}-", cluster, pool == "default" ? "node" : pool);
}

}  // namespace

std::string templateVersion(const Object& pool) {
  const std::string bytes = json::serialize(client::object(pool.root(), {"spec", "template"})) + "\n" +
                            std::string(text(pool.root(), {"spec", "upgrade"}));
  uint64_t hash = 0xcbf29ce484222325;  // FNV-1a
  for (unsigned char byte : bytes) hash = (hash ^ byte) * 0x100000001b3;
  return fmt::format("{:010x}", hash & 0xffffffffff);
}

int64_t surgeOf(const Object& pool) {
  const json::value* surge = field(pool.root(), {"spec", "surge"});
  if (surge == nullptr) return 1;
  if (surge->is_int64()) return std::max<int64_t>(1, surge->get_int64());
  if (!surge->is_string() || !std::string_view(surge->get_string()).ends_with('%')) return 1;
  const std::string_view digits = std::string_view(surge->get_string());
  const int64_t percent = parseInt(digits.substr(0, digits.size() - 1)).value_or(0);
  const int64_t count = number(pool.root(), {"spec", "count"}, 1);
  return std::max<int64_t>(1, (count * percent + 99) / 100);
}

std::string zoneNeededBy(const Object& pod) {
  if (const std::string_view zone = text(pod.root(), {"spec", "nodeSelector", kZoneLabel}); !zone.empty())
    return std::string(zone);
  const json::array& terms = array(pod.root(), {"spec", "affinity", "nodeAffinity",
                                                "requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms"});
  if (terms.size() != 1 || !terms[0].is_object()) return {};
  for (const json::value& value : array(terms[0].get_object(), {"matchExpressions"})) {
    if (!value.is_object()) continue;
    const json::object& term = value.get_object();
    const json::array& values = array(term, {"values"});
    if (text(term, "key") == kZoneLabel && text(term, "operator") == "In" && values.size() == 1 &&
        values[0].is_string()) {
      return std::string(values[0].get_string());
    }
  }
  return {};
}

bool waitsForRoom(const Object& pod) {
  if (!podActive(pod) || !text(pod.root(), {"spec", "nodeName"}).empty()) return false;
  const json::object* scheduled = condition(pod.root(), "PodScheduled");
  return scheduled != nullptr && text(*scheduled, "status") == "False" && text(*scheduled, "reason") == "Unschedulable";
}

NodePoolController::NodePoolController(Context context, std::string cluster)
    : context_(context),
      cluster_(std::move(cluster)),
      pools_(context.caches.of(kinds::kNodePools)),
      machines_(context.caches.of(kinds::kMachines)),
      zones_(context.caches.of(kinds::kZones)),
      pods_(context.caches.of(kinds::kPods)),
      own_(context, kinds::kMachines, machines_),
      events_(context.loop, context.client, {.component = "nodepool-controller"}),
      controller_(context.loop, {.name = "nodepool", .queue = {.maxDelay = std::chrono::seconds(10)}},
                  [this](std::string key) { return reconcile(std::move(key)); }) {
  controller_.watchOwn(pools_);
  controller_.watch(pools_, [this](const ObjectPtr& before, const ObjectPtr& after, WorkQueue&) {
    if (!after) own_.forget(std::string(before->uid()));
  });
  controller_.watch(machines_, [](const ObjectPtr& before, const ObjectPtr& after, WorkQueue& queue) {
    queue.add(std::string(text((after ? after : before)->root(), {"spec", "pool"})));
  });
  controller_.watch(zones_, [this](const ObjectPtr& before, const ObjectPtr& after, WorkQueue& queue) {
    const bool news = !before || !after || phaseOf(before.get()) != phaseOf(after.get()) ||
                      client::object(before->root(), {"spec"}) != client::object(after->root(), {"spec"});
    if (!news) return;
    for (const ObjectPtr& pool : pools_.list()) queue.add(std::string(pool->name()));
  });
}

Task<> NodePoolController::stop() {
  co_await controller_.stop();
  co_await events_.stop();
}

std::vector<PoolMachine> NodePoolController::machinesOf(const Object& pool, const std::string& version) const {
  std::vector<PoolMachine> out;
  const WallTime now = context_.loop.wallNow();
  for (const ObjectPtr& machine : machines_.list()) {
    const json::object& root = machine->root();
    if (text(root, {"spec", "pool"}) != pool.name()) continue;
    PoolMachine one;
    one.name = machine->name();
    one.zone = text(root, {"spec", "zone"});
    one.original = standsInFor(*machine);
    const size_t dash = one.name.rfind('-');
    one.number = parseInt(std::string_view(one.name).substr(dash + 1)).value_or(0);
    one.surge = !machine->label(kSurgeLabel).empty();
    one.deleting = machine->deleting();
    const std::string_view phase = text(root, {"status", "phase"});
    const bool made = text(root, {"status", "version"}) == text(root, {"spec", "version"});
    one.ready = phase == "Running" && made;
    one.creating = phase.empty() || phase == "Pending" || phase == "Creating";
    one.current = text(root, {"spec", "version"}) == version;
    one.idle = !machine->annotation(kIdle).empty();
    one.noRoom = phase == "NoRoom";
    one.message = text(root, {"status", "message"});
    const auto started = client::time(root, {"status", "drain", "startedAt"});
    const auto deadline = std::chrono::seconds(number(root, {"spec", "drainDeadlineSeconds"}, 1800));
    one.blocked = phase == "Draining" && has(root, {"status", "drain", "blockedBy"});
    one.stuck = phase == "Draining" && started && now - *started >= deadline;
    out.push_back(std::move(one));
  }
  std::sort(out.begin(), out.end(),
            [](const auto& a, const auto& b) { return std::tuple(a.number, a.name) < std::tuple(b.number, b.name); });
  return out;
}

std::vector<PoolZone> NodePoolController::zonesOf(const Object& pool) {
  std::vector<PoolZone> out;
  for (const json::value& value : array(pool.root(), {"spec", "zones"})) {
    if (!value.is_string()) continue;
    ObjectPtr zone = zones_.get("", value.get_string());
    if (!zone) continue;  // it was deleted meanwhile: nothing can be made there
    PoolZone one;
    one.name = zone->name();
    one.phase = phaseOf(zone.get());
    one.open = !flag(zone->root(), {"spec", "closed"}) && !zone->deleting();
    const auto limit = number(zone->root(), {"spec", "maxMachines"});
    int64_t used = 0;
    bool refused = false;
    for (const ObjectPtr& machine : machines_.list()) {
      if (text(machine->root(), {"spec", "zone"}) != one.name) continue;
      ++used;
      refused = refused || text(machine->root(), {"status", "phase"}) == "NoRoom";
    }
    if (limit) one.room = std::max<int64_t>(0, *limit - used);
    if (refused) full_[one.name] = context_.loop.now() + kFullFor;
    if (auto full = full_.find(one.name); full != full_.end() && full->second > context_.loop.now()) one.room = 0;
    for (const ObjectPtr& pod : pods_.byIndex(kPodsOfNode, "")) {
      one.wanted += waitsForRoom(*pod) && zoneNeededBy(*pod) == one.name;
    }
    out.push_back(std::move(one));
  }
  return out;
}

std::string NodePoolController::nameFor(const Object& pool, const PoolStep::Create& what,
                                        std::set<std::string>& taken) const {
  for (int64_t n = 1;; ++n) {
    std::string name = what.original.empty() ? fmt::format("{}{}", prefixOf(cluster_, pool.name()), n)
                       : n == 1              ? what.original + "-standin"
                                             : fmt::format("{}-standin-{}", what.original, n);
    if (machines_.get("", name) == nullptr && taken.insert(name).second) return name;
  }
}

PoolStep NodePoolController::plan(const Object& pool, const std::string& version) {
  PoolWish wish;
  wish.count = number(pool.root(), {"spec", "count"}, 1);
  wish.surge = surgeOf(pool);
  return planPool(wish, machinesOf(pool, version), zonesOf(pool));
}

bool NodePoolController::spreading(std::string_view zone) {
  for (const ObjectPtr& pool : pools_.list()) {
    const json::array& zones = array(pool->root(), {"spec", "zones"});
    if (pool->deleting() || std::find(zones.begin(), zones.end(), json::value(zone)) == zones.end()) continue;
    if (plan(*pool, templateVersion(*pool)).spreading) return true;
  }
  return false;
}

Task<Result<>> NodePoolController::reconcile(std::string key) {
  ObjectPtr pool = pools_.get("", key);
  if (!pool || pool->deleting()) co_return Result<>();  // its machines go with it
  Result<bool> seen = co_await own_.seen(std::string(pool->uid()));
  if (!seen.ok()) co_return std::move(seen).error();
  if (!*seen) {
    controller_.queue().addAfter(key, kSeenAgain);
    co_return Result<>();
  }
  const std::string version = templateVersion(*pool);
  const PoolStep step = plan(*pool, version);
  std::set<std::string> taken;
  for (const PoolStep::Create& what : step.create) {
    std::string name = nameFor(*pool, what, taken);
    Result<> made = co_await createMachine(pool, what, std::move(name), version);
    CO_RETURN_IF_ERROR(made);
  }
  for (const std::string& name : step.remove) {
    log::info("nodepool", "machine {} of pool {} goes", name, key);
    Result<> removed = co_await removeMachine(pool, name);
    CO_RETURN_IF_ERROR(removed);
  }
  for (const std::string& name : step.renew) {
    Result<> renewed = co_await renewMachine(pool, name, version);
    CO_RETURN_IF_ERROR(renewed);
  }
  if (!step.message.empty()) controller_.queue().addAfter(key, kLookAgain);
  Result<> written = co_await writeStatus(pool, step, version);
  co_return written;
}

Task<Result<>> NodePoolController::createMachine(ObjectPtr pool, PoolStep::Create what, std::string name,
                                                 std::string version) {
  json::object labels{{kPoolLabel, pool->name()}};
  json::object spec{{"pool", pool->name()},
                    {"zone", what.zone},
                    {"version", version},
                    {"drainDeadlineSeconds", number(pool->root(), {"spec", "drainDeadlineSeconds"}, 1800)}};
  if (const json::value* given = field(pool->root(), {"spec", "template"})) spec["template"] = *given;
  if (!what.original.empty()) {
    labels[kStandInLabel] = what.original;
    spec["standInFor"] = json::object{
        {"machine", what.original}, {"zone", what.originalZone}, {"since", formatTime(context_.loop.wallNow())}};
    events_.normal(*pool, "StandIn",
                   fmt::format("machine {} in zone {} stands in for {} of zone {}", name, what.zone, what.original,
                               what.originalZone));
  }
  if (what.surge) labels[kSurgeLabel] = "true";
  log::info("nodepool", "machine {} of pool {} in zone {}{}", name, pool->name(), what.zone,
            what.original.empty() ? (what.surge ? ", for the upgrade" : "") : ", in for " + what.original);
  json::object body{
      {"apiVersion", "dhow.io/v1"},
      {"kind", "Machine"},
      {"metadata",
       {{"name", name}, {"labels", std::move(labels)}, {"ownerReferences", json::array{controllerReference(*pool)}}}},
      {"spec", std::move(spec)}};
  const std::string uid(pool->uid());
  Result<ObjectPtr> made = co_await context_.client.create(kinds::kMachines, "", std::move(body));
  if (made.ok()) {
    own_.wrote(uid, *made);
    co_return Result<>();
  }
  own_.failed(uid, "", name, made.error());
  if (!made.error().is(Code::kAlreadyExists)) co_return std::move(made).error();
  co_return Result<>();
}

Task<Result<>> NodePoolController::removeMachine(ObjectPtr pool, std::string name) {
  ObjectPtr machine = machines_.get("", name);
  if (!machine) co_return Result<>();
  const std::string uid(pool->uid());
  DeleteOptions options;
  options.uid = machine->uid();
  Result<> removed = co_await context_.client.remove(kinds::kMachines, "", name, std::move(options));
  if (removed.ok())
    own_.deleted(uid, machine);
  else
    own_.failed(uid, "", name, removed.error());
  co_return unlessGone(std::move(removed));
}

Task<Result<>> NodePoolController::renewMachine(ObjectPtr pool, std::string name, std::string version) {
  ObjectPtr machine = machines_.get("", name);
  if (!machine) co_return Result<>();
  json::object body = copyOf(machine);
  json::object& spec = objectAt(body, "spec");
  spec["version"] = version;
  spec["drainDeadlineSeconds"] = number(pool->root(), {"spec", "drainDeadlineSeconds"}, 1800);
  if (const json::value* given = field(pool->root(), {"spec", "template"}))
    spec["template"] = *given;
  else
    spec.erase("template");
  log::info("nodepool", "machine {} of pool {} is upgraded", name, pool->name());
  Result<ObjectPtr> written =
      co_await context_.client.update(kinds::kMachines, "", std::move(name), "", std::move(body));
  co_return unlessGone(std::move(written));
}

Task<Result<>> NodePoolController::writeStatus(ObjectPtr pool, const PoolStep& step, std::string version) {
  struct Count {
    int64_t machines = 0, ready = 0, standIns = 0;
  };
  std::map<std::string, Count> byZone;
  for (const json::value& zone : array(pool->root(), {"spec", "zones"})) {
    if (zone.is_string()) byZone[std::string(zone.get_string())];
  }
  int64_t machines = 0, ready = 0, updated = 0, standIns = 0;
  for (const PoolMachine& machine : machinesOf(*pool, version)) {
    Count& count = byZone[machine.zone];
    if (!machine.original.empty()) {
      ++standIns;
      ++count.standIns;
      continue;
    }
    ++machines;
    ++count.machines;
    ready += machine.ready;
    count.ready += machine.ready;
    updated += machine.ready && machine.current;
  }
  json::object status = client::object(pool->root(), {"status"});
  status["observedGeneration"] = number(pool->root(), {"metadata", "generation"}, 0);
  status["version"] = version;
  for (auto [name, value] :
       {std::pair{"machines", machines}, {"ready", ready}, {"updated", updated}, {"standIns", standIns}}) {
    if (value == 0)
      status.erase(name);
    else
      status[name] = value;
  }
  json::array zones;
  for (const auto& [name, count] : byZone) {
    json::object one{{"name", name}};
    for (auto [field, value] :
         {std::pair{"machines", count.machines}, {"ready", count.ready}, {"standIns", count.standIns}}) {
      if (value != 0) one[field] = value;
    }
    zones.push_back(std::move(one));
  }
  status["zones"] = std::move(zones);
  if (step.message.empty())
    status.erase("message");
  else
    status["message"] = step.message;
  const WallTime now = context_.loop.wallNow();
  const int64_t count = number(pool->root(), {"spec", "count"}, 1);
  std::string told = fmt::format("{} of {} machines are ready", ready, count);
  const bool complete = ready >= count;
  if (!complete && !step.message.empty()) told += ": " + step.message;
  setCondition(status, "Ready", complete ? "True" : "False", complete ? "Complete" : "Incomplete", told, now);
  if (step.stuck)
    setCondition(status, "Upgrading", "False", "DrainBlocked", step.message, now);
  else if (step.upgrading)
    setCondition(status, "Upgrading", "True", "Replacing", step.message, now);
  else if (condition(pool->root(), "Upgrading") != nullptr)
    setCondition(status, "Upgrading", "False", "Done", "", now);
  const bool newlyStuck = step.stuck && condition(pool->root(), "Upgrading") != nullptr &&
                          text(*condition(pool->root(), "Upgrading"), "reason") != "DrainBlocked";
  if (newlyStuck) events_.warning(*pool, "UpgradeBlocked", step.message);
  Result<> written = co_await controllers::writeStatus(context_, kinds::kNodePools, pool, std::move(status));
  co_return written;
}

}  // namespace dhow::controllers
