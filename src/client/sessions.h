// What the edges of all nodes hold of a pod (sessions of users with an affinity cookie, and connections), told from the
// nodes to the masters, and by a master to the agent of a pod that leaves. Counts live in memory alone.
//
//   GET kSessionsPath ?seen=&fresh=&limit=     master to agent (through its tunnel): what has changed after `seen`, an
//     earlier report's `change`; waits for it at most `limit` milliseconds. fresh=1: counted anew, and told at once.
//   GET kTunnelPrefix + <node> + kHeldSuffix ?namespace=&name=&uid=&sessions=&connections=     agent to master, with
//   the
//     node's certificate. Without counts: what is held now, of counts that are newer than the question. With the counts
//     that the agent knows: answered when they are others, or after kHeldLimit.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/loop.h"
#include "base/result.h"
#include "http/message.h"
#include "object/object.h"

namespace dhow::client {

inline constexpr std::string_view kHeldSuffix = "/held";
inline constexpr std::string_view kSessionsPath = "/v1/sessions";
inline constexpr Duration kHeldLimit = std::chrono::seconds(10);
inline constexpr Duration kSessionsLimit = std::chrono::seconds(60);

// How long a pod's sessions are held, in place of its grace period, which begins after that: "2h".
inline constexpr std::string_view kSessionDeadlineAnnotation = "dhow.io/session-deadline";
// The condition of a pod whose sessions are held: True with the reason DrainingSessions, then False with SessionsEnded
// or SessionsCut.
inline constexpr std::string_view kSessionsHeldCondition = "dhow.io/SessionsHeld";

// Different users out of several, possibly the same, sets of them, exactly while they are few (P. Gibbons, "Distinct
// Sampling", 2001): of many only those are kept whose hash ends in `level` zero bits.
class UserSample {
 public:
  explicit UserSample(int level = 0) : level_(level) {}
  void add(uint64_t hash);
  void merge(const UserSample& other);
  void remove(const UserSample& other);
  uint64_t count() const { return static_cast<uint64_t>(hashes_.size()) << level_; }
  int level() const { return level_; }
  const std::set<uint64_t>& hashes() const { return hashes_; }
  bool operator==(const UserSample&) const = default;

 private:
  void raise(int level);
  int level_;
  std::set<uint64_t> hashes_;
};

// A pod as one node's edge counts it.
struct PodUse {
  bool sticky = false;  // a route with cookie affinity leads to it
  UserSample users;
  UserSample ended;  // whose session the application has ended: they count nowhere
  uint64_t connections = 0;
  bool operator==(const PodUse&) const = default;
};

struct SessionReport {
  uint64_t change = 0;                                         // of the newest count
  std::map<std::string, std::pair<uint64_t, PodUse>> changed;  // by the pod's uid, with its own last change
  std::set<std::string> all;                                   // the uids that are counted
};
struct SessionQuestion {
  uint64_t seen = 0;
  bool fresh = false;
  Duration limit = kSessionsLimit;
};
std::string sessionsTarget(const SessionQuestion& question);
SessionQuestion sessionQuestion(const http::Query& query);
std::string encodeSessions(const SessionReport& report);
Result<SessionReport> decodeSessions(std::string_view body);

// A pod as all edges count it.
struct Held {
  bool counted = false;  // an edge sends to it
  bool sticky = false;
  uint64_t sessions = 0, connections = 0;
  std::vector<std::string> missing;  // nodes whose edges did not tell
  bool any() const { return sessions + connections > 0; }
  bool operator==(const Held&) const = default;
};
struct HeldQuestion {
  std::string ns, name, uid;
  std::optional<std::pair<uint64_t, uint64_t>> known;  // sessions, connections
};
std::string heldTarget(std::string_view node, const HeldQuestion& question);
HeldQuestion heldQuestion(const http::Query& query);
std::string encodeHeld(const Held& held);
Result<Held> decodeHeld(std::string_view body);
// "3 sessions and 1 connection"
std::string describe(uint64_t sessions, uint64_t connections);

// "2h", "1h30m", "90s". Nothing for what is none, or is longer than a week.
std::optional<Duration> sessionTime(std::string_view text);
// For how long a pod's sessions are held before its grace period begins: by the annotation, unless a shorter grace
// period than the pod's own was asked for.
std::optional<Duration> ownSessionDeadline(const object::Object& pod);
// When a pod that is being deleted must have its stop signal. Without a deadline of its own that leaves the
// containers the last two seconds of the grace period, of a short one the half.
WallTime sessionDeadline(const object::Object& pod);
// "14:05:10Z"; with the date where that is not today.
std::string clockTime(WallTime time, WallTime now);

}  // namespace dhow::client
