// What the edges of all nodes hold of each pod (client/sessions.h), as every master knows it in memory: it asks each
// agent through its tunnel, and is answered when something changes. A node that is dead by its lease, or has no tunnel
// for that long, holds nothing. On the loop's thread.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "base/gate.h"
#include "client/cache.h"
#include "client/sessions.h"
#include "node_consumers.h"
#include "tunnels.h"

namespace dhow::apiserver {

class SessionCounts {
 public:
  SessionCounts(Loop& loop, client::Caches& caches, const NodeConsumers& nodes, Tunnels& tunnels);
  ~SessionCounts();
  void start();
  Task<> stop();

  // All pods that are counted, by uid.
  std::map<std::string, client::Held> all() const;
  // See client/sessions.h for when it answers.
  Task<Result<client::Held>> held(client::HeldQuestion question);
  // PodSessions of a namespace, or of all.
  std::vector<object::ObjectPtr> objects(std::string_view ns) const;
  // The column SESSIONS, of counts as they are now: for many pods, and of one.
  std::function<std::string(const object::Object& pod)> column() const;
  std::string cell(const object::Object& pod) const;
  // Prometheus' text format.
  std::string metrics() const;

 private:
  struct Node;
  client::Held of(const std::string& uid) const;
  static Task<> follow(SessionCounts* self, std::string node, std::shared_ptr<http::Client> agent);
  static Task<> refreshOne(SessionCounts* self, std::string node, std::shared_ptr<Node> known);
  std::shared_ptr<Node> at(const std::string& node);  // known from now on
  Task<Result<>> ask(std::string node, std::shared_ptr<http::Client> agent, bool fresh, Duration limit);
  void take(Node& known, client::SessionReport report);
  Task<std::vector<std::string>> refresh();

  Loop& loop_;
  client::Cache& pods_;
  const NodeConsumers& nodes_;
  Tunnels& tunnels_;
  std::map<std::string, std::shared_ptr<Node>> known_;
  bool stopping_ = false;
  Signal changed_, refreshed_, stopped_;
  Gate gate_;
};

}  // namespace dhow::apiserver
