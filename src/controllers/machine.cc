#include "machine.h"

#include "base/log.h"
#include "base/time.h"
#include "client/node_lease.h"
#include "platform_conditions.h"

namespace dhow::controllers {

using namespace client;
namespace kinds = dhow::object::resources;

namespace {

constexpr Duration kBlockedRetry = std::chrono::seconds(5);
constexpr Duration kWaitingRetry = std::chrono::seconds(20);  // for what no event tells: patience that runs out

}  // namespace

MachineRequest requestFor(const Object& machine) {
  const json::object& spec = client::object(machine.root(), {"spec"});
  MachineRequest out;
  out.name = machine.name();
  out.zone = text(spec, "zone");
  out.pool = text(spec, "pool");
  out.cpu = text(spec, {"template", "size", "cpu"});
  out.memory = text(spec, {"template", "size", "memory"});
  out.version = text(spec, "version");
  for (const auto& [key, value] : client::object(spec, {"template", "labels"})) {
    if (value.is_string()) out.labels[std::string(key)] = std::string(value.get_string());
  }
  out.labels[kPoolLabel] = out.pool;
  if (std::string original(standsInFor(machine)); !original.empty()) out.labels[kStandInLabel] = original;
  for (const json::value& value : array(spec, {"template", "taints"})) {
    if (!value.is_object()) continue;
    const json::object& taint = value.get_object();
    out.taints.push_back(
        {std::string(text(taint, "key")), std::string(text(taint, "value")), std::string(text(taint, "effect"))});
  }
  return out;
}

MachineController::MachineController(Context context, MachineProvider& provider, Heartbeats& heartbeats,
                                     Inventory& inventory, const ZoneHealthController& zones, Options options)
    : context_(context),
      provider_(provider),
      heartbeats_(heartbeats),
      inventory_(inventory),
      zoneHealth_(zones),
      options_(options),
      machines_(context.caches.of(kinds::kMachines)),
      nodes_(context.caches.of(kinds::kNodes)),
      pods_(context.caches.of(kinds::kPods)),
      zones_(context.caches.of(kinds::kZones)),
      mover_(context),
      events_(context.loop, context.client, {.component = "machine-controller"}),
      controller_(context.loop, {.name = "machine", .workers = 16, .queue = {.maxDelay = std::chrono::seconds(10)}},
                  [this](std::string key) { return reconcile(std::move(key)); }) {
  controller_.watchOwn(machines_);
  controller_.watch(nodes_, [](const ObjectPtr& before, const ObjectPtr& after, WorkQueue& queue) {
    const ObjectPtr& node = after ? after : before;
    const bool news = !before || !after || nodeReady(*before) != nodeReady(*after) ||
                      conditionTrue(before->root(), kServesIngress) != conditionTrue(after->root(), kServesIngress) ||
                      flag(before->root(), {"spec", "unschedulable"}) != flag(after->root(), {"spec", "unschedulable"});
    if (news) queue.add(std::string(node->name()));
  });
  controller_.watch(zones_, [this](const ObjectPtr& before, const ObjectPtr& after, WorkQueue& queue) {
    if (phaseOf(before.get()) == phaseOf(after.get())) return;
    const std::string_view zone = (after ? after : before)->name();
    for (const ObjectPtr& machine : machines_.list()) {
      if (text(machine->root(), {"spec", "zone"}) == zone) queue.add(std::string(machine->name()));
    }
  });
  controller_.watch(pods_, [this](const ObjectPtr&, const ObjectPtr&, WorkQueue& queue) {
    for (const std::string& name : draining_) queue.add(name);
  });
  heard_ = heartbeats_.onChange([this](const std::string& node) { controller_.queue().add(node); });
  inventory_.onChange([this](const std::string& machine, const std::string& zone) {
    if (!machine.empty()) return controller_.queue().add(machine);
    for (const ObjectPtr& one : machines_.list()) {
      if (text(one->root(), {"spec", "zone"}) == zone) controller_.queue().add(std::string(one->name()));
    }
  });
}

Task<> MachineController::stop() {
  co_await controller_.stop();
  co_await events_.stop();
}

Task<Result<>> MachineController::reconcile(std::string key) {
  ObjectPtr machine = machines_.get("", key);
  if (!machine) {
    draining_.erase(key);
    repaired_.erase(key);
    co_return Result<>();
  }
  const std::string zoneName(text(machine->root(), {"spec", "zone"}));
  ObjectPtr zone = zones_.get("", zoneName);
  const bool down = phaseOf(zone.get()) == ZonePhase::kDown;
  ObjectPtr node = nodes_.get("", nodeNameOf(*machine));
  Result<> done;
  if (machine->deleting()) {
    done = co_await retire(machine, node, down);
    co_return done;
  }
  // A zone that is down and whose provider answers again has its machines repaired, if they do not come by themselves.
  const bool waiting = node && heartbeats_.silence(node->name()) < options_.startPatience;
  if (down && (!inventory_.answers(zoneName).value_or(false) || (waiting && !inventory_.off(key)))) {
    draining_.erase(key);
    if (waiting) controller_.queue().addAfter(key, options_.startPatience);
    done = co_await setPhase(machine, "Lost", fmt::format("zone {} is down", zoneName));
    co_return done;
  }
  if (const Error* unknown = inventory_.unknown(zoneName)) {
    done = co_await setPhase(machine, "Pending", unknown->message());
    co_return done;
  }
  if (!inventory_.answers(zoneName).value_or(false)) co_return Result<>();  // comes again when it does
  const MachineInfo* info = inventory_.find(key);
  if (info == nullptr) {
    done = co_await make(machine);
    co_return done;
  }
  const MachineInfo::State state = info->state;
  if (info->held) {
    done = co_await setPhase(machine, "Stopped", "it was stopped on purpose: dhow machine start makes it run again");
    co_return done;
  }
  switch (state) {
    case MachineInfo::State::kDeleting: co_return Result<>();
    case MachineInfo::State::kStopped:
      done = co_await repair(machine, info->message.empty() ? "it is off" : info->message);
      co_return done;
    case MachineInfo::State::kCreating:
    case MachineInfo::State::kRunning: break;
  }
  // One that was there before its Machine counts as made from the first template that it was seen with.
  const std::string made =
      info->version.empty() ? std::string(text(machine->root(), {"status", "version"})) : info->version;
  if (!made.empty() && made != text(machine->root(), {"spec", "version"})) {
    done = co_await renew(machine, node);
    co_return done;
  }
  draining_.erase(key);
  done = co_await keepRunning(machine, node);
  co_return done;
}

Task<Result<>> MachineController::make(ObjectPtr machine) {
  const std::string zone(text(machine->root(), {"spec", "zone"}));
  Result<> made = co_await provider_.create(requestFor(*machine));
  inventory_.refresh(zone);
  if (made.ok()) {
    Result<> told = co_await setPhase(machine, "Creating", "");
    co_return told;
  }
  const bool noRoom = made.error().is(Code::kFailedPrecondition);
  Result<> told = co_await setPhase(machine, noRoom ? "NoRoom" : "Pending", made.error().message());
  CO_RETURN_IF_ERROR(told);
  co_return made;
}

bool MachineController::recovering(const Object& machine, Duration patience) const {
  const auto at = client::time(machine.root(), {"status", "repairedAt"});
  return at && context_.loop.wallNow() - *at < patience;
}

// What was heard before the repair says nothing of what came of it. Of a repair by the leader before this one only its
// time is known, in the API's whole seconds.
bool MachineController::backSinceRepair(const Object& machine) const {
  if (repaired_.contains(std::string(machine.name()))) return true;
  if (text(machine.root(), {"status", "repairStep"}).empty()) return true;
  const auto at = client::time(machine.root(), {"status", "repairedAt"});
  return !at || heartbeats_.silence(nodeNameOf(machine)) + std::chrono::seconds(1) <= context_.loop.wallNow() - *at;
}

Task<Result<>> MachineController::keepRunning(ObjectPtr machine, ObjectPtr node) {
  const std::string key(machine->name());
  const std::string_view phase = text(machine->root(), {"status", "phase"});
  if (node && heartbeats_.heard(node->name())) {
    if (!nodeReady(*node)) {
      Result<> told = co_await setPhase(machine, "Creating", "its node is not ready yet");
      co_return told;
    }
    if (!backSinceRepair(*machine)) {
      controller_.queue().addAfter(key, kRenewEvery);
      co_return Result<>();
    }
    Result<> opened = co_await uncordon(context_, node);
    CO_RETURN_IF_ERROR(opened);
    Result<> told = co_await setPhase(machine, "Running", "");
    CO_RETURN_IF_ERROR(told);
    if (number(machine->root(), {"status", "repairs"}, 0) > 0 && phase == "Running") {
      json::object status = client::object(machine->root(), {"status"});
      status.erase("repairStep");  // it has worked
      if (recovering(*machine, options_.healthyFor)) {
        controller_.queue().addAfter(key, options_.healthyFor);
      } else {
        for (std::string_view field : {"repairs", "repairedAt"}) status.erase(field);
      }
      Result<> forgotten = co_await writeStatus(context_, kinds::kMachines, machine, std::move(status));
      co_return forgotten;
    }
    co_return Result<>();
  }
  // It was made or repaired and is on its way, or it fell silent.
  const bool lost = phaseOf(zones_.get("", text(machine->root(), {"spec", "zone"})).get()) == ZonePhase::kDown;
  if (lost && node) {
    Result<> repaired = co_await repair(machine, "its node does not come back");
    co_return repaired;
  }
  const bool fresh = !node || phase == "Creating" || phase == "Pending" || phase == "NoRoom" || phase.empty();
  if (fresh) {
    const auto since = client::time(machine->root(), {"status", "since"}).value_or(context_.loop.wallNow());
    const Duration left = since + options_.makePatience - context_.loop.wallNow();
    if (left > Duration::zero()) {
      controller_.queue().addAfter(key, left);
      Result<> told = co_await setPhase(machine, "Creating", "");
      co_return told;
    }
    Result<> repaired = co_await repair(machine, "its node has not come");
    co_return repaired;
  }
  if (!heartbeats_.silent(node->name())) co_return Result<>();  // not heard yet, since this process began to look
  if (zoneHealth_.masterCut()) {
    controller_.queue().addAfter(key, kBlockedRetry);
    co_return Result<>();
  }
  const Duration silence = heartbeats_.silence(node->name()) - kSilentAfter;
  if (silence < options_.silentPatience) {
    controller_.queue().addAfter(key, options_.silentPatience - silence);
    Result<> told =
        co_await setPhase(machine, phase == "Repairing" ? "Repairing" : "Silent", "its node is not heard any more");
    co_return told;
  }
  Result<> repaired = co_await repair(machine, "its node is not heard any more");
  co_return repaired;
}

Task<Result<>> MachineController::repair(ObjectPtr machine, std::string why) {
  const std::string key(machine->name());
  const int64_t before = number(machine->root(), {"status", "repairs"}, 0);
  const std::string_view step = text(machine->root(), {"status", "repairStep"});
  // While a repair is under way it has its time, and longer from turn to turn. After one that has worked the next is at
  // once, unless it is one of many: what works again and again fails again and again.
  const bool worked = before > 0 && step.empty();
  Duration patience = step == "Recreate" ? options_.makePatience : options_.startPatience;
  if (worked) patience = before < 2 ? Duration::zero() : options_.againPatience;
  for (int64_t i = 2; i < before && patience < std::chrono::minutes(20); i += 2) patience *= 2;
  if (before > 0 && recovering(*machine, patience)) {
    const auto at = client::time(machine->root(), {"status", "repairedAt"});
    controller_.queue().addAfter(key, *at + patience - context_.loop.wallNow());
    Result<> told = Result<>();
    if (worked)
      told = co_await setPhase(machine, "Repairing",
                               fmt::format("{}, again: it is repaired at {}", why, formatTime(*at + patience)));
    co_return told;
  }
  const bool anew = worked ? before % 4 == 3 : before % 2 == 1;
  json::object status = client::object(machine->root(), {"status"});
  status["repairs"] = before + 1;
  status["repairStep"] = anew ? "Recreate" : "Restart";
  status["repairedAt"] = formatTime(context_.loop.wallNow());
  if (text(status, "phase") != "Repairing") status["since"] = formatTime(context_.loop.wallNow());
  status["phase"] = "Repairing";
  status["message"] = fmt::format("{}: {}", why, anew ? "it is made anew" : "it is restarted");
  setMachineReady(status, context_.loop.wallNow());
  Result<> written = co_await writeStatus(context_, kinds::kMachines, machine, std::move(status));
  CO_RETURN_IF_ERROR(written);
  log::warn("machine", "machine {} is repaired: {}: {}", key, why, anew ? "made anew" : "restarted");
  events_.warning(*machine, anew ? "MachineRecreate" : "MachineRestart", why);
  Result<> done = anew ? co_await takeAway(machine) : co_await provider_.restart(key);
  heartbeats_.restarted(nodeNameOf(*machine));
  repaired_.insert(key);
  inventory_.refresh(text(machine->root(), {"spec", "zone"}));
  controller_.queue().addAfter(key, anew ? options_.makePatience : options_.startPatience);
  co_return unlessGone(std::move(done));
}

// Drained, then taken away; being absent, it is made from the new template under its old name.
Task<Result<>> MachineController::renew(ObjectPtr machine, ObjectPtr node) {
  if (node && !heartbeats_.silent(node->name())) {
    Result<bool> empty = co_await drain(machine, node);
    if (!empty.ok()) co_return std::move(empty).error();
    if (!*empty) co_return Result<>();
  }
  draining_.erase(std::string(machine->name()));
  Result<> gone = co_await takeAway(machine);
  CO_RETURN_IF_ERROR(gone);
  Result<> forgotten = co_await forgetNode(nodeNameOf(*machine));  // it registers as the new template says
  CO_RETURN_IF_ERROR(forgotten);
  json::object status = client::object(machine->root(), {"status"});
  for (std::string_view field : {"drain", "message", "repairs", "repairStep", "repairedAt", "version"})
    status.erase(field);
  status["phase"] = "Creating";
  status["since"] = formatTime(context_.loop.wallNow());
  setMachineReady(status, context_.loop.wallNow());
  Result<> told = co_await writeStatus(context_, kinds::kMachines, machine, std::move(status));
  co_return told;
}

Task<Result<>> MachineController::retire(ObjectPtr machine, ObjectPtr node, bool zoneDown) {
  const std::string key(machine->name());
  const bool finalizer = [&] {
    for (const json::value& one : array(machine->root(), {"metadata", "finalizers"}))
      if (one == json::value(kMachineFinalizer)) return true;
    return false;
  }();
  if (!finalizer) co_return Result<>();
  // Nobody can be asked to leave a node that does not answer.
  if (node && !zoneDown && !heartbeats_.silent(node->name()) && !inventory_.off(key)) {
    Result<bool> empty = co_await drain(machine, node);
    if (!empty.ok()) co_return std::move(empty).error();
    if (!*empty) co_return Result<>();
  }
  draining_.erase(key);
  if (text(machine->root(), {"status", "phase"}) != "Deleting") {
    Result<> told = co_await setPhase(machine, "Deleting", "");
    co_return told;  // the change brings it back
  }
  Result<> gone = co_await takeAway(machine);
  CO_RETURN_IF_ERROR(gone);
  Result<> forgotten = co_await forgetNode(nodeNameOf(*machine));
  CO_RETURN_IF_ERROR(forgotten);
  json::array finalizers;
  for (const json::value& one : array(machine->root(), {"metadata", "finalizers"}))
    if (one != json::value(kMachineFinalizer)) finalizers.push_back(one);
  json::object change{{"metadata", {{"finalizers", std::move(finalizers)}}}};
  Result<ObjectPtr> let =
      co_await context_.client.patch(kinds::kMachines, "", key, "", PatchType::kMerge, std::move(change));
  co_return unlessGone(std::move(let));
}

Task<Result<bool>> MachineController::drain(ObjectPtr machine, ObjectPtr node) {
  const std::string key(machine->name());
  draining_.insert(key);
  Result<Drained> drained = co_await drainStep(context_, mover_, node);
  if (!drained.ok()) co_return std::move(drained).error();
  const WallTime now = context_.loop.wallNow();
  json::object status = client::object(machine->root(), {"status"});
  json::object& told = objectAt(status, "drain");
  const auto started = client::time(told, {"startedAt"});
  if (!started) told["startedAt"] = formatTime(now);
  told["podsLeft"] = static_cast<int64_t>(drained->left);
  for (auto [field, value] : {std::pair{"blockedBy", &drained->blockedBy}, std::pair{"budget", &drained->budget}}) {
    if (value->empty())
      told.erase(field);
    else
      told[field] = *value;
  }
  const auto deadline = std::chrono::seconds(number(machine->root(), {"spec", "drainDeadlineSeconds"}, 1800));
  const bool late = started && now - *started >= deadline;
  std::string message = drained->message;
  if (late && !message.empty()) message = "the drain's deadline has passed: " + message;
  bool empty = drained->done();
  if (empty) {
    Result<std::string> clients = co_await letClientsGo(machine, node, started.value_or(now) + deadline);
    if (!clients.ok()) co_return std::move(clients).error();
    message = *std::move(clients);
    empty = message.empty();
  }
  // One that is empty and on its way out stays so.
  const std::string_view phase = text(status, "phase");
  if (phase != "Draining" && !(empty && phase == "Deleting")) {
    status["since"] = formatTime(now);
    status["phase"] = "Draining";
  }
  if (message.empty())
    status.erase("message");
  else
    status["message"] = message;
  const DrainState state = empty                      ? DrainState::kDone
                           : drained->message.empty() ? DrainState::kDraining
                           : late                     ? DrainState::kLate
                                                      : DrainState::kBlocked;
  setMachineReady(status, now);
  if (message.empty()) message = fmt::format("{} pods are left", drained->left);
  setMachineDrained(status, state, drained->message.empty() ? message : drained->message, now);
  const bool news = text(machine->root(), {"status", "drain", "blockedBy"}) != drained->blockedBy;
  Result<> written = co_await writeStatus(context_, kinds::kMachines, machine, std::move(status));
  if (!written.ok()) co_return std::move(written).error();
  if (news && !drained->blockedBy.empty()) events_.warning(*machine, "DrainBlocked", drained->message);
  if (!drained->done()) controller_.queue().addAfter(key, drained->blockedBy.empty() ? kWaitingRetry : kBlockedRetry);
  co_return empty;
}

// Clients of Ingresses have their connections through any node, whether or not it has pods: they end before it goes, at
// most until the drain's deadline. Empty: nobody is left.
Task<Result<std::string>> MachineController::letClientsGo(ObjectPtr machine, ObjectPtr node, WallTime deadline) {
  const json::object* serves = condition(node->root(), kServesIngress);
  if (serves == nullptr || text(*serves, "status") != "True") co_return std::string();
  const std::string key(machine->name());
  const WallTime now = context_.loop.wallNow();
  const auto since = client::time(node->root(), {"metadata", "annotations", kIngressLeavesSince});
  if (!since) {
    json::object change{{"metadata", {{"annotations", {{kIngressLeavesSince, formatTime(now)}}}}}};
    Result<ObjectPtr> asked = co_await context_.client.patch(kinds::kNodes, "", std::string(node->name()), "",
                                                             PatchType::kMerge, std::move(change));
    Result<> told = unlessGone(std::move(asked));
    if (!told.ok()) co_return std::move(told).error();
  }
  const bool heard = text(*serves, "reason") == kIngressLeaves;
  const WallTime end = heard ? deadline : std::min(deadline, since.value_or(now) + kIngressLeaveHeard);
  if (now >= end) {
    log::warn("machine", "machine {} goes although clients of Ingresses may have connections there", key);
    co_return std::string();
  }
  controller_.queue().addAfter(key, end - now);
  co_return fmt::format("clients of Ingresses have connections there, which end by {}", formatTime(deadline));
}

Task<Result<>> MachineController::takeAway(ObjectPtr machine) {
  const std::string zone(text(machine->root(), {"spec", "zone"}));
  Result<> removed = co_await provider_.remove(std::string(machine->name()));
  inventory_.refresh(zone);
  if (!removed.ok()) {
    Result<> told = co_await setPhase(machine, text(machine->root(), {"status", "phase"}), removed.error().message());
    CO_RETURN_IF_ERROR(told);
    co_return removed;
  }
  for (const ObjectPtr& pod : pods_.byIndex(kPodsOfNode, nodeNameOf(*machine))) {
    Result<> erased = co_await eraseDeadPod(context_, pod);
    CO_RETURN_IF_ERROR(erased);
  }
  co_return Result<>();
}

Task<Result<>> MachineController::forgetNode(std::string name) {
  Result<> removed = co_await context_.client.remove(kinds::kNodes, "", name, {});
  CO_RETURN_IF_ERROR(unlessGone(std::move(removed)));
  Result<> lease = co_await context_.client.remove(kinds::kLeases, "kube-node-lease", name, {});
  co_return unlessGone(std::move(lease));
}

Task<Result<>> MachineController::setPhase(ObjectPtr machine, std::string_view phase, std::string message) {
  json::object status = client::object(machine->root(), {"status"});
  if (text(status, "phase") != phase) {
    status["since"] = formatTime(context_.loop.wallNow());
    if (phase == "Running") status.erase("drain");
  }
  if (!phase.empty()) status["phase"] = std::string(phase);
  const MachineInfo* info = inventory_.find(machine->name());
  if (info != nullptr && !info->address.empty()) status["address"] = info->address;
  if (info != nullptr && phase == "Running") {
    const std::string_view made = info->version.empty() ? text(status, "version") : std::string_view(info->version);
    status["version"] = std::string(made.empty() ? text(machine->root(), {"spec", "version"}) : made);
  }
  if (message.empty())
    status.erase("message");
  else
    status["message"] = message;
  setMachineReady(status, context_.loop.wallNow());
  Result<> written = co_await writeStatus(context_, kinds::kMachines, machine, std::move(status));
  co_return written;
}

}  // namespace dhow::controllers
