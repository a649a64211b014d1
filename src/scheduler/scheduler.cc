#include "scheduler/scheduler.h"

#include "base/log.h"
#include "base/time.h"
#include "client/fields.h"
#include "object/labels.h"
#include "rep.h"

namespace dhow::scheduler {

using namespace client;
namespace kinds = dhow::object::resources;

namespace {
constexpr int kPodsAtATime = 64;
constexpr size_t kBindingsAtATime = 512;
}  // namespace

Scheduler::Rep::Rep(Loop& loop, Client& client, Caches& caches, Options given)
    : loop(loop),
      client(client),
      options(std::move(given)),
      pods(caches.of(kinds::kPods)),
      nodes(caches.of(kinds::kNodes)),
      services(caches.of(kinds::kServices)),
      sets(caches.of(kinds::kReplicaSets)),
      namespaces(caches.of(kinds::kNamespaces)),
      events(loop, client, {.component = options.name, .queueLimit = 100000}),
      queue(loop),
      gate(loop) {
  defaults = {{object::kHostnameLabel, options.hostnameMaxSkew}, {object::kZoneLabel, options.zoneMaxSkew}};
  queue.onReady([this] { wake(); });
}

bool Scheduler::Rep::ours(const Object& pod) const {
  const std::string_view name = text(pod.root(), {"spec", "schedulerName"});
  return name.empty() ? options.name == "default-scheduler" : name == options.name;
}

void Scheduler::Rep::onPod(const ObjectPtr& before, const ObjectPtr& after) {
  const ObjectPtr& pod = after ? after : before;
  const std::string uid(pod->uid());
  if (before && after && before->uid() != after->uid()) onPod(before, nullptr);
  const std::string_view phase = text(pod->root(), {"status", "phase"});
  const bool gone = !after || phase == "Succeeded" || phase == "Failed";
  if (gone) {
    queue.remove(uid);
    nominated.erase(uid);
    assumed.erase(uid);
    const bool held = state.pod(uid) != nullptr;
    state.removePod(uid);
    if (held) queue.moveAll();
    return;
  }
  const bool bound = !text(after->root(), {"spec", "nodeName"}).empty();
  if (!bound && (!ours(*after) || assumed.contains(uid))) return;
  PodInfoPtr info = readPod(after, [this] { return namespaces.list(); });
  if (bound) {
    queue.remove(uid);
    nominated.erase(uid);
    assumed.erase(uid);
    const bool isNew = state.pod(uid) == nullptr;
    state.addPod(info);
    // A newcomer can only help those that want to be near others.
    if (isNew)
      queue.moveAll([](const PodInfo& waiting) { return !waiting.affinity.empty() || !waiting.spreadHard.empty(); });
    return;
  }
  if (after->deleting()) {
    queue.remove(uid);
    nominated.erase(uid);
    return;
  }
  if (!info->nominated.empty()) {
    nominated[uid] = info;
  } else {
    nominated.erase(uid);
  }
  if (info->gated) {
    queue.remove(uid);
    gate.spawn(tell(shared_from_this(), info, "SchedulingGated",
                    "Scheduling is blocked due to non-empty scheduling gates", ""));
    return;
  }
  const bool changed =
      before && (client::object(before->root(), {"spec"}) != client::object(after->root(), {"spec"}) ||
                 client::object(before->metadata(), {"labels"}) != client::object(after->metadata(), {"labels"}));
  queue.put(std::move(info), changed);
}

void Scheduler::Rep::onNode(const ObjectPtr& before, const ObjectPtr& after) {
  if (!after) {
    state.removeNode(before->name());
    queue.moveAll([](const PodInfo& waiting) { return !waiting.spreadHard.empty(); });
    return;
  }
  // A heartbeat changes nothing that counts here.
  if (before) {
    auto same = [&](client::Path path) {
      const json::value* left = field(before->root(), path);
      const json::value* right = field(after->root(), path);
      return (left == nullptr) == (right == nullptr) && (left == nullptr || *left == *right);
    };
    if (same({"spec"}) && same({"metadata", "labels"}) && same({"status", "allocatable"}) && same({"status", "images"}))
      return;
  }
  state.setNode(after);
  queue.moveAll();
}

void Scheduler::Rep::wake() {
  if (woken || !opened || gate.closed() || binding >= kBindingsAtATime) return;
  woken = true;
  loop.post([weak = weak_from_this()] {
    if (auto self = weak.lock()) self->run();
  });
}

// A few at a time, so that whatever else lives on this loop gets its turn.
void Scheduler::Rep::run() {
  woken = false;
  for (int i = 0; i < kPodsAtATime && !gate.closed() && binding < kBindingsAtATime; ++i) {
    PodInfoPtr pod = queue.pop();
    if (!pod) return;
    scheduleOne(pod);
  }
  if (queue.ready() > 0) wake();
}

object::LabelSelector Scheduler::Rep::groupOf(const PodInfo& pod) const {
  json::object document;
  for (const ObjectPtr& service : services.list(pod.ns)) {
    const json::object& selector = client::object(service->root(), {"spec", "selector"});
    if (selector.empty()) continue;
    const bool selects = std::all_of(selector.begin(), selector.end(), [&](const auto& entry) {
      const json::value* own = pod.labels->if_contains(entry.key());
      return own != nullptr && *own == entry.value();
    });
    if (!selects) continue;
    json::object& labels = objectAt(document, "matchLabels");
    for (const auto& [key, value] : selector) labels[key] = value;
  }
  const json::object* owner = controllerOf(*pod.pod);
  if (owner != nullptr && text(*owner, "kind") == "ReplicaSet") {
    if (ObjectPtr set = sets.get(pod.ns, text(*owner, "name"))) {
      for (const auto& [key, value] : client::object(set->root(), {"spec", "selector", "matchLabels"})) {
        objectAt(document, "matchLabels")[key] = value;
      }
      const json::array& expressions = array(set->root(), {"spec", "selector", "matchExpressions"});
      if (!expressions.empty()) document["matchExpressions"] = expressions;
    }
  }
  if (document.empty()) return {};
  const json::value value(std::move(document));
  auto selector = object::LabelSelector::fromDocument(&value);
  return selector.ok() ? std::move(*selector) : object::LabelSelector();
}

std::optional<Refusal> Scheduler::Rep::filter(Cycle& cycle, const PodInfoPtr& pod, size_t slot) {
  std::optional<Refusal> refusal = cycle.filter(slot);
  if (refusal || nominated.empty()) return refusal;
  // Room that was made for pods of at least this priority is not free.
  std::vector<std::string> added;
  for (const auto& [uid, other] : nominated) {
    if (uid == pod->uid || other->nominated != state.at(slot).name || other->priority < pod->priority || state.pod(uid))
      continue;
    auto there = std::make_shared<PodInfo>(*other);
    there->node = other->nominated;
    state.addPod(std::move(there));
    added.push_back(uid);
  }
  if (added.empty()) return std::nullopt;
  cycle.refresh();
  refusal = cycle.filter(slot);
  for (const std::string& uid : added) state.removePod(uid);
  cycle.refresh();
  return refusal;
}

std::vector<size_t> Scheduler::Rep::findNodes(Cycle& cycle, const PodInfoPtr& pod, Diagnosis& diagnosis) {
  const std::vector<size_t>& order = state.order();
  const size_t count = order.size();
  diagnosis.nodes = count;
  size_t enough = count;
  if (count >= 100) {
    size_t percent = options.percentageOfNodesToScore > 0 ? static_cast<size_t>(options.percentageOfNodesToScore) : 0;
    if (percent == 0) percent = std::max<size_t>(50 - std::min<size_t>(count / 125, 45), 5);
    if (percent < 100) enough = std::max<size_t>(count * percent / 100, 100);
  }
  std::vector<size_t> fitting;
  // The node that was made room on comes first.
  if (!pod->nominated.empty()) {
    if (auto slot = state.slotOf(pod->nominated); slot && !filter(cycle, pod, *slot)) return {*slot};
  }
  if (count == 0) return fitting;
  size_t looked = 0;
  for (; looked < count && fitting.size() < enough; ++looked) {
    const size_t slot = order[(nextStart + looked) % count];
    std::optional<Refusal> refusal = filter(cycle, pod, slot);
    if (refusal) {
      diagnosis.refusals.emplace(slot, std::move(*refusal));
    } else {
      fitting.push_back(slot);
    }
  }
  nextStart = (nextStart + looked) % count;
  return fitting;
}

// Of equals any, so that no node is favoured for its name.
size_t Scheduler::Rep::choose(const std::vector<size_t>& slots, const std::vector<int64_t>& scores) {
  size_t best = 0;
  uint64_t equals = 1;
  for (size_t i = 1; i < slots.size(); ++i) {
    if (scores[i] > scores[best]) {
      best = i;
      equals = 1;
    } else if (scores[i] == scores[best] && loop.random() % ++equals == 0) {
      best = i;
    }
  }
  return slots[best];
}

std::string describe(size_t nodes, const std::map<std::string, int>& reasons) {
  std::vector<std::string> parts;
  for (const auto& [reason, count] : reasons) parts.push_back(fmt::format("{} {}", count, reason));
  std::sort(parts.begin(), parts.end());
  std::string out = fmt::format("0/{} nodes are available", nodes);
  if (!parts.empty()) out += fmt::format(": {}.", fmt::join(parts, ", "));
  return out;
}

std::string describe(const Diagnosis& diagnosis) {
  if (diagnosis.nodes == 0) return "no nodes available to schedule pods";
  std::map<std::string, int> reasons;
  for (const auto& [slot, refusal] : diagnosis.refusals) {
    for (const std::string& reason : refusal.reasons) ++reasons[reason];
  }
  return describe(diagnosis.nodes, reasons);
}

void Scheduler::Rep::scheduleOne(const PodInfoPtr& pod) {
  Cycle cycle(state, pod, groupOf(*pod), defaults);
  Diagnosis diagnosis;
  const std::vector<size_t> fitting = findNodes(cycle, pod, diagnosis);
  if (!fitting.empty()) {
    const size_t slot = fitting.size() == 1 ? fitting[0] : choose(fitting, cycle.score(fitting, weights));
    assume(pod, slot);
    return;
  }
  std::string message = describe(diagnosis);
  std::string node;
  if (diagnosis.nodes > 0) {
    Preemption preemption = preempt(cycle, pod, diagnosis);
    if (!preemption.message.empty()) message += fmt::format(" preemption: {}", preemption.message);
    node = preemption.node;
    if (!preemption.victims.empty()) gate.spawn(evict(shared_from_this(), pod, std::move(preemption.victims), node));
  }
  refused(pod, message, node);
}

void Scheduler::Rep::assume(const PodInfoPtr& pod, size_t slot) {
  auto there = std::make_shared<PodInfo>(*pod);
  there->node = state.at(slot).name;
  state.addPod(there);
  assumed.insert(pod->uid);
  nominated.erase(pod->uid);
  ++binding;
  gate.spawn(bind(shared_from_this(), std::move(there)));
}

// The one way back from an assumed pod, whatever failed.
void Scheduler::Rep::undo(const PodInfoPtr& pod) {
  if (assumed.erase(pod->uid) == 0) return;  // the cache has told its end, or another node, meanwhile
  state.removePod(pod->uid);
  queue.failed(pod);
  queue.moveAll();
}

Task<> Scheduler::Rep::bind(std::shared_ptr<Rep> self, PodInfoPtr pod) {
  json::object body{{"apiVersion", "v1"},
                    {"kind", "Binding"},
                    {"metadata", {{"name", pod->pod->name()}, {"namespace", pod->ns}, {"uid", pod->uid}}},
                    {"target", {{"apiVersion", "v1"}, {"kind", "Node"}, {"name", pod->node}}}};
  Result<ObjectPtr> bound =
      co_await self->client.create(kinds::kPods, pod->ns, std::move(body), std::string(pod->pod->name()), "binding");
  --self->binding;
  if (bound.ok()) {
    ++self->scheduled;
    self->events.normal(*pod->pod, "Scheduled", fmt::format("Successfully assigned {} to {}", pod->key, pod->node));
  } else {
    if (!bound.error().is(Code::kNotFound) && !bound.error().is(Code::kConflict)) {
      log::warn("scheduler", "bind {} to {}: {}", pod->key, pod->node, bound.error().message());
    }
    self->undo(pod);
  }
  self->wake();
}

void Scheduler::Rep::refused(const PodInfoPtr& pod, const std::string& message, const std::string& nominate) {
  if (!nominate.empty()) {
    auto there = std::make_shared<PodInfo>(*pod);
    there->nominated = nominate;
    nominated[pod->uid] = std::move(there);
  }
  queue.unschedulable(pod);
  events.warning(*pod->pod, "FailedScheduling", message);
  gate.spawn(tell(shared_from_this(), pod, "Unschedulable", message, nominate));
}

Task<> Scheduler::Rep::tell(std::shared_ptr<Rep> self, PodInfoPtr pod, std::string reason, std::string message,
                            std::string nominate) {
  ObjectPtr now = self->pods.get(pod->ns, pod->pod->name());
  if (!now || now->uid() != pod->uid) co_return;
  const json::object* had = condition(now->root(), "PodScheduled");
  const bool same = had != nullptr && text(*had, "status") == "False" && text(*had, "reason") == reason &&
                    text(*had, "message") == message;
  if (same && (nominate.empty() || text(now->root(), {"status", "nominatedNodeName"}) == nominate)) co_return;
  const bool transition = had == nullptr || text(*had, "status") != "False";
  json::object change{{"type", "PodScheduled"}, {"status", "False"}, {"reason", reason}, {"message", message}};
  change["lastProbeTime"] = nullptr;
  change["lastTransitionTime"] =
      transition ? formatTime(self->loop.wallNow()) : std::string(text(*had, "lastTransitionTime"));
  json::object status{{"conditions", json::array{std::move(change)}}};
  if (!nominate.empty()) status["nominatedNodeName"] = nominate;
  json::object body{{"metadata", {{"uid", pod->uid}}}, {"status", std::move(status)}};
  Result<ObjectPtr> patched = co_await self->client.patch(kinds::kPods, pod->ns, std::string(pod->pod->name()),
                                                          "status", PatchType::kStrategicMerge, std::move(body));
  if (!patched.ok() && !patched.error().is(Code::kNotFound) && !patched.error().is(Code::kConflict)) {
    log::warn("scheduler", "{}: {}", pod->key, patched.error().message());
  }
}

Task<> Scheduler::Rep::open(std::shared_ptr<Rep> self) {
  co_await self->nodes.waitSynced();
  co_await self->pods.waitSynced();
  co_await self->services.waitSynced();
  co_await self->sets.waitSynced();
  co_await self->namespaces.waitSynced();
  self->opened = true;
  self->wake();
}

void Scheduler::Rep::flushLater() {
  flush = loop.after(std::chrono::seconds(30), [this] {
    queue.flushOld();
    flushLater();
  });
}

Scheduler::Scheduler(Loop& loop, Client& client, Caches& caches, Options options)
    : rep_(std::make_shared<Rep>(loop, client, caches, std::move(options))) {}

Scheduler::~Scheduler() = default;

void Scheduler::start() {
  Rep* rep = rep_.get();
  rep->subscriptions.push_back(
      rep->nodes.subscribe([rep](const ObjectPtr& before, const ObjectPtr& after) { rep->onNode(before, after); }));
  rep->subscriptions.push_back(
      rep->pods.subscribe([rep](const ObjectPtr& before, const ObjectPtr& after) { rep->onPod(before, after); }));
  rep->flushLater();
  rep->gate.spawn(Rep::open(rep_));
}

Task<> Scheduler::stop() {
  std::shared_ptr<Rep> rep = rep_;
  rep->subscriptions.clear();
  rep->flush.cancel();
  co_await rep->gate.close();
  co_await rep->events.stop();
}

bool Scheduler::idle() const {
  return rep_->opened && rep_->queue.ready() == 0 && rep_->binding == 0;
}
size_t Scheduler::waiting() const {
  return rep_->queue.waiting();
}
uint64_t Scheduler::scheduled() const {
  return rep_->scheduled;
}

}  // namespace dhow::scheduler
