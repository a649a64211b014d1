// Regions, zones, node pools and machines: what they say of each other must exist.
#include "apiserver/strategy.h"
#include "base/strings.h"
#include "client/fields.h"
#include "errors.h"

namespace dhow::apiserver {

using client::array;
using client::text;
namespace kinds = dhow::object::resources;

namespace {

constexpr std::string_view kMachineFinalizer = "dhow.io/machine";
constexpr size_t kNamedChoices = 12;

std::string choices(const client::Cache& cache) {
  std::vector<std::string> names;
  for (const auto& object : cache.list()) names.emplace_back(object->name());
  if (names.size() > kNamedChoices) {
    names.resize(kNamedChoices);
    names.emplace_back("...");
  }
  return names.empty() ? "there are none yet" : "there are " + join(names, ", ");
}

void mustExist(const client::Cache& cache, std::string_view what, std::string_view name, std::string field,
               std::vector<ErrorCause>& causes) {
  if (name.empty() || cache.get("", name)) return;
  causes.push_back({"FieldValueNotFound",
                    fmt::format("Not found: \"{}\": no such {}; {}: choose one of them, or create it first", name, what,
                                choices(cache)),
                    std::move(field)});
}

// Status is the platform's own word, and the generation follows the specification.
class PlatformStrategy : public Strategy {
 public:
  explicit PlatformStrategy(WatchCache& caches) : caches_(caches) {}
  Result<> beforeCreate(const Context&, json::object& document) override {
    document.erase("status");
    return {};
  }
  bool hasGeneration() const override { return true; }

 protected:
  // kConflict while some object of `resource` names the object in `path`.
  Result<> unused(const object::Object& object, const Resource& kind, const Resource& resource, client::Path path) {
    for (const auto& other : caches_.of(resource).list()) {
      const json::value* value = client::field(other->root(), path);
      bool names = value && value->is_string() && value->get_string() == object.name();
      for (const auto& one : array(other->root(), path)) {
        names = names || (one.is_string() && std::string_view(one.get_string()) == object.name());
      }
      if (names) {
        return conflict(kind, object.name(),
                        fmt::format("{} {} is still in it: delete that first", resource.plural, other->name()));
      }
    }
    return {};
  }
  WatchCache& caches_;
};

class RegionStrategy final : public PlatformStrategy {
 public:
  using PlatformStrategy::PlatformStrategy;
  Result<> beforeDelete(const Context&, const object::Object& region) override {
    return unused(region, kinds::kRegions, kinds::kZones, {"spec", "region"});
  }
};

class ZoneStrategy final : public PlatformStrategy {
 public:
  using PlatformStrategy::PlatformStrategy;
  void check(std::string_view subresource, const json::object& zone, const object::Object* old,
             std::vector<ErrorCause>& causes) override {
    if (!subresource.empty() || old) return;
    mustExist(caches_.of(kinds::kRegions), "region", text(zone, {"spec", "region"}), "spec.region", causes);
  }
  Result<> beforeDelete(const Context&, const object::Object& zone) override {
    RETURN_IF_ERROR(unused(zone, kinds::kZones, kinds::kNodePools, {"spec", "zones"}));
    return unused(zone, kinds::kZones, kinds::kMachines, {"spec", "zone"});
  }
};

class NodePoolStrategy final : public PlatformStrategy {
 public:
  using PlatformStrategy::PlatformStrategy;
  Result<> beforeCreate(const Context& context, json::object& pool) override {
    RETURN_IF_ERROR(PlatformStrategy::beforeCreate(context, pool));
    // A range without a count begins at its lower end.
    auto least = client::number(pool, {"spec", "min"});
    if (least && !client::has(pool, {"spec", "count"})) client::objectAt(pool, "spec")["count"] = *least;
    return {};
  }
  void check(std::string_view subresource, const json::object& pool, const object::Object* old,
             std::vector<ErrorCause>& causes) override {
    if (!subresource.empty()) return;
    const auto& zones = array(pool, {"spec", "zones"});
    if (old && array(old->root(), {"spec", "zones"}) == zones) return;
    for (size_t i = 0; i < zones.size(); ++i) {
      if (!zones[i].is_string()) continue;
      mustExist(caches_.of(kinds::kZones), "zone", zones[i].get_string(), fmt::format("spec.zones[{}]", i), causes);
    }
  }
};

class MachineStrategy final : public PlatformStrategy {
 public:
  using PlatformStrategy::PlatformStrategy;
  Result<> beforeCreate(const Context& context, json::object& machine) override {
    RETURN_IF_ERROR(PlatformStrategy::beforeCreate(context, machine));
    auto& finalizers = client::arrayAt(client::metadataOf(machine), "finalizers");
    bool has = false;
    for (const auto& one : finalizers) has = has || one == json::value(kMachineFinalizer);
    if (!has) finalizers.emplace_back(kMachineFinalizer);
    auto& spec = client::objectAt(machine, "spec");
    if (text(spec, "nodeName").empty()) {
      json::string name(text(machine, {"metadata", "name"}));
      if (!name.empty()) spec["nodeName"] = std::move(name);
    }
    return {};
  }
  void check(std::string_view subresource, const json::object& machine, const object::Object* old,
             std::vector<ErrorCause>& causes) override {
    if (!subresource.empty() || old) return;
    mustExist(caches_.of(kinds::kZones), "zone", text(machine, {"spec", "zone"}), "spec.zone", causes);
    mustExist(caches_.of(kinds::kNodePools), "node pool", text(machine, {"spec", "pool"}), "spec.pool", causes);
  }
};

}  // namespace

std::unique_ptr<Strategy> makeRegionStrategy(WatchCache& caches) {
  return std::make_unique<RegionStrategy>(caches);
}
std::unique_ptr<Strategy> makeZoneStrategy(WatchCache& caches) {
  return std::make_unique<ZoneStrategy>(caches);
}
std::unique_ptr<Strategy> makeNodePoolStrategy(WatchCache& caches) {
  return std::make_unique<NodePoolStrategy>(caches);
}
std::unique_ptr<Strategy> makeMachineStrategy(WatchCache& caches) {
  return std::make_unique<MachineStrategy>(caches);
}

}  // namespace dhow::apiserver
