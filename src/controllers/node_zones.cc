#include "node_zones.h"

namespace dhow::controllers {

using namespace client;
namespace kinds = dhow::object::resources;

NodeZonesController::NodeZonesController(Context context, std::string region)
    : context_(context),
      region_(std::move(region)),
      nodes_(context.caches.of(kinds::kNodes)),
      zones_(context.caches.of(kinds::kZones)),
      regions_(context.caches.of(kinds::kRegions)),
      controller_(context.loop, {.name = "node-zones", .workers = 1},
                  [this](std::string key) { return reconcile(std::move(key)); }) {
  controller_.require(zones_);
  controller_.require(regions_);
  controller_.watch(nodes_, [](const ObjectPtr&, const ObjectPtr& after, WorkQueue& queue) {
    if (after && !after->label(kZoneLabel).empty()) queue.add(std::string(after->label(kZoneLabel)));
  });
}

Task<Result<>> NodeZonesController::ensure(Resource kind, std::string name, json::object body) {
  metadataOf(body)["name"] = name;
  Result<ObjectPtr> made = co_await context_.client.create(kind, "", std::move(body));
  if (!made.ok() && !made.error().is(Code::kAlreadyExists)) co_return std::move(made).error();
  co_return Result<>();
}

Task<Result<>> NodeZonesController::reconcile(std::string zone) {
  if (zones_.get("", zone)) co_return Result<>();
  if (!regions_.get("", region_)) {
    auto region = co_await ensure(kinds::kRegions, region_, {});
    CO_RETURN_IF_ERROR(region);
  }
  auto made = co_await ensure(kinds::kZones, zone, json::object{{"spec", {{"region", region_}}}});
  co_return made;
}

}  // namespace dhow::controllers
