#include "service_families.h"

#include <boost/json/serialize.hpp>

#include "client/fields.h"

namespace dhow::apiserver {

using client::array;
using client::arrayAt;
using client::text;

namespace {

constexpr std::string_view kSingle = "SingleStack", kPrefer = "PreferDualStack", kRequire = "RequireDualStack";
constexpr const char* kNone = "None";

ErrorCause wrong(std::string field, const json::value& value, std::string_view why) {
  return {"FieldValueInvalid", fmt::format("Invalid value: {}: {}", json::serialize(value), why), std::move(field)};
}

json::value listOf(const json::object& spec, std::string_view field) {
  return array(spec, {field});
}

bool isHeadless(const json::object& spec) {
  return text(spec, "clusterIP") == kNone;
}
bool hasSelector(const json::object& spec) {
  return !client::object(spec, {"selector"}).empty();
}
bool isExternalName(const json::object& spec) {
  return text(spec, "type") == "ExternalName";
}

bool sameList(const json::object& spec, const json::object& before, std::string_view field) {
  return array(spec, {field}) == array(before, {field});
}
bool reduced(const json::object& spec, const json::object& before, std::string_view field) {
  const auto& now = array(spec, {field});
  return !now.empty() && now.size() < array(before, {field}).size();
}

// A service that prefers two stacks keeps what it has when the cluster becomes one of two stacks or of one.
bool staysAsPreferred(const json::object& spec, const json::object* before) {
  return before != nullptr && text(spec, "ipFamilyPolicy") == kPrefer && text(*before, "ipFamilyPolicy") == kPrefer &&
         sameList(spec, *before, "clusterIPs") && sameList(spec, *before, "ipFamilies") &&
         !array(spec, {"ipFamilies"}).empty();
}

std::string_view defaultPolicy(const json::object& spec, const json::object* before) {
  if (before != nullptr && !text(*before, "ipFamilyPolicy").empty()) return text(*before, "ipFamilyPolicy");
  // Whoever writes the endpoints of such a service decides on their families.
  return isHeadless(spec) && !hasSelector(spec) ? kRequire : kSingle;
}

void addOther(json::array& families) {
  families.push_back(json::value(families[0] == json::value(kIpv4) ? kIpv6 : kIpv4));
}

// ClusterIPs[0] cannot change, so that a policy of one stack with the same lists is clear enough.
void releaseSecond(json::object& spec, const json::object& before, std::vector<ErrorCause>& causes) {
  const std::string policy(text(spec, "ipFamilyPolicy"));
  for (auto [field, what] : {std::pair{"clusterIPs", "cluster IP"}, std::pair{"ipFamilies", "IP family"}}) {
    if (policy == kSingle) {
      if (sameList(spec, before, field) && array(spec, {field}).size() > 1) arrayAt(spec, field).resize(1);
    } else if (reduced(spec, before, field)) {
      causes.push_back(wrong("spec.ipFamilyPolicy", json::value(policy),
                             fmt::format("must be 'SingleStack' to release the secondary {}", what)));
    }
  }
}

void inferFamilies(json::object& spec, const std::vector<std::string_view>& served, std::vector<ErrorCause>& causes) {
  const json::array addresses = array(spec, {"clusterIPs"});
  for (size_t i = array(spec, {"ipFamilies"}).size(); i < addresses.size(); ++i) {
    if (!addresses[i].is_string() || addresses[i] == kNone) break;
    const std::string_view family = familyOf(addresses[i].get_string());
    if (std::find(served.begin(), served.end(), family) == served.end()) {
      causes.push_back(wrong(fmt::format("spec.clusterIPs[{}]", i), listOf(spec, "clusterIPs"),
                             fmt::format("{} is not configured on this cluster", family)));
    } else {
      arrayAt(spec, "ipFamilies").push_back(json::value(family));
    }
  }
}

}  // namespace

void alignClusterIps(json::object& spec, const json::object* before) {
  const std::string now(text(spec, "clusterIP"));
  auto setAll = [&](json::array all) {
    if (!all.empty()) spec["clusterIPs"] = std::move(all);
  };
  if (before == nullptr) {
    if (!now.empty() && array(spec, {"clusterIPs"}).empty()) setAll({json::value(now)});
    return;
  }
  const std::string_view then = text(*before, "clusterIP");
  if (array(spec, {"clusterIPs"}).empty() && now == then) setAll(array(*before, {"clusterIPs"}));
  if (now != then && sameList(spec, *before, "clusterIPs")) {
    if (now.empty())
      spec.erase("clusterIPs");
    else
      setAll({json::value(now)});
  }
  // A client that replaces the service without these keeps what it was given.
  if (isExternalName(spec) || isExternalName(*before)) return;
  if (now.empty() && !then.empty()) spec["clusterIP"] = then;
  if (array(spec, {"clusterIPs"}).empty() && text(spec, "clusterIP") == then) setAll(array(*before, {"clusterIPs"}));
}

std::vector<ErrorCause> settleFamilies(json::object& spec, const json::object* before,
                                       const std::vector<std::string_view>& served) {
  std::vector<ErrorCause> causes;
  if (isExternalName(spec) || staysAsPreferred(spec, before)) return causes;
  if (text(spec, "ipFamilyPolicy").empty()) spec["ipFamilyPolicy"] = defaultPolicy(spec, before);
  const std::string policy(text(spec, "ipFamilyPolicy"));
  if (before != nullptr) {
    // Families go with the addresses; a client that leaves them out keeps them.
    if (array(spec, {"ipFamilies"}).empty() && !array(*before, {"ipFamilies"}).empty() &&
        isHeadless(spec) == isHeadless(*before))
      spec["ipFamilies"] = array(*before, {"ipFamilies"});
    releaseSecond(spec, *before, causes);
  }
  if (policy == kSingle) {
    for (auto [field, what] : {std::pair{"clusterIPs", "cluster IPs"}, std::pair{"ipFamilies", "IP families"}}) {
      if (array(spec, {field}).size() != 2) continue;
      causes.push_back(
          wrong("spec.ipFamilyPolicy", json::value(policy),
                fmt::format("must be 'RequireDualStack' or 'PreferDualStack' when multiple {} are specified", what)));
    }
  }
  inferFamilies(spec, served, causes);
  if (!causes.empty()) return causes;

  auto& families = arrayAt(spec, "ipFamilies");
  if (isHeadless(spec) && !hasSelector(spec)) {
    if (families.empty()) families.push_back(json::value(served.front()));
    if (families.size() < 2 && policy != kSingle) addOther(families);
    return causes;
  }
  if (policy == kRequire && served.size() < 2)
    causes.push_back(
        wrong("spec.ipFamilyPolicy", json::value(policy), "this cluster is not configured for dual-stack services"));
  for (size_t i = 0; i < families.size(); ++i) {
    const json::value& family = families[i];
    if (std::any_of(served.begin(), served.end(), [&](auto one) { return family == json::value(one); })) continue;
    causes.push_back(wrong(fmt::format("spec.ipFamilies[{}]", i), family, "not configured on this cluster"));
  }
  if (!causes.empty()) return causes;
  if (families.empty()) families.push_back(json::value(served.front()));
  if (policy != kSingle && families.size() == 1 && served.size() == 2) addOther(families);
  return causes;
}

std::vector<ErrorCause> checkFamilyChange(const json::object& spec, const json::object& before) {
  std::vector<ErrorCause> causes;
  if (isExternalName(spec) || isExternalName(before) || (isHeadless(spec) && isHeadless(before))) return causes;
  struct Half {
    const char *field, *primary, *secondary;
  };
  constexpr Half kHalves[] = {{"clusterIPs", "clusterIP", "clusterIP"}, {"ipFamilies", "ipFamily", "ipFamily"}};
  for (const Half& half : kHalves) {
    const auto &now = array(spec, {half.field}), &then = array(before, {half.field});
    const json::value shown(now);
    auto at = [&](size_t i) { return fmt::format("spec.{}[{}]", half.field, i); };
    // What is added may be anything; what stays is the same.
    const size_t kept = now.size() == then.size() ? now.size() : std::min<size_t>({1, now.size(), then.size()});
    for (size_t i = 0; i < kept; ++i) {
      if (now[i] != then[i]) causes.push_back(wrong(at(i), shown, "may not change once set"));
    }
    if (now.size() >= then.size()) continue;
    if (now.empty()) causes.push_back(wrong(at(0), shown, fmt::format("primary {} can not be unset", half.primary)));
    if (now.size() == 1 && text(spec, "ipFamilyPolicy") != kSingle)
      causes.push_back(
          wrong("spec.ipFamilyPolicy", json::value(text(spec, "ipFamilyPolicy")),
                fmt::format("must be set to 'SingleStack' when releasing the secondary {}", half.secondary)));
  }
  return causes;
}

}  // namespace dhow::apiserver
