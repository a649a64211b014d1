#include "zone_health.h"

#include "base/log.h"
#include "base/time.h"

namespace dhow::controllers {

using namespace client;
namespace kinds = dhow::object::resources;

namespace {

constexpr char kAll[] = "zones";
constexpr Duration kLookAgain = std::chrono::milliseconds(500);

std::vector<WallTime> lossesOf(const Object& zone) {
  std::vector<WallTime> out;
  for (const json::value& value : array(zone.root(), {"status", "losses"})) {
    if (!value.is_string()) continue;
    if (auto at = parseTime(value.get_string())) out.push_back(*at);
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
    if (!before || !after) queue.add(kAll);
  });
  controller_.watch(nodes_, [](const ObjectPtr& before, const ObjectPtr& after, WorkQueue& queue) {
    if (!before || !after || before->label(kZoneLabel) != after->label(kZoneLabel) ||
        array(before->root(), {"spec", "taints"}) != array(after->root(), {"spec", "taints"})) {
      queue.add(kAll);
    }
  });
  heartbeats_.onChange([this](const std::string&) { controller_.queue().add(kAll); });
  inventory_.onChange([this](const std::string& machine, const std::string&) {
    if (machine.empty()) controller_.queue().add(kAll);
  });
}

Task<> ZoneHealthController::stop() {
  co_await controller_.stop();
  co_await events_.stop();
}

std::map<std::string, ZoneHealthController::View> ZoneHealthController::look() const {
  std::map<std::string, View> views;
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

std::optional<bool> ZoneHealthController::connected(const std::map<std::string, View>& views) const {
  size_t total = 0, alive = 0, open = 0;
  for (const auto& [name, view] : views) {
    if (view.nodes.empty()) continue;
    ++total;
    alive += view.steady > 0;
    open += view.steady == 0 && !view.quiet();
  }
  if (2 * alive >= total) return true;
  if (2 * (alive + open) >= total) return std::nullopt;
  return false;
}

Task<Result<>> ZoneHealthController::reconcile(std::string) {
  const std::map<std::string, View> views = look();
  size_t total = 0, quiet = 0;
  for (const auto& [name, view] : views) {
    total += !view.nodes.empty();
    quiet += view.quiet();
  }
  const bool cut = quiet > 0 && 2 * quiet > total;
  if (cut && !masterCut_) {
    log::warn("zone-health",
              "{} of {} zones are silent: this master is taken to be cut off, and nothing is concluded from it", quiet,
              total);
  }
  if (!cut && masterCut_) log::info("zone-health", "most zones are heard again");
  masterCut_ = cut;
  for (const auto& [name, view] : views) {
    Result<> judged = co_await judge(view, views);
    CO_RETURN_IF_ERROR(judged);
  }
  Result<> counted = co_await countRegions();
  co_return counted;
}

Task<Result<>> ZoneHealthController::judge(const View& view, const std::map<std::string, View>& views) {
  const ZonePhase phase = phaseOf(view.zone.get());
  const WallTime now = context_.loop.wallNow();
  json::object extra;
  ZonePhase next = phase == ZonePhase::kUnknown ? ZonePhase::kUp : phase;
  std::string message(text(view.zone->root(), {"status", "message"}));
  if (phase == ZonePhase::kDown) {
    const auto trusted = client::time(view.zone->root(), {"status", "trustedAt"});
    if (view.nodes.empty()) {
      next = ZonePhase::kUp;
      message.clear();
    } else if (2 * view.heard < view.nodes.size()) {
      extra["trustedAt"] = nullptr;
    } else if (!trusted) {
      const WallTime at = now + holdOf(*view.zone);
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
    const std::optional<bool> connected = this->connected(views);
    if (!connected) controller_.queue().addAfter(kAll, kLookAgain);
    bool down = connected.value_or(false);
    const std::string name(view.zone->name());
    if (down && view.together < 2 && inventory_.provider() != nullptr) {
      // One node alone: it is the zone that failed only if its provider does not answer either.
      Result<> asked = co_await inventory_.ask(name);
      CO_RETURN_IF_ERROR(asked);
      down = !inventory_.answers(name).value_or(true);
    }
    if (down) {
      next = ZonePhase::kDown;
      const Duration silence = context_.loop.now() - view.last;
      json::array losses;
      for (WallTime at : lossesOf(*view.zone)) {
        if (now - at < options_.memory) losses.push_back(json::string(formatTime(at)));
      }
      if (losses.size() > 16) losses.erase(losses.begin());
      losses.push_back(json::string(formatTime(now)));
      extra["losses"] = std::move(losses);
      extra["lastHeartbeat"] = formatTimeMicro(now - silence);
      extra["trustedAt"] = nullptr;
      message =
          fmt::format("none of its {} nodes has been heard since {}", view.nodes.size(), formatTime(now - silence));
    }
  }
  Result<> written = co_await write(view, next, std::move(message), std::move(extra));
  CO_RETURN_IF_ERROR(written);
  for (const ObjectPtr& node : view.nodes) {
    Result<> tainted = co_await taint(node, next == ZonePhase::kDown);
    CO_RETURN_IF_ERROR(tainted);
  }
  co_return Result<>();
}

Task<Result<>> ZoneHealthController::write(const View& view, ZonePhase phase, std::string message, json::object extra) {
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
  count("standIns", standInsOf(view.zone->name()));
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

Duration ZoneHealthController::holdOf(const Object& zone) const {
  Duration hold = options_.hold;
  size_t losses = 0;
  for (WallTime at : lossesOf(zone)) losses += context_.loop.wallNow() - at < options_.memory;
  for (size_t i = 1; i < losses && hold < options_.longestHold; ++i) hold *= 2;
  return std::min(hold, options_.longestHold);
}

size_t ZoneHealthController::standInsOf(std::string_view zone) const {
  size_t count = 0;
  for (const ObjectPtr& machine : machines_.list())
    count += text(machine->root(), {"spec", "standInFor", "zone"}) == zone;
  return count;
}

}  // namespace dhow::controllers
