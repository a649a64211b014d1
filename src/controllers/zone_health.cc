#include "zone_health.h"

#include "base/log.h"
#include "base/time.h"

namespace dhow::controllers {

using namespace client;
namespace kinds = dhow::object::resources;

namespace {

constexpr char kAll[] = "zones";
constexpr Duration kLookAgain = std::chrono::milliseconds(500);

// Those after `since`.
std::vector<WallTime> lossesOf(const json::object& status, WallTime since) {
  std::vector<WallTime> out;
  for (const json::value& value : array(status, {"losses"})) {
    if (!value.is_string()) continue;
    if (auto at = parseTime(value.get_string()); at && *at > since) out.push_back(*at);
  }
  return out;
}

}  // namespace

ZoneHealthController::ZoneHealthController(Context context, Heartbeats& heartbeats, Inventory& inventory,
                                           Options options)
    : context_(context),
      heartbeats_(heartbeats),
      inventory_(inventory),
      options_(options),
      zones_(context.caches.of(kinds::kZones)),
      regions_(context.caches.of(kinds::kRegions)),
      nodes_(context.caches.of(kinds::kNodes)),
      machines_(context.caches.of(kinds::kMachines)),
      events_(context.loop, context.client, {.component = "zone-controller"}),
      controller_(context.loop, {.name = "zone-health", .workers = 1, .queue = {.maxDelay = std::chrono::seconds(2)}},
                  [this](std::string key) { return reconcile(std::move(key)); }) {
  auto look = [](const ObjectPtr&, const ObjectPtr&, WorkQueue& queue) { queue.add(kAll); };
  controller_.watch(zones_, look);
  controller_.watch(regions_, look);
  controller_.watch(machines_, [](const ObjectPtr& before, const ObjectPtr& after, WorkQueue& queue) {
    const ObjectPtr& machine = after ? after : before;
    const bool news = !before || !after ||
                      (!standsInFor(*machine).empty() &&
                       text(before->root(), {"status", "phase"}) != text(after->root(), {"status", "phase"}));
    if (news) queue.add(kAll);
  });
  controller_.watch(nodes_, [](const ObjectPtr& before, const ObjectPtr& after, WorkQueue& queue) {
    if (!before || !after || before->label(kZoneLabel) != after->label(kZoneLabel) ||
        array(before->root(), {"spec", "taints"}) != array(after->root(), {"spec", "taints"})) {
      queue.add(kAll);
    }
  });
  heard_ = heartbeats_.onChange([this](const std::string&) { controller_.queue().add(kAll); });
  inventory_.onChange([this](const std::string& machine, const std::string&) {
    if (machine.empty()) controller_.queue().add(kAll);
  });
}

Task<> ZoneHealthController::stop() {
  co_await controller_.stop();
  co_await events_.stop();
}

ZoneHealthController::Views ZoneHealthController::look() const {
  Views views;
  for (const ObjectPtr& zone : zones_.list()) views[std::string(zone->name())].zone = zone;
  for (const ObjectPtr& node : nodes_.list()) {
    auto found = views.find(std::string(node->label(kZoneLabel)));
    if (found == views.end()) continue;
    View& view = found->second;
    const TimePoint last = heartbeats_.last(node->name());
    view.last = view.nodes.empty() ? last : std::max(view.last, last);
    view.nodes.push_back(node);
    view.silent += heartbeats_.silent(node->name());
    view.heard += heartbeats_.heard(node->name());
    view.steady += heartbeats_.steady(node->name());
  }
  for (auto& [name, view] : views) {
    for (const ObjectPtr& node : view.nodes) {
      view.together +=
          heartbeats_.silent(node->name()) && view.last - heartbeats_.last(node->name()) <= options_.together;
    }
  }
  return views;
}

std::optional<bool> ZoneHealthController::connected(const Views& views) const {
  size_t total = 0, alive = 0, open = 0;
  for (const auto& [name, view] : views) {
    if (view.nodes.empty()) continue;
    ++total;
    alive += view.steady > 0;
    open += view.steady == 0 && !view.quiet();
  }
  const bool quorate = heartbeats_.quorate();
  if (2 * alive >= total || (quorate && alive > 0)) return true;
  if (2 * (alive + open) >= total || (quorate && open > 0)) return std::nullopt;
  return false;
}

std::optional<bool> ZoneHealthController::lost(const View& view, const Views& views) const {
  const std::optional<bool> connected = this->connected(views);
  if (!connected) return std::nullopt;
  const std::string_view name = view.zone->name();
  if (*connected) {
    // One node alone: it is the zone that failed only if its provider does not answer either.
    if (view.together >= 2 || inventory_.provider() == nullptr) return true;
    return !inventory_.answers(name).value_or(true);
  }
  const bool someone = std::any_of(views.begin(), views.end(), [](const auto& one) { return one.second.steady > 0; });
  const bool off = std::all_of(view.nodes.begin(), view.nodes.end(),
                               [&](const ObjectPtr& node) { return inventory_.off(node->name()); });
  if (someone && (inventory_.out(name) || off)) return true;
  return std::nullopt;
}

// What is asked for is what decides, and as of now.
Task<Result<>> ZoneHealthController::askProvider(const Views& views) {
  const std::optional<bool> connected = this->connected(views);
  if (inventory_.provider() == nullptr || !connected) co_return Result<>();
  for (const auto& [name, view] : views) {
    if (!view.quiet() || phaseOf(view.zone.get()) == ZonePhase::kDown) continue;
    if (!*connected) {
      inventory_.refresh(name);  // may take long, and tells when it knows
    } else if (view.together < 2) {
      Result<> asked = co_await inventory_.ask(name);
      CO_RETURN_IF_ERROR(asked);
    }
  }
  co_return Result<>();
}

void ZoneHealthController::concludeCut(const Views& views) {
  size_t total = 0, quiet = 0, doubtful = 0;
  for (const auto& [name, view] : views) {
    total += !view.nodes.empty();
    quiet += view.quiet();
    const bool settled = phaseOf(view.zone.get()) == ZonePhase::kDown;
    doubtful += view.quiet() && !settled && !lost(view, views).value_or(false);
  }
  // Nobody at all is heard, or too few to tell: also of zones that are Down nothing more is concluded.
  const bool cut =
      quiet > 0 && (doubtful > 0 || quiet == total) && 2 * quiet > total && !connected(views).value_or(false);
  if (cut == masterCut_) return;
  masterCut_ = cut;
  if (cut) {
    cutSince_ = context_.loop.now();
    log::warn("zone-health",
              "{} of {} zones are silent: this master is taken to be cut off, and nothing is concluded from it", quiet,
              total);
  } else {
    log::info("zone-health", "most zones are heard again");
    heartbeats_.discount(cutSince_);
  }
}

Task<Result<>> ZoneHealthController::reconcile(std::string) {
  Result<> asked = co_await askProvider(look());
  CO_RETURN_IF_ERROR(asked);
  concludeCut(look());
  const Views views = look();
  for (const auto& [name, view] : views) {
    Result<> judged = co_await judge(view, views);
    CO_RETURN_IF_ERROR(judged);
  }
  Result<> counted = co_await countRegions();
  co_return counted;
}

Task<Result<>> ZoneHealthController::judge(const View& view, const Views& views) {
  const ZonePhase phase = phaseOf(view.zone.get());
  const WallTime now = context_.loop.wallNow();
  json::object extra;
  ZonePhase next = phase == ZonePhase::kUnknown ? ZonePhase::kUp : phase;
  std::string message(text(view.zone->root(), {"status", "message"}));
  bool inDoubt = false;
  if (phase == ZonePhase::kDown) {
    const auto trusted = client::time(view.zone->root(), {"status", "trustedAt"});
    if (view.nodes.empty()) {
      next = ZonePhase::kUp;
      message.clear();
    } else if (2 * view.heard < view.nodes.size()) {
      extra["trustedAt"] = nullptr;
    } else if (!trusted) {
      const json::object& status = client::object(view.zone->root(), {"status"});
      const WallTime at = now + holdOf(lossesOf(status, now - options_.memory).size());
      extra["trustedAt"] = formatTime(at);
      message = fmt::format("its nodes are heard again; it counts as returned at {}", formatTime(at));
      log::info("zone-health", "zone {} is heard again", view.zone->name());
    } else if (now >= *trusted) {
      next = ZonePhase::kReturning;
      extra["trustedAt"] = nullptr;
      message = "its nodes take their pods back";
    } else {
      controller_.queue().addAfter(kAll, *trusted - now);
    }
  } else if (view.quiet()) {
    const std::optional<bool> lost = this->lost(view, views);
    inDoubt = masterCut_ && !lost;
    if (!lost) controller_.queue().addAfter(kAll, kLookAgain);
    if (lost.value_or(false)) {
      next = ZonePhase::kDown;
      const Duration silence = context_.loop.now() - view.last;
      json::array losses;
      for (WallTime at : lossesOf(client::object(view.zone->root(), {"status"}), now - options_.memory))
        losses.push_back(json::string(formatTime(at)));
      if (losses.size() > 16) losses.erase(losses.begin());
      losses.push_back(json::string(formatTime(now)));
      extra["losses"] = std::move(losses);
      extra["lastHeartbeat"] = formatTimeMicro(now - silence);
      extra["trustedAt"] = nullptr;
      message =
          fmt::format("none of its {} nodes has been heard since {}", view.nodes.size(), formatTime(now - silence));
    }
  }
  Result<> written = co_await write(view, next, std::move(message), inDoubt, std::move(extra));
  CO_RETURN_IF_ERROR(written);
  for (const ObjectPtr& node : view.nodes) {
    Result<> tainted = co_await taint(node, next == ZonePhase::kDown);
    CO_RETURN_IF_ERROR(tainted);
  }
  co_return Result<>();
}

Task<Result<>> ZoneHealthController::write(const View& view, ZonePhase phase, std::string message, bool inDoubt,
                                           json::object extra) {
  json::object status = client::object(view.zone->root(), {"status"});
  const ZonePhase before = phaseOf(view.zone.get());
  if (before != phase) {
    status["phase"] = phaseName(phase);
    status["since"] = formatTime(context_.loop.wallNow());
  }
  auto count = [&](std::string_view field, size_t value) {
    if (value == 0)
      status.erase(field);
    else
      status[field] = static_cast<int64_t>(value);
  };
  count("nodes", view.nodes.size());
  count("nodesReady", view.nodes.size() - view.silent);
  ZoneFacts facts = factsOf(view);
  count("standIns", facts.standIns);
  if (message.empty())
    status.erase("message");
  else
    status["message"] = message;
  for (auto& [key, value] : extra) {
    if (value.is_null())
      status.erase(key);
    else
      status[key] = value;
  }
  facts.phase = phase;
  facts.inDoubt = inDoubt;
  facts.message = message;
  facts.losses = lossesOf(status, context_.loop.wallNow() - options_.memory).size();
  facts.hold = holdOf(facts.losses);
  setZoneConditions(status, facts, context_.loop.wallNow());
  if (facts.losses > 1) controller_.queue().addAfter(kAll, options_.memory / 60);  // some are forgotten with time
  Result<> written = co_await writeStatus(context_, kinds::kZones, view.zone, std::move(status));
  CO_RETURN_IF_ERROR(written);
  if (before == phase || before == ZonePhase::kUnknown) co_return Result<>();
  log::warn("zone-health", "zone {} is {}: {}", view.zone->name(), phaseName(phase), message);
  if (phase == ZonePhase::kDown)
    events_.warning(*view.zone, "ZoneDown", message);
  else
    events_.normal(*view.zone, phase == ZonePhase::kReturning ? "ZoneReturning" : "ZoneUp", message);
  co_return Result<>();
}

Task<Result<>> ZoneHealthController::taint(ObjectPtr node, bool down) {
  json::array taints;
  bool has = false;
  for (const json::value& value : array(node->root(), {"spec", "taints"})) {
    const bool ours = value.is_object() && text(value.get_object(), "key") == kZoneDownTaint;
    has = has || ours;
    if (!ours) taints.push_back(value);
  }
  if (has == down) co_return Result<>();
  if (down) taints.push_back(json::object{{"key", kZoneDownTaint}, {"effect", "NoSchedule"}});
  json::object spec;
  if (taints.empty())
    spec["taints"] = nullptr;
  else
    spec["taints"] = std::move(taints);
  json::object change{{"spec", std::move(spec)}};
  Result<ObjectPtr> written = co_await context_.client.patch(kinds::kNodes, "", std::string(node->name()), "",
                                                             PatchType::kMerge, guardedPatch(*node, std::move(change)));
  co_return unlessGone(std::move(written));
}

Task<Result<>> ZoneHealthController::countRegions() {
  for (const ObjectPtr& region : regions_.list()) {
    int64_t zones = 0, up = 0, nodes = 0;
    for (const ObjectPtr& zone : zones_.list()) {
      if (text(zone->root(), {"spec", "region"}) != region->name()) continue;
      ++zones;
      up += phaseOf(zone.get()) != ZonePhase::kDown;
      nodes += number(zone->root(), {"status", "nodes"}, 0);
    }
    json::object status;
    if (zones > 0) status["zones"] = zones;
    if (up > 0) status["zonesUp"] = up;
    if (nodes > 0) status["nodes"] = nodes;
    Result<> written = co_await writeStatus(context_, kinds::kRegions, region, std::move(status));
    CO_RETURN_IF_ERROR(written);
  }
  co_return Result<>();
}

Duration ZoneHealthController::holdOf(size_t losses) const {
  Duration hold = options_.hold;
  for (size_t i = 1; i < losses && hold < options_.longestHold; ++i) hold *= 2;
  return std::min(hold, options_.longestHold);
}

ZoneFacts ZoneHealthController::factsOf(const View& view) const {
  ZoneFacts facts;
  const std::string_view zone = view.zone->name();
  facts.nodes = view.nodes.size();
  facts.silent = view.silent;
  if (const Error* unknown = inventory_.unknown(zone)) facts.unknown = unknown->message();
  for (const ObjectPtr& machine : machines_.list()) {
    const json::object& root = machine->root();
    facts.machines += text(root, {"spec", "zone"}) == zone && standsInFor(*machine).empty() && !machine->deleting();
    if (text(root, {"spec", "standInFor", "zone"}) != zone) continue;
    ++facts.standIns;
    facts.standInsReady += text(root, {"status", "phase"}) == "Running";
    if (text(root, {"status", "phase"}) == "NoRoom") facts.standInTrouble = text(root, {"status", "message"});
  }
  return facts;
}

}  // namespace dhow::controllers
