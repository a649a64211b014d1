// What the agent that stops a pod asks a master, and what the master asks those who send to pods: the drain barrier
// (apiserver/drain_barrier.h).
//
//   GET kTunnelPrefix + <node> + kDrainSuffix ?namespace=&name=&uid=&revision=     agent to master, with the node's
//     certificate; `revision` is the pod's resourceVersion with its deletion. Answered when nobody sends to the pod any
//     more, or with who has not confirmed that: {"told": true, "missing": ["node-3"]}. With &over=1: no more, not even
//     the users that it has: the slices must say that it does not serve. Without a name: answered when all
//     EndpointSlices up to the revision are in force everywhere.
//   GET kAppliedPath ?revision=&limit=     master to agent (through its tunnel) and to the region: answered when all
//     EndpointSlices up to the revision are in force there, or after `limit` milliseconds: {"applied": 42}.
#pragma once

#include <boost/json/object.hpp>

#include <string>
#include <string_view>
#include <vector>

#include "base/loop.h"
#include "base/result.h"
#include "http/message.h"

namespace dhow::client {

inline constexpr std::string_view kDrainSuffix = "/drained";
inline constexpr std::string_view kAppliedPath = "/v1/endpointslices/applied";
inline constexpr Duration kAppliedLimit = std::chrono::seconds(10);  // the most that is waited for one question

struct DrainQuestion {
  std::string ns, name, uid;
  uint64_t revision = 0;
  bool over = false;  // what was held of it is over (sessions.h)
};

struct Drained {
  bool told = true;                  // the slices say that the pod ends
  std::vector<std::string> missing;  // who has not confirmed in time
  // What is to be said about it; empty when all went well.
  std::string complaint() const;
};

// "/dhow.io/v1/agents/n1/drained?namespace=..."
std::string drainTarget(std::string_view node, const DrainQuestion& pod);
std::string encodeDrained(const Drained& drained);
Result<Drained> decodeDrained(std::string_view body);
struct AppliedQuestion {
  uint64_t revision = 0;
  Duration limit = kAppliedLimit;
};
std::string appliedTarget(const AppliedQuestion& question);
// What is missing or beyond bounds is as in a question without it.
AppliedQuestion appliedQuestion(const http::Query& query);
std::string encodeApplied(uint64_t revision);
Result<uint64_t> decodeApplied(std::string_view body);

}  // namespace dhow::client
