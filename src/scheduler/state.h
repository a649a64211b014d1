// Nodes and the pods on them, as the scheduler knows them: what the caches say plus what it has assumed. Kept current
// change by change; nothing is copied or recounted for a scheduling. How many pods of a selector stand on each node is
// counted the first time that somebody asks, and from then on kept with every pod that comes or goes.
#pragma once

#include <list>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "pod_info.h"

namespace dhow::scheduler {

struct Node {
  ObjectPtr node;  // null: a free slot
  std::string name, zone;
  std::vector<Taint> taints;
  bool unschedulable = false;
  Resources allocatable, requested;
  int64_t podLimit = 110;
  int64_t scoredCpu = 0, scoredMemory = 0;
  std::vector<PodInfoPtr> pods;
  std::map<std::string, int64_t, std::less<>> images;
  std::string_view label(std::string_view key) const { return node->label(key); }
};

// Pods that meet all of `all`, by node slot. Pods that are being deleted do not count.
struct Count {
  std::vector<PodMatch> all;
  std::vector<int32_t> byNode;
  bool matches(const PodInfo& pod) const;
};

// The pods that carry one and the same affinity term, by node slot.
struct Carriers {
  AffinityTerm term;
  std::unordered_map<size_t, int32_t> byNode;
};

class State {
 public:
  // Takes over pods that were already known to be on it.
  void setNode(const ObjectPtr& node);
  void removeNode(std::string_view name);
  // Adds the pod to the node that it names; before the node is known, too. Replaces the one with the same uid.
  void addPod(PodInfoPtr pod);
  void removePod(const std::string& uid);
  PodInfoPtr pod(const std::string& uid) const;

  size_t nodeCount() const { return order().size(); }
  // Slots of nodes, zone by zone in turn, so that a sample of them holds all zones.
  const std::vector<size_t>& order() const;
  const Node& at(size_t slot) const { return nodes_[slot]; }
  std::optional<size_t> slotOf(std::string_view name) const;

  const Count& count(const std::vector<PodMatch>& all);
  using Group = std::map<std::string, Carriers>;
  const Group& antiAffinity() const { return antiAffinity_; }  // required
  const Group& affinity() const { return affinity_; }          // required
  const Group& preferredAffinity() const { return preferredAffinity_; }
  const Group& preferredAntiAffinity() const { return preferredAntiAffinity_; }
  // Nodes that hold the image.
  int64_t imageSpread(const std::string& image) const;

 private:
  void place(const PodInfoPtr& pod, size_t slot);
  void unplace(const PodInfoPtr& pod, size_t slot);
  void tally(const PodInfo& pod, size_t slot, int sign);
  static void carry(Group& group, const std::vector<AffinityTerm>& terms, size_t slot, int sign);

  std::vector<Node> nodes_;
  std::vector<size_t> free_;
  std::unordered_map<std::string, size_t> slots_;
  std::unordered_map<std::string, PodInfoPtr> pods_;                             // by uid
  std::unordered_map<std::string, std::map<std::string, PodInfoPtr>> homeless_;  // by the node's name, then uid
  mutable std::vector<size_t> order_;
  mutable bool reorder_ = false;
  struct Counted {
    std::unique_ptr<Count> count;
    std::list<std::string>::iterator age;
  };
  std::unordered_map<std::string, Counted> counts_;
  std::list<std::string> ages_;
  Group antiAffinity_, affinity_, preferredAffinity_, preferredAntiAffinity_;
  std::unordered_map<std::string, int64_t> imageSpread_;
};

}  // namespace dhow::scheduler
