// When each node was last heard, by this process' own clock: the renewals of its lease. Told to others when a node
// falls silent, is heard again, or has surely fenced itself (client/node_lease.h).
//
// A node counts as heard when this process begins to look. When the process itself was held up (stopped, starved), the
// time that it lost is not counted as the nodes' silence.
#pragma once

#include <map>

#include "component.h"

namespace dhow::controllers {

class Heartbeats {
 public:
  explicit Heartbeats(Context context);
  void start();
  void stop();

  // Zero for a node that is not known.
  Duration silence(std::string_view node) const;
  bool silent(std::string_view node) const;
  // A renewal was seen, not only assumed at the beginning.
  bool heard(std::string_view node) const;
  // It was heard without a gap for so long that a master that hears it was not cut off meanwhile.
  bool steady(std::string_view node) const;
  // Whatever identity it held, it holds it no more.
  bool fenced(std::string_view node) const;
  TimePoint last(std::string_view node) const;

  // `changed` lives as long as this. Called on the loop; it only adds keys.
  using Changed = std::function<void(const std::string& node)>;
  void onChange(Changed changed) { listeners_.push_back(std::move(changed)); }

 private:
  enum class State { kHeard, kSilent, kFenced };
  struct Entry {
    TimePoint last;
    TimePoint steadySince;  // heard without a gap from then to `last`
    State state = State::kHeard;
    bool confirmed = false;
  };
  void renewed(const std::string& node);
  void look();
  void arm();
  void tell(const std::string& node);

  Context context_;
  client::Cache& nodes_;
  client::Cache& leases_;
  std::map<std::string, Entry, std::less<>> entries_;
  std::vector<Changed> listeners_;
  std::vector<std::unique_ptr<client::Cache::Subscription>> subscriptions_;
  Timer timer_;
  TimePoint due_;
};

}  // namespace dhow::controllers
