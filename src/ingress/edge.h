// Ingresses and Gateways as a node serves them: watches what matters, compiles it (compile.h, gateway.h), and keeps a
// HAProxy at it. A burst of changes becomes one step; a change of endpoints alone costs what it changes. Without any
// Ingress or Gateway of a class of ours there is no HAProxy, and next to nothing is watched: routes are, while there is
// a Gateway. On the loop's thread; what blocks runs on the pool.
#pragma once

#include <functional>
#include <memory>
#include <set>
#include <string>

#include "base/blocking.h"
#include "base/loop.h"
#include "client/cache.h"
#include "client/sessions.h"

namespace dhow::ingress {

// Secrets and config maps that are named, each watched while it is.
class NamedObjects {
 public:
  struct Name {
    std::string plural, ns, name;
    auto operator<=>(const Name&) const = default;
  };
  virtual ~NamedObjects() = default;
  // From now on exactly these; `changed` is called when one of them does, or is known not to be there.
  virtual void use(std::set<Name> names, std::function<void()> changed) = 0;
  virtual bool known(const Name& name) const = 0;
  virtual client::ObjectPtr find(const Name& name) const = 0;
};

class Edge {
 public:
  struct Options {
    std::string program = "/usr/sbin/haproxy";
    std::string folder, run;    // see haproxy.h
    std::string address;        // where it listens
    std::string address6;       // and there by IPv6; one of both may be empty
    std::string dnsAddress;     // resolves names of services elsewhere
    std::string filterProgram;  // dhow, for the filter (edge_filter.h); empty: none is started
  };
  Edge(Loop& loop, BlockingPool& pool, client::Caches& caches, NamedObjects& named, Options options);
  ~Edge();
  // Whether requests are served here; before start().
  std::function<void(bool serving)> onServing;
  // The node is about to be taken away, and nobody new is sent here: connections are ended as soon as nothing is under
  // way on them, WebSockets when they end, and HAProxy with the last one. False: it stays after all.
  void setLeaving(bool leaving);

  // Takes up what an earlier agent left, or what is on disk, before any master has told anything.
  Task<> start();
  // Who waits for something here is answered now; before stop(), so that those who serve such questions can end.
  void endWaits();
  // HAProxy goes on.
  Task<> stop();
  // All changes of EndpointSlices up to this revision are in force.
  uint64_t applied() const;
  // Waits until that is so of `revision`, at most `limit`; gives what is applied then.
  Task<uint64_t> untilApplied(uint64_t revision, Duration limit);
  // HAProxy's counts in Prometheus' text format; empty while it does not run.
  Task<std::string> metrics();
  // Of requests, a line of JSON each; older ones are in <file>.1, <file>.2, ...
  std::string accessLogFile() const;
  // The same of what web application firewalls have found.
  std::string findingsFile() const;
  // The pods' users and connections (client/sessions.h). They are counted once a second while there is a route with
  // cookie affinity, or a pod drains; HAProxy tells of nothing by itself. kUnavailable: they cannot be counted now.
  Task<Result<client::SessionReport>> sessions(client::SessionQuestion question);

 private:
  struct Rep;
  std::unique_ptr<Rep> rep_;
};

// Whether a HAProxy serves here, whatever its agent does. `run` as in the options. Blocks.
bool edgeServes(const std::string& run);
// Ends what outlives the agent of a node that leaves its cluster: HAProxy and the filter. `run` as in the options.
// Blocks.
void endEdge(const std::string& run);

}  // namespace dhow::ingress
