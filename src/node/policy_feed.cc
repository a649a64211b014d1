#include "policy_feed.h"

#include "base/files.h"
#include "base/log.h"
#include "base/strings.h"
#include "json.h"

namespace dhow::node {

namespace {

namespace resources = dhow::object::resources;

constexpr Duration kKeepPods = std::chrono::seconds(5);
constexpr Duration kRetry = std::chrono::seconds(1);

client::Reflector::Options addressesOnly() {
  client::Reflector::Options out;
  out.select.podAddresses = true;
  return out;
}

// The parts of a pod by which policies know it.
bool sameToPolicies(const Object& a, const Object& b) {
  auto labels = [](const Object& pod) { return object(pod.root(), {"metadata", "labels"}); };
  return a.uid() == b.uid() && labels(a) == labels(b) && podAddresses(a) == podAddresses(b) &&
         namedPorts(a) == namedPorts(b);
}

}  // namespace

PolicyFeed::World::World(Loop& loop, client::Client& client)
    : namespaces(loop, client, resources::kNamespaces, {}), pods(loop, client, resources::kPods, addressesOnly()) {}

PolicyFeed::PolicyFeed(Loop& loop, client::Client& client, client::Cache& policies, PolicySink& sink, Offload& offload,
                       Options options)
    : loop_(loop),
      client_(client),
      policies_(policies),
      sink_(sink),
      offload_(offload),
      options_(std::move(options)),
      model_(options_.isolate),
      settled_(loop),
      gate_(loop) {}

PolicyFeed::~PolicyFeed() = default;

void PolicyFeed::start() {
  started_ = true;
  auto loaded = load();
  if (!loaded.ok()) log::warn("node", "policies from disk: {}", loaded.error().message());
  subscription_ =
      policies_.subscribe([this](const ObjectPtr& before, const ObjectPtr& after) { sawPolicy(before, after); });
  gate_.spawn(waitPolicies(this));
  look();
  dirty_ = true;
  wake();
}

Task<> PolicyFeed::stop() {
  stopping_ = true;
  subscription_.reset();
  keep_.cancel();
  retry_.cancel();
  settled_.notify();
  if (world_) co_await endWorld(std::exchange(world_, nullptr));
  co_await gate_.close();
}

bool PolicyFeed::ready() const {
  if (!started_ || !known_) return false;
  return !model_.matters() || restored_ || (world_ && world_->synced);
}

void PolicyFeed::sawPolicy(const ObjectPtr& before, const ObjectPtr& after) {
  if (stopping_) return;
  if (after) {
    model_.set(after);
  } else {
    model_.remove(std::string(before->key()));
  }
  dirty_ = true;
  look();
  wake();
  if (known_) keepSoon(Duration::zero());
}

void PolicyFeed::sawNamespace(const ObjectPtr& before, const ObjectPtr& after) {
  if (stopping_) return;
  const std::string name((after ? after : before)->name());
  if (after) {
    model_.setNamespace(after);
  } else {
    model_.removeNamespace(name);
  }
  if (before && after &&
      object(before->root(), {"metadata", "labels"}) == object(after->root(), {"metadata", "labels"}))
    return;
  for (auto it = pods_.lower_bound(name + "/"); it != pods_.end() && it->first.starts_with(name + "/"); ++it) {
    for (const IpAddress& address : podAddresses(*it->second)) changed_.insert(address);
  }
  for (const auto& [uid, local] : locals_) {
    if (local.pod->ns() == name) changed_.insert(local.addresses.begin(), local.addresses.end());
  }
  dirty_ = true;
  wake();
  keepSoon(Duration::zero());
}

void PolicyFeed::put(const ObjectPtr& pod) {
  const std::string key(pod->key());
  auto known = pods_.find(key);
  if (known != pods_.end() && sameToPolicies(*known->second, *pod)) return;
  drop(key);
  pods_[key] = pod;
  for (const IpAddress& address : podAddresses(*pod)) {
    owners_[address] = key;
    changed_.insert(address);
  }
}

void PolicyFeed::drop(const std::string& key) {
  auto known = pods_.find(key);
  if (known == pods_.end()) return;
  for (const IpAddress& address : podAddresses(*known->second)) {
    auto owner = owners_.find(address);
    if (owner != owners_.end() && owner->second == key) owners_.erase(owner);
    changed_.insert(address);
  }
  pods_.erase(known);
}

void PolicyFeed::sawPod(const ObjectPtr& before, const ObjectPtr& after) {
  if (stopping_) return;
  if (after) {
    put(after);
  } else {
    drop(std::string(before->key()));
  }
  if (changed_.empty()) return;
  dirty_ = true;
  wake();
  keepSoon(kKeepPods);
}

void PolicyFeed::look() {
  if (!started_ || stopping_) return;
  const bool wanted = model_.matters();
  if (wanted == (world_ != nullptr)) return;
  if (!wanted) {
    gate_.spawn(endWorld(std::exchange(world_, nullptr)));
    restored_ = false;
    for (const auto& [address, owner] : owners_) changed_.insert(address);
    owners_.clear();
    pods_.clear();
    return;
  }
  world_ = std::make_shared<World>(loop_, client_);
  world_->subscriptions.push_back(world_->namespaces.cache().subscribe(
      [this](const ObjectPtr& before, const ObjectPtr& after) { sawNamespace(before, after); }));
  world_->subscriptions.push_back(world_->pods.cache().subscribe(
      [this](const ObjectPtr& before, const ObjectPtr& after) { sawPod(before, after); }));
  world_->namespaces.start();
  world_->pods.start();
  gate_.spawn(waitWorld(this, world_));
}

Task<> PolicyFeed::endWorld(std::shared_ptr<World> world) {
  world->subscriptions.clear();
  co_await world->namespaces.stop();
  co_await world->pods.stop();
}

// What went away while nobody looked is gone from here, too.
Task<> PolicyFeed::waitPolicies(PolicyFeed* self) {
  co_await self->policies_.waitSynced();
  if (self->stopping_ || !self->policies_.synced()) co_return;
  std::vector<std::string> gone;
  for (const auto& [key, policy] : self->model_.policies()) {
    if (!self->policies_.get(policy.object->ns(), policy.object->name())) gone.push_back(key);
  }
  for (const std::string& key : gone) self->model_.remove(key);
  self->known_ = self->dirty_ = true;
  self->look();
  self->wake();
  self->keepSoon(Duration::zero());
}

Task<> PolicyFeed::waitWorld(PolicyFeed* self, std::shared_ptr<World> world) {
  co_await world->namespaces.cache().waitSynced();
  co_await world->pods.cache().waitSynced();
  if (self->stopping_ || self->world_ != world) co_return;
  std::vector<std::string> gone;
  for (const auto& [key, pod] : self->pods_) {
    if (!world->pods.cache().get(pod->ns(), pod->name())) gone.push_back(key);
  }
  for (const std::string& key : gone) self->drop(key);
  gone.clear();
  for (const auto& [name, ns] : self->model_.namespaces()) {
    if (!world->namespaces.cache().get("", name)) gone.push_back(name);
  }
  for (const std::string& name : gone) self->model_.removeNamespace(name);
  world->synced = self->dirty_ = self->everyone_ = true;
  self->wake();
  self->keepSoon(kKeepPods);
}

void PolicyFeed::adopt(ObjectPtr pod, const std::vector<std::string>& addresses) {
  const std::string uid(pod->uid());
  Local& local = locals_[uid] = {std::move(pod), {}};
  for (const std::string& address : addresses) {
    auto parsed = IpAddress::parse(address);
    if (!parsed.ok()) continue;
    local.addresses.push_back(*parsed);
    localOwners_[*parsed] = uid;
    changed_.insert(*parsed);
  }
  dirty_ = true;
  wake();
}

Task<Result<>> PolicyFeed::protect(ObjectPtr pod, std::vector<std::string> addresses) {
  adopt(pod, addresses);
  while (!stopping_ && !ready()) co_await settled_.wait();
  if (stopping_) co_return Error(Code::kCancelled, "the agent is being stopped");
  const auto ingress = model_.isolationOf(*pod, Direction::kIngress);
  const auto egress = model_.isolationOf(*pod, Direction::kEgress);
  if (!ingress.isolated && !egress.isolated) co_return Result<>();
  if (ingress.policies.empty() && egress.policies.empty() && options_.closed) options_.closed(*pod);
  const uint64_t mine = ++wanted_;
  dirty_ = true;
  wake();
  while (!stopping_ && done_ < mine && failed_ < mine) co_await settled_.wait();
  if (done_ >= mine) co_return Result<>();
  if (stopping_) co_return Error(Code::kCancelled, "the agent is being stopped");
  co_return Error(Code::kUnavailable, failure_);
}

void PolicyFeed::update(ObjectPtr pod) {
  auto local = locals_.find(std::string(pod->uid()));
  if (local == locals_.end()) return;
  const bool same =
      object(local->second.pod->root(), {"metadata", "labels"}) == object(pod->root(), {"metadata", "labels"});
  local->second.pod = std::move(pod);
  if (same) return;
  changed_.insert(local->second.addresses.begin(), local->second.addresses.end());
  dirty_ = true;
  wake();
}

void PolicyFeed::release(const std::string& uid) {
  auto local = locals_.find(uid);
  if (local == locals_.end()) return;
  for (const IpAddress& address : local->second.addresses) {
    auto owner = localOwners_.find(address);
    if (owner != localOwners_.end() && owner->second == uid) localOwners_.erase(owner);
    changed_.insert(address);
    // What the API still says of it is old: nobody has the address until somebody is seen to get it.
    owners_.erase(address);
  }
  locals_.erase(local);
  dirty_ = true;
  wake();
}

std::optional<PolicyPeer> PolicyFeed::peerAt(const IpAddress& address) const {
  // A pod here is known before the API tells of its address.
  if (auto local = localOwners_.find(address); local != localOwners_.end())
    return model_.peerOf(*locals_.at(local->second).pod);
  auto owner = owners_.find(address);
  if (owner == owners_.end()) return std::nullopt;
  return model_.peerOf(*pods_.at(owner->second));
}

void PolicyFeed::wake() {
  if (!ready() || flushing_ || stopping_) return;
  settled_.notify();
  if (!dirty_) return;
  flushing_ = true;
  // After the events that are queued already, so that a burst becomes one batch.
  loop_.post([this] {
    if (!stopping_) gate_.spawn(flush(this));
  });
}

Task<> PolicyFeed::flush(PolicyFeed* self) {
  while (self->dirty_ && self->ready() && !self->stopping_) {
    self->dirty_ = false;
    const uint64_t generation = self->wanted_;
    PolicyTable::Subjects subjects;
    self->model_.forgetGroups();
    for (const auto& [uid, local] : self->locals_) {
      PolicySubject subject = self->model_.subjectOf(*local.pod);
      if (!subject.isolated()) continue;
      for (const IpAddress& address : local.addresses) subjects[address] = subject;
    }
    // Peers are told as the rules of pods here may ask for them.
    std::set<IpAddress> addresses = std::exchange(self->changed_, {});
    if (std::exchange(self->everyone_, false) || self->model_.terms() != self->told_) {
      for (const auto& [address, owner] : self->owners_) addresses.insert(address);
      for (const auto& [address, owner] : self->localOwners_) addresses.insert(address);
    }
    self->told_ = self->model_.terms();
    PolicyTable::Peers peers;
    for (const IpAddress& address : addresses) peers[address] = self->peerAt(address);
    auto result = std::make_shared<Result<>>();
    auto work =
        std::make_shared<std::pair<PolicyTable::Subjects, PolicyTable::Peers>>(std::move(subjects), std::move(peers));
    PolicySink* sink = &self->sink_;
    co_await self->offload_.run(
        [result, sink, work] { *result = sink->apply(std::move(work->first), std::move(work->second)); });
    if (result->ok()) {
      self->done_ = generation;
    } else {
      log::error("node", "network policies: {}", result->error().message());
      self->failed_ = generation;
      self->failure_ = result->error().message();
      self->retry_ = self->loop_.after(kRetry, [self] {
        self->dirty_ = true;
        self->wake();
      });
    }
    self->settled_.notify();
    if (!result->ok()) break;
  }
  self->flushing_ = false;
  self->settled_.notify();
}

void PolicyFeed::keepSoon(Duration delay) {
  if (options_.file.empty() || stopping_) return;
  if (keep_ && delay > Duration::zero()) return;
  keep_ = loop_.after(delay, [this] {
    keep_ = Timer();
    if (keeping_) {
      keepSoon(kKeepPods);
      return;
    }
    keeping_ = true;
    gate_.spawn(keep(this));
  });
}

Task<> PolicyFeed::keep(PolicyFeed* self) {
  auto objects = std::make_shared<std::vector<ObjectPtr>>();
  for (const auto& [key, policy] : self->model_.policies()) objects->push_back(policy.object);
  for (const auto& [name, ns] : self->model_.namespaces()) objects->push_back(ns);
  for (const auto& [key, pod] : self->pods_) objects->push_back(pod);
  const std::string file = self->options_.file;
  co_await self->offload_.run([objects, file] {
    std::string lines;
    for (const ObjectPtr& object : *objects) lines += object->bytes() + "\n";
    auto written = writeFileDurably(file, lines, 0600);
    if (!written.ok()) log::warn("node", "{}", written.error().message());
  });
  self->keeping_ = false;
}

Result<> PolicyFeed::load() {
  if (options_.file.empty() || !pathExists(options_.file)) return {};
  ASSIGN_OR_RETURN(std::string lines, readFile(options_.file));
  std::vector<ObjectPtr> objects;
  for (const std::string& line : split(lines, '\n')) {
    if (line.empty()) continue;
    ASSIGN_OR_RETURN(ObjectPtr object, Object::parse(line));
    objects.push_back(std::move(object));
  }
  for (const ObjectPtr& object : objects) {
    if (object->kind() == "NetworkPolicy") model_.set(object);
    if (object->kind() == "Namespace") model_.setNamespace(object);
    if (object->kind() == "Pod") put(object);
  }
  known_ = restored_ = true;
  return {};
}

}  // namespace dhow::node
