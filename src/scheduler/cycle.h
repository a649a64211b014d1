// The scheduling of one pod against the state: filters that say where it may run, with Kubernetes' reasons, and scores
// that say where it should.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "state.h"

namespace dhow::scheduler {

// Why a node does not fit. `final`: no pod's removal would change it.
struct Refusal {
  std::vector<std::string> reasons;
  bool final = false;
};

struct Weights {
  int64_t taintToleration = 3, nodeAffinity = 2, fit = 1, spread = 2, podAffinity = 2, balanced = 1, imageLocality = 1;
};

// A soft constraint of all pods that name none: the pods of the same services and owner are spread.
struct DefaultSpread {
  std::string topologyKey;
  int64_t maxSkew = 1;
};

class Cycle {
 public:
  // `group`: the selector of the pod's services and owner, for the default spreading; everything() switches that off.
  Cycle(State& state, PodInfoPtr pod, object::LabelSelector group, const std::vector<DefaultSpread>& defaults);

  // Nothing when the pod fits. The state may have changed since: then refresh() comes first.
  std::optional<Refusal> filter(size_t slot) const;
  void refresh();
  // Sums of weighted scores, in the order of `slots`.
  std::vector<int64_t> score(const std::vector<size_t>& slots, const Weights& weights) const;

 private:
  struct HardSpread {
    const SpreadConstraint* constraint;
    std::map<std::string_view, int64_t> domains;
    int64_t least = 0;
    bool self = false;
  };
  struct Affinity {
    const AffinityTerm* term;
    std::map<std::string_view, int64_t> domains;
  };
  void prepareSpread();
  void prepareAffinity();
  std::optional<Refusal> fits(const Node& node) const;
  std::optional<Refusal> spreads(const Node& node) const;
  std::optional<Refusal> gathers(const Node& node) const;
  std::vector<int64_t> spreadScores(const std::vector<size_t>& slots) const;
  std::vector<int64_t> affinityScores(const std::vector<size_t>& slots) const;
  int64_t imageScore(const Node& node) const;

  State& state_;
  PodInfoPtr pod_;
  std::vector<SpreadConstraint> soft_;
  bool softIsDefault_ = false;
  std::vector<HardSpread> hard_;
  std::vector<Affinity> required_, anti_;
  std::map<std::pair<std::string, std::string>, bool> forbidden_;  // topology key and value
  bool firstOfItsKind_ = false;
};

}  // namespace dhow::scheduler
