#include "replicaset.h"

#include <cmath>

#include "base/log.h"
#include "base/strings.h"
#include "client/sessions.h"
#include "platform.h"

namespace dhow::controllers {

using namespace client;
using object::resources::kPods;
using object::resources::kReplicaSets;

namespace {
constexpr size_t kBurst = 500;
constexpr size_t kLongestPrefix = 58;  // a pod's name is its host name's: 63 letters

json::object podFrom(const Object& set, uint64_t random) {
  const json::object& tmpl = client::object(set.root(), {"spec", "template"});
  json::object metadata;
  for (std::string_view name : {"labels", "annotations", "finalizers"}) {
    if (const json::value* value = field(tmpl, {"metadata", name})) metadata[name] = *value;
  }
  const std::string prefix = std::string(set.name()) + "-";
  metadata["generateName"] = prefix;
  // Chosen here, so that a pod whose answer is lost can be looked up.
  metadata["name"] = prefix.substr(0, kLongestPrefix) + nameSuffix(random, 5);
  metadata["namespace"] = set.ns();
  metadata["ownerReferences"] = json::array{controllerReference(set)};
  return {{"apiVersion", "v1"},
          {"kind", "Pod"},
          {"metadata", std::move(metadata)},
          {"spec", client::object(tmpl, {"spec"})}};
}

struct Rank {
  int assigned;  // 0: no node
  int phase;     // 0: pending, 1: unknown, 2: running
  int ready;
  int64_t cost;
  int64_t users;     // sessions and connections
  int64_t crowd;     // negative number of related pods on the node
  int64_t readyAge;  // grows with the time that it has been ready, in powers of ten
  int64_t restarts;  // negative
  int64_t created;   // negative
  std::string name;
  auto operator<=>(const Rank&) const = default;
};

// The messages of pods' conditions, which tell counts and deadlines; not of more pods than one can read.
std::string heldOf(const std::vector<ObjectPtr>& pods) {
  constexpr size_t kMostNamed = 5;
  std::vector<std::string> told;
  size_t more = 0;
  for (const ObjectPtr& pod : pods) {
    const json::object* held = condition(pod->root(), kSessionsHeldCondition);
    if (!pod->deleting() || held == nullptr || text(*held, "status") != "True") continue;
    if (told.size() < kMostNamed)
      told.push_back(fmt::format("pod {}: {}", pod->name(), text(*held, "message")));
    else
      ++more;
  }
  if (more > 0) told.push_back(fmt::format("{} more pods", more));
  return join(told, "; ");
}

}  // namespace

std::vector<ObjectPtr> deletionOrder(std::vector<ObjectPtr> active, const std::vector<ObjectPtr>& related,
                                     const std::map<std::string, int64_t>& users) {
  std::map<std::string_view, int64_t> onNode;
  for (const ObjectPtr& pod : related) {
    if (podActive(*pod)) ++onNode[text(pod->root(), {"spec", "nodeName"})];
  }
  std::vector<std::pair<Rank, ObjectPtr>> ranked;
  for (ObjectPtr& pod : active) {
    const json::object& root = pod->root();
    const std::string_view node = text(root, {"spec", "nodeName"});
    const std::string_view phase = text(root, {"status", "phase"});
    Rank rank{};
    rank.assigned = !node.empty();
    rank.phase = phase == "Running" ? 2 : phase == "Unknown" ? 1 : 0;
    rank.ready = podReady(*pod);
    rank.cost = parseInt(pod->annotation("controller.kubernetes.io/pod-deletion-cost")).value_or(0);
    auto held = users.find(std::string(pod->uid()));
    rank.users = held == users.end() ? 0 : held->second;
    rank.crowd = node.empty() ? 0 : -onNode[node];
    if (const json::object* ready = condition(root, "Ready"); rank.ready && ready != nullptr) {
      const auto since = client::time(*ready, {"lastTransitionTime"});
      rank.readyAge = since ? -since->time_since_epoch().count() : 0;
    }
    for (const json::value& status : array(root, {"status", "containerStatuses"})) {
      if (status.is_object())
        rank.restarts = std::min(rank.restarts, -number(status.get_object(), {"restartCount"}, 0));
    }
    const auto created = client::time(root, {"metadata", "creationTimestamp"});
    rank.created = created ? -created->time_since_epoch().count() : 0;
    rank.name = pod->name();
    ranked.emplace_back(std::move(rank), std::move(pod));
  }
  std::sort(ranked.begin(), ranked.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<ObjectPtr> out;
  for (auto& [rank, pod] : ranked) out.push_back(std::move(pod));
  return out;
}

ReplicaSetController::ReplicaSetController(Context context)
    : context_(context),
      sets_(context.caches.of(kReplicaSets)),
      pods_(context.caches.of(kPods)),
      events_(context.loop, context.client, {.component = "replicaset-controller"}),
      own_(context, kPods, pods_),
      controller_(context.loop, {.name = "replicaset", .workers = 20},
                  [this](std::string key) { return reconcile(std::move(key)); }) {
  indexByOwner(pods_);
  indexByOwner(sets_);
  controller_.watch(sets_, [this](const ObjectPtr& before, const ObjectPtr& after, WorkQueue& queue) {
    if (!after) own_.forget(std::string(before->uid()));
    queue.add((after ? after : before)->key());
  });
  controller_.watch(pods_, [this](const ObjectPtr& before, const ObjectPtr& after, WorkQueue& queue) {
    podChanged(before, after, queue);
  });
}

Task<> ReplicaSetController::stop() {
  co_await controller_.stop();
  co_await events_.stop();
}

void ReplicaSetController::podChanged(const ObjectPtr& before, const ObjectPtr& after, WorkQueue& queue) {
  const ObjectPtr& pod = after ? after : before;
  for (const ObjectPtr& version : {before, after}) {
    if (!version) continue;
    const json::object* owner = controllerOf(*version);
    if (owner == nullptr || text(*owner, "kind") != "ReplicaSet") continue;
    queue.add(fmt::format("{}/{}", pod->ns(), text(*owner, "name")));
  }
  if (!after || controllerOf(*after) != nullptr || after->deleting()) return;
  for (const ObjectPtr& set : sets_.list(pod->ns())) {
    if (selectorOf(*set).matches(*after)) queue.add(set->key());
  }
}

Task<Result<>> ReplicaSetController::reconcile(std::string key) {
  auto [ns, name] = splitKey(key);
  ObjectPtr set = sets_.get(ns, name);
  if (!set) co_return Result<>();
  const std::string uid(set->uid());
  Result<bool> seen = co_await own_.seen(uid);
  if (!seen.ok()) co_return std::move(seen).error();
  const bool inSync = *seen;
  // An event ends the wait, this only an event that never comes.
  if (!inSync) controller_.queue().addAfter(key, std::chrono::seconds(1));
  object::LabelSelector selector = selectorOf(*set);
  std::vector<ObjectPtr> candidates = pods_.byIndex(kByOwner, uid);
  for (ObjectPtr& orphan : pods_.byIndex(kOrphans, ns)) {
    if (!orphan->deleting() && !podFinished(*orphan)) candidates.push_back(std::move(orphan));
  }
  Result<std::vector<ObjectPtr>> claimed =
      co_await claim(context_, kPods, kReplicaSets, set, std::move(selector), std::move(candidates));
  if (!claimed.ok()) co_return std::move(claimed).error();
  std::vector<ObjectPtr> pods = std::move(*claimed);
  std::vector<ObjectPtr> active;
  for (const ObjectPtr& pod : pods) {
    // One that leaves its node is as good as gone: another is made, and then it is evicted (pod_mover.h).
    if (podActive(*pod) && !leaving(*pod)) active.push_back(pod);
  }
  const auto wanted = static_cast<size_t>(std::max<int64_t>(number(set->root(), {"spec", "replicas"}, 1), 0));
  const bool growing = active.size() < wanted;
  Result<> managed;
  if (inSync && !set->deleting()) managed = co_await manage(set, std::move(active));
  std::string failure = managed.ok() ? std::string() : managed.error().message();
  Result<> written = co_await writeStatus(set, std::move(pods), std::move(failure), growing, inSync);
  if (!managed.ok()) co_return managed;
  co_return written;
}

Task<Result<>> ReplicaSetController::manage(ObjectPtr set, std::vector<ObjectPtr> active) {
  const auto wanted = static_cast<size_t>(std::max<int64_t>(number(set->root(), {"spec", "replicas"}, 1), 0));
  if (active.size() == wanted) co_return Result<>();
  if (active.size() < wanted) {
    Result<> grown = co_await grow(set, std::min(wanted - active.size(), kBurst));
    co_return grown;
  }
  const size_t surplus = std::min(active.size() - wanted, kBurst);
  Result<> shrunk = co_await shrink(set, std::move(active), surplus);
  co_return shrunk;
}

// In batches that double: when creating fails for all alike (a quota, a bad template), little was tried in vain.
Task<Result<>> ReplicaSetController::grow(ObjectPtr set, size_t count) {
  size_t batch = 1;
  size_t left = count;
  while (left > 0) {
    batch = std::min(batch, left);
    std::vector<Task<Result<>>> tasks;
    for (size_t i = 0; i < batch; ++i) tasks.push_back(createPod(set));
    std::vector<Result<>> results = co_await together(context_.loop, std::move(tasks));
    for (Result<>& result : results) {
      if (!result.ok()) co_return std::move(result).error();
    }
    left -= batch;
    batch *= 2;
  }
  co_return Result<>();
}

Task<Result<>> ReplicaSetController::createPod(ObjectPtr set) {
  json::object pod = podFrom(*set, context_.loop.random());
  const std::string name(text(pod, {"metadata", "name"}));
  Result<ObjectPtr> created = co_await context_.client.create(kPods, std::string(set->ns()), std::move(pod));
  if (created.ok()) {
    own_.wrote(std::string(set->uid()), *created);
    events_.normal(*set, "SuccessfulCreate", fmt::format("Created pod: {}", (*created)->name()));
    co_return Result<>();
  }
  own_.failed(std::string(set->uid()), set->ns(), name, created.error());
  for (const ErrorCause& cause : created.error().causes()) {
    // The namespace is going: its end is not this set's failure.
    if (cause.reason == "NamespaceTerminating") co_return Result<>();
  }
  if (created.error().code() != Code::kCancelled) {
    events_.warning(*set, "FailedCreate", fmt::format("Error creating: {}", created.error().message()));
  }
  co_return std::move(created).error();
}

Task<Result<>> ReplicaSetController::shrink(ObjectPtr set, std::vector<ObjectPtr> active, size_t count) {
  // Pods of all sets of the same owner: a rolling update takes from the fullest nodes.
  std::vector<ObjectPtr> related;
  const std::string_view owner = controllerUid(*set);
  if (owner.empty()) {
    related = active;
  } else {
    for (const ObjectPtr& sibling : sets_.byIndex(kByOwner, owner)) {
      for (ObjectPtr& pod : pods_.byIndex(kByOwner, sibling->uid())) related.push_back(std::move(pod));
    }
  }
  std::map<std::string, int64_t> users;
  if (count < active.size()) {
    ListOptions options;
    options.ns = set->ns();
    auto listed = co_await context_.client.list(object::resources::kPodSessions, std::move(options));
    // Without counts the order is Kubernetes' own.
    if (listed.ok())
      for (const ObjectPtr& one : listed->items)
        users[std::string(text(one->root(), "podUID"))] =
            number(one->root(), {"sessions"}, 0) + number(one->root(), {"connections"}, 0);
  }
  std::vector<ObjectPtr> order = deletionOrder(std::move(active), related, users);
  order.resize(std::min(order.size(), count));
  std::vector<Task<Result<>>> tasks;
  for (const ObjectPtr& pod : order) tasks.push_back(deletePod(set, pod));
  std::vector<Result<>> results = co_await together(context_.loop, std::move(tasks));
  for (Result<>& result : results) {
    if (!result.ok()) co_return std::move(result).error();
  }
  co_return Result<>();
}

Task<Result<>> ReplicaSetController::deletePod(ObjectPtr set, ObjectPtr pod) {
  DeleteOptions options;
  options.uid = pod->uid();
  Result<> removed = co_await context_.client.remove(kPods, std::string(pod->ns()), std::string(pod->name()), options);
  if (removed.ok()) {
    own_.deleted(std::string(set->uid()), pod);
    events_.normal(*set, "SuccessfulDelete", fmt::format("Deleted pod: {}", pod->name()));
    co_return Result<>();
  }
  own_.failed(std::string(set->uid()), pod->ns(), pod->name(), removed.error());
  if (removed.error().is(Code::kNotFound)) co_return Result<>();
  events_.warning(*set, "FailedDelete", fmt::format("Error deleting: {}", removed.error().message()));
  co_return removed;
}

Task<Result<>> ReplicaSetController::writeStatus(ObjectPtr set, std::vector<ObjectPtr> pods, std::string failure,
                                                 bool growing, bool inSync) {
  const int64_t minReady = number(set->root(), {"spec", "minReadySeconds"}, 0);
  const object::LabelSelector labeled =
      object::LabelSelector::fromMap(client::object(set->root(), {"spec", "template", "metadata", "labels"}));
  const WallTime now = context_.loop.wallNow();
  int64_t replicas = 0, full = 0, ready = 0, available = 0, terminating = 0, moving = 0;
  for (const ObjectPtr& pod : pods) {
    if (podFinished(*pod)) continue;
    if (pod->deleting()) {
      ++terminating;
      continue;
    }
    ++replicas;
    moving += leaving(*pod);
    full += labeled.matches(*pod);
    ready += podReady(*pod);
    available += podAvailable(*pod, minReady, now);
  }
  if (ready > available) {
    controller_.queue().addAfter(set->key(), std::chrono::seconds(std::max<int64_t>(minReady, 1)));
  }
  if (moving > 0) {
    // A pod and its replacement count as one, so that a rollout beside the move does not take the one for surplus.
    const int64_t most = std::max(replicas - moving, number(set->root(), {"spec", "replicas"}, 1));
    for (int64_t* count : {&replicas, &full, &ready, &available}) *count = std::min(*count, most);
  }
  json::object status = client::object(set->root(), {"status"});
  status["replicas"] = replicas;
  status["fullyLabeledReplicas"] = full;
  status["readyReplicas"] = ready;
  status["availableReplicas"] = available;
  status["terminatingReplicas"] = terminating;
  // Who reads that a generation was observed may count on the numbers: a rollout does.
  if (inSync) status["observedGeneration"] = number(set->root(), {"metadata", "generation"}, 0);
  if (failure.empty()) {
    removeCondition(status, "ReplicaFailure");
  } else if (condition(set->root(), "ReplicaFailure") == nullptr) {
    setCondition(status, "ReplicaFailure", "True", growing ? "FailedCreate" : "FailedDelete", failure, now);
  }
  if (std::string held = heldOf(pods); !held.empty()) {
    setCondition(status, kSessionsHeldCondition, "True", "DrainingSessions", held, now);
  } else {
    removeCondition(status, kSessionsHeldCondition);
  }
  for (std::string_view name : {"fullyLabeledReplicas", "readyReplicas", "availableReplicas"}) {
    if (status[name] == 0) status.erase(name);
  }
  if (status == client::object(set->root(), {"status"})) co_return Result<>();
  json::object body = copyOf(set);
  body["status"] = std::move(status);
  Result<ObjectPtr> updated = co_await context_.client.update(kReplicaSets, std::string(set->ns()),
                                                              std::string(set->name()), "status", std::move(body));
  if (!updated.ok() && !updated.error().is(Code::kNotFound)) co_return std::move(updated).error();
  co_return Result<>();
}

}  // namespace dhow::controllers
