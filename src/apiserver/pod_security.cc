#include "apiserver/pod_security.h"

#include <map>

#include "base/strings.h"
#include "client/fields.h"

namespace dhow::apiserver {

namespace json = boost::json;

namespace {

constexpr std::string_view kLabel = "pod-security.kubernetes.io/";
constexpr size_t kMaxPods = 3000;

std::optional<PodLevel> parseLevel(std::string_view text) {
  if (text == "privileged") return PodLevel::kPrivileged;
  if (text == "baseline") return PodLevel::kBaseline;
  if (text == "restricted") return PodLevel::kRestricted;
  return std::nullopt;
}

std::string_view nameOf(PodLevel level) {
  return level == PodLevel::kRestricted ? "restricted" : level == PodLevel::kBaseline ? "baseline" : "privileged";
}

std::optional<int> parseVersion(std::string_view text) {
  if (text == "latest") return PodPolicy::kLatest;
  if (!text.starts_with("v1.") || text.size() > 6) return std::nullopt;
  auto minor = parseInt(text.substr(3));
  if (!minor || *minor < 0 || fmt::format("v1.{}", *minor) != text) return std::nullopt;
  return static_cast<int>(*minor);
}

// Whether the label for this use is there.
bool readLabels(const object::Object& space, std::string_view use, PodPolicy& policy) {
  auto level = space.label(fmt::format("{}{}", kLabel, use));
  auto version = space.label(fmt::format("{}{}-version", kLabel, use));
  if (!level.empty()) policy.level = parseLevel(level).value_or(PodLevel::kRestricted);
  if (!version.empty()) policy.minor = parseVersion(version).value_or(PodPolicy::kLatest);
  return !level.empty();
}

}  // namespace

std::string PodPolicy::text() const {
  return fmt::format("{}:{}", nameOf(level), minor == kLatest ? "latest" : fmt::format("v1.{}", minor));
}

PodSecurityOptions PodSecurityOptions::restricted() {
  PodSecurityOptions options;
  options.level = PodLevel::kRestricted;
  options.floor = PodLevel::kBaseline;
  options.exempt = {"kube-system"};
  options.ownUsers = true;
  return options;
}

bool PodPolicies::privileged() const {
  return enforce.level == PodLevel::kPrivileged && warn.level == PodLevel::kPrivileged &&
         audit.level == PodLevel::kPrivileged;
}

PodPolicies PodSecurity::policiesOf(const object::Object& space) const {
  if (exempts(space.name())) return {};
  PodPolicies policies;
  policies.enforce.level = policies.warn.level = policies.audit.level = options_.level;
  if (client::object(space.root(), {"metadata", "labels"}).empty()) return policies;
  const bool enforced = readLabels(space, "enforce", policies.enforce);
  policies.enforce.level = std::max(policies.enforce.level, options_.floor);
  auto follow = [&](std::string_view use, PodPolicy& policy) {
    const bool own = readLabels(space, use, policy);
    // What would be refused is at least told where a template is written.
    if (!own && enforced && policy.level < policies.enforce.level) policy = policies.enforce;
  };
  follow("warn", policies.warn);
  follow("audit", policies.audit);
  return policies;
}

void PodSecurity::checkLabels(const json::object& space, std::vector<ErrorCause>& causes) const {
  const auto& labels = client::object(space, {"metadata", "labels"});
  if (labels.empty()) return;
  const bool exempt = exempts(client::text(space, {"metadata", "name"}));
  for (std::string_view use : {"enforce", "audit", "warn"}) {
    auto key = fmt::format("{}{}", kLabel, use);
    auto wrong = [&](const std::string& label, std::string_view value, std::string_view why) {
      causes.push_back({"FieldValueInvalid", fmt::format("Invalid value: \"{}\": {}", value, why),
                        fmt::format("metadata.labels[{}]", label)});
    };
    if (labels.contains(key)) {
      auto value = client::text(labels, key);
      auto level = parseLevel(value);
      if (!level)
        wrong(key, value, "must be one of privileged, baseline, restricted");
      else if (use == "enforce" && *level < options_.floor && !exempt)
        wrong(key, value,
              fmt::format("this cluster is restricted; a namespace may go down to {}", nameOf(options_.floor)));
    }
    key += "-version";
    if (labels.contains(key) && !parseVersion(client::text(labels, key)))
      wrong(key, client::text(labels, key), "must be \"latest\" or \"v1.x\"");
  }
}

std::string PodSecurity::violations(const json::object& pod, const PodPolicy& policy) const {
  auto found = podViolations(pod, policy);
  const bool hostUsers = client::flag(pod, {"spec", "hostUsers"});
  if (!options_.ownUsers || !hostUsers || policy.level == PodLevel::kPrivileged) return found;
  return "host users (pod must not set hostUsers=true)" + (found.empty() ? found : ", " + found);
}

void PodSecurity::giveOwnUsers(std::string_view ns, json::object& spec) const {
  if (!options_.ownUsers || exempts(ns)) return;
  const auto* given = spec.if_contains("hostUsers");
  if (given && !given->is_null()) return;
  // Beside these it would not be valid; the policy forbids them, and says so better.
  for (std::string_view host : {"hostNetwork", "hostPID", "hostIPC"}) {
    if (client::flag(spec, {host})) return;
  }
  spec["hostUsers"] = false;
}

std::vector<std::string> PodSecurity::violationsIn(std::string_view ns, const std::vector<object::ObjectPtr>& pods,
                                                   const PodPolicy& policy) {
  struct Count {
    std::string first;
    size_t pods = 0;
  };
  std::map<std::string, Count> found;
  for (size_t i = 0; i < pods.size() && i < kMaxPods; ++i) {
    auto violation = podViolations(pods[i]->root(), policy, true);
    if (violation.empty()) continue;
    auto& count = found[violation];
    if (++count.pods == 1 || pods[i]->name() < count.first) count.first = pods[i]->name();
  }
  std::vector<std::string> warnings;
  for (const auto& [violation, count] : found) {
    auto others = count.pods == 1   ? std::string()
                  : count.pods == 2 ? " (and 1 other pod)"
                                    : fmt::format(" (and {} other pods)", count.pods - 1);
    warnings.push_back(fmt::format("{}{}: {}", count.first, others, violation));
  }
  std::sort(warnings.begin(), warnings.end());
  if (!warnings.empty())
    warnings.insert(warnings.begin(),
                    fmt::format("existing pods in namespace \"{}\" violate the new PodSecurity enforce level \"{}\"",
                                ns, policy.text()));
  if (pods.size() > kMaxPods)
    warnings.insert(warnings.begin(), fmt::format("new PodSecurity enforce level only checked against the first {} of "
                                                  "{} existing pods",
                                                  kMaxPods, pods.size()));
  return warnings;
}

bool changesPodSecurity(const json::object& before, const json::object& after) {
  for (std::string_view list : {"containers", "initContainers", "ephemeralContainers", "volumes"}) {
    if (client::array(before, {"spec", list}) != client::array(after, {"spec", list})) return true;
  }
  auto profiles = [](const json::object& pod) {
    std::map<std::string_view, std::string_view> found;
    for (const auto& [key, value] : client::object(pod, {"metadata", "annotations"})) {
      if (key.starts_with("container.apparmor.security.beta.kubernetes.io/") && value.is_string())
        found.emplace(key, value.get_string());
    }
    return found;
  };
  return client::object(before, {"spec", "securityContext"}) != client::object(after, {"spec", "securityContext"}) ||
         profiles(before) != profiles(after);
}

}  // namespace dhow::apiserver
