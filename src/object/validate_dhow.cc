// Rules of the kinds of dhow.io that the schema cannot say. What depends on other objects is told by the API server
// (apiserver/platform_strategy.cc).
#include "object/address_range.h"
#include "object/quantity.h"
#include "rules.h"

namespace dhow::object::rules {
namespace {

constexpr std::string_view kReservedLabels[] = {"topology.kubernetes.io/zone", "topology.kubernetes.io/region",
                                                "kubernetes.io/hostname",      "kubernetes.io/os",
                                                "kubernetes.io/arch",          "dhow.io/pool"};

void amount(const json::object& size, std::string_view field, std::string_view least, const std::string& path,
            Context& context) {
  const json::value* value = size.if_contains(field);
  if (!value || !value->is_string()) return;
  auto given = Quantity::parse(value->get_string());
  auto limit = Quantity::parse(least);
  if (!given.ok() || !limit.ok()) return;  // told by the schema
  if ((*given - *limit).sign() < 0)
    context.problems.invalid(path, *value, fmt::format("a machine has at least {}", least));
}

void machineTemplate(const json::object* given, const std::string& path, Context& context) {
  if (!given) return;
  if (const json::object* size = child(*given, "size")) {
    amount(*size, "cpu", "100m", path + ".size.cpu", context);
    amount(*size, "memory", "128Mi", path + ".size.memory", context);
  }
  if (const json::object* labels = child(*given, "labels")) {
    for (std::string_view reserved : kReservedLabels) {
      if (labels->contains(reserved)) {
        context.problems.forbidden(fmt::format("{}.labels[{}]", path, reserved),
                                   "is set by the platform: leave it out");
      }
    }
  }
}

bool nothing(const json::value* value) {
  return value &&
         ((value->is_int64() && value->get_int64() == 0) || (value->is_string() && value->get_string() == "0%"));
}

std::optional<int64_t> number(const json::object& object, std::string_view key) {
  const json::value* value = object.if_contains(key);
  return value && value->is_int64() ? std::optional(value->get_int64()) : std::nullopt;
}

void nodePool(const json::object& value, const json::object*, Context& context) {
  if (context.subresource == "status") return;
  const json::object* spec = child(value, "spec");
  if (!spec) {
    context.problems.required("spec");
    return;
  }
  const json::array* zones = list(*spec, "zones");
  if (!zones || zones->empty()) {
    context.problems.required("spec.zones", "name at least one zone (kubectl get zones)");
  } else {
    for (size_t i = 0; i < zones->size(); ++i) {
      if (std::string problem = check("dns1123Label", (*zones)[i]); !problem.empty())
        context.problems.invalid(fmt::format("spec.zones[{}]", i), (*zones)[i], problem);
    }
  }
  const auto count = number(*spec, "count"), least = number(*spec, "min"), most = number(*spec, "max");
  if (least && !most) context.problems.required("spec.max", "a range has both min and max");
  if (most && !least) context.problems.required("spec.min", "a range has both min and max");
  if (least && most) {
    if (*least > *most) {
      context.problems.invalid("spec.min", *least, fmt::format("must not be above max, which is {}", *most));
    } else if (count && (*count < *least || *count > *most)) {
      context.problems.invalid("spec.count", *count,
                               fmt::format("must be from {} to {}: change it, or the range", *least, *most));
    }
  }
  if (nothing(spec->if_contains("surge")))
    context.problems.invalid("spec.surge", spec->at("surge"), "must be at least 1: a machine is replaced by another");
  machineTemplate(child(*spec, "template"), "spec.template", context);
}

void machine(const json::object& value, const json::object*, Context& context) {
  if (context.subresource == "status") return;
  const json::object* spec = child(value, "spec");
  if (!spec) {
    context.problems.required("spec");
    return;
  }
  machineTemplate(child(*spec, "template"), "spec.template", context);
  const json::object* original = child(*spec, "standInFor");
  if (original && text(*original, "zone") == text(*spec, "zone")) {
    context.problems.invalid("spec.standInFor.zone", json::value(text(*original, "zone")),
                             "a stand-in is in another zone than the machine that it stands in for");
  }
}

void addressPool(const json::object& value, const json::object*, Context& context) {
  constexpr size_t kMostRanges = 64;
  if (context.subresource == "status") return;
  const json::object* spec = child(value, "spec");
  const json::array* given = spec ? list(*spec, "addresses") : nullptr;
  if (!given || given->empty()) {
    context.problems.required("spec.addresses", "name at least one range, such as 192.0.2.0/24");
    return;
  }
  if (given->size() > kMostRanges) {
    context.problems.invalid("spec.addresses", static_cast<int64_t>(given->size()),
                             fmt::format("must not be more than {} ranges", kMostRanges));
    return;
  }
  std::vector<AddressRange> before;
  for (size_t i = 0; i < given->size(); ++i) {
    const json::value& one = (*given)[i];
    const std::string path = fmt::format("spec.addresses[{}]", i);
    auto range = one.is_string() ? AddressRange::parse(one.get_string()) : std::nullopt;
    if (!range) {
      context.problems.invalid(path, one,
                               "must be a CIDR value or a first and a last address (e.g. 192.0.2.0/24, "
                               "192.0.2.10-192.0.2.20 or 2001:db8::/120)");
      continue;
    }
    for (const AddressRange& other : before) {
      if (!range->overlaps(other)) continue;
      context.problems.invalid(path, one, "must not overlap with another range of the pool");
      break;
    }
    before.push_back(*range);
  }
}

constexpr Entry kRules[] = {{"nodePool", nodePool}, {"machine", machine}, {"addressPool", addressPool}};

}  // namespace

std::span<const Entry> dhowRules() {
  return kRules;
}

}  // namespace dhow::object::rules
