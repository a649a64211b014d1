// When each node was last heard, by this process' own clock: the renewals of its lease, and that it is Ready again.
// Told to others when a node falls silent, is heard again, or has surely fenced itself (client/node_lease.h).
//
// A node counts as heard when this process begins to look. Time in which this process itself heard nothing is not the
// nodes' silence: when it was held up (stopped, starved), or heard nobody at all (cut off from the store, or the store
// without a quorum). Masters that do not lead listen too, so that one that takes over goes on with the count.
#pragma once

#include <map>

#include "component.h"

namespace dhow::controllers {

class Heartbeats {
 public:
  // `quorumLease`: a Lease in kube-system that whoever leads renews through a quorum of the store whose members no
  // zone has most of. Empty: there is none. `caches` outlive this.
  Heartbeats(Loop& loop, client::Caches& caches, std::string quorumLease = "");
  ~Heartbeats();
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
  // It was started anew: it counts as heard, which is told, with its next renewal, and only silence goes on as before.
  void restarted(std::string_view node);
  // What a quorum of the store was asked to write lately has come back as an event: this process, if it leads, is cut
  // off neither from most zones nor from what the nodes write.
  bool quorate() const;

  // Silence since then was this process' own fault, and does not count: of those that are silent now.
  void discount(TimePoint since);

  // Called on the loop; it only adds keys.
  using Changed = std::function<void(const std::string& node)>;
  class Subscription;
  [[nodiscard]] std::unique_ptr<Subscription> onChange(Changed changed);

 private:
  enum class State { kHeard, kSilent, kFenced };
  struct Entry {
    TimePoint last;
    TimePoint steadySince;  // heard without a gap from then to `last`
    State state = State::kHeard;
    bool confirmed = false;
  };
  struct Listeners;
  void renewed(const std::string& node);
  void look();
  void arm();
  void tell(const std::string& node);

  Loop& loop_;
  const std::string quorumLease_;
  client::Cache& nodes_;
  client::Cache& leases_;
  std::map<std::string, Entry, std::less<>> entries_;
  TimePoint lastOfAny_;
  std::optional<TimePoint> quorumSeen_;
  std::shared_ptr<Listeners> listeners_;
  std::vector<std::unique_ptr<client::Cache::Subscription>> subscriptions_;
  Timer timer_;
  TimePoint due_;
};

// Ends the calls when it goes; may outlive the Heartbeats.
class Heartbeats::Subscription {
 public:
  Subscription(std::weak_ptr<Listeners> listeners, uint64_t id) : listeners_(std::move(listeners)), id_(id) {}
  ~Subscription();
  Subscription(const Subscription&) = delete;
  Subscription& operator=(const Subscription&) = delete;

 private:
  std::weak_ptr<Listeners> listeners_;
  uint64_t id_;
};

}  // namespace dhow::controllers
