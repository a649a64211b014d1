// Pod Security admission (https://kubernetes.io/docs/concepts/security/pod-security-standards/): the levels privileged,
// baseline and restricted, which a namespace chooses by labels for enforcement, warnings and audit. The texts are
// Kubernetes'.
#pragma once

#include <boost/json/object.hpp>

#include <limits>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "object/object.h"

namespace dhow::apiserver {

enum class PodLevel { kPrivileged, kBaseline, kRestricted };

struct PodPolicy {
  static constexpr int kLatest = std::numeric_limits<int>::max();
  PodLevel level = PodLevel::kPrivileged;
  int minor = kLatest;       // of the Kubernetes version whose rules count
  std::string text() const;  // "restricted:latest"
  bool operator==(const PodPolicy&) const = default;
};

struct PodSecurityOptions {
  PodLevel level = PodLevel::kPrivileged;  // of namespaces without labels, for all three uses
  PodLevel floor = PodLevel::kPrivileged;  // labels enforce no less than this
  std::set<std::string, std::less<>> exempt = {};
  bool ownUsers = false;  // every pod has a user namespace of its own (hostUsers: false)
  static PodSecurityOptions
  restricted();  // of a restricted cluster: by labels down to baseline, own users, and kube-system is free
};

struct PodPolicies {
  PodPolicy enforce, warn, audit;
  bool privileged() const;
};

class PodSecurity {
 public:
  explicit PodSecurity(PodSecurityOptions options) : options_(std::move(options)) {}

  // What counts in a namespace. Labels that cannot be read count as restricted.
  PodPolicies policiesOf(const object::Object& space) const;
  // What is wrong with a namespace's labels.
  void checkLabels(const boost::json::object& space, std::vector<ErrorCause>& causes) const;
  bool exempts(std::string_view ns) const { return options_.exempt.contains(ns); }
  // As podViolations() below, and what this cluster asks of its pods beside.
  std::string violations(const boost::json::object& pod, const PodPolicy& policy) const;
  // Gives a new pod that does not say anything about it a user namespace of its own where every pod has one.
  void giveOwnUsers(std::string_view ns, boost::json::object& podSpec) const;
  // What the running pods of a namespace would be refused for under the policy, in words for a warning.
  static std::vector<std::string> violationsIn(std::string_view ns, const std::vector<object::ObjectPtr>& pods,
                                               const PodPolicy& policy);

 private:
  PodSecurityOptions options_;
};

// What the policy forbids in a pod or pod template (metadata and spec), as "privileged (container "c" must not set
// securityContext.privileged=true), ..."; empty: nothing. `brief` leaves out what stands in parentheses.
std::string podViolations(const boost::json::object& pod, const PodPolicy& policy, bool brief = false);
// Whether a changed pod has to be judged anew.
bool changesPodSecurity(const boost::json::object& before, const boost::json::object& after);

}  // namespace dhow::apiserver
