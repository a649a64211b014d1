#include "session_counts.h"

#include "base/log.h"
#include "base/time.h"
#include "client/fields.h"
#include "client/node_lease.h"

namespace dhow::apiserver {

namespace json = boost::json;
using client::text;
using object::Object;
using object::ObjectPtr;
using object::resources::kPods;

namespace {

constexpr size_t kLongestReport = 64 << 20;
constexpr Duration kFreshLimit = std::chrono::seconds(2);
constexpr Duration kAskAgain = std::chrono::seconds(1);  // after an error, and at least between two reports

std::string cellOf(const client::Held& held, const Object& pod, WallTime now) {
  const bool draining = pod.deleting() && client::conditionTrue(pod.root(), client::kSessionsHeldCondition);
  if (!held.counted || (!draining && !held.sticky)) return "<none>";
  if (!draining) return std::to_string(held.sessions);
  const std::string count = held.sticky && held.connections == 0 ? std::to_string(held.sessions)
                                                                 : client::describe(held.sessions, held.connections);
  return fmt::format("{} (draining until {})", count, client::clockTime(client::sessionDeadline(pod), now));
}

}  // namespace

struct SessionCounts::Node {
  uint64_t change = 0;                            // of the newest report
  std::map<std::string, client::PodUse> counted;  // by uid
  bool unable = false;                            // its agent knows no such question
  // Counting anew: one question is under way at a time, and one that comes meanwhile is served by the next.
  uint64_t wanted = 0, begun = 0, done = 0;
  bool refreshing = false;
};

SessionCounts::SessionCounts(Loop& loop, client::Caches& caches, const NodeConsumers& nodes, Tunnels& tunnels)
    : loop_(loop),
      pods_(caches.of(kPods)),
      nodes_(nodes),
      tunnels_(tunnels),
      changed_(loop),
      refreshed_(loop),
      stopped_(loop),
      gate_(loop) {}

SessionCounts::~SessionCounts() = default;

void SessionCounts::start() {
  tunnels_.onAdded = [this](const std::string& node) {
    if (stopping_) return;
    // Another agent may be there, which counts in its own way and heard no question of ours.
    Node& known = *at(node);
    known.change = 0;
    known.unable = false;
    known.begun = known.done;
    refreshed_.notify();
    gate_.spawn(follow(this, node, tunnels_.find(node)));
  };
}

Task<> SessionCounts::stop() {
  stopping_ = true;
  tunnels_.onAdded = nullptr;
  for (Signal* signal : {&changed_, &refreshed_, &stopped_}) signal->notify();
  co_await gate_.close();
}

std::shared_ptr<SessionCounts::Node> SessionCounts::at(const std::string& node) {
  std::shared_ptr<Node>& known = known_[node];
  if (!known) known = std::make_shared<Node>();
  return known;
}

Task<Result<>> SessionCounts::ask(std::string node, std::shared_ptr<http::Client> agent, bool fresh, Duration limit) {
  const client::SessionQuestion question{at(node)->change, fresh, limit};
  http::Request request;
  auto response = co_await agent->fetch(fmt::format("http://{}{}", node, client::sessionsTarget(question)),
                                        std::move(request), kLongestReport);
  CO_RETURN_IF_ERROR(response);
  if (auto now = tunnels_.find(node); now && now != agent) co_return Error(Code::kUnavailable, "it has dialed in anew");
  if (response->status == 404) {
    Node& known = *at(node);
    known.unable = true;
    known.counted.clear();
    changed_.notify();
    refreshed_.notify();
    co_return Error(Code::kUnimplemented, "its agent cannot tell");
  }
  if (response->status != 200) co_return Error(Code::kUnavailable, response->body.substr(0, 200));
  CO_ASSIGN_OR_RETURN(client::SessionReport report, client::decodeSessions(response->body));
  take(*at(node), std::move(report));
  co_return Result<>();
}

void SessionCounts::take(Node& known, client::SessionReport report) {
  // Of two answers that cross, the newer one knows all that the other does.
  if (report.change < known.change) return;
  known.change = report.change;
  bool news = std::erase_if(known.counted, [&](const auto& one) { return !report.all.contains(one.first); }) > 0;
  for (auto& [uid, entry] : report.changed) {
    auto [have, fresh] = known.counted.try_emplace(uid);
    news = news || fresh || have->second != entry.second;
    have->second = std::move(entry.second);
  }
  if (news) changed_.notify();
}

// As long as that connection lives.
Task<> SessionCounts::follow(SessionCounts* self, std::string node, std::shared_ptr<http::Client> agent) {
  while (!self->stopping_ && self->tunnels_.find(node) == agent) {
    auto asked = co_await self->ask(node, agent, false, client::kSessionsLimit);
    if (self->stopping_ || (!asked.ok() && asked.error().is(Code::kUnimplemented))) co_return;
    co_await self->stopped_.waitFor(kAskAgain);
  }
  if (self->stopping_) co_return;
  // It may be dialing in again.
  co_await self->stopped_.waitFor(client::kSilentAfter);
  if (!self->stopping_ && !self->tunnels_.find(node)) {
    self->known_.erase(node);
    self->changed_.notify();
  }
}

Task<> SessionCounts::refreshOne(SessionCounts* self, std::string node, std::shared_ptr<Node> known) {
  while (!self->stopping_ && known->begun < known->wanted) {
    const uint64_t begun = known->begun = known->wanted;
    auto agent = self->tunnels_.find(node);
    if (!agent) break;
    auto asked = co_await self->ask(node, agent, true, kFreshLimit);
    if (asked.ok()) known->done = begun;
    self->refreshed_.notify();
  }
  known->refreshing = false;
  self->refreshed_.notify();
}

// Counts that are newer than this call; gives the nodes that did not tell.
Task<std::vector<std::string>> SessionCounts::refresh() {
  struct Wanted {
    std::shared_ptr<Node> node;
    uint64_t count;
  };
  const TimePoint end = loop_.now() + kFreshLimit;
  std::map<std::string, Wanted> waiting;
  for (const std::string& name : nodes_.edges()) {
    auto known = at(name);
    known->wanted = std::max(known->wanted, known->begun + 1);
    waiting[name] = {known, known->wanted};
  }
  while (!stopping_) {
    for (const auto& [name, wanted] : waiting) {
      Node& known = *wanted.node;
      if (known.refreshing || known.begun >= wanted.count || !tunnels_.find(name)) continue;
      known.refreshing = true;
      gate_.spawn(refreshOne(this, name, wanted.node));
    }
    std::erase_if(waiting, [](const auto& one) {
      const auto& [known, count] = one.second;
      return known->unable || known->done >= count;
    });
    const Duration left = end - loop_.now();
    if (waiting.empty() || left <= Duration::zero()) break;
    co_await refreshed_.waitFor(left);
  }
  std::vector<std::string> missing;
  for (const auto& [name, wanted] : waiting) missing.push_back(name);
  co_return missing;
}

std::map<std::string, client::Held> SessionCounts::all() const {
  std::map<std::string, client::Held> out;
  std::map<std::string, client::UserSample> users, ended;
  for (const std::string& name : nodes_.edges()) {
    auto known = known_.find(name);
    if (known == known_.end()) continue;
    for (const auto& [uid, entry] : known->second->counted) {
      client::Held& held = out[uid];
      held.counted = true;
      held.sticky |= entry.sticky;
      held.connections += entry.connections;
      users[uid].merge(entry.users);
      ended[uid].merge(entry.ended);
    }
  }
  for (auto& [uid, held] : out) {
    users[uid].remove(ended[uid]);
    held.sessions = users[uid].count();
  }
  return out;
}

client::Held SessionCounts::of(const std::string& uid) const {
  client::Held out;
  client::UserSample users, ended;
  for (const std::string& name : nodes_.edges()) {
    auto known = known_.find(name);
    if (known == known_.end()) continue;
    auto entry = known->second->counted.find(uid);
    if (entry == known->second->counted.end()) continue;
    const client::PodUse& use = entry->second;
    out.counted = true;
    out.sticky |= use.sticky;
    out.connections += use.connections;
    users.merge(use.users);
    ended.merge(use.ended);
  }
  users.remove(ended);
  out.sessions = users.count();
  return out;
}

Task<Result<client::Held>> SessionCounts::held(client::HeldQuestion question) {
  std::vector<std::string> missing;
  if (!question.known) missing = co_await refresh();
  const TimePoint end = loop_.now() + client::kHeldLimit;
  client::Held out = of(question.uid);
  while (!stopping_ && question.known && *question.known == std::pair(out.sessions, out.connections)) {
    const Duration left = end - loop_.now();
    if (left <= Duration::zero()) break;
    co_await changed_.waitFor(left);
    out = of(question.uid);
  }
  if (stopping_) co_return Error(Code::kUnavailable, "the server is stopping");
  // What a node holds without a tunnel, nobody knows.
  if (question.known)
    for (const std::string& name : nodes_.edges())
      if (!tunnels_.find(name)) missing.push_back(name);
  out.missing = std::move(missing);
  co_return out;
}

std::vector<ObjectPtr> SessionCounts::objects(std::string_view ns) const {
  std::vector<ObjectPtr> out;
  const auto counts = all();
  if (counts.empty()) return out;
  for (const ObjectPtr& pod : pods_.list(ns)) {
    auto found = counts.find(std::string(pod->uid()));
    if (found == counts.end()) continue;
    const client::Held& held = found->second;
    json::object body{{"apiVersion", "dhow.io/v1"},
                      {"kind", "PodSessions"},
                      {"metadata", json::object{{"name", pod->name()},
                                                {"namespace", pod->ns()},
                                                {"creationTimestamp", text(pod->metadata(), "creationTimestamp")}}},
                      {"podUID", pod->uid()},
                      {"node", text(pod->root(), {"spec", "nodeName"})}};
    if (held.sticky) body["sessions"] = static_cast<int64_t>(held.sessions);
    body["connections"] = static_cast<int64_t>(held.connections);
    body["state"] = pod->deleting() ? "Draining" : "Serving";
    if (pod->deleting()) body["until"] = formatTime(client::sessionDeadline(*pod));
    out.push_back(Object::make(std::move(body)));
  }
  return out;
}

std::function<std::string(const Object& pod)> SessionCounts::column() const {
  return [counts = all(), now = loop_.wallNow()](const Object& pod) {
    auto found = counts.find(std::string(pod.uid()));
    return found == counts.end() ? cellOf({}, pod, now) : cellOf(found->second, pod, now);
  };
}

std::string SessionCounts::cell(const Object& pod) const {
  return cellOf(of(std::string(pod.uid())), pod, loop_.wallNow());
}

std::string SessionCounts::metrics() const {
  std::string sessions = "# TYPE dhow_pod_sessions gauge\n", connections = "# TYPE dhow_pod_connections gauge\n";
  const auto counts = all();
  for (const ObjectPtr& pod : pods_.list()) {
    auto found = counts.find(std::string(pod->uid()));
    if (found == counts.end()) continue;
    const std::string labels = fmt::format("{{namespace=\"{}\",pod=\"{}\"}}", pod->ns(), pod->name());
    if (found->second.sticky) sessions += fmt::format("dhow_pod_sessions{} {}\n", labels, found->second.sessions);
    connections += fmt::format("dhow_pod_connections{} {}\n", labels, found->second.connections);
  }
  return counts.empty() ? "" : sessions + connections;
}

}  // namespace dhow::apiserver
