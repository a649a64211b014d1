// What NetworkPolicies, namespaces and pods say, turned into the network's plain values. Pure: the agent fills it from
// watches, `dhow policy explain` from lists, and both ask the same functions.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "client/client.h"
#include "network/policy.h"
#include "object/selector.h"

namespace dhow::node {

using client::Object;
using client::ObjectPtr;
using dhow::object::LabelSelector;

// Pods that a peer of a rule selects: those with matching labels in one namespace, or in all that match.
struct PodGroup {
  std::string ns;  // empty: `namespaces` selects
  LabelSelector namespaces, pods;
  std::string text() const;  // tells groups apart
};

struct PolicyEntry {
  PolicyRule rule;  // without groups
  std::vector<PodGroup> groups;
};

struct NetworkPolicy {
  ObjectPtr object;
  LabelSelector pods;
  std::optional<std::vector<PolicyEntry>> ingress, egress;  // of the directions that it limits
};
NetworkPolicy parseNetworkPolicy(const ObjectPtr& object);

// The addresses by which a pod is known to others; none when it has none of its own, or is over.
std::vector<IpAddress> podAddresses(const Object& pod);
// Sorted.
std::vector<NamedPort> namedPorts(const Object& pod);

enum class Direction { kIngress, kEgress };

class PolicyModel {
 public:
  // `isolate`: pods are isolated in both directions whether or not a policy selects them, kube-system's excepted: the
  // default of restricted clusters.
  explicit PolicyModel(bool isolate) : isolate_(isolate) {}

  void set(const ObjectPtr& policy);
  void remove(const std::string& key);  // "namespace/name"
  void setNamespace(const ObjectPtr& ns);
  void removeNamespace(const std::string& name);
  const std::map<std::string, NetworkPolicy>& policies() const { return policies_; }
  const std::map<std::string, ObjectPtr>& namespaces() const { return namespaces_; }
  // Whether any pod may be isolated at all.
  bool matters() const { return isolate_ || !policies_.empty(); }

  // The rules for a pod in one direction, in order of their policies' names, with where each comes from.
  struct Source {
    const NetworkPolicy* policy = nullptr;
    size_t index = 0;
  };
  struct Isolation {
    bool isolated = false;
    bool byDefault = false;                      // whatever policies say
    std::vector<const NetworkPolicy*> policies;  // that select the pod for this direction
    std::vector<Source> sources;                 // of each rule
    std::vector<PolicyRule> rules;
  };
  Isolation isolationOf(const Object& pod, Direction direction);
  // Calls of isolationOf() number groups; the ways to know a pod are its groups among these and its ports' names that
  // egress rules use. forgetGroups() begins anew; numbers stay.
  void forgetGroups();
  PolicySubject subjectOf(const Object& pod);
  PolicyPeer peerOf(const Object& pod) const;
  // Tells whether peerOf() may answer otherwise than at another time.
  struct Terms {
    std::set<uint32_t> groups;
    std::set<std::string> names;
    bool operator==(const Terms&) const = default;
  };
  const Terms& terms() const { return terms_; }

 private:
  struct Group {
    uint32_t number = 0;
    PodGroup group;
  };
  uint32_t numberOf(const PodGroup& group);

  bool isolate_;
  std::map<std::string, NetworkPolicy> policies_;
  std::map<std::string, ObjectPtr> namespaces_;
  std::map<std::string, Group> groups_;
  uint32_t lastGroup_ = 0;
  Terms terms_;
};

// Why a connection may or may not be: both ends' words. An end is a pod, or only an address.
struct PolicyEnd {
  ObjectPtr pod;
  IpAddress address;
};
struct Verdict {
  struct Side {
    std::string exemption;  // why nothing is asked here; then `allowed`
    PolicyModel::Isolation isolation;
    std::optional<size_t> rule;  // of isolation.rules
    bool allowed = true;
  };
  Side egress, ingress;
  bool allowed() const { return egress.allowed && ingress.allowed; }
};
Verdict judge(PolicyModel& model, const PolicyEnd& from, const PolicyEnd& to, Protocol protocol, uint16_t port);

}  // namespace dhow::node
