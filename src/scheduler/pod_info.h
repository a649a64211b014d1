// What scheduling needs to know of a pod, read out of its document once.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "client/client.h"
#include "object/selector.h"

namespace dhow::scheduler {

using client::Object;
using client::ObjectPtr;
namespace json = boost::json;

struct Resources {
  int64_t cpu = 0;        // thousandths
  int64_t memory = 0;     // bytes
  int64_t ephemeral = 0;  // bytes
  std::map<std::string, int64_t, std::less<>> others;

  void add(const Resources& more, int64_t sign = 1);
  void atLeast(const Resources& floor);
  void atMost(int64_t each);
};
Resources parseResources(const json::object& quantities);

struct Toleration {
  std::string key, op, value, effect;
};
struct Taint {
  std::string key, value, effect;
};
bool tolerates(const std::vector<Toleration>& tolerations, const Taint& taint);

struct HostPort {
  std::string ip, protocol;
  int64_t port = 0;
  bool conflicts(const HostPort& other) const;
};

// One requirement of a node selector; Gt and Lt included.
struct NodeRequirement {
  std::string key, op;
  std::vector<std::string> values;
  bool field = false;  // of metadata.name, not of a label
};
struct NodeTerm {
  std::vector<NodeRequirement> all;
  int64_t weight = 0;
  bool matches(const Object& node) const;
};

// Pods of certain namespaces with certain labels.
struct PodMatch {
  std::set<std::string, std::less<>> namespaces;
  bool everyNamespace = false;
  object::LabelSelector selector;
  bool matches(std::string_view ns, const json::object* labels) const;
  std::string text() const;
};

struct AffinityTerm {
  PodMatch match;
  std::string topologyKey;
  int64_t weight = 0;
  std::string text() const { return topologyKey + "|" + std::to_string(weight) + "|" + match.text(); }
};

struct SpreadConstraint {
  int64_t maxSkew = 1;
  int64_t minDomains = 1;
  std::string topologyKey;
  PodMatch match;
  bool honorAffinity = true;
  bool honorTaints = false;
};

struct PodInfo {
  ObjectPtr pod;
  std::string key, uid, ns, node, nominated;
  const json::object* labels = nullptr;  // in `pod`
  int64_t priority = 0;
  bool preempts = true;
  bool gated = false;
  bool terminating = false;
  Resources requests;
  int64_t scoredCpu = 0, scoredMemory = 0;  // with stand-ins for containers that request nothing
  std::vector<Toleration> tolerations;
  std::vector<NodeRequirement> nodeSelector;
  std::vector<NodeTerm> nodeRequired;  // any of them, when there are some
  bool hasNodeRequired = false;
  std::vector<NodeTerm> nodePreferred;
  std::vector<HostPort> ports;
  std::vector<std::string> images;
  std::vector<AffinityTerm> affinity, antiAffinity, preferredAffinity, preferredAntiAffinity;
  std::vector<SpreadConstraint> spreadHard, spreadSoft;
  bool ownSpread = false;  // it names constraints itself, so that the defaults do not apply

  bool matchesNode(const Object& node) const;
};
using PodInfoPtr = std::shared_ptr<const PodInfo>;

// `namespaces`: the objects of all namespaces, for namespaceSelector; only called for terms that have one.
PodInfoPtr readPod(const ObjectPtr& pod, const std::function<std::vector<ObjectPtr>()>& namespaces);

}  // namespace dhow::scheduler
