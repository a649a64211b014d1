#include "platform_seed.h"

#include "base/log.h"

namespace dhow::controllers {

using namespace client;
namespace kinds = dhow::object::resources;

namespace {
constexpr char kUnfinished[] = "dhow.io/unfinished";  // of the Region: what belongs to it is being made
}

PlatformSeed::PlatformSeed(Context context, Plan plan)
    : context_(context),
      plan_(std::move(plan)),
      regions_(context.caches.of(kinds::kRegions)),
      controller_(context.loop, {.name = "platform-seed", .workers = 1},
                  [this](std::string key) { return reconcile(std::move(key)); }) {
  controller_.require(regions_);
}

void PlatformSeed::start() {
  controller_.start();
  controller_.queue().add(plan_.region);
}

Task<Result<>> PlatformSeed::make(Resource kind, std::string name, json::object body) {
  json::object& metadata = metadataOf(body);
  metadata["name"] = name;
  Result<ObjectPtr> made = co_await context_.client.create(kind, "", std::move(body));
  if (!made.ok() && !made.error().is(Code::kAlreadyExists)) co_return std::move(made).error();
  co_return Result<>();
}

Task<Result<>> PlatformSeed::reconcile(std::string) {
  ObjectPtr region = regions_.get("", plan_.region);
  if (region && region->annotation(kUnfinished).empty()) co_return Result<>();
  Result<> made = co_await make(kinds::kRegions, plan_.region,
                                json::object{{"metadata", {{"annotations", {{kUnfinished, "true"}}}}}});
  CO_RETURN_IF_ERROR(made);
  json::array zones;
  for (const std::string& zone : plan_.zones) {
    made = co_await make(kinds::kZones, zone, json::object{{"spec", {{"region", plan_.region}}}});
    CO_RETURN_IF_ERROR(made);
    zones.push_back(json::string(zone));
  }
  made = co_await make(kinds::kNodePools, "default",
                       json::object{{"spec", {{"count", plan_.nodes}, {"zones", std::move(zones)}}}});
  CO_RETURN_IF_ERROR(made);
  json::object change{{"metadata", {{"annotations", {{kUnfinished, nullptr}}}}}};
  Result<ObjectPtr> done =
      co_await context_.client.patch(kinds::kRegions, "", plan_.region, "", PatchType::kMerge, std::move(change));
  if (done.ok())
    log::info("platform", "region {} with {} zones and {} nodes", plan_.region, plan_.zones.size(), plan_.nodes);
  co_return unlessGone(std::move(done));
}

}  // namespace dhow::controllers
